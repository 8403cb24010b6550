"""People are counted, programs are not."""

from pathlib import Path
from time import perf_counter

import pytest
from crawleruseragents import (  # type: ignore[import-untyped]
    CRAWLER_USER_AGENTS_DATA,
    is_crawler,
)
from hypothesis import given
from hypothesis import strategies as st

from visit_counter.rules import bots
from visit_counter.rules.bots import MAX_LENGTH, PEOPLE, is_bot

CORPUS = Path(__file__).parent / "corpus" / "user_agents.tsv"
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
