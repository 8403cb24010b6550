"""The typed keys under which the application holds its components, so that handlers need not
import `app`. What only one module of the web needs has its key there."""

from __future__ import annotations

from aiohttp import web

from visit_counter.clock import Clock
from visit_counter.delivery.adoption import Adoption
from visit_counter.delivery.recorder import Recorder
from visit_counter.reading.hub import Hub
from visit_counter.reading.reader import Reader
from visit_counter.reading.sites import Sites
from visit_counter.store.health import Watch
from visit_counter.store.store import Store
from visit_counter.store.versions import Versions
from visit_counter.workers.parent import Parent

WATCH = web.AppKey("watch", Watch)
STORE = web.AppKey("store", Store)
VERSIONS = web.AppKey("versions", Versions)
SITES = web.AppKey("sites", Sites)
RECORDER = web.AppKey("recorder", Recorder)
ADOPTION = web.AppKey("adoption", Adoption)
PARENT = web.AppKey("parent", Parent)
READER = web.AppKey("reader", Reader)
HUB = web.AppKey("hub", Hub)
CLOCK = web.AppKey("clock", Clock)
ADMIN_TOKEN = web.AppKey("admin_token", str)
BASE_PATH = web.AppKey("base_path", str)
