import type { Page } from "@playwright/test";
import { PASSWORD, Server } from "./server";
import { CardOnPage, expect, pageOf, test, watch } from "./support";

/** Requests that the server refused: a page that offers only what is allowed has none. */
function refusals(page: Page): string[] {
  const seen: string[] = [];
  page.on("response", (answer) => {
    if (answer.status() === 403) seen.push(`${answer.request().method()} ${answer.url()}`);
  });
  return seen;
}

test("who has no account is not offered one, unless the operator says so", async ({ page, server }) => {
  watch(page);
  await page.goto(`${server.url}/login`);
  await expect(page.getByRole("button", { name: "Log in" })).toBeVisible();
  await expect(page.getByRole("link", { name: "Sign up" })).toHaveCount(0);
  // Who knows the address is told.
  await page.goto(`${server.url}/signup`);
  await page.getByLabel("Email").fill("uninvited@example.com");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Sign up" }).click();
  await expect(page.getByRole("alert")).toBeVisible();
});

test("where people may sign up, they do, and are in; and without a sandbox everybody is warned", async ({
  page,
}) => {
  const server = new Server('signup = true\nsandbox = "none"');
  await server.start();
  try {
    watch(page);
    await page.goto(server.url);
    await page.getByRole("link", { name: "Sign up" }).click();
    await page.getByLabel("Full name").fill("A New Person");
    await page.getByLabel("Email").fill("new@example.com");
    await page.getByLabel("Password").fill("short");
    await page.getByRole("button", { name: "Sign up" }).click();
    await expect(page.getByRole("heading", { name: "Sign up" })).toBeVisible();
    await page.getByLabel("Password").fill(PASSWORD);
    await page.getByRole("button", { name: "Sign up" }).click();
    await expect(page.getByRole("heading", { name: "Books" })).toBeVisible();
    await expect(page.getByText("No books yet.")).toBeVisible();
    await expect(page.getByText("There is no sandbox")).toBeVisible();
    await page.getByRole("button", { name: "New book" }).click();
    await page.getByLabel("Title").fill("Bare");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("button", { name: "Code", exact: true }).click();
    await page.getByRole("textbox", { name: /^Code: / }).click();
    await page.keyboard.type("print('bare')");
    await page.keyboard.press("Control+Enter");
    await expect(page.getByTestId("output")).toContainText("bare");
    await expect(page.getByText("no sandbox", { exact: true })).toBeVisible();
    await expect(page.getByRole("link", { name: "Users" })).toHaveCount(0);
  } finally {
    await server.stop();
  }
});

test("a book that is shared by name offers what its role allows, and no more", async ({
  inside: page,
  browser,
  server,
}) => {
  for (const name of ["viewer", "runner", "editor"]) await server.user(`${name}@example.com`);
  const book = await server.book(
    "Together",
    { code: "print('from the book')", title: "shared code" },
    { kind: "markdown", code: "# Shared text" },
  );
  await page.goto(`${server.url}/books/${book.id}`);
  await page.getByRole("button", { name: "Share" }).click();
  const people = page.getByRole("region", { name: "People" });
  for (const [name, role] of [
    ["viewer", "reads"],
    ["runner", "runs"],
    ["editor", "edits"],
  ] as const) {
    await people.getByLabel("Email").fill(`${name}@example.com`);
    await people.getByLabel("Role").selectOption(role);
    await people.getByRole("button", { name: "Add" }).click();
    await expect(people.getByText(`${name}@example.com`)).toBeVisible();
  }
  await people.getByLabel("Email").fill("nobody@example.com");
  await people.getByRole("button", { name: "Add" }).click();
  await expect(people.getByRole("alert")).toContainText("User not found");

  const changing = /^(Move|Share|Code$|Text$|Edit$)/;
  const code = book.cards[0]?.id;

  const viewer = await pageOf(browser, server, "viewer@example.com");
  const seenByViewer = refusals(viewer);
  await viewer.goto(server.url);
  await expect(viewer.getByText("Shared with you: reads")).toBeVisible();
  await viewer.getByRole("link", { name: "Together" }).click();
  await expect(viewer.getByText("you may read it")).toBeVisible();
  await expect(new CardOnPage(viewer, code).editor).toHaveText("print('from the book')");
  await expect(viewer.getByRole("heading", { name: "Shared text" })).toBeVisible();
  await expect(viewer.getByRole("button", { name: changing })).toHaveCount(0);
  await expect(viewer.getByRole("button", { name: /^(Run|Stop)/ })).toHaveCount(0);
  await new CardOnPage(viewer, code).editor.press("x");
  await viewer.getByText("Shared text").dblclick();
  await expect(viewer.getByRole("textbox", { name: /^Text card/ })).toHaveCount(0);
  await viewer.getByRole("button", { name: "More" }).click();
  await expect(viewer.getByRole("menuitem")).toHaveText(["Export .ipynb", "Export .md", "Export .json"]);
  expect(seenByViewer).toEqual([]);

  const runner = await pageOf(browser, server, "runner@example.com");
  const seenByRunner = refusals(runner);
  await runner.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(runner, code);
  await card.editor.press("x");
  await card.editor.press("Control+Enter");
  await card.expectText("from the book\n\n");
  await expect(card.status).toContainText("exit 0");
  await expect(runner.getByRole("button", { name: changing })).toHaveCount(0);
  expect(seenByRunner).toEqual([]);

  const editor = await pageOf(browser, server, "editor@example.com");
  const seenByEditor = refusals(editor);
  await editor.goto(`${server.url}/books/${book.id}`);
  const edited = new CardOnPage(editor, code);
  await edited.write("print('from the editor')");
  await editor.keyboard.press("Control+Enter");
  await edited.expectText("from the editor\n\n");
  await expect(editor.getByRole("button", { name: "Share", exact: true })).toHaveCount(0);
  await editor.getByRole("button", { name: "More", exact: true }).first().click();
  await expect(editor.getByRole("menuitem", { name: "Delete book" })).toHaveCount(0);
  expect(seenByEditor).toEqual([]);

  // Taken back, it is as if it had never been.
  await people.getByRole("button", { name: "Remove: viewer@example.com" }).click();
  await expect(people.getByText("viewer@example.com")).toBeHidden();
  await viewer.reload();
  await expect(viewer.getByRole("heading", { name: "There is nothing here." })).toBeVisible();
  for (const one of [viewer, runner, editor]) await one.context().close();
});

test("a link is opened by another user and by nobody in particular, and both only read", async ({
  inside: page,
  browser,
  server,
}) => {
  await server.user("other@example.com");
  const book = await server.book("By link", { code: "print('read me')" });
  await page.goto(`${server.url}/books/${book.id}`);
  await page.getByRole("button", { name: "Share" }).click();
  await page.getByRole("button", { name: "Make a link" }).click();
  const address = (await page.getByRole("link", { name: /\/shared\// }).getAttribute("href")) as string;
  for (const email of ["other@example.com", undefined]) {
    const seen = await pageOf(browser, server, email);
    await seen.goto(address);
    await expect(seen.getByText("read me")).toBeVisible();
    await expect(seen.getByRole("button", { name: /Run|Move|Delete|Edit/ })).toHaveCount(0);
    // The link opens the page of the link, and nothing else of the book.
    await seen.goto(`${server.url}/books/${book.id}`);
    await expect(
      seen.getByRole("heading", { name: email ? "There is nothing here." : "Log in" }),
    ).toBeVisible();
    await seen.context().close();
  }
  const stranger = await pageOf(browser, server);
  await stranger.goto(`${address}x`);
  await expect(stranger.getByText("The link is wrong, or was taken back.")).toBeVisible();
  await stranger.context().close();
});

test("a superuser makes, stops and removes accounts", async ({ inside: page, browser, server }) => {
  await page.goto(`${server.url}/users`);
  await page.getByRole("button", { name: "New user" }).click();
  await page.getByLabel("Email").fill("managed@example.com");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Save" }).click();
  const row = page.getByRole("listitem").filter({ hasText: "managed@example.com" });
  const act = async (name: string) => {
    await row.getByRole("button", { name: "More: managed@example.com" }).click();
    await page.getByRole("menuitem", { name }).click();
  };
  const theirs = await pageOf(browser, server, "managed@example.com");
  await theirs.goto(server.url);
  await expect(theirs.getByRole("heading", { name: "Books" })).toBeVisible();

  await act("Deactivate");
  await expect(row).toContainText("Inactive");
  await theirs.reload();
  await expect(theirs.getByRole("heading", { name: "Log in" })).toBeVisible();
  await act("Activate");
  await expect(row).toContainText("User · Active");
  await act("Make a superuser");
  await expect(row).toContainText("Superuser · Active");
  await act("New password");
  await page.getByRole("textbox", { name: "New password" }).fill("quite another password");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await theirs.getByLabel("Email").fill("managed@example.com");
  await theirs.getByLabel("Password").fill("quite another password");
  await theirs.getByRole("button", { name: "Log in" }).click();
  await expect(theirs.getByRole("link", { name: "Users" })).toBeVisible();
  await act("Delete");
  await page.getByRole("alertdialog").getByRole("button", { name: "Delete" }).click();
  await expect(row).toHaveCount(0);
  await theirs.reload();
  await expect(theirs.getByRole("heading", { name: "Log in" })).toBeVisible();
  await theirs.context().close();
});

test("a token is made, used by a program within its scopes, and taken back", async ({
  inside: page,
  server,
}) => {
  const book = await server.book("For programs", { code: "print('run by a program')" });
  await page.goto(`${server.url}/settings`);
  await page.getByLabel("Name", { exact: true }).fill("a program");
  await page.getByRole("button", { name: "New token" }).click();
  const token = (await page.getByText(/^cc_/).textContent()) as string;
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const card = `${server.url}/api/v1/books/${book.id}/cards/${book.cards[0]?.id}`;
  const ran = await fetch(`${card}/run`, { method: "POST", headers });
  expect(await ran.text()).toBe("run by a program\n");
  const changed = await fetch(card, { method: "PUT", headers, body: '{"code": "1"}' });
  expect(changed.status, "without the scope to write").toBe(403);
  // The run is the user's, whoever began it.
  await page.goto(`${server.url}/books/${book.id}`);
  await new CardOnPage(page, book.cards[0]?.id).expectText("run by a program\n\n");
  await page.goto(`${server.url}/settings`);
  await page.getByRole("button", { name: "Remove: a program" }).click();
  await expect(page.getByText("a program", { exact: true })).toHaveCount(0);
  expect((await fetch(`${card}/run`, { method: "POST", headers })).status).toBe(403);
});
