import { useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useRef, useState } from "react";
import { ApiError, type Card, type CardUpdate, cards } from "../api/client";

export type Saving = "saved" | "waiting" | "saving" | "failed" | "conflict";

/** Wait after a change, so that a word is saved and not each letter. */
const QUIET_MS = 700;

/**
 * Saves a card's changes as they are made, and never over somebody else's: who saves names
 * the version that was changed.
 */
export function useSaving(card: Card) {
  const queries = useQueryClient();
  const [state, setState] = useState<Saving>("saved");
  const [error, setError] = useState<unknown>();
  const version = useRef(card.version);
  const pending = useRef<CardUpdate>({});
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const busy = useRef<Promise<boolean>>(Promise.resolve(true));

  const keep = useCallback(
    (saved: Card) => {
      version.current = saved.version;
      queries.setQueryData<Card[]>(["cards", saved.book_id], (all) =>
        all?.map((one) => (one.id === saved.id ? { ...one, ...saved } : one)),
      );
    },
    [queries],
  );

  const save = useCallback(async (): Promise<boolean> => {
    clearTimeout(timer.current);
    await busy.current;
    const changes = pending.current;
    if (Object.keys(changes).length === 0) return true;
    pending.current = {};
    setState("saving");
    setError(undefined);
    const attempt = cards.update(card.book_id, card.id, version.current, changes).then(
      (saved) => {
        keep(saved);
        setState(Object.keys(pending.current).length > 0 ? "waiting" : "saved");
        return true;
      },
      (failed: unknown) => {
        // Nothing that was written is given up.
        pending.current = { ...changes, ...pending.current };
        const isConflict = failed instanceof ApiError && failed.status === 412;
        setState(isConflict ? "conflict" : "failed");
        setError(isConflict ? undefined : failed);
        return false;
      },
    );
    busy.current = attempt;
    return attempt;
  }, [card.book_id, card.id, keep]);

  const change = useCallback(
    (changes: CardUpdate) => {
      pending.current = { ...pending.current, ...changes };
      setState((now) => (now === "conflict" ? now : "waiting"));
      clearTimeout(timer.current);
      timer.current = setTimeout(() => void save(), QUIET_MS);
    },
    [save],
  );

  /** Saves what is here over what is there. */
  const keepMine = useCallback(async () => {
    version.current = (await cards.get(card.book_id, card.id)).version;
    return save();
  }, [card.book_id, card.id, save]);

  /** Gives up what is here. */
  const takeTheirs = useCallback(async () => {
    const theirs = await cards.get(card.book_id, card.id);
    pending.current = {};
    clearTimeout(timer.current);
    keep(theirs);
    setState("saved");
    return theirs;
  }, [card.book_id, card.id, keep]);

  /** Takes what is not saved yet, for a request that saves it: then call `keep`. */
  const take = useCallback(async (): Promise<CardUpdate> => {
    clearTimeout(timer.current);
    await busy.current;
    const changes = pending.current;
    pending.current = {};
    setState("saved");
    return changes;
  }, []);

  // A card that was changed in another tab, and not here, is up to date.
  useEffect(() => {
    if (Object.keys(pending.current).length === 0 && card.version > version.current)
      version.current = card.version;
  }, [card.version]);

  useEffect(() => {
    const leaving = (event: BeforeUnloadEvent) => {
      if (Object.keys(pending.current).length > 0) {
        void save();
        event.preventDefault();
      }
    };
    addEventListener("beforeunload", leaving);
    return () => {
      removeEventListener("beforeunload", leaving);
      void save();
    };
  }, [save]);

  const isClean = useCallback(() => Object.keys(pending.current).length === 0, []);
  return { state, error, change, save, take, keep, keepMine, takeTheirs, isClean };
}
