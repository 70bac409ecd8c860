import type { QueryClient, QueryKey } from "@tanstack/react-query";

/**
 * Asks again for what was asked before, as it has changed. An answer that is on its way may be
 * from before the change; where it is the first one, the query client would wait for it and ask
 * no more.
 */
export async function askAnew(queries: QueryClient, queryKey: QueryKey): Promise<void> {
  const first = queries.isFetching({ queryKey, predicate: ({ state }) => state.data === undefined }) > 0;
  await queries.invalidateQueries({ queryKey });
  if (first) await queries.invalidateQueries({ queryKey });
}
