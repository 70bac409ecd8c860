/**
 * Draws a terminal's lines into the page, at most once a frame.
 *
 * Output is not React's: a run may print a million lines. Text goes into text nodes and
 * nowhere else; blocks out of sight are not laid out (`content-visibility` in the style
 * sheet); a frame draws for a few milliseconds and leaves the rest to the next.
 */
import { type Block, type Channel, type Line, type Span, type Style, spansOf, Terminal } from "./terminal";

/** Time that one frame may draw. */
const FRAME_MS = 8;

export class Sink {
  terminal: Terminal;
  /** Called when lines were dropped, with how many in all. */
  onDropped: (lines: number) => void = () => {};
  /** Called when the view starts or stops to follow the end. */
  onFollow: (following: boolean) => void = () => {};

  readonly #element: HTMLElement;
  readonly #scroller: HTMLElement;
  readonly #nodes = new Map<Block, HTMLElement>();
  readonly #stderrLabel: string;
  #frame = 0;
  #following = true;
  #lastTop = 0;
  #dropped = 0;

  /** `element` is in `scroller`, and holds nothing else. */
  constructor(element: HTMLElement, scroller: HTMLElement, stderrLabel: string, terminal = new Terminal()) {
    this.#element = element;
    this.#scroller = scroller;
    this.#stderrLabel = stderrLabel;
    this.terminal = terminal;
    scroller.addEventListener("scroll", this.#onScroll, { passive: true });
    for (const block of terminal.blocks) block.dirty = true;
    this.#schedule();
  }

  /** Stops drawing. The terminal keeps what it has. */
  close(): void {
    cancelAnimationFrame(this.#frame);
    this.#scroller.removeEventListener("scroll", this.#onScroll);
    this.#element.replaceChildren();
  }

  write(text: string, channel: Channel): void {
    this.terminal.write(text, channel);
    this.#schedule();
  }

  /** Something was written to the terminal. */
  changed(): void {
    this.#schedule();
  }

  /** Begins anew with another terminal. */
  show(terminal: Terminal): void {
    this.terminal = terminal;
    for (const block of terminal.blocks) block.dirty = true;
    this.#nodes.clear();
    this.#element.replaceChildren();
    this.#dropped = 0;
    this.#setFollowing(true);
    this.#schedule();
  }

  /** Goes to the end and stays there. */
  follow(): void {
    this.#setFollowing(true);
    this.#toEnd();
  }

  #schedule(): void {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(this.#draw);
  }

  readonly #draw = (): void => {
    this.#frame = 0;
    const deadline = performance.now() + FRAME_MS;
    const kept = new Set(this.terminal.blocks);
    for (const [block, node] of this.#nodes) {
      if (kept.has(block)) break; // Blocks go in the order in which they came.
      node.remove();
      this.#nodes.delete(block);
    }
    let done = true;
    for (const block of this.terminal.blocks) {
      if (!block.dirty) continue;
      if (performance.now() > deadline) {
        done = false;
        break;
      }
      block.dirty = false;
      let node = this.#nodes.get(block);
      if (!node) {
        node = document.createElement("div");
        node.className = "output-block";
        this.#element.append(node);
        this.#nodes.set(block, node);
      }
      node.style.setProperty("--lines", String(block.lines.length));
      node.replaceChildren(...drawLines(block.lines, this.#stderrLabel));
    }
    if (this.terminal.dropped !== this.#dropped) {
      this.#dropped = this.terminal.dropped;
      this.onDropped(this.#dropped);
    }
    if (this.#following) this.#toEnd();
    if (!done) this.#schedule();
  };

  #toEnd(): void {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#lastTop = this.#scroller.scrollTop;
  }

  readonly #onScroll = (): void => {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    // Growth does not move the view up; only a person does.
    if (scrollTop < this.#lastTop - 1) this.#setFollowing(false);
    if (scrollHeight - scrollTop - clientHeight < 4) this.#setFollowing(true);
    this.#lastTop = scrollTop;
  };

  #setFollowing(following: boolean): void {
    if (following === this.#following) return;
    this.#following = following;
    this.onFollow(following);
  }
}

/** Groups of lines, those with standard error apart from those without. */
function drawLines(lines: readonly Line[], stderrLabel: string): Node[] {
  const groups: HTMLElement[] = [];
  let group: HTMLElement | undefined;
  let isStderr = false;
  let text = "";
  const flush = () => {
    if (text !== "" && group) group.append(document.createTextNode(text));
    text = "";
  };
  for (const line of lines) {
    if (!group || isStderr !== line.hasStderr) {
      flush();
      isStderr = line.hasStderr;
      group = document.createElement("div");
      group.className = isStderr ? "output-lines output-stderr" : "output-lines";
      if (isStderr) {
        const label = document.createElement("span");
        label.className = "output-label";
        label.textContent = `${stderrLabel} `;
        group.append(label);
      }
      groups.push(group);
    }
    for (const span of spansOf(line)) {
      if (!span.style && (span.channel === "stdout" || !isStderr)) {
        text += span.text;
        continue;
      }
      flush();
      group.append(drawSpan(span));
    }
    text += "\n";
  }
  flush();
  return groups;
}

function drawSpan({ text, style, channel }: Span): HTMLElement {
  const link = style?.link;
  const node = document.createElement(link ? "a" : "span");
  if (link) {
    node.setAttribute("href", link);
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  node.append(document.createTextNode(text));
  if (channel === "stderr") node.classList.add("stderr-text");
  if (style) dress(node, style);
  return node;
}

function dress(node: HTMLElement, style: Style): void {
  const { fg, bg } = style.inverse ? { fg: style.bg ?? "back", bg: style.fg ?? "fore" } : style;
  if (style.bold) node.classList.add("sgr-bold");
  if (style.dim) node.classList.add("sgr-dim");
  if (style.italic) node.classList.add("sgr-italic");
  if (style.underline) node.classList.add("sgr-underline");
  if (style.strike) node.classList.add("sgr-strike");
  if (fg !== undefined) node.style.color = cssColor(fg);
  if (bg !== undefined) node.style.backgroundColor = cssColor(bg);
}

/** The first 16 colours are the theme's, so that they can be read on its background. */
function cssColor(color: number | string): string {
  if (color === "fore") return "var(--output-text)";
  if (color === "back") return "var(--output-back)";
  if (typeof color === "string") return color;
  if (color < 16) return `var(--sgr-${color})`;
  if (color >= 232) {
    const level = (color - 232) * 10 + 8;
    return `rgb(${level},${level},${level})`;
  }
  const level = (step: number) => (step === 0 ? 0 : 55 + step * 40);
  const cube = color - 16;
  return `rgb(${level(Math.floor(cube / 36))},${level(Math.floor(cube / 6) % 6)},${level(cube % 6)})`;
}
