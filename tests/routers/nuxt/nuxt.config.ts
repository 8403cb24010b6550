export default defineNuxtConfig({
  compatibilityDate: "2026-01-01",
  telemetry: false,
  app: { head: { script: [{ src: "/thongke/embed.js", async: true, "data-site": "portal" }] } },
  vue: { compilerOptions: { isCustomElement: (tag) => tag === "visit-counter" } },
});
