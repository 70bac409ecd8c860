import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type User, users } from "../api/client";
import { useMe } from "../api/session";
import { Button } from "../parts/button";
import { Panel, Sure } from "../parts/dialog";
import { Field } from "../parts/field";
import { Menu, MenuItem, MenuLine } from "../parts/menu";
import { Failure } from "../parts/notice";
import { usePageTitle } from "../parts/page_title";
import { useText } from "../text/text";

const PAGE = 100;

/** For superusers: who has an account. */
export default function Users() {
  const text = useText();
  usePageTitle(text.users);
  const queries = useQueryClient();
  const { data: me } = useMe();
  const [skip, setSkip] = useState(0);
  const [adding, setAdding] = useState(false);
  const [password, setPassword] = useState<User>();
  const [deleting, setDeleting] = useState<User>();
  const { data, error } = useQuery({
    queryKey: ["users", skip],
    queryFn: () => users.list(skip),
    placeholderData: (before) => before,
  });
  const changed = () => queries.invalidateQueries({ queryKey: ["users"] });
  const update = useMutation({
    mutationFn: ({ user, change }: { user: User; change: Parameters<typeof users.update>[1] }) =>
      users.update(user.id, change),
    onSuccess: changed,
  });
  return (
    <div className="grid gap-4">
      <div className="flex items-center gap-2">
        <h1 className="mr-auto text-2xl font-semibold">{text.users}</h1>
        <Button look="primary" icon="plus" onClick={() => setAdding(true)}>
          {text.newUser}
        </Button>
      </div>
      <Failure error={error ?? update.error} />
      {!data && !error && <p className="text-muted">{text.loading}</p>}
      <ul className="divide-y divide-line rounded-lg border border-line bg-surface empty:hidden">
        {data?.data.map((user) => (
          <li key={user.id} className="flex items-center gap-3 px-3 py-2 text-sm">
            <div className="min-w-0 flex-1">
              <p className="truncate font-medium">
                {user.email}{" "}
                {user.id === me?.id && <span className="font-normal text-muted">({text.you})</span>}
              </p>
              {user.full_name && <p className="truncate text-muted">{user.full_name}</p>}
            </div>
            <span className="text-xs text-muted">
              {user.is_superuser ? text.superuser : text.member} ·{" "}
              {user.is_active ? text.active : text.inactive}
            </span>
            <Menu label={`${text.more}: ${user.email}`}>
              <MenuItem onSelect={() => setPassword(user)}>{text.newPassword}</MenuItem>
              <MenuItem
                disabled={user.id === me?.id}
                onSelect={() => update.mutate({ user, change: { is_superuser: !user.is_superuser } })}
              >
                {user.is_superuser ? text.makeMember : text.makeSuperuser}
              </MenuItem>
              <MenuItem
                disabled={user.id === me?.id}
                onSelect={() => update.mutate({ user, change: { is_active: !user.is_active } })}
              >
                {user.is_active ? text.deactivate : text.activate}
              </MenuItem>
              <MenuLine />
              <MenuItem danger disabled={user.id === me?.id} onSelect={() => setDeleting(user)}>
                {text.delete}
              </MenuItem>
            </Menu>
          </li>
        ))}
      </ul>
      {data && data.count > PAGE && (
        <div className="flex gap-2">
          <Button disabled={skip === 0} onClick={() => setSkip(skip - PAGE)}>
            ← {text.previous}
          </Button>
          <Button disabled={skip + PAGE >= data.count} onClick={() => setSkip(skip + PAGE)}>
            {text.next} →
          </Button>
        </div>
      )}
      <NewUser open={adding} onClose={() => setAdding(false)} />
      <NewPassword key={password?.id} user={password} onClose={() => setPassword(undefined)} />
      <Sure
        open={deleting !== undefined}
        onClose={() => setDeleting(undefined)}
        title={text.delete}
        question={text.deleteUserSure(deleting?.email ?? "")}
        onSure={async () => {
          if (deleting) await users.remove(deleting.id);
          await changed();
        }}
      />
    </div>
  );
}

function NewUser({ open, onClose }: { open: boolean; onClose: () => void }) {
  const text = useText();
  const queries = useQueryClient();
  const create = useMutation({
    mutationFn: (form: FormData) =>
      users.create({
        email: String(form.get("email")),
        password: String(form.get("password")),
        full_name: String(form.get("full_name")).trim() || null,
        is_superuser: form.get("superuser") !== null,
        is_active: true,
      }),
    onSuccess: async () => {
      await queries.invalidateQueries({ queryKey: ["users"] });
      onClose();
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    create.mutate(new FormData(event.currentTarget));
  };
  return (
    <Panel open={open} onClose={onClose} title={text.newUser}>
      <form onSubmit={submit} className="grid gap-4">
        <Field label={text.email} name="email" type="email" autoComplete="off" required />
        <Field label={text.fullName} name="full_name" autoComplete="off" maxLength={255} />
        <Field
          label={text.password}
          name="password"
          type="password"
          autoComplete="new-password"
          minLength={8}
          maxLength={128}
          required
        />
        <label className="flex items-center gap-2 text-sm">
          <input type="checkbox" name="superuser" /> {text.superuser}
        </label>
        <Failure error={create.error} />
        <Button type="submit" look="primary" className="justify-self-end" disabled={create.isPending}>
          {text.save}
        </Button>
      </form>
    </Panel>
  );
}

function NewPassword({ user, onClose }: { user: User | undefined; onClose: () => void }) {
  const text = useText();
  const save = useMutation({
    mutationFn: (password: string) => users.update(user?.id ?? "", { password }),
    onSuccess: onClose,
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    save.mutate(String(new FormData(event.currentTarget).get("password")));
  };
  return (
    <Panel open={user !== undefined} onClose={onClose} title={`${text.newPassword}: ${user?.email ?? ""}`}>
      <form onSubmit={submit} className="grid gap-4">
        <Field
          label={text.newPassword}
          name="password"
          type="password"
          autoComplete="new-password"
          minLength={8}
          maxLength={128}
          required
        />
        <Failure error={save.error} />
        <Button type="submit" look="primary" className="justify-self-end" disabled={save.isPending}>
          {text.save}
        </Button>
      </form>
    </Panel>
  );
}
