/**
 * Every call the page makes, typed by the server's own OpenAPI document.
 *
 * Who calls is said by a cookie that scripts cannot read.
 */
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

type Method = "get" | "post" | "put" | "patch" | "delete";
/** The addresses that have this method. */
type Path<M extends Method> = {
  [P in keyof paths]: paths[P] extends Record<M, { responses: unknown }> ? P : never;
}[keyof paths];
/** What stands in the address and the headers, and what is sent, as the server's document has it. */
type Asked<O> = (O extends { parameters: infer P } ? Omit<P, "cookie"> : object) &
  (O extends { requestBody: { content: infer C } } ? { body: C[keyof C] } : object);
type Given<O> = O extends { responses: { 200: { content: { "application/json": infer T } } } } ? T : never;
/** Nothing has to be said where nothing is asked for. */
type Said<O> = object extends Asked<O> ? [asked?: Asked<O>] : [asked: Asked<O>];
type Operation<M extends Method, P extends Path<M>> = paths[P] extends Record<M, infer O> ? O : never;

interface Parts {
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, unknown>>;
  readonly header?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

/** One call, typed by the server's document; a refusal is thrown. */
async function ask<M extends Method, P extends Path<M>>(
  method: M,
  path: P,
  ...[asked = {} as Asked<Operation<M, P>>]: Said<Operation<M, P>>
): Promise<Given<Operation<M, P>>> {
  const parts = asked as Parts;
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(parts.path?.[name] ?? ""),
  );
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parts.query ?? {})) {
    if (value !== undefined && value !== null) query.append(name, String(value));
  }
  const init: RequestInit = { method: method.toUpperCase(), headers: { ...parts.header } };
  if (parts.body !== undefined) {
    init.headers = { ...parts.header, "content-type": "application/json" };
    init.body = JSON.stringify(parts.body);
  }
  const response = await call(query.size === 0 ? filled : `${filled}?${query}`, init);
  return response.json().catch(unreachable) as Promise<Given<Operation<M, P>>>;
}

/** No answer, or not all of it. */
function unreachable(error: unknown): never {
  throw new ApiError(0, "unreachable", String(error));
}

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

async function failure(response: Response): Promise<ApiError> {
  const refusal = (await response.json().catch(() => ({}))) as Refusal;
  const { detail } = refusal;
  const message =
    typeof detail === "string"
      ? detail
      : (detail?.map(({ loc, msg }) => `${loc.slice(1).join(".")}: ${msg}`).join("; ") ??
        response.statusText);
  return new ApiError(response.status, refusal.code ?? "", message || `${response.status}`);
}

async function call(url: string, init: RequestInit): Promise<Response> {
  const response = await fetch(url, { credentials: "same-origin", ...init }).catch(unreachable);
  if (!response.ok) throw await failure(response);
  return response;
}

/** A call whose answer is not JSON. */
export function raw(path: string, init: RequestInit = {}): Promise<Response> {
  return call(`${API}${path}`, init);
}

export const users = {
  me: () => ask("get", "/api/v1/users/me"),
  logIn: (username: string, password: string) =>
    raw("/login/access-token", { method: "POST", body: new URLSearchParams({ username, password }) }),
  logOut: () => ask("post", "/api/v1/login/logout"),
  signUp: (body: Schemas["UserRegister"]) => ask("post", "/api/v1/users/signup", { body }),
  updateMe: (body: Schemas["UserUpdateMe"]) => ask("patch", "/api/v1/users/me", { body }),
  changePassword: (body: Schemas["UpdatePassword"]) => ask("patch", "/api/v1/users/me/password", { body }),
  list: (skip: number) => ask("get", "/api/v1/users/", { query: { skip, limit: PAGE } }),
  create: (body: Schemas["UserCreate"]) => ask("post", "/api/v1/users/", { body }),
  update: (user_id: string, body: Schemas["UserUpdate"]) =>
    ask("patch", "/api/v1/users/{user_id}", { path: { user_id }, body }),
  remove: (user_id: string) => ask("delete", "/api/v1/users/{user_id}", { path: { user_id } }),
};

export const tokens = {
  list: () => ask("get", "/api/v1/users/me/tokens/", { query: { limit: PAGE } }),
  create: (body: Schemas["TokenCreate"]) => ask("post", "/api/v1/users/me/tokens/", { body }),
  remove: (id: string) => ask("delete", "/api/v1/users/me/tokens/{id}", { path: { id } }),
};

export const books = {
  list: (q: string, skip: number) =>
    ask("get", "/api/v1/books/", { query: { skip, limit: PAGE, ...(q ? { q } : {}) } }),
  get: (book_id: string) => ask("get", "/api/v1/books/{book_id}", { path: { book_id } }),
  create: (body: Schemas["BookCreate"]) => ask("post", "/api/v1/books/", { body }),
  update: (book_id: string, body: Schemas["BookUpdate"]) =>
    ask("put", "/api/v1/books/{book_id}", { path: { book_id }, body }),
  remove: (book_id: string) => ask("delete", "/api/v1/books/{book_id}", { path: { book_id } }),
  /** Takes a notebook, Markdown or our own JSON, told apart by the file's name. */
  async import(file: File): Promise<Book> {
    const form = new FormData();
    form.append("file", file);
    return (await raw("/books/import", { method: "POST", body: form })).json() as Promise<Book>;
  },
  exported: (book: string, format: "ipynb" | "md" | "json") => `${API}/books/${book}/export?format=${format}`,
};

export const shares = {
  list: (book_id: string) => ask("get", "/api/v1/books/{book_id}/shares/", { path: { book_id } }),
  create: (book_id: string, body: Schemas["ShareCreate"]) =>
    ask("post", "/api/v1/books/{book_id}/shares/", { path: { book_id }, body }),
  remove: (book_id: string, share_id: string) =>
    ask("delete", "/api/v1/books/{book_id}/shares/{share_id}", { path: { book_id, share_id } }),
  read: (slug: string) => ask("get", "/api/v1/shared/{slug}", { path: { slug } }),
};

export const cards = {
  /** All cards of a book, in their order. */
  async list(book_id: string): Promise<Card[]> {
    const all: Card[] = [];
    for (;;) {
      const query = { skip: all.length, limit: PAGE };
      const page = await ask("get", "/api/v1/books/{book_id}/cards/", { path: { book_id }, query });
      all.push(...page.data);
      if (all.length >= page.count || page.data.length === 0) return all;
    }
  },
  get: (book_id: string, id: string) =>
    ask("get", "/api/v1/books/{book_id}/cards/{id}", { path: { book_id, id } }),
  create: (book_id: string, body: CardCreate) =>
    ask("post", "/api/v1/books/{book_id}/cards/", { path: { book_id }, body }),
  /** Refused with 412 if the card is not the one that had this version. */
  update: (book_id: string, id: string, version: number, body: CardUpdate) =>
    ask("put", "/api/v1/books/{book_id}/cards/{id}", {
      path: { book_id, id },
      header: { "If-Match": `"${version}"` },
      body,
    }),
  remove: (book_id: string, id: string) =>
    ask("delete", "/api/v1/books/{book_id}/cards/{id}", { path: { book_id, id } }),
  reorder: (book_id: string, ids: string[]) =>
    ask("post", "/api/v1/books/{book_id}/cards/reorder", { path: { book_id }, body: { ids } }),
};

export const publications = {
  /** Publishes the card as it is at this version; 412 if it is at another. */
  publish: (book_id: string, id: string, version: number, body: Schemas["PublicationUpdate"]) =>
    ask("put", "/api/v1/books/{book_id}/cards/{id}/publication", {
      path: { book_id, id },
      header: { "If-Match": `"${version}"` },
      body,
    }),
  remove: (book_id: string, id: string) =>
    ask("delete", "/api/v1/books/{book_id}/cards/{id}/publication", { path: { book_id, id } }),
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
  get: (id: string) => ask("get", "/api/v1/runs/{id}", { path: { id } }),
  ofCard: (book_id: string, id: string) =>
    ask("get", "/api/v1/books/{book_id}/cards/{id}/runs/", {
      path: { book_id, id },
      query: { limit: 20 },
    }),
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
  get: () => ask("get", "/api/v1/utils/site"),
};

export const languages = {
  list: () => ask("get", "/api/v1/languages/"),
};
