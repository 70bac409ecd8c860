import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket, type Server as TcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const EMAIL = "admin@example.com";
export const PASSWORD = "correct horse battery";

const BINARY =
  process.env.SCHWANN_BINARY ?? fileURLToPath(new URL("../../../../target/debug/schwann", import.meta.url));

export interface NewCard {
  kind?: "code" | "markdown";
  title?: string;
  language?: string;
  code: string;
  settings?: Record<string, unknown>;
}

/** The real program, with a data folder of its own. */
export class Server {
  readonly folder = mkdtempSync(join(tmpdir(), "schwann-page-"));
  readonly #settings: string;
  readonly #command: "cards" | "up";
  readonly #said: string[] = [];
  #process: ChildProcess | undefined;
  #port = 0;
  #token = "";

  /** With `up` it is beside an axon. */
  constructor(settings = "", command: "cards" | "up" = "cards") {
    this.#settings = settings;
    this.#command = command;
  }

  get port(): number {
    return this.#port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Starts it, on the port that it had before. */
  async start(): Promise<void> {
    const config = join(this.folder, "schwann.toml");
    const lines = [
      "[cards]",
      `listen = "127.0.0.1:${this.#port}"`,
      `data = ${JSON.stringify(join(this.folder, "data"))}`,
      `first_superuser = "${EMAIL}"`,
      `first_superuser_password = "${PASSWORD}"`,
      "logins_per_minute = 1000",
      "requests_per_minute = 100000",
      ...(this.#settings.includes("max_running") ? [] : ["max_running = 32"]),
      this.#settings,
      ...(this.#command === "up" ? ["[axon]", 'listen = "127.0.0.1:0"'] : []),
    ];
    writeFileSync(config, lines.join("\n"));
    const child = spawn(BINARY, [this.#command, "--config", config, "--json"], {
      cwd: this.folder,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    child.stderr.on("data", (data: Buffer) => this.#said.push(data.toString()));
    this.#port = await new Promise<number>((resolve, reject) => {
      const lines = createInterface(child.stdout);
      lines.once("line", (line) => {
        const said = JSON.parse(line) as { port: number; cards?: { port: number } };
        resolve((said.cards ?? said).port);
      });
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`${BINARY} ended with ${code}: ${this.#said.join("")}`)));
    });
    this.#token = await this.session();
  }

  /** Ends it without a chance to do anything. */
  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Logs in; the token is also the value of the page's cookie. */
  async session(email = EMAIL, password = PASSWORD): Promise<string> {
    const body = new URLSearchParams({ username: email, password });
    const response = await fetch(`${this.url}/api/v1/login/access-token`, { method: "POST", body });
    if (!response.ok) throw new Error(`log-in: ${response.status} ${await response.text()}`);
    return ((await response.json()) as { access_token: string }).access_token;
  }

  async api<T>(method: string, path: string, body?: unknown): Promise<T> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    const response = await fetch(`${this.url}/api/v1${path}`, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return (await response.json()) as T;
  }

  /** Somebody else with an account, and that account's id. */
  user(email: string): Promise<{ id: string }> {
    return this.api<{ id: string }>("POST", "/users/", { email, password: PASSWORD });
  }

  /** A book with these cards. */
  async book(title: string, ...cards: NewCard[]): Promise<{ id: string; cards: { id: string }[] }> {
    const { id } = await this.api<{ id: string }>("POST", "/books/", { title });
    const made: { id: string }[] = [];
    for (const card of cards) {
      const full = card.kind === "markdown" ? card : { kind: "code", language: "python", ...card };
      made.push(await this.api<{ id: string }>("POST", `/books/${id}/cards/`, full));
    }
    return { id, cards: made };
  }
}

/** A wire between browser and server that a test can cut. */
export class Wire {
  readonly #server: TcpServer;
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  constructor(to: () => number) {
    this.#server = createServer((near) => {
      if (this.#isCut) {
        near.destroy();
        return;
      }
      const far = connect(to(), "127.0.0.1");
      for (const [socket, other] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => {
          this.#sockets.delete(socket);
          other.destroy();
        });
      }
      near.pipe(far);
      far.pipe(near);
    });
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    const address = this.#server.address();
    if (typeof address !== "object" || !address) throw new Error("a listening server has an address");
    return `http://127.0.0.1:${address.port}`;
  }

  cut(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend(): void {
    this.#isCut = false;
  }

  stop(): void {
    this.cut();
    this.#server.close();
  }
}
