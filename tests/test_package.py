"""The package as pip installs it: whole, and beside others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.services.process import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package, and with another distribution's that is called `service`."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--root-user-action=ignore", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, *options, "--target", target, ROOT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (target / "service").mkdir()
    (target / "service/__init__.py").write_text("NAME = 'another one'\n")
    return target


def run(installed: Path, *arguments: str) -> str:
    """What Python prints that finds packages there and nowhere in the sources."""
    environ = {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, *arguments], env=environ, cwd=installed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_brings_one_package(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}

    assert tops - {"bin", "service"} == {"visit_counter"}


def test_it_stands_beside_a_distribution_called_service(installed: Path) -> None:
    code = "import service, visit_counter; print(service.NAME, visit_counter.__file__)"

    assert run(installed, "-c", code).split() == [
        "another", "one", str(installed / "visit_counter/__init__.py"),
    ]  # fmt: skip


def test_what_is_not_python_goes_along(installed: Path) -> None:
    """The function, the scripts and the words."""
    code = "from visit_counter.store.libraries import library; print(library('vc')[0])"
    snippet = run(installed, "-m", "visit_counter", "snippet", "portal", "--lang", "vi", "--pin")

    assert run(installed, "-c", code).startswith("vc_")
    assert 'data-site="portal"' in snippet
    assert "sha384-" in snippet
