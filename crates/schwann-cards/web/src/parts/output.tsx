import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { type Run, runs } from "../api/client";
import type { RunState, RunView } from "../runs/run_view";
import type { Text } from "../text/en";
import { useFormat, useText } from "../text/text";
import { Button, buttonClass, IconButton } from "./button";
import { copyText } from "./clipboard";
import { Icon } from "./icons";

type Format = ReturnType<typeof useFormat>;

/** How a run is, as the list of runs says it. */
export function summary(run: Run, text: Text, format: Format): string {
  if (run.status === "queued") return text.queued;
  if (run.status === "running") return text.running;
  const parts: string[] = [];
  if (run.exit_code !== null && run.exit_code !== undefined) parts.push(text.exitCode(run.exit_code));
  else if (run.reason) parts.push(text.reasons[run.reason] ?? run.reason);
  if (run.elapsed_ms !== null && run.elapsed_ms !== undefined) parts.push(format.duration(run.elapsed_ms));
  return parts.join(", ");
}

/** In words: how a run is, or how it ended. */
export function statusText(
  { status, exit }: RunState,
  row: Run | undefined,
  text: Text,
  format: Format,
): string {
  if (status === "gone") {
    return row?.status === "finished" ? `${summary(row, text, format)}. ${text.outputGone}` : text.outputGone;
  }
  if (status === "queued") return row?.queue_position ? text.queuedBehind(row.queue_position) : text.queued;
  if (status === "running" || !exit) return text.running;
  const parts: string[] = [];
  if (exit.reason !== "exit" && exit.reason !== "signal")
    parts.push(text.reasons[exit.reason] ?? exit.reason);
  else parts.push(text.finished);
  if (exit.code !== null) parts.push(text.exitCode(exit.code));
  if (exit.signal !== null) parts.push(text.bySignal(exit.signal));
  parts.push(format.duration(exit.elapsed_ms));
  return parts.join(", ");
}

/** The line that says how a run is. It is read out when it changes, unlike output. */
export function Status({ state, row }: { state: RunState; row: Run | undefined }) {
  const text = useText();
  const format = useFormat();
  const isGood = state.exit?.reason === "exit" && state.exit.code === 0;
  const color = state.status === "finished" ? (isGood ? "text-good" : "text-danger") : "text-muted";
  const mark = state.status === "finished" ? (isGood ? "✓" : "✗") : state.status === "running" ? "●" : "…";
  return (
    <span className={`flex min-w-0 items-center gap-1.5 text-sm ${color}`}>
      <span aria-hidden="true">{mark}</span>
      <span role="status" className="truncate" data-testid="status">
        {statusText(state, row, text, format)}
      </span>
      {state.status === "running" && state.startedAt !== undefined && <Clock since={state.startedAt} />}
    </span>
  );
}

/** Counts seconds for those who see it; nobody wants them read out. */
function Clock({ since }: { since: number }) {
  const format = useFormat();
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  const seconds = Math.max(0, Math.floor((now - since) / 1000));
  return <span aria-hidden="true">{format.number(seconds)} s</span>;
}

export function Output({ view, label }: { view: RunView; label: string }) {
  const text = useText();
  const format = useFormat();
  const state = useSyncExternalStore(view.subscribe, view.snapshot);
  const scroller = useRef<HTMLDivElement>(null);
  const element = useRef<HTMLDivElement>(null);
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!scroller.current || !element.current) return undefined;
    return view.attach(element.current, scroller.current, text.stderr);
  }, [view, text.stderr]);
  const copy = async () => {
    await copyText(view.text());
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  const isSilent = !state.hasOutput && state.status === "finished";
  return (
    <div className="grid border-t border-line">
      {state.dropped > 0 && (
        <p className="border-b border-line px-3 py-1 text-xs text-muted">
          {text.linesDropped(format.number(state.dropped))}
        </p>
      )}
      <div className="relative">
        <div
          ref={scroller}
          tabIndex={0}
          role="log"
          aria-live="off"
          aria-label={label}
          className={`output ${state.hasOutput ? "" : "hidden"}`}
        >
          <div ref={element} className="py-2" data-testid="output" />
        </div>
        {isSilent && <p className="px-3 py-2 text-sm text-muted">{text.noOutput}</p>}
        {state.hasOutput && !state.following && (
          <Button icon="down" className="absolute right-5 bottom-2 shadow" onClick={() => view.toEnd()}>
            {text.jumpToEnd}
          </Button>
        )}
      </div>
      {state.truncatedAt !== undefined && (
        <p className="border-t border-line px-3 py-1 text-sm text-danger">
          {text.truncated(format.size(state.truncatedAt))}
        </p>
      )}
      {state.hasOutput && (
        <div className="flex items-center justify-end gap-0.5 border-t border-line px-1.5 py-0.5">
          <span role="status" className="px-1 text-xs text-muted">
            {copied ? text.copied : ""}
          </span>
          <IconButton icon="copy" label={`${text.copy}: ${label}`} onClick={() => void copy()} />
          <a
            className={buttonClass("quiet", true)}
            href={runs.output(view.run)}
            download={`${view.run}.txt`}
            aria-label={`${text.download}: ${label}`}
            title={text.download}
          >
            <Icon name="download" />
          </a>
          <IconButton icon="clear" label={`${text.clear}: ${label}`} onClick={() => view.clear()} />
        </div>
      )}
    </div>
  );
}
