"""House rules that no other tool holds: names, locks, the README's table, reasons."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import FrameType

import pytest

from tests.kit.pages.documents import DOCUMENTS, tags
from tests.kit.services.in_process import PERSON, run_service
from tests.kit.stores.server import Server
from visit_counter.config.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "service/visit_counter"
FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py")})
PYPROJECT = (ROOT / "pyproject.toml").read_text()
LOCKS = [
    ".ci/package-lock.json",
    ".ci/requirements.txt",
    "deploy/requirements-build.txt",
    "deploy/requirements.txt",
]

# Names that say nothing of what is in the room.
EMPTY_NAMES = {"base", "common", "core", "helper", "helpers", "manager", "util", "utils"}

# What blocking lists look for in a URL (EasyPrivacy's general file, ignoring case): whoever uses
# one would see no number.
BLOCKED = re.compile(
    r"hit[-_]?count|visit(or)?s?[-_]?count|view[-_]?count|web[-_]?count|jscounter|/counters?[/?.]"
    r"|/count\.(gif|png)|/hit(\.png)?[/?]|/visit(\.gif)?[/?]|visitor\.min|/cnt\.js|/beacon|/collect"
    r"|/events?/|/log/|/pixel|/track|/metrics/ping|/page-?(hit|view)|[?&]type=|/stats?[./]"
    r"|analytics",
    re.IGNORECASE,
)


# Calls that are given patterns.
PATTERN = re.compile(
    r"re\.(compile|match|fullmatch|search|sub|split|findall|finditer)|(msgspec\.)?Meta"
)


def test_every_room_has_a_name_of_its_own() -> None:
    """No module is called utils, core, common, helpers or manager."""
    names = {path.stem for path in (ROOT / "service").rglob("*.py")}
    assert not names & EMPTY_NAMES
    assert not [name for name in names if name.endswith(("_utils", "_helpers", "_manager"))]


@pytest.mark.parametrize(
    "url",
    ["/hit-counter/x", "/HitCounter.js", "/count.gif?x", "/collect?x", "/v1/pixel?", "/cnt.js"],
)
def test_the_patterns_find_what_blocking_lists_find(url: str) -> None:
    """A guard that nothing trips guards nothing."""
    assert BLOCKED.search(url)


def test_public_urls_are_not_on_blocking_lists() -> None:
    """Every path of the URL table, and every one that scripts, pages and documents name, is
    plain."""
    assets = [
        path for path in (ROOT / "service/visit_counter/web/assets").iterdir() if path.is_file()
    ]
    urls = _paths((ROOT / "service/visit_counter/web/routes.py").read_text())
    urls += [f"/{path.name}" for path in assets]
    urls += [url for path in assets for url in _links(path.read_text())]
    urls += [tag.attributes.get("src") or "" for path in DOCUMENTS for tag in tags(path)]
    assert {"/embed.js", "/w/{{site}}", "/w/{{site}}/privacy", "/w/demo"} <= set(urls)
    assert {"/embed", "/preview", "/w/${site}/check?${query}", "/preview?${query}"} <= set(urls)
    assert "/generator.check.js" in urls
    assert not [url for url in urls if BLOCKED.search(url + "?")]


def _paths(code: str) -> list[str]:
    """The URL table's strings, with or without a prefix in braces."""
    return re.findall(r"""["}](/[^\s"]*)\"""", code)


def _links(text: str) -> list[str]:
    """What `src`, `href`, a script's `${base}`, its imports and what it fetches lead to."""
    begin = r"""src="|href="|\$\{base\}|from "\.|fetch\(`|URL\(`"""
    found = re.findall(rf"""(?:{begin})/?([^"`]+)["`]""", text)
    return [f"/{url}" for url in found]


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_registry(lock: str) -> None:
    """A lock holds versions and hashes; where they come from is the machine's matter."""
    text = (ROOT / lock).read_text()
    assert not re.search(r"--(extra-)?index|--find-links|\"resolved\"|@ (https?|file):", text)
    assert re.search(r"sha256:|sha512-", text)


def test_the_locks_agree() -> None:
    """The service is tested with the versions that it is shipped with."""
    everything, build, runtime = (_pins(lock) for lock in LOCKS[1:])
    assert build | runtime <= everything


def _pins(lock: str) -> set[str]:
    return set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.M))


def test_the_readme_shows_the_settings() -> None:
    """The README's table is the one that the settings make."""
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", readme, re.S)
    assert found, "README.md lacks the markers <!-- settings --> and <!-- /settings -->"
    assert Settings.table() == found[1].strip()


def test_no_pattern_lets_a_line_break_pass() -> None:
    """`$` also matches before one at the end: a pattern says `\\Z`, or is matched whole."""
    found = [
        (path.name, node.value)
        for path in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and PATTERN.fullmatch(ast.unparse(call.func))
        if "re.M" not in ast.unparse(call)
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"(?<!\\)\$(?=[|)]|\Z)", node.value)
    ]
    assert found == []


def test_every_exception_from_the_linter_has_a_reason() -> None:
    """An ignored rule carries a comment that says why, in pyproject.toml and in the code."""
    ignored = re.findall(r"^ignore = \[\n(.*?)^\]", PYPROJECT, re.S | re.M)
    assert ignored
    assert not [line for block in ignored for line in block.splitlines() if ", # " not in line]
    bare = re.compile(r"# noqa(: ?[A-Z0-9, ]+)?$", re.M)
    code = [path for folder in ("service", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [str(path) for path in code if bare.search(path.read_text())]


def test_every_path_that_the_code_map_names_is_there() -> None:
    """But for the packages that it says are still to come."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    coming = {"web/dropin/", "web/dashboard/", "admin/", "transfer/"}
    named = {
        path
        for path in re.findall(r"`([a-z_]+(?:/[a-z_.]*)*/?)`", text)
        if path.endswith((".py", ".lua", "/")) and not path.startswith(("tests/", "service/"))
    }
    kit = {"stores/", "services/", "pages/", "ledger_machine/", "lane/", "hits/", "pictures/"}
    kit |= {"words/", "api/", "lua/"}
    missing = {path for path in named - coming - kit if not (PACKAGE / path).exists()}

    assert not missing
    assert {"store/lua/counting.lua", "web/hits/intake.py", "disk/format.py"} <= named


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_a_package_is_small_and_says_what_belongs_in_it(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))

    assert len(modules) <= 12
    assert docstring
    assert len(docstring) > 60


MOST_FILES = 27


async def test_a_hit_passes_few_files(valkey: Server) -> None:
    """From the socket to the store and back, of a browser that was not seen before: whoever follows
    it opens no more."""
    passed: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            passed.add(frame.f_code.co_filename)

    async with run_service(valkey.url) as service:
        await service.site()
        await service.hit(p="/before")
        sys.setprofile(note)
        try:
            await service.hit(p="/page", headers={"User-Agent": f"{PERSON} Another/1.0"})
        finally:
            sys.setprofile(None)

    files = {Path(name).relative_to(PACKAGE) for name in passed if PACKAGE in Path(name).parents}
    assert Path("web/lane/connection.py") in files
    assert Path("store/writer.py") in files
    assert len(files) <= MOST_FILES, sorted(map(str, files))
