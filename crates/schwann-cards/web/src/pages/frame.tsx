import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useNavigate } from "@tanstack/react-router";
import { useEffect } from "react";
import { site, users } from "../api/client";
import { useMe } from "../api/session";
import { Button } from "../parts/button";
import { Menu, MenuItem, MenuLine, MenuText } from "../parts/menu";
import { Failure, Notice } from "../parts/notice";
import { EventsProvider, useEvents } from "../runs/events_context";
import { LANGUAGES, type Language, type Theme, usePreferences, useText } from "../text/text";

/** What is around every page. */
export function Frame() {
  const text = useText();
  return (
    <div className="min-h-dvh text-ink">
      <a
        href="#content"
        className="sr-only focus:not-sr-only focus:fixed focus:top-2 focus:left-2 focus:z-50 focus:rounded-md focus:bg-surface focus:px-3 focus:py-2"
      >
        {text.skipToContent}
      </a>
      <Header />
      <main id="content" tabIndex={-1} className="mx-auto max-w-5xl px-3 py-5 outline-none sm:px-5">
        <Outlet />
      </main>
    </div>
  );
}

const linkClass =
  "rounded-md px-2.5 py-1 text-sm text-muted hover:text-ink [&.active]:font-semibold [&.active]:text-ink";

function Header() {
  const text = useText();
  const { data: me } = useMe();
  return (
    <header className="sticky top-0 z-30 border-b border-line bg-surface">
      <div className="mx-auto flex h-13 max-w-5xl items-center gap-1 px-3 sm:px-5">
        <Link to="/" className="mr-2 flex items-center gap-2 font-semibold">
          <img src="/mark.svg" alt="" width={26} height={26} />
          <span className={me ? "hidden sm:inline" : ""}>{text.appName}</span>
        </Link>
        {me && (
          <nav className="flex">
            <Link to="/" className={linkClass} activeOptions={{ exact: true }}>
              {text.books}
            </Link>
            {me.is_superuser && (
              <Link to="/users" className={linkClass}>
                {text.users}
              </Link>
            )}
            <a href="/docs/" className={`${linkClass} hidden sm:inline`}>
              {text.apiDocs}
            </a>
          </nav>
        )}
        <div className="ml-auto flex items-center">
          <AccountMenu />
        </div>
      </div>
    </header>
  );
}

function AccountMenu() {
  const { text, language, setLanguage, theme, setTheme } = usePreferences();
  const { data: me } = useMe();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const logOut = async () => {
    await users.logOut().catch(() => {}); // Without a server the page forgets it all the same.
    queries.clear();
    queries.setQueryData(["me"], null);
    await navigate({ to: "/login" });
  };
  const themes: [Theme, string][] = [
    ["system", text.themeSystem],
    ["light", text.themeLight],
    ["dark", text.themeDark],
  ];
  return (
    <Menu label={text.account} icon="person">
      {me && (
        <>
          <MenuText>{me.email}</MenuText>
          <MenuItem onSelect={() => void navigate({ to: "/settings" })}>{text.settings}</MenuItem>
          <MenuItem onSelect={() => void logOut()}>{text.logOut}</MenuItem>
          <MenuLine />
        </>
      )}
      <MenuText>{text.theme}</MenuText>
      {themes.map(([key, name]) => (
        <MenuItem key={key} onSelect={() => setTheme(key)}>
          <span aria-hidden="true">{key === theme ? "●" : "○"}</span> {name}
        </MenuItem>
      ))}
      <MenuText>{text.language}</MenuText>
      {(Object.keys(LANGUAGES) as Language[]).map((key) => (
        <MenuItem key={key} onSelect={() => setLanguage(key)}>
          <span aria-hidden="true">{key === language ? "●" : "○"}</span> {LANGUAGES[key].languageName}
        </MenuItem>
      ))}
    </Menu>
  );
}

/** Pages for whoever is logged in; others are sent to log in first. */
export function Inside() {
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

export function NotFound() {
  const text = useText();
  return (
    <div className="grid justify-items-start gap-3">
      <h1 className="text-xl font-semibold">{text.notFound}</h1>
      <Link to="/" className="text-accent underline">
        {text.goHome}
      </Link>
    </div>
  );
}
