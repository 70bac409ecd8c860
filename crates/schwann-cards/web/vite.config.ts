import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, gzip } from "node:zlib";
import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

/** Where `vite dev` finds the server. */
const server = process.env.SCHWANN_CARDS ?? "http://127.0.0.1:8080";

/** What the page to log in is made of, in one file: together it is smaller than in nine. */
const FIRST =
  /node_modules\/(react|react-dom|scheduler|use-sync-external-store|@tanstack)\/|src\/(router|text\/(en|text)|api\/(client|session|unique)|parts\/(button|field|icons|notice|page_title)|pages\/(frame|log_in))\.tsx?$|preload-helper/;

/** Writes `.br` and `.gz` beside each file that is served compressed. */
function compressed(): Plugin {
  return {
    name: "compressed",
    apply: "build",
    async closeBundle() {
      const folder = "dist/assets";
      for (const name of await readdir(folder)) {
        if (!/\.(js|css)$/.test(name)) continue;
        const text = await readFile(join(folder, name));
        if (text.length < 1024) continue;
        await writeFile(join(folder, `${name}.br`), await promisify(brotliCompress)(text));
        await writeFile(join(folder, `${name}.gz`), await promisify(gzip)(text, { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  plugins: [react(), tailwindcss(), compressed()],
  build: {
    target: "es2023",
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rolldownOptions: { output: { codeSplitting: { groups: [{ name: "first", test: FIRST }] } } },
  },
  server: { proxy: { "/api": server, "/docs": server } },
});
