"""docs/reference/caches.md names every cache of the package, with its bound."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "service/visit_counter"
PAGE = (ROOT / "docs/reference/caches.md").read_text()

# Mappings that an object keeps between calls and that are not caches: what is forgotten of them is
# lost, or wrong.
NO_CACHES = {
    "reading/hub.py": {"_channels"},  # who watches
    "reading/reader.py": {"_flights", "_failed_s"},  # reads in flight; which servers failed
    "reading/sites.py": {"by_id", "unreadable"},  # all sites of the store
    "rules/addresses.py": {"_masks"},  # the networks themselves
    "web/hits/forwarding.py": {"_seen", "_said"},  # for operators
    "web/hits/full_sets.py": {"_full"},  # for operators
    "web/hits/views.py": {"_waiting"},  # for what becomes of a view
    "web/lane/answering.py": {"_took"},  # for the metrics
    "rules/shares.py": {"_held"},  # of what is bounded
    "web/lane/connections.py": {"_newcomers", "_of_network", "_ended", "_told_s"},  # who is there
    "web/lane/places.py": {"_members"},  # the same
}
# Packages whose code keeps no answers, but what is on its way, and is not looked through for them.
ELSEWHERE = ("delivery", "store", "disk", "workers", "cli", "config", "embedded", "adapters")


class Cache(NamedTuple):
    """Where it is, and how many entries it has at most, if its call says so."""

    path: str
    name: str
    bound: str = ""


def caches(path: str, tree: ast.Module) -> Iterator[Cache]:
    """Functions decorated with, and names made by, functools' caches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in filter(is_cache, node.decorator_list):
                yield Cache(path, node.name, bound_of(decorator))
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made_by, name = node.value.func, ast.unparse(node.targets[0]).rpartition(".")[2]
            if is_cache(made_by):
                yield Cache(path, name, bound_of(made_by))


def is_cache(made_by: ast.expr) -> bool:
    name = ast.unparse(made_by.func if isinstance(made_by, ast.Call) else made_by)
    return name.rpartition(".")[2] in ("lru_cache", "cache", "cached_property")


def bound_of(made_by: ast.expr) -> str:
    sizes = re.findall(r"maxsize=([\d_]+)", ast.unparse(made_by))
    return f"{int(sizes[0]):,}" if sizes else ""


def mappings(path: str, tree: ast.Module) -> Iterator[Cache]:
    """Attributes of objects that begin as mappings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_mapping(node.value):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                yield Cache(path, target.attr)


def is_mapping(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Dict | ast.DictComp):
        return True
    name = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return bool(re.search(r"(dict|Dict|Counter|Mapping|Dictionary)(\[.*\])?$", name))


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


FOUND = [cache for path, tree in modules() for cache in caches(path, tree)]
KEPT = [
    found
    for path, tree in modules()
    if not path.startswith(ELSEWHERE) and "/" in path
    for found in mappings(path, tree)
    if found.name not in NO_CACHES.get(path, ())
]


@pytest.mark.parametrize("cache", [*FOUND, *KEPT], ids=lambda each: f"{each.path}:{each.name}")
def test_the_page_names_the_cache(cache: Cache) -> None:
    """A row with its name, its module and its bound; for a mapping that is no cache, see NO_CACHES
    here."""
    rows = [row for row in PAGE.splitlines() if re.match(rf"\| .*`{cache.name}`", row)]
    rows = [row for row in rows if f"`{cache.path}`" in row.split("|")[1]]
    assert rows, f"docs/reference/caches.md does not name `{cache.name}` in `{cache.path}`"
    assert cache.bound in rows[0].split("|")[3], f"its bound is {cache.bound}: {rows[0]}"


def test_the_page_names_no_other_caches() -> None:
    """Each row is of something that is there."""
    named = [
        (path, name)
        for names, path in re.findall(r"^\| (.*?) in `(\S+\.py)` \|", PAGE, re.M)
        for name in re.findall(r"`(\w+)`", names)
    ]
    assert len(named) > 20
    assert not [each for each in named if each[1] not in (PACKAGE / each[0]).read_text()]


def test_the_search_finds_caches() -> None:
    """As decorators, by calls, of functions and of methods."""
    code = """
from functools import cache, lru_cache
import functools
@cache
def a(): ...
@functools.lru_cache(maxsize=4_096)
def b(): ...
c = lru_cache(maxsize=8)(len)
class Kept:
    def __init__(self):
        self._d = lru_cache(maxsize=16)(self.look)
        self._e: dict[str, int] = {}
        self._f = OrderedDict()
        self._g = WeakValueDictionary[str, int]()
        self._h = {n: n for n in range(3)}
        self._i = []
"""
    tree = ast.parse(code)
    assert {(each.name, each.bound) for each in caches("", tree)} == {
        *(("a", ""), ("b", "4,096"), ("c", "8"), ("_d", "16")),
    }
    assert {each.name for each in mappings("", tree)} == {"_e", "_f", "_g", "_h"}


def test_what_measures_the_caches_fills_all_of_them() -> None:
    command = [sys.executable, "-m", "loadtests.caches", "--fill", "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^known, .*standings, .*: [\d.]+ MiB resident$", done.stdout, re.MULTILINE)
