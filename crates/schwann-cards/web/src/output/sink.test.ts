import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Sink } from "./sink";
import { Terminal } from "./terminal";

let frames: FrameRequestCallback[] = [];
let element: HTMLElement;
let scroller: HTMLElement;

beforeEach(() => {
  frames = [];
  vi.stubGlobal("requestAnimationFrame", (frame: FrameRequestCallback) => frames.push(frame));
  vi.stubGlobal("cancelAnimationFrame", () => {
    frames = [];
  });
  scroller = document.createElement("div");
  element = document.createElement("div");
  scroller.append(element);
});

afterEach(() => vi.unstubAllGlobals());

/** Draws until nothing is left to be drawn, and tells in how many frames. */
function draw(): number {
  let drawn = 0;
  while (frames.length > 0) {
    frames.shift()?.(0);
    drawn += 1;
  }
  return drawn;
}

/** What is shown, without the labels. */
function shown(): string {
  const copy = element.cloneNode(true) as HTMLElement;
  for (const label of copy.querySelectorAll(".output-label")) label.remove();
  return copy.textContent ?? "";
}

test("what is written is drawn once a frame, however many pieces it came in", () => {
  const sink = new Sink(element, scroller, "stderr");
  draw();
  for (let i = 0; i < 1_000; i += 1) sink.write(`line ${i}\n`, "stdout");
  expect(draw()).toBe(1);
  expect(shown().startsWith("line 0\nline 1\n")).toBe(true);
  expect(element.querySelectorAll(".output-block")).toHaveLength(6);
});

test("output becomes text nodes, never elements", () => {
  const sink = new Sink(element, scroller, "stderr");
  const evil = `<img src=x onerror="alert(1)"><script>alert(2)</script>&amp;`;
  sink.write(evil, "stdout");
  sink.write(`\x1b]8;;https://x.example/"onclick="alert(3)\x07link\x1b]8;;\x07`, "stdout");
  draw();
  expect(shown()).toBe(`${evil}link\n`);
  expect(element.querySelector("img, script, [onclick]")).toBeNull();
});

test("standard error is told apart by a label and a class, not by colour alone", () => {
  const sink = new Sink(element, scroller, "stderr");
  sink.write("good\n", "stdout");
  sink.write("bad\nworse\n", "stderr");
  sink.write("good again\n", "stdout");
  draw();
  const groups = [...element.querySelectorAll(".output-lines")];
  expect(groups.map((group) => group.classList.contains("output-stderr"))).toEqual([false, true, false]);
  expect(groups[1]?.querySelector(".output-label")?.textContent).toBe("stderr ");
  expect(shown()).toBe("good\nbad\nworse\ngood again\n\n");
});

test("links open elsewhere and tell nothing of where they were", () => {
  const sink = new Sink(element, scroller, "stderr");
  sink.write(
    "\x1b]8;;https://example.com/\x07here\x1b]8;;\x07 \x1b]8;;javascript:alert(1)\x07there",
    "stdout",
  );
  draw();
  const links = element.querySelectorAll("a");
  expect(links).toHaveLength(1);
  expect(links[0]?.getAttribute("rel")).toContain("noopener");
});

test("dropped lines leave the page, and are counted", () => {
  const sink = new Sink(element, scroller, "stderr", new Terminal(1_000));
  const onDropped = vi.fn();
  sink.onDropped = onDropped;
  for (let i = 0; i < 10; i += 1) {
    sink.write("x\n".repeat(400), "stdout");
    draw();
  }
  expect(element.querySelectorAll(".output-block").length).toBeLessThanOrEqual(6);
  expect(onDropped.mock.lastCall?.[0]).toBe(sink.terminal.dropped);
  expect(sink.terminal.dropped).toBeGreaterThan(2_000);
});

test("a frame that took long leaves the rest to the next", () => {
  let now = 0;
  vi.spyOn(performance, "now").mockImplementation(() => {
    now += 3;
    return now;
  });
  const sink = new Sink(element, scroller, "stderr");
  for (let i = 0; i < 2_000; i += 1) sink.write(`${i}\n`, "stdout");
  expect(draw()).toBeGreaterThan(2);
  expect(shown()).toBe(`${Array.from({ length: 2_000 }, (_, i) => i).join("\n")}\n\n`);
});

test("another view of the same terminal shows all of it", () => {
  const first = new Sink(element, scroller, "stderr");
  first.write("kept\n\x1b[1mbold", "stdout");
  draw();
  first.close();
  expect(element.childNodes).toHaveLength(0);
  new Sink(element, scroller, "stderr", first.terminal);
  draw();
  expect(shown()).toBe("kept\nbold\n");
});
