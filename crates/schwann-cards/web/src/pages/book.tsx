import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate, useParams } from "@tanstack/react-router";
import { type FormEvent, useCallback, useRef, useState } from "react";
import { accessOf } from "../api/access";
import { ApiError, type Book, books, type Card, type CardCreate, cards, languages } from "../api/client";
import { Button, IconButton } from "../parts/button";
import { CodeCard, type CodeCardHandle } from "../parts/code_card";
import { Panel, Sure } from "../parts/dialog";
import { Field } from "../parts/field";
import { Menu, MenuItem, MenuLine, MenuLink } from "../parts/menu";
import { Failure } from "../parts/notice";
import { usePageTitle } from "../parts/page_title";
import { ShareBook } from "../parts/share_book";
import { TextCard } from "../parts/text_card";
import { useText } from "../text/text";
import { NotFound } from "./frame";

type Shown = "none" | "rename" | "share" | "delete" | "shortcuts";

export default function BookPage() {
  const text = useText();
  const { book: id } = useParams({ from: "/inside/books/$book" });
  const book = useQuery({ queryKey: ["book", id], queryFn: () => books.get(id) });
  const list = useQuery({ queryKey: ["cards", id], queryFn: () => cards.list(id) });
  const [shown, setShown] = useState<Shown>("none");
  const [said, setSaid] = useState("");
  /** The card that "Run all" is at. */
  const [running, setRunning] = useState<string>();
  const stopped = useRef(false);
  const handles = useRef(new Map<string, CodeCardHandle>());
  const queries = useQueryClient();
  const navigate = useNavigate();
  const all = list.data ?? [];
  const access = accessOf(book.data?.role ?? "viewer");
  usePageTitle(book.data?.title);

  const lastLanguage = all.findLast((card) => card.kind === "code")?.language;

  const changed = () => queries.invalidateQueries({ queryKey: ["cards", id] });
  const add = useMutation({
    mutationFn: async ({ card, after }: { card: CardCreate; after?: string }) => {
      const made = await cards.create(id, card);
      if (after) {
        const ids = all.map((one) => one.id);
        ids.splice(ids.indexOf(after) + 1, 0, made.id);
        await cards.reorder(id, ids);
      }
      return made;
    },
    onSuccess: async (made) => {
      await changed();
      requestAnimationFrame(() => handles.current.get(made.id)?.focus());
    },
  });
  const order = ["order", id];
  const move = useMutation({
    mutationKey: order,
    // One after the other: each is the order of all cards.
    scope: { id: order.join(" ") },
    mutationFn: (ids: string[]) => cards.reorder(id, ids),
    onSettled: () => (queries.isMutating({ mutationKey: order }) <= 1 ? changed() : undefined),
  });
  const moveBy = (card: string, by: -1 | 1) => {
    const now = queries.getQueryData<Card[]>(["cards", id]) ?? [];
    const from = now.findIndex((one) => one.id === card);
    const to = from + by;
    if (from < 0 || to < 0 || to >= now.length) return;
    const next = now.toSpliced(from, 1).toSpliced(to, 0, now[from] as Card);
    // Shown at once; an older answer must not undo it.
    void queries.cancelQueries({ queryKey: ["cards", id] });
    queries.setQueryData(["cards", id], next);
    setSaid(text.moved(to + 1, next.length));
    move.mutate(next.map((one) => one.id));
  };
  const next = (card: string) => {
    const code = all.filter((one) => one.kind === "code");
    const following = code[code.findIndex((one) => one.id === card) + 1];
    if (following) handles.current.get(following.id)?.focus();
  };
  /** One after the other, and no further than the first that fails. */
  const runAll = async () => {
    stopped.current = false;
    for (const { id: card } of all) {
      const handle = handles.current.get(card);
      if (!handle || stopped.current) continue;
      setRunning(card);
      if (!(await handle.run())) break;
    }
    setRunning(undefined);
  };
  const stopAll = () => {
    stopped.current = true;
    if (running) handles.current.get(running)?.stop();
  };
  const register = useCallback((card: string, handle: CodeCardHandle | null) => {
    if (handle) handles.current.set(card, handle);
    else handles.current.delete(card);
  }, []);

  if (book.error instanceof ApiError && book.error.status === 404) return <NotFound />;
  if (book.error) {
    return (
      <Failure error={book.error}>
        <Link to="/" className="underline">
          {text.goHome}
        </Link>
      </Failure>
    );
  }
  if (!book.data) return <p className="text-muted">{text.loading}</p>;
  const close = () => setShown("none");
  return (
    <div className="grid grid-cols-[minmax(0,1fr)] gap-4">
      <div className="flex flex-wrap items-start gap-2">
        <div className="mr-auto min-w-0">
          <h1 className="text-xl font-semibold break-words sm:text-2xl">{book.data.title}</h1>
          {book.data.description && <p className="text-sm break-words text-muted">{book.data.description}</p>}
          {!access.own && (
            <p className="mt-1 text-sm text-muted">
              {text.sharedWithYou}: {text.roleHelp[book.data.role]}
            </p>
          )}
        </div>
        <div className="flex items-center gap-2">
          {access.run && all.some((card) => card.kind === "code") && (
            <Button icon={running ? "stop" : "play"} onClick={() => (running ? stopAll() : void runAll())}>
              {running ? text.stopAll : text.runAll}
            </Button>
          )}
          {access.own && (
            <Button icon="link" onClick={() => setShown("share")}>
              {text.share}
            </Button>
          )}
          <span className="max-sm:hidden">
            <IconButton icon="keyboard" label={text.shortcuts} onClick={() => setShown("shortcuts")} />
          </span>
          <Menu label={text.more}>
            {access.edit && <MenuItem onSelect={() => setShown("rename")}>{text.renameBook}</MenuItem>}
            <MenuLink href={books.exported(id, "ipynb")} download>
              {text.exportBook} .ipynb
            </MenuLink>
            <MenuLink href={books.exported(id, "md")} download>
              {text.exportBook} .md
            </MenuLink>
            <MenuLink href={books.exported(id, "json")} download>
              {text.exportBook} .json
            </MenuLink>
            {access.own && (
              <>
                <MenuLine />
                <MenuItem danger onSelect={() => setShown("delete")}>
                  {text.deleteBook}
                </MenuItem>
              </>
            )}
          </Menu>
        </div>
      </div>
      <Failure error={list.error ?? add.error ?? move.error} />
      <p role="status" className="sr-only">
        {said}
      </p>
      {!list.data && !list.error && <p className="text-muted">{text.loading}</p>}
      {list.data?.length === 0 && <p className="text-muted">{text.emptyBook}</p>}
      <ol className="grid empty:hidden grid-cols-[minmax(0,1fr)] gap-4">
        {all.map((card, index) => {
          const shared = {
            card,
            access,
            onMove: (by: -1 | 1) => moveBy(card.id, by),
            isFirst: index === 0,
            isLast: index === all.length - 1,
            onDuplicate: () => {
              const { kind, title, language, code, settings } = card;
              add.mutate({ card: { kind, title, language, code, settings } as CardCreate, after: card.id });
            },
            onAddBelow: () => {
              const language = card.language ?? lastLanguage ?? "python";
              add.mutate({ card: { kind: "code", language, code: "" } as CardCreate, after: card.id });
            },
            onChanged: changed,
          };
          return (
            <li key={card.id}>
              {card.kind === "code" ? (
                <CodeCard
                  ref={(handle) => register(card.id, handle)}
                  {...shared}
                  onNext={() => next(card.id)}
                />
              ) : (
                <TextCard {...shared} />
              )}
            </li>
          );
        })}
      </ol>
      {access.edit && <AddCard onAdd={(card) => add.mutate({ card })} last={lastLanguage} />}
      <Rename book={book.data} open={shown === "rename"} onClose={close} />
      <ShareBook book={id} open={shown === "share"} onClose={close} />
      <Panel open={shown === "shortcuts"} onClose={close} title={text.shortcuts}>
        <dl className="grid grid-cols-[auto_1fr] gap-x-6 gap-y-2 text-sm">
          {text.shortcutList.map(([keys, what]) => (
            <div key={keys} className="contents">
              <dt className="font-mono">{keys}</dt>
              <dd>{what}</dd>
            </div>
          ))}
        </dl>
      </Panel>
      <Sure
        open={shown === "delete"}
        onClose={close}
        title={text.deleteBook}
        question={text.deleteBookSure(book.data.title)}
        onSure={async () => {
          await books.remove(id);
          await queries.invalidateQueries({ queryKey: ["books"] });
          await navigate({ to: "/" });
        }}
      />
    </div>
  );
}

function AddCard({ onAdd, last }: { onAdd: (card: CardCreate) => void; last: string | null | undefined }) {
  const text = useText();
  const { data } = useQuery({ queryKey: ["languages"], queryFn: languages.list, staleTime: 600_000 });
  const known = data?.data.filter((one) => one.available) ?? [];
  const language = last ?? known.find((one) => one.id === "python")?.id ?? known[0]?.id ?? "python";
  return (
    <fieldset className="flex flex-wrap gap-2" aria-label={text.addCard}>
      <Button icon="plus" onClick={() => onAdd({ kind: "code", language, code: "" } as CardCreate)}>
        {text.addCode}
      </Button>
      <Button icon="plus" onClick={() => onAdd({ kind: "markdown", code: "" } as CardCreate)}>
        {text.addText}
      </Button>
    </fieldset>
  );
}

function Rename({ book, open, onClose }: { book: Book; open: boolean; onClose: () => void }) {
  const text = useText();
  const queries = useQueryClient();
  const save = useMutation({
    mutationFn: (form: FormData) =>
      books.update(book.id, {
        title: String(form.get("title")).trim(),
        description: String(form.get("description")).trim() || null,
      }),
    onSuccess: async (saved) => {
      queries.setQueryData(["book", book.id], saved);
      await queries.invalidateQueries({ queryKey: ["books"] });
      onClose();
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    save.mutate(new FormData(event.currentTarget));
  };
  return (
    <Panel open={open} onClose={onClose} title={text.renameBook}>
      <form onSubmit={submit} className="grid gap-4">
        <Field label={text.title} name="title" defaultValue={book.title} required maxLength={255} />
        <Field
          label={text.description}
          name="description"
          defaultValue={book.description ?? ""}
          maxLength={255}
        />
        <Failure error={save.error} />
        <Button type="submit" look="primary" className="justify-self-end" disabled={save.isPending}>
          {text.save}
        </Button>
      </form>
    </Panel>
  );
}
