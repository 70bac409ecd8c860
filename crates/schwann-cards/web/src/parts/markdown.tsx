import DOMPurify from "dompurify";
import { Marked } from "marked";
import { useMemo } from "react";

const marked = new Marked({ gfm: true, async: false });

const ALLOWED = {
  ALLOWED_TAGS: [
    "a",
    "b",
    "blockquote",
    "br",
    "code",
    "del",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "kbd",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
  ],
  ALLOWED_ATTR: ["href", "title", "alt", "src", "start", "align"],
  ALLOWED_URI_REGEXP: /^(https?:|mailto:|#|data:image\/(png|jpeg|gif|webp);base64,)/i,
  RETURN_DOM_FRAGMENT: true as const,
};

/** Text that people write becomes elements that can do nothing. */
export function sanitised(source: string): DocumentFragment {
  const fragment = DOMPurify.sanitize(marked.parse(source) as string, ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  return fragment;
}

export default function Markdown({ source }: { source: string }) {
  const fragment = useMemo(() => sanitised(source), [source]);
  return <div className="prose" ref={(node) => node?.replaceChildren(fragment.cloneNode(true))} />;
}
