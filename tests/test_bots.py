"""People are counted, programs are not."""

import json
from pathlib import Path
from time import perf_counter

import pytest
from crawleruseragents import (  # type: ignore[import-untyped]
    CRAWLER_USER_AGENTS_DATA,
    is_crawler,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.tools import shared_data
from visit_counter.rules import bots
from visit_counter.rules.bots import MAX_LENGTH, PEOPLE, is_bot

CORPUS = Path(__file__).parent / "corpus" / "user_agents.tsv"
MODULES = Path(__file__).parents[1] / "node_modules"
ROWS = [line.split("\t") for line in CORPUS.read_text("utf-8").splitlines()[1:]]
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/142.0.0.0 Safari/537.36"
)


@pytest.mark.parametrize(
    ("verdict", "user_agent"),
    [(verdict, text.replace("\\t", "\t")) for verdict, _, text in ROWS],
    ids=[f"{group}-{line}" for line, (_, group, _) in enumerate(ROWS, 2)],
)
def test_tells_people_from_programs(verdict: str, user_agent: str) -> None:
    """Each line of the corpus gets its verdict."""
    assert (verdict == "bot") == is_bot(user_agent)


def test_tells_them_apart_in_the_field() -> None:
    """Each line of what people and programs were found to send."""
    lines = shared_data("field/user_agents.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]

    assert len(rows) >= 20
    assert [row for row in rows if is_bot(row[1]) != (row[0] == "bot")] == []


def test_counts_the_people_of_public_lists() -> None:
    """Of the browsers that people have, at most one in 5,000 is dropped: here, none."""
    common = _listed("user-agents/dist/user-agents.json")
    top = _listed("top-user-agents/src/index.json")
    shown = {each["userAgent"] if isinstance(each, dict) else each for each in common + top}

    assert len(shown) > 500
    assert [user_agent for user_agent in shown if is_bot(user_agent)] == []


def _listed(name: str) -> list[dict[str, str] | str]:
    path = MODULES / name
    if not path.exists():
        pytest.skip("needs `npm install --no-save user-agents top-user-agents` in the root")
    listed: list[dict[str, str] | str] = json.loads(path.read_text("utf-8"))
    return listed


def test_agrees_with_the_list() -> None:
    """What the list calls a crawler is a bot, except by the patterns that name people."""
    crawlers = [
        instance
        for crawler in CRAWLER_USER_AGENTS_DATA
        if crawler["pattern"] not in PEOPLE
        for instance in crawler["instances"]
        if is_crawler(instance[:MAX_LENGTH])
    ]

    assert len(crawlers) > 1000
    assert [crawler for crawler in crawlers if not is_bot(crawler)] == []


def test_patterns_that_name_people_are_still_in_the_list() -> None:
    """A pattern that the list has dropped or rewritten shows up here, not as lost people."""
    listed = {crawler["pattern"] for crawler in CRAWLER_USER_AGENTS_DATA}

    assert set() == PEOPLE - listed


@pytest.mark.parametrize(
    ("pattern", "spellings"),
    [
        ("Googlebot\\/", ["Googlebot\\/"]),
        ("[wW]get", ["wget", "Wget"]),
        ("Ahrefs(Bot|SiteAudit)", ["AhrefsBot", "AhrefsSiteAudit"]),
        ("(^| )PTST\\/", ["^PTST\\/", " PTST\\/"]),
        ("Chirp|gotosocial", ["Chirp", "gotosocial"]),
        ("AdsBot-Google([^-]|$)", ["AdsBot-Google([^-]|$)"]),
        ("Spider[\\s\\S]*spider", ["Spider[\\s\\S]*spider"]),
    ],
)
def test_spells_a_pattern_out(pattern: str, spellings: list[str]) -> None:
    """Small choices in a pattern become texts of their own; the rest stays a pattern."""
    assert spellings == list(bots._spellings(pattern))


@given(st.text(max_size=700) | st.text(alphabet="\x00\r\n\ud800\udcff𝕏ấ -bot/+http", max_size=700))
def test_never_raises(user_agent: str) -> None:
    """Whatever stands in the header gets a verdict."""
    assert is_bot(user_agent) in (True, False)


@given(st.text(max_size=3000))
def test_looks_at_the_first_characters_only(tail: str) -> None:
    """What follows the first 512 characters changes nothing."""
    assert is_bot(CHROME.ljust(MAX_LENGTH) + tail + " Googlebot/2.1") is False


@pytest.mark.parametrize(
    "text",
    ["Spider" * 1700, "Contextual Bot" * 800, "a" * 10_240, "\x00\x01ấ𝕏" * 2600, "+" * 10_240],
    ids=["almost-spider", "almost-bot", "letters", "control", "plus"],
)
def test_ten_kilobytes_cost_little(text: str) -> None:
    """A pathological user agent of 10 kB is answered within 50 ms, nothing cached."""
    bots._cached.cache_clear()
    start = perf_counter()

    is_bot(text)

    assert perf_counter() - start < 0.05


def test_wide_characters_stay_out_of_the_cache() -> None:
    """Only ASCII user agents are kept, at most 512 bytes each."""
    bots._cached.cache_clear()

    is_bot(CHROME + "𝕏")
    is_bot(CHROME)

    assert bots._cached.cache_info().currsize == 1
