import { useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { lazy, Suspense } from "react";
import { ApiError, shares } from "../api/client";
import { Failure } from "../parts/notice";
import { usePageTitle } from "../parts/page_title";
import { useText } from "../text/text";

const Editor = lazy(() => import("../editor/editor"));
const Markdown = lazy(() => import("../parts/markdown"));

/** A book for whoever has its link. */
export default function SharedPage() {
  const text = useText();
  const { slug } = useParams({ from: "/shared/$slug" });
  const { data, error } = useQuery({ queryKey: ["shared", slug], queryFn: () => shares.read(slug) });
  usePageTitle(data?.book.title);
  if (error instanceof ApiError && error.status === 404) {
    return (
      <div className="grid gap-2">
        <h1 className="text-xl font-semibold">{text.notFound}</h1>
        <p className="text-muted">{text.linkGone}</p>
      </div>
    );
  }
  if (error) return <Failure error={error} />;
  if (!data) return <p className="text-muted">{text.loading}</p>;
  return (
    <div className="grid grid-cols-[minmax(0,1fr)] gap-4">
      <div>
        <h1 className="text-2xl font-semibold break-words">{data.book.title}</h1>
        {data.book.description && <p className="text-sm break-words text-muted">{data.book.description}</p>}
        <p className="mt-1 text-sm text-muted">{text.sharedBook}</p>
      </div>
      <Suspense fallback={<p className="text-muted">{text.loading}</p>}>
        {data.cards.length === 0 && <p className="text-muted">{text.emptyBook}</p>}
        {data.cards.map((card) => {
          const title = card.title || text.untitled;
          const isCode = card.kind === "code";
          return (
            <section
              key={card.id}
              aria-label={isCode ? text.codeCard(title) : text.textCard(title)}
              className="overflow-clip rounded-lg border border-line bg-surface"
            >
              {isCode ? (
                <>
                  <div className="flex gap-2 border-b border-line bg-raised px-3 py-1.5 text-sm">
                    <span className="min-w-0 truncate font-medium">{title}</span>
                    <span className="shrink-0 text-muted">{card.language}</span>
                  </div>
                  <Editor
                    label={`${text.code}: ${title}`}
                    initial={card.code}
                    language={card.language ?? ""}
                    readOnly
                  />
                </>
              ) : (
                <div className="px-4 py-3">
                  <Markdown source={card.code} />
                </div>
              )}
            </section>
          );
        })}
      </Suspense>
    </div>
  );
}
