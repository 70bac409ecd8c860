import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test as base, type Locator } from "@playwright/test";
import { Server, Wire } from "./server";
import { CardOnPage, ECHO, expect, logIn } from "./support";

const test = base.extend<{ server: Server; wire: Wire }>({
  // biome-ignore lint/correctness/noEmptyPattern: what the test runner asks for
  server: async ({}, use) => {
    const server = new Server();
    await server.start();
    await use(server);
    await server.stop();
  },
  wire: async ({ server }, use) => {
    const wire = new Wire(() => server.port);
    await use(wire);
    wire.stop();
  },
});

test("a lost connection loses no line and shows none twice", async ({ page, server, wire }) => {
  const url = await wire.start();
  await logIn(page, server, url);
  const book = await server.book("Lost", { code: ECHO });
  await page.goto(`${url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await card.expectText("line 1\n\n");
  const { data } = await server.api<{ data: { id: string }[] }>("GET", "/runs/");
  const run = data[0]?.id;

  wire.cut();
  const lost = page.getByText("The connection is lost.");
  await expect(lost).toBeVisible();
  // The program goes on meanwhile, and prints.
  const token = await server.session();
  const sent = await fetch(`${server.url}/api/v1/runs/${run}/stdin`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/octet-stream" },
    body: "while away\n",
  });
  expect(sent.status).toBe(202);
  const headers = { authorization: `Bearer ${token}`, accept: "text/plain" };
  const stored = async () =>
    (await fetch(`${server.url}/api/v1/runs/${run}/events?follow=false`, { headers })).text();
  await expect.poll(stored).toContain("while away");
  expect(await card.text()).toBe("line 1\n\n");

  wire.mend();
  await card.expectText("line 1\nline 2 while away\n\n");
  await expect(lost).toBeHidden();
  await card.send("back");
  await card.expectText("line 1\nline 2 while away\nline 3 back\n\n");
  await card.stop();
  await expect(card.status).toContainText("stopped");
});

test("a server killed in mid-run comes back with what was shown, and says what was lost", async ({
  page,
  server,
}) => {
  await logIn(page, server, server.url);
  const book = await server.book("Killed", { code: ECHO });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await card.send("kept");
  await card.expectText("line 1\nline 2 kept\n\n");
  await server.kill();
  await expect(page.getByText("The connection is lost.")).toBeVisible();
  await server.start();
  await expect(card.status).toContainText("lost with the server");
  expect(await card.text()).toBe("line 1\nline 2 kept\n\n");
  await page.reload();
  await card.expectText("line 1\nline 2 kept\n\n");
  await expect(card.status).toContainText("lost with the server");
  // And it runs again.
  await card.run();
  await card.expectText("line 1\n\n");
  await card.stop();
  await expect(card.status).toContainText("stopped");
});

for (const more of [true, false])
  test(`a server that was put back to an earlier state is believed, with a cursor ${more ? "beyond" : "at"} the new end`, async ({
    page,
    server,
  }) => {
    await logIn(page, server, server.url);
    const book = await server.book("Restored", { code: ECHO });
    await page.goto(`${server.url}/books/${book.id}`);
    const card = new CardOnPage(page, book.cards[0]?.id);
    await card.run();
    await card.expectText("line 1\n\n");
    const backup = mkdtempSync(join(tmpdir(), "schwann-backup-"));
    try {
      cpSync(join(server.folder, "data"), backup, { recursive: true });
      await card.send("lost");
      await card.expectText("line 1\nline 2 lost\n\n");
      if (more) {
        await card.send("too");
        await card.expectText("line 1\nline 2 lost\nline 3 too\n\n");
      }
      await server.kill();
      rmSync(join(server.folder, "data"), { recursive: true });
      cpSync(backup, join(server.folder, "data"), { recursive: true });
      const asked: string[] = [];
      page.on("request", (request) => {
        if (/\/runs\/.*events/.test(request.url())) asked.push(request.url());
      });
      await server.start();
      await expect(card.status).toContainText("lost with the server");
      await card.expectText("line 1\n\n");
      expect(
        asked.some((url) => /after=[1-9]/.test(url)),
        "asked from where it was",
      ).toBe(true);
    } finally {
      rmSync(backup, { recursive: true, force: true });
    }
  });

test("output that is kept no longer is said to be gone, and asked for once", async ({ page, server }) => {
  await logIn(page, server, server.url);
  const book = await server.book("Expired", { code: "print('soon gone')" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await card.expectText("soon gone\n\n");
  await expect(card.status).toContainText("exit 0");
  const runs = join(server.folder, "data", "runs");
  const { data } = await server.api<{ data: { id: string }[] }>("GET", "/runs/");
  const logs = readdirSync(runs).filter((name) => name.startsWith(data[0]?.id as string));
  expect(logs).toHaveLength(1);
  for (const log of logs) rmSync(join(runs, log));
  const asked: string[] = [];
  page.on("request", (request) => {
    if (/\/runs\/.*events/.test(request.url())) asked.push(request.url());
  });
  await page.reload();
  await expect(card.status).toContainText("exit 0");
  await expect(card.status).toContainText("not kept any more");
  expect(asked).toHaveLength(1);
});

test("a full queue is told, and a place in it is shown", async ({ page }) => {
  const server = new Server("max_running = 1\nmax_queued = 1");
  await server.start();
  try {
    await logIn(page, server, server.url);
    const book = await server.book("Queue", { code: ECHO }, { code: "print('second')" }, { code: "3" });
    await page.goto(`${server.url}/books/${book.id}`);
    const [first, second, third] = book.cards.map(({ id }) => new CardOnPage(page, id));
    await first?.run();
    await first?.expectText("line 1\n\n");
    await second?.run();
    await expect(second?.status as Locator).toHaveText(/Waiting for its turn/);
    await third?.run();
    await expect(third?.root.getByRole("alert") as Locator).toBeVisible();
    // Nothing began, so it can be tried again.
    await first?.stop();
    await second?.expectText("second\n\n");
    await expect(second?.status as Locator).toContainText("exit 0");
    await third?.run();
    await expect(third?.status as Locator).toContainText("exit 0");
    await expect(third?.root.getByRole("alert") as Locator).toHaveCount(0);
  } finally {
    await server.stop();
  }
});

test("what is written while there is no server is saved when there is one", async ({
  page,
  server,
  wire,
}) => {
  const url = await wire.start();
  await logIn(page, server, url);
  const book = await server.book("Unsaved", { code: "before" });
  await page.goto(`${url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await expect(card.editor).toBeVisible();
  wire.cut();
  await card.write("after");
  await expect(card.root.getByRole("alert")).toContainText("The server does not answer.");
  await expect(card.root.getByText("Not saved")).toBeVisible();
  wire.mend();
  // By itself.
  await expect(card.root.getByRole("alert")).toHaveCount(0);
  const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
  await expect.poll(async () => (await server.api<{ code: string }>("GET", path)).code).toBe("after");
});
