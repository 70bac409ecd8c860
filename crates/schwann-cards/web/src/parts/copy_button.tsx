import { useState } from "react";
import { useText } from "../text/text";
import { Button } from "./button";
import { copyText } from "./clipboard";

/** Copies a text, and says so. */
export function CopyButton({ text: copied, label }: { text: string; label?: string }) {
  const text = useText();
  const [last, setLast] = useState("");
  const isDone = last === copied && copied !== "";
  return (
    <Button
      icon={isDone ? "check" : "copy"}
      className="shrink-0"
      onClick={() => void copyText(copied).then(() => setLast(copied))}
    >
      {isDone ? text.copied : (label ?? text.copy)}
    </Button>
  );
}
