import { Link, Outlet } from "@tanstack/react-router";
import { lazy, Suspense, useState } from "react";
import { useMe } from "../api/session";
import { IconButton } from "../parts/button";
import { usePageTitle } from "../parts/page_title";
import { useText } from "../text/text";

const loadAccountMenu = () => import("../parts/account_menu");
const AccountMenu = lazy(loadAccountMenu);

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
          <Account />
        </div>
      </div>
    </header>
  );
}

/** A button until it is used: a menu is more than all else that a page to log in needs. */
function Account() {
  const text = useText();
  const [wanted, setWanted] = useState(false);
  const near = () => void loadAccountMenu();
  const button = (
    <IconButton
      icon="person"
      label={text.account}
      aria-haspopup="menu"
      aria-expanded={false}
      onPointerEnter={near}
      onFocus={near}
      onClick={() => setWanted(true)}
      onKeyDown={(event) => {
        if (event.key !== "ArrowDown") return;
        event.preventDefault();
        setWanted(true);
      }}
    />
  );
  return wanted ? (
    <Suspense fallback={button}>
      <AccountMenu />
    </Suspense>
  ) : (
    button
  );
}

export function NotFound() {
  const text = useText();
  usePageTitle(text.notFound);
  return (
    <div className="grid justify-items-start gap-3">
      <h1 className="text-xl font-semibold">{text.notFound}</h1>
      <Link to="/" className="text-accent underline">
        {text.goHome}
      </Link>
    </div>
  );
}
