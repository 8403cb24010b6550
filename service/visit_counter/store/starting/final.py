"""Errors of a start that no waiting ends, each with what is wrong and how to correct it.

All else may pass, and is waited for: a name that is not known yet, since containers get theirs when
they are up; a refused connection; a sentinel that does not know its primary yet; a server that
loads its data, is a replica until it is promoted, or lacks memory, disk or replicas.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from redis import exceptions

from visit_counter.errors import StoreUnavailable
from visit_counter.store.replies import REFUSING, REFUSING_WORDS

URL = "VISIT_COUNTER_REDIS_URL"
DEPTH = 10  # of errors behind one another

_BY_WORDS = {
    "cluster support disabled": f"it is one server and no cluster: write redis:// in {URL}",
    "unknown command 'SENTINEL'": "it is no sentinel: name the sentinels, whose port is 26379 "
    f"mostly, or write redis:// in {URL}",
    "unknown command 'CLUSTER'": "it is a sentinel: write redis+sentinel://host:26379/name, with "
    f"the name of the primary, in {URL}",
    "unknown command 'TIME'": "it is a sentinel: write redis+sentinel://host:26379/name, with the "
    f"name of the primary, in {URL}",
    "unknown command `HELLO`": "it is too old: Valkey 7.2 or Redis 7.0 or newer is needed",
    "unknown command 'HELLO'": "it is too old: Valkey 7.2 or Redis 7.0 or newer is needed",
    "protected mode": "it is in protected mode and takes connections from its own host only: set "
    f"a password there (requirepass, or a user by ACL SETUSER) and in {URL}",
}


def sentence(error: BaseException, address: str, *, is_cluster: bool = False) -> str:
    """What is wrong at an address and how to correct it; "" if that may pass by itself."""
    for each in _chain(error):
        if is_cluster and isinstance(each, exceptions.MovedError):
            return ""  # slots move
        if remedy := _remedy(each):
            return f"the store at {address} refuses us ({each}): {remedy}"
    return ""


def _remedy(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, exceptions.InvalidResponse):
        return f"what answers there is neither Valkey nor Redis: correct host and port in {URL}"
    if isinstance(error, exceptions.MovedError):
        return f"it is one server of a cluster: write redis+cluster:// in {URL}"
    words = str(error)
    if isinstance(error, exceptions.RedisError):
        for found, remedy in _BY_WORDS.items():
            if found in words:
                return remedy
    if isinstance(error, exceptions.NoPermissionError):
        return f"allow it (ACL SETUSER), or correct the user, password or database in {URL}"
    if isinstance(error, exceptions.AuthenticationError) or (
        isinstance(error, exceptions.ResponseError)
        and not isinstance(error, REFUSING)
        and not words.startswith(REFUSING_WORDS)
    ):
        return f"correct the user, password or database in {URL}"
    return ""


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "its certificate is not trusted: name the file of its certificate authority by "
            f"SSL_CERT_FILE, and in {URL} a host that is in the certificate"
        )
    if "CERTIFICATE_REQUIRED" in str(error) or "HANDSHAKE_FAILURE" in str(error):
        return (
            "it asks for a client's certificate: set tls-auth-clients there to no or optional, or "
            f"name one in {URL} (rediss://host:port/0?ssl_certfile=...&ssl_keyfile=...)"
        )
    if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER_FAILURE" in str(error):
        return f"it does not speak TLS: write redis:// instead of rediss:// in {URL}"
    if "ALERT" in str(error):
        return f"it ends TLS with an alert: see its log, and correct its TLS settings or {URL}"
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
