import { expect, test } from "vitest";
import { EventStreamParser, type StreamEvent } from "./event_stream";

const STREAM =
  ': heartbeat\nretry: 1000\n\nid: 1\nevent: stdout\ndata: {"data":"第 0 行 😀"}\n\n' +
  "id: 2\r\nevent: stderr\r\ndata: a\r\ndata: b\r\n\r\ndata:no space\n\nevent: nothing\n\nid\ndata\n\n";

const EVENTS: StreamEvent[] = [
  { id: "1", event: "stdout", data: '{"data":"第 0 行 😀"}' },
  { id: "2", event: "stderr", data: "a\nb" },
  { id: "2", event: "message", data: "no space" },
  { id: "", event: "message", data: "" },
];

test.each([1, 2, 3, 7, 1_000])("events are the same in pieces of %i bytes", (size) => {
  const bytes = new TextEncoder().encode(STREAM);
  const parser = new EventStreamParser();
  const events: StreamEvent[] = [];
  for (let at = 0; at < bytes.length; at += size) {
    events.push(...parser.push(bytes.subarray(at, at + size)));
  }
  expect(events).toEqual(EVENTS);
  expect(parser.retry).toBe(1000);
});

test("an event that is not ended is not told", () => {
  const parser = new EventStreamParser();
  expect([...parser.push(new TextEncoder().encode("data: half"))]).toEqual([]);
});

test("a line without end is an error, not memory without end", () => {
  const parser = new EventStreamParser();
  const piece = new TextEncoder().encode("x".repeat(1 << 20));
  expect(() => {
    for (let i = 0; i < 6; i += 1) [...parser.push(piece)];
  }).toThrow("too long");
});
