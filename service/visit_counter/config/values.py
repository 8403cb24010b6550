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
from zoneinfo import available_timezones

from visit_counter.config.host import cores, is_timezone

WIDEST = {4: 8, 6: 16}
"""The shortest prefixes that networks of proxies have, by versions of IP."""


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


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Several, with commas between them."""
    found = tuple(parse_address(part.strip()) for part in text.split(","))
    for n, each in enumerate(found):
        for one in found[:n]:
            both = {_host_alone(one.host), _host_alone(each.host)} == {"0.0.0.0", "::"}
            if same_place(one, each) and not both:  # [::] is then for IPv6 alone
                raise ValueError(f"{each} is the same place as {one}: name it once")
    return found


def same_place(one: Address, other: Address) -> bool:
    """Whether two programs could not listen on both at once, as far as names tell. [::] takes IPv4
    too. Port 0 is a free one."""
    if one.port != other.port or not one.port:
        return False
    hosts = {_host_alone(one.host), _host_alone(other.host)}
    if len(hosts) == 1 or "::" in hosts:
        return True
    if "0.0.0.0" in hosts:
        return not any(":" in each for each in hosts)
    return "localhost" in hosts and not hosts.isdisjoint(("127.0.0.1", "::1"))


def _host_alone(host: str) -> str:
    """In one spelling; an IPv4 address that is written as one of IPv6 is the IPv4 address."""
    try:
        found = ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    return str(getattr(found, "ipv4_mapped", None) or found)


def parse_base_path(text: str) -> str:
    parts = [part for part in text.strip("/").split("/") if text.strip("/")]
    if not all(re.fullmatch(r"[A-Za-z0-9._~-]+", part) and part.strip(".") for part in parts):
        raise ValueError(f"{text!r} is not the path of a URL, such as /thongke")
    return "".join(f"/{part}" for part in parts)


def parse_namespace(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", text):
        raise ValueError(f"{text!r} is not a letter a-z and up to 30 of a-z, 0-9 and _")
    return text


def parse_path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no HOME, and no such user; containers often have neither
        raise ValueError(
            f"{text!r} begins with a home directory, and there is none here: write the whole path"
        ) from None


def parse_fsync(text: str) -> Literal["always", "everysec"]:
    return cast(Literal["always", "everysec"], _one_of(text, "always", "everysec"))


def parse_log_format(text: str) -> Literal["console", "json"]:
    return cast(Literal["console", "json"], _one_of(text, "console", "json"))


def parse_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]", text):
        raise ValueError(f"{text!r} is not a number from 0 to 9")
    return int(text)


def parse_seconds(text: str) -> float:
    """From a tenth of a second to a day."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9])?", text) or not 0.1 <= float(text) <= 86_400:
        raise ValueError(f"{text!r} is not a number of seconds from 0.1 to 86400, such as 75")
    return float(text)


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


def trusts_all(networks: tuple[str, ...]) -> str:
    """A warning where trusted networks hold so much of the internet that they are not proxies'."""
    wide = [n for n in map(ip_network, networks) if n.prefixlen < WIDEST[n.version]]
    wide = [n for n in wide if str(n) not in ("fc00::/7", "fd00::/8", "fe80::/10")]  # all inside
    if not wide:
        return ""
    return (
        f"VISIT_COUNTER_TRUSTED_PROXIES trusts {', '.join(map(str, wide))}: whoever is in there "
        "and sends X-Forwarded-For chooses an address with each hit, and no limit holds; name the "
        "networks of your proxies"
    )


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


def _one_of(text: str, *allowed: str) -> str:
    if text.lower() not in allowed:
        raise ValueError(f"{text!r} is not one of {', '.join(allowed)}")
    return text.lower()


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f"{error}; write a network such as 10.0.0.0/8 or fd00::/8") from None
