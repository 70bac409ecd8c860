import { CardOnPage, expect, test } from "./support";

test("where cards are not published, the page says why", async ({ inside: page, server }) => {
  const book = await server.book("Kept", { code: "print(1)", title: "kept here" });
  await page.goto(`${server.url}/books/${book.id}`);
  const card = new CardOnPage(page, book.cards[0]?.id);
  await card.root.getByRole("button", { name: "More" }).click();
  await page.getByRole("menuitem", { name: "Publish" }).click();
  const dialog = page.getByRole("dialog", { name: "Publish" });
  await expect(dialog.getByRole("status")).toBeVisible();
  await dialog.getByLabel("As", { exact: true }).selectOption("ETL transform");
  await expect(dialog.getByRole("status")).not.toBeEmpty();
  await expect(dialog.getByRole("button", { name: "Publish", exact: true })).toBeDisabled();
});
