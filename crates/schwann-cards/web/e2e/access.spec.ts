import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { gzipSync } from "node:zlib";
import type { Page } from "@playwright/test";
import { CardOnPage, expect, signIn, test } from "./support";

const axe = readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Violation {
  readonly id: string;
  readonly impact: string | null;
  readonly nodes: readonly { readonly target: readonly string[]; readonly failureSummary?: string }[];
}

/** What is wrong with the page for people who cannot see, point or tell colours apart. */
async function violations(page: Page): Promise<string[]> {
  await page.evaluate(await axe);
  const found = await page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: Violation[] }> } };
    return (await axe.run()).violations;
  });
  return found
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, nodes }) =>
      nodes.map((node) => `${id}: ${node.target.join(" ")} ${node.failureSummary}`),
    );
}

const CODE = [
  "import sys",
  "for i in range(16): print(f'\\x1b[{30 + i % 8 + 60 * (i // 8)}mcolour {i}\\x1b[0m', flush=True)",
  "print('a warning', file=sys.stderr)",
  "sys.exit(2)  # a comment",
].join("\n");

for (const scheme of ["light", "dark"] as const) {
  test(`every page can be used by everybody, ${scheme}`, async ({ browser, inside: page, server }) => {
    await page.emulateMedia({ colorScheme: scheme });
    const book = await server.book(
      `Access ${scheme}`,
      { code: CODE, title: "colours" },
      { kind: "markdown", code: "# Title\n\nText with `code` and a [link](https://example.com).\n\n- item" },
    );
    await page.goto(server.url);
    await expect(page.getByRole("link", { name: `Access ${scheme}` })).toBeVisible();
    expect(await violations(page)).toEqual([]);

    await page.goto(`${server.url}/books/${book.id}`);
    const card = new CardOnPage(page, book.cards[0]?.id);
    await card.run();
    await expect(card.status).toContainText("exit 2");
    await expect(card.output).toContainText("a warning");
    await expect(page.getByRole("heading", { name: "Title" })).toBeVisible();
    expect(await violations(page)).toEqual([]);
    await expect(card.root.getByRole("log")).toHaveAttribute("aria-live", "off");

    await page.getByRole("button", { name: "Share" }).click();
    await expect(page.getByRole("dialog")).toBeVisible();
    expect(await violations(page)).toEqual([]);

    await page.goto(`${server.url}/settings`);
    await expect(page.getByText("API tokens")).toBeVisible();
    expect(await violations(page)).toEqual([]);
    await page.goto(`${server.url}/users`);
    await expect(page.getByRole("heading", { name: "Users" })).toBeVisible();
    expect(await violations(page)).toEqual([]);

    const stranger = await browser.newContext({ colorScheme: scheme });
    const outside = await stranger.newPage();
    await outside.goto(server.url);
    await expect(outside.getByRole("heading", { name: "Log in" })).toBeVisible();
    expect(await violations(outside)).toEqual([]);
    await stranger.close();
  });
}

test("a page to log in is small, and a book with its editor not large", async ({ page, server }) => {
  const sizeOf = async (path: string, until: () => Promise<void>) => {
    const files = new Map<string, Promise<Buffer>>();
    page.on("response", (answer) => {
      if (/\.(js|css)$/.test(answer.url())) files.set(answer.url(), answer.body());
    });
    await page.goto(server.url + path);
    await until();
    const bodies = await Promise.all(files.values());
    page.removeAllListeners("response");
    return bodies.reduce((sum, body) => sum + gzipSync(body, { level: 9 }).length, 0) / 1024;
  };
  const logIn = await sizeOf("/login", () =>
    expect(page.getByRole("button", { name: "Log in" })).toBeVisible(),
  );
  await signIn(page, server, server.url);
  const book = await server.book("Size", { code: "import this" }, { kind: "markdown", code: "**text**" });
  const whole = await sizeOf(`/books/${book.id}`, async () => {
    // The editor with its colours, and the text.
    await expect(page.locator(".cm-line span").first()).toBeVisible();
    await expect(page.locator(".prose strong")).toBeVisible();
  });
  process.stderr.write(`      gzip: log-in ${logIn.toFixed(1)} KiB, a book ${whole.toFixed(1)} KiB\n`);
  expect(logIn, "KiB of the page to log in").toBeLessThan(125);
  expect(whole, "KiB of a book").toBeLessThan(335);
});

test("on a phone nothing is wider than the screen", async ({ inside: page, server }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  const long = "x = 1 # ".padEnd(300, "long ");
  const book = await server.book(
    "Phone",
    { code: long, title: "a".repeat(80) },
    { kind: "markdown", code: "b".repeat(200) },
  );
  for (const path of ["/", `/books/${book.id}`, "/settings", "/users"]) {
    await page.goto(server.url + path);
    await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
    if (path.includes(book.id)) await expect(page.getByRole("textbox", { name: /^Code: / })).toBeVisible();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    expect(width, path).toBeLessThanOrEqual(360);
  }
  // What is in a dialogue is all within it.
  await server.api("POST", `/books/${book.id}/shares/`, { role: "viewer" });
  await page.goto(`${server.url}/books/${book.id}`);
  await page.getByRole("button", { name: "Share" }).click();
  const copy = page.getByRole("button", { name: "Copy link" });
  await expect(copy).toBeVisible();
  const dialog = page.getByRole("dialog");
  const [wide, seen] = await dialog.evaluate((node) => [node.scrollWidth, node.clientWidth]);
  expect(wide, "the dialogue").toBeLessThanOrEqual(seen as number);
});
