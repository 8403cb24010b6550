// @ts-check
// Visit Counter: counts that somebody looks at this page.
//
//   <script async src="https://count.example.vn/embed.js" data-site="portal"></script>
//
// One POST counts a view and brings the numbers back; while the page is looked at it says "here",
// when it is left "bye". No cookie, no global name, and nothing is kept in the browser unless the
// page asks for it (data-identity) or the visitor does (#visit-counter-off). Alone it is served as
// embed.count.js, and before the element as embed.js, packed by ./dev pack: within a function,
// without comments, and with short names. The syntax is ES2017, for old browsers that still count.

/** @typedef {Record<string, any>} Counts the service's answer: `online`, `today`, `week` … */

// A module and what an optimiser evaluates have no currentScript, and that of SVG has no `src`.
const { dataset: data = {}, src: named } = Object(
  document.currentScript || document.querySelector("script[data-site]"),
);
/** @type {string} */
const src = named || `${/h\S+?\.js[^\s:)]*/.exec(/** @type {any} */ (Error().stack)) || location}`;
/** A tag manager drops attributes, but not the query of an address. */
const site = data.site || new URL(src).searchParams.get("site");
const base = `${new URL("w/", src)}`;

/** Takes the numbers that a view brings. @type {(answer: Promise<Counts>) => void} */
// biome-ignore lint/style/useConst: the element takes them, where it is there.
let share = () => {};
/** @type {string} */
let said;

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
    const reply = await Promise.race([fetch(base + site, init), wait(2e4)]);
    if (!reply) throw "hung";
    again = reply.ok || reply.status > 404;
    /** @type {Counts} */
    const counts = await reply.json();
    // A redirect takes away a hit's method or its origin.
    if (init.body && reply.redirected) throw `moved: ${reply.url}`;
    if (reply.ok && counts && (!init.body || "counted" in counts)) return counts;
    throw counts.detail || reply.status;
  } catch (error) {
    say(`${base + site}: ${error}`);
    return { again };
  }
}

/** What this browser keeps, if it keeps anything. @param {string} key @param {string | number | false} [text] */
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
  if (/^(localhost|127\..*)?$/.test(hostname) && hostname !== new URL(src).hostname)
    return "localhost";
}

/** Milliseconds between two signs of life; 0 if there are none, -1 until somebody sees the page. */
let pace = 0;
let due = 0;
/** @type {number} */
let timer;
/** When something was sent last. @type {number} */
let sent;

/**
 * The id comes last: without it all views of a page are alike.
 * @param {"view" | "here" | "bye"} k @param {boolean} [again] @param {string} [i]
 */
function hitOf(k, again, i) {
  const key = "visit-counter-id";
  // Its whole part is the month of its making, in months of 30 days since 1970; after 13 it is
  // replaced.
  const month = Date.now() / 2.6e9;
  let v;
  if (data.identity === "browser")
    v = kept(key, kept(key) > month - 14 ? "" : month + Math.random());
  return { k, p: path, v, again, i };
}

/** @param {Counts} hit */
function send(hit) {
  sent = Date.now();
  // A text/plain body needs no preflight; keepalive lets "bye" outlive its page, but how much of it
  // a browser allows others of the page may have used up.
  return ask(site, { method: "POST", body: JSON.stringify(hit), keepalive: !hit.again });
}

/**
 * Sends a view until it has arrived, each time under the same id. A picture follows redirects that
 * a script may not, and no script of the page stands in its way; but it brings no numbers.
 * @param {Counts} hit
 */
async function deliver(hit) {
  const image = new Image();
  let ms = 1e3;
  image.referrerPolicy = "origin";
  image.onload = () => {
    ms = 0;
  };
  let answer = send(hit);
  share(answer);
  while (ms && (await answer).again) {
    await wait(ms);
    ms = Math.min(ms * 2, 3e4);
    hit.again = true;
    answer = send(hit);
    if ((await answer).again)
      image.src = `${base + site}/dot.gif?${new URLSearchParams({ p: hit.p, i: hit.i })}`;
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
  if (/** @type {any} */ (document).prerendering || document.hidden) return;
  let why = whyNot();
  if (!why) {
    pace = 1e5;
    const href = linked();
    // Until a page of one piece has named another one, its link is that of the page before.
    link.href = (!views++ && data.path) || (href !== canonical && href) || place;
    path = paths[place] = paths[place] || (link.pathname ? where(link) : place);
    canonical = href;
    const counts = await deliver(hitOf("view", !!others, snippets[""] + views));
    // A third of the window, so that one lost "here" takes nobody offline.
    pace = counts.counted ? Math.min(counts.online_window * 333, 1e8) || 1e5 : 0;
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
    due = now + pace * (0.8 + 0.4 * Math.random());
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
/** What is counted. */
let path = place;
/** What was counted of each place: whoever comes back looks at the same page. @type {Counts} */
const paths = {};
// What is no address has an empty path, and throws nothing; in SVG it has none.
const link = document.createElement("a");
/** @type {string | undefined} */
let canonical;
/** @returns {string | undefined} */
const linked = () => Object(document.querySelector("link[rel=canonical]")).href;
let views = 0;
/** A view that waits until its page has a head. @type {number} */
let moved;

/** In a page of one piece another path is another view; a rewritten address is none. @param {boolean} [isRewritten] */
function move(isRewritten) {
  // Somebody has opted out: says so, and sends nothing any more.
  if (pace > 0 && whyNot()) view();
  const next = where(location);
  if (next === place) return;
  arrive();
  // A link that came later than its page, which was counted under its address, is still that page's.
  if (path === place) canonical = linked();
  place = next;
  moved = isRewritten ? 0 : setTimeout(arrive, 300);
}

function arrive() {
  if (moved) view();
  moved = 0;
}

// ---- start ----

// The same snippet at another address of the service (http and https, say) gives a view the same
// id, and the service counts it once.
const key = Symbol.for("visit-counter");
const others = /** @type {any} */ (window)[key];
/** The snippets of this page by their addresses, and what the ids of its views begin with: digits. */
const snippets = others || { "": `${Math.random() * Date.now() * 1e8}` };
/** @type {any} */ (window)[key] = snippets;
// A page that got the snippet twice (theme and footer, say) is still one view.
if (!snippets[base + site]) {
  snippets[base + site] = 1;
  view();
  addEventListener("popstate", () => move());
  // A router may have kept the functions before we came.
  setInterval(move, 500);
  addEventListener("visibilitychange", () => {
    // Another page of the visitor may have said "bye", which takes away who is silent for 2 s.
    if (due && Date.now() > sent + 2e3) due = 1;
    beat();
  });
  document.addEventListener("prerenderingchange", beat);
  addEventListener("pagehide", () => {
    arrive();
    if (pace > 0) send(hitOf("bye"));
  });
  addEventListener("pageshow", (event) => event.persisted && view());
  for (const name of ["pushState", "replaceState"]) {
    const past = /** @type {any} */ (history);
    const change = past[name];
    // Where nobody may change it only the interval tells of moves.
    Reflect.set(past, name, (/** @type {any} */ ...state) => {
      // A router that is told of going back before we are may rewrite where it came to.
      move();
      change.apply(past, state);
      move(name > "q");
    });
  }
}
