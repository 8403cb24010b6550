"""The page that writes an embed's code, and the preview in it: GET /embed and GET /preview.

Both are filled in here, from texts of one language and from the lists that the pictures and the
element know; what somebody chooses is the business of the page's script. The preview holds the two
lines as the CLI prints them, pinned, so that the page can read address and hash from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

from aiohttp import hdrs, web

from visit_counter.model.kinds import METRICS
from visit_counter.model.site_settings import SITE_ID
from visit_counter.web.pages import scripts
from visit_counter.web.pages.files import STRICT_CSP, Packed, file_response
from visit_counter.web.pictures.drawn.colors import THEMES
from visit_counter.web.pictures.drawn.digits import MOST_DIGITS, SETS
from visit_counter.web.pictures.drawn.markup import Markup, element, text
from visit_counter.web.pictures.drawn.panel import SHOWN
from visit_counter.web.words.languages import FORMATS, LANGUAGES, ROWS, language, number
from visit_counter.web.words.texts import TEXTS, language_of

PLACE = re.compile(r"\{\{(\w+)\}\}")
KINDS = ("html", "pinned", "div", "markdown", "frame", "image", "react", "vue")
LAYOUTS = ("list", "inline", "table", "digits", "badge", "spark")
LIVE = ("off", "poll", "sse", "auto")
PADS = range(MOST_DIGITS + 1)
SAMPLES = (1886, 20657)

POLICY = f"{STRICT_CSP}; frame-src 'self'"
PREVIEW_POLICY = STRICT_CSP.replace("frame-ancestors 'none'", "frame-ancestors 'self'")


async def page(request: web.Request) -> web.Response:
    """GET /embed: choose a counter, see it, copy its code, and learn why it does not count."""
    return _html(request, _page(language_of(request)), POLICY)


async def preview(request: web.Request) -> web.Response:
    """GET /preview: the element of `?site=` and nothing else, in the language of `?script=`."""
    site = request.query.get("site", "")
    shown = _preview(
        site if SITE_ID.match(site) else "demo",
        language(request.query.get("script", "")) or "",
        language_of(request),
    )
    return _html(request, shown, PREVIEW_POLICY)


def _html(request: web.Request, file: Packed, policy: str) -> web.Response:
    headers = {
        hdrs.CACHE_CONTROL: "no-cache",
        hdrs.VARY: f"{hdrs.ACCEPT_ENCODING}, {hdrs.ACCEPT_LANGUAGE}",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "same-origin",
    }
    return file_response(request, file, "text/html", headers)


@cache
def _page(lang: str) -> Packed:
    texts, words = TEXTS[lang], LANGUAGES[lang]
    page = texts.page
    said = {f"data-{name}": each for name, each in texts.said.items()}
    said |= {f"data-note-{kind}": page[f"note_{kind}"] for kind in KINDS}
    return _filled(
        "generator.html",
        {
            **{name: text(each) for name, each in page.items()},
            "lang": Markup(lang),
            "said": _attributes(said),
            "kinds": _choices("radio", "kind", {kind: page[f"kind_{kind}"] for kind in KINDS}),
            "layouts": _choices(
                "radio", "layout", {layout: page[f"layout_{layout}"] for layout in LAYOUTS}
            ),
            "row_boxes": _choices(
                "checkbox", "rows", {row: str(getattr(words, row)) for row in ROWS}, SHOWN
            ),
            "pads": _options({str(n): str(n) if n else page["pad_none"] for n in PADS}),
            "sets": _options({each: page[f"set_{each}"] for each in SETS}),
            "languages": _languages(page["language_page"]),
            "formats": _formats(page),
            "metrics": _options(
                {"": page["metric_usual"], **{each: getattr(words, each) for each in METRICS}}
            ),
            "themes": _themes(page),
            "lives": _options({each: page[f"live_{each}"] for each in LIVE}),
        },
    )


@lru_cache(maxsize=256)
def _preview(site: str, script: str, lang: str) -> Packed:
    spoken = script or lang
    lines = scripts.snippet(".", site, (script,) if script else (), alone=False, pinned=True)
    return _filled(
        "preview.html",
        {
            "lang": Markup(spoken),
            "direction": Markup(LANGUAGES[spoken].direction),
            "title": text(TEXTS[lang].page["preview"]),
            "lines": Markup(lines),
        },
    )


def _filled(name: str, values: Mapping[str, Markup]) -> Packed:
    return Packed.of(PLACE.sub(lambda place: values[place[1]], scripts.source(name)).encode())


def _attributes(values: Mapping[str, str]) -> Markup:
    """Of the page's body: what its script says."""
    return Markup(" ".join(f'{name}="{text(value)}"' for name, value in values.items()))


def _choices(kind: str, name: str, labels: Mapping[str, str], on: Iterable[str] = ()) -> Markup:
    """Radio buttons or check boxes; of radio buttons the first is on."""
    chosen = [*on] or [*labels][:1]
    boxes = []
    for value, label in labels.items():
        checked = {"checked": ""} if value in chosen else {}
        box = element("input", type=kind, name=name, value=value, **checked)
        boxes.append(element("label", box, text(label)))
    return Markup("".join(boxes))


def _options(labels: Mapping[str, str]) -> Markup:
    return Markup("".join(_option(value, label) for value, label in labels.items()))


def _option(value: str, label: str, **more: str) -> Markup:
    return element("option", text(label), value=value, **more)


def _languages(of_page: str) -> Markup:
    """Each by its own name, and with the name of the block in it."""
    options = [_option("", of_page)]
    options += [
        _option(tag, words.name, lang=tag, data_title=words.title)
        for tag, words in LANGUAGES.items()
    ]
    return Markup("".join(options))


def _formats(page: Mapping[str, str]) -> Markup:
    """Each by how it writes; `data-of` is the language that it comes with."""
    told = {"plain": f" – {page['format_plain']}", "en-min2": f" – {page['format_portal']}"}
    options = [_option("", page["format_usual"])]
    for name in FORMATS:
        sample = " · ".join(number(value, name) for value in SAMPLES)
        of = name.partition("-")[0]
        options.append(_option(name, f"{sample} ({name}){told.get(name, '')}", data_of=of))
    return Markup("".join(options))


def _themes(page: Mapping[str, str]) -> Markup:
    """`data-of` is where there is one that the other lacks: the element, or what is drawn here."""
    common = ("auto", "light", "dark")
    options = [_option("", page["theme_page"], data_of="element")]
    for name in THEMES:
        of = {} if name in common else {"data_of": "drawn"}
        options.append(_option(name, page[f"theme_{name}"], **of))
    return Markup("".join(options))
