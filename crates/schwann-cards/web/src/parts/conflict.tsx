import { useText } from "../text/text";
import { Button } from "./button";
import { Notice } from "./notice";

export function Conflict({ onMine, onTheirs }: { onMine: () => void; onTheirs: () => void }) {
  const text = useText();
  return (
    <div className="p-2">
      <Notice>
        <span className="flex-1">{text.conflict}</span>
        <Button onClick={onMine}>{text.keepMine}</Button>
        <Button onClick={onTheirs}>{text.takeTheirs}</Button>
      </Notice>
    </div>
  );
}
