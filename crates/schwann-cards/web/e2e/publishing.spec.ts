import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { Server } from "./server";
import { CardOnPage, expect, logIn, test } from "./support";

const run = promisify(execFile);

test("where cards are not published, the page says which setting would change that", async ({
  inside: page,
  server,
}) => {
  const book = await server.book("Kept", { code: "print(1)", title: "kept here" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.root.getByRole("button", { name: "More" }).click();
  await page.getByRole("menuitem", { name: "Publish" }).click();
  const dialog = page.getByRole("dialog", { name: "Publish" });
  await expect(dialog.getByRole("status")).toBeVisible();
  await dialog.getByLabel("As", { exact: true }).selectOption("ETL transform");
  await expect(dialog.getByRole("status")).toContainText("`[cards] publish = true`");
  await expect(dialog.getByRole("button", { name: "Publish", exact: true })).toBeDisabled();
});

test("a card is published, called with the command that the page shows, and taken back", async ({ page }) => {
  const server = new Server('publish = true\netl_listen = "127.0.0.1:0"');
  await server.start();
  try {
    await logIn(page, server, server.url);
    const code = "import sys\nfor line in sys.stdin: print(line.strip().upper())";
    const book = await server.book("Published", { code, title: "In capitals!" });
    await page.goto(`${server.url}/books/${book.id}`);
    const card = new CardOnPage(page, book.cards[0]?.id);
    const open = async () => {
      await card.root.getByRole("button", { name: "More" }).click();
      await page.getByRole("menuitem", { name: "Publish" }).click();
    };
    await open();
    const dialog = page.getByRole("dialog", { name: "Publish" });
    await expect(dialog.getByLabel("As", { exact: true })).toHaveValue("etl");
    await expect(dialog.getByLabel("Name", { exact: true })).toHaveValue("In_capitals");
    await dialog.getByRole("button", { name: "Publish", exact: true }).click();
    const published = dialog.getByRole("region", { name: "Published" });
    await expect(published).toContainText("which is the card's");
    const command = (await published.locator("pre").textContent()) as string;
    writeFileSync(join(server.folder, "FILE"), "from a file\n");
    const call = async () => (await run("sh", ["-c", command], { cwd: server.folder })).stdout;
    expect(await call()).toBe("FROM A FILE\n");

    // What is called stays what was published, until it is published again.
    await page.keyboard.press("Escape");
    await expect(card.root.getByText("ETL transform: In_capitals")).toBeVisible();
    await card.expectText("FROM A FILE\n\n");
    await card.write(code.replace("upper", "title"));
    await page.keyboard.press("Control+Enter");
    await card.root.getByRole("button", { name: "End of input" }).click();
    expect(await call()).toBe("FROM A FILE\n");
    await card.root.getByRole("button", { name: "Runs" }).click();
    await expect(page.getByRole("menuitem").filter({ hasText: "ETL transform" })).toHaveCount(2);
    await page.keyboard.press("Escape");
    await open();
    await expect(published).toContainText("Publish again to call that");
    await dialog.getByRole("button", { name: "Publish again" }).click();
    await expect(published).toContainText("which is the card's");
    expect(await call()).toBe("From A File\n");

    await dialog.getByRole("button", { name: "Take back" }).click();
    await expect(published).toHaveCount(0);
    await expect(call()).rejects.toThrow("404");
  } finally {
    await server.stop();
  }
});

test("a card that is published for one hotkey stays so until the list is emptied", async ({ page }) => {
  const bob = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty";
  const server = new Server("", "up");
  await server.start();
  try {
    await logIn(page, server, server.url);
    const code = 'import sys, json; print(json.dumps({"said": "yes"}))';
    const book = await server.book("For Bob", { code, title: "Bobs" });
    const path = `/books/${book.id}/cards/${book.cards[0]?.id}/publication`;
    // Fields that are hashed are not asked for by the page, which leaves them as they are.
    await server.api("PUT", path, { face: "synapse", name: "Bobs", hash: ["text"] });
    await page.goto(`${server.url}/books/${book.id}`);
    const card = new CardOnPage(page, book.cards[0]?.id);
    await card.root.getByRole("button", { name: "More" }).click();
    await page.getByRole("menuitem", { name: "Publish" }).click();
    const dialog = page.getByRole("dialog", { name: "Publish" });
    const allow = dialog.getByLabel("Hotkeys that may call it");
    const again = dialog.getByRole("button", { name: "Publish again" });
    const kept = () => server.api<{ allow: string[]; hash: string[] }>("GET", path);

    await allow.fill("5Nobody");
    await again.click();
    await expect(dialog.getByRole("alert")).toContainText("allow.0");
    await expect(dialog.getByRole("alert")).toContainText("`5Nobody` is no hotkey");
    await allow.fill(`${bob}\n`);
    await again.click();
    await expect.poll(async () => (await kept()).allow).toEqual([bob]);
    await page.reload();
    await card.root.getByRole("button", { name: "More" }).click();
    await page.getByRole("menuitem", { name: "Publish" }).click();
    await expect(allow).toHaveValue(bob);
    const answered = page.waitForResponse((response) => response.request().method() === "PUT");
    await again.click();
    expect((await answered).status()).toBe(200);
    expect(await kept()).toMatchObject({ allow: [bob], hash: ["text"] });
    await allow.fill("");
    await again.click();
    await expect.poll(async () => (await kept()).allow).toEqual([]);
  } finally {
    await server.stop();
  }
});
