"""Decides which pages may count for a site: by Origin, Referer and Fetch Metadata.

A beacon is a simple request, so browsers send it from any page and CORS stops nothing: the site's
list does. That keeps out other people's pages, not programs, which can write any header.
Entries: ``https://a.vn``, ``https://a.vn:8443``, ``https://*.a.vn`` (sub-domains of any depth, not
a.vn itself), ``self`` (the host that the request was sent to) and ``*`` (any page); and of the
pages in apps, ``capacitor://a.vn``.
A Host header is what a page's own name leads to: anybody may let a name of theirs lead here, and
``self`` is to be compared with hosts that `is_own_host` or one of our proxies vouches for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address

APP_SCHEMES = ("capacitor", "ionic", "tauri", "app")
"""The schemes of apps whose pages have an origin: others of theirs, and files, send ``null``."""
ANY = "*"
SELF = "self"

# Names that no stranger can have in the public DNS (RFC 6761, 6762, 8375; ICANN 2024-07-29.06).
_OWN_NETWORKS = (".localhost", ".local", ".internal", ".home.arpa", ".test")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_NO_PAGE = frozenset({"navigate", "nested-navigate", "websocket"})
# Of a name in other letters than ASCII: 300 take half a millisecond, and no site has as many.
_MOST_LETTERS = 64
_START = re.compile(r"(https?)://([^/?#\\]{1,300})(?=[/?#\\]|\Z)", re.IGNORECASE)
_ENDS = re.compile(r"[/?#\\]")
_ENTRY = re.compile(r"(https?)://(\*\.)?([^/?#\\]{1,300})/?", re.IGNORECASE)
_APP = re.compile(rf"({'|'.join(APP_SCHEMES)})://([^/?#\\@*\s]{{1,300}})/?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@]+)(?::([0-9]{0,5}))?", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


class Origins:
    """The origins that a site allows; `texts` are its entries in the form they are kept."""

    def __init__(self, texts: Iterable[str]) -> None:
        """From entries in the form that `parse` gives them."""
        self.texts = tuple(dict.fromkeys(texts))
        self.open = ANY in self.texts
        self.own = SELF in self.texts
        """Whether the Host header matters."""
        self._exact = frozenset(text for text in self.texts if "*" not in text and text != SELF)
        wild = (text.partition("://*.") for text in self.texts if "://*." in text)
        self._wild = [(f"{scheme}://", f".{domain}") for scheme, _, domain in wild]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Origins:
        """From what an owner wrote; ValueError names the bad entry and how to write it."""
        return cls([_entry(text.strip()) for text in texts])

    def allow(self, origin: str, host: str) -> bool:
        """Whether a page of *origin* may count, in a request whose Host header is *host*.

        Only ``*`` allows the origin ``null`` (sandboxed frames, files) and a missing one.
        """
        if self.open or origin in self._exact:
            return True
        normal = origin_of(origin)
        if normal is None:
            return False
        return normal in self._exact or self._in_domain(normal) or self._is_self(normal, host)

    def _in_domain(self, origin: str) -> bool:
        return any(origin.startswith(start) and origin.endswith(end) for start, end in self._wild)

    def _is_self(self, origin: str, host: str) -> bool:
        # The scheme of the request is unknown: a proxy in front may have ended TLS.
        return self.own and origin == origin_of(origin.partition("://")[0] + "://" + host)


def origin_of(url: str, *, typed: bool = False) -> str | None:
    """The origin of *url* (a Referer, an Origin) as browsers write it, None when it has none.

    They write it in ASCII. To make that of other letters takes time, and is for what a person has
    *typed*.
    """
    start = _START.match(url)
    if start is None or not (typed or start[2].isascii()):
        return None
    return _normal(start[1].lower(), start[2])


def is_host(host: str) -> bool:
    """Whether a Host header is a name or address, perhaps with a port, and nothing else."""
    return not _ENDS.search(host) and origin_of(f"http://{host}") is not None


def is_own_host(host: str) -> bool:
    """Whether a Host header can only be meant for this service: an address, a name of one label, or
    one of a private network."""
    if not is_host(host):
        return False
    name = (origin_of(f"http://{host}") or "").removeprefix("http://")
    if name.startswith("["):
        return True
    name = name.partition(":")[0].rstrip(".")
    is_address = not name.strip("0123456789.")
    return is_address or "." not in name or name.endswith(_OWN_NETWORKS)


def wrong_fetch(mode: str, dest: str, expected_dest: str) -> bool:
    """Whether Sec-Fetch-Mode and -Dest show that this was not fetched the way our snippet does.

    A beacon has the destination ``empty``, the pixel ``image``, or ``empty`` too where a service
    worker of the page fetches it on its behalf. None (an old browser) is fine.
    """
    return mode in _NO_PAGE or dest not in ("", "empty", expected_dest)


def _entry(text: str) -> str:
    if text.lower() in (ANY, SELF):
        return text.lower()
    kept = _written(text)
    if kept is None:
        raise ValueError(f"{text!r} {_problem(text)}{_remedy(text)}")
    return kept


def _written(text: str) -> str | None:
    if app := _APP.fullmatch(text):  # whose host browsers leave as it is
        return f"{app[1].lower()}://{app[2]}"
    parts = _ENTRY.fullmatch(text)
    normal = _normal(parts[1].lower(), parts[3]) if parts else None
    if parts is None or normal is None:
        return None
    return normal.replace("://", "://*.", 1) if parts[2] else normal


def _problem(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if text.lower() == "null":
        return "is the origin of any sandboxed page: only '*' allows it"
    if not separator:
        return "has no scheme"
    if scheme.lower() in APP_SCHEMES:
        return "is not the scheme and the host name of an app, as in 'capacitor://example.vn'"
    if scheme.lower() not in _DEFAULT_PORTS:
        return "does not begin with https:// or http://"
    if "@" in authority:
        return "has a user name"
    if rest != authority:
        return "is a page, and an origin has no path or query"
    if "*" in authority:
        return "has a '*' that is not the whole first label, as in 'https://*.example.vn'"
    return "is not a scheme, a host name and perhaps a port, as in 'https://example.vn'"


def _remedy(text: str) -> str:
    """The entry that was probably meant."""
    scheme, _, rest = text.rpartition("://")
    authority = re.split(r"[/?#\\]", rest.lstrip("/"), maxsplit=1)[0].rpartition("@")[2]
    known = scheme if scheme.lower() in (*_DEFAULT_PORTS, *APP_SCHEMES) else "https"
    meant = _written(f"{known}://{authority}")
    return f": write {meant!r}" if meant and text.lower() != "null" else ""


# A hit that names no page has its Referer's origin looked at up to three times, as has a picture.
# Strangers write the keys, of up to 300 characters.
@lru_cache(maxsize=1024)
def _normal(scheme: str, authority: str) -> str | None:
    """Lower case, punycode, no default port; None when *authority* is no host and port."""
    parts = _AUTHORITY.fullmatch(authority)
    host = _normal_host(parts[1]) if parts else None
    if parts is None or host is None:
        return None
    port = (parts[2] or "").lstrip("0")
    if parts[2] and not 0 < int(port or 0) <= 65_535:
        return None
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS[scheme] else "")


def _normal_host(host: str) -> str | None:
    if not host.isascii() and len(host) > _MOST_LETTERS:
        return None
    try:
        if host.startswith("["):
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        name = (host if host.isascii() else host.encode("idna").decode()).lower()
    except ValueError:
        return None
    return name if len(name) <= 254 and _NAME.fullmatch(name) else None
