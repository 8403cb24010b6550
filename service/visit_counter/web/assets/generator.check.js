// @ts-check
// The part of the generator page that says why nothing is counted: it asks the service, which opens
// no page, and shows its sentences.

/** @typedef {{ state: "ok" | "fault" | "info", said: string }} Finding */

const said = document.body.dataset;

/** @param {string} site @param {string} page @param {string} token @returns {Promise<Finding[]>} */
async function findings(site, page, token) {
  const query = new URLSearchParams({ page, lang: document.documentElement.lang });
  /** @type {Record<string, string>} */
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    const reply = await fetch(`w/${site}/check?${query}`, { headers, credentials: "same-origin" });
    const answer = await reply.json();
    if (!reply.ok) return [{ state: "fault", said: answer.detail }];
    const isWrong = token && !answer.admin;
    return [...answer.findings, ...(isWrong ? [{ state: "fault", said: said.token }] : [])];
  } catch {
    return [{ state: "fault", said: said.away || "" }];
  }
}

/** Its state is a word, and not told by colour alone. @param {Finding} finding */
function item({ state, said: text }) {
  const line = document.createElement("li");
  const mark = document.createElement("b");
  const words = { ok: said.good, fault: said.bad, info: said.info };
  mark.textContent = `${words[state]}: `;
  line.className = state;
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
    /** @type {Finding[]} */
    const found = site
      ? await findings(site, page.value.trim(), token.value.trim())
      : [{ state: "fault", said: said.badSite || "" }];
    const list = document.createElement("ul");
    list.append(...found.map(item));
    shown.replaceChildren(list);
  });
}
