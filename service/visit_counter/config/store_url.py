"""The URL of the store: the servers that it names, and what they are spoken to with.

The URL of one server goes to redis-py as it is, those of clusters and sentinels are taken apart
here, since redis-py knows none. No message repeats what may be a password. No file is opened here.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from visit_counter.config.values import Address, parse_address

# Schemes that name several hosts; with a second s, as in rediss://, they are spoken to by TLS.
CLUSTER, SENTINEL = "redis+cluster", "redis+sentinel"
TLS = {"rediss+cluster": CLUSTER, "rediss+sentinel": SENTINEL}

# Parameters after the `?`, and the values that each may have; None: any text.
Values = dict[str, tuple[str, ...] | None]
OF_TLS: Values = {
    "ssl_certfile": None,
    "ssl_keyfile": None,
    "ssl_password": None,
    "ssl_ca_certs": None,
    "ssl_ca_path": None,
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
}
OF_SENTINELS: Values = {"sentinel_username": None, "sentinel_password": None}
OF_ONE: Values = {"db": None, "username": None, "password": None, "client_name": None}

Options = dict[str, str]


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
    options: Options
    """Certificates and how they are checked, for every server and sentinel."""
    sentinel_username: str | None
    sentinel_password: str | None
    """Of the sentinels, where those are not the servers'."""


def parse_redis_url(text: str) -> str:
    """Checked, and each plus of one server's parameters written so that redis-py takes it for one.
    No message repeats the URL: it may hold a password."""
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
        raise ValueError("after the host comes the number of a database, such as /0")
    _options(url.query, OF_ONE, tls=scheme == "rediss")
    front, mark, query = text.partition("?")
    return front + mark + _plain(query)


def tls_options(url: str) -> Options:
    """The certificates that a URL names, and how they are checked."""
    many = parse_many_hosts(url)
    if many is not None:
        return many.options
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name in OF_TLS}


def has_database(url: str) -> bool:
    """Whether a URL names another database than 0."""
    many = parse_many_hosts(url)
    if many is not None:
        return many.database > 0
    parts = urlsplit(url)
    named = dict(parse_qsl(parts.query)).get("db") or (parts.scheme != "unix" and parts.path[1:])
    return bool(named) and named != "0"


def parse_many_hosts(text: str) -> ManyHosts | None:
    """None for the URL of one server."""
    scheme, _, rest = text.partition("://")
    kind = TLS.get(scheme, scheme)
    if kind not in (CLUSTER, SENTINEL):
        return None
    rest, _, query = rest.partition("?")
    where, _, path = rest.partition("/")
    user, _, hosts = where.rpartition("@")
    username, _, password = user.partition(":")
    name, _, database = path.partition("/")
    if kind == SENTINEL and not re.fullmatch(r"[A-Za-z0-9._-]+(/[0-9]+)?", path):
        raise ValueError(
            "after the sentinels comes the name of the primary they watch, such as "
            "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/counter"
        )
    if kind == CLUSTER and path:
        raise ValueError(
            "a cluster has no databases: end the URL after its hosts, and write a / in a password "
            "as %2F"
        )
    found = tuple(_host(each, 26379 if kind == SENTINEL else 6379) for each in hosts.split(","))
    options = _options(query, OF_SENTINELS if kind == SENTINEL else {}, tls=scheme in TLS)
    return ManyHosts(
        kind=kind,
        tls=scheme in TLS,
        hosts=found,
        username=unquote(username) or None,
        password=unquote(password) or None,
        name=name,
        database=int(database or 0),
        options={name: value for name, value in options.items() if name in OF_TLS},
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


def _options(query: str, more: Values, *, tls: bool) -> Options:
    """The parameters of a URL; raises ValueError for one that it cannot have."""
    pairs = parse_qsl(_plain(query), keep_blank_values=True)
    options, known = dict(pairs), {**OF_TLS, **more}
    for name, value in options.items():
        if name not in known:
            # With an @ in it this may be the rest of a password.
            raise ValueError(_unknown("" if "@" in query else name, known))
        if name in OF_TLS and not tls:
            raise ValueError(f"{name} is for TLS: the URL must begin with rediss")
        allowed = known[name]
        if not value or "\0" in value or (allowed and value not in allowed):
            raise ValueError(f"{name} must be {' or '.join(allowed or ('given a value',))}")
        if name == "db" and not re.fullmatch("[0-9]+", value):
            raise ValueError("db must be the number of a database")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("ssl_keyfile is the key of a certificate: name that by ssl_certfile")
    return options


def _plain(query: str) -> str:
    """With each plus as a plus: browsers' forms write a space so, nobody a URL by hand."""
    return query.replace("+", "%2B")


def _unknown(name: str, known: Values) -> str:
    if name in OF_SENTINELS:
        return f"{name} is for redis+sentinel:// and rediss+sentinel://"
    if name == "db":
        return "a cluster has no databases; with sentinels it follows the primary's name: /name/1"
    shown = name if re.fullmatch(r"[a-z_]{1,40}", name) else "that"
    return f"the URL has no parameter {shown}: it may have {', '.join(known)}"


def _host(text: str, port: int) -> Address:
    try:
        address = parse_address(text if re.search(r":[0-9]+\Z", text) else f"{text}:{port}")
    except ValueError:
        address = Address("", 0)
    if not address.port:
        raise ValueError(
            "the URL names its hosts as host:port, with commas between them and no spaces, such as "
            "10.0.0.1:6379,10.0.0.2:6379; in a password write # / ? @ % as %23 %2F %3F %40 %25"
        )
    return address


def _split(url: str) -> SplitResult:
    """urlsplit, whose own errors would repeat a part of the password."""
    try:
        parts = urlsplit(url)
        if parts.port != 0 and not parts.fragment:
            return parts
    except ValueError:
        pass
    raise ValueError("the URL cannot be read; in a password write # / ? @ % as %23 %2F %3F %40 %25")
