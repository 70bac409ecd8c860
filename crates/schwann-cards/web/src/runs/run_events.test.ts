import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type Follower, type RunEvent, RunEvents, type Source } from "./run_events";

const RUN = "6b3f3a1e-0000-4000-8000-000000000001";

/** A server of one run's log, whose connections a test opens, feeds and cuts. */
class Server implements Source {
  log: RunEvent[] = [];
  replays: number[] = [];
  opened = 0;
  status = 200;
  holdReplay: Promise<void> | undefined;
  resetOnce = false;
  expired = false;
  #stream: ReadableStreamDefaultController<Uint8Array> | undefined;
  #opened: (() => void)[] = [];

  async open(): Promise<Response> {
    this.opened += 1;
    if (this.status !== 200) return new Response("no", { status: this.status });
    const body = new ReadableStream<Uint8Array>({
      start: (stream) => {
        this.#stream = stream;
      },
    });
    setTimeout(() => {
      for (const tell of this.#opened.splice(0)) tell();
    });
    return new Response(body);
  }

  async replay(_run: string, after: number): Promise<Response> {
    this.replays.push(after);
    if (this.status !== 200) return new Response("no", { status: this.status });
    const now = this.log.slice(after);
    const reset = this.resetOnce;
    this.resetOnce = false;
    await this.holdReplay;
    if (this.expired) return new Response('{"type":"reset","reason":"expired"}\n');
    if (reset) return new Response('{"type":"reset","reason":"cursor"}\n');
    return new Response(now.map((event) => `${JSON.stringify(event)}\n`).join(""));
  }

  nextOpen(): Promise<void> {
    return new Promise((resolve) => this.#opened.push(resolve));
  }

  /** Adds to the log, and sends it to whoever listens. */
  add(count: number, send = true): void {
    for (let i = 0; i < count; i += 1) {
      const seq = this.log.length + 1;
      this.push({ seq, type: "stdout", t: seq, data: `${seq};` }, send);
    }
  }

  exit(): void {
    const seq = this.log.length + 1;
    this.push({ seq, type: "exit", reason: "exit", code: 0, signal: null, elapsed_ms: 5 }, true);
  }

  push(event: RunEvent, send: boolean): void {
    this.log.push(event);
    if (send) this.send(event);
  }

  send(event: RunEvent): void {
    const text = `event: ${event.type}\ndata: ${JSON.stringify({ ...event, run_id: RUN, card_id: "c" })}\n\n`;
    this.#stream?.enqueue(new TextEncoder().encode(text));
  }

  cut(): void {
    this.#stream?.error(new Error("connection lost"));
  }
}

class Screen implements Follower {
  seen: number[] = [];
  resets = 0;
  gone = false;
  ended = false;
  #waiting: [(screen: Screen) => boolean, () => void][] = [];

  onEvent(event: RunEvent): void {
    this.seen.push(event.seq);
    if (event.type === "exit") this.ended = true;
    this.#check();
  }
  onReset(): void {
    this.seen = [];
    this.resets += 1;
  }
  onGone(): void {
    this.gone = true;
    this.#check();
  }
  until(wanted: (screen: Screen) => boolean): Promise<void> {
    if (wanted(this)) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push([wanted, resolve]));
  }
  #check(): void {
    this.#waiting = this.#waiting.filter(([wanted, tell]) => {
      if (wanted(this)) tell();
      return !wanted(this);
    });
  }
}

let server: Server;
let events: RunEvents;
let screen: Screen;

beforeEach(() => {
  vi.spyOn(Math, "random").mockReturnValue(0);
  server = new Server();
  screen = new Screen();
  events = new RunEvents(server, crypto.randomUUID());
});

afterEach(() => events.stop());

const inOrder = (count: number) => Array.from({ length: count }, (_, i) => i + 1);

test("what was printed before and what comes live is shown once and in order", async () => {
  server.add(3, false);
  const opened = server.nextOpen();
  events.start();
  await opened;
  events.follow(RUN, screen);
  await screen.until(({ seen }) => seen.length === 3);
  server.add(3);
  server.exit();
  await screen.until(({ ended }) => ended);
  expect(screen.seen).toEqual(inOrder(7));
});

test("events that come while older ones are fetched wait for them", async () => {
  const opened = server.nextOpen();
  events.start();
  await opened;
  server.add(5, false);
  let release = () => {};
  server.holdReplay = new Promise((resolve) => {
    release = resolve;
  });
  events.follow(RUN, screen);
  server.add(5);
  const more = new Screen();
  server.exit();
  events.follow("other", more);
  expect(screen.seen).toEqual([]);
  server.holdReplay = undefined;
  release();
  await screen.until(({ ended }) => ended);
  expect(screen.seen).toEqual(inOrder(11));
});

test("a gap and events that come twice are noticed", async () => {
  const opened = server.nextOpen();
  events.start();
  await opened;
  events.follow(RUN, screen);
  server.add(2);
  await screen.until(({ seen }) => seen.length === 2);
  server.add(4, false);
  server.add(1);
  await screen.until(({ seen }) => seen.length === 7);
  for (const event of server.log) server.send(event);
  server.exit();
  await screen.until(({ ended }) => ended);
  expect(screen.seen).toEqual(inOrder(8));
});

test("after a lost connection nothing is missing and nothing is there twice", async () => {
  let opened = server.nextOpen();
  events.start();
  await opened;
  events.follow(RUN, screen);
  server.add(3);
  await screen.until(({ seen }) => seen.length === 3);
  opened = server.nextOpen();
  const lost = new Promise<void>((resolve) => {
    events.onConnection = (connection) => connection === "lost" && resolve();
  });
  server.cut();
  await lost;
  server.add(10, false);
  await opened;
  server.exit();
  await screen.until(({ ended }) => ended);
  expect(screen.seen).toEqual(inOrder(14));
  expect(
    server.replays.every((after) => after === 0 || after >= 3),
    "read from the last id",
  ).toBe(true);
});

test("a run that is kept no longer says so, and a reset begins anew", async () => {
  events.start();
  server.add(2, false);
  server.resetOnce = true;
  events.follow(RUN, screen);
  await screen.until(({ seen }) => seen.length === 2);
  expect(screen.resets).toBe(1);
  server.status = 404;
  const gone = new Screen();
  events.follow(RUN, gone);
  await gone.until((it) => it.gone);
});

test("output that is not kept any more is asked for once, and what was shown stays", async () => {
  server.add(2, false);
  const opened = server.nextOpen();
  events.start();
  await opened;
  events.follow(RUN, screen);
  await screen.until(({ seen }) => seen.length === 2);
  server.expired = true;
  const asked = server.replays.length;
  // A gap, for which the rest is asked.
  server.add(2, false);
  server.add(1);
  await screen.until(({ gone }) => gone);
  expect(screen.seen).toEqual([1, 2]);
  expect(screen.resets).toBe(0);
  expect(server.replays.slice(asked)).toEqual([2]);
});

test("an end that never came is fetched, once it is known that there is one", async () => {
  const opened = server.nextOpen();
  events.start();
  await opened;
  events.follow(RUN, screen);
  server.add(3);
  await screen.until(({ seen }) => seen.length === 3);
  server.push({ seq: 4, type: "exit", reason: "exit", code: 0, signal: null, elapsed_ms: 5 }, false);
  events.catchUp(RUN, 4);
  await screen.until(({ ended }) => ended);
  expect(screen.seen).toEqual(inOrder(4));
});

test("a run that ended before what was shown of it is shown anew", async () => {
  const opened = server.nextOpen();
  events.start();
  await opened;
  events.follow(RUN, screen);
  server.add(3);
  await screen.until(({ seen }) => seen.length === 3);
  // The server was put back to an earlier state.
  server.log = server.log.slice(0, 2);
  server.push({ seq: 3, type: "exit", reason: "exit", code: 0, signal: null, elapsed_ms: 5 }, false);
  events.catchUp(RUN, 3);
  await screen.until(({ ended }) => ended);
  expect(screen.resets).toBe(1);
  expect(screen.seen).toEqual(inOrder(3));
});

test("a run that nobody here follows is told with its card", async () => {
  const opened = server.nextOpen();
  const started = new Promise((resolve) => {
    events.onStart = (run, card) => resolve([run, card]);
  });
  events.start();
  await opened;
  server.push({ seq: 1, type: "start", sandbox: "bwrap", language: "python" }, true);
  expect(await started).toEqual([RUN, "c"]);
});
