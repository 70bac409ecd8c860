import { useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useRef, useState } from "react";
import { ApiError, type Card, type CardUpdate, cards } from "../api/client";

export type Saving = "saved" | "waiting" | "saving" | "failed" | "conflict";

/** Wait after a change, so that a word is saved and not each letter. */
const QUIET_MS = 700;
/** Wait before a save that failed is tried again. */
const RETRY_MS = 3_000;

/** Whether the same request may succeed later. */
function mayPass(error: unknown): boolean {
  return error instanceof ApiError && (error.status === 0 || error.status === 429 || error.status >= 500);
}

/**
 * Saves a card's changes as they are made, and never over somebody else's: who saves names
 * the version that was changed.
 *
 * `onTheirs` is called with a card that was changed somewhere else and not here, to be shown
 * in place of what is shown: its version is then the one that changes are made to.
 */
export function useSaving(card: Card, onTheirs: (theirs: Card) => void) {
  const queries = useQueryClient();
  const [state, setState] = useState<Saving>("saved");
  const [error, setError] = useState<unknown>();
  const version = useRef(card.version);
  const pending = useRef<CardUpdate>({});
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const busy = useRef<Promise<boolean>>(Promise.resolve(true));
  const isBusy = useRef(false);
  const show = useRef(onTheirs);
  show.current = onTheirs;

  const isClean = useCallback(() => Object.keys(pending.current).length === 0, []);

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
    if (isClean()) return true;
    pending.current = {};
    setState("saving");
    isBusy.current = true;
    const attempt = cards.update(card.book_id, card.id, version.current, changes).then(
      (saved) => {
        isBusy.current = false;
        keep(saved);
        setError(undefined);
        setState(isClean() ? "saved" : "waiting");
        return true;
      },
      (failed: unknown) => {
        isBusy.current = false;
        // Nothing that was written is given up.
        pending.current = { ...changes, ...pending.current };
        const isConflict = failed instanceof ApiError && failed.status === 412;
        setState(isConflict ? "conflict" : "failed");
        setError(isConflict ? undefined : failed);
        clearTimeout(timer.current);
        if (mayPass(failed)) timer.current = setTimeout(() => void save(), RETRY_MS);
        return false;
      },
    );
    busy.current = attempt;
    return attempt;
  }, [card.book_id, card.id, keep, isClean]);

  const change = useCallback(
    (changes: CardUpdate) => {
      pending.current = { ...pending.current, ...changes };
      if (isClean()) return;
      setState((now) => (now === "conflict" ? now : "waiting"));
      clearTimeout(timer.current);
      timer.current = setTimeout(() => void save(), QUIET_MS);
    },
    [save, isClean],
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
    setError(undefined);
    setState("saved");
    show.current(theirs);
  }, [card.book_id, card.id, keep]);

  /**
   * Saves what is shown, and whatever else is not saved yet, by another request, which has all of that in it
   * and names the version that is given to it.
   */
  const saveBy = useCallback(
    async <T>(
      all: CardUpdate,
      request: (changes: CardUpdate, version: number) => Promise<T>,
      saved: () => Promise<Card>,
    ) => {
      clearTimeout(timer.current);
      await busy.current;
      const changes = pending.current;
      pending.current = {};
      isBusy.current = true;
      setState("saved");
      try {
        const answer = await request({ ...changes, ...all }, version.current).catch((failed: unknown) => {
          const isConflict = failed instanceof ApiError && failed.status === 412;
          // Even without a change of its own: what is seen here is not what is there.
          change(isConflict ? { ...all, ...pending.current } : { ...changes, ...pending.current });
          if (isConflict) {
            clearTimeout(timer.current);
            setState("conflict");
          }
          throw failed;
        });
        const card = await saved();
        if (isClean()) keep(card);
        else version.current = card.version;
        return answer;
      } finally {
        isBusy.current = false;
      }
    },
    [change, keep, isClean],
  );

  useEffect(() => {
    if (isBusy.current || !isClean() || card.version <= version.current) return;
    version.current = card.version;
    show.current(card);
  }, [card, isClean]);

  useEffect(() => {
    const leaving = (event: BeforeUnloadEvent) => {
      if (isClean()) return;
      void save();
      event.preventDefault();
    };
    addEventListener("beforeunload", leaving);
    return () => {
      removeEventListener("beforeunload", leaving);
      void save();
    };
  }, [save, isClean]);

  return { state, error, change, save, saveBy, keepMine, takeTheirs };
}
