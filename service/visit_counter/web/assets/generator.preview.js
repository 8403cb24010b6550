// @ts-check
// The preview of the generator page: the element in a frame of its own, with the two lines in the
// language that they are to have, or a picture, or the page that an iframe shows.

import { attributesOf, formOf, frameUrl, pictureUrls } from "./generator.codes.js";

/** @typedef {import("./generator.codes.js").Choice} Choice */
/** @typedef {import("./generator.codes.js").Place} Place */

const stage = /** @type {HTMLElement} */ (document.getElementById("stage"));
const element = /** @type {HTMLIFrameElement} */ (document.getElementById("element"));

/** The addresses that the element's frame is on its way to, and has come to. */
let wanted = "";
let loaded = "";

/** Calls whenever the element has come. @param {() => void} then */
export function whenLoaded(then) {
  const watcher = new ResizeObserver(([{ target }]) => {
    element.height = String(Math.ceil(target.getBoundingClientRect().height));
  });
  element.addEventListener("load", () => {
    loaded = element.contentWindow?.location.href || "";
    watcher.disconnect();
    if (element.contentDocument) watcher.observe(element.contentDocument.body);
    then();
  });
}

/** The script of a choice as it may be pinned; nothing until it has come. @param {Choice} choice */
export function pinnedOf(choice) {
  const isThere = loaded === previewUrl(choice);
  return (
    (isThere && element.contentDocument?.querySelector("script")) || { src: "", integrity: "" }
  );
}

/** As oEmbed tells it. @param {string} url */
export async function sizeOf(url) {
  try {
    const reply = await fetch(`oembed?${new URLSearchParams({ url })}`);
    const { width, height } = await reply.json();
    return reply.ok ? { width, height } : {};
  } catch {
    return {};
  }
}

/** @param {Choice} choice @param {Place} place */
export function preview(choice, place) {
  const kind = formOf(choice);
  element.hidden = kind !== "element";
  stage.className = choice.theme === "clear-dark" ? "dark" : "";
  for (const old of stage.querySelectorAll("img, iframe:not(#element)")) old.remove();
  if (kind === "element") showElement(choice);
  if (kind === "frame") stage.append(frame(frameUrl(choice, place), place));
  if (kind === "picture") stage.append(...pictureUrls(choice, place).map(picture));

  /** @param {string} src */
  function picture(src) {
    return Object.assign(document.createElement("img"), { src, alt: place.title });
  }
}

/** @param {string} src @param {Place} place */
function frame(src, { title, size }) {
  const { width = 320, height = 240 } = size;
  const shown = document.createElement("iframe");
  return Object.assign(shown, { src, title, width: String(width), height: String(height) });
}

/** @param {Choice} choice */
function previewUrl({ site, language }) {
  const { lang } = document.documentElement;
  const query = new URLSearchParams({ site, script: language, lang });
  return new URL(`preview?${query}`, location.href).href;
}

/** Loads the lines of a site and a language, and gives the element its attributes. @param {Choice} choice */
function showElement(choice) {
  const url = previewUrl(choice);
  // Not by `src`: the back button leads out of here, not through what was tried.
  if (url !== wanted) element.contentWindow?.location.replace(url);
  wanted = url;
  if (url !== loaded) return;
  const counter = element.contentDocument?.querySelector("visit-counter");
  if (!counter) return;
  const attributes = attributesOf(choice);
  const names = attributes.map(([name]) => name);
  for (const name of counter.getAttributeNames()) {
    if (!names.includes(name)) counter.removeAttribute(name);
  }
  for (const [name, value] of attributes) {
    if (counter.getAttribute(name) !== value) counter.setAttribute(name, value);
  }
}
