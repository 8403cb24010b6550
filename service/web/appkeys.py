"""The typed keys under which the application holds its components, so that handlers need not
import `app`. What only one module of the web needs has its key there."""

from __future__ import annotations

from aiohttp import web

from service.adoption import Adoption
from service.clock import Clock
from service.hub import Hub
from service.parent import Parent
from service.reader import Reader
from service.recorder import Recorder
from service.sites import Sites
from service.store import Store
from service.versions import Versions
from service.watch import Watch

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
