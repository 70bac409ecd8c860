import { EMAIL, PASSWORD } from "./server";
import { CardOnPage, expect, pageOf, signIn, test, watch } from "./support";

test("a person logs in, makes a book, writes a card and logs out", async ({ page, server }) => {
  watch(page);
  await page.goto(`${server.url}/books/somewhere`);
  await expect(page.getByRole("heading", { name: "Log in" })).toBeVisible();
  await page.getByLabel("Email").fill(EMAIL);
  await page.getByLabel("Password").fill("wrong password");
  await page.getByRole("button", { name: "Log in" }).click();
  await expect(page.getByRole("alert")).toContainText("Incorrect email or password");
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("link", { name: "Books", exact: true }).click();
  await page.getByRole("button", { name: "New book" }).click();
  await page.getByLabel("Title").fill("My first book");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByRole("heading", { name: "My first book" })).toBeVisible();
  await page.getByRole("button", { name: "Code", exact: true }).click();
  await page.getByRole("textbox", { name: /^Code: / }).click();
  await page.keyboard.type("print(6 * 7)");
  await page.keyboard.press("Control+Enter");
  await expect(page.getByTestId("output")).toContainText("42");
  await page.getByRole("button", { name: "Account" }).click();
  await page.getByRole("menuitem", { name: "Log out" }).click();
  await expect(page.getByRole("heading", { name: "Log in" })).toBeVisible();
  await page.goto(server.url);
  await expect(page.getByRole("heading", { name: "Log in" })).toBeVisible();
});

test("what is written is saved without being asked for", async ({ inside: page, server }) => {
  const book = await server.book("Saving", { code: "print(1)" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.write("print(2)");
  const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
  await expect.poll(async () => (await server.api<{ code: string }>("GET", path)).code).toBe("print(2)");
});

test("a card that was changed somewhere else is not written over", async ({ inside: page, server }) => {
  const book = await server.book("Conflict", { code: "mine = 0" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await expect(card.root).toContainText("mine = 0");
  const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
  await server.api("PUT", path, { code: "theirs = 1" });
  await card.write("mine = 1");
  await expect(card.root).toContainText("This card was changed somewhere else.");
  expect((await server.api<{ code: string }>("GET", path)).code).toBe("theirs = 1");
  await card.root.getByRole("button", { name: "Take theirs" }).click();
  await expect(card.root.getByRole("textbox", { name: /^Code: / })).toHaveText("theirs = 1");
});

test("what was changed in another tab is shown in this one, and not written over", async ({
  inside: page,
  server,
}) => {
  const book = await server.book("Two editors", { code: "old = 0", title: "old" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await expect(card.editor).toHaveText("old = 0");
  const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
  await server.api("PUT", path, { code: "new = 1", title: "new" });
  // Whatever makes the list be read anew: here a card that is added.
  await page.getByRole("button", { name: "Text", exact: true }).click();
  await expect(card.editor).toHaveText("new = 1");
  await expect(card.root.getByRole("textbox", { name: "Title of the card" })).toHaveValue("new");
  await card.editor.click();
  await page.keyboard.press("ControlOrMeta+End");
  await page.keyboard.type(" + 1");
  await expect.poll(async () => (await server.api<{ code: string }>("GET", path)).code).toBe("new = 1 + 1");
});

test("running does not write over what was changed somewhere else", async ({ inside: page, server }) => {
  const book = await server.book("Run conflict", { code: "print('mine')" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await expect(card.editor).toHaveText("print('mine')");
  const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
  await server.api("PUT", path, { code: "print('theirs')" });
  await card.run();
  await expect(card.root).toContainText("This card was changed somewhere else.");
  expect((await server.api<{ code: string }>("GET", path)).code).toBe("print('theirs')");
  await card.root.getByRole("button", { name: "Keep mine" }).click();
  await expect.poll(async () => (await server.api<{ code: string }>("GET", path)).code).toBe("print('mine')");
  await card.run();
  await card.expectText("mine\n\n");
});

test("more books than a page of the list has are all reached", async ({ server, browser }) => {
  const { id } = await server.user("collector@example.com");
  expect(id).toBeTruthy();
  const token = await server.session("collector@example.com");
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  for (let i = 0; i < 101; i += 1) {
    const body = JSON.stringify({ title: `Book ${i}` });
    const made = await fetch(`${server.url}/api/v1/books/`, { method: "POST", headers, body });
    expect(made.status).toBe(200);
  }
  const theirs = await pageOf(browser, server, "collector@example.com");
  await theirs.goto(server.url);
  await expect(theirs.getByRole("link", { name: /^Book \d/ })).toHaveCount(100);
  await theirs.getByRole("button", { name: "Show more" }).click();
  await expect(theirs.getByRole("link", { name: /^Book \d/ })).toHaveCount(101);
  await expect(theirs.getByRole("button", { name: "Show more" })).toHaveCount(0);
  await theirs.getByRole("searchbox").fill("book 42");
  await expect(theirs.getByRole("link", { name: /^Book \d/ })).toHaveText(["Book 42"]);
  await theirs.getByRole("searchbox").fill("nowhere");
  await expect(theirs.getByText("No book has “nowhere” in its title.")).toBeVisible();
  await theirs.context().close();
});

test("cards are moved by keyboard, and stay where they were put", async ({ inside: page, server }) => {
  const book = await server.book(
    "Order",
    { code: "1", title: "one" },
    { code: "2", title: "two" },
    { code: "3", title: "three" },
  );
  await page.goto(`${server.url}/books/${book.id}`);
  const titles = page.getByRole("textbox", { name: "Title of the card" });
  await expect(titles).toHaveCount(3);
  const order = () => titles.evaluateAll((all) => all.map((one) => (one as HTMLInputElement).value));
  expect(await order()).toEqual(["one", "two", "three"]);
  await titles.nth(2).focus();
  await page.keyboard.press("Alt+Shift+ArrowUp");
  await expect.poll(order).toEqual(["one", "three", "two"]);
  await expect(page.getByText("Card is now 2 of 3")).toBeAttached();
  await page
    .locator(`[data-card="${book.cards[0]?.id}"]`)
    .getByRole("button", { name: "Move down" })
    .press("Enter");
  await expect.poll(order).toEqual(["three", "one", "two"]);
  await expect
    .poll(async () => {
      const { data } = await server.api<{ data: { title: string }[] }>("GET", `/books/${book.id}/cards/`);
      return data.map(({ title }) => title);
    })
    .toEqual(["three", "one", "two"]);
});

test("the editor is left by Escape and Tab", async ({ inside: page, server }) => {
  const book = await server.book("Keyboard", { code: "x" });
  await page.goto(`${server.url}/books/${book.id}`);
  const editor = page.getByRole("textbox", { name: /^Code: / });
  await editor.click();
  await page.keyboard.press("Tab");
  await expect(editor).toBeFocused();
  await page.keyboard.press("Escape");
  await page.keyboard.press("Tab");
  await expect(editor).not.toBeFocused();
});

test("text is Markdown, in which nothing can run", async ({ page, server }) => {
  // What the policy stops while the text is cleaned, it says in the console.
  await signIn(page, server, server.url);
  const code = [
    "# Heading",
    "*good*",
    `<img src="x" onerror="window.broken = 1"> <script>window.broken = 2</script>`,
    "[bad](javascript:window.broken=3) [fine](https://example.com)",
    `<iframe src="https://example.com"></iframe><style>body{display:none}</style><form action="/x"><input name=a></form>`,
  ].join("\n\n");
  const book = await server.book("Text", { kind: "markdown", code });
  await page.goto(`${server.url}/books/${book.id}`);
  const prose = page.locator(".prose");
  await expect(prose.getByRole("heading", { name: "Heading" })).toBeVisible();
  expect(
    await prose.locator("script, iframe, style, form, input, [onerror], a[href^=javascript]").count(),
  ).toBe(0);
  await expect(prose.getByRole("link", { name: "fine" })).toHaveAttribute("rel", /noopener/);
  expect(await page.evaluate(() => "broken" in window)).toBe(false);
});

test("a shared book is read without an account, and only read", async ({ inside: page, browser, server }) => {
  const book = await server.book(
    "For all",
    { code: "print('shared code')" },
    { kind: "markdown", code: "# Shared text" },
  );
  await page.goto(`${server.url}/books/${book.id}`);
  await page.getByRole("button", { name: "Share" }).click();
  await page.getByRole("button", { name: "Make a link" }).click();
  const link = page.getByRole("link", { name: /\/shared\// });
  const address = (await link.getAttribute("href")) as string;
  const stranger = await browser.newContext();
  const seen = await stranger.newPage();
  watch(seen);
  await seen.goto(address);
  await expect(seen.getByRole("heading", { name: "For all" })).toBeVisible();
  await expect(seen.getByText("shared code")).toBeVisible();
  await expect(seen.getByRole("heading", { name: "Shared text" })).toBeVisible();
  expect(await seen.getByRole("button", { name: /Run|Move|Delete/ }).count()).toBe(0);
  await page.getByRole("button", { name: "Remove link" }).click();
  await expect(link).toHaveCount(0);
  await seen.reload();
  await expect(seen.getByRole("heading", { name: "There is nothing here." })).toBeVisible();
  await stranger.close();
});

test("a superuser makes users, and a token is shown once", async ({ inside: page, server }) => {
  await page.goto(`${server.url}/users`);
  await page.getByRole("button", { name: "New user" }).click();
  await page.getByLabel("Email").fill("second@example.com");
  await page.getByLabel("Password").fill("another good password");
  await page.getByRole("button", { name: "Save" }).click();
  await expect(page.getByText("second@example.com")).toBeVisible();
  await page.goto(`${server.url}/settings`);
  await page.getByLabel("Name", { exact: true }).fill("for a program");
  await page.getByRole("button", { name: "New token" }).click();
  const token = (await page.getByText(/^cc_/).textContent()) as string;
  const headers = { authorization: `Bearer ${token}` };
  expect((await fetch(`${server.url}/api/v1/books/`, { headers })).status).toBe(200);
  await page.reload();
  await expect(page.getByText("for a program")).toBeVisible();
  expect(await page.getByText(/^cc_/).count()).toBe(0);
  await page.getByRole("button", { name: "Remove: for a program" }).click();
  await expect(page.getByText("for a program")).toBeHidden();
  expect((await fetch(`${server.url}/api/v1/books/`, { headers })).status).toBe(403);
});

test("the page speaks Chinese", async ({ inside: page, server }) => {
  await page.goto(server.url);
  await page.getByRole("button", { name: "Account" }).click();
  await page.getByRole("menuitemradio", { name: "中文" }).click();
  await expect(page.getByRole("heading", { name: "书册" })).toBeVisible();
  await expect(page.locator("html")).toHaveAttribute("lang", "zh-CN");
  await page.reload();
  await expect(page.getByRole("button", { name: "新建书册" })).toBeVisible();
});
