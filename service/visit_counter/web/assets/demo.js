// @ts-check
// The demo page: puts this service's own address into the two lines, and copies them.
(() => {
  const address = document.getElementById("script-url");
  const lines = document.querySelector("pre");
  const button = document.querySelector("button");
  if (!address || !lines || !button) return;

  address.textContent = new URL("embed.js", document.baseURI).href;

  if (!navigator.clipboard) return; // a page over plain http may not write there
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(lines.textContent || "");
    button.textContent = "Đã chép · Copied";
  });
})();
