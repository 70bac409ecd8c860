import { useText } from "../text/text";
import { Button } from "./button";
import { Failure, Notice } from "./notice";
import type { useSaving } from "./use_saving";

/** What stands in the way of saving a card, and the way out. */
export function SavingTrouble({ saving }: { saving: ReturnType<typeof useSaving> }) {
  const text = useText();
  if (saving.state === "conflict") {
    return (
      <div className="p-2">
        <Notice>
          <span className="flex-1">{text.conflict}</span>
          <Button onClick={() => void saving.keepMine()}>{text.keepMine}</Button>
          <Button onClick={() => void saving.takeTheirs()}>{text.takeTheirs}</Button>
        </Notice>
      </div>
    );
  }
  if (!saving.error) return null;
  return (
    <div className="p-2">
      <Failure error={saving.error}>
        <Button onClick={() => void saving.save()}>{text.retry}</Button>
      </Failure>
    </div>
  );
}
