"""What a page asks of its site: to count a hit, and to show the counts.

Most of these requests never come here: the lane (`web/lane/answering.py`) answers them alike.
"""

from __future__ import annotations

from contextlib import suppress

from aiohttp import web

from visit_counter.errors import Problem, StoreError
from visit_counter.model.hit import Drop
from visit_counter.model.reasons import Reason
from visit_counter.model.site import Site
from visit_counter.reading.reader import Asked, Reading
from visit_counter.web.auth import require_visible
from visit_counter.web.client import asked_path, came_by, head_of, known_site, read_body
from visit_counter.web.components import parts_of
from visit_counter.web.counts import show
from visit_counter.web.hits.beacon import VIEW, Malformed, view_named
from visit_counter.web.hits.intake import posted_path, referred_path
from visit_counter.web.hits.views import Repeated, key_of
from visit_counter.web.responses import client_has, json_response, shared_with

GIF = bytes.fromhex(
    "47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b"
)


async def post_hit(request: web.Request) -> web.Response:
    """POST /w/{site}: count a hit, answer the counts."""
    site, intake = known_site(request, hit=True), parts_of(request).intake
    peer, forwarded = came_by(request)
    try:
        body = await read_body(request)
        try:
            entry = intake.read(site, head_of(request), peer, forwarded, body)
        except Repeated as repeat:
            if await intake.views.accepted(site.id, repeat.view):
                return await repeated(request, site, repeat)
            entry = intake.read(site, head_of(request), peer, forwarded, body, not_accepted=True)
    except Malformed as bad:
        intake.client(peer, forwarded)
        await intake.count(Drop(site, Reason.MALFORMED, intake.clock.now()))
        raise Problem(bad.status, "Malformed hit", str(bad), bad.field) from None
    outcome = await intake.count(entry)
    answer = parts_of(request).answers.of(entry, outcome)
    return json_response(answer.body, answer.status, headers={"Cache-Control": "no-store"})


async def repeated(request: web.Request, site: Site, repeat: Repeated) -> web.Response:
    """The answer to a view that was accepted before."""
    path = repeat.path if repeat.wants_page else None
    reading: Reading | None = None
    with suppress(StoreError):
        reading = await parts_of(request).reader.read(site, Asked(path))
    answer = parts_of(request).answers.repeated(site, reading, path)
    return json_response(answer.body, answer.status, headers={"Cache-Control": "no-store"})


async def dot_gif(request: web.Request) -> web.Response:
    """GET /w/{site}/dot.gif: count a view where no script runs. The picture comes in any case, but
    for a view that could not be kept and that a script will send again (`?i=`, its id)."""
    is_hit = request.method != "HEAD"
    site, intake = known_site(request, hit=is_hit), parts_of(request).intake
    head = head_of(request)
    peer, forwarded = came_by(request)
    if is_hit:
        view = request.query.get("i", "")
        try:
            named = request.query.get("p")
            host = intake.own_host(site, head.host, peer.trusted)
            path = (
                referred_path(site, head, host)
                if named is None
                else posted_path(site, head, host, named)
            )
            if view and await intake.views.accepted(site.id, view_named(view)):
                return gif()
            key = key_of(site.id, view.encode()) if view else 0
            client = intake.client(peer, forwarded)
            entry = intake.judge(site, head, peer, client, VIEW, path, "image", key)
        except Malformed:
            entry = Drop(site, Reason.MALFORMED, intake.clock.now())
        try:
            await intake.count(entry)
        except StoreError:
            # A script, which gives its view an id, must see that it has not arrived.
            return gif(b"" if view else GIF, status=503)
    return gif()


def gif(picture: bytes = GIF, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=picture, status=status, content_type="image/gif", headers=headers)


async def get_counts(request: web.Request) -> web.Response:
    """GET /w/{site}: the counts, at most a second old; `?path=/x` adds that page's."""
    site = known_site(request)
    require_visible(site, request)
    path = asked_path(request, site)
    shown = show(site, await parts_of(request).reader.read(site, Asked(path)), path)
    headers = {"ETag": shown.etag, "Cache-Control": shared_with(site)}
    if client_has(request, shown.etag):
        return web.Response(status=304, headers=headers)
    return json_response(shown.body, headers=headers)
