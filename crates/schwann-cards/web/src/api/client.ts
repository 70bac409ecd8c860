/**
 * Every call the page makes, typed by the server's own OpenAPI document.
 *
 * Who calls is said by a cookie that scripts cannot read.
 */
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";
import { uniqueWord } from "./unique";

type Schemas = components["schemas"];
export type Book = Schemas["BookPublic"];
export type Card = Schemas["CardPublic"];
export type CardCreate = Schemas["CardCreate"];
export type CardUpdate = Schemas["CardUpdate"];
/** As lists have it: its code is in `RunPublic`. */
export type Run = Schemas["RunSummary"];
export type Share = Schemas["SharePublic"];
export type Face = Schemas["Face"];
export type Follow = Schemas["Follow"];
export type ShareRole = Schemas["Role"];
export type User = Schemas["UserPublic"];
export type ApiToken = Schemas["TokenPublic"];

export const API = "/api/v1";

/** Most that is asked for in one page of a list. */
const PAGE = 100;

const client = createClient<paths>({ credentials: "same-origin" });

/** The server refused, or could not be reached (`status` 0). */
export class ApiError extends Error {
  readonly status: number;
  /** A stable word for programs. */
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

interface Refusal {
  readonly detail?: string | readonly { readonly loc: readonly unknown[]; readonly msg: string }[];
  readonly code?: string;
}

async function failure(response: Response, body?: unknown): Promise<ApiError> {
  const refusal = (body ?? (await response.json().catch(() => ({})))) as Refusal;
  const { detail } = refusal;
  const message =
    typeof detail === "string"
      ? detail
      : (detail?.map(({ loc, msg }) => `${loc.slice(1).join(".")}: ${msg}`).join("; ") ??
        response.statusText);
  return new ApiError(response.status, refusal.code ?? "", message || `${response.status}`);
}

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** The data of an answer; a refusal is thrown. */
async function data<T>(asked: Promise<Answer<T>>): Promise<NonNullable<T>> {
  const answer = await asked.catch((error: unknown) => {
    throw new ApiError(0, "unreachable", String(error));
  });
  if (!answer.response.ok) throw await failure(answer.response, answer.error);
  return answer.data as NonNullable<T>;
}

/** A call whose answer is not JSON. */
export async function raw(path: string, init: RequestInit = {}): Promise<Response> {
  const response = await fetch(`${API}${path}`, { credentials: "same-origin", ...init }).catch(
    (error: unknown) => {
      throw new ApiError(0, "unreachable", String(error));
    },
  );
  if (!response.ok) throw await failure(response);
  return response;
}

export const users = {
  me: () => data(client.GET("/api/v1/users/me")),
  logIn: (username: string, password: string) =>
    data(
      client.POST("/api/v1/login/access-token", {
        body: { username, password },
        bodySerializer: (body) => new URLSearchParams(body as Record<string, string>),
        headers: { "content-type": "application/x-www-form-urlencoded" },
      }),
    ),
  logOut: () => data(client.POST("/api/v1/login/logout")),
  signUp: (body: Schemas["UserRegister"]) => data(client.POST("/api/v1/users/signup", { body })),
  updateMe: (body: Schemas["UserUpdateMe"]) => data(client.PATCH("/api/v1/users/me", { body })),
  changePassword: (body: Schemas["UpdatePassword"]) =>
    data(client.PATCH("/api/v1/users/me/password", { body })),
  list: (skip: number) => data(client.GET("/api/v1/users/", { params: { query: { skip, limit: PAGE } } })),
  create: (body: Schemas["UserCreate"]) => data(client.POST("/api/v1/users/", { body })),
  update: (user_id: string, body: Schemas["UserUpdate"]) =>
    data(client.PATCH("/api/v1/users/{user_id}", { params: { path: { user_id } }, body })),
  remove: (user_id: string) =>
    data(client.DELETE("/api/v1/users/{user_id}", { params: { path: { user_id } } })),
};

export const tokens = {
  list: () => data(client.GET("/api/v1/users/me/tokens/", { params: { query: { limit: PAGE } } })),
  create: (body: Schemas["TokenCreate"]) => data(client.POST("/api/v1/users/me/tokens/", { body })),
  remove: (id: string) => data(client.DELETE("/api/v1/users/me/tokens/{id}", { params: { path: { id } } })),
};

export const books = {
  list: (q: string, skip: number) =>
    data(client.GET("/api/v1/books/", { params: { query: { skip, limit: PAGE, ...(q ? { q } : {}) } } })),
  get: (book_id: string) => data(client.GET("/api/v1/books/{book_id}", { params: { path: { book_id } } })),
  create: (body: Schemas["BookCreate"]) => data(client.POST("/api/v1/books/", { body })),
  update: (book_id: string, body: Schemas["BookUpdate"]) =>
    data(client.PUT("/api/v1/books/{book_id}", { params: { path: { book_id } }, body })),
  remove: (book_id: string) =>
    data(client.DELETE("/api/v1/books/{book_id}", { params: { path: { book_id } } })),
  /** Takes a notebook, Markdown or our own JSON, told apart by the file's name. */
  async import(file: File): Promise<Book> {
    const form = new FormData();
    form.append("file", file);
    return (await raw("/books/import", { method: "POST", body: form })).json() as Promise<Book>;
  },
  exported: (book: string, format: "ipynb" | "md" | "json") => `${API}/books/${book}/export?format=${format}`,
};

export const shares = {
  list: (book_id: string) =>
    data(client.GET("/api/v1/books/{book_id}/shares/", { params: { path: { book_id } } })),
  create: (book_id: string, body: Schemas["ShareCreate"]) =>
    data(client.POST("/api/v1/books/{book_id}/shares/", { params: { path: { book_id } }, body })),
  remove: (book_id: string, share_id: string) =>
    data(
      client.DELETE("/api/v1/books/{book_id}/shares/{share_id}", { params: { path: { book_id, share_id } } }),
    ),
  read: (slug: string) => data(client.GET("/api/v1/shared/{slug}", { params: { path: { slug } } })),
};

export const cards = {
  /** All cards of a book, in their order. */
  async list(book_id: string): Promise<Card[]> {
    const all: Card[] = [];
    for (;;) {
      const query = { skip: all.length, limit: PAGE };
      const page = await data(
        client.GET("/api/v1/books/{book_id}/cards/", { params: { path: { book_id }, query } }),
      );
      all.push(...page.data);
      if (all.length >= page.count || page.data.length === 0) return all;
    }
  },
  get: (book_id: string, id: string) =>
    data(client.GET("/api/v1/books/{book_id}/cards/{id}", { params: { path: { book_id, id } } })),
  create: (book_id: string, body: CardCreate) =>
    data(client.POST("/api/v1/books/{book_id}/cards/", { params: { path: { book_id } }, body })),
  /** Refused with 412 if the card is not the one that had this version. */
  update: (book_id: string, id: string, version: number, body: CardUpdate) =>
    data(
      client.PUT("/api/v1/books/{book_id}/cards/{id}", {
        params: { path: { book_id, id }, header: { "If-Match": `"${version}"` } },
        body,
      }),
    ),
  remove: (book_id: string, id: string) =>
    data(client.DELETE("/api/v1/books/{book_id}/cards/{id}", { params: { path: { book_id, id } } })),
  reorder: (book_id: string, ids: string[]) =>
    data(
      client.POST("/api/v1/books/{book_id}/cards/reorder", { params: { path: { book_id } }, body: { ids } }),
    ),
};

export const publications = {
  /** Publishes the card as it is at this version; 412 if it is at another. */
  publish: (book_id: string, id: string, version: number, body: Schemas["PublicationUpdate"]) =>
    data(
      client.PUT("/api/v1/books/{book_id}/cards/{id}/publication", {
        params: { path: { book_id, id }, header: { "If-Match": `"${version}"` } },
        body,
      }),
    ),
  remove: (book_id: string, id: string) =>
    data(
      client.DELETE("/api/v1/books/{book_id}/cards/{id}/publication", { params: { path: { book_id, id } } }),
    ),
};

export const runs = {
  /**
   * Saves the card as the body says and runs it, in one step; with a version, only if it is the
   * card's, else 412.
   */
  async start(book: string, card: string, body: Schemas["CardRun"], version?: number): Promise<Run> {
    const headers = {
      ...(version === undefined ? {} : { "if-match": `"${version}"` }),
      "content-type": "application/json",
      accept: "application/json",
      prefer: "respond-async",
      // The same press of a button never starts two runs.
      "idempotency-key": uniqueWord(),
    };
    const response = await raw(`/books/${book}/cards/${card}/run`, {
      method: "POST",
      headers,
      body: JSON.stringify(body),
    });
    return response.json() as Promise<Run>;
  },
  get: (id: string) => data(client.GET("/api/v1/runs/{id}", { params: { path: { id } } })),
  ofCard: (book_id: string, id: string) =>
    data(
      client.GET("/api/v1/books/{book_id}/cards/{id}/runs/", {
        params: { path: { book_id, id }, query: { limit: 20 } },
      }),
    ),
  cancel: (id: string) =>
    raw(`/runs/${id}/cancel`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    }),
  input: (id: string, text: string, eof: boolean) =>
    raw(`/runs/${id}/stdin${eof ? "?eof=true" : ""}`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: text,
    }),
  output: (id: string) => `${API}/runs/${id}/output`,
};

export const site = {
  get: () => data(client.GET("/api/v1/utils/site")),
};

export const languages = {
  list: () => data(client.GET("/api/v1/languages/")),
};
