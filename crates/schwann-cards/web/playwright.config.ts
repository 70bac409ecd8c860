import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

/** A Chromium of the system; none is downloaded. */
const browsers = [
  process.env.SCHWANN_CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
];
const executablePath = browsers.find((path) => path && existsSync(path));
if (!executablePath) {
  throw new Error("no Chromium found; apt-get install chromium, or name one in SCHWANN_CHROMIUM");
}

export default defineConfig({
  testDir: "e2e",
  outputDir: "test-results",
  testMatch: process.env.SCHWANN_SCREENSHOTS ? "screenshots.ts" : "*.spec.ts",
  // One at a time: the tests count what a browser and a server do.
  workers: 1,
  retries: 0,
  forbidOnly: true,
  timeout: 90_000,
  expect: { timeout: 20_000 },
  reporter: [["list"]],
  use: {
    locale: "en",
    launchOptions: {
      executablePath,
      // Chromium has no sandbox of its own for root, as whom containers run tests.
      args: process.getuid?.() === 0 ? ["--no-sandbox", "--disable-dev-shm-usage"] : [],
    },
    trace: "off",
  },
});
