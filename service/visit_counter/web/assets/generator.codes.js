// @ts-check
// What the generator page writes: the code for a choice, in each of its kinds. Nothing here knows
// the page. All values are one of a list, but for the site's id, which has been checked.

/**
 * @typedef {Object} Choice
 * @property {string} site
 * @property {string} kind
 * @property {string} layout
 * @property {string[]} rows
 * @property {string} language of a script; "" for the page's
 * @property {string} format
 * @property {string} metric
 * @property {string} theme
 * @property {string} live
 * @property {string} set
 * @property {number} pad
 * @property {boolean} how
 *
 * @typedef {Object} Place what the page knows beside it
 * @property {string} base the service's address, with a slash at its end
 * @property {string} title what a picture is called, in its language
 * @property {boolean} isByBrowser the site tells visitors apart by an id that browsers keep
 * @property {string[]} queryKeys the parameters of a query that belong to the site's paths
 * @property {{ src: string, integrity: string }} pinned
 * @property {{ width?: number, height?: number }} size of a frame
 */

const USUAL = ["online", "today", "week", "total"];
/** @type {Record<string, string[]>} */
const ROWS = { digits: ["total"], badge: ["total"], spark: ["today"] };
/** Pictures by layout; those of one number come once for each row. @type {Record<string, string>} */
const PICTURES = { inline: "badge", badge: "badge", digits: "digits", spark: "spark" };

/** @param {Choice} choice @returns {"element" | "frame" | "picture"} */
export function formOf({ kind }) {
  if (kind === "frame") return "frame";
  return kind === "image" || kind === "markdown" ? "picture" : "element";
}

/** What is shown where nobody says which rows. @param {Choice} choice */
export function usualRows(choice) {
  return (formOf(choice) !== "frame" && ROWS[choice.layout]) || USUAL;
}

/** The options that a choice leaves open, by name. @param {Choice} choice @returns {Record<string, boolean>} */
export function open(choice) {
  const form = formOf(choice);
  const picture = form === "picture" ? PICTURES[choice.layout] || "block" : "";
  const isDigits = choice.layout === "digits" && form !== "frame";
  return {
    layout: form !== "frame",
    rows: picture !== "spark",
    format: picture !== "spark" && picture !== "digits",
    theme: picture !== "badge" && (picture !== "digits" || choice.set === "plain"),
    live: !picture,
    set: picture === "digits",
    pad: isDigits,
    how: !picture,
  };
}

/** Of the element. @param {Choice} choice @returns {[string, string][]} */
export function attributesOf(choice) {
  const { layout, rows, format, metric, theme, live, pad, how } = choice;
  /** @type {[string, string, boolean][]} */
  const all = [
    ["layout", layout, layout !== "list"],
    ["show", rows.join(" "), isOwn(choice)],
    ["number-format", format, format !== ""],
    ["metric", metric, metric !== ""],
    ["theme", theme, theme !== ""],
    ["zero-pad", String(pad), pad > 0 && open(choice).pad],
    ["live", live, live !== "off"],
    ["how", "", how],
  ];
  return all.filter(([, , isSaid]) => isSaid).map(([name, value]) => [name, value]);
}

/** @param {Choice} choice @param {Place} place */
export function frameUrl(choice, place) {
  const { rows, theme, live, how } = choice;
  return address(choice, place, "frame", [
    ["rows", isOwn(choice) && rows.join()],
    ["theme", theme !== "auto" && theme],
    ["refresh", live !== "off" && "30"],
    ["how", how && "yes"],
  ]);
}

/** @param {Choice} choice @param {Place} place */
export function pictureUrls(choice, place) {
  const { layout, rows, theme, set, pad } = choice;
  const name = PICTURES[layout] || "block";
  const isThemed = open(choice).theme && theme !== "auto";
  /** @param {string} row @returns {string} */
  const url = (row) =>
    address(choice, place, `${name}.svg`, [
      ["period", row !== "total" && row],
      ["rows", name === "block" && isOwn(choice) && rows.join()],
      ["set", name === "digits" && set !== "odometer" && set],
      ["zero-pad", name === "digits" && pad > 0 && String(pad)],
      ["theme", isThemed && theme],
    ]);
  return name === "badge" || name === "digits" ? rows.map(url) : [url("total")];
}

/** @param {Choice} choice @param {Place} place */
export function codeOf(choice, place) {
  const { kind } = choice;
  if (kind === "react") return react(choice, place);
  if (kind === "vue") return vue(choice, place);
  if (kind === "frame") return lines(frame(choice, place), dot(choice, place));
  const urls = pictureUrls(choice, place);
  if (kind === "markdown") return lines(...urls.map((url) => `![${place.title}](${url})`));
  if (kind === "image") {
    const images = urls.map((url) => tag("img", { src: url, alt: place.title }));
    return lines(...images, dot(choice, place));
  }
  return lines(script(choice, place), element(choice));
}

/** What a page's Content-Security-Policy must allow. @param {Choice} choice @param {Place} place */
export function policyOf(choice, place) {
  const { origin } = new URL(place.base);
  const form = formOf(choice);
  const wants = {
    element: ["script-src", "connect-src", ...(choice.layout === "spark" ? ["img-src"] : [])],
    frame: ["frame-src", "img-src"],
    picture: ["img-src"],
  };
  return wants[form].map((directive) => `${directive} ${origin};`).join(" ");
}

/** Whether somebody wants other rows than the usual ones. @param {Choice} choice */
function isOwn(choice) {
  return choice.rows.join() !== usualRows(choice).join();
}

/** @param {Choice} choice @param {Place} place @param {string} name @param {[string, string | false][]} more */
function address({ site, language, metric, format }, { base }, name, more) {
  const given = [["lang", language !== "en" && language], ...more];
  const query = [...given, ["metric", metric], ["number-format", format]]
    .filter(([, value]) => value)
    .map((each) => each.join("="));
  return `${base}w/${site}/${name}${query.length ? "?" : ""}${query.join("&")}`;
}

/** @param {Choice} choice @param {Place} place */
function scriptUrl({ language }, { base }) {
  return `${base}embed.js${language && `?lang=${language}`}`;
}

/** What the script's element says beside its address. @param {Choice} choice @param {Place} place */
function dataset({ site }, { isByBrowser, queryKeys }) {
  return {
    site,
    ...(isByBrowser && { identity: "browser" }),
    ...(queryKeys.length && {
      queryKeys: queryKeys.map((key) => key.replace(/[.[\]]/g, "\\$&")).join("|"),
    }),
  };
}

/** @param {Choice} choice @param {Place} place */
function script(choice, place) {
  const { src, integrity } =
    choice.kind === "pinned" ? place.pinned : { src: scriptUrl(choice, place), integrity: "" };
  const pin = integrity ? { integrity, crossorigin: "anonymous" } : {};
  const data = Object.entries(dataset(choice, place)).map(([name, value]) => [
    `data-${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
    value,
  ]);
  return tag("script", { async: "", src, ...pin, ...Object.fromEntries(data) }, "></script>");
}

/** @param {Choice} choice */
function element(choice) {
  const attributes = attributesOf(choice);
  if (choice.kind !== "div") {
    return tag("visit-counter", Object.fromEntries(attributes), "></visit-counter>");
  }
  const data = attributes.map(([name, value]) => [`data-${name}`, value]);
  return tag("div", { "data-visit-counter": "", ...Object.fromEntries(data) }, "></div>");
}

/** @param {Choice} choice @param {Place} place */
function frame(choice, place) {
  const src = frameUrl(choice, place);
  const attributes = { src, title: place.title, ...place.size, frameborder: 0 };
  return tag("iframe", attributes, "></iframe>");
}

/** Counts where no script does; not to be loaded lazily, nor without its page's address. @param {Choice} choice @param {Place} place */
function dot({ site }, { base }) {
  const src = `${base}w/${site}/dot.gif`;
  const referrerpolicy = "strict-origin-when-cross-origin";
  return tag("img", { src, referrerpolicy, loading: "eager", width: 1, height: 1, alt: "" });
}

/** @param {Choice} choice @param {Place} place */
function loading(choice, place) {
  return [
    `const src = ${JSON.stringify(scriptUrl(choice, place))};`,
    "",
    "function load() {",
    "  if ([...document.scripts].some((script) => script.src === src)) return;",
    '  const script = document.createElement("script");',
    `  Object.assign(script.dataset, ${JSON.stringify(dataset(choice, place))});`,
    "  script.src = src;",
    "  document.head.append(script);",
    "}",
  ];
}

/** @param {Choice} choice @param {Place} place */
function react(choice, place) {
  return lines(
    'import { useEffect } from "react";',
    "",
    ...loading(choice, place),
    "",
    "export function VisitCounter() {",
    "  useEffect(load, []);",
    `  return ${tag("visit-counter", Object.fromEntries(attributesOf(choice)), " />")};`,
    "}",
  );
}

/** As a component by name it needs no compiler option. @param {Choice} choice @param {Place} place */
function vue(choice, place) {
  const attributes = { is: "visit-counter", ...Object.fromEntries(attributesOf(choice)) };
  return lines(
    "<script setup>",
    'import { onMounted } from "vue";',
    "",
    ...loading(choice, place),
    "",
    "onMounted(load);",
    "</script>",
    "",
    "<template>",
    `  ${tag("component", attributes, " />")}`,
    "</template>",
  );
}

/** What an element begins with, and `end`. @param {string} name @param {Record<string, string | number | undefined>} attributes */
function tag(name, attributes, end = ">") {
  const written = Object.entries(attributes).map(([key, value]) =>
    value === "" && key !== "alt" ? ` ${key}` : ` ${key}="${escaped(value)}"`,
  );
  return `<${name}${written.join("")}${end}`;
}

/** @param {string | number | undefined} value */
function escaped(value) {
  return String(value).replace(/&/g, "&amp;").replace(/"/g, "&quot;").replace(/</g, "&lt;");
}

/** @param {string[]} all */
function lines(...all) {
  return all.join("\n");
}
