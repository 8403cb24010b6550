"""Which pages may count for a site."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.services.in_process import PERSON, run_service
from tests.kit.stores.server import Server
from visit_counter.rules.origins import Origins, is_own_host, origin_of, wrong_fetch


@pytest.mark.parametrize(
    ("entry", "origin", "allowed"),
    [
        ("https://a.vn", "https://a.vn", True),
        ("https://a.vn", "HTTPS://A.vn:443", True),
        ("https://a.vn", "http://a.vn", False),
        ("https://a.vn", "https://a.vn:8443", False),
        ("https://a.vn", "https://a.vn.evil.example", False),
        ("https://a.vn", "https://b.a.vn", False),
        ("https://a.vn", "null", False),
        ("https://a.vn", "", False),
        ("https://a.vn", "self", False),
        ("HTTPS://A.VN:443/", "https://a.vn", True),
        ("http://a.vn:80", "http://a.vn", True),
        ("https://a.vn:8443", "https://a.vn:8443", True),
        ("http://[2001:DB8:0::1]:81", "http://[2001:db8::1]:81", True),
        ("https://trà-vinh.vn", "https://xn--tr-vinh-9va.vn", True),
        ("https://*.travinh.gov.vn", "https://stttt.travinh.gov.vn", True),
        ("https://*.travinh.gov.vn", "https://a.b.travinh.gov.vn", True),
        ("https://*.travinh.gov.vn", "https://travinh.gov.vn", False),
        ("https://*.travinh.gov.vn", "https://eviltravinh.gov.vn", False),
        ("https://*.travinh.gov.vn", "https://.travinh.gov.vn", False),
        ("https://*.travinh.gov.vn", "https://a.travinh.gov.vn:8443", False),
        ("https://*.travinh.gov.vn", "http://a.travinh.gov.vn", False),
        ("https://*.travinh.gov.vn", "https://*.travinh.gov.vn", False),
        ("https://*.travinh.gov.vn", "https://evil.example/.travinh.gov.vn", False),
        ("https://*.travinh.gov.vn", "https://evil.example@a.travinh.gov.vn", False),
        ("https://*.a.vn:8443", "https://b.a.vn:8443", True),
        ("self", "https://counter.vn", True),
        ("SELF", "http://counter.vn", True),
        ("self", "https://counter.vn:8443", False),
        ("self", "null", False),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("Ionic://app.a.vn/", "ionic://app.a.vn", True),
        ("capacitor://app.a.vn", "https://app.a.vn", False),
        ("https://app.a.vn", "capacitor://app.a.vn", False),
        ("app://.", "app://.", True),
        ("self", "capacitor://counter.vn", False),
        ("*", "null", True),
        ("*", "", True),
        ("*", "https://anything.example", True),
    ],
)
def test_allows(entry: str, origin: str, allowed: bool) -> None:
    """A site's entry lets in the origins that it names."""
    assert allowed == Origins.parse([entry]).allow(origin, "counter.vn")


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("https://a.vn", "A.VN:443", True),
        ("https://a.vn", "a.vn:8080", False),
        ("https://a.vn", "", False),
        ("https://a.vn", "x" * 9000, False),
    ],
)
def test_self_is_the_host_of_the_request(origin: str, host: str, allowed: bool) -> None:
    """`self` compares with the Host header, default ports left out."""
    assert allowed == Origins.parse(["self"]).allow(origin, host)


def test_no_entries_allow_nothing() -> None:
    """An empty list lets nobody in."""
    assert not Origins.parse([]).allow("https://a.vn", "a.vn")


def test_only_the_star_opens() -> None:
    """`open` says that any page may count."""
    assert [Origins.parse([text]).open for text in ("*", "https://*.a.vn")] == [True, False]


def test_keeps_entries_in_one_form() -> None:
    """Entries are kept normalised, in their order, each once."""
    origins = Origins.parse(["https://B.vn/", " SELF", "https://b.vn:443", "https://*.Trà.vn"])

    assert origins.texts == ("https://b.vn", "self", "https://*.xn--tr-kia.vn")
    assert origins.texts == Origins.parse(origins.texts).texts


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("example.vn", "'example.vn' has no scheme: write 'https://example.vn'"),
        ("example.vn:8080/x", "has no scheme: write 'https://example.vn:8080'"),
        ("*.a.vn", "has no scheme: write 'https://*.a.vn'"),
        ("ftp://a.vn", "does not begin with https:// or http://: write 'https://a.vn'"),
        ("capacitor://", "is not the scheme and the host name of an app"),
        ("capacitor://a.vn/x", "as in 'capacitor://example.vn': write 'capacitor://a.vn'"),
        ("file:///x", "does not begin with https:// or http://"),
        (
            "http://a.vn/tin-tuc",
            "is a page, and an origin has no path or query: write 'http://a.vn'",
        ),
        ("https://a.vn?x=1", "is a page, and an origin has no path or query: write 'https://a.vn'"),
        ("https://me:pw@a.vn", "has a user name: write 'https://a.vn'"),
        ("https://a.*.vn", "has a '*' that is not the whole first label"),
        ("https://*a.vn", "has a '*' that is not the whole first label"),
        ("https://*", "has a '*' that is not the whole first label"),
        ("null", "'null' is the origin of any sandboxed page: only '*' allows it"),
        ("", "'' has no scheme"),
        ("https://", "is not a scheme, a host name and perhaps a port"),
        ("https://a b.vn", "is not a scheme, a host name and perhaps a port"),
        ("https://a..vn", "is not a scheme, a host name and perhaps a port"),
        ("https://a.vn:99999", "is not a scheme, a host name and perhaps a port"),
        ("https://a.vn:0", "is not a scheme, a host name and perhaps a port"),
        ("https://[::1", "is not a scheme, a host name and perhaps a port"),
        ("https://" + "a." * 400 + "vn", "is not a scheme, a host name and perhaps a port"),
    ],
)
def test_refuses_what_is_no_origin(entry: str, message: str) -> None:
    """The message names the bad entry and, where it can be guessed, the right one."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
        Origins.parse(["https://good.vn", entry])

    assert repr(entry) in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.vn/tin-tuc?x=1#y", "https://a.vn"),
        ("http://a.vn:80", "http://a.vn"),
        ("https://a.vn:8443/", "https://a.vn:8443"),
        ("https://a.vn?x", "https://a.vn"),
        ("https://a.vn\\@b.vn/", "https://a.vn"),
        ("https://a.vn@b.vn/", None),
        ("https://a.vn:0x1/", None),
        ("https://ấ\udcff.vn/", None),
        ("https://a.vn\n", None),
        ("android-app://com.zing.zalo/", None),
        ("about:blank", None),
        ("null", None),
        ("", None),
        ("https://" + "a" * 9000, None),
    ],
)
def test_origin_of_a_referer(url: str, origin: str | None) -> None:
    """The origin of a URL as a browser would send it."""
    assert origin == origin_of(url)


@given(st.text(max_size=80) | st.text("https:/.*@[]aấ\udc80 :0", max_size=40))
def test_never_raises(text: str) -> None:
    """Any header gets an answer, and a normalised origin stays as it is."""
    Origins.parse(["https://*.a.vn", "self"]).allow(text, text)
    origin = origin_of("https://" + text)

    assert origin is None or origin == origin_of(origin)


@pytest.mark.parametrize(
    ("mode", "dest", "expected", "wrong"),
    [
        ("", "", "empty", False),
        ("cors", "empty", "empty", False),
        ("no-cors", "empty", "empty", False),
        ("same-origin", "empty", "empty", False),
        ("no-cors", "image", "image", False),
        ("no-cors", "image", "empty", True),
        ("no-cors", "empty", "image", False),
        ("cors", "empty", "image", False),
        ("navigate", "document", "empty", True),
        ("navigate", "iframe", "image", True),
        ("navigate", "", "empty", True),
        ("no-cors", "script", "empty", True),
        ("websocket", "empty", "empty", True),
    ],
)
def test_wrong_fetch(mode: str, dest: str, expected: str, wrong: bool) -> None:
    """Navigations and other destinations are no hits; browsers without the headers are fine."""
    assert wrong == wrong_fetch(mode, dest, expected)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8080", True),
        ("203.0.113.7", True),
        ("[2001:db8::1]:8080", True),
        ("localhost:8080", True),
        ("portal", True),
        ("portal.local:8080", True),
        ("portal.internal.", True),
        ("demo.localhost", True),
        ("evil.example", False),
        ("evil.example.", False),
        ("127.0.0.1.evil.example", False),
        ("local", True),
        ("notlocal.vn", False),
        ("evil.example:8080", False),
        ("", False),
        ("a b", False),
        ("evil.example/local", False),
        ("u@localhost", False),
        ("localhost?evil.example", False),
    ],
)
def test_names_that_no_stranger_can_have(host: str, own: bool) -> None:
    """Addresses, and names that the public DNS does not know."""
    assert is_own_host(host) == own


@pytest.mark.parametrize("proxies", ["10.0.0.0/8", "127.0.0.0/8"])
async def test_self_is_no_name_that_a_stranger_leads_here(valkey: Server, proxies: str) -> None:
    """A page on a name of theirs does not count; on a name of ours, and behind a proxy of ours,
    which passes its own names on, it does. The lane, the pixel and the checker agree."""
    counted = {}
    async with run_service(valkey.url, trusted_proxies=proxies) as service:
        own = service.url.removeprefix("http://")
        for host in ("evil.example", own):
            page = {"Host": host, "Referer": f"http://{host}/", "User-Agent": PERSON}
            hit = await service.hit("demo", headers={**page, "Origin": f"http://{host}"})
            async with service.client.get(f"{service.url}/w/demo/dot.gif", headers=page):
                pageviews = (await service.counts("demo"))["total"]["pageviews"]
            asked = f"{service.url}/w/demo/check?page=http://{host}/"
            async with service.client.get(asked, headers={"Host": host}) as answer:
                found = {each["name"] for each in (await answer.json())["findings"]}
            counted[host] = (hit["counted"], pageviews, "allowed" in found)

    proxied = proxies == "127.0.0.0/8"
    assert counted["evil.example"] == (proxied, 2 * proxied, proxied)
    assert counted[own] == (True, 2 + 2 * proxied, True)
