"""The path of a page, as it is counted: one for each page, however its address is written.

An address comes from a page's script, from a Referer, or from an author or a generator of sites who
wrote it into a page. What every site has cut off goes (fragment, session ids), then what the site's
settings say (`path_style`, `query_keys`). Values only: whose host an address may name is asked of
the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import product
from typing import Final

MAX_PATH_BYTES: Final = 512
MAX_VALUE_BYTES: Final = 128
MAX_KEYS: Final = 8

_ESCAPED: Final = {
    digits.encode(): bytes.fromhex(digits)
    for digits in map("".join, product("0123456789abcdefABCDEF", repeat=2))
}
_ESCAPE: Final = re.compile(b"%([0-9a-fA-F]{2})")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# With a scheme, or a host without one; what is neither is a path of the same host.
_ELSEWHERE = re.compile(r"(?:([a-z][a-z0-9+.-]*):)?(?://([^/?\\]*))?", re.IGNORECASE)
# Session ids that servers write into paths for visitors without cookies: of servlets, PHP and
# ColdFusion, of ASP.NET (session, sign-in, features), and of SAP.
_SESSION = re.compile(
    r"[;&](?:[a-z_]{0,20}sess[a-z_]{0,20}|[a-z_]{0,20}sid|cfid|cftoken|zenid)=[^/;&]*"
    r"|/\((?:[a-z]\([^/()]*\))+\)(?=/|\Z)"
    r"|(?<=/sap)\([^/()]*\)",
    re.IGNORECASE,
)
_INDEX = re.compile(
    r"/(?:index|default)\.(?:s?html?|xhtml|php\d?|aspx?|jspx?|cfm|cgi|pl)\Z", re.IGNORECASE
)
_FILE = re.compile(r"[^/]\.[a-z][a-z0-9]{0,5}\Z", re.IGNORECASE)
_KEY = re.compile(r"[\w.:[\]-]{1,32}")
# What would make a value end, or another one of it, where the path is read again.
_ESCAPES = str.maketrans({char: f"%{ord(char):02X}" for char in "%&#+"})


IsOwn = Callable[[str], bool | None]
"""Whether an origin is the site's; None for one that a site which is open to all does not know."""


class PathRules:
    """What a site's settings say of its pages' paths."""

    def __init__(self, *, directory: bool, keys: tuple[str, ...]) -> None:
        self.directory = directory
        """`/a`, `/a/` and `/a/index.html` are `/a/`."""
        self.keys = keys
        """The query parameters that belong to a path, in the order in which it has them."""

    def styled(self, path: str) -> str:
        """A path that is clean, and that came without a query."""
        return _cut(directory(path)) if self.directory else path


def keys_of(names: Iterable[str]) -> tuple[str, ...]:
    """Raises ValueError for what names no query parameters."""
    keys = tuple(names)
    if len(keys) > MAX_KEYS or len({*keys}) < len(keys):
        raise ValueError(f"name at most {MAX_KEYS} parameters, each once")
    for key in keys:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not the name of a query parameter, such as 'p'")
    return keys


def clean_path(path: str) -> str:
    """The path as any site counts it; raises ValueError for what is no path.

    Query and fragment go, escapes are decoded, session ids are cut out, control characters are
    refused, more than 512 bytes are cut at a character.
    """
    return _cut(_cleaned(path.partition("#")[0].partition("?")[0]))


def path_of(address: str, page: str, rules: PathRules | None, is_own: IsOwn) -> str:
    """The path as a site of these rules counts it; raises ValueError.

    `address` may be a path, relative to the path `page`, or have a host: then `is_own` says of its
    origin, by one of the two schemes, whether it is the site's.
    """
    address = address.strip(" ")
    if not address:
        raise ValueError("it names no page")
    path, _, query = _absolute(address.partition("#")[0], page, is_own).partition("?")
    path = _cleaned(path)
    if rules is None:
        return _cut(path)
    if rules.directory:
        path = directory(path)
    kept = _kept_query(query, rules.keys) if query and rules.keys else ""
    return _cut(f"{path}?{kept}" if kept else path)


def directory(path: str) -> str:
    """With a slash at its end, unless a file of another name than index is meant."""
    path = _INDEX.sub("/", path)
    return path if path.endswith("/") or _FILE.search(path) else path + "/"


def _absolute(address: str, page: str, is_own: IsOwn) -> str:
    """The path and query of an address."""
    scheme, host = _ELSEWHERE.match(address).groups()  # type: ignore[union-attr] # matches ""
    if scheme and (scheme.lower() not in ("http", "https") or host is None):
        raise ValueError(f"an address that begins with {scheme[:20]}: is no page's")
    if host is not None:
        return _of_host(address, host, bool(scheme), is_own)
    page = page.partition("?")[0]
    if address[:1] in ("", "?"):
        return page + address
    return address if address.startswith("/") else page[: page.rfind("/") + 1] + address


def _of_host(address: str, host: str, has_scheme: bool, is_own: IsOwn) -> str:
    said = [is_own(f"{scheme}://{host}") for scheme in ("https", "http")]
    if True not in said:
        if None not in said:
            raise ValueError(f"{host[:100]!r} is none of the site's origins")
        if not has_scheme:  # a page with an odd address
            return address
    path = address[address.index("//") + 2 + len(host) :]
    return path if path.startswith("/") else "/" + path


def _cleaned(path: str) -> str:
    path = _decoded(path)
    if not path.startswith("/"):
        raise ValueError('a path begins with "/"')
    if CONTROL.search(path):
        raise ValueError("a path has no control characters")
    if ";" in path or "(" in path or "&" in path:
        path = _SESSION.sub("", path) or "/"
    return _without_dots(path) if "/." in path else path


def _without_dots(path: str) -> str:
    """Without `.` and `..`, as browsers resolve them."""
    steps: list[str] = []
    *before, last = path[1:].split("/")
    for step in before:
        if step == "..":
            del steps[-1:]
        elif step != ".":
            steps.append(step)
    if last == "..":
        del steps[-1:]
    return "/" + "".join(f"{step}/" for step in steps) + ("" if last in (".", "..") else last)


def _kept_query(query: str, keys: tuple[str, ...]) -> str:
    """The named parameters only, whose values are not empty, in the order of their names."""
    found: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        found.setdefault(_value(name), value)
    kept = [(key, _value(found[key])) for key in keys if found.get(key)]
    if any(CONTROL.search(value) for _, value in kept):
        raise ValueError("a query has no control characters")
    return "&".join(
        f"{key}={_cut(value, MAX_VALUE_BYTES).translate(_ESCAPES)}" for key, value in kept
    )


def _decoded(path: str) -> str:
    """Without percent escapes, if they stand for text; else as it was written."""
    try:
        decoded = _unescaped(path, "strict")
    except UnicodeDecodeError:
        return path
    return path if CONTROL.search(decoded) else decoded


def _value(text: str) -> str:
    """Of a query."""
    return _unescaped(text.replace("+", " "), "replace")


def _unescaped(text: str, errors: str) -> str:
    """By a table, since urllib's unquote takes 2 ms for 8,000 signs that begin no escape."""
    if "%" not in text:
        return text
    return _ESCAPE.sub(lambda found: _ESCAPED[found[1]], text.encode()).decode(errors=errors)


def _cut(text: str, most: int = MAX_PATH_BYTES) -> str:
    """At most so many bytes, cut at a character."""
    encoded = text.encode()
    return text if len(encoded) <= most else encoded[:most].decode(errors="ignore")
