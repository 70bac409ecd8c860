import { useQuery } from "@tanstack/react-query";
import { Outlet, useNavigate } from "@tanstack/react-router";
import { useEffect } from "react";
import { site } from "../api/client";
import { useMe } from "../api/session";
import { Button } from "../parts/button";
import { Failure, Notice } from "../parts/notice";
import { EventsProvider, useEvents } from "../runs/events_context";
import { useText } from "../text/text";

/** Pages for whoever is logged in; others are sent to log in first. */
export default function Inside() {
  const text = useText();
  const { data: me, error, isPending, refetch } = useMe();
  if (error) {
    return (
      <Failure error={error}>
        <Button onClick={() => void refetch()}>{text.retry}</Button>
      </Failure>
    );
  }
  if (isPending) return <p className="text-muted">{text.loading}</p>;
  if (!me) return <ToLogIn />;
  return (
    <EventsProvider user={me.id}>
      <Banners />
      <Outlet />
    </EventsProvider>
  );
}

/** Goes to log in, and back from there to where this was. */
function ToLogIn() {
  const navigate = useNavigate();
  // Once: where it leads must not be taken for where it began.
  useEffect(() => {
    const { pathname, search } = window.location;
    const to = pathname + search;
    void navigate({ to: "/login", search: to === "/" ? {} : { to }, replace: true });
  }, [navigate]);
  return null;
}

function Banners() {
  const text = useText();
  const { connection } = useEvents();
  const { data } = useQuery({ queryKey: ["site"], queryFn: site.get, staleTime: 60_000 });
  return (
    <div className="grid gap-2 not-empty:mb-4">
      {data?.sandbox === "none" && <Notice>{text.sandboxNone}</Notice>}
      {data?.sandbox === null && <Notice>{text.sandboxMissing}</Notice>}
      {connection === "lost" && <Notice>{text.connectionLost}</Notice>}
    </div>
  );
}
