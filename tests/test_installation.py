"""A data directory belongs to one store: no other, and no emptied one, is counted in by mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.services.in_process import run_service
from tests.kit.stores.server import Server, run_server, server_binaries
from visit_counter.errors import StartError


async def test_another_store_is_refused_until_the_directory_forgets(
    valkey: Server, tmp_path: Path
) -> None:
    """The sentence says how, and nothing is written into the wrong store."""
    async with run_service(valkey.url, data_dir=tmp_path, namespace="first") as service:
        await service.site()
        await service.hit()
    with pytest.raises(StartError, match="holds nothing") as refused:
        async with run_service(valkey.url, data_dir=tmp_path, namespace="second"):
            pass
    keys = valkey.call("KEYS", "second:*")
    (tmp_path / "installation").unlink()
    async with run_service(valkey.url, data_dir=tmp_path, namespace="second") as service:
        await service.site()
    with pytest.raises(StartError, match="holds the data of another"):
        async with run_service(valkey.url, data_dir=tmp_path, namespace="first"):
            pass

    assert keys == b"*0\r\n"
    assert f"remove {tmp_path / 'installation'}" in str(refused.value)
    assert "VISIT_COUNTER_REDIS_URL" in str(refused.value)


async def test_a_directory_that_is_made_by_the_first_start_remembers(
    valkey: Server, tmp_path: Path
) -> None:
    """Else the second start would not know which store it belongs to."""
    async with run_service(valkey.url, data_dir=tmp_path / "data"):
        pass

    assert (tmp_path / "data/installation").read_text()


async def test_a_record_that_is_gone_is_told(valkey: Server, tmp_path: Path) -> None:
    """Hits are counted, and the next start would be refused."""
    async with run_service(valkey.url, data_dir=tmp_path) as service:
        await service.site()
        meta, versions = service.parts.store._meta, service.parts.versions
        valkey.call("RENAME", meta, f"{meta}:away")
        await service.hit()
        await versions._announce()
        problems = versions.problems
        valkey.call("DEL", meta)
        valkey.call("RENAME", f"{meta}:away", meta)
        await versions._announce()

        assert "has lost the installation's record" in problems[0]
        assert versions.problems == []


async def test_an_emptied_store_is_not_begun_anew(tmp_path: Path) -> None:
    """As after a FLUSHALL, or a restart without its data: restoring it is still possible."""
    with run_server(server_binaries()["valkey"]) as own:
        async with run_service(own.url, data_dir=tmp_path, namespace="t"):
            pass
        own.call("FLUSHALL")
        with pytest.raises(StartError, match="holds nothing"):
            async with run_service(own.url, data_dir=tmp_path, namespace="t"):
                pass
        assert own.call("DBSIZE") == b":0\r\n"


async def test_a_directory_that_remembers_nothing_takes_the_store_that_is_there(
    valkey: Server, tmp_path: Path
) -> None:
    """As one of version 0.1; from then on it is that one's."""
    (tmp_path / "installation").write_text("")
    async with run_service(valkey.url, data_dir=tmp_path) as service:
        kept = (tmp_path / "installation").read_text().strip()
        assert kept == service.parts.store.schema.installation
