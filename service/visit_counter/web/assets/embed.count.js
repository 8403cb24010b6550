// @ts-check
// Visit Counter: counts that somebody looks at this page.
//
//   <script async src="https://count.example.vn/embed.js" data-site="portal"></script>
//
// One POST counts a view and brings the numbers back; while the page is looked at it says "here",
// when it is left "bye". No cookie, no global name, and nothing is kept in the browser unless the
// page asks for it (data-identity) or the visitor does (#visit-counter-off). Alone it is served as
// embed.count.js, and before the element as embed.js, by service/web/scripts.py: within a function,
// without comments, and with short names. The syntax is ES2017, for old browsers that still count.

/** @typedef {Record<string, any>} Counts the service's answer: `online`, `today`, `week` … */

const { dataset: data, src } = /** @type {HTMLScriptElement} */ (document.currentScript);
const { site } = data;
let base = new URL(".", src);

/** Takes the numbers that a view brings. @type {(answer: Promise<Counts>) => void} */
// biome-ignore lint/style/useConst: the element takes them, where it is there.
let share = () => {};
let said = "";

/** Not the same again and again. @param {string} text */
function say(text) {
  if (text !== said) console.info(`visit-counter: ${text}`);
  said = text;
}

/** @param {number} ms @returns {Promise<any>} */
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * The service's answer; of one that is of no use only whether the same is worth asking again.
 * @param {string | undefined} site @param {RequestInit} [init]
 */
async function ask(site, init = {}) {
  let again = true;
  try {
    init.credentials = "omit";
    // Who hangs makes no error.
    const reply = await Promise.race([fetch(`${base}w/${site}`, init), wait(2e4)]);
    if (!reply) throw "no answer";
    /** @type {Counts} */
    const counts = await reply.json();
    if (init.body && reply.redirected) {
      // A redirected hit has lost its method or its origin.
      base = new URL("..", reply.url);
      throw `moved to ${base}: put that into the page`;
    }
    again = !/^4(?!08|29)/.test(`${reply.status}`);
    if (reply.ok && counts && (!init.body || "counted" in counts)) return counts;
    throw counts.detail || "not a counter";
  } catch (error) {
    say(`${base}w/${site}: ${error}`);
    return { again };
  }
}

/**
 * A view by picture follows redirects that a script may not, and no script of the page stands in
 * its way. Whether it got there, without the numbers.
 * @param {string} query @returns {Promise<Counts>}
 */
const draw = (query) =>
  new Promise((done) => {
    const image = new Image();
    image.onload = () => done({});
    image.onerror = () => done({ again: true });
    image.referrerPolicy = "origin";
    image.src = `${base}w/${site}/dot.gif?${query}`;
  });

/** What this browser keeps, if it keeps anything. @param {string} key @param {string | false} [text] */
function kept(key, text) {
  try {
    if (text) localStorage[key] = text;
    return localStorage[key];
  } catch (_) {}
}

/** A visitor chooses by a link to #visit-counter-off or -on; a file has no host. */
function whyNot() {
  const { hash, hostname } = location;
  const wish = /^#visit-counter-o/.test(hash) && hash;
  if (/off$/.test(kept("visit-counter", wish))) return "opted out";
  if (!site) return "data-site";
  if (data.count === "off") return "data-count";
  if (self !== top) return "frame";
  if (/^(localhost|127\..*)?$/.test(hostname) && hostname !== base.hostname) return "localhost";
}

/** Milliseconds between two signs of life; 0 if there are none, -1 until somebody sees the page. */
let pace = 0;
let due = 0;
let timer = 0;
/** When something was sent last. */
let sent = 0;

/** The instant in so many milliseconds, more or less: not everybody comes at once. @param {number} ms */
const after = (ms) => Date.now() + ms * (0.8 + 0.4 * Math.random());

/**
 * @param {"view" | "here" | "bye"} k @param {string} [i] the view's id, the last of its fields:
 * without it all views of a page are alike
 */
function hitOf(k, i) {
  const key = "visit-counter-id";
  let v;
  if (data.identity === "browser") v = kept(key, kept(key) || `${Math.random()}`);
  return { k, p: path, v, i };
}

/** @param {Counts} hit */
function send(hit) {
  sent = Date.now();
  // A text/plain body needs no preflight; keepalive lets "bye" outlive its page, but how much of it
  // a browser allows others of the page may have used up.
  return ask(site, { method: "POST", body: JSON.stringify(hit), keepalive: !hit.again });
}

/** Sends a view until it has arrived, each time under the same id. @param {Counts} hit */
async function deliver(hit) {
  let answer = send(hit);
  share(answer);
  for (let ms = 1e3; (await answer).again; ms = Math.min(ms * 2, 3e4)) {
    await wait(after(ms) - Date.now());
    hit.again = true;
    answer = send(hit);
    if ((await answer).again) answer = draw(`p=${encodeURIComponent(hit.p)}&i=${hit.i}`);
    else share(answer);
  }
  return answer;
}

/**
 * A prerendered page or a tab in the background is no view until somebody sees it. Chromium calls a
 * page visible while it is still prerendered, and what it sends then is marked as prefetched.
 */
async function view() {
  pace = -1;
  if (document.hidden || Object(document).prerendering) return;
  let why = whyNot();
  if (!why) {
    pace = 1e5;
    const id = `${Math.random()}${Math.random()}`.replace(/\D/g, "").slice(0, 32);
    const counts = await deliver(hitOf("view", id));
    // A third of the window, so that one lost "here" takes nobody offline.
    pace = counts.counted ? Math.min(counts.online_window, 1e5) * 333 || 1e5 : 0;
    why = counts.reason;
    due = 0;
    beat();
  }
  if (why) say(`not counted: ${why}`);
}

function beat() {
  clearTimeout(timer);
  if (pace < 0) view();
  if (pace <= 0 || document.hidden) return;
  const now = Date.now();
  if (now >= due) {
    if (due) send(hitOf("here"));
    due = after(pace);
  }
  timer = setTimeout(beat, due - now);
}

/**
 * The path, and that of a "#/route". Of the query, which may tell of the visitor, only the
 * parameters that the page names: data-query-keys="p|id". @param {Location | HTMLAnchorElement} url
 */
const where = (url) =>
  (url.pathname + url.hash.replace(/^#!?(?=\/)|[?#].*/g, "")).replace("//", "/") +
  url.search.replace(RegExp(`[?&](?!(${data.queryKeys})=)[^&]*`, "g"), "").replace(/./, "?");
let place = where(location);
// What is no address has an empty path, and throws nothing.
const link = document.createElement("a");
link.href = data.path || Object(document.querySelector("link[rel=canonical]")).href || place;
let path = where(link) || place;

/** In a page of one piece another path is another view; a rewritten address is none. @param {any} event */
function move(event) {
  if (whyNot()) pace = 0;
  const next = where(location);
  if (next === place) return;
  path = place = next;
  if (event.navigationType !== "replace") view();
}

// ---- start ----

const page = Object(window);
const mark = Symbol.for(`${base}w/${site}`);
// A page that got the snippet twice (theme and footer, say) is still one view.
if (!page[mark]) {
  page[mark] = view();
  if (page.navigation) {
    page.navigation.addEventListener("currententrychange", move);
  } else {
    const push = history.pushState;
    history.pushState = (...state) => {
      push.apply(history, state);
      move(state);
    };
    addEventListener("popstate", move);
  }
  addEventListener("visibilitychange", () => {
    // Another page of the visitor may have said "bye", which takes away who is silent for 2 s.
    if (due && Date.now() > sent + 2e3) due = 1;
    beat();
  });
  document.addEventListener("prerenderingchange", beat);
  addEventListener("pagehide", () => {
    if (pace > 0) send(hitOf("bye"));
    pace = 0;
  });
  addEventListener("pageshow", (event) => event.persisted && view());
}
