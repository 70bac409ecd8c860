import { readFile } from "node:fs/promises";
import type { Page } from "@playwright/test";
import { CardOnPage, expect, test } from "./support";

const NOTEBOOK = {
  nbformat: 4,
  nbformat_minor: 5,
  metadata: { kernelspec: { name: "python3", language: "python", display_name: "Python 3" } },
  cells: [
    { id: "a", cell_type: "markdown", metadata: {}, source: ["# From Jupyter\n", "测试"] },
    { id: "d", cell_type: "code", metadata: {}, execution_count: 2, outputs: [], source: "n = 0" },
    {
      id: "b",
      cell_type: "code",
      metadata: {},
      execution_count: 1,
      outputs: [],
      source: ["n = 6 * 7\n", "print(n)"],
    },
    {
      id: "c",
      cell_type: "code",
      metadata: {},
      execution_count: null,
      outputs: [],
      source: "%%bash\necho from bash",
    },
  ],
};

async function importFile(page: Page, name: string, text: string): Promise<void> {
  const chosen = page.waitForEvent("filechooser");
  await page.getByRole("button", { name: "Import" }).click();
  await (await chosen).setFiles({ name, mimeType: "application/octet-stream", buffer: Buffer.from(text) });
}

async function exported(page: Page, ending: string): Promise<{ name: string; text: string }> {
  await page.getByRole("button", { name: "More", exact: true }).first().click();
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("menuitem", { name: ending }).click(),
  ]);
  return {
    name: download.suggestedFilename(),
    text: await readFile((await download.path()) as string, "utf8"),
  };
}

test("a notebook comes in, runs, and goes out as it came", async ({ inside: page, server }) => {
  await page.goto(server.url);
  await importFile(page, "analysis.ipynb", JSON.stringify(NOTEBOOK));
  await expect(page.getByRole("heading", { name: "From Jupyter" })).toBeVisible();
  await expect(page.getByText("测试")).toBeVisible();
  const ids = await page
    .locator("[data-card]")
    .evaluateAll((all) => all.map((one) => (one as HTMLElement).dataset.card));
  expect(ids).toHaveLength(4);
  await page.getByRole("button", { name: "Run all" }).click();
  await new CardOnPage(page, ids[2]).expectText("42\n\n");
  await new CardOnPage(page, ids[3]).expectText("from bash\n\n");

  const out = await exported(page, "Export .ipynb");
  expect(out.name).toMatch(/\.ipynb$/);
  const notebook = JSON.parse(out.text) as { cells: { cell_type: string; source: string | string[] }[] };
  const cells = notebook.cells.map(({ cell_type, source }) => [cell_type, [source].flat().join("")]);
  expect(cells).toEqual(NOTEBOOK.cells.map(({ cell_type, source }) => [cell_type, [source].flat().join("")]));

  // And in again, by way of Markdown.
  const markdown = await exported(page, "Export .md");
  expect(markdown.name).toMatch(/\.md$/);
  await page.getByRole("link", { name: "Books" }).click();
  await importFile(page, "again.md", markdown.text);
  await expect(page.getByRole("heading", { name: "From Jupyter" })).toBeVisible();
  await expect(page.getByRole("textbox", { name: /^Code: / })).toHaveText([
    "n = 0",
    "n = 6 * 7print(n)",
    "echo from bash",
  ]);
});

test("a file that is no notebook is refused, with the reason, and makes no book", async ({
  inside: page,
  server,
}) => {
  await page.goto(server.url);
  const before = (await server.api<{ count: number }>("GET", "/books/")).count;
  await importFile(page, "broken.ipynb", '{"nbformat": 4, "cells": [{"cell_type": "code"}]}');
  await expect(page.getByRole("alert")).toContainText(/cell/i);
  await importFile(page, "broken.ipynb", "not JSON");
  await expect(page.getByRole("alert")).toContainText(/JSON/);
  expect((await server.api<{ count: number }>("GET", "/books/")).count).toBe(before);
});

test("output is copied, downloaded whole and cleared from the page, but not from the server", async ({
  inside: page,
  server,
}) => {
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  const code = "print('50%\\r\\x1b[31mred\\x1b[0m 行')\nprint('end')";
  const book = await server.book("Output", { code });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.run();
  await expect(card.status).toContainText("exit 0");
  await expect(card.output).toContainText("end");
  await card.root.getByRole("button", { name: /^Copy: / }).click();
  await expect(card.root.getByText("Copied")).toBeVisible();
  // As it is seen, without what a terminal does not show.
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe("red 行\nend\n");
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    card.root.getByRole("link", { name: /^Download: / }).click(),
  ]);
  // As it was written.
  expect(await readFile((await download.path()) as string, "utf8")).toBe("50%\r\x1b[31mred\x1b[0m 行\nend\n");
  await card.root.getByRole("button", { name: /^Clear: / }).click();
  await expect(card.output).toBeHidden();
  await page.reload();
  await expect(card.output).toContainText("red 行");
});
