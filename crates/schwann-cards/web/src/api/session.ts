import { useQuery } from "@tanstack/react-query";
import { ApiError, type User, users } from "./client";

/** Whether a refusal means that nobody is logged in. Other refusals log nobody out. */
export function signedOut(error: unknown): boolean {
  return (
    error instanceof ApiError &&
    (error.status === 401 || (error.status === 403 && error.code === "invalid_token"))
  );
}

/** Who is logged in: `null` is nobody, `undefined` is not known yet. */
export function useMe() {
  return useQuery<User | null>({
    queryKey: ["me"],
    queryFn: () =>
      users.me().catch((error: unknown) => {
        if (signedOut(error)) return null;
        throw error;
      }),
    staleTime: 60_000,
  });
}
