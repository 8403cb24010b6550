"""A page's path is one, however its address is written, and has nothing in it of its visitor."""

from __future__ import annotations

from time import process_time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.services.in_process import Service
from visit_counter.model.paths import (
    CONTROL,
    MAX_KEYS,
    MAX_PATH_BYTES,
    MAX_VALUE_BYTES,
    PathRules,
    clean_path,
    keys_of,
    path_of,
)

HOST = "https://www.example.vn"
KEYED = PathRules(directory=False, keys=("id", "p"))
DIRECTORY = PathRules(directory=True, keys=())
BOTH = PathRules(directory=True, keys=("p",))


def is_own(origin: str) -> bool:
    return origin.lower() == HOST


def counted(address: str, rules: PathRules | None = None, page: str = "/a/b") -> str:
    return path_of(address, page, rules, is_own)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/shop/list.do;jsessionid=1A2B3C", "/shop/list.do"),
        ("/shop;JSESSIONID=1A2B.node1!-55/list", "/shop/list"),
        ("/shop%3Bjsessionid%3D1A2B/list", "/shop/list"),
        ("/;jsessionid=1A2B", "/"),
        ("/tin;PHPSESSID=abc", "/tin"),
        ("/tin&PHPSESSID=abc", "/tin"),
        ("/tin;osCsid=abc;cfid=1;CFTOKEN=2", "/tin"),
        ("/(S(lit3py55t21z5v55vlm25s55))/order.aspx", "/order.aspx"),
        ("/app/(A(xyz)F(q-1)S(abc))/order.aspx", "/app/order.aspx"),
        ("/app/(X(1)S(abc))", "/app"),
        ("/(S(abc))", "/"),
        ("/sap(bD1lbiZjPTAwMQ==)/bc/bsp", "/sap/bc/bsp"),
        # What only looks like one.
        ("/maps;v=2/a;b", "/maps;v=2/a;b"),
        ("/rock(s)/page", "/rock(s)/page"),
        ("/x/(a)/(2)", "/x/(a)/(2)"),
        ("/a&b=c", "/a&b=c"),
    ],
)
def test_session_ids_are_no_part_of_a_path(written: str, path: str) -> None:
    """Each would make a page of its own for every visitor, and be kept for good."""
    assert (clean_path(written), counted(written)) == (path, path)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("https://www.example.vn/p1/", "/p1/"),
        ("http://www.example.vn/p1/", "/p1/"),
        ("HTTPS://WWW.example.vn/p1/", "/p1/"),
        ("https://www.example.vn", "/"),
        ("https://www.example.vn?x=1", "/"),
        ("//www.example.vn/p1", "/p1"),
        ("/p1/#top", "/p1/"),
        (" /p1 ", "/p1"),
        ("p1/", "/a/p1/"),
        ("./p1", "/a/p1"),
        ("../p1", "/p1"),
        ("../../../p1/.", "/p1/"),
        ("..", "/"),
        (".", "/a/"),
        ("?x=1", "/a/b"),
        ("#top", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/.../b", "/a/.../b"),
        ("tin-t%E1%BB%A9c", "/a/tin-tức"),
    ],
)
def test_an_address_is_resolved_against_its_page(written: str, path: str) -> None:
    """As generators of sites print them: with the host, without the scheme, relative."""
    assert counted(written) == path


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ("https://other.vn/p1/", "'other.vn' is none of the site's origins"),
        ("//other.vn/p1/", "'other.vn' is none of the site's origins"),
        ("https://www.example.vn@other.vn/", "none of the site's origins"),
        ("https://", "none of the site's origins"),
        ("mailto:a@example.vn", "begins with mailto: is no page's"),
        ("javascript:alert(1)", "begins with javascript: is no page's"),
        ("https:p1", "begins with https: is no page's"),
        ("file:///p1", "begins with file: is no page's"),
        ("", "it names no page"),
        ("a\nb", "no control characters"),
    ],
)
def test_what_is_no_page_of_the_site_is_refused(written: str, wrong: str) -> None:
    """And the sentence says why."""
    with pytest.raises(ValueError, match=wrong):
        counted(written)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/a", "/a/"),
        ("/a/", "/a/"),
        ("/a/index.html", "/a/"),
        ("/a/index.htm", "/a/"),
        ("/a/index.php", "/a/"),
        ("/a/INDEX.shtml", "/a/"),
        ("/a/Default.aspx", "/a/"),
        ("/index.html", "/"),
        ("/", "/"),
        ("/a/v1.2", "/a/v1.2/"),
        ("/.well-known", "/.well-known/"),
        # Files of other names are what they are.
        ("/a/page.html", "/a/page.html"),
        ("/a/myindex.html", "/a/myindex.html"),
        ("/index.html/b.php", "/index.html/b.php"),
    ],
)
def test_a_directory_is_one_page(written: str, path: str) -> None:
    """Where `path_style` is `directory`; as exact paths they are as many pages as spellings."""
    assert counted(written, DIRECTORY) == path
    assert counted(written) == written


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/?p=12", "/?p=12"),
        ("/?utm_source=x&p=12&fbclid=secret", "/?p=12"),
        ("/?p=12&id=3", "/?id=3&p=12"),
        ("/?p=12&p=13", "/?p=12"),
        ("/?P=12", "/"),
        ("/?p=", "/"),
        ("/?p", "/"),
        ("/?p=a%26b%3Dc", "/?p=a%26b=c"),
        ("/?p=tin+t%E1%BB%A9c", "/?p=tin tức"),
        ("/?token=secret", "/"),
        ("/?p=12#p=13", "/?p=12"),
        ("https://www.example.vn/?p=12", "/?p=12"),
        ("?p=12", "/a/b?p=12"),
    ],
)
def test_only_named_parameters_belong_to_a_path(written: str, path: str) -> None:
    """In the order of the setting; nothing else of a query is kept."""
    assert counted(written, KEYED) == path
    assert "?" not in counted(written)


def test_both_settings_together() -> None:
    """The query stands behind the directory."""
    assert counted("/index.php?p=12&x=1", BOTH) == "/?p=12"


def test_parameters_have_bounds() -> None:
    """A value is cut, and so is the path with all of them; the setting bounds their number."""
    assert counted("/?p=" + "a" * 1000, KEYED) == "/?p=" + "a" * MAX_VALUE_BYTES
    whole = counted("/" + "ấ" * 1000 + "?p=1", KEYED)
    assert len(whole.encode()) <= MAX_PATH_BYTES
    assert keys_of(f"k{n}" for n in range(MAX_KEYS))
    with pytest.raises(ValueError, match="at most"):
        keys_of(f"k{n}" for n in range(MAX_KEYS + 1))
    with pytest.raises(ValueError, match="is not the name of a query parameter"):
        keys_of(["a&b"])


@pytest.mark.parametrize(
    "part",
    [";sess", "&sid", "/(S(", "/(a(b)", "/sap(", "/..", "/./", "%2e/", "?p=1&", "&p", "//", ";x="],
)
def test_a_path_of_eight_kilobytes_costs_little(part: str) -> None:
    """A pathological address is read within 50 ms, whatever it repeats."""
    repeated = part + part.strip(";&/") * ((8180 - len(part)) // len(part))
    begun_s = process_time()
    for address in ("/a" + part * (8180 // len(part)), "/a" + repeated, "/?p=" + repeated):
        counted(address, BOTH)
    assert process_time() - begun_s < 0.05


ADDRESSES = st.text(max_size=60) | st.text(alphabet="/.?&=;#%()pid2Fs\x00ấ:", max_size=60)


@given(ADDRESSES, st.sampled_from([None, KEYED, DIRECTORY, BOTH]))
def test_a_path_is_itself_when_it_comes_back(address: str, rules: PathRules | None) -> None:
    """Whatever is not refused is a bounded path without control characters, with no more than the
    named parameters; and a page that is asked for by the path that it was given is the same."""
    try:
        path = counted(address, rules)
    except ValueError:
        return
    assert path.startswith("/")
    assert len(path.encode()) <= MAX_PATH_BYTES
    assert not CONTROL.search(path)
    if not {"%", "?", "#", ";", "&", "("} & {*path}:
        assert counted(path, rules) == path or path.startswith("//")


async def views(service: Service, path: str, site: str = "portal") -> Any:
    url = f"{service.url}/w/{site}?path={quote(path, safe='')}"
    async with service.client.get(url, headers={"Referer": f"{HOST}/tin/1"}) as answer:
        return (await answer.json())["page"]


async def test_every_way_in_counts_the_same_page(service: Service) -> None:
    """By `p`, by the Referer, by the pixel; and by each it is asked for. Nothing of a query but the
    named parameters comes back."""
    await service.site(origins=[HOST], query_keys=["p"], path_style="directory")
    own = {"Origin": HOST, "Referer": f"{HOST}/tin/1"}
    written = ["/tin/?p=12&mail=a@b.vn", "../tin?x=1&p=12", f"{HOST}/tin/index.php?p=12"]
    answers = [await service.hit(headers=own, p=each, page=True) for each in written]
    referred = {"Origin": HOST, "Referer": f"{HOST}/tin?p=12&session=secret"}
    answers.append(await service.hit(headers=referred, page=True))
    pixel = f"{service.url}/w/portal/dot.gif?p={quote('/tin?p=12&a=b')}"
    own |= {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0"}
    async with service.client.get(pixel, headers=own) as drawn:
        assert drawn.status == 200

    assert [each["page"] for each in answers] == [
        {"path": "/tin/?p=12", "pageviews": n} for n in (1, 2, 3, 4)
    ]
    for each in ("/tin/?p=12", "/tin?p=12&mail=c", f"{HOST}/tin/?p=12", "../tin?p=12"):
        assert await views(service, each) == {"path": "/tin/?p=12", "pageviews": 5}


async def test_a_path_with_an_escaped_question_mark_has_no_query(service: Service) -> None:
    """What was escaped is part of the path, whichever way it comes."""
    await service.site(query_keys=["p"], path_style="directory")
    answers = [await service.hit(p=each, page=True) for each in ("/a%3Fp=1", "/a%3Fp=1?q=2")]
    assert [each["page"] for each in answers] == [
        {"path": "/a?p=1/", "pageviews": 1},
        {"path": "/a?p=1/", "pageviews": 2},
    ]


async def test_settings_leave_what_was_counted(service: Service) -> None:
    """Counted pages keep their paths and numbers; later views go to the page of the new style."""
    await service.site(origins=[HOST])
    own = {"Origin": HOST}
    await service.hit(headers=own, p="/a")
    before = await service.counts()
    await service.api("PATCH", "/sites/portal", {"path_style": "directory"})
    shown = await service.hit(headers=own, p="/a", page=True)
    await service.api("PATCH", "/sites/portal", {"path_style": "exact"})
    exact = await service.hit(headers=own, p="/a", page=True)

    assert before["total"]["pageviews"] == 1
    assert shown["page"] == {"path": "/a/", "pageviews": 1}
    assert exact["page"] == {"path": "/a", "pageviews": 2}
    assert exact["total"]["pageviews"] == 3


async def test_a_site_that_is_open_to_all(service: Service) -> None:
    """Takes the path of any host; two slashes and a host that is not the page's are an odd path."""
    await service.site()
    own = {"Origin": HOST}
    written = [f"{HOST}/p", "https://other.vn/p", "//www.example.vn/p", "//favicon.ico"]
    answers = [await service.hit(headers=own, p=each, page=True) for each in written]
    assert [each["page"]["path"] for each in answers] == ["/p", "/p", "/p", "//favicon.ico"]


async def test_an_address_of_another_host_is_malformed(service: Service) -> None:
    """It names the field, for whoever wrote it into the page."""
    await service.site(origins=[HOST])
    problem = await service.hit(headers={"Origin": HOST}, p="https://other.vn/a", status=400)
    assert (problem["field"], "other.vn" in problem["detail"]) == ("p", True)
