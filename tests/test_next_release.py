"""The next release beside this one on one store, before and after its upgrade is finished.

There is none yet, so it is made here: this version's sources with the next number of the forms.
That is all that the means of an upgrade depend on, and all that an old process can see of it.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.kit.services.in_process import namespace
from tests.kit.services.process import (
    ROOT,
    START_S,
    STOP_S,
    Program,
    ServiceProcess,
    Views,
    call,
    running,
    signal_all,
    this_version,
    until,
)
from tests.kit.stores.packed import state_in
from tests.kit.stores.server import Server
from visit_counter.model import forms
from visit_counter.model.site_settings import partition_of

NEXT = forms.NEWEST + 1


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The next release; a worker that was not seen for a moment has ended for it."""
    return next_release(tmp_path_factory.mktemp("next"), LIVING_MS="0", ANNOUNCE_S="0.1")


def next_release(directory: Path, dies_after: str = "", **versions: str) -> Program:
    """`dies_after`: a line of its migration, after which it is killed."""
    shutil.copytree(ROOT / "service", directory / "service")
    _set(directory / "service/visit_counter/model/forms.py", NEWEST=str(NEXT))
    _set(directory / "service/visit_counter/store/versions.py", **versions)
    if dies_after:
        path = directory / "service/visit_counter/store/migration.py"
        text = path.read_text()
        assert dies_after in text
        died = f"{dies_after}\n        import os; os.kill(os.getpid(), 9)"
        path.write_text(text.replace(dies_after, died, 1))
    found_first = {"PYTHONPATH": str(directory / "service")}
    return Program((sys.executable, "-m", "visit_counter"), directory, found_first)


def _set(path: Path, **constants: str) -> None:
    """Give constants of a module other values."""
    text = path.read_text()
    for name, value in constants.items():
        text, found = re.subn(rf"^({name}\b[^=]*)= \S+", rf"\1= {value}", text, flags=re.M)
        assert found == 1, name
    path.write_text(text)


class Shared:
    """A store on which both releases count, each over a data directory of its own."""

    def __init__(self, server: Server, directory: Path, program: Program) -> None:
        self.namespace = namespace()
        self.directory = directory
        self._server = server
        self._program = program

    @contextmanager
    def this(self, place: str = "this") -> Iterator[ServiceProcess]:
        with running(this_version(), self.settings(place)) as service:
            yield service

    @contextmanager
    def next(self, place: str = "next", workers: int = 1) -> Iterator[ServiceProcess]:
        settings = {**self.settings(place), "WORKERS": str(workers)}
        with running(self._program, settings) as service:
            assert service.url
            yield service

    def settings(self, place: str) -> dict[str, str]:
        return {
            "REDIS_URL": self._server.url,
            "NAMESPACE": self.namespace,
            "DATA_DIR": str(self.directory / place),
        }

    def record(self) -> dict[str, str]:
        with Redis.from_url(self._server.url, decode_responses=True) as client:
            found: Any = client.hgetall(f"{self.namespace}:{{meta}}")
        return {name: found[name] for name in ("schema", "writes", "converted")}

    def forms(self) -> set[int]:
        """The forms of all states and entries."""
        with Redis.from_url(self._server.url) as client:
            keys: Any = client.keys(f"{self.namespace}:{{p*")
            packed = [key for key in keys if key.endswith(b":running") or b":ledger:" in key]
            return {value[0] for value in client.mget(packed)}

    def pageviews(self, site: str) -> int:
        """In the packed state, past both."""
        key = f"{self.namespace}:{{p{partition_of(site):02}}}:{site}:1:running"
        with Redis.from_url(self._server.url) as client:
            packed: Any = client.get(key)
        return int(state_in(packed, packed[0])["total.p"])


@pytest.fixture
def shared(valkey: Server, tmp_path: Path, program: Program) -> Shared:
    return Shared(valkey, tmp_path, program)


def everywhere(form: int) -> dict[str, str]:
    return dict.fromkeys(("schema", "writes", "converted"), str(form))


def test_both_count_at_once_until_the_upgrade_is_finished(shared: Shared) -> None:
    """In the form that both read; and this version may come back."""
    with shared.this() as older:
        older.site("portal")
        older.hit("portal")
        with shared.next() as newer:
            until(lambda: _knows(newer, "portal"), START_S)
            newer.hit("portal")
            older.hit("portal")
            upgrade = newer.api("GET", "/upgrade")
            assert (upgrade["writes"], upgrade["newest"]) == (forms.NEWEST, NEXT)
            assert not upgrade["finished"]
            assert shared.forms() == {forms.NEWEST}
    with shared.this() as older:
        assert older.hit("portal")["total"]["pageviews"] == 4

    assert shared.record() == everywhere(forms.NEWEST)


def _knows(service: ServiceProcess, site: str) -> bool:
    return any(each["id"] == site for each in service.api("GET", "/sites")["sites"])


def test_what_the_next_release_has_spooled_this_one_counts(shared: Shared, valkey: Server) -> None:
    """Before the upgrade is finished: with the next release gone, on its data directory."""
    with shared.this() as older:
        older.site("portal")
    with shared.next() as newer:
        valkey.pause()
        try:
            answers = [call("POST", f"{newer.url}/w/portal", {}) for _ in range(3)]
            newer.kill()
        finally:
            valkey.resume()
    with shared.this("next") as older:
        until(lambda: older.metric("visitcounter_spool_batches") == 0, START_S)
        counted = older.hit("portal")["total"]["pageviews"]

    assert [status for status, _ in answers] == [202] * 3
    assert counted == 4


def test_an_older_worker_that_lives_is_named(shared: Shared, tmp_path_factory: Any) -> None:
    """And nothing is changed."""
    shared._program = next_release(tmp_path_factory.mktemp("next"))
    with shared.this() as older:
        older.site("portal")
        with shared.next() as newer:
            status, problem = call("POST", f"{newer.url}/api/v1/upgrade/finish", {}, newer.token)

    assert status == 409
    assert re.search(rf"cannot write form {NEXT}: \S+ on \S+", problem["detail"])
    assert shared.record() == everywhere(forms.NEWEST)


def test_a_finished_upgrade_keeps_every_number(shared: Shared) -> None:
    """With two workers that count meanwhile; then this version is refused, with the reason."""
    with shared.this() as older:
        for n in range(5):
            older.site(f"quiet-{n}")
            older.hit(f"quiet-{n}")
        older.site("portal")
    with shared.next(workers=2) as newer:
        views = Views(newer, "portal")
        until(lambda: len(views.acknowledged) > 20, START_S)
        finished = newer.api("POST", "/upgrade/finish", {})
        until(lambda: _all_write(shared), START_S)
        views.go_on_for(20)
        counted = len(views.stop())
        quiet = [newer.counts(f"quiet-{n}")["total"]["pageviews"] for n in range(5)]
        total = newer.counts("portal")["total"]["pageviews"]
    with shared.this() as refused:
        code, why = refused.exit_code(START_S), refused.errors

    assert finished["finished"]
    assert (total, quiet) == (counted, [1] * 5)
    assert shared.record() == everywhere(NEXT)
    assert shared.forms() == {NEXT}
    assert (shared.directory / f"next/before-{forms.NEWEST}.jsonl.gz").exists()
    assert code == 1
    assert f"a newer version has brought the store to form {NEXT}" in why


def _all_write(shared: Shared) -> bool:
    return shared.forms() == {NEXT}


def test_an_older_worker_that_was_forgotten_loses_nothing(shared: Shared) -> None:
    """It cannot write any more: its hits wait in its spool, it says why, and the next release
    counts them on its data directory."""
    with shared.this() as older:
        older.site("portal")
        older.hit("portal")
        assert older.url
        signal_all([older.process.pid], signal.SIGSTOP)
        with shared.next() as newer:
            until(lambda: _knows(newer, "portal"), START_S)
            assert newer.api("POST", "/upgrade/finish", {})["finished"]
        signal_all([older.process.pid], signal.SIGCONT)
        until(lambda: call("POST", f"{older.url}/w/portal", {})[0] == 202, STOP_S)
        until(lambda: "run that version" in _readiness(older), STOP_S)
        spooled = older.metric('visitcounter_hits_total{outcome="spooled"}')
    with shared.next("this") as newer:
        until(lambda: newer.metric("visitcounter_spool_batches") == 0, START_S)
        total = newer.counts("portal")["total"]["pageviews"]

    assert spooled >= 1
    assert total == 1 + spooled


def _readiness(service: ServiceProcess) -> str:
    return str(service.ready()[1])


def test_without_older_workers_the_upgrade_finishes_itself(
    shared: Shared, tmp_path_factory: Any
) -> None:
    """After a day, which is a moment here."""
    with shared.this() as older:
        older.site("portal")
        older.hit("portal")
    patched = next_release(tmp_path_factory.mktemp("next"), ANNOUNCE_S="0.1", BACK_MS="0")
    shared._program = patched
    with shared.next() as newer:
        until(lambda: shared.record() == everywhere(NEXT), START_S)
        total = newer.hit("portal")["total"]["pageviews"]

    assert total == 2


@pytest.mark.parametrize(
    "step",
    [
        'await self._set("schema", record.schema, form)',
        "await self._copy_once(directory, record.copied)",
        'await self._set("writes", record.writes, form)',
        "await self._fence()  # also ours for the form before",
        "await self._convert()",
    ],
    ids=["schema", "copied", "writes", "fenced", "converted"],
)
def test_an_upgrade_that_was_killed_goes_on_while_hits_are_counted(
    shared: Shared, tmp_path_factory: Any, program: Program, step: str
) -> None:
    with shared.this() as older:
        older.site("portal")
        older.hit("portal")
    shared._program = next_release(tmp_path_factory.mktemp("dies"), step, LIVING_MS="100")
    with shared.next() as dying:
        dying.hit("portal")
        with pytest.raises(OSError):  # noqa: PT011 # the connection ends
            dying.api("POST", "/upgrade/finish", {})
        dying.process.wait(STOP_S)
    shared._program = next_release(
        tmp_path_factory.mktemp("goes-on"), LIVING_MS="100", ANNOUNCE_S="0.02"
    )
    with shared.next() as newer:
        counted = newer.hit("portal")["total"]["pageviews"]
        until(lambda: shared.record() == everywhere(NEXT), START_S)
        more = newer.hit("portal")["total"]["pageviews"]
        ready = newer.ready()

    assert (counted, more) == (3, 4)
    assert shared.forms() == {NEXT}
    assert ready[0] == 200


def test_an_upgrade_may_be_finished_by_several_at_once(shared: Shared) -> None:
    with shared.this() as older:
        for n in range(20):
            older.site(f"site-{n}")
            older.hit(f"site-{n}")
    with shared.next(workers=2) as one, shared.next("other") as other:
        assert other.url
        views = Views(one, "site-0")
        with ThreadPoolExecutor(6) as pool:
            asked = [
                pool.submit(each.api, "POST", "/upgrade/finish", {}) for each in (one, other) * 3
            ]
            answers = [each.result() for each in asked]
        views.go_on_for(5)
        counted = len(views.stop())
        total = one.counts("site-0")["total"]["pageviews"]

    assert all(answer["finished"] for answer in answers)
    assert shared.record() == everywhere(NEXT)
    assert shared.forms() == {NEXT}
    assert (total, views.refused) == (1 + counted, 0)


def test_why_an_upgrade_does_not_finish_is_told_once(shared: Shared, tmp_path_factory: Any) -> None:
    """In the log and by readiness; nothing is changed, and it is tried again."""
    with shared.this() as older:
        older.site("portal")
        older.hit("portal")
    shared._program = next_release(tmp_path_factory.mktemp("next"), ANNOUNCE_S="0.02", BACK_MS="0")
    blocked = shared.directory / "blocked"
    blocked.write_text("")
    with running(shared._program, {**shared.settings("next"), "BACKUP_DIR": str(blocked)}) as newer:
        until(lambda: newer.errors.count("finishing the store's upgrade") > 3, START_S)
        status, readiness = newer.ready()
        told = newer.errors.count("the store's upgrade is not finished")
        record = shared.record()
        blocked.unlink()
        until(lambda: shared.record() == everywhere(NEXT), START_S)
        until(lambda: newer.ready()[1]["status"] == "ok", START_S)

    assert (status, readiness["status"], told) == (200, "degraded", 1)
    assert "VISIT_COUNTER_BACKUP_DIR" in str(readiness["hints"])
    assert record == everywhere(forms.NEWEST)
