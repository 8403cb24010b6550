"""What the address of a page says of whether its views can count, for the checker.

Pages of the site itself need their origin in its list. Others have a host that the owner never gave
them: a translator or an AMP cache shows a copy, and an app shows its own files. Of all only the
address is looked at, and no page is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from visit_counter.characters import UNFIT
from visit_counter.rules.origins import APP_SCHEMES, Origins, origin_of

State = Literal["ok", "fault", "info"]

LOCAL = re.compile(r"localhost|127\..*")  # as the script has it
# Who shows copies of pages under hosts of their own, by what these end in.
COPIERS = MappingProxyType(
    {
        ".translate.goog": "Google Translate",
        ".translated.turbopages.org": "Yandex Translate",
        ".turbopages.org": "Yandex Turbo",
        "web.archive.org": "Internet Archive",
        "webcache.googleusercontent.com": "Google",
    }
)
AMP_CACHES = (".cdn.ampproject.org", ".bing-amp.com")
# Of a person: a mail address or handle, a UUID, a long hexadecimal number, a long number.
PERSONAL = re.compile(
    r"@"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?<![0-9a-z])(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{16,}(?![0-9a-z])"
    r"|(?<![0-9])[0-9]{9,}(?![0-9])",
    re.IGNORECASE,
)
MAX_SHOWN = 60  # characters of a path that is shown as an example

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#\\@\s]*)", re.IGNORECASE)


class Finding(NamedTuple):
    """One thing that was looked at: a sentence of `texts`, and its values."""

    name: str
    state: State
    values: Mapping[str, str | int] = MappingProxyType({})
    ok: bool | None = None
    """Where it is not what the state says: older pages of ours know no `info`."""


class PageAddress(NamedTuple):
    """An address that somebody asks about: of a page by http, or of an app's."""

    scheme: str
    host: str
    origin: str
    """As browsers send it."""

    @classmethod
    def of(cls, text: str) -> PageAddress | None:
        """None for what is no page's address."""
        if origin := origin_of(text, typed=True):
            return cls(origin.partition(":")[0], _host(origin), origin)
        found = _SCHEME.match(text)
        if found is None or found[1].lower() in ("http", "https"):
            return None
        scheme = found[1].lower()
        is_named = scheme in APP_SCHEMES and found[2] != ""
        return cls(scheme, found[2], f"{scheme}://{found[2]}" if is_named else "null")

    def findings(self, origins: Origins, host: str, *, is_secure: bool) -> list[Finding]:
        """Whether its views can count where the service is asked as `host`, by https or not."""
        if self.scheme not in ("http", "https"):
            return self._of_app(origins)
        found = []
        if self.scheme == "https" and not is_secure:
            found.append(Finding("mixed", "fault"))
        if LOCAL.fullmatch(self.host) and self.host != _host(origin_of(f"http://{host}")):
            found.append(Finding("localhost", "fault", {"host": self.host}))
        return [*found, *self._of_copy(), self._listed(origins.allow(self.origin, host))]

    def _of_copy(self) -> list[Finding]:
        if self.host.endswith(AMP_CACHES):
            return [Finding("amp", "info", {"host": self.host, "origin": self.origin})]
        for end, who in COPIERS.items():
            if self.host.endswith(end):
                return [Finding("copy", "info", {"who": who, "host": self.host})]
        return []

    def _of_app(self, origins: Origins) -> list[Finding]:
        if self.origin == "null":
            taken = {"scheme": self.scheme}
            return [Finding("opaque_open" if origins.open else "opaque", "fault", taken)]
        found = self._listed(origins.allow(self.origin, ""))
        if LOCAL.fullmatch(self.host):
            return [Finding("app_localhost", "fault", {"scheme": self.scheme}), found]
        return [found]

    def _listed(self, may_count: bool) -> Finding:
        told = {"origin": self.origin}
        return Finding("allowed", "ok", told) if may_count else Finding("refused", "fault", told)


def personal(paths: Iterable[str]) -> list[Finding]:
    """A warning of paths that look as if they told of a person."""
    found = [path for path in paths if PERSONAL.search(path)]
    if not found:
        return []
    example = UNFIT.sub("", found[0])
    if len(example) > MAX_SHOWN:
        example = example[:MAX_SHOWN] + "…"
    return [Finding("personal", "fault", {"number": len(found), "path": example})]


def _host(origin: str | None) -> str:
    return urlsplit(origin or "").hostname or ""
