"""The package as the image has it: its hit path compiled, and the same for all who use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.compiled import MODULES
from tests.kit.services.process import ROOT
from tests.kit.tools import need

SAME = (
    *("request", "intake", "limits", "batch", "visitor_hash"),
    *("connections", "lane", "recorder", "flow", "ledger"),
)
CHAOS = "tests/test_chaos.py::test_every_acknowledged_hit_is_counted_once"
FAULTS = ("embedded-both-killed-1", "embedded-service-killed-2")

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("compiled")]


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    """A directory with the compiled package."""
    _ = need("gcc")
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp") as directory:
        install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
        environ = {**os.environ, "HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"}
        run([*install, "--target", directory, "."], environ)
        yield Path(directory)


def run(arguments: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def with_package(package: Path) -> dict[str, str]:
    """An environment in which it stands before the sources."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**plain, "PYTHONSAFEPATH": "1", "PYTHONPATH": f"{package}:{ROOT}:{ROOT / 'service'}"}


@pytest.mark.parametrize("module", MODULES)
def test_what_is_compiled_has_no_structs(module: str) -> None:
    """mypyc drops the options of a Struct without a word: frozen ones would not be."""
    source = (ROOT / f"service/visit_counter/{module}.py").read_text()

    assert not re.search(r"^class \w+\(.*Struct", source, re.MULTILINE)


def test_it_is_compiled(package: Path) -> None:
    """And the sources go along."""
    code = "from visit_counter.web.lane import lane; from visit_counter.web.hits import intake;"
    code += "print(lane.__file__, intake.__file__)"
    lane, intake = run(["-c", code], with_package(package)).split()

    assert [Path(lane).suffix, Path(intake).suffix] == [".py", ".so"]
    assert (package / "visit_counter/web/hits/intake.py").exists()


def test_it_passes_the_tests_of_the_hit_path(package: Path) -> None:
    """Those of the modules that are compiled, and a service and a store that are killed."""
    files = [f"tests/test_{name}.py" for name in SAME]
    chaos = [f"{CHAOS}[{fault}]" for fault in FAULTS]
    path = ["-o", f"pythonpath={package} {ROOT}"]
    told = run(["-m", "pytest", "-q", *path, *files, *chaos], with_package(package))

    assert " passed" in told
