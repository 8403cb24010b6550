// @ts-check
// The second part of embed.js: <visit-counter>, and <div data-visit-counter> for editors that strip
// elements they do not know. It stands in one function with the first part, which counts.
//
// A feed is where numbers come from: a site, or one of its pages. However many elements show them,
// they are asked for once. An element is built when its attributes change and filled when its
// numbers do, so that focus stays where it is. Numbers change by themselves only where `live` says
// so, and there a button stops them (WCAG 2.2.2).

/**
 * @typedef {Object} Feed
 * @property {string} query
 * @property {Set<Shown>} shown
 * @property {Counts | null} [counts] null: there are none right now
 * @property {boolean} [isStale] they are not those of now
 * @property {number} failures in a row
 * @property {number} due when to ask again
 * @property {number} [timer]
 * @property {EventSource | null} [stream] null: none is to be had
 *
 * @typedef {Object} Shown an element, and how it shows its numbers
 * @property {HTMLElement} host
 * @property {HTMLElement} slot what the page itself put into the element
 * @property {HTMLElement} block
 * @property {boolean} isNear in view
 * @property {boolean} isPaused
 * @property {boolean} isHere it shows the page that it is on
 * @property {string} live how its numbers change by themselves, "" if they do not
 * @property {Feed} feed
 * @property {Record<string, string>} words
 * @property {string} layout
 * @property {string} title
 * @property {string[]} rows
 * @property {HTMLElement[]} values one for each row
 * @property {HTMLElement} heading
 * @property {HTMLElement} [button]
 */

const ROWS = "online today yesterday week last_week month last_month year total page".split(" ");
const LAYOUTS = "list inline table digits badge spark".split(" ");
const METRICS = "visits pageviews visitors".split(" ");

/** @type {Map<string, Feed>} */
const feeds = new Map();
/** @type {WeakMap<Element, Shown>} */
const mounted = new WeakMap();
/** The last view: what else is asked for comes after it, and includes it. @type {Promise<any>} */
let viewed = Promise.resolve();
/** How far this browser's clock is ahead of the service's. */
let aheadMs = 0;

// ---- numbers ----

share = (answer) => {
  viewed = answer;
  mountAll();
  for (const feed of feeds.values()) {
    for (const shown of feed.shown) if (shown.isHere) lookAgain(shown);
  }
  take(feedOf(site || ""), answer);
};

/** At the page that it is on by now. @param {Shown} shown */
function lookAgain(shown) {
  build(shown);
  refresh(shown.feed);
}

/** @param {string} query */
function feedOf(query) {
  /** @type {Feed} */
  const feed = feeds.get(query) || { query, shown: new Set(), failures: 0, due: 0 };
  feeds.set(query, feed);
  return feed;
}

/** @param {Feed} feed @param {Promise<Counts>} answer */
async function take(feed, answer) {
  feed.due = Infinity;
  steer(feed);
  dashSoon(feed);
  const counts = await answer;
  const isGood = counts.online >= 0;
  if (counts.counted && !counts.spooled && isGood) aheadMs = Date.now() - counts.as_of * 1000;
  feed.failures = isGood ? 0 : feed.failures + 1;
  const wait = isGood ? 3e4 : Math.min(2500 * 2 ** feed.failures, 6e5);
  feed.due = Date.now() + wait * (0.8 + 0.4 * Math.random());
  tell(feed, isGood ? counts : feed.counts, !isGood || isOld(counts, 6e4));
}

/** @param {Feed} feed */
function dashSoon(feed) {
  setTimeout(() => feed.counts || tell(feed), 2000);
}

/** @param {Feed} feed @param {Counts | null} [counts] @param {boolean} [isStale] */
function tell(feed, counts, isStale) {
  feed.counts = counts || null;
  feed.isStale = isStale;
  for (const shown of feed.shown) if (!shown.isPaused) fill(shown);
  steer(feed);
}

/** Streams, asks in a while, or rests. @param {Feed} feed */
function steer(feed) {
  clearTimeout(feed.timer);
  const modes = Array.from(feed.shown, (shown) => shown.isNear && !shown.isPaused && shown.live);
  const isLive = !document.hidden && modes.some(Boolean);
  const isStreamed = modes.includes("sse") || (modes.includes("auto") && isMultiplexed());
  if (isLive && isStreamed && feed.stream !== null) {
    feed.stream = feed.stream || stream(feed);
    return;
  }
  if (feed.stream) feed.stream.close();
  feed.stream = feed.stream && undefined;
  const isWanted = isLive || feed.failures || (feed.counts === undefined && feed.shown.size);
  if (isWanted && !document.hidden && feed.due < Infinity) {
    feed.timer = setTimeout(refresh, feed.due - Date.now(), feed);
  }
}

/** @param {Feed} feed */
function refresh(feed) {
  // Unchanged counts come from the browser's cache (304), with the instant of when they were new.
  const cache = isOld(feed.counts, 45000) ? "reload" : "no-cache";
  take(
    feed,
    viewed.then(() => ask(feed.query, { cache, credentials: "omit" })),
  );
}

/** @param {Counts | null | undefined} counts @param {number} ms */
function isOld(counts, ms) {
  return !counts || Date.now() - aheadMs - counts.as_of * 1000 > ms;
}

/** By HTTP/1.1 a browser has six connections, and a stream would keep one of them. */
function isMultiplexed() {
  return performance
    .getEntriesByName(src)
    .some((file) => /^h[23]/.test(Object(file).nextHopProtocol));
}

/** @param {Feed} feed */
function stream(feed) {
  const source = new EventSource(`${base}w/${feed.query.replace(/\?|$/, "/live$&")}`);
  dashSoon(feed);
  source.onmessage = (event) => tell(feed, JSON.parse(event.data));
  source.addEventListener("stale", () => tell(feed, feed.counts, true));
  source.onerror = () => {
    // Who is refused polls instead.
    if (source.readyState === 2) feed.stream = null;
    tell(feed, feed.counts, true);
  };
  return source;
}

// ---- what attributes say ----

/** @param {Shown} shown @param {string} name */
function read({ host }, name) {
  const own = host.getAttribute(name);
  return own === null ? host.getAttribute(`data-${name}`) : own;
}

/** One of some values: any other is the default. @param {Shown} shown @param {string} name @param {string[]} values @param {string} [usual] */
function pick(shown, name, values, usual = "") {
  const value = read(shown, name) || "";
  return values.includes(value) ? value : usual;
}

/** @param {Shown} shown */
function wordsOf(shown) {
  const around = Object(shown.host.closest("[lang]"));
  const tag = read(shown, "lang") || around.lang || navigator.language;
  const [language] = tag.toLowerCase().split(/[-_]/);
  return bundle.words.find((words) => words.lang === language) || bundle.words[0];
}

/** @param {Shown} shown */
function rowsOf(shown) {
  const rows = (read(shown, "show") || "").split(/\s+/).filter((row) => ROWS.includes(row));
  if (rows.length) return rows;
  if (read(shown, "path")) return ["page"];
  if (shown.layout === "spark") return ["today"];
  return /digits|badge/.test(shown.layout) ? ["total"] : ["online", "today", "week", "total"];
}

/** Its own site, or the snippet's. @param {Shown} shown */
function siteOf(shown) {
  const isSite = /^[a-z0-9][a-z0-9._-]{0,62}$/;
  return [read(shown, "site"), site].find((name) => isSite.test(name || "")) || "";
}

/** @param {Shown} shown */
function join(shown) {
  const own = read(shown, "path");
  const isOfPage = shown.rows.includes("page");
  const page = isOfPage ? `?${new URLSearchParams({ path: own || path })}` : "";
  const feed = feedOf(siteOf(shown) + page);
  if (!feed.query) Object.assign(feed, { counts: null, due: Infinity });
  if (shown.feed && shown.feed !== feed) shown.feed.shown.delete(shown);
  feed.shown.add(shown);
  shown.feed = feed;
  shown.isHere = isOfPage && !own;
}

// ---- building ----

/** @param {string} name @param {string} [part] @param {string} [text] */
function make(name, part, text) {
  const node = document.createElement(name);
  if (part) node.setAttribute("part", part);
  if (text) node.textContent = text;
  return node;
}

/** @param {HTMLElement} host */
function mount(host) {
  const root = host.attachShadow({ mode: "open" });
  if (sheet) root.adoptedStyleSheets = [sheet];
  const slot = make("slot");
  const block = make("div", "block");
  root.append(slot, block);
  const shown = /** @type {Shown} */ ({ host, slot, block, isNear: !watcher });
  mounted.set(host, shown);
  if (watcher) watcher.observe(host);
  new MutationObserver(() => build(shown)).observe(host, { attributes: true });
  return shown;
}

function mountAll() {
  /** @type {NodeListOf<HTMLElement>} */
  const hosts = document.querySelectorAll("div[data-visit-counter]");
  for (const host of hosts) if (!host.shadowRoot) build(mount(host));
}

/** Makes all but the numbers. @param {Shown} shown */
function build(shown) {
  const { block } = shown;
  const words = wordsOf(shown);
  const title = read(shown, "label-title");
  const theme = pick(shown, "theme", ["auto", "light", "dark"]);
  shown.words = words;
  shown.title = title === null ? words.title : title;
  shown.layout = pick(shown, "layout", LAYOUTS, "list");
  shown.live = pick(shown, "live", ["poll", "sse", "auto"]);
  shown.rows = rowsOf(shown);
  join(shown);

  block.lang = words.lang;
  block.dir = words.direction;
  block.className = [shown.layout, theme && "themed", theme, shown.title ? "" : "bare"].join(" ");
  block.textContent = "";
  shown.heading = block.appendChild(make("p"));
  shown.button = shown.live ? block.appendChild(buttonOf(shown)) : undefined;
  if (shown.layout === "spark") block.append(chartOf(shown, theme));
  const list = block.appendChild(make("ul"));
  list.setAttribute("aria-label", shown.title || words.title);
  shown.values = shown.rows.map((row) => {
    const given = read(shown, `label-${row}`);
    const label = given === null ? words[row] : given;
    const item = list.appendChild(make("li", "row"));
    item.append(make("span", "label", label + (label && words.colon)), make("span", "value"));
    return /** @type {HTMLElement} */ (item.lastChild);
  });
  if (read(shown, "how") !== null) block.append(howOf(shown));
  fill(shown);
  steer(shown.feed);
}

/** @param {Shown} shown */
function buttonOf(shown) {
  const button = make("button", "toggle");
  button.onclick = () => {
    shown.isPaused = !shown.isPaused;
    fill(shown);
    steer(shown.feed);
  };
  return button;
}

/** What the service tells of a site in a language. @param {Shown} shown @param {string} name */
function told(shown, name) {
  const metric = pick(shown, "metric", METRICS);
  return `${siteOf(shown)}/${name}?lang=${shown.words.lang}${metric && "&metric="}${metric}`;
}

/** The last thirty days. @param {Shown} shown @param {string} theme */
function chartOf(shown, theme) {
  const chart = /** @type {HTMLImageElement} */ (make("img", "chart"));
  chart.src = `${base}w/${told(shown, "spark.svg")}&theme=${theme || "clear"}`;
  chart.alt = shown.words.last_days;
  return chart;
}

/** How we count, once somebody wants to know. @param {Shown} shown */
function howOf(shown) {
  const details = make("details", "how");
  const summary = make("summary", "", shown.words.how);
  details.append(summary);
  summary.onclick = async () => {
    summary.onclick = null;
    const { how = [shown.words.none] } = await ask(told(shown, "how.json"));
    details.append(...how.map((/** @type {string} */ line) => make("p", "", line)));
  };
  return details;
}

// ---- filling ----

/** Puts the numbers in, and says that there are none, or of when they are. @param {Shown} shown */
function fill(shown) {
  const { host, slot, block, heading, words, button, feed, layout } = shown;
  const { counts } = feed;
  const old =
    counts &&
    feed.isStale &&
    words.as_of.replace("{time}", () => new Date(counts.as_of * 1000).toLocaleString(words.lang));
  const note = counts === null ? words.none : old || "";
  block.title = note;
  heading.textContent = note || shown.title;
  heading.setAttribute("part", note ? "note" : "title");
  shown.values.forEach((value, at) => {
    fillRow(shown, value, shown.rows[at]);
  });
  if (button) {
    button.title = button.textContent = shown.isPaused ? words.resume : words.pause;
    button.className = shown.isPaused ? "paused" : "";
  }
  // What the page put into the element stands until there are numbers, and if there are none.
  const hasOwn = host.childElementCount > 0 || /\S/.test(host.textContent || "");
  slot.hidden = !hasOwn || Boolean(counts);
  const isBlank = counts === undefined && /inline|badge/.test(layout);
  block.style.visibility = slot.hidden && !isBlank ? "" : "hidden";
}

/** @param {Shown} shown @param {HTMLElement} value @param {string} row */
function fillRow(shown, value, row) {
  const counts = Object(shown.feed.counts);
  const metric = pick(shown, "metric", METRICS, counts.metric);
  const found = Object(counts[row]);
  const number = row === "online" ? counts.online : found[row === "page" ? "pageviews" : metric];
  const isNumber = Number.isSafeInteger(number) && number >= 0;
  const isDrawn = shown.layout === "digits";
  const text = isNumber ? written(shown, number, isDrawn) : "–";
  value.textContent = shown.feed.counts === undefined ? "" : text;
  const item = /** @type {HTMLElement} */ (value.parentNode);
  item.hidden = number === 0 && read(shown, "hide-zero") !== null;
  if (!isDrawn) return;
  // Each digit is seen by itself; what is heard is the number.
  const digits = make("span");
  digits.setAttribute("aria-hidden", "true");
  digits.append(
    ...Array.from(value.textContent || "000000", (digit) => make("span", "digit", digit)),
  );
  const heard = make("span", "", value.textContent);
  heard.className = "heard";
  value.textContent = "";
  value.append(heard, digits);
}

/** As the service writes it. @param {Shown} shown @param {number} number @param {boolean} isDrawn */
function written(shown, number, isDrawn) {
  const format = pick(shown, "number-format", Object.keys(bundle.formats), shown.words.format);
  const [from, zero, group = ""] = bundle.formats[format];
  const width = Math.min(Number(read(shown, "zero-pad")) || 0, 12);
  const text = String(number).padStart(width, "0");
  const isGrouped = text.length >= Number(from) && !isDrawn && !width;
  return (isGrouped ? text.replace(/\B(?=(\d{3})+$)/g, group) : text).replace(/\d/g, (digit) =>
    String.fromCharCode(zero.charCodeAt(0) + Number(digit)),
  );
}

// ---- looks ----

/** A constructed sheet needs no style-src; a browser without them shows a plain list. */
function makeSheet() {
  if (!("adoptedStyleSheets" in document)) return undefined;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { display: grid }
    :host([hidden]), [hidden] { display: none !important }
    slot, div { grid-area: 1 / 1; min-inline-size: 0 }
    slot { display: block }
    div { position: relative; display: grid; grid-template-columns: 1fr auto }
    div > * { grid-column: 1 / -1 }
    .themed { padding: .75em 1em; border: 1px solid #8886; border-radius: .4em;
      background: var(--visit-counter-ground, Canvas); color: var(--visit-counter-ink, CanvasText) }
    .auto { color-scheme: light dark }
    .light { color-scheme: light }
    .dark { color-scheme: dark }
    p, ul, li { margin: 0; padding: 0; list-style: none }
    div > p { grid-column: 1; margin-block-end: var(--visit-counter-gap, .25em) }
    [part=title] { color: var(--visit-counter-title-color, inherit);
      font-weight: var(--visit-counter-title-weight, bold) }
    [part=value] { color: var(--visit-counter-value-color, inherit); unicode-bidi: isolate;
      font-weight: var(--visit-counter-value-weight, inherit); font-variant-numeric: tabular-nums }
    .list ul { padding-inline-start: var(--visit-counter-indent, .75em) }
    .list li { list-style: var(--visit-counter-bullet, "•  ") inside }
    li + li { margin-block-start: var(--visit-counter-gap, .25em) }
    .table li { display: flex; justify-content: space-between; gap: 1em; margin: 0;
      padding-block: var(--visit-counter-gap, .25em); border-block-start: 1px solid #8886 }
    .inline, .badge, .digits { grid-template-columns: auto 1fr; align-items: center }
    .inline > ul, .badge > ul, .digits > ul { grid-area: 1 / 2 }
    .inline ul, .badge ul { display: flex; flex-wrap: wrap; gap: 0 1.25em }
    .inline li, .badge li { margin: 0 }
    .badge ul { gap: .5em }
    .badge li { display: flex; border-radius: .3em; overflow: hidden;
      background: var(--visit-counter-label-ground, #555); color: #fff }
    .badge li > * { padding: .1em .5em }
    .badge [part=value] { background: var(--visit-counter-accent, #0b5cad) }
    [aria-hidden] { display: inline-flex; gap: 2px; direction: ltr; vertical-align: middle }
    [part=digit] { inline-size: 1.2em; border-radius: .15em; text-align: center;
      font: bold 1.35em/1.5 monospace;
      color: var(--visit-counter-digit-color, #fff);
      background: var(--visit-counter-digit-ground, linear-gradient(#08090a, #3a3f46, #08090a)) }
    img { block-size: 3.25em; margin-block-end: .25em }
    div > button { grid-area: 1 / 2; inline-size: 24px; block-size: 24px; padding: 0;
      border: 0; background: none; color: inherit; font-size: 0; cursor: pointer }
    .inline > button, .badge > button, .digits > button { grid-area: 1 / 1 }
    button::before { content: ""; display: block; inline-size: 10px; block-size: 12px;
      margin: auto; border: solid; border-width: 0 3px; box-sizing: border-box }
    .paused::before { border-width: 0 0 0 10px; clip-path: polygon(0 0, 100% 50%, 0 100%) }
    details { font-size: .85em }
    .bare > p, .inline > p, .badge > p, .digits > p, .heard,
    .digits li:only-child [part=label] { position: absolute; clip-path: inset(50%) }`);
  return sheet;
}

const sheet = makeSheet();
const watcher =
  window.IntersectionObserver &&
  new IntersectionObserver((entries) => {
    entries.forEach(({ target, isIntersecting }) => {
      const shown = mounted.get(target);
      if (!shown) return;
      shown.isNear = isIntersecting;
      steer(shown.feed);
    });
  });

if (window.customElements && !customElements.get("visit-counter")) {
  class VisitCounter extends HTMLElement {
    connectedCallback() {
      build(mounted.get(this) || mount(this));
    }
  }
  customElements.define("visit-counter", VisitCounter);
  document.addEventListener("DOMContentLoaded", mountAll);
  addEventListener("visibilitychange", () => feeds.forEach(steer));
  mountAll();
}
