import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { EMAIL, PASSWORD } from "./server";
import { CardOnPage, expect, test, watch } from "./support";

// A name that is not this machine: over plain HTTP a browser trusts it less than `localhost`,
// and takes the clipboard, locks and random names away from its pages.
test.use({
  launchOptions: async ({ launchOptions }, use) => {
    const rules = "--host-resolver-rules=MAP cards.example 127.0.0.1";
    await use({ ...launchOptions, args: [...(launchOptions.args ?? []), rules] });
  },
});

test("over plain HTTP, by another name than localhost, everything works", async ({ page, server }) => {
  watch(page);
  const url = `http://cards.example:${server.port}`;
  await page.goto(url);
  expect(await page.evaluate(() => isSecureContext)).toBe(false);
  await page.getByLabel("Email").fill(EMAIL);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Log in" }).click();
  await expect(page.getByRole("heading", { name: "Books" })).toBeVisible();
  const book = await server.book("Plain", { code: "print('over plain HTTP')" });
  await page.goto(`${url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await card.expectText("over plain HTTP\n\n");
  await expect(card.status).toContainText("exit 0");
  await card.root.getByRole("button", { name: /^Copy: / }).click();
  await expect(card.root.getByText("Copied")).toBeVisible();
  // Pasted where a person would see it.
  await card.editor.click();
  await page.keyboard.press("ControlOrMeta+a");
  await page.keyboard.press("ControlOrMeta+v");
  await expect(card.editor).toHaveText("over plain HTTP");
});

test("the page to log in is at most 120 kB, compressed", async ({ page, server }) => {
  const asked = new Set<string>();
  page.on("request", (request) => asked.add(new URL(request.url()).pathname));
  await page.goto(`${server.url}/login`);
  await expect(page.getByRole("button", { name: "Log in" })).toBeVisible();
  await page.waitForLoadState("networkidle");
  const files = [...asked].filter((path) => path.startsWith("/assets/"));
  expect(files.length).toBeGreaterThan(1);
  const dist = fileURLToPath(new URL("../dist", import.meta.url));
  const parts = ["/index.html", ...files].map((path) =>
    gzipSync(readFileSync(join(dist, path)), { level: 9 }),
  );
  const all = parts.reduce((sum, { length }) => sum + length, 0);
  expect(all, files.join("\n")).toBeLessThanOrEqual(120_000);
});
