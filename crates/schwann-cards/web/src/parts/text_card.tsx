import { lazy, Suspense, useRef, useState } from "react";
import type { EditorHandle } from "../editor/editor";
import { useText } from "../text/text";
import { Button } from "./button";
import { CardFrame, type CardProps } from "./card_frame";
import { SavingMark } from "./saving_mark";
import { SavingTrouble } from "./saving_trouble";
import { useSaving } from "./use_saving";

const Editor = lazy(() => import("../editor/editor"));
const Markdown = lazy(() => import("./markdown"));

export function TextCard(props: CardProps) {
  const { card, access } = props;
  const text = useText();
  const editor = useRef<EditorHandle>(null);
  const saving = useSaving(card, (theirs) => editor.current?.replace(theirs.code));
  const [wantsEditing, setEditing] = useState(card.code === "");
  const editing = wantsEditing && access.edit;
  const title = card.title || card.code.split("\n", 1)[0]?.replace(/^#+\s*/, "") || text.untitled;
  const done = () => void saving.save().then((saved) => saved && setEditing(false));
  return (
    <CardFrame
      {...props}
      label={text.textCard(title)}
      head={
        <>
          <span className="px-1.5 text-xs font-medium text-muted">{text.addText}</span>
          {access.edit && (
            <Button look="quiet" onClick={editing ? done : () => setEditing(true)}>
              {editing ? text.done : text.edit}
            </Button>
          )}
          <SavingMark state={saving.state} />
        </>
      }
    >
      <SavingTrouble saving={saving} />
      <Suspense fallback={<p className="p-3 text-muted">{text.loading}</p>}>
        {editing ? (
          <Editor
            ref={editor}
            label={text.textCard(title)}
            initial={card.code}
            language="markdown"
            onChange={(code) => saving.change({ code })}
            onRun={done}
            onRunAndNext={done}
          />
        ) : (
          // biome-ignore lint/a11y/noStaticElementInteractions: a shortcut for the mouse; the button is for all
          <div className="px-4 py-3" onDoubleClick={() => setEditing(true)}>
            <Markdown source={card.code} />
          </div>
        )}
      </Suspense>
    </CardFrame>
  );
}
