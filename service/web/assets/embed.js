// @ts-check
// Visit Counter: counts this page view and fills every <visit-counter> of the page.
//
//   <script async src="https://count.example.vn/embed.js" data-site="portal"></script>
//   <visit-counter></visit-counter>
//
// One POST counts the view and brings the numbers back. While the page is looked at it says
// "here", when it is left "bye". No cookie, nothing kept in the browser, no global name, nothing
// of the host page touched. Served as written, so that you can read what you embed: config, count,
// element. What differs from browser to browser is asked for before use; the syntax is ES2017.

/**
 * @typedef {Record<string, unknown>} Counts the service's answer: `online`, `today`, `week` …
 * @typedef {Counts | null | undefined} Known null: the service gave no numbers; undefined: not yet
 */

(() => {
  // ---- config ----

  const script = /** @type {HTMLScriptElement | null} */ (document.currentScript);
  if (!script) {
    say("embed.js was not loaded by a plain <script src> tag, so it cannot know its service");
    return;
  }
  const tag = script;
  if (isRepeated()) return;

  const SITE = /^[a-z0-9][a-z0-9._-]{0,62}$/;
  const METRICS = ["visits", "pageviews", "visitors"];
  const ROWS = "online today yesterday week last_week month last_month year total".split(" ");
  const SHOWN = ["online", "today", "week", "total"];
  /** Title, sentence for no numbers, then one label for each of ROWS. */
  const WORDS = new Map([
    [
      "vi",
      "Thống kê truy cập|Chưa lấy được số liệu.|Đang online|Hôm nay|Hôm qua|Trong tuần|Tuần trước|Trong tháng|Tháng trước|Trong năm|Tất cả",
    ],
    [
      "en",
      "Visitor statistics|No numbers right now.|Online now|Today|Yesterday|This week|Last week|This month|Last month|This year|All time",
    ],
  ]);
  const LATE_MS = 2000;

  const base = new URL(".", tag.src).href;
  const ownSite = tag.dataset.site || "";

  /** A page that got the snippet twice (theme and footer, say) is still one view. */
  function isRepeated() {
    const first = Array.from(document.scripts).find(
      (other) => other.src === tag.src && other.dataset.site === tag.dataset.site,
    );
    return first !== undefined && first !== tag;
  }

  function whyNotCounted() {
    if (!SITE.test(ownSite)) return 'the script tag needs data-site="…" with the id of a site';
    if (tag.dataset.count === "off") return 'data-count="off"';
    if (!/^https?:$/.test(location.protocol)) return "this page does not come from a web server";
    return "";
  }

  /** @param {string} sentence */
  function say(sentence) {
    console.info(`visit-counter: ${sentence}`);
  }

  // ---- count ----

  let viewed = false;
  let beatMs = 0;
  let beatDue = 0;
  let beatTimer = 0;

  async function view() {
    await whenSeen();
    viewed = true;
    const answer = await load(ownSite, hit("view"));
    viewed = Boolean(answer.counted);
    if (viewed) {
      beatMs = beatPeriod(answer.online_window);
      scheduleBeat();
    } else if (answer.reason) {
      say(`not counted: ${answer.reason}`);
    }
  }

  /** A prerendered page or a tab in the background is no view until somebody sees it. */
  function whenSeen() {
    return new Promise((resolve) => {
      const page = /** @type {Document & { prerendering?: boolean }} */ (document);
      const look = () => {
        if (page.prerendering || page.visibilityState === "hidden") return;
        page.removeEventListener("prerenderingchange", look);
        page.removeEventListener("visibilitychange", look);
        resolve(undefined);
      };
      page.addEventListener("prerenderingchange", look);
      page.addEventListener("visibilitychange", look);
      look();
    });
  }

  /**
   * A text/plain body needs no preflight; keepalive lets "bye" outlive its page.
   * @param {'view' | 'here' | 'bye'} kind
   * @returns {RequestInit}
   */
  function hit(kind) {
    const body = JSON.stringify({ k: kind, p: location.pathname.slice(0, 2048) });
    return { method: "POST", body, keepalive: true };
  }

  /** @param {string} site @param {RequestInit} [init] */
  function request(site, init) {
    /** @type {RequestInit} */
    const quiet = { credentials: "omit", referrerPolicy: "strict-origin" };
    return fetch(`${base}w/${site}`, Object.assign(quiet, init));
  }

  /**
   * Asks the service and tells the elements of the site what came of it.
   * @param {string} site @param {RequestInit} [init]
   * @returns {Promise<Counts>} empty when there was no use in what came
   */
  async function load(site, init) {
    const late = setTimeout(tell, LATE_MS, site, null);
    try {
      const response = await request(site, init);
      const answer = Object(await response.json());
      if (!response.ok) throw new Error(answer.detail || `status ${response.status}`);
      const shown = typeof answer.online === "number"; // a site may count and show nothing
      if (!shown && !("counted" in answer)) throw new Error("the answer holds no counts");
      tell(site, shown ? answer : null);
      return answer;
    } catch (error) {
      say(`no numbers of "${site}" from ${base}: ${Object(error).message}`);
      tell(site, null);
      return {};
    } finally {
      clearTimeout(late);
    }
  }

  /** A third of the window, so that one lost "here" takes nobody offline. @param {unknown} seconds */
  function beatPeriod(seconds) {
    const onlineWindow = Number(seconds) || 300;
    return (Math.min(Math.max(onlineWindow, 15), 86400) * 1000) / 3;
  }

  function scheduleBeat() {
    beatDue = Date.now() + beatMs * (0.8 + 0.4 * Math.random());
    resumeBeat();
  }

  function resumeBeat() {
    clearTimeout(beatTimer);
    if (!beatMs || document.visibilityState === "hidden") return;
    beatTimer = window.setTimeout(() => {
      report("here");
      scheduleBeat();
    }, beatDue - Date.now());
  }

  function leave() {
    if (viewed) report("bye");
    viewed = false;
    beatMs = 0;
    resumeBeat();
  }

  /**
   * Numbers on a page do not change by themselves (WCAG 2.2.2): this answer is not shown.
   * @param {'here' | 'bye'} kind
   */
  function report(kind) {
    request(ownSite, hit(kind)).catch(() => {});
  }

  // ---- element ----

  /** @type {Map<string, Known>} */
  const known = new Map();
  /** @type {Set<HTMLElement>} */
  const onPage = new Set();
  const style = makeStyle();

  class VisitCounter extends HTMLElement {
    static get observedAttributes() {
      return ["lang", "metric", "number-format", "show", "site"];
    }

    constructor() {
      super();
      const root = this.attachShadow({ mode: "open" });
      if (style) root.adoptedStyleSheets = [style];
      root.append(make("slot"), make("div"));
      root.addEventListener("slotchange", () => render(this));
    }

    connectedCallback() {
      onPage.add(this);
      render(this);
    }

    disconnectedCallback() {
      onPage.delete(this);
    }

    attributeChangedCallback() {
      if (this.isConnected) render(this);
    }
  }

  /** @param {string} site @param {Known} counts */
  function tell(site, counts) {
    known.set(site, counts);
    onPage.forEach((element) => {
      if (siteOf(element) === site) render(element);
    });
  }

  /** @param {string} site @returns {Known} */
  function ask(site) {
    if (!known.has(site)) {
      known.set(site, site ? undefined : null);
      if (site) load(site);
    }
    return known.get(site);
  }

  /**
   * The page's own content of the element stands until there are numbers, and stays when there
   * are none. The block takes its room from the start, so that the page does not jump.
   * @param {HTMLElement} element
   */
  function render(element) {
    const [slot, block] = /** @type {HTMLElement[]} */ (
      Array.from(/** @type {ShadowRoot} */ (element.shadowRoot).children)
    );
    const counts = ask(siteOf(element));
    const hasFallback = element.childElementCount > 0 || /\S/.test(element.textContent || "");
    slot.hidden = !hasFallback || Boolean(counts);
    block.hidden = !slot.hidden;
    block.lang = languageOf(element);
    fill(block, element, counts);
  }

  /** @param {HTMLElement} block @param {HTMLElement} element @param {Known} counts */
  function fill(block, element, counts) {
    const [title, sentence, ...labels] = String(WORDS.get(block.lang)).split("|");
    const list = make("ul", "list");
    rowsOf(element).forEach((row) => {
      const item = make("li", "row");
      const label = make("span", "label", `${labels[ROWS.indexOf(row)]}:`);
      const value = make("span", "value", shownValue(element, counts, row));
      item.append(label, " ", value);
      list.append(item);
    });
    block.textContent = "";
    block.append(counts === null ? make("p", "note", sentence) : make("p", "title", title), list);
  }

  /** @param {HTMLElement} element @param {Known} counts @param {string} row */
  function shownValue(element, counts, row) {
    if (counts === undefined) return "";
    const source = Object(counts);
    const number =
      row === "online" ? source.online : Object(source[row])[metricOf(element, source)];
    return Number.isSafeInteger(number) && number >= 0 ? formatted(element, number) : "–";
  }

  /** @param {HTMLElement} element @param {number} number */
  function formatted(element, number) {
    const format = element.getAttribute("number-format");
    if (format === "vi" || format === "en") return number.toLocaleString(format);
    // en-min2, the portals' way: 1886, but 20,657.
    return format === "plain" || number < 10000 ? String(number) : number.toLocaleString("en");
  }

  // What an attribute says; a value that is none falls to the default.

  /** @param {HTMLElement} element */
  function siteOf(element) {
    const site = element.getAttribute("site") || "";
    return SITE.test(site) ? site : SITE.test(ownSite) ? ownSite : "";
  }

  /** @param {HTMLElement} element */
  function languageOf(element) {
    const around = /** @type {HTMLElement | null} */ (element.closest("[lang]"));
    const tongue = (around ? around.lang : "") || navigator.language || "";
    const language = tongue.toLowerCase().split("-")[0];
    return WORDS.has(language) ? language : "en";
  }

  /** @param {HTMLElement} element @param {Counts} counts */
  function metricOf(element, counts) {
    const wanted = [element.getAttribute("metric"), counts.metric].map(String);
    return wanted.find((metric) => METRICS.includes(metric)) || "visits";
  }

  /** @param {HTMLElement} element */
  function rowsOf(element) {
    const wanted = (element.getAttribute("show") || "").split(/\s+/);
    const rows = wanted.filter((row) => ROWS.includes(row));
    return rows.length ? rows : SHOWN;
  }

  /** @param {string} name @param {string} [part] @param {string} [text] */
  function make(name, part, text) {
    const node = document.createElement(name);
    if (part) node.setAttribute("part", part);
    if (text) node.textContent = text;
    return node;
  }

  /** A constructed sheet needs no style-src; a browser without them shows a plain list. */
  function makeStyle() {
    if (!("adoptedStyleSheets" in document)) return undefined;
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`
      :host { display: grid }
      :host([hidden]), slot[hidden] { display: none }
      slot, div { display: block; grid-area: 1 / 1; min-inline-size: 0 }
      div[hidden] { visibility: hidden }
      p, ul { margin: 0; padding: 0 }
      p { margin-block-end: var(--visit-counter-gap, .25em) }
      [part=title] { color: var(--visit-counter-title-color, inherit);
        font-weight: var(--visit-counter-title-weight, bold) }
      ul { padding-inline-start: var(--visit-counter-indent, .75em);
        list-style: var(--visit-counter-bullet, "•  ") inside }
      li + li { margin-block-start: var(--visit-counter-gap, .25em) }
      [part=value] { color: var(--visit-counter-value-color, inherit);
        font-weight: var(--visit-counter-value-weight, inherit);
        font-variant-numeric: tabular-nums }`);
    return sheet;
  }

  // ---- start ----

  const reason = whyNotCounted();
  if (reason) {
    say(`not counted: ${reason}`);
  } else {
    known.set(ownSite, undefined);
    view();
    addEventListener("pagehide", leave);
    addEventListener("pageshow", (event) => {
      if (event.persisted) view();
    });
    document.addEventListener("visibilitychange", resumeBeat);
  }
  if (window.customElements && !customElements.get("visit-counter")) {
    customElements.define("visit-counter", VisitCounter);
  }
})();
