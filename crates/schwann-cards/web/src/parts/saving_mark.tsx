import { useText } from "../text/text";
import type { Saving } from "./use_saving";

export function SavingMark({ state }: { state: Saving }) {
  const text = useText();
  const words = {
    saved: "",
    waiting: text.notSaved,
    saving: text.saving,
    failed: text.notSaved,
    conflict: text.notSaved,
  };
  return (
    <span className={`shrink-0 text-xs ${state === "failed" ? "text-danger" : "text-muted"}`}>
      {words[state]}
    </span>
  );
}
