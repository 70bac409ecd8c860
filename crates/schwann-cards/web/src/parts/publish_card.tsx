import { useMutation, useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type Card, type Face, type Follow, publications, site } from "../api/client";
import { useText } from "../text/text";
import { Button } from "./button";
import { CopyButton } from "./copy_button";
import { Panel } from "./dialog";
import { Choice, Field, Lines } from "./field";
import { Failure, Notice } from "./notice";

const FACES: readonly Face[] = ["synapse", "etl"];

/** A name that callers can use, made of a title. */
function nameOf(title: string): string {
  return title
    .replace(/[^A-Za-z0-9]+/g, "_")
    .replace(/^_+|_+$/g, "")
    .slice(0, 64);
}

/** What stands between spaces, commas and ends of lines. */
function words(text: string): string[] {
  return text.split(/[\s,]+/).filter((word) => word !== "");
}

/** The card's program behind another face: as what it is published, and how it is called. */
export function PublishCard({
  card,
  open,
  onClose,
  onChanged,
}: {
  card: Card;
  open: boolean;
  onClose: () => void;
  onChanged: () => Promise<unknown>;
}) {
  const text = useText();
  const { data: here } = useQuery({
    queryKey: ["site"],
    queryFn: site.get,
    staleTime: 60_000,
    enabled: open,
  });
  const now = card.publication ?? undefined;
  const closed = new Map(
    here?.faces.filter((one) => !one.available).map((one) => [one.face, one.reason ?? ""]),
  );
  const [chosen, setFace] = useState<Face>();
  const face = chosen ?? now?.face ?? FACES.find((one) => !closed.has(one)) ?? "synapse";
  const [follow, setFollow] = useState<Follow>(now?.follow ?? "version");
  const publish = useMutation({
    mutationFn: (form: FormData) => {
      const name = String(form.get("name")).trim();
      const all = { face, name, follow };
      if (face !== "synapse") return publications.publish(card.book_id, card.id, card.version, all);
      const stream = form.get("stream") !== null;
      const allow = words(String(form.get("allow")));
      // What is not asked for here stays as it is.
      const hash = now?.hash ?? [];
      return publications.publish(card.book_id, card.id, card.version, { ...all, stream, allow, hash });
    },
    onSuccess: onChanged,
  });
  const unpublish = useMutation({
    mutationFn: () => publications.remove(card.book_id, card.id),
    onSuccess: onChanged,
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    publish.mutate(new FormData(event.currentTarget));
  };
  const reason = closed.get(face);
  return (
    <Panel open={open} onClose={onClose} title={text.publish}>
      <p className="text-sm text-muted">{text.publishHelp}</p>
      {now && (
        <section
          aria-label={text.published}
          className="grid grid-cols-[minmax(0,1fr)] gap-2 rounded-md bg-raised p-3 text-sm"
        >
          <p className="font-semibold">
            {text.faces[now.face]}: {now.name}
          </p>
          <p className="text-muted">
            {now.version === null || now.version === undefined
              ? text.followsLatest
              : text.publishedVersion(now.version, card.version)}
          </p>
          {now.unavailable && <Notice>{now.unavailable}</Notice>}
          {now.command && (
            <>
              <pre className="overflow-x-auto rounded border border-line bg-surface p-2 font-mono text-xs whitespace-pre-wrap [overflow-wrap:anywhere]">
                {now.command}
              </pre>
              <div>
                <CopyButton text={now.command} label={text.copyCommand} />
              </div>
            </>
          )}
        </section>
      )}
      <form key={now?.updated_at} onSubmit={submit} className="grid grid-cols-[minmax(0,1fr)] gap-3">
        <Choice<Face>
          label={text.publishAs}
          value={face}
          onChoose={setFace}
          options={FACES.map((one) => [one, text.faces[one]])}
        />
        {reason !== undefined && <Notice>{reason}</Notice>}
        <Field
          label={text.publishName}
          name="name"
          defaultValue={now?.name ?? nameOf(card.title ?? "")}
          pattern={face === "synapse" ? "[A-Za-z0-9_]{1,64}" : "[A-Za-z0-9_\\-]{1,64}"}
          title={text.publishNameHelp}
          maxLength={64}
          autoComplete="off"
          required
        />
        <Choice<Follow>
          label={text.whatIsCalled}
          value={follow}
          onChoose={setFollow}
          options={[
            ["version", text.followVersion],
            ["latest", text.followLatest],
          ]}
        />
        {face === "synapse" && (
          <>
            <label className="flex items-center gap-2 text-sm">
              <input type="checkbox" name="stream" defaultChecked={now?.stream ?? false} />{" "}
              {text.publishStream}
            </label>
            <Lines
              label={text.publishAllow}
              name="allow"
              rows={2}
              placeholder={text.publishAllowHelp}
              defaultValue={now?.allow.join("\n")}
              spellCheck={false}
              autoComplete="off"
            />
          </>
        )}
        <Failure error={publish.error ?? unpublish.error} />
        <div className="flex flex-wrap justify-end gap-2">
          {now && (
            <Button look="danger" disabled={unpublish.isPending} onClick={() => unpublish.mutate()}>
              {text.unpublish}
            </Button>
          )}
          <Button type="submit" look="primary" disabled={publish.isPending || reason !== undefined}>
            {now ? text.publishAgain : text.publish}
          </Button>
        </div>
      </form>
    </Panel>
  );
}
