"""The migration of a store that version 0.1 wrote: nothing is lost, wherever it is killed."""

from __future__ import annotations

import asyncio
import gzip
import multiprocessing
import os
import random
import secrets
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis
from structlog.testing import capture_logs

from loadtests.small_disk import SmallDisk
from tests.kit.counting import Counted, at, make_site, open_store
from tests.kit.services.in_process import namespace, run_service
from tests.kit.stores.node import places
from tests.kit.stores.older import as_of_0_1, packed_keys, record_of
from tests.kit.stores.packed import migrated, packed_entry, state_in
from tests.kit.stores.server import Server
from visit_counter.clock import Clock
from visit_counter.delivery.ledger import Ledger
from visit_counter.disk import migration_copy
from visit_counter.disk.migration_copy import Head, MigrationCopy, Saved
from visit_counter.disk.producer import Producer
from visit_counter.errors import StartError, StoreUnavailable
from visit_counter.model import forms
from visit_counter.model.calendar import Calendar
from visit_counter.model.counts import Counts
from visit_counter.model.site import Site
from visit_counter.model.site_settings import SiteSettings, StoredSite, partition_of
from visit_counter.store import migration
from visit_counter.store.functions import Functions
from visit_counter.store.libraries import LIBRARY_OF_0_1
from visit_counter.store.store import Store

NOON = at("2026-03-10 12:00")
SITES = [f"site-{n}" for n in range(9)]
KILLED = 50


class Old(NamedTuple):
    """A store of 0.1, and what it holds."""

    url: str
    namespace: str
    keys: dict[str, bytes]
    counts: dict[str, Counts]


async def old_store(url: str) -> Old:
    """Sites with numbers of two days, one of them with two resets."""
    name = namespace()
    async with open_store(url, name) as ledger:
        made = [await make_site(ledger, site) for site in SITES]
        for n, counted in enumerate(made):
            for who in range(n + 1):
                await counted.view(who + 1, NOON + who)
            await counted.view(1, NOON + 86_400_000)
        for n in range(2):
            await made[0].store.reset(made[0].site, f"operation-{n}")
        await made[1].store.seed(made[1].site, "operation-s", "visits", {("total", ""): 1_000_000})
        counts = {counted.site.id: await _counts(counted) for counted in made}
    await as_of_0_1(url, name)
    return Old(url, name, await packed_keys(url, name), counts)


async def _counts(counted: Counted) -> Counts:
    return await counted.counts(NOON + 86_400_000)


async def assert_migrated(old: Old) -> None:
    """Every key has the bytes of before behind its version byte, and shows what it showed."""
    keys = await packed_keys(old.url, old.namespace)
    for name, before in old.keys.items():
        assert keys[name] == migrated(before, forms.NEWEST), name
    record = await record_of(old.url, old.namespace)
    number = str(forms.NEWEST)
    assert record == {
        "partitions": "64", "schema": number, "copied": number, "writes": number,
        "converted": number,
    }  # fmt: skip
    async with Store(old.url, old.namespace, Clock()) as store:
        ledger = Ledger(store, Producer("", 0, None))  # which opens nothing
        assert {site: await _counts(known_site(ledger, site)) for site in old.counts} == old.counts


def copies_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("before-*"))


async def test_a_store_of_0_1_is_migrated_before_it_is_counted_in(
    store_server: Server, tmp_path: Path
) -> None:
    old = await old_store(store_server.url)
    with capture_logs() as logs:
        async with Store(old.url, old.namespace, Clock(), copies=tmp_path):
            pass

    await assert_migrated(old)
    assert copies_in(tmp_path) == [tmp_path / "before-4.jsonl.gz"]
    said = [entry["event"] for entry in logs]
    assert "migrating the store's data" in said
    assert "the store's data is migrated" in said
    (copied,) = [entry for entry in logs if entry["event"].startswith("copied what")]
    assert (copied["file"], copied["keys"]) == (str(tmp_path / "before-4.jsonl.gz"), len(old.keys))


async def test_the_copy_holds_all_keys_as_they_were(valkey: Server, tmp_path: Path) -> None:
    """And only its owner may read it."""
    old = await old_store(valkey.url)
    async with Store(old.url, old.namespace, Clock(), copies=tmp_path / "new" / "one") as store:
        installation = store.schema.installation
    path = tmp_path / "new" / "one" / "before-4.jsonl.gz"
    found, saved = migration_copy.read(path)

    assert (found.form, found.to, found.namespace) == (4, forms.NEWEST, old.namespace)
    assert found.installation == installation
    assert {each.key.decode(): each.value for each in saved} == old.keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_step_looks_at_a_bounded_number_of_keys(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a partition with more keys than one step takes, and of a site with many resets."""
    old = await old_store(valkey.url)
    tag = f"{old.namespace}:{{p{partition_of(SITES[0]):02}}}"
    async with Redis.from_url(old.url) as client:
        state = old.keys[f"{tag}:{SITES[0]}:1:running"]
        for generation in (50, 77, 78):
            await client.set(f"{tag}:{SITES[0]}:{generation}:running", state)
            old.keys[f"{tag}:{SITES[0]}:{generation}:running"] = state
        await client.hset(f"{tag}:generations", SITES[0], 78)
        for n in range(30):
            entry = packed_entry(4, 1, n, 20_000)
            await client.set(f"{tag}:ledger:producer{n}", entry)
            await client.hset(f"{tag}:ledger", f"producer{n}", 20_000)
            old.keys[f"{tag}:ledger:producer{n}"] = entry
    monkeypatch.setattr(migration, "STEP", 7)
    async with Store(old.url, old.namespace, Clock(), copies=tmp_path):
        pass

    old.counts.pop(SITES[0])
    await assert_migrated(old)


@pytest.mark.xdist_group("migration")
def test_a_migration_may_be_killed_anywhere(valkey: Server, tmp_path: Path) -> None:
    """At 50 random calls, twice in a row; then a start brings it to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kit.services.killed_start"])
    old = asyncio.run(old_store(valkey.url))
    chance = random.Random(20261129)
    killed = rounds = 0
    while killed < KILLED:
        rounds += 1
        copies = tmp_path / str(rounds)
        for most in (195, 70):
            arguments = (chance.randint(4, most), chance.random() < 0.5)
            child = context.Process(target=_start, args=(old, str(copies), *arguments))
            child.start()
            child.join()
            killed += child.exitcode == -9
        _start(old, str(copies), 0, False)
        asyncio.run(assert_migrated(old))
        for copy in copies.glob("before-*.gz"):  # killed between its name and the record: one more
            assert {each.key.decode() for each in migration_copy.read(copy)[1]} == {*old.keys}
        assert 1 <= len(list(copies.glob("before-*.gz"))) <= 2
        asyncio.run(as_of_0_1(old.url, old.namespace))
        assert asyncio.run(packed_keys(old.url, old.namespace)) == old.keys

    assert rounds <= KILLED


def _start(old: Old, copies: str, at_call: int, after: bool) -> None:
    from tests.kit.services.killed_start import start

    original = Functions.calls
    try:
        start(old.url, old.namespace, copies, at_call, after)
    finally:
        Functions.calls = original  # type: ignore[method-assign]


@pytest.mark.parametrize("shared", [True, False], ids=["one directory", "a directory each"])
async def test_several_processes_may_migrate_at_once(
    valkey: Server, tmp_path: Path, shared: bool
) -> None:
    """As hosts that are started together do: one copy is kept, and all is in the new form."""
    old = await old_store(valkey.url)
    directories = [tmp_path / ("all" if shared else str(n)) for n in range(3)]
    for _ in range(5):
        stores = [Store(old.url, old.namespace, Clock(), copies=each) for each in directories]
        await asyncio.gather(*map(_opened, stores))
        await assert_migrated(old)
        kept = [copy for each in {*directories} for copy in copies_in(each)]
        assert len(kept) == 1
        assert {each.key.decode() for each in migration_copy.read(kept[0])[1]} == {*old.keys}
        kept[0].unlink()
        await as_of_0_1(old.url, old.namespace)


async def _opened(store: Store) -> None:
    async with store:
        pass


async def test_a_copy_that_cannot_be_made_changes_nothing(valkey: Server, tmp_path: Path) -> None:
    """The sentence names another way, and 0.1 may go on."""
    old = await old_store(valkey.url)
    name = f"{old.namespace}_{LIBRARY_OF_0_1}"
    async with Redis.from_url(old.url) as client:
        await client.function_load(_counting_library(name))
        before = await record_of(old.url, old.namespace)
        blocked = tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(StartError, match="VISIT_COUNTER_BACKUP_DIR"):
            await _opened(Store(old.url, old.namespace, Clock(), copies=blocked))
        counted: Any = await client.fcall(f"{name}_record", 1, "key")

    assert await packed_keys(old.url, old.namespace) == old.keys
    assert await record_of(old.url, old.namespace) == before
    assert counted == 1


def _counting_library(name: str) -> str:
    function = f"redis.register_function('{name}_record', function() return 1 end)"
    return f"#!lua name={name}\n{function}"


@pytest.mark.skipif(os.geteuid() != 0, reason="making a disk needs root")
async def test_a_full_disk_stops_the_migration_before_it_begins(
    valkey: Server, tmp_path: Path
) -> None:
    old = await old_store(valkey.url)
    disk = SmallDisk(tmp_path / "disk")
    try:
        disk.fill()
        directory = Path(f"{disk.root}{tmp_path / 'disk'}")
        with pytest.raises(StartError, match=r"No space left on device.*VISIT_COUNTER_BACKUP_DIR"):
            await _opened(Store(old.url, old.namespace, Clock(), copies=directory))
        assert await packed_keys(old.url, old.namespace) == old.keys
        assert (await record_of(old.url, old.namespace))["schema"] == "4"
        assert copies_in(directory) == []
        disk.free()
        await _opened(Store(old.url, old.namespace, Clock(), copies=directory))
    finally:
        disk.end()

    await assert_migrated(old)


async def test_damaged_bytes_do_not_stop_the_migration(valkey: Server, tmp_path: Path) -> None:
    """They are named, and stay as they are; all else is migrated."""
    old = await old_store(valkey.url)
    names = [name for name in old.keys if name.endswith(":running")]
    damaged = {names[0]: old.keys[names[0]] + b"more", names[1]: b"2026", names[2]: b""}
    async with Redis.from_url(old.url) as client:
        await client.mset(damaged)
    with capture_logs() as logs:
        await _opened(Store(old.url, old.namespace, Clock(), copies=tmp_path))

    keys = await packed_keys(old.url, old.namespace)
    assert {name: keys[name] for name in damaged} == damaged
    sound = {name: bytes_ for name, bytes_ in old.keys.items() if name not in damaged}
    assert {name: keys[name] for name in sound} == {
        name: migrated(before, forms.NEWEST) for name, before in sound.items()
    }
    told = [entry["key"] for entry in logs if "no version of the service" in entry["event"]]
    assert sorted(told) == sorted(damaged)


@pytest.mark.parametrize("generation", ["junk", "", "0", "-3", "999999999999999", "1e3"])
async def test_a_damaged_generation_does_not_stop_the_migration(
    valkey: Server, tmp_path: Path, generation: str
) -> None:
    """Its site cannot be read until its settings are given anew; its states are migrated where
    they can be found again."""
    old = await old_store(valkey.url)
    tag = f"{old.namespace}:{{p{partition_of(SITES[3]):02}}}"
    async with Redis.from_url(old.url) as client:
        await client.hset(f"{tag}:generations", SITES[3], generation)
    await _opened(Store(old.url, old.namespace, Clock(), copies=tmp_path))

    if generation == "999999999999999":  # a number, and far from where the site counted
        old.keys.pop(f"{tag}:{SITES[3]}:1:running")
    old.counts.pop(SITES[3])
    await assert_migrated(old)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (
            "schema",
            7,
            "a newer version has brought the store to form 7, and this one reads up",
        ),
        ("writes", 8, "a newer version has brought the store to form 8"),
        ("schema", 3, "of before version 0.1"),
        ("partitions", 128, "data in 128 partitions"),
    ],
)
async def test_a_store_of_another_form_is_refused(
    valkey: Server, field: str, value: int, sentence: str
) -> None:
    name = namespace()
    await _opened(Store(valkey.url, name, Clock()))
    async with Redis.from_url(valkey.url) as client:
        await client.hset(f"{name}:{{meta}}", field, value)
    with pytest.raises(StartError, match=sentence):
        await _opened(Store(valkey.url, name, Clock()))


async def test_a_library_of_0_1_counts_nothing_after_the_migration(
    store_server: Server, tmp_path: Path
) -> None:
    """A process of 0.1 is told that it is fenced, and a start of it gets to its own sentence."""
    old = await old_store(store_server.url)
    name = f"{old.namespace}_{LIBRARY_OF_0_1}"
    earlier = f"{old.namespace}_0123456789ab"
    async with Redis.from_url(old.url) as client:
        for each in (name, earlier):
            await client.function_load(_counting_library(each))
        async with Store(old.url, old.namespace, Clock(), copies=tmp_path):
            refused = [await _refusal(client, f"{each}_record") for each in (name, earlier)]
            undo = await _refusal(client, f"{name}_undo")
            time_ms: Any = await client.fcall(f"{name}_rehearse", 1, "key")
            meta = f"{old.namespace}:{{meta}}"
            install: Any = await client.fcall(f"{name}_install", 1, meta, "4", "64", "secret")

    assert refused == ["FENCED 0", f"OUTDATED {forms.NEWEST}"]
    assert undo == "FENCED 0"
    assert abs(time_ms / 1000 - time.time()) < 60
    assert install[:2] == [b"%d" % forms.NEWEST, b"64"]


async def test_a_library_that_writes_the_form_is_not_fenced(valkey: Server, tmp_path: Path) -> None:
    """As that of another release of this version, whose process may run or come back."""
    old = await old_store(valkey.url)
    able, unable = (f"{old.namespace}_{digit * 12}" for digit in "ab")
    async with Redis.from_url(old.url) as client:
        for name, writes in ((able, forms.NEWEST), (unable, 4)):
            marker = f"redis.register_function('{name}_writes_{writes}', function() end)"
            await client.function_load(f"{_counting_library(name)}\n{marker}")
        async with Store(old.url, old.namespace, Clock(), copies=tmp_path):
            answers = [await _refusal(client, f"{name}_record") for name in (able, unable)]

    assert answers == ["it ran", f"OUTDATED {forms.NEWEST}"]


async def _refusal(client: Redis, function: str) -> str:
    try:
        await client.fcall(function, 1, "key")
    except Exception as error:
        return str(error)
    return "it ran"


# -- while it runs


async def test_a_migration_is_seen_from_outside(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Liveness, readiness and metrics answer while hits are refused; then the service counts."""
    old = await old_store(valkey.url)
    on, gone_on = asyncio.Event(), asyncio.Event()
    convert = migration.Migration._convert

    async def held(self: migration.Migration) -> None:
        on.set()
        await gone_on.wait()
        await convert(self)

    monkeypatch.setattr(migration.Migration, "_convert", held)
    with places(1) as (place,):
        base = f"http://127.0.0.1:{place.port}"
        service = run_service(
            old.url, data_dir=tmp_path, namespace=old.namespace, listen=f"127.0.0.1:{place.port}"
        )
        entering = asyncio.create_task(service.__aenter__())
        await on.wait()
        async with ClientSession() as client:
            answers = {
                path: await _answer(client, method, base + path)
                for method, path in (
                    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"),
                    ("POST", "/w/site-3"), ("GET", "/api/v1/sites"),
                )
            }  # fmt: skip
            gone_on.set()
            running = await entering
            ready = await _answer(client, "GET", base + "/readyz")
            hit = await running.hit("site-3")
        await service.__aexit__(None, None, None)

    assert [answers[path][0] for path in answers] == [200, 503, 200, 503, 503]
    assert f"from form 4 to {forms.NEWEST}" in answers["/readyz"][1]
    assert "64 partitions are left" in answers["/readyz"][1]
    assert "visitcounter_migration_partitions 64.0" in answers["/metrics"][1]
    assert "hits are refused" in answers["/w/site-3"][1]
    assert answers["/w/site-3"][2]["Retry-After"] == "5"
    assert answers["/w/site-3"][2]["Access-Control-Allow-Origin"] == "*"
    assert ready[0] == 200
    assert hit["total"]["pageviews"] == old.counts["site-3"].total.pageviews + 1


async def _answer(client: ClientSession, method: str, url: str) -> tuple[int, str, Any]:
    async with client.request(method, url) as answer:
        return answer.status, await answer.text(), answer.headers


# -- the way back


async def test_the_way_back_keeps_the_numbers_of_now(valkey: Server, tmp_path: Path) -> None:
    """What was counted, undone and made since the migration stays, in the form of 0.1; what is
    damaged gets the copy's bytes; and the next start migrates again."""
    old = await old_store(valkey.url)
    damaged = f"{old.namespace}:{{p{partition_of(SITES[4]):02}}}:{SITES[4]}:1:running"
    async with open_migrated(old, tmp_path) as ledger:
        first = known_site(ledger, SITES[0])
        for operation in ("operation-1", "operation-0"):
            await first.store.undo(first.site, operation)
        later = await make_site(ledger, "later")
        for counted in (later, known_site(ledger, SITES[2])):
            await counted.view(99, NOON + 2 * 86_400_000)
        sites = ["later", *SITES]
        now = {site: await _counts(known_site(ledger, site)) for site in sites}
    async with Redis.from_url(old.url) as client:
        await client.set(damaged, b"damaged")
    async with Store(old.url, old.namespace, Clock(), going_back=True) as store:
        await store.schema.put_back(tmp_path / "before-4.jsonl.gz")

    back = await packed_keys(old.url, old.namespace)
    states = [value for name, value in back.items() if name.endswith(":running")]
    assert back[damaged] == old.keys[damaged]
    assert sum(state_in(state, 4)["total.p"] for state in states) > 0
    assert await record_of(old.url, old.namespace) == {"partitions": "64", "schema": "4"}
    async with open_migrated(old, tmp_path) as ledger:
        assert {site: await _counts(known_site(ledger, site)) for site in sites} == now
    assert len(copies_in(tmp_path)) == 2


async def test_a_worker_that_sleeps_is_fenced_on_the_way_back(
    store_server: Server, tmp_path: Path
) -> None:
    """It writes nothing beside 0.1; and the next start of this version counts again."""
    old = await old_store(store_server.url)
    async with open_migrated(old, tmp_path) as sleeping:
        counted = known_site(sleeping, SITES[1])
        async with Store(old.url, old.namespace, Clock(), going_back=True) as store:
            await store.schema.put_back(None)
        refused = await counted.commit(counted.hit(77, NOON + 86_400_000))
        assert isinstance(refused, StoreUnavailable)
        assert await packed_keys(old.url, old.namespace) | old.keys == await packed_keys(
            old.url, old.namespace
        )
    async with open_migrated(old, tmp_path) as ledger:
        counted = known_site(ledger, SITES[1])
        await counted.view(77, NOON + 86_400_000)
        total = (await _counts(counted)).total.pageviews

    assert total == old.counts[SITES[1]].total.pageviews + 1


async def test_what_a_promoted_server_lacks_is_made_up_for(valkey: Server, tmp_path: Path) -> None:
    """Bytes of before the migration and a library of 0.1, as on a replica that was cut off."""
    old = await old_store(valkey.url)
    await _opened(Store(old.url, old.namespace, Clock(), copies=tmp_path))
    name = f"{old.namespace}_{LIBRARY_OF_0_1}"
    async with Redis.from_url(old.url) as client:
        await client.mset(dict([*old.keys.items()][::2]))
        await client.function_load(_counting_library(name), replace=True)
        async with Store(old.url, old.namespace, Clock(), copies=tmp_path) as store:
            refused = await _refusal(client, f"{name}_record")
            await store.schema.convert_rest()

    assert refused == "FENCED 0"
    await assert_migrated(old)


async def test_a_newer_library_is_not_fenced_by_a_start(valkey: Server) -> None:
    """The next release has one for its own form there before its upgrade is finished."""
    name = namespace()
    newer = f"{name}_{'c' * 12}"
    await _opened(Store(valkey.url, name, Clock()))
    async with Redis.from_url(valkey.url) as client:
        marker = f"redis.register_function('{newer}_writes_6', function() end)"
        await client.function_load(f"{_counting_library(newer)}\n{marker}")
        await _opened(Store(valkey.url, name, Clock()))
        assert await _refusal(client, f"{newer}_record") == "it ran"


async def test_a_half_migrated_store_can_go_back(
    valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being migrated to its end first."""
    old = await old_store(valkey.url)
    with monkeypatch.context() as patch:
        patch.setattr(migration.Migration, "_convert", _half_of(migration.Migration._convert))
        with pytest.raises(RuntimeError, match="half"):
            await _opened(Store(old.url, old.namespace, Clock(), copies=tmp_path))
    packed = await packed_keys(old.url, old.namespace)
    assert {value[0] for value in packed.values()} > {forms.NEWEST}
    async with Store(old.url, old.namespace, Clock(), going_back=True) as store:
        await store.schema.put_back(tmp_path / "before-4.jsonl.gz")

    assert await packed_keys(old.url, old.namespace) == old.keys
    assert await record_of(old.url, old.namespace) == {"partitions": "64", "schema": "4"}


def _half_of(convert: Any) -> Any:
    async def half(self: migration.Migration) -> None:
        self._tags = self._tags[:32]
        await convert(self)
        raise RuntimeError("half of it is done")

    return half


@asynccontextmanager
async def open_migrated(old: Old, copies: Path) -> AsyncIterator[Ledger]:
    """The store of this version, and the ledger of a new producer in it."""
    producer = Producer(secrets.token_hex(16), 1, None)
    async with (
        Store(old.url, old.namespace, Clock(), copies=copies) as store,
        Ledger(store, producer) as ledger,
    ):
        yield ledger


def known_site(ledger: Ledger, site: str) -> Counted:
    """A site that the store has, of the first generation."""
    settings = SiteSettings(id=site, origins=("*",))
    return Counted(ledger, Site(StoredSite(settings, Calendar.of("UTC")), 1))


async def test_a_copy_of_another_store_is_not_put_back(valkey: Server, tmp_path: Path) -> None:
    old = await old_store(valkey.url)
    async with Store(old.url, old.namespace, Clock(), copies=tmp_path):
        pass
    async with Store(valkey.url, namespace(), Clock()) as other:
        with pytest.raises(StartError, match="copy of another store"):
            await other.schema.put_back(tmp_path / "before-4.jsonl.gz")


# -- the file


HEAD = Head(form=4, to=5, namespace="vc", installation="0" * 16, at="2026-11-29T00:00:00+00:00")
KEYS = [Saved("vc:{p01}", b"vc:{p01}:a:1:running", bytes(range(256))), Saved("vc:{p02}", b"k", b"")]


HEAD_OF_OTHER = Head(form=4, to=5, namespace="vc", installation="1" * 16, at=HEAD.at)


def written(directory: Path, head: Head = HEAD) -> Path:
    copy = MigrationCopy(directory, head)
    copy.add(KEYS)
    path = copy.finish()
    copy.discard()
    return path


def test_a_copy_is_read_as_it_was_written(tmp_path: Path) -> None:
    found, saved = migration_copy.read(written(tmp_path))

    assert (found, list(saved)) == (HEAD, KEYS)


@pytest.mark.parametrize("cut", [1, 9, 20, 60])
def test_a_copy_with_an_end_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StartError, match="damaged or incomplete"):
        migration_copy.read(path)


def test_a_copy_whose_lines_were_changed_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = gzip.decompress(path.read_bytes()).replace(b'"key":"k"', b'"key":"l"')
    path.write_bytes(gzip.compress(lines))
    with pytest.raises(StartError, match="damaged or incomplete"):
        migration_copy.read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b""), gzip.compress(b"{}\n")],
    ids=["nothing", "no gzip", "no line", "another line"],  # gzip's bytes have the time
)
def test_what_is_not_a_copy_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "before-4.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(StartError, match="before-4"):
        migration_copy.read(path)


def test_a_copy_of_the_same_form_keeps_the_one_before(tmp_path: Path) -> None:
    """The last two are kept, whatever their names."""
    paths = []
    for n in range(4):
        paths.append(written(tmp_path))
        os.utime(paths[-1], ns=(n * 10**9, n * 10**9))
        migration_copy.keep_newest(tmp_path, HEAD)

    kept = copies_in(tmp_path)
    assert len(kept) == 2
    assert tmp_path / "before-4.jsonl.gz" in kept
    assert {path.stat().st_mtime_ns for path in kept} == {2 * 10**9, 3 * 10**9}


def test_copies_of_other_stores_are_kept(tmp_path: Path) -> None:
    """Several may use one directory, and a file of that name may be anybody's."""
    other = tmp_path / "before-4.other.jsonl.gz"
    written(tmp_path, HEAD_OF_OTHER).rename(other)
    strange = tmp_path / "before-strange.jsonl.gz"
    strange.write_bytes(b"not ours")
    for path in (other, strange):
        os.utime(path, ns=(0, 0))
    for _ in range(4):
        written(tmp_path)
        migration_copy.keep_newest(tmp_path, HEAD)

    assert {other, strange} < {*copies_in(tmp_path)}
    assert len(copies_in(tmp_path)) == 4


def test_a_copy_that_was_broken_off_leaves_no_name(tmp_path: Path) -> None:
    copy = MigrationCopy(tmp_path, HEAD)
    copy.add(KEYS)
    copy.discard()

    assert list(tmp_path.iterdir()) == []
