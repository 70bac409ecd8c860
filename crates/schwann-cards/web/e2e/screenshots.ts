import { fileURLToPath } from "node:url";
import { CardOnPage, expect, test } from "./support";

/** The pictures of the documentation: `npm run screenshots`. */
const FOLDER = fileURLToPath(new URL("../../../../docs/images/", import.meta.url));

const CODE = `import sys, time

for step in range(1, 6):
    print(f"step {step}/5  \\033[32m{'█' * step * 4:<20}\\033[0m", flush=True)
    time.sleep(0.05)
print("the disk is nearly full", file=sys.stderr)
`;

test("pictures", async ({ inside: page, server }) => {
  const book = await server.book(
    "Measurements",
    {
      kind: "markdown",
      code: "## From the sensor\n\nEach run **keeps its output**: reload, lose the network, come back, and every line is there.",
    },
    { title: "progress", code: CODE },
    { title: "count", language: "sh", code: 'for i in 1 2 3; do echo "第 $i 行"; done' },
  );
  await server.book("Notes");
  const shoot = async (name: string, width: number, height: number) => {
    await page.setViewportSize({ width, height });
    await page.goto(`${server.url}/books/${book.id}`);
    for (const made of book.cards.slice(1)) {
      const card = new CardOnPage(page, made.id);
      if (name === "light") await card.run();
      await expect(card.status).toContainText("exit 0");
    }
    await expect(page.getByRole("heading", { name: "From the sensor" })).toBeVisible();
    await page.evaluate(() => window.scrollTo(0, 0));
    await page.screenshot({ path: `${FOLDER}cards-${name}.png`, animations: "disabled" });
  };
  await page.emulateMedia({ colorScheme: "light" });
  await shoot("light", 960, 860);
  await page.emulateMedia({ colorScheme: "dark" });
  await shoot("dark", 960, 860);
  await shoot("phone", 390, 780);
  await page.setViewportSize({ width: 960, height: 420 });
  await page.goto(server.url);
  await expect(page.getByRole("link", { name: "Measurements" })).toBeVisible();
  await page.emulateMedia({ colorScheme: "light" });
  await page.screenshot({ path: `${FOLDER}cards-books.png` });
});
