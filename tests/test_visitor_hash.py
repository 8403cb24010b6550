"""One id for one visitor, and none that a stranger can compute."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_counter.rules.visitor_hash import browser_hash, visitor_id

SECRET = b"0123456789abcdef"
BROWSER = {"secret": SECRET, "site": "demo", "user_agent": "Mozilla/5.0", "language": "vi"}
WHO = {"address": "192.0.2.1", "first_party": ""}
headers = st.text(st.characters(), max_size=40)


def made(**other: Any) -> bytes:
    browser = browser_hash(**{name: other.get(name, value) for name, value in BROWSER.items()})
    return visitor_id(browser, **{name: other.get(name, value) for name, value in WHO.items()})


def test_is_eight_bytes() -> None:
    """An id has eight bytes."""
    assert len(made()) == 8


def test_stays_the_same_between_releases() -> None:
    """A change of the recipe would make every known visitor new: it must be deliberate."""
    assert made().hex() == "6cbb3ca3d0636d25"


@pytest.mark.parametrize(
    "other",
    [
        {"secret": b"another"},
        {"site": "portal"},
        {"address": "192.0.2.2"},
        {"user_agent": "Mozilla/4.0"},
        {"language": "en"},
        {"first_party": "x"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_differs_by_every_field(other: dict[str, Any]) -> None:
    """Each field makes another visitor."""
    assert made() != made(**other)


@given(headers, headers, headers, headers)
def test_same_input_same_id(site: str, user_agent: str, language: str, first_party: str) -> None:
    """The id depends on nothing but the fields, lone surrogates included."""
    fields = {"site": site, "user_agent": user_agent, "language": language}

    assert made(**fields, first_party=first_party) == made(**fields, first_party=first_party)


texts = st.text(st.characters(), max_size=6)
hits = st.fixed_dictionaries(
    {"site": texts, "user_agent": texts, "language": texts, "first_party": texts}
    | {"address": st.text("0123456789.:/", max_size=6)}
)


@given(hits, hits)
def test_fields_do_not_run_together(one: dict[str, str], other: dict[str, str]) -> None:
    """Two ids are equal exactly when all fields are."""
    assert (one == other) == (made(**one) == made(**other))


@given(st.text("ab", min_size=1, max_size=8), st.integers(0, 7))
def test_moving_a_border_makes_another_visitor(text: str, border: int) -> None:
    """('ab', 'c') differs from ('a', 'bc')."""
    cut = min(border, len(text) - 1)

    assert made(user_agent=text[:cut], language=text[cut:]) != made(user_agent=text, language="")


def test_long_headers_are_cut() -> None:
    """The user agent counts up to 512 bytes, the language up to 256."""
    short = made(user_agent="a" * 512, language="b" * 256)

    assert short == made(user_agent="a" * 9000, language="b" * 9000)


@pytest.mark.parametrize("size", [0, 65])
def test_refuses_a_secret_that_is_none(size: int) -> None:
    """A secret has 1 to 64 bytes."""
    with pytest.raises(ValueError, match=r"secret|key"):
        made(secret=b"x" * size)
