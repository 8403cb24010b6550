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
 * @property {Feed} feed
 * @property {boolean} [isNear] in view
 * @property {boolean} [isPaused]
 * @property {boolean} isHere it shows the page that it is on
 * @property {bundle.Words} words
 * @property {string} layout
 * @property {string} measure the metric, "" for the site's
 * @property {string} live how its numbers change by themselves, "" if they do not
 * @property {string} title
 * @property {[string, HTMLElement][]} rows the name of each, and where its number goes
 * @property {HTMLElement} heading
 * @property {HTMLElement | ""} button
 * @property {HTMLElement} status what a link to #visit-counter-off or -on did
 */

/** @type {Map<string, Feed>} */
const feeds = new Map();
/** Who is in the page, or was a while ago. @type {Shown[]} */
let mounted = [];
/** @type {WeakMap<HTMLElement, Shown>} */
const known = new WeakMap();
/** The last view: what else is asked for comes after it, and includes it. @type {Promise<any>} */
let viewed = Promise.resolve();
/** How far this browser's clock is ahead of the service's. */
let aheadMs = 0;

// ---- numbers ----

share = (answer) => {
  viewed = answer;
  mountAll();
  // Who shows the views of the page that it is on may be on another one by now.
  const here = mounted.filter((shown) => shown.isHere);
  here.forEach(build);
  new Set(here.map((shown) => shown.feed)).forEach(refresh);
  take(feedOf(site || ""), answer);
};

/** Without numbers within two seconds it has none. @param {string} query */
function feedOf(query) {
  /** @type {Feed} */
  const feed = feeds.get(query) || { query, failures: 0, due: 0 };
  feeds.set(query, feed);
  setTimeout(() => feed.counts || tell(feed), 2e3);
  return feed;
}

/** The elements that show it. @param {Feed} feed */
function shownOf(feed) {
  return mounted.filter((shown) => shown.feed === feed && shown.host.isConnected);
}

/** @param {Feed} feed @param {Promise<Counts>} answer */
async function take(feed, answer) {
  feed.due = Infinity;
  steer(feed);
  // A service that hangs makes no error.
  const late = setTimeout(tell, 1e4, feed, feed.counts, true);
  const counts = await answer;
  clearTimeout(late);
  const isGood = Number.isSafeInteger(counts.online);
  if (counts.counted && !counts.spooled && isGood) aheadMs = Date.now() - counts.as_of * 1000;
  feed.failures = isGood ? 0 : feed.failures + 1;
  const rest = isGood ? 3e4 : Math.min(2500 * 2 ** feed.failures, 6e5);
  feed.due = Date.now() + rest * (0.8 + 0.4 * Math.random());
  tell(feed, isGood ? counts : feed.counts, !isGood || isOld(counts, 6e4));
}

/** @param {Feed} feed @param {any} [counts] @param {boolean} [isStale] */
function tell(feed, counts, isStale) {
  feed.counts = Number.isSafeInteger(Object(counts).online) ? counts : null;
  feed.isStale = isStale;
  shownOf(feed)
    .filter((shown) => !shown.isPaused)
    .forEach(fill);
  steer(feed);
}

/** Streams, asks in a while, or rests. @param {Feed} feed */
function steer(feed) {
  clearTimeout(feed.timer);
  const all = document.hidden ? [] : shownOf(feed);
  const modes = all.map((shown) => shown.isNear && !shown.isPaused && shown.live);
  // By HTTP/1.1 a browser has six connections, and a stream would keep one of them.
  const isMultiplexed = /Protocol":"h[23]/.test(JSON.stringify(performance.getEntriesByName(src)));
  const isStreamed = modes.includes("sse") || (modes.includes("auto") && isMultiplexed);
  if (isStreamed && feed.stream !== null) {
    feed.stream = feed.stream || stream(feed);
    return;
  }
  if (feed.stream) {
    feed.stream.close();
    feed.stream = undefined;
  }
  const isWanted = modes.some(Boolean) || feed.failures || !feed.counts;
  if (all.length && isWanted && feed.due < Infinity && /^[^?]/.test(feed.query)) {
    feed.timer = setTimeout(refresh, feed.due - Date.now(), feed);
  }
}

/** @param {Feed} feed */
function refresh(feed) {
  // Unchanged counts come from the browser's cache (304), with the instant of when they were new.
  const cache = isOld(feed.counts, 4e4) ? "reload" : "no-cache";
  take(
    feed,
    viewed.then(() => ask(feed.query, { cache })),
  );
}

/** @param {Counts | null | undefined} counts @param {number} ms */
function isOld(counts, ms) {
  return !counts || Date.now() - aheadMs - counts.as_of * 1000 > ms;
}

/** @param {Feed} feed */
function stream(feed) {
  const source = new EventSource(`${base}${feed.query.replace(/\?|$/, "/live$&")}`);
  source.onmessage = (event) => {
    /** @type {Counts | undefined} */
    let counts;
    try {
      counts = JSON.parse(event.data);
    } catch (error) {
      say(`${error}`);
    }
    tell(feed, counts);
  };
  source.addEventListener("stale", () => tell(feed, feed.counts, true));
  source.onerror = () => {
    // Who is refused polls instead.
    if (source.readyState === 2) feed.stream = null;
    tell(feed, feed.counts, true);
  };
  return source;
}

// ---- what attributes say ----

/**
 * An attribute, as it is or with data- before it.
 * @template T @param {Shown} shown @param {string} name @param {T} usual
 */
function read({ host }, name, usual) {
  const given = host.getAttributeNode(name) || host.getAttributeNode(`data-${name}`);
  return given ? given.value : usual;
}

/** Whether a value is one of some; the console is told of another one. @param {string} name @param {string} value @param {string[]} some */
function isOne(name, value, some) {
  const isKnown = some.includes(value);
  if (value && !isKnown) say(`${name}="${value}" is none of ${some.join(" ").trim()}`);
  return isKnown;
}

/** One of some values: any other is the first. @param {Shown} shown @param {string} name @param {string} some */
function pick(shown, name, some) {
  const values = some.split(" ");
  const value = read(shown, name, "");
  return isOne(name, value, values) ? value : values[0];
}

/** Countries' codes that are often taken for their languages'. @type {Record<string, string>} */
const mistaken = { vn: "vi", kh: "km", jp: "ja", kr: "ko", cn: "zh" };

/** By its attribute, the page around it, or the reader's browser. @param {Shown} shown */
function wordsOf(shown) {
  const { lang = "" } = Object(shown.host.closest("[lang]"));
  const tag = read(shown, "lang", lang) || navigator.language;
  const [primary] = tag.toLowerCase().split(/[-_]/);
  const language = mistaken[primary] || primary;
  return bundle.words.find((words) => words.lang === language) || bundle.words[0];
}

/** @param {Shown} shown */
function rowsOf(shown) {
  const names = Object.keys(shown.words.labels);
  const rows = read(shown, "show", "")
    .split(/\s+/)
    .filter((row) => isOne("show", row, names));
  if (rows.length) return rows;
  if (read(shown, "path", "")) return ["page"];
  if (shown.layout === "spark") return ["today"];
  return /digits|badge/.test(shown.layout) ? ["total"] : ["online", "today", "week", "total"];
}

/** Its own site, or the snippet's. @param {Shown} shown */
function siteOf(shown) {
  return encodeURIComponent(read(shown, "site", site || ""));
}

/** @param {Shown} shown @param {string[]} rows */
function join(shown, rows) {
  const own = read(shown, "path", "");
  const isOfPage = rows.includes("page");
  // As the page's links are: only the page knows what a relative address is relative to.
  link.href = own || path;
  const address = link.href.replace(location.origin, "");
  const query = isOfPage ? `?path=${encodeURIComponent(address)}` : "";
  shown.feed = feedOf(siteOf(shown) + query);
  shown.isHere = isOfPage && !own;
}

// ---- building ----

/** @param {string} name @param {string} part @param {(Node | string)[]} children */
function make(name, part, ...children) {
  const node = document.createElement(name);
  node.part = part;
  node.append(...children);
  return node;
}

/** Also one that was taken out, and is back. @param {HTMLElement} host */
function mount(host) {
  const shown = known.get(host) || /** @type {Shown} */ ({ host });
  if (!host.shadowRoot) {
    const root = host.attachShadow({ mode: "open" });
    if (sheet) root.adoptedStyleSheets = [sheet];
    shown.slot = make("slot", "");
    shown.block = make("div", "");
    root.append(shown.slot, shown.block);
    known.set(host, shown);
    // How the page has it look is no reason to build it anew.
    new MutationObserver((changes) => {
      if (changes.some((each) => !/class|style/.test(`${each.attributeName}`))) build(shown);
    }).observe(host, { attributes: true });
    new IntersectionObserver((entries) => {
      for (const entry of entries) shown.isNear = entry.isIntersecting;
      feeds.forEach(steer);
    }).observe(host);
  }
  mounted = [shown, ...mounted.filter((each) => each !== shown && each.host.isConnected)];
  build(shown);
}

function mountAll() {
  /** @type {NodeListOf<HTMLElement>} */
  const hosts = document.querySelectorAll("div[data-visit-counter]");
  for (const host of hosts) if (canShow && !host.shadowRoot) mount(host);
}

/** Makes all but the numbers. @param {Shown} shown */
function build(shown) {
  const { block } = shown;
  const words = wordsOf(shown);
  const theme = pick(shown, "theme", " auto light dark");
  shown.words = words;
  shown.layout = pick(shown, "layout", "list inline table digits badge spark");
  shown.measure = pick(shown, "metric", " visits pageviews visitors");
  shown.live = pick(shown, "live", " poll sse auto");
  const rows = rowsOf(shown);
  join(shown, rows);

  shown.title = read(shown, "label-title", words.title);
  const isLine = /inline|digits|badge/.test(shown.layout);
  const look = isLine ? "line bare" : shown.title ? "" : "bare";
  block.lang = words.lang;
  block.dir = "auto";
  block.className = `${shown.layout} ${theme} ${look}`;
  block.textContent = "";
  shown.heading = make("span", "");
  const line = make("p", "", shown.heading);
  shown.button = shown.live && line.appendChild(buttonOf(shown));
  block.append(line);
  if (shown.layout === "spark") block.append(chartOf(shown, theme));
  const list = make("ul", "list");
  block.append(list);
  shown.rows = rows.map((row) => {
    const label = read(shown, `label-${row}`, words.labels[row]);
    const value = make("bdi", "value");
    const name = make("span", "label", label && label + words.colon);
    list.append(make("li", "row", name, value));
    return [row, value];
  });
  if (read(shown, "how", null) !== null) block.append(howOf(shown));
  shown.status = make("span", "status");
  shown.status.setAttribute("role", "status");
  block.append(shown.status);
  inform(shown);
  fill(shown);
  feeds.forEach(steer);
}

/** Says what the visitor's link did: also that the browser could not keep the wish. @param {Shown} shown */
function inform({ status, words }) {
  if (!/^#visit-counter-o/.test(location.hash)) return;
  status.textContent = whyNot() === "opted out" ? words.opted_out : words.opted_in;
}

/** @param {Shown} shown */
function buttonOf(shown) {
  const button = make("button", "toggle");
  button.onclick = () => {
    shown.isPaused = !shown.isPaused;
    fill(shown);
    feeds.forEach(steer);
  };
  return button;
}

/** What the service tells of a site in a language. @param {Shown} shown @param {string} name */
function told(shown, name) {
  const metric = shown.measure && `&metric=${shown.measure}`;
  return `${siteOf(shown)}/${name}?lang=${shown.words.lang}${metric}`;
}

/** The last thirty days. @param {Shown} shown @param {string} theme */
function chartOf(shown, theme) {
  const chart = /** @type {HTMLImageElement} */ (make("img", "chart"));
  chart.src = `${base}${told(shown, "spark.svg")}&theme=${theme || "clear"}`;
  chart.alt = shown.words.last_days;
  return chart;
}

/** How we count, once somebody wants to know. @param {Shown} shown */
function howOf(shown) {
  const details = make("details", "how", make("summary", "", shown.words.how));
  details.ontoggle = async () => {
    details.ontoggle = null;
    const { how = [shown.words.none] } = await ask(told(shown, "how.json"));
    for (const line of how) details.append(make("p", "", line));
  };
  return details;
}

// ---- filling ----

/** Puts the numbers in, and says that there are none, or of when they are. @param {Shown} shown */
function fill(shown) {
  const { host, slot, block, heading, words, button, feed } = shown;
  const { counts, isStale } = feed;
  let note = "";
  if (!counts) note = words.none;
  else if (isStale) {
    const time = new Date(counts.as_of * 1000).toLocaleString(words.lang);
    note = words.as_of.replace("{time}", time);
  }
  heading.textContent = note || shown.title;
  heading.part = note ? "note" : "title";
  for (const [row, value] of shown.rows) fillRow(shown, row, value);
  if (button) {
    button.title = shown.isPaused ? words.resume : words.pause;
    button.setAttribute("aria-label", button.title);
    button.textContent = shown.isPaused ? "►" : "||";
  }
  // What the page put into the element stands until there are numbers, and if there are none.
  const hasOwn = host.firstElementChild || /\S/.test(host.textContent || "");
  slot.hidden = !!counts;
  block.style.visibility = counts || (counts === null && !hasOwn) ? "" : "hidden";
}

/** @param {Shown} shown @param {string} row @param {HTMLElement} value */
function fillRow(shown, row, value) {
  const counts = Object(shown.feed.counts);
  const metric = row === "page" ? "pageviews" : shown.measure || counts.metric;
  const number = row === "online" ? counts[row] : Object(counts[row])[metric];
  const item = /** @type {HTMLElement} */ (value.parentNode);
  item.hidden = number === 0 && read(shown, "hide-zero", null) !== null;
  const text = number >= 0 && Number.isSafeInteger(number) ? written(shown, number) : "–";
  const isDrawn = shown.layout === "digits";
  value.textContent = isDrawn ? "" : text;
  // Each digit is seen by itself; what is heard is the number.
  if (isDrawn) for (const digit of text) value.append(make("span", "digit", digit));
  const isRough = metric === "visitors" && `${counts.approximate}`.split(",").includes(row);
  const sign = shown.words.about;
  if (isDrawn) hear(value, isRough ? `${sign} ${text}` : text);
  if (isRough) value.prepend(hear(make("span", "sign", "≈"), sign), " ");
}

/** Says how a node that is seen is heard. @param {HTMLElement} node @param {string} text */
function hear(node, text) {
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", text);
  return node;
}

/** As the service writes it. @param {Shown} shown @param {number} number */
function written(shown, number) {
  const { formats } = bundle;
  const format = formats[read(shown, "number-format", "")] || formats[shown.words.format];
  const [from, group = "", ...digits] = format;
  const width = Math.min(Number(read(shown, "zero-pad", "")), 12);
  let text = String(number);
  if (width > 0) text = text.padStart(width, "0");
  else if (text.length >= Number(from) && shown.layout !== "digits") {
    text = text.replace(/\B(?=(\d{3})+$)/g, group);
  }
  return text.replace(/\d/g, (digit) => digits[Number(digit)] || digit);
}

// ---- looks ----

/** A constructed sheet needs no style-src; a browser without them shows a plain list. */
const sheet = "adoptedStyleSheets" in document && new CSSStyleSheet();
if (sheet) {
  sheet.replaceSync(`
    :host { display: grid }
    :host([hidden]), [hidden] { display: none!important }
    slot { display: block }
    slot, div { grid-area: 1/1 }
    div, ul { display: grid; gap: var(--visit-counter-gap, .25em); position: relative }
    .auto, .light, .dark { padding: .75em 1em; border: 1px solid #8886; border-radius: .2em;
      color-scheme: light dark;
      background: var(--visit-counter-ground, Canvas); color: var(--visit-counter-ink, CanvasText) }
    .light { color-scheme: light }
    .dark { color-scheme: dark }
    p, ul, li { margin: 0; padding: 0; list-style: none }
    p { display: flex }
    [part=title] { color: var(--visit-counter-title-color);
      font-weight: var(--visit-counter-title-weight, bold) }
    [part=value] { color: var(--visit-counter-value-color);
      font-weight: var(--visit-counter-value-weight) }
    .list ul { padding-inline-start: var(--visit-counter-indent, .75em) }
    .list li { list-style: var(--visit-counter-bullet, "•  ") inside }
    .table li { display: flex; align-items: baseline; justify-content: space-between; gap: 1em;
      padding-block-start: .25em; border-block-start: 1px solid #8886 }
    .line, .line ul { display: flex; flex-wrap: wrap; align-items: baseline }
    .line ul { flex: 1; gap: .25em 1em }
    .badge li { display: flex; border-radius: .2em; overflow: hidden;
      background: var(--visit-counter-label-ground, #555); color: #fff }
    .badge li > * { padding: .1em .5em }
    .badge [part=value] { background: var(--visit-counter-accent, #0b5cad) }
    [part=digit] { display: inline-block; padding: .1em .25em; margin: 1px; border-radius: .2em;
      font: bold 1.35em monospace; color: var(--visit-counter-digit-color, #fff);
      background: var(--visit-counter-digit-ground, linear-gradient(#111, #444, #111)) }
    img { block-size: 3.25em }
    button { inline-size: 24px; margin-inline-start: auto; padding: 0; border: 0;
      background: none; color: inherit; font: bold 12px/24px sans-serif }
    details, [part=status] { flex-basis: 100% }
    [part=status]:empty { position: absolute }
    .bare p { display: contents }
    .bare [part=title], .digits li:only-child [part=label] { position: absolute; clip-path: inset(50%) }`);
}

// Where one of these is missing the page keeps what it put into the element.
const canShow = window.customElements && window.IntersectionObserver;
if (canShow && !customElements.get("visit-counter")) {
  const element = class extends HTMLElement {
    connectedCallback() {
      mount(this);
    }
  };
  customElements.define("visit-counter", element);
  document.addEventListener("DOMContentLoaded", mountAll);
  addEventListener("visibilitychange", () => feeds.forEach(steer));
  addEventListener("hashchange", () => mounted.forEach(inform));
  mountAll();
}
