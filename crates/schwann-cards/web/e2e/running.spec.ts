import type { Locator } from "@playwright/test";
import { CardOnPage, ECHO, expect, logIn, test } from "./support";

test("a card is edited and run, and its lines are seen one at a time", async ({ inside: page, server }) => {
  const book = await server.book("Edit and run", { code: "print('before')", title: "echo" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.write(ECHO);
  await page.keyboard.press("Control+Enter");
  await card.expectText("line 1\n\n");
  // The program cannot have printed more: it waits for what is sent only now.
  await card.send("a");
  await card.expectText("line 1\nline 2 a\n\n");
  await card.send("第三行");
  await card.expectText("line 1\nline 2 a\nline 3 第三行\n\n");
  await expect(card.status).toHaveText("Running");
  await card.root.getByRole("button", { name: "End of input" }).click();
  await expect(card.status).toContainText("Finished, exit 0");
  await card.expectText("line 1\nline 2 a\nline 3 第三行\nthe end\n\n");
  // Running saved it.
  const saved = await server.api<{ code: string }>("GET", `/books/${book.id}/cards/${book.cards[0]?.id}`);
  expect(saved.code).toBe(ECHO);
});

test("a run that is stopped says so, and keeps what it printed", async ({ inside: page, server }) => {
  const code = "import time\nprint('ready', flush=True)\ntime.sleep(600)";
  const book = await server.book("Stop", { code });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await card.expectText("ready\n\n");
  await card.stop();
  await expect(card.status).toContainText("stopped");
  await expect(card.root.getByRole("button", { name: "Run", exact: true })).toBeEnabled();
  expect(await card.text()).toContain("ready\n");
});

test("Shift+Enter runs a card and goes to the next, Ctrl+. stops it", async ({ inside: page, server }) => {
  const book = await server.book(
    "Keys",
    { code: ECHO },
    { kind: "markdown", code: "between" },
    { code: "2" },
  );
  await page.goto(`${server.url}/books/${book.id}`);
  const first = new CardOnPage(page, book.cards[0]?.id);
  const last = new CardOnPage(page, book.cards[2]?.id);
  await first.editor.click();
  await page.keyboard.press("Shift+Enter");
  await expect(last.editor).toBeFocused();
  await first.expectText("line 1\n\n");
  expect(await first.editor.textContent(), "the key wrote nothing").not.toMatch(/\n\n$/);
  await first.editor.click();
  await page.keyboard.press("Control+.");
  await expect(first.status).toContainText("stopped");
});

test("run all goes on card by card, ends at the first that fails, and is stopped", async ({
  inside: page,
  server,
}) => {
  const book = await server.book(
    "All",
    { code: "print(1)" },
    { code: ECHO },
    { code: "raise SystemExit(7)" },
    { code: "print('never')" },
  );
  await page.goto(`${server.url}/books/${book.id}`);
  const cards = book.cards.map(({ id }) => new CardOnPage(page, id));
  await page.getByRole("button", { name: "Run all" }).click();
  await cards[0]?.expectText("1\n\n");
  await cards[1]?.expectText("line 1\n\n");
  await page.getByRole("button", { name: "Stop all" }).click();
  await expect(cards[1]?.status as Locator).toContainText("stopped");
  await page.getByRole("button", { name: "Run all" }).click();
  await cards[1]?.root.getByRole("button", { name: "End of input" }).click();
  await expect(cards[2]?.status as Locator).toContainText("exit 7");
  await expect(page.getByRole("button", { name: "Run all" })).toBeVisible();
  await expect(cards[3]?.status as Locator).toHaveCount(0);
});

test("standard error and the exit code are told apart from good output", async ({ inside: page, server }) => {
  const code =
    "import sys\nprint('good', flush=True)\nprint('bad', file=sys.stderr, flush=True)\nsys.exit(3)";
  const book = await server.book("Errors", { code });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await expect(card.status).toContainText("exit 3");
  await expect(card.output.locator(".output-stderr")).toContainText("bad");
  await expect(card.output.locator(".output-stderr .output-label")).toHaveText("stderr");
  await expect(card.output).toContainText("good");
});

test("characters that are written a byte at a time arrive whole", async ({ inside: page, server }) => {
  const text = "第一行 😀 é\nзавтра ✓\n";
  const code = `import os\nfor byte in ${JSON.stringify(text)}.encode():\n    os.write(1, bytes([byte]))\n`;
  const book = await server.book("Bytes", { code });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await expect(card.status).toContainText("exit 0");
  await card.expectText(`${text}\n`);
});

test("colours and progress bars look as in a terminal", async ({ inside: page, server }) => {
  const code = [
    "import sys",
    "for i in range(101): sys.stdout.write(f'\\r{i:3}%'); sys.stdout.flush()",
    "print('\\r\\x1b[Kdone \\x1b[1;32mgreen\\x1b[0m <b>not bold</b>')",
  ].join("\n");
  const book = await server.book("Colours", { code });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await expect(card.status).toContainText("exit 0");
  await card.expectText("done green <b>not bold</b>\n\n");
  await expect(card.output.locator(".sgr-bold")).toHaveText("green");
  expect(await card.output.locator("b").count()).toBe(0);
});

test("reloading in mid-run shows the whole output, once", async ({ inside: page, server }) => {
  const book = await server.book("Reload", { code: ECHO });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await card.expectText("line 1\n\n");
  await card.send("before");
  await card.expectText("line 1\nline 2 before\n\n");
  await page.reload();
  await card.expectText("line 1\nline 2 before\n\n");
  await expect(card.status).toHaveText("Running");
  await card.send("after");
  await card.expectText("line 1\nline 2 before\nline 3 after\n\n");
  await card.root.getByRole("button", { name: "End of input" }).click();
  await expect(card.status).toContainText("exit 0");
  await card.expectText("line 1\nline 2 before\nline 3 after\nthe end\n\n");
});

test("two tabs show the same run, whichever began it", async ({ inside: page, server }) => {
  const book = await server.book("Tabs", { code: ECHO });
  await page.goto(`${server.url}/books/${book.id}`);
  const other = await page.context().newPage();
  await other.goto(`${server.url}/books/${book.id}`);
  const here = new CardOnPage(page, book.cards[0]?.id);
  const there = new CardOnPage(other, book.cards[0]?.id);
  await expect(there.root.getByRole("button", { name: "Run", exact: true })).toBeVisible();
  await here.run();
  await here.expectText("line 1\n\n");
  await there.expectText("line 1\n\n");
  await there.send("from there");
  await here.expectText("line 1\nline 2 from there\n\n");
  // The tab that reads for both goes away; the other takes its place.
  await page.close();
  await there.send("alone");
  await there.expectText("line 1\nline 2 from there\nline 3 alone\n\n");
  await there.stop();
  await expect(there.status).toContainText("stopped");
});

test("ten runs that stream at once leave room for everything else", async ({ inside: page, server }) => {
  const cards = Array.from({ length: 10 }, (_, i) => ({ code: ECHO, title: `card ${i}` }));
  const book = await server.book("Ten", ...cards);
  await page.goto(`${server.url}/books/${book.id}`);
  const all = book.cards.map(({ id }) => new CardOnPage(page, id));
  for (const card of all) await card.run();
  for (const card of all) await card.expectText("line 1\n\n");
  // More runs stream than a browser has connections, and still it can ask and save.
  await all[0]?.root.getByRole("textbox", { name: "Title of the card" }).fill("renamed");
  const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
  await expect.poll(async () => (await server.api<{ title: string }>("GET", path)).title).toBe("renamed");
  for (const card of all) await card.send("x");
  for (const card of all) await card.expectText("line 1\nline 2 x\n\n");
  for (const card of all) await card.stop();
  for (const card of all) await expect(card.status).toContainText("stopped");
});

test("more tabs than a browser has connections all go on", async ({ inside: page, server }) => {
  const book = await server.book("Many tabs", { code: ECHO });
  const tabs = [page];
  for (let i = 0; i < 7; i += 1) tabs.push(await page.context().newPage());
  for (const tab of tabs) await tab.goto(`${server.url}/books/${book.id}`);
  const cards = tabs.map((tab) => new CardOnPage(tab, book.cards[0]?.id));
  await tabs[7]?.bringToFront();
  await cards[7]?.run();
  for (const [i, card] of cards.entries()) {
    await tabs[i]?.bringToFront();
    await card.expectText("line 1\n\n");
  }
  await cards[7]?.stop();
  for (const card of cards) await expect(card.status).toContainText("stopped");
});

test("earlier runs can be looked at again", async ({ inside: page, server }) => {
  const book = await server.book("History", { code: "print('first')" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await card.expectText("first\n\n");
  await expect(card.status).toContainText("exit 0");
  await card.write("print('second')");
  await page.keyboard.press("Control+Enter");
  await card.expectText("second\n\n");
  await expect(card.status).toContainText("exit 0");
  await card.root.getByRole("button", { name: "Runs" }).click();
  await expect(page.getByRole("menuitem")).toHaveCount(2);
  await page.getByRole("menuitem").nth(1).click();
  await card.expectText("first\n\n");
  await card.root.getByRole("button", { name: "Show the latest" }).click();
  await card.expectText("second\n\n");
});

test("a hundred thousand lines leave the page free for whoever uses it", async ({
  browser,
  page,
  server,
}) => {
  test.setTimeout(120_000);
  await logIn(page, server, server.url);
  const code = "for i in range(100_000): print(f'{i:6} ' + 'x' * 73)";
  const book = await server.book("Hundred thousand", { code });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await expect(card.editor).toBeVisible();
  await page.evaluate(() => {
    const seen = { tasks: [] as number[] };
    Object.assign(window, { seen });
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) seen.tasks.push(duration);
    }).observe({ type: "longtask" });
  });
  await browser.startTracing(page, { categories: TRACED });
  await card.run();
  await expect(card.status).toContainText("exit 0", { timeout: 100_000 });
  await untilDrawn(card, " 99999 ");
  const longest = longestTask((await browser.stopTracing()).toString());
  const tasks = await page.evaluate(() => (window as unknown as { seen: { tasks: number[] } }).seen.tasks);
  process.stderr.write(
    `      longest task: ${longest.toFixed(1)} ms of processor time; tasks over 50 ms on the clock: ${tasks.length}\n`,
  );
  expect(longest, "the longest task of the page, in ms").toBeLessThan(50);
});

test("a million lines do not freeze the page", async ({ browser, page, server }) => {
  test.setTimeout(300_000);
  await logIn(page, server, server.url);
  const book = await server.book("Million", { code: "for i in range(1_000_000): print(f'line {i}')" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await expect(card.root.getByRole("textbox", { name: /^Code: / })).toBeVisible();
  await browser.startTracing(page, { categories: TRACED });
  await card.run();
  await expect(card.status).toContainText("exit 0", { timeout: 250_000 });
  await untilDrawn(card, "line 999999");
  const longest = longestTask((await browser.stopTracing()).toString());
  process.stderr.write(`      longest task of the page: ${longest.toFixed(1)} ms of processor time\n`);
  expect(longest, "the longest task of the page, in ms").toBeLessThan(50);
  // What is drawn is bounded, and says so.
  await expect(card.root).toContainText("earlier lines are not shown");
  expect(await card.output.locator("*").count()).toBeLessThan(1_000);
});

/** Waits for the last line. To look at all of them would be a long task of the test's own. */
async function untilDrawn(card: CardOnPage, line: string): Promise<void> {
  const end = () =>
    card.output.evaluate((node) =>
      [...node.children].slice(-2).reduce((text, block) => text + block.textContent, ""),
    );
  await expect.poll(end).toContain(line);
}

interface TraceEvent {
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly tdur?: number;
  readonly args: { readonly name?: string };
}

const TRACED = ["toplevel", "__metadata"];

/**
 * Processor time of the longest task on the main thread of a page, in milliseconds: time on the
 * clock is also of whatever else this machine does.
 */
function longestTask(trace: string): number {
  const { traceEvents: events } = JSON.parse(trace) as { traceEvents: TraceEvent[] };
  const names = events.filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain");
  const main = new Set(names.map(({ pid, tid }) => `${pid}/${tid}`));
  const tasks = events.filter(({ tdur, pid, tid }) => tdur !== undefined && main.has(`${pid}/${tid}`));
  if (tasks.length === 0) throw new Error("the trace has no tasks");
  return Math.max(...tasks.map(({ tdur }) => (tdur ?? 0) / 1000));
}
