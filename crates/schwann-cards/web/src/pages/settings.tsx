import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
import { tokens, users } from "../api/client";
import { useMe } from "../api/session";
import { Button, IconButton } from "../parts/button";
import { CopyButton } from "../parts/copy_button";
import { Choice, Field } from "../parts/field";
import { Failure } from "../parts/notice";
import { usePageTitle } from "../parts/page_title";
import { LANGUAGES, type Language, type Theme, useFormat, usePreferences, useText } from "../text/text";

export default function Settings() {
  const text = useText();
  usePageTitle(text.settings);
  return (
    <div className="grid gap-5">
      <h1 className="text-2xl font-semibold">{text.settings}</h1>
      <Appearance />
      <Profile />
      <Password />
      <Tokens />
    </div>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section aria-label={title} className="grid max-w-xl gap-3 rounded-lg border border-line bg-surface p-5">
      <h2 className="font-semibold">{title}</h2>
      {children}
    </section>
  );
}

function Saved({ when }: { when: boolean }) {
  const text = useText();
  return (
    <span role="status" className="text-sm text-good">
      {when ? text.saved : ""}
    </span>
  );
}

function Appearance() {
  const { text, language, setLanguage, theme, setTheme } = usePreferences();
  return (
    <Section title={text.appearance}>
      <Choice<Theme>
        label={text.theme}
        value={theme}
        onChoose={setTheme}
        options={[
          ["system", text.themeSystem],
          ["light", text.themeLight],
          ["dark", text.themeDark],
        ]}
      />
      <Choice<Language> label={text.language} value={language} onChoose={setLanguage} options={LANGUAGES} />
    </Section>
  );
}

function Profile() {
  const text = useText();
  const { data: me } = useMe();
  const queries = useQueryClient();
  const save = useMutation({
    mutationFn: (form: FormData) =>
      users.updateMe({
        email: String(form.get("email")),
        full_name: String(form.get("full_name")).trim() || null,
      }),
    onSuccess: (saved) => queries.setQueryData(["me"], saved),
  });
  if (!me) return null;
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    save.mutate(new FormData(event.currentTarget));
  };
  return (
    <Section title={text.profile}>
      <form onSubmit={submit} className="grid gap-3">
        <Field
          label={text.fullName}
          name="full_name"
          defaultValue={me.full_name ?? ""}
          autoComplete="name"
          maxLength={255}
        />
        <Field
          label={text.email}
          name="email"
          type="email"
          defaultValue={me.email}
          autoComplete="email"
          required
        />
        <Failure error={save.error} />
        <div className="flex items-center gap-3">
          <Button type="submit" disabled={save.isPending}>
            {text.save}
          </Button>
          <Saved when={save.isSuccess} />
        </div>
      </form>
    </Section>
  );
}

function Password() {
  const text = useText();
  const { data: me } = useMe();
  const change = useMutation({
    mutationFn: (form: FormData) =>
      users.changePassword({
        current_password: String(form.get("current")),
        new_password: String(form.get("new")),
      }),
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    change.mutate(new FormData(form), { onSuccess: () => form.reset() });
  };
  return (
    <Section title={text.changePassword}>
      <form onSubmit={submit} className="grid gap-3">
        <input type="text" name="username" autoComplete="username" value={me?.email ?? ""} readOnly hidden />
        <Field
          label={text.currentPassword}
          name="current"
          type="password"
          autoComplete="current-password"
          required
        />
        <Field
          label={text.newPassword}
          name="new"
          type="password"
          autoComplete="new-password"
          minLength={8}
          maxLength={128}
          required
        />
        <Failure error={change.error} />
        <div className="flex items-center gap-3">
          <Button type="submit" disabled={change.isPending}>
            {text.changePassword}
          </Button>
          <Saved when={change.isSuccess} />
        </div>
      </form>
    </Section>
  );
}

const SCOPES = ["read", "run", "write"] as const;

function Tokens() {
  const text = useText();
  const format = useFormat();
  const queries = useQueryClient();
  const [secret, setSecret] = useState("");
  const { data, error } = useQuery({ queryKey: ["tokens"], queryFn: tokens.list });
  const changed = () => queries.invalidateQueries({ queryKey: ["tokens"] });
  const create = useMutation({
    mutationFn: tokens.create,
    onSuccess: (made) => {
      setSecret(made.token);
      return changed();
    },
  });
  const remove = useMutation({
    mutationFn: tokens.remove,
    onSuccess: () => {
      setSecret("");
      return changed();
    },
  });
  const names = { read: text.scopeRead, run: text.scopeRun, write: text.scopeWrite };
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const scopes = SCOPES.filter((scope) => form.get(scope));
    const written = event.currentTarget;
    create.mutate({ name: String(form.get("name")).trim(), scopes }, { onSuccess: () => written.reset() });
  };
  return (
    <Section title={text.apiTokens}>
      <p className="text-sm text-muted">{text.apiTokensHelp}</p>
      <Failure error={error ?? create.error ?? remove.error} />
      {data?.data.length === 0 && <p className="text-sm text-muted">{text.noTokens}</p>}
      <ul className="grid gap-1">
        {data?.data.map((token) => (
          <li key={token.id} className="flex items-center gap-2 text-sm">
            <span className="min-w-0 flex-1 truncate">{token.name}</span>
            <span className="text-xs text-muted">
              {token.scopes.map((scope) => names[scope]).join(", ")} ·{" "}
              {text.created(format.date(token.created_at))}
            </span>
            <IconButton
              icon="close"
              label={`${text.remove}: ${token.name}`}
              onClick={() => remove.mutate(token.id)}
            />
          </li>
        ))}
      </ul>
      {secret && (
        <div role="status" className="grid gap-2 rounded-md bg-notice p-3 text-sm text-notice-ink">
          {text.tokenOnce}
          <div className="flex items-center gap-2">
            <code className="min-w-0 flex-1 break-all">{secret}</code>
            <CopyButton text={secret} />
          </div>
        </div>
      )}
      <form onSubmit={submit} className="grid gap-3 border-t border-line pt-3">
        <Field label={text.tokenName} name="name" required maxLength={255} />
        <fieldset className="flex flex-wrap gap-4 text-sm">
          <legend className="mb-1 font-medium">{text.scopes}</legend>
          {SCOPES.map((scope) => (
            <label key={scope} className="flex items-center gap-1.5">
              <input type="checkbox" name={scope} defaultChecked={scope !== "write"} /> {names[scope]}
            </label>
          ))}
        </fieldset>
        <Button type="submit" className="justify-self-start" disabled={create.isPending}>
          {text.newToken}
        </Button>
      </form>
    </Section>
  );
}
