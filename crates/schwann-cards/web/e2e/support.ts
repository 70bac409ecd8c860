import { type Browser, test as base, expect, type Locator, type Page } from "@playwright/test";
import { Server } from "./server";

export { expect };

/** One server for all tests of a file, and a page that is logged in to it. */
export const test = base.extend<{ inside: Page }, { server: Server }>({
  server: [
    // biome-ignore lint/correctness/noEmptyPattern: what the test runner asks for
    async ({}, use) => {
      const server = new Server();
      await server.start();
      await use(server);
      await server.stop();
    },
    { scope: "worker" },
  ],
  inside: async ({ page, server }, use) => {
    await logIn(page, server, server.url);
    await use(page);
  },
});

/** Gives the page a session, and fails the test if the page complains. */
export async function logIn(page: Page, server: Server, url: string): Promise<void> {
  await signIn(page, server, url);
  watch(page);
}

/** Gives the page a session. */
export async function signIn(page: Page, server: Server, url: string, email?: string): Promise<void> {
  const value = await server.session(email);
  await page
    .context()
    .addCookies([{ name: "schwann_session", value, url, httpOnly: true, sameSite: "Strict" }]);
}

/** A page of somebody else, in a browser of their own. */
export async function pageOf(browser: Browser, server: Server, email?: string): Promise<Page> {
  const context = await browser.newContext();
  const page = await context.newPage();
  if (email) await signIn(page, server, server.url, email);
  watch(page);
  return page;
}

/** What breaks the content security policy, or is not caught, is a failure. */
export function watch(page: Page): void {
  page.on("pageerror", (error) => expect.soft(error, "an error in the page").toBeUndefined());
  page.on("console", (message) => {
    if (message.type() === "error" && /Content Security Policy|React|Warning/.test(message.text())) {
      expect.soft(message.text(), "an error in the console").toBe("");
    }
  });
}

/** A card of the page. */
export class CardOnPage {
  readonly root: Locator;
  readonly output: Locator;
  readonly status: Locator;
  readonly page: Page;

  constructor(page: Page, id: string | undefined) {
    this.page = page;
    this.root = page.locator(`[data-card="${id}"]`);
    this.output = this.root.getByTestId("output");
    this.status = this.root.getByTestId("status");
  }

  get editor(): Locator {
    return this.root.getByRole("textbox", { name: /^Code: / });
  }

  async run(): Promise<void> {
    await this.root.getByRole("button", { name: "Run", exact: true }).click();
  }

  async stop(): Promise<void> {
    await this.root.getByRole("button", { name: "Stop" }).click();
  }

  /** Replaces the code as a person does: all of it, by pasting. */
  async write(code: string): Promise<void> {
    await this.editor.click();
    await this.page.keyboard.press("ControlOrMeta+a");
    await this.editor.evaluate((node, text) => {
      const clipboardData = new DataTransfer();
      clipboardData.setData("text/plain", text);
      node.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
    }, code);
  }

  /** Sends a line to the program. */
  async send(line: string): Promise<void> {
    await this.root.getByRole("textbox", { name: "Input" }).fill(line);
    await this.root.getByRole("button", { name: "Send" }).click();
  }

  /** What the program printed, without the labels of standard error. */
  text(): Promise<string> {
    return this.output.evaluate((node) => {
      const copy = node.cloneNode(true) as HTMLElement;
      for (const label of copy.querySelectorAll(".output-label")) label.remove();
      return copy.textContent ?? "";
    });
  }

  /** Waits until exactly this is shown; the last line is drawn with an end, too. */
  async expectText(text: string): Promise<void> {
    await expect.poll(() => this.text(), { timeout: 20_000 }).toBe(text);
  }
}

/** Answers each line that it is sent, so that a test decides when it prints. */
export const ECHO = `import sys
print("line 1", flush=True)
for number, line in enumerate(sys.stdin, 2):
    print(f"line {number} {line.strip()}", flush=True)
print("the end")
`;
