"""The store's URL: what may stand behind its `?`, and that no message repeats a secret."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import parse_url

from visit_counter.config.store_url import (
    has_database,
    parse_many_hosts,
    parse_redis_url,
    tls_options,
)

CERTIFICATES = "ssl_certfile=/run/a%20b.pem&ssl_keyfile=/run/key.pem&ssl_ca_certs=/run/ca.pem"
NAMED = {
    "ssl_certfile": "/run/a b.pem",
    "ssl_keyfile": "/run/key.pem",
    "ssl_ca_certs": "/run/ca.pem",
}


@pytest.mark.parametrize(
    "url",
    ["rediss://h:1/0", "rediss+cluster://h:1,i:2", "rediss+sentinel://h:1/name", "rediss://h:1"],
)
def test_certificates_are_named_in_every_url_with_tls(url: str) -> None:
    assert parse_redis_url(f"{url}?{CERTIFICATES}") == f"{url}?{CERTIFICATES}"
    assert tls_options(f"{url}?{CERTIFICATES}") == NAMED


@pytest.mark.parametrize("url", ["rediss://h:1/0", "rediss+cluster://h:1", "unix:///run/s%20s"])
def test_a_plus_is_a_plus_in_every_url(url: str) -> None:
    """Also for redis-py, which reads the parameters of one server as a form's."""
    named = {"ssl_password" if url.startswith("rediss") else "password": "a+b c"}
    (name,) = named
    read = parse_redis_url(f"{url}?{name}=a+b%20c")

    assert read.partition("?")[0] == url
    if parse_many_hosts(url) is None:
        assert {**parse_url(read)}[name] == named[name]
    if name == "ssl_password":
        assert tls_options(read) == named


def test_sentinels_have_a_user_of_their_own() -> None:
    url = "redis+sentinel://me:p%3F@h:1/name/2?sentinel_username=they&sentinel_password=a+b%26c"
    many = parse_many_hosts(url)

    assert many
    assert (many.username, many.password, many.database) == ("me", "p?", 2)
    assert (many.sentinel_username, many.sentinel_password) == ("they", "a+b&c")
    assert many.options == {}


def test_a_user_may_have_no_password() -> None:
    many = parse_many_hosts("redis+cluster://me@h:1")

    assert many
    assert (many.username, many.password) == ("me", None)


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("redis://h", False),
        ("redis://h/0", False),
        ("redis://h/3", True),
        ("redis://h/?db=3", True),
        ("unix:///run/s", False),
        ("unix:///run/s?db=0", False),
        ("unix:///run/s?db=3", True),
        ("redis+cluster://h", False),
        ("redis+sentinel://h/name", False),
        ("redis+sentinel://h/name/3", True),
        ("", False),
    ],
)
def test_a_database_is_found_wherever_it_stands(url: str, has: bool) -> None:
    assert has_database(url) == has


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h?ssl_certfile=/a", "ssl_certfile is for TLS: the URL must begin with rediss"),
        ("redis+cluster://h:1?ssl_ca_certs=/a", "ssl_ca_certs is for TLS"),
        ("unix:///s?ssl_cert_reqs=none", "ssl_cert_reqs is for TLS"),
        ("rediss://h?ssl_keyfile=/a", "name that by ssl_certfile"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "must be required or optional or none"),
        ("rediss+cluster://h:1?ssl_check_hostname=off", "must be true or false"),
        ("rediss+cluster://h:1?ssl_certfile=", "must be given a value"),
        ("rediss+cluster://h:1?db=1", "a cluster has no databases"),
        ("redis+cluster://h:1?sentinel_password=s3cret", "is for redis+sentinel://"),
        ("redis://h?sentinel_password=s3cret", "is for redis+sentinel://"),
        ("redis://h?socket_timeout=5", "no parameter socket_timeout: it may have ssl_certfile"),
        ("redis://h?s3cret%20of%20mine=1", "no parameter that: it may have"),
        ("redis+cluster://:s3cret?s3cret@h:1", "in a password write"),
        ("redis://me:12?s3cret=1@h:1/0", "no parameter that: it may have"),
        ("redis+cluster://me:12?s3cret=1@h:1", "no parameter that: it may have"),
        ("redis://h:1/?db=one", "db must be the number of a database"),
        ("unix:///run/s?db=-1", "db must be the number of a database"),
        ("rediss://h?ssl_ca_certs=/a%00b", "ssl_ca_certs must be given a value"),
        ("redis+sentinel://h:1/n?sentinel_password=%00", "must be given a value"),
    ],
)
def test_what_cannot_be_meant_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_redis_url(url)

    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)
