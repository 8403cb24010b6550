"""What every answer has in common: errors as problem+json, CORS, safety headers, the timing."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from visit_counter import logs, metrics
from visit_counter.adapters.aiohttp_private import refuse_expectations_by
from visit_counter.errors import OutcomeUnknown, Problem, StoreError
from visit_counter.tasks import readable
from visit_counter.web.client import MAX_BODY
from visit_counter.web.responses import SERVER, json_response

PUBLIC = ("/w/", "/embed.", "/oembed")

FOR_PAGES = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

OUR_MISTAKE = Problem(500, "Our mistake", "This should not happen; the service's log says more.")

UNEXPECTED = Problem(417, "Expectation failed", "Expect may only be 100-continue.", "Expect")

Dress: TypeAlias = Callable[[web.Request, web.StreamResponse], Awaitable[None]]

HEADERS = re.compile(r"[A-Za-z0-9_-]{1,60}(, ?[A-Za-z0-9_-]{1,60}){0,50}")


def application(base_path: str, *outer: Middleware) -> web.Application:
    """An application whose errors and headers are those of every answer, without routes."""
    refuse_expectations_by(lambda: problem_response(UNEXPECTED))
    middlewares = [*outer, error_responses(base_path)]
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
    app.on_response_prepare.append(safe_headers(base_path))
    return app


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note how long an answer took. There always is one: `error_responses` makes one of every
    exception, except of the cancellation by which the service stops."""
    began = time.perf_counter()
    response = await handler(request)
    labels = (route_of(request), method_of(request), f"{response.status // 100}xx")
    metrics.REQUEST_SECONDS.labels(*labels).note(time.perf_counter() - began)
    return response


def safe_headers(base_path: str) -> Dress:
    """Sets the headers of every answer, also of those that aiohttp makes: Server without versions,
    nosniff, no-store unless it has another Cache-Control, and CORS below the public paths."""
    public = tuple(base_path + path for path in PUBLIC)

    async def dress(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers[hdrs.SERVER] = SERVER
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        if request.path.startswith(public):
            headers.update(FOR_PAGES)

    return dress


def error_responses(base_path: str) -> Middleware:
    """Every error becomes an answer its reader can act on; only our own mistakes are logged."""
    public = tuple(base_path + path for path in PUBLIC)

    @web.middleware
    async def respond_to_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "OPTIONS" and request.path.startswith(public):
            return preflight(request)
        return await response_of(request, handler)

    return respond_to_errors


async def response_of(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return problem_response(problem)
    except StoreError as error:
        return problem_response(store_problem(error))
    except web.HTTPException as error:
        response = problem_response(http_problem(error))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception as error:
        logs.mistake("a request failed", error, route=route_of(request))
        return problem_response(OUR_MISTAKE)


def broken_request(status: int) -> web.Response:
    """What aiohttp answers when bytes are no request of HTTP, or an answer cannot be made."""
    broken = Problem(status, "Broken request", "These bytes are no HTTP request that can be read.")
    response = problem_response(broken if status < 500 else OUR_MISTAKE)
    response.headers.update(FOR_PAGES)
    response.headers[hdrs.SERVER] = SERVER
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def preflight(request: web.Request) -> web.Response:
    """Other scripts of a page may add headers to all that it sends, and none of them means anything
    here: there are no credentials to protect."""
    asked = request.headers.get("Access-Control-Request-Headers", "")
    headers = {
        "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
        "Access-Control-Allow-Headers": asked if HEADERS.fullmatch(asked) else "Content-Type",
        "Access-Control-Max-Age": "7200",
        "Vary": "Access-Control-Request-Headers",
    }
    return web.Response(status=204, headers=headers)


def problem_json(problem: Problem) -> dict[str, object]:
    detail = readable(problem.detail)  # it may quote what was sent
    body = {"title": problem.title, "status": problem.status, "detail": detail}
    return body if problem.field is None else {**body, "field": problem.field}


def problem_response(problem: Problem) -> web.Response:
    response = json_response(problem_json(problem), status=problem.status)
    response.content_type = "application/problem+json"
    response.headers["Cache-Control"] = "no-store"
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        response.headers["Retry-After"] = "5"
    if problem.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        response.force_close()  # the rest of the body is not worth reading
    return response


def store_problem(error: StoreError) -> Problem:
    if isinstance(error, OutcomeUnknown):
        detail = "The store did not answer: this may or may not have been done. /readyz says why."
        return Problem(503, "Outcome unknown", detail)
    return Problem(
        503, "Store away", "The store did not take this: nothing was done. /readyz says why."
    )


def http_problem(error: web.HTTPException) -> Problem:
    if error.status == HTTPStatus.NOT_FOUND:
        return Problem(404, "Not found", "There is nothing at this address.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(405, "Wrong method", f"This address takes {allowed}.")
    return Problem(error.status, error.reason, error.text or error.reason)


def route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "other"


def method_of(request: web.Request) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS")
    return request.method if request.method in known else "other"
