import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type ShareRole, shares } from "../api/client";
import { useText } from "../text/text";
import { Button, IconButton } from "./button";
import { CopyButton } from "./copy_button";
import { Panel } from "./dialog";
import { Choice, Field } from "./field";
import { Failure } from "./notice";

/** With whom a book is shared: people with a role, and whoever has a link. */
export function ShareBook({ book, open, onClose }: { book: string; open: boolean; onClose: () => void }) {
  const text = useText();
  const queries = useQueryClient();
  const key = ["shares", book];
  const { data, error } = useQuery({ queryKey: key, queryFn: () => shares.list(book), enabled: open });
  const changed = () => queries.invalidateQueries({ queryKey: key });
  const link = useMutation({ mutationFn: () => shares.create(book, { role: "viewer" }), onSuccess: changed });
  const remove = useMutation({ mutationFn: (id: string) => shares.remove(book, id), onSuccess: changed });
  const [role, setRole] = useState<ShareRole>("viewer");
  const person = useMutation({
    mutationFn: (email: string) => shares.create(book, { role, email }),
    onSuccess: changed,
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    person.mutate(String(new FormData(form).get("email")), { onSuccess: () => form.reset() });
  };
  const links = data?.data.filter((share) => share.slug) ?? [];
  const people = data?.data.filter((share) => share.user_id) ?? [];
  return (
    <Panel open={open} onClose={onClose} title={text.share}>
      <Failure error={error ?? remove.error} />
      <section aria-label={text.people} className="grid grid-cols-[minmax(0,1fr)] gap-3">
        <h3 className="text-sm font-semibold">{text.people}</h3>
        <ul className="grid grid-cols-[minmax(0,1fr)] gap-1 empty:hidden">
          {people.map((share) => (
            <li key={share.id} className="flex items-center gap-2 text-sm">
              <span className="min-w-0 flex-1 truncate">{share.email}</span>
              <span className="text-xs text-muted">{text.roles[share.role]}</span>
              <IconButton
                icon="close"
                label={`${text.remove}: ${share.email}`}
                onClick={() => remove.mutate(share.id)}
              />
            </li>
          ))}
        </ul>
        <form onSubmit={submit} className="flex flex-wrap items-end gap-2">
          <div className="min-w-0 flex-1 basis-44">
            <Field label={text.email} name="email" type="email" autoComplete="off" required />
          </div>
          <div className="basis-28">
            <Choice<ShareRole>
              label={text.role}
              value={role}
              onChoose={setRole}
              options={[
                ["viewer", text.roles.viewer],
                ["runner", text.roles.runner],
                ["editor", text.roles.editor],
              ]}
            />
          </div>
          <Button type="submit" className="h-9" disabled={person.isPending}>
            {text.addPerson}
          </Button>
        </form>
        <Failure error={person.error} />
      </section>
      <section
        aria-label={text.links}
        className="grid grid-cols-[minmax(0,1fr)] gap-3 border-t border-line pt-4"
      >
        <h3 className="text-sm font-semibold">{text.links}</h3>
        <p className="text-sm text-muted">{text.shareHelp}</p>
        <Failure error={link.error} />
        <ul className="grid grid-cols-[minmax(0,1fr)] gap-2 empty:hidden">
          {links.map((share) => {
            const address = `${location.origin}/shared/${share.slug}`;
            return (
              <li key={share.id} className="flex items-center gap-2">
                <a href={address} className="min-w-0 flex-1 truncate text-sm text-accent underline">
                  {address}
                </a>
                <CopyButton text={address} label={text.copyLink} />
                <IconButton icon="close" label={text.removeLink} onClick={() => remove.mutate(share.id)} />
              </li>
            );
          })}
        </ul>
        <Button className="justify-self-start" disabled={link.isPending} onClick={() => link.mutate()}>
          {text.makeLink}
        </Button>
      </section>
    </Panel>
  );
}
