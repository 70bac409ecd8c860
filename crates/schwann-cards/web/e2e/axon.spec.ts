import { Server } from "./server";
import { CardOnPage, expect, logIn, test } from "./support";

/** Calls the axon beside the server, or says why it cannot. */
const CALLS = `try:
    from axon import call
    print(call("Echo", text="over the axon")["text"])
except ImportError:
    print("there is no axon here")
`;

test("a card is allowed to call the axon, calls it, and is not allowed any more", async ({ page }) => {
  const server = new Server("", "up");
  await server.start();
  try {
    await logIn(page, server, server.url);
    const book = await server.book("Calling", { code: CALLS, title: "calls", settings: { kept: 1 } });
    const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
    const settings = async () =>
      (await server.api<{ settings: Record<string, unknown> }>("GET", path)).settings;
    await page.goto(`${server.url}/books/${book.id}`);
    const card = new CardOnPage(page, book.cards[0]?.id);
    const turn = async (from: boolean) => {
      await card.root.getByRole("button", { name: "More" }).click();
      const choice = page.getByRole("menuitemcheckbox", { name: "May call the axon" });
      await expect(choice).toHaveAttribute("aria-checked", String(from));
      await choice.click();
    };
    await card.run();
    await card.expectText("there is no axon here\n\n");
    // Run at once: what was not saved yet is saved with it.
    await turn(false);
    await card.run();
    await card.expectText("over the axon\n\n");
    expect(await settings()).toEqual({ kept: 1, axon: true });
    await expect(card.root.getByText("calls the axon")).toBeVisible();

    await page.reload();
    await expect(card.root.getByText("calls the axon")).toBeVisible();
    await turn(true);
    await expect(card.root.getByText("calls the axon")).toHaveCount(0);
    await expect.poll(settings).toEqual({ kept: 1 });
    await card.run();
    await card.expectText("there is no axon here\n\n");
  } finally {
    await server.stop();
  }
});

test("without an axon beside the server nothing is offered but to turn it off", async ({
  inside: page,
  server,
}) => {
  const book = await server.book(
    "Alone",
    { code: "print(1)", title: "plain" },
    { code: "print(2)", title: "from elsewhere", settings: { axon: true } },
  );
  await page.goto(`${server.url}/books/${book.id}`);
  const plain = new CardOnPage(page, book.cards[0]?.id);
  const other = new CardOnPage(page, book.cards[1]?.id);
  const choice = page.getByRole("menuitemcheckbox");
  await plain.root.getByRole("button", { name: "More" }).click();
  await expect(page.getByRole("menuitem", { name: "Publish" })).toBeVisible();
  await expect(choice).toHaveCount(0);
  await page.keyboard.press("Escape");
  await other.run();
  await expect(other.root.getByRole("alert")).toContainText("`axon`");
  await other.root.getByRole("button", { name: "More" }).click();
  await choice.click();
  await other.run();
  await other.expectText("2\n\n");
});

test("a title that was just written is saved by running the card", async ({ inside: page, server }) => {
  const book = await server.book("Titles", { code: "print(1)", title: "before" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.root.getByRole("textbox", { name: "Title of the card" }).fill("after");
  await card.editor.press("Control+Enter");
  await card.expectText("1\n\n");
  const path = `/books/${book.id}/cards/${book.cards[0]?.id}`;
  expect((await server.api<{ title: string }>("GET", path)).title).toBe("after");
});
