// @ts-check
// The generator page: reads what somebody chooses, shows it with the real element or picture, and
// writes the code. What the page says stands in it, in its language. All text goes in as text.

import { check } from "./generator.check.js";
import { codeOf, formOf, frameUrl, open, policyOf, usualRows } from "./generator.codes.js";
import { pinnedOf, preview, sizeOf, whenLoaded } from "./generator.preview.js";

/** @typedef {import("./generator.codes.js").Choice} Choice */
/** @typedef {import("./generator.codes.js").Place} Place */

const SITE = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const TYPING_MS = 300;

const base = new URL(".", location.href).href;
const spoken = document.documentElement.lang;
const said = document.body.dataset;
const form = /** @type {HTMLFormElement} */ (byId("choice"));
const site = /** @type {HTMLInputElement} */ (byId("site"));

/** Whether the site tells visitors apart by an id that their browsers keep. */
let isByBrowser = false;
/** @type {string[]} */
let queryKeys = [];
/** The rows that its layout has by itself. */
let usual = [...form.querySelectorAll("[name=rows]:checked")]
  .map((box) => /** @type {HTMLInputElement} */ (box).value)
  .join();
/** What was chosen in lists. @type {Map<string, string>} */
const wishes = new Map();
/** Counts choices, so that an answer to an older one changes nothing. */
let turn = 0;
let timer = 0;

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} name @returns {HTMLSelectElement} */
function select(name) {
  return /** @type {HTMLSelectElement} */ (byId(name));
}

/** @returns {NodeListOf<HTMLInputElement>} */
function rowBoxes() {
  return form.querySelectorAll("[name=rows]");
}

/** @returns {Choice} */
function chosen() {
  const given = new FormData(form);
  /** @param {string} name */
  const one = (name) => String(given.get(name) || "");
  const rows = given.getAll("rows").map(String);
  const choice = { site: one("site").trim(), kind: one("kind"), layout: one("layout"), rows };
  const pad = Number(one("pad"));
  const [language, format, metric] = ["language", "format", "metric"].map(one);
  const [theme, live, set] = ["theme", "live", "set"].map(one);
  const how = given.has("how");
  const all = { ...choice, language, format, metric, theme, live, set, pad, how };
  return rows.length ? all : { ...all, rows: usualRows(all) };
}

// ---- what can be chosen ----

/** Another layout has other usual rows: they change unless somebody chose some. */
function follow() {
  const rows = usualRows(chosen());
  const boxes = [...rowBoxes()];
  const on = boxes.filter((box) => box.checked).map((box) => box.value);
  if (on.join() === usual) for (const box of boxes) box.checked = rows.includes(box.value);
  usual = rows.join();
}

/** Leaves only what fits. */
function limit() {
  const isElement = formOf(chosen()) === "element";
  only("language", (option) => isElement || option.value !== "", spoken);
  const tags = ["plain", "en", "vi", select("language").value];
  only("format", ({ dataset: { of } }) => !of || tags.includes(of), "");
  const where = isElement ? "element" : "drawn";
  only("theme", ({ dataset: { of } }) => !of || of === where, isElement ? "" : "auto");
  only("live", ({ value }) => isElement || value === "off" || value === "poll", "off");
  const isOpen = open(chosen());
  for (const field of form.querySelectorAll("[data-option]")) {
    const { dataset, hidden } = /** @type {HTMLElement} */ (field);
    const shown = isOpen[dataset.option || ""];
    if (hidden === shown) /** @type {HTMLElement} */ (field).hidden = !shown;
  }
}

/** What somebody wished stays wished where it does not fit. @param {string} name @param {(option: HTMLOptionElement) => boolean} fits @param {string} instead */
function only(name, fits, instead) {
  const list = select(name);
  for (const option of list.options) option.hidden = option.disabled = !fits(option);
  list.value = wishes.get(name) || "";
  if (list.selectedIndex < 0 || list.options[list.selectedIndex].disabled) list.value = instead;
}

// ---- what is shown ----

async function show() {
  turn += 1;
  const mine = turn;
  follow();
  limit();
  const choice = chosen();
  say("rows-state", form.querySelector("[name=rows]:checked") ? "" : said.noRows);
  say("note", noteOf(choice));
  remember();
  if (!hasSite()) {
    say("code");
    say("csp");
    return;
  }
  const place = placeOf(choice);
  if (formOf(choice) === "frame") place.size = await sizeOf(frameUrl(choice, place));
  if (mine !== turn) return;
  preview(choice, place);
  const isReady = choice.kind !== "pinned" || place.pinned.src !== "";
  say("code", isReady ? codeOf(choice, place) : "");
  say("csp", policyOf(choice, place));
}

/** What is to be known of the code. @param {Choice} choice */
function noteOf(choice) {
  const { kind } = choice;
  const note = said[`note${kind[0].toUpperCase()}${kind.slice(1)}`] || "";
  if (formOf(choice) !== "element") return note;
  return [note, isByBrowser && said.browser, queryKeys.length && said.query]
    .filter(Boolean)
    .join(" ");
}

/** @param {string} id @param {string} [text] */
function say(id, text = "") {
  const place = byId(id);
  // What is said again would be read out again.
  if (place.textContent === text) return;
  place.textContent = text;
  // What has changed since is not what was copied.
  const copied = place.parentElement?.nextElementSibling?.querySelector("button + [role=status]");
  if (copied) copied.textContent = "";
}

/** @param {Choice} choice @returns {Place} */
function placeOf(choice) {
  const { selectedOptions } = select("language");
  const title = selectedOptions[0].dataset.title || "";
  return { base, title, isByBrowser, queryKeys, pinned: pinnedOf(choice), size: {} };
}

// ---- the site ----

/** Whether there is an id to ask for. */
function hasSite() {
  const isSite = SITE.test(chosen().site);
  site.setAttribute("aria-invalid", String(!isSite));
  if (!isSite) say("site-state", said.badSite);
  return isSite;
}

/** Whether the service knows it, and what it says of it. */
async function ask() {
  if (!hasSite()) {
    show();
    return;
  }
  const asked = chosen().site;
  const [state, counts] = await told(asked);
  if (asked !== chosen().site) return;
  isByBrowser = counts.identity === "browser";
  queryKeys = Array.isArray(counts.query_keys) ? counts.query_keys : [];
  say("site-state", state);
  show();
}

/** What is wrong with a site, and its counts. @param {string} name @returns {Promise<[string | undefined, Record<string, unknown>]>} */
async function told(name) {
  try {
    const reply = await fetch(`w/${name}`, { credentials: "omit" });
    if (reply.ok) return ["", await reply.json()];
    return [reply.status === 404 ? said.unknown : said.away, {}];
  } catch {
    return [said.away, {}];
  }
}

// ---- the address ----

/** A reload, the other language and whoever is sent the address see the same. */
function remember() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) query.append(name, String(value));
  const given = new URLSearchParams(location.search);
  for (const name of ["lang", "page"]) {
    for (const value of given.getAll(name).slice(0, 1)) query.set(name, value);
  }
  history.replaceState(null, "", `?${query}`);
  const other = /** @type {HTMLAnchorElement} */ (byId("other"));
  query.set("lang", other.lang);
  other.href = `?${query}`;
}

/** Takes what the address says; what is none of our values is left alone. */
function recall() {
  const query = new URLSearchParams(location.search);
  for (const control of form.querySelectorAll("input, select")) {
    const input = /** @type {HTMLInputElement} */ (control);
    const given = query.getAll(input.name);
    if (given.length === 0) continue;
    if (input.type === "checkbox") input.checked = given.includes(input.value);
    else if (input.type === "radio") input.checked ||= given.includes(input.value);
    else if (!(control instanceof HTMLSelectElement)) input.value = given[0];
    else if ([...control.options].some(({ value }) => value === given[0])) control.value = given[0];
  }
}

// ---- copying ----

/** @param {HTMLButtonElement} button */
async function copy(button) {
  const code = byId(button.dataset.copies || "");
  const state = /** @type {HTMLElement} */ (button.nextElementSibling);
  if (!code.textContent) return;
  state.textContent = "";
  try {
    await navigator.clipboard.writeText(code.textContent);
    state.textContent = said.copied || "";
  } catch {
    // A page over plain http may not write there.
    getSelection()?.selectAllChildren(code);
    state.textContent = said.uncopied || "";
  }
}

// ---- start ----

whenLoaded(show);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  const { target } = event;
  clearTimeout(timer);
  if (target instanceof HTMLSelectElement) wishes.set(target.name, target.value);
  if (target !== site) show();
  else timer = setTimeout(ask, TYPING_MS);
});
for (const button of document.querySelectorAll("button[data-copies]")) {
  button.addEventListener("click", () => copy(/** @type {HTMLButtonElement} */ (button)));
}
check(() => (hasSite() ? chosen().site : ""));
recall();
for (const list of form.querySelectorAll("select")) wishes.set(list.name, list.value);
show();
ask();
