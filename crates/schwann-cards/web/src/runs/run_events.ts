/**
 * The events of runs, each run's in order and none twice, over one event stream for all
 * tabs of this browser.
 *
 * A browser opens six connections to a server, and a stream takes one for as long as it
 * lasts. So one tab (the one that holds a lock) reads `GET /events`, and tells the others
 * by a `BroadcastChannel`. That stream alone promises nothing: whoever follows a run
 * counts its ids, and fetches what it missed, whether a connection was lost, the tab
 * changed, or the server began anew.
 */
import { EventStreamParser } from "../api/event_stream";
import { uniqueWord } from "../api/unique";

export type Reason =
  | "exit"
  | "signal"
  | "timeout"
  | "cpu_limit"
  | "memory_limit"
  | "pids_limit"
  | "output_limit"
  | "folder_limit"
  | "cancelled"
  | "server_restart"
  | "start_failed"
  | "log_failed";

export interface Exit {
  readonly seq: number;
  readonly type: "exit";
  readonly reason: Reason;
  readonly code: number | null;
  readonly signal: number | null;
  readonly elapsed_ms: number;
}

/** An event of one run. */
export type RunEvent =
  | { readonly seq: number; readonly type: "start"; readonly sandbox: string; readonly language: string }
  | {
      readonly seq: number;
      readonly type: "stdout" | "stderr";
      readonly t: number;
      readonly data?: string;
      readonly b64?: string;
    }
  | { readonly seq: number; readonly type: "truncated"; readonly limit_bytes: number }
  | Exit;

/** What a replay says beside the events: that it begins anew, or that nothing is kept. */
type Notice =
  | { readonly type: "reset"; readonly reason: "cursor" | "expired" }
  | { readonly type: "heartbeat" };

/** An event as it comes over the stream of all runs. */
type SharedEvent = RunEvent & { readonly run_id: string; readonly card_id?: string | null };

/** Who follows a run. */
export interface Follower {
  /** The next event; there was none between it and the one before. */
  onEvent(event: RunEvent): void;
  /** What was shown is not what is kept: begin with nothing. */
  onReset(): void;
  /** The run or its output is kept no longer. */
  onGone(): void;
}

/** What reaches the server, so that tests can be the server. */
export interface Source {
  /** `GET /events`. */
  open(signal: AbortSignal): Promise<Response>;
  /** `GET /runs/{id}/events?after=…&follow=false` as NDJSON. */
  replay(run: string, after: number, signal: AbortSignal): Promise<Response>;
}

export type Connection = "connecting" | "open" | "lost";

type Told =
  | { readonly kind: "event"; readonly event: SharedEvent }
  | { readonly kind: "connection"; readonly connection: Connection }
  | { readonly kind: "hello" };

/** Events that wait while what came before them is fetched. */
const MAX_WAITING = 2_000;
/** Time for which events are handed on without letting the page do anything else. */
const SLICE_MS = 8;
/** A stream that is silent for longer has lost its connection; heartbeats come every 15 s. */
const SILENCE_MS = 40_000;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5_000;

class Followed {
  last = 0;
  ended = false;
  filling = false;
  again = false;
  waiting: RunEvent[] = [];
  retry: ReturnType<typeof setTimeout> | undefined;
  readonly followers = new Set<Follower>();
}

export class RunEvents {
  connection: Connection = "connecting";
  /** A run began that nobody here follows, perhaps in another tab. */
  onStart: (run: string, card: string) => void = () => {};
  /** A run ended, followed or not. */
  onEnd: (run: string, card: string | null) => void = () => {};
  onConnection: (connection: Connection) => void = () => {};

  readonly #source: Source;
  readonly #name: string;
  readonly #runs = new Map<string, Followed>();
  readonly #stop = new AbortController();
  #channel: BroadcastChannel | undefined;
  #wake: (() => void) | undefined;

  /** `user` keeps apart the tabs of different people. */
  constructor(source: Source, user: string) {
    this.#source = source;
    this.#name = `schwann-events-${user}`;
  }

  start(): void {
    if (typeof BroadcastChannel !== "undefined") {
      this.#channel = new BroadcastChannel(this.#name);
      this.#channel.onmessage = (message) => this.#told(message.data as Told);
      this.#channel.postMessage({ kind: "hello" } satisfies Told);
    }
    const read = () => this.#read();
    // Without locks each tab reads for itself, which is right, only dearer.
    const locks = globalThis.navigator?.locks;
    const done = locks ? locks.request(this.#name, { signal: this.#stop.signal }, read) : read();
    Promise.resolve(done).catch(() => {}); // Only ever because it was stopped.
    globalThis.addEventListener?.("online", this.#online);
  }

  stop(): void {
    this.#stop.abort();
    this.#channel?.close();
    globalThis.removeEventListener?.("online", this.#online);
    for (const followed of this.#runs.values()) clearTimeout(followed.retry);
    this.#runs.clear();
  }

  /** Hands on every event of a run, from its first. Call what is returned to stop. */
  follow(run: string, follower: Follower): () => void {
    // A second follower of a run begins at its first event too.
    const key = this.#runs.has(run) ? `${run} ${uniqueWord()}` : run;
    const followed = new Followed();
    followed.followers.add(follower);
    this.#runs.set(key, followed);
    this.#fill(key, followed);
    return () => {
      clearTimeout(followed.retry);
      followed.ended = true;
      this.#runs.delete(key);
    };
  }

  /**
   * Reads on in a run that has ended with this id, as was heard elsewhere. What was shown beyond
   * that id is of a server that has since been put back to an earlier state: it begins anew.
   */
  catchUp(run: string, last: number): void {
    for (const [key, followed] of this.#runs) {
      if (followed.ended || (key !== run && !key.startsWith(`${run} `))) continue;
      if (followed.last >= last) {
        followed.last = 0;
        for (const follower of followed.followers) follower.onReset();
      }
      this.#fill(key, followed);
    }
  }

  readonly #online = (): void => this.#wake?.();

  #told(told: Told): void {
    if (told.kind === "event") this.#shared(told.event);
    else if (told.kind === "connection") this.#connected(told.connection);
    else if (this.#wake) this.#tell({ kind: "connection", connection: this.connection });
  }

  #tell(told: Told): void {
    this.#channel?.postMessage(told);
  }

  #connected(connection: Connection): void {
    const changed = connection !== this.connection;
    this.connection = connection;
    if (changed) this.onConnection(connection);
    // Whatever happened while nobody listened is fetched.
    if (connection === "open") for (const [key, followed] of this.#runs) this.#fill(key, followed);
  }

  async #read(): Promise<void> {
    let wait = FIRST_WAIT_MS;
    this.#wake = () => {};
    while (!this.#stop.signal.aborted) {
      const attempt = new AbortController();
      const end = () => attempt.abort();
      this.#stop.signal.addEventListener("abort", end);
      try {
        const response = await this.#source.open(attempt.signal);
        if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
        wait = FIRST_WAIT_MS;
        this.#tell({ kind: "connection", connection: "open" });
        this.#connected("open");
        const retry = await this.#consume(response.body, end);
        if (retry !== undefined) wait = Math.min(retry, LONGEST_WAIT_MS);
      } catch {
        // Why it ended does not matter: it is opened anew.
      } finally {
        this.#stop.signal.removeEventListener("abort", end);
      }
      if (this.#stop.signal.aborted) return;
      this.#tell({ kind: "connection", connection: "lost" });
      this.#connected("lost");
      // Not all browsers at once, when a server comes back.
      await this.#sleep(wait * (0.75 + Math.random() / 2));
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  }

  async #consume(body: ReadableStream<Uint8Array>, end: () => void): Promise<number | undefined> {
    const parser = new EventStreamParser();
    const reader = body.getReader();
    let silence = setTimeout(end, SILENCE_MS);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return parser.retry;
        clearTimeout(silence);
        silence = setTimeout(end, SILENCE_MS);
        await this.#inSlices(parser.push(value), ({ data }) => {
          const event = parse<SharedEvent>(data);
          if (!event?.run_id) return;
          this.#tell({ kind: "event", event });
          this.#shared(event);
        });
      }
    } finally {
      clearTimeout(silence);
      reader.cancel().catch(() => {});
    }
  }

  /** Does something for each item, and lets the page breathe. */
  async #inSlices<T>(items: Iterable<T>, take: (item: T) => void): Promise<void> {
    let deadline = performance.now() + SLICE_MS;
    for (const item of items) {
      take(item);
      if (performance.now() > deadline) {
        await pause();
        deadline = performance.now() + SLICE_MS;
      }
    }
  }

  #sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#wake = () => {};
        this.#stop.signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#wake = done;
      this.#stop.signal.addEventListener("abort", done);
    });
  }

  #shared(event: SharedEvent): void {
    let known = false;
    for (const [key, followed] of this.#runs) {
      if (key !== event.run_id && !key.startsWith(`${event.run_id} `)) continue;
      known = true;
      this.#live(key, followed, event);
    }
    if (event.type === "start" && !known && event.card_id) this.onStart(event.run_id, event.card_id);
    if (event.type === "exit") this.onEnd(event.run_id, event.card_id ?? null);
  }

  #live(key: string, followed: Followed, event: RunEvent): void {
    if (followed.ended || event.seq <= followed.last) return;
    if (followed.filling) {
      if (followed.waiting.length < MAX_WAITING) followed.waiting.push(event);
      else followed.again = true;
    } else if (event.seq === followed.last + 1) {
      this.#take(followed, event);
    } else {
      this.#fill(key, followed);
    }
  }

  #take(followed: Followed, event: RunEvent): void {
    followed.last = event.seq;
    if (event.type === "exit") followed.ended = true;
    for (const follower of followed.followers) follower.onEvent(event);
  }

  #fill(key: string, followed: Followed): void {
    if (followed.ended) return;
    if (followed.filling) {
      followed.again = true;
      return;
    }
    clearTimeout(followed.retry);
    followed.filling = true;
    followed.again = false;
    this.#replay(key, followed)
      .catch(() => {
        // Tried again until the server answers; the stream's own connection may be whole.
        followed.retry = setTimeout(() => this.#fill(key, followed), 1_000);
      })
      .finally(() => {
        followed.filling = false;
        const { waiting } = followed;
        followed.waiting = [];
        for (const event of waiting) {
          if (event.seq === followed.last + 1) this.#take(followed, event);
          else if (event.seq > followed.last) followed.again = true;
        }
        if (followed.again && !followed.ended) this.#fill(key, followed);
      });
  }

  async #replay(key: string, followed: Followed): Promise<void> {
    const run = key.split(" ")[0] as string;
    const response = await this.#source.replay(run, followed.last, this.#stop.signal);
    if (response.status === 404 || response.status === 410) {
      followed.ended = true;
      for (const follower of followed.followers) follower.onGone();
      return;
    }
    if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop() as string;
      await this.#inSlices(lines, (line) => this.#replayed(followed, line));
    }
  }

  #replayed(followed: Followed, line: string): void {
    const event = parse<RunEvent | Notice>(line);
    if (!event || followed.ended) return;
    if (event.type === "reset" && event.reason === "expired") {
      // Asking again would be answered the same.
      followed.ended = true;
      for (const follower of followed.followers) follower.onGone();
    } else if (event.type === "reset") {
      followed.last = 0;
      followed.again = true;
      for (const follower of followed.followers) follower.onReset();
    } else if ("seq" in event && event.seq === followed.last + 1) {
      this.#take(followed, event);
    }
  }
}

/** An event that cannot be read is missed, and so fetched again. */
function parse<T>(text: string): T | undefined {
  if (text === "") return undefined;
  try {
    return JSON.parse(text) as T;
  } catch {
    return undefined;
  }
}

/** Lets the browser draw and answer. Not a timer, which would wait longer. */
function pause(): Promise<void> {
  return new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
}
