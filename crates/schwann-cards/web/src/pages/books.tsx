import { useInfiniteQuery, useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { type ChangeEvent, type FormEvent, useDeferredValue, useRef, useState } from "react";
import { books } from "../api/client";
import { Button } from "../parts/button";
import { Panel } from "../parts/dialog";
import { Field, inputClass } from "../parts/field";
import { Failure } from "../parts/notice";
import { usePageTitle } from "../parts/page_title";
import { useFormat, useText } from "../text/text";

export default function Books() {
  const text = useText();
  usePageTitle(text.books);
  const format = useFormat();
  const [search, setSearch] = useState("");
  const [adding, setAdding] = useState(false);
  const query = useDeferredValue(search.trim());
  const { data, error, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery({
    queryKey: ["books", query],
    queryFn: ({ pageParam }) => books.list(query, pageParam),
    initialPageParam: 0,
    getNextPageParam: (last, all) => {
      const shown = all.reduce((sum, page) => sum + page.data.length, 0);
      return last.data.length > 0 && shown < last.count ? shown : undefined;
    },
    placeholderData: (before) => before,
  });
  const list = data?.pages.flatMap((page) => page.data);
  const count = data?.pages.at(-1)?.count ?? 0;
  return (
    <div className="grid gap-4">
      <div className="flex flex-wrap items-center gap-2">
        <h1 className="mr-auto text-2xl font-semibold">{text.books}</h1>
        <ImportButton />
        <Button look="primary" icon="plus" onClick={() => setAdding(true)}>
          {text.newBook}
        </Button>
      </div>
      {list && (count > 8 || search !== "") && (
        <input
          className={inputClass}
          type="search"
          aria-label={text.searchBooks}
          placeholder={text.searchBooks}
          value={search}
          onChange={(event) => setSearch(event.target.value)}
        />
      )}
      <Failure error={error} />
      {!list && !error && <p className="text-muted">{text.loading}</p>}
      {list?.length === 0 && (
        <p className="text-muted">{query === "" ? text.noBooks : text.noMatches(query)}</p>
      )}
      <ul className="grid grid-cols-[minmax(0,1fr)] gap-3 sm:grid-cols-[repeat(2,minmax(0,1fr))]">
        {list?.map((book) => (
          <li
            key={book.id}
            className="relative grid gap-1 rounded-lg border border-line bg-surface p-4 hover:border-accent focus-within:border-accent"
          >
            <Link
              to="/books/$book"
              params={{ book: book.id }}
              title={book.title}
              className="truncate font-semibold after:absolute after:inset-0 after:rounded-lg"
            >
              {book.title}
            </Link>
            {book.description && <p className="line-clamp-2 text-sm text-muted">{book.description}</p>}
            <p className="text-xs text-muted">
              {text.cardCount(book.card_count)} · {text.updated(format.date(book.updated_at))}
              {book.role !== "owner" && ` · ${text.sharedWithYou}: ${text.roles[book.role]}`}
            </p>
          </li>
        ))}
      </ul>
      {hasNextPage && (
        <Button
          className="justify-self-center"
          disabled={isFetchingNextPage}
          onClick={() => void fetchNextPage()}
        >
          {text.showMore}
        </Button>
      )}
      <NewBook open={adding} onClose={() => setAdding(false)} />
    </div>
  );
}

function ImportButton() {
  const text = useText();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const input = useRef<HTMLInputElement>(null);
  const load = useMutation({
    mutationFn: books.import,
    onSuccess: async (book) => {
      await queries.invalidateQueries({ queryKey: ["books"] });
      await navigate({ to: "/books/$book", params: { book: book.id } });
    },
  });
  const chosen = (event: ChangeEvent<HTMLInputElement>) => {
    const file = event.target.files?.[0];
    if (file) load.mutate(file);
    event.target.value = "";
  };
  return (
    <>
      <input
        ref={input}
        type="file"
        accept=".ipynb,.md,.json"
        className="hidden"
        aria-label={text.importBook}
        onChange={chosen}
      />
      <Button disabled={load.isPending} onClick={() => input.current?.click()}>
        {text.importBook}
      </Button>
      {load.error && (
        <div className="order-last w-full">
          <Failure error={load.error} />
        </div>
      )}
    </>
  );
}

function NewBook({ open, onClose }: { open: boolean; onClose: () => void }) {
  const text = useText();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const create = useMutation({
    mutationFn: (form: FormData) =>
      books.create({
        title: String(form.get("title")).trim(),
        description: String(form.get("description")).trim() || null,
      }),
    onSuccess: async (book) => {
      await queries.invalidateQueries({ queryKey: ["books"] });
      await navigate({ to: "/books/$book", params: { book: book.id } });
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    create.mutate(new FormData(event.currentTarget));
  };
  return (
    <Panel open={open} onClose={onClose} title={text.newBook}>
      <form onSubmit={submit} className="grid gap-4">
        <Field label={text.title} name="title" required maxLength={255} />
        <Field label={text.description} name="description" maxLength={255} />
        <Failure error={create.error} />
        <Button type="submit" look="primary" className="justify-self-end" disabled={create.isPending}>
          {text.save}
        </Button>
      </form>
    </Panel>
  );
}
