import { useEffect } from "react";
import { useText } from "../text/text";

/** What the browser's tab, its history and a screen reader call this page. */
export function usePageTitle(title: string | undefined): void {
  const { appName } = useText();
  useEffect(() => {
    document.title = title ? `${title} · ${appName}` : appName;
  }, [title, appName]);
}
