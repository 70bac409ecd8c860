import { QueryClient, QueryObserver } from "@tanstack/react-query";
import { expect, test } from "vitest";
import { askAnew } from "./ask_anew";

/** A list that is asked for, with each answer given when the test wants it. */
function asked() {
  const answers: ((runs: string[]) => void)[] = [];
  const queries = new QueryClient();
  const observer = new QueryObserver(queries, {
    queryKey: ["runs", "card"],
    queryFn: () => new Promise<string[]>((resolve) => answers.push(resolve)),
  });
  return { answers, queries, observer, forget: observer.subscribe(() => {}) };
}

test("what changes while the first answer is on its way is asked for after it", async () => {
  const { answers, queries, observer, forget } = asked();
  const done = askAnew(queries, ["runs"]);
  expect(answers).toHaveLength(1);
  answers[0]?.([]);
  await expect.poll(() => answers.length).toBe(2);
  answers[1]?.(["begun meanwhile"]);
  await done;
  expect(observer.getCurrentResult().data).toEqual(["begun meanwhile"]);
  forget();
});

test("a list that is known is asked for once more", async () => {
  const { answers, queries, observer, forget } = asked();
  answers[0]?.([]);
  await expect.poll(() => observer.getCurrentResult().data).toEqual([]);
  const done = askAnew(queries, ["runs"]);
  await expect.poll(() => answers.length).toBe(2);
  answers[1]?.(["new"]);
  await done;
  expect(observer.getCurrentResult().data).toEqual(["new"]);
  expect(answers).toHaveLength(2);
  forget();
});
