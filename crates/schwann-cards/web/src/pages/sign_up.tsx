import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { FormEvent } from "react";
import { users } from "../api/client";
import { Button } from "../parts/button";
import { Field } from "../parts/field";
import { Failure } from "../parts/notice";
import { usePageTitle } from "../parts/page_title";
import { useText } from "../text/text";

export default function SignUp() {
  const text = useText();
  usePageTitle(text.signUp);
  const queries = useQueryClient();
  const navigate = useNavigate();
  const signUp = useMutation({
    mutationFn: async (form: FormData) => {
      const email = String(form.get("email"));
      const password = String(form.get("password"));
      const full_name = String(form.get("full_name")).trim() || null;
      await users.signUp({ email, password, full_name });
      await users.logIn(email, password);
      return users.me();
    },
    onSuccess: async (user) => {
      queries.setQueryData(["me"], user);
      await navigate({ to: "/" });
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    signUp.mutate(new FormData(event.currentTarget));
  };
  return (
    <form
      onSubmit={submit}
      className="mx-auto mt-8 grid max-w-sm gap-4 rounded-lg border border-line bg-surface p-6"
    >
      <h1 className="text-xl font-semibold">{text.signUp}</h1>
      <Field label={text.fullName} name="full_name" autoComplete="name" maxLength={255} />
      <Field label={text.email} name="email" type="email" autoComplete="username" required />
      <Field
        label={text.password}
        name="password"
        type="password"
        autoComplete="new-password"
        minLength={8}
        maxLength={128}
        required
      />
      <Failure error={signUp.error} />
      <Button type="submit" look="primary" className="h-9 justify-center" disabled={signUp.isPending}>
        {text.signUp}
      </Button>
      <p className="text-sm text-muted">
        {text.haveAccount}{" "}
        <Link to="/login" className="text-accent underline">
          {text.logIn}
        </Link>
      </p>
    </form>
  );
}
