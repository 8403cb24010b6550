"""Asks a running service by its admin API, with the admin token of this host."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import BaseHandler, HTTPRedirectHandler, ProxyHandler, Request, build_opener

from visit_counter.config.admin_token import NAME as TOKEN_NAME
from visit_counter.config.settings import Settings
from visit_counter.disk import guarded
from visit_counter.errors import CallError

CALL_S = 10.0


class Unmoved(HTTPRedirectHandler):
    """Follows no redirect: the admin token is for the address that was asked."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(
    options: argparse.Namespace,
    settings: Settings,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    timeout_s: float = CALL_S,
) -> Any:
    base = options.url.rstrip("/") if options.url else here(settings, ops=True)
    token = token_of(settings)
    url = f"{base}/api/v1/sites{path}"
    return call(url, method, body, token, elsewhere=bool(options.url), timeout_s=timeout_s)


def here(settings: Settings, *, ops: bool = False) -> str:
    address = (ops and settings.ops_listen) or settings.listen[0]
    if address.host in ("0.0.0.0", "::"):
        # Both take IPv4, and containers have an IPv6 without ::1.
        address = address._replace(host="127.0.0.1")
    return f"http://{address}{settings.base_path}"


def token_of(settings: Settings) -> str:
    path = Path(settings.data_dir) / TOKEN_NAME
    if settings.admin_token is not None:
        return settings.admin_token
    try:
        token = guarded.read(path).decode(errors="replace").strip()
    except OSError as error:
        raise CallError(
            f"no admin token: {path} cannot be read ({error.strerror}). Run this where the service "
            "runs, or set VISIT_COUNTER_ADMIN_TOKEN"
        ) from None
    if not (token.isascii() and token.isprintable()):
        raise CallError(f"{path} holds no admin token: set VISIT_COUNTER_ADMIN_TOKEN")
    return token


def ready(base: str, token: str | None) -> dict[str, Any]:
    """What /readyz of the service here says, also with 503."""
    told = call(url := f"{base}/readyz", "GET", token=token, also=503)
    if not isinstance(told, dict) or "status" not in told:
        raise CallError(f"what answers at {url} is not a visit counter")
    return told


def call(
    url: str,
    method: str,
    body: Mapping[str, Any] | None = None,
    token: str | None = None,
    *,
    elsewhere: bool = False,
    timeout_s: float = CALL_S,
    also: int = 200,
) -> Any:
    """The JSON that is answered with 200, or with `also`; raises CallError."""
    # The environment's proxy is for the way out, never for the service here.
    handlers: list[BaseHandler] = [Unmoved()] if elsewhere else [Unmoved(), ProxyHandler({})]
    opener = build_opener(*handlers)
    try:
        with opener.open(request_of(url, method, body, token), timeout=timeout_s) as answer:
            text = answer.read()
    except HTTPError as error:
        if error.code == also:
            return read_json(error.read(), url)
        if moved := error.headers.get("Location"):
            raise CallError(f"{url} has moved to {moved}: use that with --url") from None
        raise CallError(refusal(error)) from None
    except (ValueError, InvalidURL):
        raise CallError(f"{url!r} is no URL: write it like http://127.0.0.1:8080") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CallError(f"no answer at {url} ({reason}): is the service running?") from None
    return read_json(text, url)


def read_json(text: bytes, url: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise CallError(f"what answers at {url} is not a visit counter") from None


def request_of(url: str, method: str, body: Mapping[str, Any] | None, token: str | None) -> Request:
    request = Request(url, method=method)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    return request


def refusal(error: HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        problem = json.loads(text)
        return f"{problem.get('title', error.code)}: {problem.get('detail', text)}"
    except (ValueError, AttributeError):
        return f"HTTP {error.code}: {text[:500]}"
