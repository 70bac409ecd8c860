import { useMutation } from "@tanstack/react-query";
import { type KeyboardEvent, type ReactNode, useState } from "react";
import type { Access } from "../api/access";
import { type Card, cards } from "../api/client";
import { useText } from "../text/text";
import { IconButton } from "./button";
import { Sure } from "./dialog";
import { Menu, MenuItem, MenuLine } from "./menu";

/** What every card can do, and its place in the book. */
export interface CardProps {
  readonly card: Card;
  readonly access: Access;
  readonly isFirst: boolean;
  readonly isLast: boolean;
  readonly onMove: (by: -1 | 1) => void;
  readonly onDuplicate: () => void;
  readonly onAddBelow: () => void;
  readonly onChanged: () => Promise<unknown>;
}

export function CardFrame({
  card,
  access,
  isFirst,
  isLast,
  onMove,
  onDuplicate,
  onAddBelow,
  onChanged,
  label,
  head,
  menu,
  children,
}: CardProps & { label: string; head: ReactNode; menu?: ReactNode; children: ReactNode }) {
  const text = useText();
  const [deleting, setDeleting] = useState(false);
  const remove = useMutation({ mutationFn: () => cards.remove(card.book_id, card.id), onSuccess: onChanged });
  const keys = (event: KeyboardEvent) => {
    if (!access.edit || !event.altKey || !event.shiftKey) return;
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault();
    onMove(event.key === "ArrowUp" ? -1 : 1);
  };
  return (
    // The keys work on the card from whatever in it has the focus.
    <section
      aria-label={label}
      onKeyDown={keys}
      className="overflow-clip rounded-lg border border-line bg-surface"
      data-card={card.id}
    >
      <div className="flex min-h-10 items-center gap-1 border-b border-line bg-raised py-1 pr-1 pl-2">
        {head}
        {access.edit && (
          <div className="ml-auto flex shrink-0">
            <IconButton icon="up" label={text.moveUp} disabled={isFirst} onClick={() => onMove(-1)} />
            <IconButton icon="down" label={text.moveDown} disabled={isLast} onClick={() => onMove(1)} />
            <Menu label={text.more}>
              {menu}
              <MenuItem onSelect={onAddBelow}>{text.addBelow}</MenuItem>
              <MenuItem onSelect={onDuplicate}>{text.duplicate}</MenuItem>
              <MenuLine />
              <MenuItem danger onSelect={() => setDeleting(true)}>
                {text.deleteCard}
              </MenuItem>
            </Menu>
          </div>
        )}
      </div>
      {children}
      <Sure
        open={deleting}
        onClose={() => setDeleting(false)}
        title={text.deleteCard}
        question={text.deleteCardSure}
        onSure={() => remove.mutateAsync()}
      />
    </section>
  );
}
