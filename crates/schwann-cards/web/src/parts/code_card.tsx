import { useMutation, useQuery } from "@tanstack/react-query";
import {
  type FormEvent,
  lazy,
  type ReactNode,
  type Ref,
  Suspense,
  useCallback,
  useEffect,
  useImperativeHandle,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import { ApiError, type Card, type CardUpdate, cards, languages, type Run, runs, site } from "../api/client";
import type { EditorHandle } from "../editor/editor";
import { useEvents } from "../runs/events_context";
import { RunView } from "../runs/run_view";
import { useFormat, useText } from "../text/text";
import { Button } from "./button";
import { CardFrame, type CardProps } from "./card_frame";
import { inputClass } from "./field";
import { Menu, MenuItem, MenuSwitch, MenuText } from "./menu";
import { Failure, Notice } from "./notice";
import { Output, Status, summary } from "./output";
import { SavingMark } from "./saving_mark";
import { SavingTrouble } from "./saving_trouble";
import { useSaving } from "./use_saving";

const Editor = lazy(() => import("../editor/editor"));
const PublishCard = lazy(() => import("./publish_card").then((it) => ({ default: it.PublishCard })));

/** Output of an earlier run that is larger is shown when it is asked for. */
const MAX_UNASKED = 2 << 20;
/** How often a list is read anew while a run in it waits or runs: its place in the queue changes. */
const UNFINISHED_MS = 2_000;
/** Wait for the last event of a run that is known to have ended, before it is asked for. */
const CATCH_UP_MS = 1_500;

export interface CodeCardHandle {
  focus(): void;
  /** Runs the card; true if it ends with exit code 0. */
  run(): Promise<boolean>;
  stop(): void;
}

interface CodeCardProps extends CardProps {
  readonly ref: Ref<CodeCardHandle>;
  readonly onNext: () => void;
}

export function CodeCard(props: CodeCardProps) {
  const { ref, card, access, onNext } = props;
  const text = useText();
  const { events } = useEvents();
  const editor = useRef<EditorHandle>(null);
  const [name, setName] = useState(card.title ?? "");
  const [language, setLanguage] = useState(card.language ?? "python");
  const [settings, setSettings] = useState(card.settings);
  const saving = useSaving(card, (theirs: Card) => {
    setSettings(theirs.settings);
    setName(theirs.title ?? "");
    setLanguage(theirs.language ?? "python");
    editor.current?.replace(theirs.code);
  });
  const isReady = useRef(Promise.withResolvers<EditorHandle>());
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState<RunView>();
  const [publishing, setPublishing] = useState(false);
  const [stopping, setStopping] = useState<string>();
  const history = useQuery({
    queryKey: ["runs", card.id],
    queryFn: () => runs.ofCard(card.book_id, card.id),
    enabled: useSeen(box) && access.run,
    // The row of a run that has ended is written just after its last record.
    refetchInterval: ({ state }) =>
      state.data?.data.some(({ status }) => status !== "finished") ? UNFINISHED_MS : false,
  });
  const all = history.data?.data ?? [];
  const latest = all[0];
  /** Chosen by the reader; without one the latest is shown. */
  const [chosen, setChosen] = useState<string>();
  const [asked, setAsked] = useState<string>();
  const wanted = chosen ? all.find((run) => run.id === chosen) : latest;
  const isLarge =
    wanted !== undefined &&
    size(wanted) > MAX_UNASKED &&
    wanted.status === "finished" &&
    asked !== wanted.id &&
    // What is shown already stays.
    view?.run !== wanted.id;

  const open = useCallback(
    (run: string, startedAt?: number) => {
      setView((before) => {
        if (before?.run === run) return before;
        before?.close();
        const next = new RunView(run, events);
        if (startedAt !== undefined) next.began(startedAt);
        return next;
      });
    },
    [events],
  );
  const wantedId = wanted && !isLarge ? wanted.id : undefined;
  useEffect(() => {
    if (wantedId) open(wantedId);
  }, [wantedId, open]);
  useEffect(() => () => setView((before) => void before?.close()), []);

  const start = useMutation({
    mutationFn: async () => {
      setChosen(undefined);
      const begin = async (body: CardUpdate, version?: number) => {
        const run = await runs.start(card.book_id, card.id, body, version);
        open(run.id);
        void history.refetch();
        return run;
      };
      if (!access.edit) return begin({});
      const shown = { code: editor.current?.value() ?? card.code, language };
      return saving.saveBy(shown, begin, () => cards.get(card.book_id, card.id));
    },
  });
  const run = async (): Promise<boolean> => {
    const { id } = await start.mutateAsync();
    return ended(id, events);
  };
  const stop = async () => {
    if (!view || stopping === view.run) return;
    setStopping(view.run);
    await runs.cancel(view.run).catch(() => setStopping(undefined));
  };
  const isConflict = start.error instanceof ApiError && start.error.status === 412;
  const row = all.find(({ id }) => id === view?.run);
  useCatchingUp(view, row, events);
  useImperativeHandle(ref, () => ({
    // A card that was just made has no editor yet.
    focus: () => void isReady.current.promise.then((it) => it.focus()),
    run: () => run().catch(() => false),
    stop: () => void stop(),
  }));

  const title = name || text.untitled;
  return (
    <CardFrame
      {...props}
      label={text.codeCard(title)}
      menu={
        <>
          <AxonSwitch
            checked={settings.axon === true}
            onChange={(axon) => {
              const { axon: _, ...others } = settings;
              const next = axon ? { ...others, axon } : others;
              setSettings(next);
              saving.change({ settings: next });
            }}
          />
          {access.own && (
            <MenuItem onSelect={() => void saving.save().then((saved) => saved && setPublishing(true))}>
              {text.publish}…
            </MenuItem>
          )}
        </>
      }
      head={
        <>
          <input
            className="h-8 min-w-0 flex-1 rounded px-1.5 text-sm font-medium placeholder:font-normal placeholder:text-muted sm:max-w-72"
            aria-label={text.cardTitle}
            placeholder={text.untitled}
            value={name}
            title={name}
            maxLength={255}
            readOnly={!access.edit}
            onChange={(event) => {
              setName(event.target.value);
              saving.change({ title: event.target.value });
            }}
          />
          <LanguageChoice
            value={language}
            disabled={!access.edit}
            onChoose={(next) => {
              setLanguage(next);
              saving.change({ language: next });
            }}
          />
          <SavingMark state={saving.state} />
          {settings.axon === true && <Mark>{text.callsAxon}</Mark>}
          {card.publication && (
            <Mark>
              {text.faces[card.publication.face]}: {card.publication.name}
            </Mark>
          )}
        </>
      }
    >
      <SavingTrouble saving={saving} />
      {publishing && (
        <Suspense>
          <PublishCard card={card} open onClose={() => setPublishing(false)} onChanged={props.onChanged} />
        </Suspense>
      )}
      <div ref={box} className="min-h-16">
        <Suspense fallback={<p className="p-3 text-muted">{text.loading}</p>}>
          <Editor
            ref={(handle) => {
              editor.current = handle;
              if (handle) isReady.current.resolve(handle);
            }}
            label={`${text.code}: ${title}`}
            initial={card.code}
            language={language}
            readOnly={!access.edit}
            onChange={(code) => saving.change({ code })}
            {...(access.run && {
              onRun: () => start.mutate(),
              onRunAndNext: () => {
                start.mutate();
                onNext();
              },
              onStop: () => void stop(),
            })}
          />
        </Suspense>
      </div>
      {access.run && (
        <div className="flex items-center gap-2 border-t border-line px-2 py-1.5">
          {view ? (
            <RunButton
              view={view}
              isStarting={start.isPending}
              isStopping={stopping === view.run}
              onRun={() => start.mutate()}
              onStop={() => void stop()}
            />
          ) : (
            <Button look="primary" icon="play" disabled={start.isPending} onClick={() => start.mutate()}>
              {text.run}
            </Button>
          )}
          {view && <ViewStatus view={view} row={row} />}
          <div className="ml-auto shrink-0">
            <History all={all} onChoose={(id) => setChosen(id === latest?.id ? undefined : id)} />
          </div>
        </div>
      )}
      {start.error && !isConflict && (
        <div className="px-2 pb-2">
          <Failure error={start.error} />
        </div>
      )}
      {chosen && (
        <div className="px-2 pb-2">
          <Notice>
            <span className="flex-1">{text.showingOld}</span>
            <Button onClick={() => setChosen(undefined)}>{text.showLatest}</Button>
          </Notice>
        </div>
      )}
      {isLarge && wanted ? (
        <LoadOutput run={wanted} onAsk={() => setAsked(wanted.id)} />
      ) : (
        view && (
          <>
            <Output key={view.run} view={view} label={`${text.output}: ${title}`} />
            <Input view={view} />
          </>
        )
      )}
    </CardFrame>
  );
}

/** What is said of a card beside its title. */
function Mark({ children }: { children: ReactNode }) {
  return (
    <span className="max-w-40 shrink truncate rounded-full border border-line px-2 text-xs text-muted max-sm:hidden">
      {children}
    </span>
  );
}

/** Whether the card may call the axon beside the server. Where there is none, it can only be turned off: such a card is not run. */
function AxonSwitch({ checked, onChange }: { checked: boolean; onChange: (checked: boolean) => void }) {
  const text = useText();
  const { data: here } = useQuery({ queryKey: ["site"], queryFn: site.get, staleTime: 60_000 });
  if (!here?.axon && !checked) return null;
  return (
    <MenuSwitch checked={checked} onChange={onChange}>
      {text.mayCallAxon}
    </MenuSwitch>
  );
}

function size(run: Run): number {
  return (run.stdout_bytes ?? 0) + (run.stderr_bytes ?? 0);
}

/** Waits for a run's end; true if it was a good one. */
function ended(run: string, events: ReturnType<typeof useEvents>["events"]): Promise<boolean> {
  return new Promise((resolve) => {
    const unfollow = events.follow(run, {
      onEvent: (event) => {
        if (event.type !== "exit") return;
        resolve(event.reason === "exit" && event.code === 0);
        queueMicrotask(() => unfollow());
      },
      onReset: () => {},
      onGone: () => resolve(false),
    });
  });
}

/** Reads the end of a run whose row says that it has ended, if nothing else brings it. */
function useCatchingUp(
  view: RunView | undefined,
  row: Run | undefined,
  events: ReturnType<typeof useEvents>["events"],
): void {
  const last = row?.status === "finished" && row.id === view?.run ? row.last_seq : undefined;
  useEffect(() => {
    if (!view || last === undefined) return undefined;
    const check = () => {
      const { status } = view.snapshot();
      if (status === "queued" || status === "running") events.catchUp(view.run, last);
    };
    const timer = setTimeout(check, CATCH_UP_MS);
    return () => clearTimeout(timer);
  }, [view, last, events]);
}

/** True once the element was near the part of the page that is seen. */
function useSeen(box: { current: HTMLElement | null }): boolean {
  const [seen, setSeen] = useState(false);
  useEffect(() => {
    if (!box.current) return undefined;
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        setSeen(true);
        observer.disconnect();
      },
      { rootMargin: "400px" },
    );
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [box]);
  return seen;
}

function RunButton({
  view,
  isStarting,
  isStopping,
  onRun,
  onStop,
}: {
  view: RunView;
  isStarting: boolean;
  isStopping: boolean;
  onRun: () => void;
  onStop: () => void;
}) {
  const text = useText();
  const { status } = useSyncExternalStore(view.subscribe, view.snapshot);
  if (status === "queued" || status === "running") {
    return (
      <Button look="danger" icon="stop" aria-disabled={isStopping} onClick={onStop}>
        {isStopping ? text.stopping : text.stop}
      </Button>
    );
  }
  return (
    <Button look="primary" icon="play" disabled={isStarting} onClick={onRun}>
      {text.run}
    </Button>
  );
}

function ViewStatus({ view, row }: { view: RunView; row: Run | undefined }) {
  const text = useText();
  const state = useSyncExternalStore(view.subscribe, view.snapshot);
  return (
    <>
      <Status state={state} row={row} />
      {state.sandbox === "none" && <span className="text-xs text-danger">{text.noSandbox}</span>}
    </>
  );
}

function LanguageChoice({
  value,
  disabled,
  onChoose,
}: {
  value: string;
  disabled: boolean;
  onChoose: (id: string) => void;
}) {
  const text = useText();
  const { data } = useQuery({ queryKey: ["languages"], queryFn: languages.list, staleTime: 600_000 });
  const known = data?.data ?? [];
  return (
    <select
      className="h-8 max-w-36 rounded border border-transparent bg-raised px-1 text-sm text-muted hover:border-line"
      aria-label={text.cardLanguage}
      value={value}
      disabled={disabled}
      onChange={(event) => onChoose(event.target.value)}
    >
      {!known.some((one) => one.id === value) && <option value={value}>{value}</option>}
      {known.map((one) => (
        <option key={one.id} value={one.id} disabled={!one.available}>
          {one.name}
        </option>
      ))}
    </select>
  );
}

function History({ all, onChoose }: { all: readonly Run[]; onChoose: (id: string) => void }) {
  const text = useText();
  const format = useFormat();
  return (
    <Menu label={text.history} icon="clock" shown={<span className="max-sm:sr-only">{text.history}</span>}>
      {all.length === 0 && <MenuText>{text.noHistory}</MenuText>}
      {all.map((run) => (
        <MenuItem key={run.id} onSelect={() => onChoose(run.id)}>
          <span className="flex-1">
            {format.date(run.queued_at)}
            {run.face && (
              <span className="block max-w-60 truncate text-xs text-muted">
                {text.calledAs(text.faces[run.face], run.caller ?? "")}
              </span>
            )}
          </span>
          <span className="text-xs text-muted">{summary(run, text, format)}</span>
        </MenuItem>
      ))}
    </Menu>
  );
}

function LoadOutput({ run, onAsk }: { run: Run; onAsk: () => void }) {
  const text = useText();
  const format = useFormat();
  return (
    <div className="border-t border-line p-2">
      <Button onClick={onAsk}>{text.loadOutput(format.size(size(run)))}</Button>
    </div>
  );
}

/** A line for a program that reads. */
function Input({ view }: { view: RunView }) {
  const text = useText();
  const { status } = useSyncExternalStore(view.subscribe, view.snapshot);
  const [line, setLine] = useState("");
  const send = useMutation({
    mutationFn: async ({ data, eof }: { data: string; eof: boolean }) => {
      try {
        await runs.input(view.run, data, eof);
      } catch (error) {
        // A program that has ended meanwhile wants no input; that is no failure.
        if (!(error instanceof ApiError) || error.status !== 409) throw error;
      }
    },
  });
  if (status !== "running") return null;
  const submit = (event: FormEvent) => {
    event.preventDefault();
    send.mutate({ data: `${line}\n`, eof: false });
    setLine("");
  };
  return (
    <form onSubmit={submit} className="flex flex-wrap gap-2 border-t border-line p-2">
      <input
        className={`${inputClass} h-8 min-w-40 flex-1 font-mono`}
        aria-label={text.input}
        placeholder={text.inputHelp}
        autoComplete="off"
        autoCapitalize="off"
        spellCheck={false}
        value={line}
        onChange={(event) => setLine(event.target.value)}
      />
      <Button type="submit">{text.send}</Button>
      <Button look="quiet" onClick={() => send.mutate({ data: "", eof: true })}>
        {text.endInput}
      </Button>
      <Failure error={send.error} />
    </form>
  );
}
