export default { srcDir: "../astro/src" };
