"""The values that settings may have: one function per kind, from a variable's text to the value.

Each raises ValueError with a sentence that says what is wrong and shows a right one. Secrets are
never repeated in it. Nothing is opened, resolved or connected here.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal, NamedTuple, cast
from urllib.parse import SplitResult, unquote, urlsplit
from zoneinfo import available_timezones

from visit_counter.config.host import cores, is_timezone

# Schemes that name several hosts; with a second s, as in rediss://, they are spoken to by TLS.
CLUSTER, SENTINEL = "redis+cluster", "redis+sentinel"
TLS = {"rediss+cluster": CLUSTER, "rediss+sentinel": SENTINEL}


class Address(NamedTuple):
    """Where to listen; port 0 lets the system choose a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else ""
    known = _is_ip(inner, 6) if inner else _is_ip(host, 4) or _is_host_name(host)
    if not known or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:8080 or [::]:8080")
    return Address(inner or host, int(port))


def parse_base_path(text: str) -> str:
    parts = [part for part in text.strip("/").split("/") if text.strip("/")]
    if not all(re.fullmatch(r"[A-Za-z0-9._~-]+", part) and part.strip(".") for part in parts):
        raise ValueError(f"{text!r} is not the path of a URL, such as /thongke")
    return "".join(f"/{part}" for part in parts)


class ManyHosts(NamedTuple):
    """The URL of a cluster or of sentinels in its parts."""

    kind: str
    """CLUSTER or SENTINEL."""
    tls: bool
    hosts: tuple[Address, ...]
    username: str | None
    password: str | None
    name: str
    """Of the primary that sentinels watch."""
    database: int


def parse_redis_url(text: str) -> str:
    """Checked, not changed. No message repeats the URL: it may hold a password."""
    scheme = text.partition("://")[0]
    if parse_many_hosts(text) is not None:
        return text
    if scheme not in ("redis", "rediss", "unix"):
        raise ValueError(
            "the URL must begin with redis://, rediss://, unix://, redis+cluster://, "
            "rediss+cluster://, redis+sentinel:// or rediss+sentinel://"
        )
    url = _split(text)
    if scheme == "unix" and len(url.path) < 2:
        raise ValueError("the URL names no socket, such as unix:///run/valkey/valkey.sock")
    if scheme != "unix" and not url.hostname:
        raise ValueError("the URL names no host, such as redis://127.0.0.1:6379/0")
    if scheme != "unix" and not re.fullmatch(r"(/[0-9]*)?", url.path):
        raise ValueError("behind the host stands the number of a database, such as /0")
    return text


def parse_many_hosts(text: str) -> ManyHosts | None:
    """None for the URL of one server."""
    scheme, _, rest = text.partition("://")
    kind = TLS.get(scheme, scheme)
    if kind not in (CLUSTER, SENTINEL):
        return None
    where, _, path = rest.partition("/")
    user, _, hosts = where.rpartition("@")
    username, _, password = user.partition(":")
    name, _, database = path.partition("/")
    if kind == SENTINEL and not re.fullmatch(r"[A-Za-z0-9._-]+(/[0-9]+)?", path):
        raise ValueError(
            "behind the sentinels stands the name of the primary they watch, such as "
            "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/counter"
        )
    if kind == CLUSTER and path:
        raise ValueError(
            "a cluster has no databases: end the URL behind its hosts, and write a / in a password "
            "as %2F"
        )
    return ManyHosts(
        kind,
        scheme in TLS,
        tuple(_host(each, 26379 if kind == SENTINEL else 6379) for each in hosts.split(",")),
        unquote(username) or None,
        unquote(password) or None,
        name,
        int(database or 0),
    )


def _host(text: str, port: int) -> Address:
    try:
        address = parse_address(text if re.search(r":[0-9]+$", text) else f"{text}:{port}")
    except ValueError:
        address = Address("", 0)
    if not address.port:
        raise ValueError(
            "the URL names its hosts as host:port, with commas between them and no spaces, such as "
            "10.0.0.1:6379,10.0.0.2:6379; in a password write # / ? @ % as %23 %2F %3F %40 %25"
        )
    return address


def parse_namespace(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", text):
        raise ValueError(f"{text!r} is not a letter a-z and up to 30 of a-z, 0-9 and _")
    return text


def parse_path(text: str) -> Path:
    return Path(text).expanduser()


def parse_fsync(text: str) -> Literal["always", "everysec"]:
    return cast(Literal["always", "everysec"], _one_of(text, "always", "everysec"))


def parse_log_format(text: str) -> Literal["console", "json"]:
    return cast(Literal["console", "json"], _one_of(text, "console", "json"))


def parse_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]", text):
        raise ValueError(f"{text!r} is not a number from 0 to 9")
    return int(text)


def parse_workers(text: str) -> int:
    if text.lower() == "auto":
        return cores()
    if not re.fullmatch(r"[1-9][0-9]?", text):
        raise ValueError(f"{text!r} is neither a number from 1 to 99 nor auto")
    return int(text)


def parse_switch(text: str) -> bool:
    word = _one_of(text, "true", "false", "yes", "no", "on", "off", "1", "0")
    return word in ("true", "yes", "on", "1")


def parse_token(text: str) -> str:
    if not re.fullmatch(r"[!-~]{32,}", text):
        raise ValueError("the token needs 32 or more characters, ASCII without spaces")
    return text


def parse_networks(text: str) -> tuple[str, ...]:
    return tuple(_network(part) for part in text.replace(",", " ").split())


def parse_timezone(text: str) -> str:
    if is_timezone(text):
        return text
    names = {name.lower(): name for name in available_timezones()}
    near = get_close_matches(text.lower(), names, n=1)
    hint = f"; did you mean {names[near[0]]}?" if near else ", such as Asia/Ho_Chi_Minh"
    raise ValueError(f"{text!r} is no IANA time zone{hint}")


def _is_ip(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version
    except ValueError:
        return False


def _is_host_name(text: str) -> bool:
    return re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,252}", text) is not None


def _split(url: str) -> SplitResult:
    """urlsplit, whose own errors would repeat a part of the password."""
    try:
        parts = urlsplit(url)
        if parts.port != 0 and not parts.fragment:
            return parts
    except ValueError:
        pass
    raise ValueError("the URL cannot be read; in a password write # / ? @ % as %23 %2F %3F %40 %25")


def _one_of(text: str, *allowed: str) -> str:
    if text.lower() not in allowed:
        raise ValueError(f"{text!r} is not one of {', '.join(allowed)}")
    return text.lower()


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f"{error}; write a network such as 10.0.0.0/8 or fd00::/8") from None
