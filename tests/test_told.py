"""What is told to whom: details of readiness and of private sites to admins, the admin token to
its file and a terminal alone.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.kit.services.commands import ran
from tests.kit.services.in_process import TOKEN, Service, run_service
from tests.kit.stores.server import Server
from visit_counter.characters import unseen_in
from visit_counter.config.admin_token import AdminToken
from visit_counter.process.startup import welcome

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
WRONG = {"Authorization": "Bearer wrong"}


async def answer_of(service: Service, url: str, headers: dict[str, str]) -> tuple[int, Any]:
    async with service.client.get(url, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


# -- readiness


async def test_what_is_wrong_is_told_to_admins(valkey: Server, tmp_path: Path) -> None:
    """On the pages' address; everybody is told whether hits count, and where more is told."""
    (tmp_path / "producers").write_text("in the way")
    async with run_service(valkey.url, data_dir=tmp_path) as service:
        url = f"{service.url}/readyz"
        strangers = [await answer_of(service, url, headers) for headers in ({}, WRONG)]
        status, told = await answer_of(service, url, ADMIN)

    assert strangers[0] == strangers[1]
    assert (strangers[0][0], strangers[0][1]["status"], status) == (200, "degraded", 200)
    assert strangers[0][1].keys() == {"status", "details"}
    assert "visit-counter status" in strangers[0][1]["details"]
    assert str(tmp_path) not in str(strangers)
    assert str(tmp_path) in told["hints"][0]
    assert told["checks"]["version"]["ok"]


async def test_the_ops_address_tells_all_and_the_pages_address_admins(valkey: Server) -> None:
    async with run_service(valkey.url, ops_listen="127.0.0.1:0") as service:
        ops = await answer_of(service, f"{service.ops_url}/readyz", {})
        pages = [
            await answer_of(service, f"{service.url}/readyz", headers) for headers in ({}, ADMIN)
        ]

    assert ops[1].keys() == pages[1][1].keys() == {"status", "faults", "hints", "checks"}
    assert pages[0][1].keys() == {"status", "details"}


async def test_the_command_status_says_what_is_wrong(valkey: Server, tmp_path: Path) -> None:
    """In sentences, with the token of this host; exit code 1 while hits are refused."""
    (tmp_path / "producers").write_text("in the way")
    async with run_service(valkey.url, data_dir=tmp_path) as service:
        degraded = await ran(service, "status")
        wrong = await ran(service, "status", token="w" * 32)
        service.parts.stopping.set()
        stops = await ran(service, "status")
        service.parts.stopping.clear()

    assert (degraded[0], degraded[1].splitlines()[0]) == (0, "degraded")
    assert (wrong[0], "degraded" in wrong[1].splitlines()) == (0, True)
    assert "admin token" in wrong[1]
    assert "- " in degraded[1]
    assert str(tmp_path) in degraded[1]
    assert (stops[0], stops[1].splitlines()[:2]) == (1, ["unavailable", "- The service stops."])


# -- the admin token


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("outside", ["", "docker exec CONTAINER "])
def test_the_token_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, outside: str, new: bool
) -> None:
    """Elsewhere it would be kept, by journald or Docker: its file is named, and how to read it."""
    monkeypatch.setattr("visit_counter.process.startup.in_container", lambda: bool(outside))
    token = AdminToken("vc_secret", Path("/data/admin token"), new)
    shown = []
    for terminal in (False, True):
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda terminal=terminal: terminal)
        with redirect_stdout(out), capture_logs() as lines:
            welcome(token, "http://a", "http://a")
        shown.append((out.getvalue(), lines))

    assert [("vc_secret" in printed) for printed, _ in shown] == [False, new]
    assert "vc_secret" not in str([logged for _, logged in shown])
    assert shown[0][1][-1]["read"] == f"{outside}cat '/data/admin token'"


# -- private sites


PARTS = ("", "/frame", "/block.svg", "/how.json", "/shields.json", "/check", "/live", "/privacy")


async def test_a_private_site_tells_strangers_no_origins(service: Service) -> None:
    """Nor its name, but to its visitors; with the token it is shown, and nobody may keep that."""
    await service.site("private", public=False, origins=["https://intranet.a.vn"], name="Tên")
    for part in PARTS:
        url = f"{service.url}/w/private{part}"
        async with service.client.get(url) as answer:
            told = f"{answer.headers} {await answer.text()}"
            status = answer.status
        async with service.client.head(url, headers=ADMIN) as answer:
            kept = (answer.status, "no-store" in answer.headers["Cache-Control"])

        assert status == (200 if part == "/privacy" else 404), part
        assert "intranet" not in told, part
        assert ("Tên" in told) == (part == "/privacy"), part
        assert kept == (200, part != "/privacy"), part


async def test_the_checker_counts_a_wrong_token_once_and_quotes_no_site(service: Service) -> None:
    """What a stranger wrote into the path is not said again, unless it can be a site's id."""
    with capture_logs() as lines:
        for name in ("nowhere", "%E2%80%AE", "<b>"):
            url = f"{service.url}/w/{name}/check"
            _, told = await answer_of(service, url, WRONG)
            assert ("nowhere" in told["detail"]) == (name == "nowhere")
            assert unseen_in(told["detail"]) is None
            assert "<" not in told["detail"]

    assert len(lines) == 1
