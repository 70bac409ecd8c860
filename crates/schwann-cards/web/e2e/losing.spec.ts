import { test as base } from "@playwright/test";
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
