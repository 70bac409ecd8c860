import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Navigate, useNavigate, useSearch } from "@tanstack/react-router";
import type { FormEvent } from "react";
import { site, users } from "../api/client";
import { useMe } from "../api/session";
import { Button } from "../parts/button";
import { Field } from "../parts/field";
import { Failure } from "../parts/notice";
import { usePageTitle } from "../parts/page_title";
import { useText } from "../text/text";

export default function LogIn() {
  const text = useText();
  usePageTitle(text.logIn);
  const { to } = useSearch({ from: "/login" });
  const { data: me } = useMe();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const { data: open } = useQuery({
    queryKey: ["site"],
    queryFn: site.get,
    staleTime: Number.POSITIVE_INFINITY,
  });
  const logIn = useMutation({
    mutationFn: async (form: FormData) => {
      await users.logIn(String(form.get("email")), String(form.get("password")));
      return users.me();
    },
    onSuccess: async (user) => {
      queries.setQueryData(["me"], user);
      await navigate({ href: to ?? "/" });
    },
  });
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    logIn.mutate(new FormData(event.currentTarget));
  };
  if (me && !logIn.isPending) return <Navigate to="/" />;
  return (
    <form
      onSubmit={submit}
      className="mx-auto mt-8 grid max-w-sm gap-4 rounded-lg border border-line bg-surface p-6"
    >
      <h1 className="text-xl font-semibold">{text.logIn}</h1>
      <Field label={text.email} name="email" type="email" autoComplete="username" required />
      <Field label={text.password} name="password" type="password" autoComplete="current-password" required />
      <Failure error={logIn.error} />
      <Button type="submit" look="primary" className="h-9 justify-center" disabled={logIn.isPending}>
        {text.logIn}
      </Button>
      {open?.signup && (
        <p className="text-sm text-muted">
          {text.noAccount}{" "}
          <Link to="/signup" className="text-accent underline">
            {text.signUp}
          </Link>
        </p>
      )}
    </form>
  );
}
