import { closeBrackets, closeBracketsKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import {
  bracketMatching,
  HighlightStyle,
  indentOnInput,
  indentUnit,
  syntaxHighlighting,
} from "@codemirror/language";
import { highlightSelectionMatches, searchKeymap } from "@codemirror/search";
import { Annotation, Compartment, EditorState, Prec } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { type Ref, useEffect, useImperativeHandle, useRef } from "react";
import { highlighting } from "./languages";

export interface EditorHandle {
  focus(): void;
  value(): string;
  /** Replaces all of the text, which is no change of the person here; can be undone. */
  replace(text: string): void;
}

interface EditorProps {
  readonly ref?: Ref<EditorHandle>;
  readonly label: string;
  readonly initial: string;
  readonly language: string;
  readonly readOnly?: boolean;
  readonly onChange?: (text: string) => void;
  readonly onRun?: () => void;
  readonly onRunAndNext?: () => void;
  readonly onStop?: () => void;
}

const look = EditorView.theme({
  "&": { color: "var(--ink)", backgroundColor: "var(--surface)", fontSize: "0.8125rem" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
  ".cm-scroller": { fontFamily: "var(--font-mono)", lineHeight: "1.5", maxHeight: "36rem" },
  ".cm-content": { caretColor: "var(--ink)", paddingBlock: "0.6rem" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--muted)", border: "none" },
  ".cm-activeLine": { backgroundColor: "color-mix(in srgb, var(--accent) 6%, transparent)" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "color-mix(in srgb, var(--accent) 28%, transparent) !important",
  },
  ".cm-matchingBracket": { outline: "1px solid var(--muted)", backgroundColor: "transparent !important" },
  ".cm-panels": { backgroundColor: "var(--raised)", color: "var(--ink)" },
});

/** The same colours as those of output, which can be read in both themes. */
const colors = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "var(--sgr-5)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--sgr-2)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--sgr-3)" },
  { tag: [tags.comment, tags.meta], color: "var(--muted)", fontStyle: "italic" },
  {
    tag: [tags.function(tags.variableName), tags.function(tags.definition(tags.variableName))],
    color: "var(--sgr-4)",
  },
  { tag: [tags.className, tags.typeName, tags.standard(tags.variableName)], color: "var(--sgr-6)" },
  { tag: [tags.heading], fontWeight: "700" },
  { tag: [tags.link, tags.url], color: "var(--sgr-4)", textDecoration: "underline" },
  { tag: tags.emphasis, fontStyle: "italic" },
  { tag: tags.strong, fontWeight: "700" },
  { tag: tags.invalid, color: "var(--danger)" },
]);

/** Marks a text that came from somewhere else. */
const replaced = Annotation.define<boolean>();

const nonce = document.querySelector<HTMLMetaElement>('meta[name="csp-nonce"]')?.content ?? "";

export default function Editor(props: EditorProps) {
  const { ref, label, initial, language, readOnly = false } = props;
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(undefined);
  const latest = useRef(props);
  latest.current = props;
  const languagePart = useRef(new Compartment());

  // The editor keeps its own text; React only gives it the first.
  // biome-ignore lint/correctness/useExhaustiveDependencies: made once
  useEffect(() => {
    const call = (name: "onRun" | "onRunAndNext" | "onStop") => () => {
      latest.current[name]?.();
      return latest.current[name] !== undefined;
    };
    const editor = new EditorView({
      parent: host.current as HTMLElement,
      state: EditorState.create({
        doc: initial,
        extensions: [
          EditorView.cspNonce.of(nonce),
          Prec.highest(
            keymap.of([
              { key: "Mod-Enter", run: call("onRun") },
              { key: "Shift-Enter", run: call("onRunAndNext") },
              { key: "Mod-.", run: call("onStop") },
            ]),
          ),
          lineNumbers(),
          history(),
          drawSelection(),
          indentOnInput(),
          indentUnit.of("    "),
          bracketMatching(),
          closeBrackets(),
          highlightActiveLine(),
          highlightSelectionMatches(),
          keymap.of([
            ...closeBracketsKeymap,
            ...defaultKeymap,
            ...searchKeymap,
            ...historyKeymap,
            indentWithTab,
          ]),
          look,
          syntaxHighlighting(colors),
          languagePart.current.of([]),
          // What is only read is reached by keyboard all the same, to be scrolled, copied and run.
          EditorView.contentAttributes.of({ "aria-label": label, ...(readOnly ? { tabindex: "0" } : {}) }),
          EditorState.readOnly.of(readOnly),
          EditorView.editable.of(!readOnly),
          EditorView.updateListener.of((update) => {
            if (!update.docChanged || update.transactions.some((one) => one.annotation(replaced))) return;
            latest.current.onChange?.(update.state.doc.toString());
          }),
        ],
      }),
    });
    view.current = editor;
    return () => editor.destroy();
  }, []);

  useEffect(() => {
    let wanted = true;
    highlighting(language)
      .then((extension) => {
        if (wanted) view.current?.dispatch({ effects: languagePart.current.reconfigure(extension) });
      })
      .catch(() => {}); // Without colours the text is as good.
    return () => {
      wanted = false;
    };
  }, [language]);

  useImperativeHandle(ref, () => ({
    focus: () => view.current?.focus(),
    value: () => view.current?.state.doc.toString() ?? "",
    replace: (text) => {
      const editor = view.current;
      if (!editor || editor.state.doc.toString() === text) return;
      const changes = { from: 0, to: editor.state.doc.length, insert: text };
      editor.dispatch({ changes, annotations: replaced.of(true) });
    },
  }));

  return <div ref={host} className="overflow-hidden" />;
}
