"""Terminals and locales of other encodings than UTF-8: what they cannot show is escaped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from crawleruseragents import CRAWLER_USER_AGENTS_DATA  # type: ignore[import-untyped]

from tests.kit.services.process import (
    START_S,
    ServiceProcess,
    call,
    environment,
    running,
    serving,
    this_version,
    until,
)
from tests.kit.stores.server import Server
from visit_counter.adapters import crawlers

# As LANG=C without what Python does about it, and terminals of before.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "C": ASCII,
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "ISO-8859-1": {"PYTHONIOENCODING": "iso-8859-1"},
}
NAME = "Trà Vinh → cổng thông tin 🇻🇳"


@pytest.fixture(scope="module")
def service(valkey: Server) -> Iterator[ServiceProcess]:
    with serving(REDIS_URL=valkey.url, NAMESPACE="encodings") as service:
        service.site("portal", name=NAME)
        yield service


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize(
    "arguments",
    [
        ("site", "show", "portal"),
        ("site", "list"),
        ("privacy", "portal", "--lang", "vi"),
        ("snippet", "portal", "--lang", "vi,ko"),
        ("config", "--markdown"),
        ("healthcheck",),
        ("spool", "show"),
        ("site", "show", "trà-vinh"),
        ("--help",),
    ],
    ids=" ".join,
)
def test_every_command_speaks(
    service: ServiceProcess, tmp_path: Path, locale: str, arguments: tuple[str, ...]
) -> None:
    """To a terminal that has no Vietnamese; what is JSON stays so."""
    data = tmp_path / ("data" if locale == "C" else "dữ liệu → ü")
    settings = {
        "VISIT_COUNTER_LISTEN": service.url.removeprefix("http://"),
        "VISIT_COUNTER_ADMIN_TOKEN": service.token,
        "VISIT_COUNTER_DATA_DIR": str(data),
        "VISIT_COUNTER_TIMEZONE": "UTC",
    }
    done = subprocess.run(
        [*this_version().command, *arguments],
        env=environment({**settings, **LOCALES[locale]}),
        cwd=this_version().cwd,
        capture_output=True,
        timeout=30,
    )
    said = done.stdout.decode("iso-8859-1" if locale == "ISO-8859-1" else "ascii")

    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr
    if "trà-vinh" in arguments:
        assert (done.returncode, said) == (1, "")
    else:
        assert done.returncode == 0
        assert said
    if arguments == ("site", "show", "portal"):
        assert NAME in json.loads(said)["settings"].values()


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_the_log_speaks_the_terminals_encoding(valkey: Server, encoding: str) -> None:
    """In lines for people; those for machines are ASCII in any case."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as scratch:
        settings = {
            "REDIS_URL": valkey.url,
            "NAMESPACE": f"log_{encoding[:3]}",
            "DATA_DIR": f"{scratch}/dữ liệu → ü",
            "LISTEN": "127.0.0.1:0",
            "LOG_FORMAT": "console",
        }
        given = {f"VISIT_COUNTER_{name}": text for name, text in settings.items()}
        path = Path(scratch, "log")
        with (
            path.open("wb") as log,
            subprocess.Popen(
                [*this_version().command, "serve"],
                env=environment({"PYTHONIOENCODING": encoding, **given}),
                stdout=log,
                stderr=log,
            ) as process,
        ):
            until(lambda: b"admin-token" in path.read_bytes(), START_S)
            process.terminate()
            assert process.wait(10) == 0
        lines = path.read_bytes().decode(encoding)

    assert r"d\u1eef li\u1ec7u \u2192 " in lines
    assert ("ü" in lines) == (encoding == "iso-8859-1")
    assert "Traceback" not in lines


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_directory_whose_name_is_no_text_will_do(tmp_path: Path, workers: str) -> None:
    """Neither the log, nor JSON, nor a URL can say it: what they say of it is escaped."""
    data = tmp_path / os.fsdecode("dữ liệu ".encode() + b"\xff")
    program = this_version()._replace(variables=ASCII)
    with running(program, {"DATA_DIR": str(data), "WORKERS": workers}) as service:
        origin = {"Origin": service.url}
        assert call("POST", f"{service.url}/w/demo", {"p": "/"}, headers=origin)[0] == 200
        assert service.ready()[0] == 200
        assert service.terminate() == 0
        assert "Traceback" not in service.errors


def test_the_list_of_crawlers_is_what_its_package_has() -> None:
    """Read without the encoding of the locale, in which the package reads it."""
    assert crawlers.patterns() == [each["pattern"] for each in CRAWLER_USER_AGENTS_DATA]
    ours = "from visit_counter.rules.bots import is_bot; print(is_bot('curl/8'))"
    done = subprocess.run(
        [sys.executable, "-c", ours],
        env=environment(ASCII),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
