import type { Extension } from "@codemirror/state";

/** Highlighting by a language's id, fetched when a card first needs it. */
export async function highlighting(id: string): Promise<Extension> {
  switch (id) {
    case "python":
    case "python3":
      return (await import("@codemirror/lang-python")).python();
    case "javascript":
    case "node":
    case "js":
      return (await import("@codemirror/lang-javascript")).javascript();
    case "typescript":
    case "ts":
      return (await import("@codemirror/lang-javascript")).javascript({ typescript: true });
    case "markdown":
      return (await import("@codemirror/lang-markdown")).markdown();
    case "shell":
    case "bash":
    case "sh":
    case "zsh":
      return stream((await import("@codemirror/legacy-modes/mode/shell")).shell);
    case "perl":
      return stream((await import("@codemirror/legacy-modes/mode/perl")).perl);
    case "ruby":
      return stream((await import("@codemirror/legacy-modes/mode/ruby")).ruby);
    case "lua":
      return stream((await import("@codemirror/legacy-modes/mode/lua")).lua);
    case "r":
      return stream((await import("@codemirror/legacy-modes/mode/r")).r);
    case "c":
      return stream((await import("@codemirror/legacy-modes/mode/clike")).c);
    case "rust":
      return stream((await import("@codemirror/legacy-modes/mode/rust")).rust);
    case "go":
      return stream((await import("@codemirror/legacy-modes/mode/go")).go);
    case "sql":
    case "sqlite":
      return stream((await import("@codemirror/legacy-modes/mode/sql")).standardSQL);
    default:
      return [];
  }
}

async function stream(mode: unknown): Promise<Extension> {
  const { StreamLanguage } = await import("@codemirror/language");
  return StreamLanguage.define(mode as Parameters<typeof StreamLanguage.define>[0]);
}
