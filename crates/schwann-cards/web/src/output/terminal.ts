/**
 * What a terminal would show of a program's output, as lines of styled text.
 *
 * Understood: SGR (16, 256 and true colours), `\r`, `\b`, `\t`, erasing in a line and
 * below it, moving the cursor within the last lines, and links (OSC 8) to the web or to
 * a mail address. All other sequences are dropped: nothing that a program prints can
 * reach the page but text and these styles.
 *
 * ECMA-48 §5.4 (control sequences), §8.3.117 (SGR), §8.3.41 (EL).
 */

/** How text looks. Plain text has none. */
export interface Style {
  /** 0–255 of the palette, or `#rrggbb`. */
  readonly fg?: number | string;
  readonly bg?: number | string;
  readonly bold?: true;
  readonly dim?: true;
  readonly italic?: true;
  readonly underline?: true;
  readonly strike?: true;
  readonly inverse?: true;
  readonly link?: string;
}

export type Channel = "stdout" | "stderr";

/** Text of one look within a line. */
export interface Span {
  text: string;
  readonly style: Style | null;
  readonly channel: Channel;
}

export interface Line {
  /** Authoritative unless there are cells. */
  spans: Span[];
  /** UTF-16 units in the spans. */
  units: number;
  /** One entry a column, while the line is being written over. */
  cells: Cell[] | null;
  /** The line goes on in the next one, for it was too long. */
  wrapped: boolean;
  hasStderr: boolean;
}

interface Cell {
  /** Empty behind a character that takes two columns. */
  text: string;
  style: Style | null;
  channel: Channel;
}

/** Lines that are drawn and dropped together. */
export interface Block {
  readonly lines: Line[];
  dirty: boolean;
}

/** Lines of a block. */
export const BLOCK_LINES = 200;
/** Lines that are kept; beyond it the oldest blocks go. */
export const MAX_LINES = 50_000;
/** UTF-16 units after which a line is broken. */
export const MAX_UNITS = 4_000;
/** How far up the cursor may go. */
const REACH = 100;
/** Columns that are addressed. */
const MAX_COLUMN = 1_000;
/** Longest sequence that is looked at. */
const MAX_SEQUENCE = 2_048;
const SCHEMES = /^(https?:\/\/|mailto:)[\x21-\x7e]+$/i;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this file is about
const CONTROL = /[\x00-\x1f\x7f-\x9f]/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const ASCII = /^[\x00-\x7f]*$/;

type State = "ground" | "escape" | "csi" | "osc" | "osc-escape" | "string" | "string-escape" | "charset";

/** Each channel has its own half-read sequence and style, as two writers must not mix theirs. */
interface Parser {
  readonly channel: Channel;
  state: State;
  sequence: string;
  style: Style | null;
}

const AT_END = -1;

export class Terminal {
  /** The oldest block comes first. The last always has a line. */
  readonly blocks: Block[] = [];
  /** Lines that were dropped because there were too many. */
  dropped = 0;
  /** Lines that are there. */
  count = 0;

  readonly #maxLines: number;
  readonly #parsers: Record<Channel, Parser> = {
    stdout: { channel: "stdout", state: "ground", sequence: "", style: null },
    stderr: { channel: "stderr", state: "ground", sequence: "", style: null },
  };
  /** How many lines the cursor is above the last one. */
  #above = 0;
  #column = AT_END;

  constructor(maxLines = MAX_LINES) {
    this.#maxLines = maxLines;
    this.#newLine(false);
  }

  /** True until something was printed. */
  get isEmpty(): boolean {
    return this.count === 1 && this.dropped === 0 && lineText(this.#line(0)) === "";
  }

  write(text: string, channel: Channel): void {
    const parser = this.#parsers[channel];
    let at = 0;
    while (at < text.length) {
      if (parser.state !== "ground") {
        this.#sequence(parser, text[at] as string);
        at += 1;
        continue;
      }
      CONTROL.lastIndex = at;
      const found = CONTROL.exec(text);
      const end = found ? found.index : text.length;
      if (end > at) this.#put(text.slice(at, end), parser.style, channel);
      if (!found) return;
      this.#control(parser, found[0]);
      at = end + 1;
    }
  }

  /** All lines that are there, as text. */
  text(): string {
    const parts: string[] = [];
    for (const block of this.blocks) {
      for (const line of block.lines) parts.push(lineText(line), line.wrapped ? "" : "\n");
    }
    // The last line is not ended, unless the program did, and then it is empty.
    parts.pop();
    return parts.join("");
  }

  #control(parser: Parser, char: string): void {
    switch (char) {
      case "\n":
        this.#down();
        break;
      case "\r":
        this.#column = 0;
        break;
      case "\b":
        this.#column = Math.max(0, this.#columnNow() - 1);
        break;
      case "\t":
        if (this.#column === AT_END) this.#put("\t", parser.style, parser.channel);
        else this.#column = Math.min(MAX_COLUMN, ((this.#column >> 3) << 3) + 8);
        break;
      case "\x1b":
        parser.state = "escape";
        parser.sequence = "";
        break;
      case "\x9b":
        parser.state = "csi";
        parser.sequence = "";
        break;
      case "\x9d":
        parser.state = "osc";
        parser.sequence = "";
        break;
      case "\x90":
      case "\x98":
      case "\x9e":
      case "\x9f":
        parser.state = "string";
        break;
    }
  }

  #sequence(parser: Parser, char: string): void {
    switch (parser.state) {
      case "escape":
        parser.sequence = "";
        if (char === "[") parser.state = "csi";
        else if (char === "]") parser.state = "osc";
        else if ("PX^_".includes(char)) parser.state = "string";
        else if ("()*+-./#% ".includes(char)) parser.state = "charset";
        else if (char === "\x1b") parser.state = "escape";
        else {
          parser.state = "ground";
          if (char < " ") this.#control(parser, char);
        }
        break;
      case "charset":
        parser.state = "ground";
        break;
      case "csi":
        if (char >= "@" && char <= "~") {
          parser.state = "ground";
          if (parser.sequence.length < MAX_SEQUENCE) this.#csi(parser, parser.sequence, char);
        } else if (char === "\x1b") {
          parser.state = "escape";
        } else if (char === "\x18" || char === "\x1a") {
          parser.state = "ground";
        } else if (char < " ") {
          // A terminal obeys control characters within a sequence.
          const { sequence } = parser;
          this.#control(parser, char);
          parser.sequence = sequence;
        } else if (parser.sequence.length < MAX_SEQUENCE) {
          parser.sequence += char;
        }
        break;
      case "osc":
        if (char === "\x07" || char === "\x9c") this.#endOsc(parser);
        else if (char === "\x1b") parser.state = "osc-escape";
        else if (char === "\x18" || char === "\x1a") parser.state = "ground";
        else if (parser.sequence.length < MAX_SEQUENCE) parser.sequence += char;
        break;
      case "osc-escape":
        if (char === "\\") this.#endOsc(parser);
        else {
          parser.state = "escape";
          this.#sequence(parser, char);
        }
        break;
      case "string":
        if (char === "\x1b") parser.state = "string-escape";
        else if ("\x07\x18\x1a\x9c".includes(char)) parser.state = "ground";
        break;
      case "string-escape":
        if (char === "\\") parser.state = "ground";
        else {
          parser.state = "escape";
          this.#sequence(parser, char);
        }
        break;
    }
  }

  #endOsc(parser: Parser): void {
    parser.state = "ground";
    const match = /^8;[^;]*;(.*)$/s.exec(parser.sequence);
    if (!match || parser.sequence.length >= MAX_SEQUENCE) return;
    const target = match[1] as string;
    parser.style = styled(parser.style, { link: SCHEMES.test(target) ? target : undefined });
  }

  #csi(parser: Parser, parameters: string, final: string): void {
    if (final === "m") {
      if (/^[\d;:]*$/.test(parameters)) parser.style = sgr(parser.style, parameters);
      return;
    }
    if (!/^[\d;]*$/.test(parameters)) return;
    const first = Number.parseInt(parameters, 10);
    const many = Math.min(Number.isNaN(first) || first === 0 ? 1 : first, MAX_COLUMN);
    switch (final) {
      case "A":
        this.#up(many);
        break;
      case "B":
        this.#columnNow();
        this.#above = Math.max(0, this.#above - many);
        break;
      case "C":
        this.#column = Math.min(MAX_COLUMN, this.#columnNow() + many);
        break;
      case "D":
        this.#column = Math.max(0, this.#columnNow() - many);
        break;
      case "E":
        this.#above = Math.max(0, this.#above - many);
        this.#column = 0;
        break;
      case "F":
        this.#up(many);
        this.#column = 0;
        break;
      case "G":
        this.#column = many - 1;
        break;
      case "K":
        this.#eraseInLine(Number.isNaN(first) ? 0 : first);
        break;
      case "J":
        if (Number.isNaN(first) || first === 0) {
          this.#eraseInLine(0);
          for (let above = this.#above - 1; above >= 0; above -= 1) this.#clear(above);
        }
        break;
    }
  }

  #eraseInLine(which: number): void {
    const column = this.#columnNow();
    this.#column = column;
    if (which === 2) {
      this.#clear(this.#above);
      return;
    }
    if (which !== 0 && which !== 1) return;
    const cells = this.#edit();
    if (which === 0) {
      if (cells[column]?.text === "" && column > 0) blank(cells, column - 1);
      cells.length = Math.min(cells.length, column);
    } else {
      for (let i = 0; i <= column && i < cells.length; i += 1) blank(cells, i);
    }
  }

  #clear(above: number): void {
    const line = this.#line(above);
    line.spans = [];
    line.units = 0;
    line.cells = null;
    line.wrapped = false;
    line.hasStderr = false;
  }

  #up(many: number): void {
    this.#column = this.#columnNow();
    this.#above = Math.min(this.#above + many, REACH, this.count - 1);
  }

  #down(): void {
    this.#column = AT_END;
    if (this.#above > 0) {
      this.#above -= 1;
      this.#column = 0;
      return;
    }
    this.#newLine(false);
  }

  #newLine(wrapped: boolean): void {
    let block = this.blocks.at(-1);
    if (block && wrapped) (block.lines.at(-1) as Line).wrapped = true;
    if (!block || block.lines.length === BLOCK_LINES) {
      block = { lines: [], dirty: true };
      this.blocks.push(block);
    }
    block.lines.push({ spans: [], units: 0, cells: null, wrapped: false, hasStderr: false });
    block.dirty = true;
    this.count += 1;
    if (this.count > REACH) settle(this.#peek(REACH));
    const oldest = this.blocks[0] as Block;
    if (this.count - oldest.lines.length >= this.#maxLines) {
      this.blocks.shift();
      this.count -= oldest.lines.length;
      this.dropped += oldest.lines.length;
    }
    this.#column = AT_END;
  }

  #peek(above: number): Line {
    return this.#find(above)[1];
  }

  #find(above: number): [Block, Line] {
    let left = above;
    for (let i = this.blocks.length - 1; i >= 0; i -= 1) {
      const block = this.blocks[i] as Block;
      if (left < block.lines.length) return [block, block.lines[block.lines.length - 1 - left] as Line];
      left -= block.lines.length;
    }
    throw new Error("the cursor stays within the lines that are there");
  }

  /** A line that is about to change. */
  #line(above: number): Line {
    const [block, line] = this.#find(above);
    block.dirty = true;
    return line;
  }

  #columnNow(): number {
    if (this.#column === AT_END) this.#column = Math.min(MAX_COLUMN, this.#edit().length);
    return this.#column;
  }

  /** The cells of the cursor's line. */
  #edit(): Cell[] {
    const line = this.#line(this.#above);
    line.cells ??= cellsOf(line);
    return line.cells;
  }

  #put(text: string, style: Style | null, channel: Channel): void {
    let line = this.#line(this.#above);
    if (channel === "stderr") line.hasStderr = true;
    if (this.#column === 0 && !line.cells && line.units === 0) this.#column = AT_END;
    if (this.#column !== AT_END) {
      this.#overwrite(text, style, channel);
      return;
    }
    if (line.cells) settle(line);
    // A line above others cannot be broken.
    let rest = this.#above > 0 ? text.slice(0, Math.max(0, MAX_UNITS - line.units)) : text;
    while (line.units + rest.length > MAX_UNITS) {
      let fits = Math.max(0, MAX_UNITS - line.units);
      // Not between the halves of a surrogate pair.
      const before = rest.charCodeAt(fits - 1);
      if (fits > 0 && before >= 0xd800 && before < 0xdc00) fits -= 1;
      append(line, rest.slice(0, fits), style, channel);
      rest = rest.slice(fits);
      this.#newLine(true);
      line = this.#line(0);
      if (channel === "stderr") line.hasStderr = true;
    }
    append(line, rest, style, channel);
  }

  #overwrite(text: string, style: Style | null, channel: Channel): void {
    const cells = this.#edit();
    let column = this.#column;
    for (const char of text) {
      const width = columns(char);
      if (width === 0) {
        const before = cells[column - 1];
        // A few marks on a character are writing, hundreds are an attack.
        if (before && before.text.length < 16) before.text += char;
        continue;
      }
      if (column + width > MAX_COLUMN) break;
      while (cells.length < column) cells.push({ text: " ", style: null, channel });
      if (cells[column]?.text === "") blank(cells, column - 1);
      if (cells[column + width]?.text === "") blank(cells, column + width);
      cells[column] = { text: char, style, channel };
      if (width === 2) cells[column + 1] = { text: "", style, channel };
      column += width;
    }
    this.#column = column >= cells.length && column < MAX_COLUMN ? AT_END : column;
    if (this.#column === AT_END) settle(this.#line(this.#above));
  }
}

function blank(cells: Cell[], column: number): void {
  const cell = cells[column];
  if (cell) cells[column] = { text: " ", style: null, channel: cell.channel };
}

function append(line: Line, text: string, style: Style | null, channel: Channel): void {
  if (text === "") return;
  const last = line.spans.at(-1);
  if (last && last.style === style && last.channel === channel) last.text += text;
  else line.spans.push({ text, style, channel });
  line.units += text.length;
}

/** Turns cells into spans again. */
function settle(line: Line): void {
  if (!line.cells) return;
  const { cells } = line;
  line.cells = null;
  line.spans = [];
  line.units = 0;
  for (const cell of cells) append(line, cell.text, cell.style, cell.channel);
}

/** The spans of a line, also while it is being written over. */
export function spansOf(line: Line): readonly Span[] {
  if (!line.cells) return line.spans;
  const copy: Line = { ...line, spans: [], units: 0, cells: line.cells };
  settle(copy);
  return copy.spans;
}

export function lineText(line: Line): string {
  return spansOf(line)
    .map((span) => span.text)
    .join("");
}

function cellsOf(line: Line): Cell[] {
  const cells: Cell[] = [];
  for (const { text, style, channel } of line.spans) {
    for (const char of text) {
      if (char === "\t") {
        do cells.push({ text: " ", style, channel });
        while (cells.length % 8 !== 0);
        continue;
      }
      const width = columns(char);
      const before = cells.at(-1);
      if (width === 0 && before) before.text += char;
      else cells.push({ text: char, style, channel });
      if (width === 2) cells.push({ text: "", style, channel });
    }
  }
  return cells;
}

const MARK = /^(?:\p{M}|[\u200b-\u200d])$/u;
const WIDE =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]$|^[\u{1f300}-\u{1f64f}\u{1f680}-\u{1f6ff}\u{1f900}-\u{1f9ff}\u{20000}-\u{3fffd}]$/u;

/** How many columns a character takes (Unicode Standard Annex #11, in the ranges that matter). */
function columns(char: string): 0 | 1 | 2 {
  if (ASCII.test(char)) return 1;
  if (MARK.test(char)) return 0;
  return WIDE.test(char) ? 2 : 1;
}

type Change = { [key in keyof Style]?: Style[key] | undefined };

/** Styles are compared by identity, so equal ones are one object. */
const styles = new Map<string, Style>();

function styled(style: Style | null, change: Change): Style | null {
  const next: Record<string, unknown> = { ...style };
  for (const [key, value] of Object.entries(change)) {
    if (value === undefined) delete next[key];
    else next[key] = value;
  }
  const keys = Object.keys(next).sort();
  if (keys.length === 0) return null;
  const name = keys.map((key) => `${key}=${next[key]}`).join(" ");
  let known = styles.get(name);
  if (!known) {
    // True colours and links can be many. Forgetting them costs only some sharing.
    if (styles.size > 5_000) styles.clear();
    known = next as Style;
    styles.set(name, known);
  }
  return known;
}

function sgr(style: Style | null, parameters: string): Style | null {
  // `38:2::r:g:b` and `38;2;r;g;b` are both in use.
  const codes = parameters
    .replaceAll(/:+/g, ";")
    .split(";")
    .map((part) => Number(part || 0));
  let next = style;
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i] as number;
    if (code === 38 || code === 48) {
      const [color, used] = extended(codes.slice(i + 1));
      i += used;
      if (color !== undefined) next = styled(next, code === 38 ? { fg: color } : { bg: color });
    } else {
      next = simple(next, code);
    }
  }
  return next;
}

function extended(codes: number[]): [number | string | undefined, number] {
  const byte = (value: number | undefined): value is number => value !== undefined && value <= 255;
  if (codes[0] === 5) return [byte(codes[1]) ? codes[1] : undefined, 2];
  if (codes[0] === 2) {
    const [, r, g, b] = codes;
    if (!byte(r) || !byte(g) || !byte(b)) return [undefined, 4];
    const hex = [r, g, b].map((part) => part.toString(16).padStart(2, "0"));
    return [`#${hex.join("")}`, 4];
  }
  return [undefined, codes.length];
}

function simple(style: Style | null, code: number): Style | null {
  if (code >= 30 && code <= 37) return styled(style, { fg: code - 30 });
  if (code >= 90 && code <= 97) return styled(style, { fg: code - 82 });
  if (code >= 40 && code <= 47) return styled(style, { bg: code - 40 });
  if (code >= 100 && code <= 107) return styled(style, { bg: code - 92 });
  switch (code) {
    case 0:
      // A link is ended by its own sequence.
      return style?.link ? styled(null, { link: style.link }) : null;
    case 1:
      return styled(style, { bold: true });
    case 2:
      return styled(style, { dim: true });
    case 3:
      return styled(style, { italic: true });
    case 4:
      return styled(style, { underline: true });
    case 7:
      return styled(style, { inverse: true });
    case 9:
      return styled(style, { strike: true });
    case 22:
      return styled(style, { bold: undefined, dim: undefined });
    case 23:
      return styled(style, { italic: undefined });
    case 24:
      return styled(style, { underline: undefined });
    case 27:
      return styled(style, { inverse: undefined });
    case 29:
      return styled(style, { strike: undefined });
    case 39:
      return styled(style, { fg: undefined });
    case 49:
      return styled(style, { bg: undefined });
    default:
      return style;
  }
}
