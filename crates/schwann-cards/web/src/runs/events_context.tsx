import { useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useEffect, useState } from "react";
import { askAnew } from "../api/ask_anew";
import { API } from "../api/client";
import { type Connection, RunEvents, type Source } from "./run_events";

const source: Source = {
  open: (signal) =>
    fetch(`${API}/events`, {
      headers: { accept: "text/event-stream" },
      credentials: "same-origin",
      cache: "no-store",
      signal,
    }),
  replay: (run, after, signal) =>
    fetch(`${API}/runs/${run}/events?after=${after}&follow=false`, {
      headers: { accept: "application/x-ndjson" },
      credentials: "same-origin",
      cache: "no-store",
      signal,
    }),
};

interface Shared {
  readonly events: RunEvents;
  readonly connection: Connection;
}

const Context = createContext<Shared | undefined>(undefined);

/** One event stream for everything below. */
export function EventsProvider({ user, children }: { user: string; children: ReactNode }) {
  const [shared, setShared] = useState<Shared>();
  const queries = useQueryClient();
  useEffect(() => {
    const events = new RunEvents(source, user);
    events.onConnection = (connection) => {
      setShared({ events, connection });
      // What a card's list of runs missed meanwhile.
      if (connection === "open") void askAnew(queries, ["runs"]);
    };
    const changed = (card: string | null) => void askAnew(queries, ["runs", card]);
    events.onStart = (_, card) => changed(card);
    events.onEnd = (_, card) => changed(card);
    events.start();
    setShared({ events, connection: events.connection });
    return () => events.stop();
  }, [user, queries]);
  return shared ? <Context value={shared}>{children}</Context> : null;
}

export function useEvents(): Shared {
  const shared = useContext(Context);
  if (!shared) throw new Error("within EventsProvider");
  return shared;
}
