"""Sites: list, make, show, replace and change them.

A change carries an operation id, so that the store does it once, however often it is sent.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct

from visit_counter.errors import Problem
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings
from visit_counter.model.stored_site import Unreadable
from visit_counter.reading.sites import Put
from visit_counter.web.api.requests import (
    Operation,
    admin,
    body_of,
    done_once,
    invalid,
    operation_used,
    own_site,
    require_seen,
    site_json,
)
from visit_counter.web.components import parts_of
from visit_counter.web.responses import json_response

log = structlog.get_logger()


class GivenSettings(SiteSettings, frozen=True, forbid_unknown_fields=True):
    """A site's settings as the API takes them: without fields that this version does not know."""


class Identified(Struct):
    operation: Operation | None = None


STALE_MS = 5000


@admin
async def list_sites(request: web.Request) -> web.Response:
    sites = parts_of(request).sites
    body: dict[str, Any] = {"sites": [site_json(site) for site in sites.all()]}
    if parts_of(request).clock.now() - sites.as_of > STALE_MS:  # the store is away
        body["as_of"] = sites.as_of // 1000
    if found := sites.unreadable:
        body["unreadable"] = [{"id": site, "reason": found[site].reason} for site in sorted(found)]
    return json_response(body)


@admin
async def create_site(request: web.Request) -> web.Response:
    sites = parts_of(request).sites
    fields, operation = await settings_order(request)
    settings = settings_of({"timezone": sites.timezone, **fields})
    async with done_once(operation):
        put = await sites.create(settings, operation)
    return told(put, location=f"{request.path}/{settings.id}")


@admin
async def show_site(request: web.Request) -> web.Response:
    return json_response(site_json(own_site(request)))


@admin
async def replace_site(request: web.Request) -> web.Response:
    """PUT: these settings, and the defaults for what is left out; makes the site if need be, and
    makes one readable that is not."""
    sites, name = parts_of(request).sites, request.match_info["site"]
    fields, operation = await settings_order(request)
    fields = {"timezone": sites.timezone, "id": name, **fields}
    settings = settings_of(fields, expected_id=name)
    site, unreadable = sites.get(name), sites.unreadable.get(name)
    async with done_once(operation):
        if site:
            return told(await sites.change(site, settings, operation), before=site)
        if unreadable:
            return told(await sites.replace(unreadable, settings, operation), before=unreadable)
        return told(await sites.create(settings, operation))


@admin
async def change_site(request: web.Request) -> web.Response:
    """PATCH: these settings, the others as they are."""
    changes, operation = await settings_order(request)
    site = own_site(request)  # not before: the body may take its time, and others change too
    # What was done is not judged by what others changed since.
    async with done_once(operation):
        done = await parts_of(request).store.done(site.partition, site.id, operation)
        if done == "change":
            await parts_of(request).sites.refresh()
            return json_response(site_json(own_site(request)))
        if done is not None:
            raise operation_used(f"that operation was a {done}")
        settings = settings_of(site_json(site) | changes, expected_id=site.id)
        put = await parts_of(request).sites.change(site, settings, operation)
    return told(put, before=site)


async def settings_order(request: web.Request) -> tuple[dict[str, Any], str]:
    """The settings in a body, and the operation's id."""
    fields = await body_of(request, dict[str, Any])
    require_seen(fields)
    try:
        order = msgspec.convert({"operation": fields.pop("operation", None)}, Identified)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    return fields, order.operation or secrets.token_hex(8)


def told(put: Put, before: Site | Unreadable | None = None, location: str = "") -> web.Response:
    """The site as it is now; logs what was done to it, unless that was an earlier call's doing."""
    site = put.site
    if put.now and put.created:
        log.info("site created", site=site.id)
    elif put.now and isinstance(before, Site):
        old, new = site_json(before), site_json(site)
        changes = {name: value for name, value in new.items() if old[name] != value}
        log.info("site changed", site=site.id, changes=changes)
    elif put.now:
        log.info("unreadable site replaced", site=site.id, settings=site_json(site))
    headers = {"Location": location} if location else None
    return json_response(site_json(site), status=201 if put.created else 200, headers=headers)


def settings_of(fields: dict[str, Any], expected_id: str | None = None) -> SiteSettings:
    try:
        settings = msgspec.convert(fields, GivenSettings)
        settings.check()
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except ValueError as error:
        field, _, text = str(error).partition(": ")
        raise Problem(400, "Bad setting", text, field) from None
    if expected_id is not None and settings.id != expected_id:
        raise Problem(400, "Bad setting", "A site keeps its id: leave it out.", "id")
    return settings
