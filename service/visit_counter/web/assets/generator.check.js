// @ts-check
// The part of the generator page that says why nothing is counted: it asks the service, which opens
// no page, and shows its sentences.

/** @typedef {{ ok: boolean, said: string }} Finding */

const said = document.body.dataset;

/** @param {string} site @param {string} page @param {string} token @returns {Promise<Finding[]>} */
async function findings(site, page, token) {
  const query = new URLSearchParams({ page, lang: document.documentElement.lang });
  /** @type {Record<string, string>} */
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    const reply = await fetch(`w/${site}/check?${query}`, { headers, credentials: "same-origin" });
    const answer = await reply.json();
    if (!reply.ok) return [{ ok: false, said: answer.detail }];
    const isWrong = token && !answer.admin;
    return [...answer.findings, ...(isWrong ? [{ ok: false, said: said.token }] : [])];
  } catch {
    return [{ ok: false, said: said.away || "" }];
  }
}

/** @param {Finding} finding */
function item({ ok, said: text }) {
  const line = document.createElement("li");
  const mark = document.createElement("b");
  mark.textContent = `${ok ? said.good : said.bad}: `;
  line.className = ok ? "" : "bad";
  line.append(mark, text);
  return line;
}

/** Shows them when the form is sent. @param {() => string} siteOf "" where there is none */
export function check(siteOf) {
  const form = /** @type {HTMLFormElement} */ (document.getElementById("checking"));
  const shown = /** @type {HTMLElement} */ (document.getElementById("findings"));
  const page = /** @type {HTMLInputElement} */ (document.getElementById("page"));
  const token = /** @type {HTMLInputElement} */ (document.getElementById("token"));
  page.value = new URLSearchParams(location.search).get("page") || "";
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const site = siteOf();
    const found = site
      ? await findings(site, page.value.trim(), token.value.trim())
      : [{ ok: false, said: said.badSite || "" }];
    const list = document.createElement("ul");
    list.append(...found.map(item));
    shown.replaceChildren(list);
  });
}
