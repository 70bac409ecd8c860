import type { components } from "./schema";

export type BookRole = components["schemas"]["BookRole"];

/** What a user may do with a book: the page offers nothing that the server would refuse. */
export interface Access {
  readonly run: boolean;
  readonly edit: boolean;
  readonly own: boolean;
}

export function accessOf(role: BookRole): Access {
  const own = role === "owner";
  const edit = own || role === "editor";
  return { own, edit, run: edit || role === "runner" };
}
