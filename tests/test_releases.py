"""One release after another over one store and data directory: nothing that was acknowledged is
lost, counted twice or forgotten.

Each earlier release of .ci/releases.txt writes (tests/kit/services/releases_scenario.py), is killed
with hits in its spool, and this version goes on. Two that follow each other also share a store, and
the older one comes back: `SIDE_BY_SIDE` has the pairs that can.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit.services.process import START_S, Program, Views, this_version, until
from tests.kit.services.releases import HOME, World, loads_from, release, releases, settled, world
from tests.kit.services.releases_book import Book
from tests.kit.services.releases_scenario import (
    check,
    come_new,
    go_on,
    history,
    known,
    repeat_operations,
    snapshot,
    spool,
    unchanged,
    undo_all,
    write,
    write_past,
)
from tests.kit.stores.server import Server, run_server, server_binaries
from tests.kit.tools import need

THIS = "this"
SIDE_BY_SIDE = [(THIS, THIS)]
"""An older and a newer release that can share a store and replace each other, as long as nobody has
finished the upgrade. 0.1.0 cannot: once 0.2.0 is in .ci/releases.txt, ("0.2.0", THIS) goes here."""
KEPT_OUT = ["0.1.0"]
"""Releases that must not start where this version has been."""
WORLDS = [("embedded", 1), ("embedded", 2), ("valkey", 1), ("valkey", 2), ("redis", 1)]


@pytest.fixture(params=WORLDS, ids=lambda given: f"{given[0]}-{given[1]}")
def shared(request: pytest.FixtureRequest) -> Iterator[World]:
    """A data directory and a store, for one or two workers."""
    store, workers = request.param
    with ExitStack() as stack:
        server = None
        if store != "embedded":
            binary = server_binaries().get(store) or need("redis-server")
            server = stack.enter_context(run_server(binary))
        # Not pytest's directory: the path of the embedded Valkey's socket must be short.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp"))
        yield stack.enter_context(world(Path(directory), server, workers))


@pytest.mark.parametrize("version", releases())
def test_this_version_goes_on_with_what_a_release_has_written(version: str, shared: World) -> None:
    """Totals, visits, visitors, pages, drops, seeds, calendars, settings, resets that can be
    undone, operation ids and spooled hits."""
    old, new, book = release(version), this_version(), Book()
    if shared.can_travel:
        for turn, past in enumerate(history(datetime.now(UTC))):
            with shared.running(old, past) as service:
                write_past(service, book, turn)
    with shared.running(old) as service:
        assert f'version="{version}"' in service.metrics()
        assert loads_from(service, HOME / version)
        write(service, book)
        check(service, book)
        before, token = snapshot(service, book), shared.token
        shared.take_store_away()
        spool(service, book)
        service.kill_all()
    spooled = shared.spooled(old)
    assert (shared.producers_with_spool(), shared.spooled(new)) == (shared.workers, spooled)
    shared.bring_store_back()

    with shared.running(new) as service:
        assert not loads_from(service, HOME)
        until(lambda: settled(service), START_S)
        assert unchanged(service, book, before) == []
        check(service, book)
        repeat_operations(service, book)
        undo_all(service, book)
        go_on(service, book)
        come_new(service, book)
        before = snapshot(service, book)
    if version in KEPT_OUT:
        with shared.starting(old) as service:
            assert service.exit_code(START_S) == 1
            assert "schema" in service.errors, service.errors
    with shared.running(new) as service:
        assert unchanged(service, book, before) == []
        check(service, book)

    assert spooled
    assert shared.spooled(new) == {}
    assert (shared.token, shared.token_file.stat().st_mode & 0o777) == (token, 0o600)


@pytest.fixture
def own_server() -> Iterator[Server]:
    with run_server(server_binaries()["valkey"]) as server:
        yield server


@pytest.mark.parametrize("version", KEPT_OUT)
def test_a_release_that_still_runs_is_fenced(
    version: str, own_server: Server, tmp_path: Path
) -> None:
    """From the migration on it counts nothing, whatever it acknowledged is counted once, and what
    it has spooled is counted when this version takes its data directory over."""
    ours, theirs = (World(tmp_path / name, own_server, 1) for name in ("ours", "theirs"))
    with theirs.running(release(version)) as old:
        old.site("portal")
        views = Views(old, "portal")
        views.go_on_for(50)
        with ours.running(this_version()) as new:
            until(lambda: views.refused > 3, START_S)
            acknowledged = set(views.stop())
            assert old.ready()[0] == 503
            new.hit("portal", p="/new")
    with theirs.running(this_version()) as new:
        until(lambda: settled(new), START_S)
        total = new.counts("portal")["total"]["pageviews"]
        pages = {path: new.page("portal", path) for path in acknowledged}

    assert total == len(acknowledged) + 1
    assert set(pages.values()) == {1}


@pytest.mark.parametrize("version", KEPT_OUT)
@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "valkey"])
def test_a_release_goes_on_with_the_copy_that_was_put_back(
    version: str, embedded: bool, own_server: Server
) -> None:
    """With the numbers of now, also those that were undone and counted since."""
    old, new, book = release(version), this_version(), Book()
    with (
        tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory,
        world(Path(directory), None if embedded else own_server, 1) as shared,
    ):
        with shared.running(old) as service:
            write(service, book)
        with shared.running(new) as service:
            check(service, book)
            undo_all(service, book)
            go_on(service, book)
            before = snapshot(service, book)
        copy = str(shared.data_dir / "before-4.jsonl.gz")
        shown = new.call("upgrade", "--put-back", copy, **shared.settings)
        done = new.call("upgrade", "--put-back", copy, "--yes", **shared.settings)
        with shared.running(old) as service:
            assert unchanged(service, book, before) == []
            check(service, book)
            go_on(service, book)
            check(service, book)

    assert "keys as they were at" in shown
    assert "into the form of version 0.1: start that" in done


@pytest.mark.parametrize(("older", "newer"), SIDE_BY_SIDE)
def test_two_releases_share_a_store(older: str, newer: str, worlds: tuple[World, World]) -> None:
    """Both count at once, each goes on with what the other has written, and the older one comes
    back after the newer one, over its own data directory and over that of the other."""
    old, new, book, (ours, theirs) = program(older), program(newer), Book(), worlds
    with ours.running(old) as before:
        write(before, book, "old-")
        with theirs.running(new) as after:
            known(after, book.sites.values())
            check(after, book)
            write(after, book, "new-")
            known(before, book.sites.values())
            for service in (before, after):
                go_on(service, book)
    for shared, prefix in ((ours, "new-"), (theirs, "old-")):
        with shared.running(old) as service:
            check(service, book)
            repeat_operations(service, book, prefix)
            undo_all(service, book, prefix)
            come_new(service, book)
    with theirs.running(new) as service:
        check(service, book)


def program(version: str) -> Program:
    return this_version() if version == THIS else release(version)


@pytest.fixture
def worlds(valkey: Server) -> Iterator[tuple[World, World]]:
    """Two data directories over one store."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        one, other = (World(Path(directory) / name, valkey, 1) for name in ("one", "other"))
        yield one, other
