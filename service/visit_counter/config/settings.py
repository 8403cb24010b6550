"""The settings: environment variables `VISIT_COUNTER_*`, read once at start into frozen `Settings`.

A field says its variable, default, meaning and secrecy once; the README's table and what the
command `config` prints are made from that. A secret may also be given as the path of a file, in the
variable with `_FILE` behind its name. Whatever is wrong is reported together, one line each.
Settings are values: nothing is opened, bound or connected here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, cast

from visit_counter.config.host import host_timezone
from visit_counter.config.secret_files import secret_in
from visit_counter.config.store_url import parse_redis_url
from visit_counter.config.values import (
    Address,
    parse_address,
    parse_addresses,
    parse_base_path,
    parse_fsync,
    parse_log_format,
    parse_namespace,
    parse_networks,
    parse_number,
    parse_path,
    parse_seconds,
    parse_switch,
    parse_timezone,
    parse_token,
    parse_workers,
    same_place,
    trusts_all,
)
from visit_counter.errors import SettingsError

PREFIX = "VISIT_COUNTER_"

# What Kubernetes puts into the environment of every container for a Service called visit-counter,
# or visit-counter-valkey (kubernetes.io, "Connecting Applications with Services").
SERVICE_LINK = re.compile(
    r"([A-Z0-9_]+_)?"
    r"(SERVICE_HOST=.*|SERVICE_PORT(_[A-Z0-9_]+)?=.*"
    r"|PORT=(tcp|udp|sctp)://.*|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?=.*)"
)

# Words of other programs that no likeness of letters leads to ours.
OTHER_WORDS = {"ADDRESS": "LISTEN", "BIND": "LISTEN", "HOST": "LISTEN", "PORT": "LISTEN"}

T = TypeVar("T")


class About(NamedTuple):
    """What a field says beside its value; `default` as Markdown."""

    env: str
    parse: Callable[[str], object]
    default: str
    doc: str
    secret: bool


def setting(
    env: str,
    parse: Callable[[str], T],
    default: str,
    doc: str,
    unset: str = "",
    secret: bool = False,
) -> T:
    """A field read from `PREFIX + env`; `unset` says in words what an unset variable means."""
    about = About(PREFIX + env, parse, unset or f"`{default}`", doc, secret)
    value = parse(default) if default else None
    return cast(T, field(default=value, metadata={"about": about}, repr=not secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator can set."""

    listen: tuple[Address, ...] = setting(
        "LISTEN",
        parse_addresses,
        "127.0.0.1:8080",
        "Address and port, or several with commas between them; port 0 takes a free one."
        " `[::]:8080` takes IPv4 too.",
    )
    ops_listen: Address | None = setting(
        "OPS_LISTEN",
        parse_address,
        "",
        "Moves `/api` and `/metrics` to an address and port of their own.",
        unset="with the rest",
    )
    base_path: str = setting(
        "BASE_PATH",
        parse_base_path,
        "/",
        "The path below which every URL stands, such as `/thongke`.",
    )
    workers: int = setting(
        "WORKERS",
        parse_workers,
        "1",
        "How many processes count, each on a core of its own; `auto`: one for each core.",
    )
    redis_url: str | None = setting(
        "REDIS_URL",
        parse_redis_url,
        "",
        "The Valkey or Redis that counts: `redis://`, `rediss://`, `unix://`,"
        " `redis+cluster://host:port,…` or `redis+sentinel://host:port,…/name`; the last two also"
        " by TLS, as `rediss+cluster://` and `rediss+sentinel://`. Certificates, and a user of the"
        " sentinels, are [parameters](docs/how-to/stores.md).",
        unset="an embedded Valkey",
        secret=True,
    )
    namespace: str = setting(
        "NAMESPACE", parse_namespace, "vc", "The first part of every key's name in the store."
    )
    data_dir: Path = setting(
        "DATA_DIR",
        parse_path,
        "./data",
        "The directory of the embedded Valkey's data, the spool and the first admin token.",
    )
    backup_dir: Path | None = setting(
        "BACKUP_DIR",
        parse_path,
        "",
        "The directory of the copy that is made before an upgrade changes the store's data.",
        unset="the data directory",
    )
    embedded_fsync: Literal["always", "everysec"] = setting(
        "EMBEDDED_FSYNC",
        parse_fsync,
        "always",
        "When the embedded Valkey syncs to disk: `always` loses nothing, `everysec` up to 2 s at a"
        " power loss.",
    )
    allow_unsafe_store: bool = setting(
        "ALLOW_UNSAFE_STORE",
        parse_switch,
        "false",
        "Start even on a store that may lose or evict counts.",
    )
    min_replicas: int = setting(
        "MIN_REPLICAS",
        parse_number,
        "0",
        "How many replicas must have a hit before it is answered 200: on their disk where servers"
        " sync every write (`appendfsync always`) and know `WAITAOF`, else in memory.",
    )
    admin_token: str | None = setting(
        "ADMIN_TOKEN",
        parse_token,
        "",
        "The bearer token of the admin API, 32 or more characters.",
        unset="made at the first start",
        secret=True,
    )
    trusted_proxies: tuple[str, ...] = setting(
        "TRUSTED_PROXIES",
        parse_networks,
        "127.0.0.0/8,::1/128",
        "Networks (CIDR) of the proxies whose `X-Forwarded-For` is believed,"
        " [a CDN's too](docs/how-to/proxies.md).",
    )
    keepalive: float = setting(
        "KEEPALIVE",
        parse_seconds,
        "75",
        "How many seconds an idle connection is kept for its next request. Must be longer than a"
        " proxy or load balancer in front keeps one, else hits meet a connection that just closes.",
    )
    timezone: str = setting(
        "TIMEZONE",
        parse_timezone,
        "UTC",
        "The IANA time zone of a new site's days, such as `Asia/Ho_Chi_Minh`.",
        unset="the host's, else `UTC`",
    )
    log_format: Literal["console", "json"] = setting(
        "LOG_FORMAT",
        parse_log_format,
        "json",
        "`console` for people, `json` for machines.",
        unset="`console` on a terminal, else `json`",
    )
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], *, tty: bool | None = None, root: Path = Path("/")
    ) -> Settings:
        """Read and check all variables; `tty` and `root` stand for this terminal and host."""
        wrong, warnings = _unknown(environ), list[str]()
        values: dict[str, object] = {}
        for name, about in _abouts():
            try:
                if text := _text(environ, about, warnings):
                    values[name] = about.parse(text)
            except ValueError as error:
                wrong.append(f"{about.env}: {error}")
        wrong += _clashes(values)
        if wrong:
            raise SettingsError("\n".join(wrong))
        if wide := trusts_all(cast(tuple[str, ...], values.get("trusted_proxies", ()))):
            warnings.append(wide)
        if "timezone" not in values:
            values["timezone"] = _host_zone(environ, root, warnings)
        if "log_format" not in values and (sys.stderr.isatty() if tty is None else tty):
            values["log_format"] = "console"
        return cls(**values, warnings=tuple(warnings))  # type: ignore[arg-type] # parsed above

    @staticmethod
    def table() -> str:
        """The settings as a Markdown table."""
        rows = ["| variable | default | meaning |", "|---|---|---|"]
        for _, about in _abouts():
            name = f"`{about.env}`" + (" or `…_FILE`" if about.secret else "")
            rows.append(f"| {name} | {about.default} | {about.doc} |")
        return "\n".join(rows)

    def shown(self) -> dict[str, str]:
        """Variable -> value as text, for people's eyes: of a secret only whether it is set."""
        return {about.env: _shown(getattr(self, name), about) for name, about in _abouts()}


def _abouts() -> Iterator[tuple[str, About]]:
    for each in fields(Settings):
        if "about" in each.metadata:
            yield each.name, each.metadata["about"]


def _clashes(values: Mapping[str, object]) -> list[str]:
    """Whether both addresses are one, which at the start would look like another program's."""
    defaults = {each.name: each.default for each in fields(Settings)}
    listen = cast(tuple[Address, ...], values.get("listen", defaults["listen"]))
    ops = cast(Address | None, values.get("ops_listen"))
    return [
        f"{PREFIX}OPS_LISTEN: {ops} is the same place as {each} of {PREFIX}LISTEN: set another"
        " port, or leave it out"
        for each in listen
        if ops and same_place(each, ops)
    ][:1]


def _unknown(environ: Mapping[str, str]) -> list[str]:
    known = [about.env for _, about in _abouts()]
    known += [f"{about.env}_FILE" for _, about in _abouts() if about.secret]
    return [
        f"{name}: there is no such setting; did you mean {_nearest(name, known)}?"
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and name not in known
        and not SERVICE_LINK.fullmatch(f"{name.removeprefix(PREFIX)}={environ[name]}")
    ]


def _nearest(name: str, known: list[str]) -> str:
    """Compared without the prefix, which would make all names look alike."""
    word = name.removeprefix(PREFIX).upper()
    ends = [each.removeprefix(PREFIX) for each in known]
    return PREFIX + get_close_matches(OTHER_WORDS.get(word, word), ends, n=1, cutoff=0)[0]


def _text(environ: Mapping[str, str], about: About, warnings: list[str]) -> str:
    text = environ.get(about.env, "").strip()
    path = environ.get(f"{about.env}_FILE", "").strip() if about.secret else ""
    if text and path:
        raise ValueError(f"{about.env}_FILE is set too; keep one of the two")
    return secret_in(Path(path), warnings) if path else text


def _host_zone(environ: Mapping[str, str], root: Path, warnings: list[str]) -> str:
    zone = host_timezone(environ, root)
    if zone is None:
        warnings.append(f"the host names no time zone, so days are UTC days: set {PREFIX}TIMEZONE")
    return zone or "UTC"


def _shown(value: object, about: About) -> str:
    if about.secret:
        return "(secret, set)" if value else "(unset)"
    if value is None:
        return "(unset)"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if type(value) is tuple else str(value)
