"""What pictures show, and that nothing in a URL can make them anything else."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.pages.panels import DRAWN, NOW, SVG, drawn, framed, lines, reading, spoken
from visit_counter.characters import UNFIT
from visit_counter.errors import Problem
from visit_counter.model.kinds import METRICS
from visit_counter.rules.origins import Origins
from visit_counter.web.pictures.drawn.colors import DARK, NAMED, THEMES, contrast, readable_on
from visit_counter.web.pictures.drawn.digits import SETS
from visit_counter.web.pictures.frame import ancestors
from visit_counter.web.words.languages import FORMATS, LANGUAGES, ROWS

VALUES: dict[str, list[str]] = {
    "lang": [*LANGUAGES],
    "metric": [*METRICS],
    "number-format": [*FORMATS],
    "theme": [*THEMES],
    "rows": ["online", "today,week", "total total", "year, total"],
    "period": [*ROWS],
    "set": [*SETS],
    "zero-pad": ["0", "7", "12"],
    "shape": ["flat", "square"],
    "color": ["red", "f80", "#00ff7f", "ABCDEF"],
    "label-color": ["black", "fff"],
    "title": ["", "Cổng thông tin", "<b>&\"'</b>", "]]>", "ស្ថិតិ"],
    "label": ["", "lượt", "</text><script>", "&amp;"],
    "refresh": ["10", "3600"],
    "paused": ["yes", "no"],
    "how": ["yes", "no"],
}
ELEMENTS = {"svg", "title", "desc", "style", "text", "tspan", "rect", "circle", "path", "g"}
ELEMENTS |= {"clipPath", "linearGradient", "stop"}
TAGS = {"html", "head", "meta", "title", "style", "link", "body", "main", "h1", "ul", "li", "span"}
TAGS |= {"b", "p", "a", "details", "summary"}

parameters = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}
)
hostile = st.dictionaries(
    st.sampled_from([*VALUES]),
    st.text() | st.sampled_from(["<script>", '"><x', "'", "javascript:alert(1)", "-1", "1e9"]),
    min_size=1,
)
readings = st.none() | st.builds(
    reading, *(st.integers(0, 2**53) for _ in ("online", "today", "week", "total"))
)


def test_the_portals_block() -> None:
    """The same labels, order and digits as portals have."""
    picture = drawn("block", {"lang": "vi"}, reading())
    expected = ["Đang online: 81", "Hôm nay: 1886", "Trong tuần: 20,657", "Tất cả: 1,891,451"]
    assert lines(picture) == ["Thống kê truy cập", *expected]
    assert spoken(picture) == ("Thống kê truy cập", ". ".join(expected) + ".")


def test_rows_metric_and_title_of_a_block() -> None:
    """Rows come in the order in which they were asked for."""
    asked = {"rows": "total,online", "metric": "pageviews", "title": "A & B", "lang": "de"}
    picture = drawn("block", asked, reading())
    assert lines(picture) == ["A & B", "Gesamt: 3.782.902", "Jetzt online: 81"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"lang": "vi"}, ["Lượt truy cập", "1,891,451"]),
        ({"lang": "vi", "period": "today"}, ["Hôm nay", "1886"]),
        ({"period": "online", "label": ""}, ["", "81"]),
        ({"lang": "ar"}, ["1,891,451", "الزيارات"]),
        ({"metric": "visitors", "number-format": "plain"}, ["Visitors", "945725"]),
    ],
)
def test_badges(asked: dict[str, str], expected: list[str]) -> None:
    """A label beside its number, from the side on which the language begins."""
    assert lines(drawn("badge", asked, reading())) == expected


@pytest.mark.parametrize("made", SETS)
def test_digits_are_as_many_as_asked_for(made: str) -> None:
    """Filled up with zeros, never cut."""

    def cells(**asked: str) -> int:
        return len(drawn("digits", {"set": made, **asked}, reading()).findall(f"{SVG}g"))

    assert (cells(), cells(**{"zero-pad": "9"}), cells(**{"zero-pad": "2"})) == (7, 9, 7)


@pytest.mark.parametrize("made", SETS)
def test_every_digit_is_drawn_in_its_own_way(made: str) -> None:
    """No two digits of a set look the same, and a dash is none of them."""

    def shape(read: int | None) -> bytes:
        picture = drawn("digits", {"set": made}, None if read is None else reading(total=read))
        return ElementTree.tostring(picture.findall(f"{SVG}g")[-1])

    assert len({shape(read) for read in (None, *range(10))}) == 11


def test_bars_are_days() -> None:
    """Thirty bars, the highest fills the picture, a day without visits has a stub."""
    rects = drawn("spark", {}, reading()).findall(f"{SVG}rect")[1:]
    heights = [float(rect.attrib["height"]) for rect in rects]
    assert (len(rects), min(heights), max(heights)) == (30, 1, 40)
    assert [rect.attrib["class"] for rect in rects] == ["soft"] * 29 + ["accent"]


@pytest.mark.parametrize("name", DRAWN)
def test_no_numbers_are_never_zero(name: str) -> None:
    """With nothing to show there are dashes, and a sentence for those who listen."""
    picture = drawn(name, {"lang": "vi"}, None)
    assert not any(letter.isdigit() for line in lines(picture) for letter in line)
    assert spoken(picture)[1].endswith("Chưa lấy được số liệu.")


@pytest.mark.parametrize("name", DRAWN)
def test_old_numbers_say_when_they_were_true(name: str) -> None:
    """In the site's own time; those of just now need not say so."""
    late = drawn(name, {"lang": "vi"}, reading(), NOW + 3_600_000)
    assert spoken(late)[1].endswith("Số liệu lúc 2026-11-22 17:20.")
    assert "2026" not in "".join(spoken(drawn(name, {}, reading(), NOW + 59_999)))
    if name == "block":
        assert lines(late)[-1] == "Số liệu lúc 2026-11-22 17:20."


@given(st.sampled_from([*DRAWN]), parameters, readings)
def test_whatever_is_asked_for_is_drawn(name: str, asked: dict[str, str], read: object) -> None:
    """Every choice of parameters gives a picture of our elements, with a name."""
    picture = drawn(name, asked, read)  # type: ignore[arg-type] # as `readings` makes them
    assert {each.tag.removeprefix(SVG) for each in picture.iter()} <= ELEMENTS
    assert picture.attrib["role"] == "img"
    assert spoken(picture)[0]
    for box in ("width", "height"):
        assert 0 < float(picture.attrib[box]) < 2000


@given(st.sampled_from([*DRAWN]), hostile)
def test_hostile_values_draw_nothing_else(name: str, asked: dict[str, str]) -> None:
    """They are refused by the name of their parameter, or stand as text."""
    try:
        picture = drawn(name, asked, reading())
    except Problem as problem:
        if problem.status == 400 and problem.field in asked:
            return
        raise
    assert {each.tag.removeprefix(SVG) for each in picture.iter()} <= ELEMENTS
    known = {key for each in picture.iter() for key in each.attrib}
    assert not [key for key in known if key.startswith("on") or "href" in key or key == "style"]
    assert not UNFIT.search("".join(picture.itertext()))


class Tags(HTMLParser):
    """The tags of a page, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.said = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.said += data


@given(parameters | hostile)
def test_a_frame_holds_nothing_else(asked: dict[str, str]) -> None:
    """Whatever its URL says, the page has our tags, and links to itself and to oEmbed only."""
    try:
        page = Tags(framed(asked, reading()))
    except Problem as problem:
        if problem.status == 400 and problem.field in asked:
            return
        raise
    assert page.tags <= TAGS
    assert page.links[0] == "https://count.example.vn/oembed?url=x&y"
    assert all(link.startswith("?") for link in page.links[1:])


def test_a_frame_says_how_it_counts() -> None:
    """Zone, week, window, since when, and what came from an earlier counter."""
    page = Tags(framed({"lang": "vi", "how": "yes"}, reading()))
    for sentence in (
        "Ngày tính theo múi giờ Asia/Ho_Chi_Minh.",
        "Tuần bắt đầu từ Thứ Hai.",
        "Đang online: có mặt trong 5 phút gần đây.",
        "Đếm từ ngày 2026-11-11.",
        "Đã cộng 1,800,000 từ bộ đếm cũ.",
    ):
        assert sentence in page.said


def test_a_frame_that_loads_itself_can_be_paused() -> None:
    """One link stops it, one lets it go on; both keep what else was asked for."""
    running = framed({"lang": "vi", "refresh": "60"}, reading())
    paused = framed({"lang": "vi", "refresh": "60", "paused": "yes"}, reading())
    assert Tags(running).links[1] == "?lang=vi&refresh=60&paused=yes"
    assert Tags(paused).links[1] == "?lang=vi&refresh=60&paused=no"
    assert len(Tags(framed({}, reading())).links) == 1


@pytest.mark.parametrize("seconds", ["0", "9", "3601", "-5", "6e1"])
def test_a_frame_is_not_loaded_too_often(seconds: str) -> None:
    """Nor is a parameter misread."""
    with pytest.raises(Problem) as refused:
        framed({"refresh": seconds}, reading())
    assert refused.value.field == "refresh"


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        (["*"], "*"),
        (["self"], "'self'"),
        (["https://a.vn", "https://*.b.vn"], "'self' https://a.vn https://*.b.vn"),
        (["https://a.vn:8443", "self", "*"], "*"),
    ],
)
def test_who_may_frame(origins: list[str], expected: str) -> None:
    """The pages that count for the site, and the service's own."""
    assert ancestors(Origins.parse(origins)) == expected


@pytest.mark.parametrize("theme", THEMES)
def test_themes_can_be_read(theme: str) -> None:
    """WCAG 2.2: text 4.5 to 1, the rest 3 to 1; clear ones are for white and for dark pages."""
    colors = THEMES[theme]
    if colors.ground == "none":
        colors = colors._replace(ground=DARK.ground if "dark" in theme else "#ffffff")
    for text in (colors.ink, colors.soft):
        assert contrast(text, colors.ground) >= 4.5
    assert contrast(colors.accent, colors.ground) >= 3


def test_bars_are_seen_on_any_page() -> None:
    """The element draws them without a ground where it has no theme: on white and on dark pages."""
    for bars in (THEMES["clear"].soft, THEMES["clear"].accent):
        assert min(contrast(bars, "#ffffff"), contrast(bars, DARK.ground)) >= 3


@given(st.integers(0, 0xFFFFFF).map("#{:06x}".format) | st.sampled_from([*NAMED.values()]))
def test_badges_can_be_read_on_any_colour(color: str) -> None:
    """Black or white always reaches 4.5 to 1."""
    assert contrast(readable_on(color), color) >= 4.5
