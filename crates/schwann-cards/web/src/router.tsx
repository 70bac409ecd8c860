import { createRootRoute, createRoute, createRouter, lazyRouteComponent } from "@tanstack/react-router";
import { Frame, NotFound } from "./pages/frame";

const root = createRootRoute({ component: Frame, notFoundComponent: NotFound });

const logIn = createRoute({
  getParentRoute: () => root,
  path: "/login",
  validateSearch: (search: Record<string, unknown>): { to?: string } =>
    // Only ever an address within this page.
    typeof search.to === "string" && /^\/(?![/\\])/.test(search.to) ? { to: search.to } : {},
  component: lazyRouteComponent(() => import("./pages/log_in")),
});
const signUp = createRoute({
  getParentRoute: () => root,
  path: "/signup",
  component: lazyRouteComponent(() => import("./pages/sign_up")),
});
const shared = createRoute({
  getParentRoute: () => root,
  path: "/shared/$slug",
  component: lazyRouteComponent(() => import("./pages/shared")),
});
const inside = createRoute({
  getParentRoute: () => root,
  id: "inside",
  component: lazyRouteComponent(() => import("./pages/inside")),
});
const books = createRoute({
  getParentRoute: () => inside,
  path: "/",
  component: lazyRouteComponent(() => import("./pages/books")),
});
const book = createRoute({
  getParentRoute: () => inside,
  path: "/books/$book",
  component: lazyRouteComponent(() => import("./pages/book")),
});
const settings = createRoute({
  getParentRoute: () => inside,
  path: "/settings",
  component: lazyRouteComponent(() => import("./pages/settings")),
});
const people = createRoute({
  getParentRoute: () => inside,
  path: "/users",
  component: lazyRouteComponent(() => import("./pages/users")),
});

export const router = createRouter({
  routeTree: root.addChildren([logIn, signUp, shared, inside.addChildren([books, book, settings, people])]),
  defaultPreload: "intent",
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
