/** A run as the page shows it: its terminal, how it is, and how it ended. */
import { Sink } from "../output/sink";
import { Terminal } from "../output/terminal";
import type { Exit, Follower, RunEvent, RunEvents } from "./run_events";

export interface RunState {
  readonly status: "queued" | "running" | "finished" | "gone";
  readonly exit: Exit | undefined;
  /** By this machine's clock, for the time that is shown while it runs. */
  readonly startedAt: number | undefined;
  readonly truncatedAt: number | undefined;
  readonly sandbox: string | undefined;
  readonly hasOutput: boolean;
  readonly dropped: number;
  readonly following: boolean;
}

const AT_FIRST: RunState = {
  status: "queued",
  exit: undefined,
  startedAt: undefined,
  truncatedAt: undefined,
  sandbox: undefined,
  hasOutput: false,
  dropped: 0,
  following: true,
};

export class RunView implements Follower {
  readonly run: string;
  state: RunState = AT_FIRST;
  #terminal = new Terminal();
  #sink: Sink | undefined;
  #decoder = new TextDecoder();
  readonly #listeners = new Set<() => void>();
  readonly #unfollow: () => void;

  constructor(run: string, events: RunEvents) {
    this.run = run;
    this.#unfollow = events.follow(run, this);
  }

  /** Stops following the run. */
  close(): void {
    this.#unfollow();
    this.#sink?.close();
    this.#listeners.clear();
  }

  /** Shows the terminal in this element, until what is returned is called. */
  attach(element: HTMLElement, scroller: HTMLElement, stderrLabel: string): () => void {
    const sink = new Sink(element, scroller, stderrLabel, this.#terminal);
    sink.onDropped = (dropped) => this.#set({ dropped });
    sink.onFollow = (following) => this.#set({ following });
    this.#sink = sink;
    return () => {
      sink.close();
      if (this.#sink === sink) this.#sink = undefined;
    };
  }

  toEnd(): void {
    this.#sink?.follow();
  }

  text(): string {
    return this.#terminal.text();
  }

  /** Hides what was printed until now; the server keeps it. */
  clear(): void {
    this.#begin();
    this.#set({ hasOutput: false, dropped: 0 });
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  snapshot = (): RunState => this.state;

  onEvent(event: RunEvent): void {
    switch (event.type) {
      case "start":
        this.#set({ status: "running", startedAt: Date.now(), sandbox: event.sandbox });
        break;
      case "stdout":
      case "stderr": {
        const text = event.data ?? this.#decoder.decode(fromBase64(event.b64 ?? ""));
        this.#terminal.write(text, event.type);
        this.#sink?.changed();
        // What is read of an earlier time began that much earlier.
        if (!this.state.hasOutput) this.#set({ hasOutput: true });
        break;
      }
      case "truncated":
        this.#set({ truncatedAt: event.limit_bytes });
        break;
      case "exit":
        this.#set({ status: "finished", exit: event });
        break;
    }
  }

  onReset(): void {
    this.#begin();
    this.#set(AT_FIRST);
  }

  onGone(): void {
    this.#set({ status: "gone" });
  }

  /** Shows the time since the run began, where the run began before this page did. */
  began(startedAt: number): void {
    this.#set({ startedAt });
  }

  #begin(): void {
    this.#terminal = new Terminal();
    this.#sink?.show(this.#terminal);
  }

  #set(change: Partial<RunState>): void {
    this.state = { ...this.state, ...change };
    for (const listener of this.#listeners) listener();
  }
}

function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}
