// Packs the scripts that pages embed, by terser: assets/embed.*.js become assets/packed/.
//
//     node .ci/pack.mjs            writes them; ./dev pack does that
//     node .ci/pack.mjs --check    exits 1 if what is committed is another
//
// embed.count.js stands alone within a function, and before the element's script as embed.js, where
// `bundle`, the words of some languages, is handed in by service/visit_counter/web/pages/scripts.py.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { minify } from "terser";

const assets = new URL("../service/visit_counter/web/assets/", import.meta.url);
const START = "// ---- start ----";
const OPTIONS = {
  ecma: 2017,
  toplevel: true,
  compress: { ecma: 2017, if_return: false, passes: 3, unsafe: true, unsafe_arrows: true },
  mangle: true,
};

const read = (name) => readFileSync(new URL(name, assets), "utf8");

/** What is styled needs no blanks and line ends. */
const packStyles = (code) =>
  code.replace(
    /replaceSync\(`([^`]*)`\)/,
    (_, rules) => `replaceSync(\`${rules.replace(/\s*([{};,>])\s*|(:)\s+/g, "$1$2").trim()}\`)`,
  );

async function pack(code) {
  const { code: packed } = await minify(packStyles(code), OPTIONS);
  return `${packed}\n`;
}

const [setup, start] = read("embed.count.js").split(START);
// Without the element nobody takes what a view brings.
const counting = setup.replace(/^let share .*|^ *(else )?share\(.*/gm, "") + start;
const packed = {
  "embed.count.js": await pack(`(()=>{${counting}})()`),
  "embed.js": await pack(`(bundle=>{${setup}${read("embed.element.js")}${start}})(BUNDLE)`),
};

mkdirSync(new URL("packed/", assets), { recursive: true });
for (const [name, text] of Object.entries(packed)) {
  const file = new URL(`packed/${name}`, assets);
  if (!process.argv.includes("--check")) {
    writeFileSync(file, text);
  } else if (!existsSync(file) || readFileSync(file, "utf8") !== text) {
    console.error(`${file.pathname} is not what its sources are packed to: run ./dev pack`);
    process.exitCode = 1;
  }
}
