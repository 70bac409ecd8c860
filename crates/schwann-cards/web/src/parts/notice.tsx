import type { ReactNode } from "react";
import { ApiError } from "../api/client";
import type { Text } from "../text/en";
import { useText } from "../text/text";
import { Icon } from "./icons";

export function failureText(error: unknown, text: Text): string {
  if (error instanceof ApiError) {
    return error.status === 0 ? text.noServer : (text.problems[error.code] ?? error.message);
  }
  return error instanceof Error ? error.message : text.somethingFailed;
}

/** What went wrong, told at once also to those who do not see it. */
export function Failure({ error, children }: { error: unknown; children?: ReactNode }) {
  const text = useText();
  if (!error) return null;
  return (
    <div
      role="alert"
      className="flex flex-wrap items-center gap-2 rounded-md border border-danger bg-surface px-3 py-2 text-sm text-danger"
    >
      <Icon name="warn" />
      <span className="min-w-0 flex-1 break-words">{failureText(error, text)}</span>
      {children}
    </div>
  );
}

export function Notice({ children }: { children: ReactNode }) {
  return (
    <div
      role="status"
      className="flex flex-wrap items-center gap-2 rounded-md bg-notice px-3 py-2 text-sm text-notice-ink"
    >
      <Icon name="warn" />
      <div className="flex min-w-0 flex-1 flex-wrap items-center gap-2">{children}</div>
    </div>
  );
}
