"""Compiles the hit path with mypyc while hatchling builds the wheel: a third more hits a second.

Only where HATCH_BUILD_HOOK_ENABLE_CUSTOM=true asks for it, as the Dockerfile and `./dev bench` do:
it takes a C compiler, Python's headers, and a minute. The sources go along and stay what they are,
plain Python, which runs the same without this. What is compiled stands below; mypyc does not know
the options of msgspec's Structs, so those live in other modules, and what tests or users subclass
stays as it is too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

MODULES = (
    *("web/lane/connection", "web/lane/request", "web/lane/answering"),
    *("web/hits/intake", "web/hits/views", "web/hits/answers"),
    *("rules/addresses", "rules/limits", "rules/visitor_hash", "model/site", "model/hit"),
    *("delivery/recorder", "delivery/flow", "delivery/queues"),
    *("delivery/ledger", "store/batch", "store/writer"),
)


class CompiledHitPath(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root, made = Path(self.root), Path(self.directory) / "compiled"
        build_data["pure_python"], build_data["infer_tag"] = False, True
        for module in compiled(root, made):
            build_data["force_include"][str(module)] = str(module.relative_to(made))


def compiled(root: Path, made: Path) -> list[Path]:
    """The compiled modules, in a directory that is as the wheel will be."""
    sources = [str(root / "service/visit_counter" / f"{module}.py") for module in MODULES]
    options = [f"--config-file={root / 'pyproject.toml'}", *sources]
    modules = mypycify(options, opt_level="3", debug_level="0", target_dir=str(made / "c"))
    command = build_ext(Distribution({"name": "visit_counter", "ext_modules": modules}))
    command.build_lib, command.build_temp = str(made), str(made / "objects")
    command.finalize_options()
    command.run()
    return [*made.rglob("*.so")]
