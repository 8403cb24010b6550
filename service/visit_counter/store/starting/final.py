"""Errors of a start that no waiting ends, each with what is wrong and how to correct it.

All else may pass, and is waited for: a name that is not known yet, since containers get theirs when
they are up; a refused connection; a sentinel that does not know its primary yet; a server that
loads its data, is a replica until it is promoted, or lacks memory, disk or replicas.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

from redis import exceptions

from visit_counter.errors import StoreUnavailable
from visit_counter.store.checks import OVERRIDE
from visit_counter.store.replies import REFUSING, REFUSING_WORDS
from visit_counter.store.starting.denied import rules

URL = "VISIT_COUNTER_REDIS_URL"
DEPTH = 10  # of errors behind one another

HOST_ITSELF = f"lead {URL} to the server itself, a Valkey 7.2 or Redis 7.0 or newer"

_SENTINEL = (
    "it is a sentinel: write redis+sentinel://host:26379/name, with the name of the primary, "
    f"in {URL}"
)
_BY_WORDS = {
    "cluster support disabled": f"it is one server and no cluster: write redis:// in {URL}",
    "unknown command 'sentinel'": "it is not a sentinel: name the sentinels, whose port is 26379 "
    f"mostly, or write redis:// in {URL}",
    "unknown command 'cluster'": _SENTINEL,
    "unknown command 'time'": _SENTINEL,
    "unknown command `hello`": f"it is too old, or a proxy without functions: {HOST_ITSELF}",
    "unknown command 'hello'": f"it is too old, or a proxy without functions: {HOST_ITSELF}",
    "unknown command": "it is too old, a proxy (Envoy, twemproxy) that passes no functions, or has "
    f"this command renamed or taken away (rename-command): give it back, or {HOST_ITSELF}",
    "unsupported command": f"it is a proxy that does not pass this command: {HOST_ITSELF}",
    "command is not available": "it lacks this command, as some hosted stores do: use a store that "
    "has functions, a Valkey 7.2 or Redis 7.0 or newer",
    "db index is out of range": f"it has no such database: correct the number in {URL}, or write "
    "redis+cluster:// without one, if it is one server of a cluster",
    "select is not allowed in cluster mode": "it is one server of a cluster, which has no "
    f"databases: write redis+cluster:// without one in {URL}",
    "protected mode": "it is in protected mode and takes connections from its own host only: set "
    f"a password there (requirepass, or a user by ACL SETUSER) and in {URL}",
}
"""By words of an error, in lower case; the first that is found."""


class Asked(NamedTuple):
    """What is asked, as far as a sentence depends on it."""

    address: str
    namespace: str = ""
    is_cluster: bool = False
    greeting: bool = True
    """Nothing was answered before: then a refusal that is not known is one of the user."""


def sentence(error: BaseException, asked: Asked) -> str:
    """What is wrong and how to correct it; "" if that may pass by itself."""
    for each in _chain(error):
        if asked.is_cluster and isinstance(each, exceptions.MovedError):
            return ""  # slots move
        if remedy := _remedy(each, asked, of_sentinels=_is_of_sentinels(error)):
            return f"the store at {asked.address} refuses us ({each}): {remedy}"
    return ""


def _is_of_sentinels(error: BaseException) -> bool:
    return any(getattr(each, "sentinels", False) for each in _chain(error))


def _remedy(error: BaseException, asked: Asked, *, of_sentinels: bool) -> str:
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, exceptions.InvalidResponse):
        return f"what answers there is neither Valkey nor Redis: correct host and port in {URL}"
    if isinstance(error, exceptions.MovedError):
        return f"it is one server of a cluster: write redis+cluster:// in {URL}"
    if isinstance(error, exceptions.NoPermissionError):
        return _permission(str(error), asked.namespace)
    if isinstance(error, exceptions.RedisError) and (remedy := _by_words(str(error).lower())):
        return remedy
    if isinstance(error, exceptions.AuthenticationError) or (
        asked.greeting
        and isinstance(error, exceptions.ResponseError)
        and not isinstance(error, REFUSING)
        and not str(error).startswith(REFUSING_WORDS)
    ):
        return (
            _SENTINELS_USER if of_sentinels else f"correct the user, password or database in {URL}"
        )
    return ""


def _by_words(words: str) -> str:
    return next((remedy for found, remedy in _BY_WORDS.items() if found in words), "")


_SENTINELS_USER = (
    f"correct the sentinels' user and password in {URL}, which are the servers' unless it names "
    "others (redis+sentinel://host:26379/name?sentinel_username=...&sentinel_password=...)"
)


def _permission(refusal: str, namespace: str) -> str:
    """`visit-counter acl` prints all rules."""
    found = rules(refusal, namespace)
    if not found:
        return f"allow it (ACL SETUSER), or correct the user, password or database in {URL}"
    unsafe = f" (or set {OVERRIDE}=true to count unexamined)" if found == "+info" else ""
    return (
        f"allow it with the rule {found} (ACL SETUSER; `visit-counter acl` prints all that are "
        f"needed){unsafe}, or correct the user in {URL}"
    )


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and "mismatch" in str(error):
        return (
            f"its certificate is of another name: write in {URL} a host that is in the "
            "certificate, have servers of a cluster and sentinels tell such names, or add "
            "ssl_check_hostname=false"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "its certificate is not trusted: name the file of its certificate authority by "
            f"SSL_CERT_FILE or ssl_ca_certs, and in {URL} a host that is in the certificate"
        )
    if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error):
        return (
            "it asks for a client's certificate: set tls-auth-clients there to no or optional, or "
            f"name one in {URL} (at its end ?ssl_certfile=...&ssl_keyfile=...)"
        )
    if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER_FAILURE" in str(error):
        return f"it does not speak TLS: write redis:// instead of rediss:// in {URL}"
    if "ALERT" in str(error):
        return (
            "it ends TLS with an alert: see its log, and correct its TLS settings, our certificate "
            f"(ssl_certfile) or {URL}"
        )
    return ""  # a connection that was cut


def may_pass(error: BaseException) -> bool:
    """Whether a store that has answered may take hits later, as after a failover."""
    chain = [*_chain(error)]
    refused = (exceptions.AuthenticationError, exceptions.NoPermissionError)
    if any(isinstance(each, refused) for each in chain):
        return False
    lost = any(isinstance(each, (exceptions.ConnectionError, OSError)) for each in chain)
    return isinstance(error, StoreUnavailable) or lost


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it: redis-py hides the cause of a failed connection."""
    for _ in range(DEPTH):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
