/** One event of an event stream. */
export interface StreamEvent {
  readonly id: string;
  readonly event: string;
  readonly data: string;
}

/** Longest line and longest event that are taken; our own events are far shorter. */
const MAX_UNITS = 4 << 20;

/**
 * Reads `text/event-stream` as it arrives, in pieces of any size.
 *
 * HTML Living Standard §9.2.6. The browser's own `EventSource` cannot say which status it
 * was refused with, and hides when it connects anew.
 */
export class EventStreamParser {
  /** What the server asks to wait before connecting anew, in milliseconds. */
  retry: number | undefined;
  readonly #decoder = new TextDecoder();
  #rest = "";
  #event = "";
  #data: string[] = [];
  #id = "";

  /** Gives the events that are whole now. */
  *push(bytes: Uint8Array): Generator<StreamEvent> {
    this.#rest += this.#decoder.decode(bytes, { stream: true });
    let at = 0;
    for (;;) {
      const end = lineEnd(this.#rest, at);
      if (end === undefined) break;
      const line = this.#rest.slice(at, end.at);
      at = end.next;
      const event = this.#line(line);
      if (event) yield event;
    }
    this.#rest = this.#rest.slice(at);
    if (this.#rest.length > MAX_UNITS) throw new Error("a line of the event stream is too long");
  }

  #line(line: string): StreamEvent | undefined {
    if (line === "") {
      const event =
        this.#data.length > 0
          ? { id: this.#id, event: this.#event || "message", data: this.#data.join("\n") }
          : undefined;
      this.#event = "";
      this.#data = [];
      return event;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    switch (field) {
      case "event":
        this.#event = value;
        break;
      case "data":
        this.#data.push(value);
        break;
      case "id":
        if (!value.includes("\0")) this.#id = value;
        break;
      case "retry":
        if (/^\d+$/.test(value)) this.retry = Number(value);
        break;
    }
    return undefined;
  }
}

function lineEnd(text: string, from: number): { at: number; next: number } | undefined {
  for (let at = from; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 10) return { at, next: at + 1 };
    if (code === 13) {
      // Whether `\n` follows is not known yet.
      if (at + 1 === text.length) return undefined;
      return { at, next: text.charCodeAt(at + 1) === 10 ? at + 2 : at + 1 };
    }
  }
  return undefined;
}
