import { describe, expect, test } from "vitest";
import { BLOCK_LINES, MAX_UNITS, type Span, spansOf, Terminal } from "./terminal";

function show(...pieces: string[]): string {
  const terminal = new Terminal();
  for (const piece of pieces) terminal.write(piece, "stdout");
  return terminal.text();
}

function spans(text: string): readonly Span[] {
  const terminal = new Terminal();
  terminal.write(text, "stdout");
  return spansOf(terminal.blocks[0]?.lines[0] as never);
}

describe("text", () => {
  test("is shown as it comes, whatever the pieces", () => {
    expect(show("一 ro", "w\nan", "other\n", "last")).toBe("一 row\nanother\nlast");
  });

  test("a carriage return writes over what is there", () => {
    expect(show("100%\r  7%")).toBe("  7%");
    expect(show("abcdef\rXY")).toBe("XYcdef");
    expect(show("abc\r\ndef")).toBe("abc\ndef");
  });

  test("half of a wide character that is written over is a space", () => {
    expect(show("汉字!\rab")).toBe("ab字!");
    expect(show("汉字!\ra")).toBe("a 字!");
    expect(show("abcd\r汉")).toBe("汉cd");
  });

  test("backspace goes one column back and erases nothing", () => {
    expect(show("12\b3")).toBe("13");
    expect(show("a\b\b\bb")).toBe("b");
    expect(show("|\b/\b-\b\\")).toBe("\\");
  });

  test("a tab in a line that is written over goes to the next eighth column", () => {
    expect(show("0123456789abcdefgh\rx\ty")).toBe("x1234567y9abcdefgh");
    expect(show("a\tb")).toBe("a\tb");
  });

  test("marks stay with their character", () => {
    expect(show("e\u0301tude\rE")).toBe("Etude");
    expect(show("abc\re\u0301")).toBe("e\u0301bc");
  });

  test("of one long line is broken, but not within a character, and copied whole", () => {
    const long = "😀".repeat(MAX_UNITS);
    const terminal = new Terminal();
    terminal.write(`x${long}`, "stdout");
    expect(terminal.count).toBeGreaterThan(2);
    expect(terminal.text()).toBe(`x${long}`);
    for (const block of terminal.blocks) {
      for (const line of block.lines) expect(line.units).toBeLessThanOrEqual(MAX_UNITS);
    }
  });
});

describe("sequences", () => {
  test("erase in a line", () => {
    expect(show("progress 50%\r\x1b[Kdone")).toBe("done");
    expect(show("abcdef\x1b[3D\x1b[K")).toBe("abc");
    expect(show("abcdef\x1b[3D\x1b[1K")).toBe("    ef");
    expect(show("abcdef\x1b[2Kx")).toBe("      x");
    expect(show("汉字\r\x1b[C\x1b[K")).toBe(" ");
  });

  test("the cursor goes up and down within the lines", () => {
    expect(show("outer 1\ninner 1\x1b[A\router 2\ninner 2")).toBe("outer 2\ninner 2");
    expect(show("a\nb\nc\x1b[2Fx\x1b[Ey")).toBe("x\ny\nc");
    expect(show("a\x1b[99Ab")).toBe("ab");
    expect(show("a\nb\x1b[A\x1b[5Bc")).toBe("a\nbc");
    expect(show("1\n2\n3\x1b[2A\r\x1b[Jx")).toBe("x\n\n");
  });

  test("are understood when they come a character at a time", () => {
    const text = "a\x1b[31mred\x1b[0m \x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\ \x1b]0;title\x07z";
    const terminal = new Terminal();
    for (const char of text) terminal.write(char, "stdout");
    const whole = new Terminal();
    whole.write(text, "stdout");
    expect(terminal.text()).toBe("ared link z");
    expect(terminal.blocks[0]?.lines[0]?.spans).toEqual(whole.blocks[0]?.lines[0]?.spans);
  });

  test("of one writer do not swallow what the other writes", () => {
    const terminal = new Terminal();
    terminal.write("\x1b[3", "stdout");
    terminal.write("error", "stderr");
    terminal.write("1mred", "stdout");
    expect(terminal.blocks[0]?.lines[0]?.spans).toEqual([
      { text: "error", style: null, channel: "stderr" },
      { text: "red", style: { fg: 1 }, channel: "stdout" },
    ]);
  });

  test.each([
    ["title", "\x1b]0;title\x07"],
    ["title ended by ST", "\x1b]2;title\x1b\\"],
    ["clipboard", "\x1b]52;c;aGk=\x07"],
    ["device control", "\x1bP1$r0m\x1b\\"],
    ["application string", "\x1b_Gf=100;AAAA\x1b\\"],
    ["clear screen", "\x1b[2J\x1b[H"],
    ["alternate screen", "\x1b[?1049h"],
    ["mouse", "\x1b[?1000;1006h"],
    ["report", "\x1b[6n\x1b[c"],
    ["character set", "\x1b(0"],
    ["reset", "\x1bc"],
    ["bell and nulls", "\x07\0\x7f"],
    ["C1 controls", "\x9b31;99z\x9d0;t\x9c"],
    ["an endless sequence", `\x1b[${"9".repeat(100_000)}m`],
  ])("%s is dropped", (_, sequence) => {
    const terminal = new Terminal();
    terminal.write(`<${sequence}>`, "stdout");
    expect(terminal.text()).toBe("<>");
    expect(terminal.blocks[0]?.lines[0]?.spans.every((span) => span.style === null)).toBe(true);
  });
});

describe("styles", () => {
  test.each([
    ["31", { fg: 1 }],
    ["97", { fg: 15 }],
    ["42;30", { fg: 0, bg: 2 }],
    ["1;3;4;9", { bold: true, italic: true, underline: true, strike: true }],
    ["38;5;208", { fg: 208 }],
    ["48;2;1;2;255", { bg: "#0102ff" }],
    ["38:2::1:2:3", { fg: "#010203" }],
    ["38;5;999;1", { bold: true }],
    ["38;2;300;0;0;4", { underline: true }],
  ])("%s", (codes, style) => {
    expect(spans(`\x1b[${codes}mx`)[0]?.style).toEqual(style);
  });

  test("end with their own codes, and all with 0 or none", () => {
    const looks = spans("\x1b[1;31ma\x1b[22mb\x1b[39mc\x1b[7md\x1b[me").map((span) => span.style);
    expect(looks).toEqual([{ bold: true, fg: 1 }, { fg: 1 }, null, { inverse: true }, null]);
  });

  test("links go to the web and to mail, and nowhere else", () => {
    const link = (to: string) => spans(`\x1b]8;;${to}\x07x`)[0]?.style?.link;
    expect(link("https://example.com/a?b=c")).toBe("https://example.com/a?b=c");
    expect(link("mailto:a@example.com")).toBe("mailto:a@example.com");
    for (const bad of [
      "javascript:alert(1)",
      " javascript:alert(1)",
      "data:text/html,x",
      "file:///etc/passwd",
      "/x",
    ]) {
      expect(link(bad), bad).toBeUndefined();
    }
  });
});

describe("many lines", () => {
  test("the oldest go in whole blocks, and are counted", () => {
    const terminal = new Terminal(1_000);
    for (let i = 0; i < 5_000; i += 1) terminal.write(`${i}\n`, "stdout");
    expect(terminal.count).toBeLessThanOrEqual(1_000 + BLOCK_LINES);
    expect(terminal.count + terminal.dropped).toBe(5_001);
    expect(terminal.text().startsWith(`${terminal.dropped}\n`)).toBe(true);
    expect(terminal.text().endsWith("4999\n")).toBe(true);
  });

  test("only blocks that changed are drawn again", () => {
    const terminal = new Terminal();
    terminal.write("x\n".repeat(3 * BLOCK_LINES), "stdout");
    for (const block of terminal.blocks) block.dirty = false;
    terminal.write("y", "stdout");
    expect(terminal.blocks.map((block) => block.dirty)).toEqual([false, false, false, true]);
    terminal.write("\x1b[3Az", "stdout");
    expect(terminal.blocks.map((block) => block.dirty)).toEqual([false, false, true, true]);
  });
});

test("any mixture of sequences in any pieces gives the same text, and never fails", () => {
  const parts = [
    "a",
    "汉",
    "\r",
    "\n",
    "\b",
    "\t",
    "\x1b[A",
    "\x1b[2K",
    "\x1b[K",
    "\x1b[1K",
    "\x1b[5D",
    "\x1b[9C",
    "\x1b[J",
    "\x1b[31m",
    "\x1b]8;;http://x\x07",
    "\x1b",
    "e\u0301",
    "😀",
    "\x1b[3B",
    "\x1b[7G",
    "\x1bP",
    "\x1b\\",
  ];
  let seed = 42;
  const next = (below: number) => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return seed % below;
  };
  for (let round = 0; round < 300; round += 1) {
    const text = Array.from({ length: 60 }, () => parts[next(parts.length)]).join("");
    const whole = new Terminal(400);
    whole.write(text, "stdout");
    const pieces = new Terminal(400);
    for (const char of text) pieces.write(char, "stdout");
    expect(pieces.text()).toBe(whole.text());
  }
});
