import { QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { ApiError } from "./api/client";
import { signedOut } from "./api/session";
import { router } from "./router";
import "./styles.css";
import { firstSpoken, PreferencesProvider } from "./text/text";

// Radix adds a style sheet while a dialog is open; this is the name under which it looks for the nonce.
Object.assign(globalThis, {
  __webpack_nonce__: document.querySelector<HTMLMetaElement>('meta[name="csp-nonce"]')?.content,
});

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 10_000,
      // A refusal stays one; a server that does not answer may come back.
      retry: (count, error) =>
        count < 3 && error instanceof ApiError && (error.status === 0 || error.status >= 502),
    },
  },
  queryCache: new QueryCache({
    onError: (error) => {
      if (signedOut(error) && queries.getQueryData(["me"])) queries.setQueryData(["me"], null);
    },
  }),
});

// Not awaited here: other files would wait for this one.
void firstSpoken().then((first) => {
  createRoot(document.getElementById("root") as HTMLElement).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        <PreferencesProvider first={first}>
          <RouterProvider router={router} />
        </PreferencesProvider>
      </QueryClientProvider>
    </StrictMode>,
  );
});
