import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from "react";
import { en, type Text } from "./en";

export type Language = "en" | "zh";
/** Each in its own words. */
export const LANGUAGES: readonly (readonly [Language, string])[] = [
  ["en", "English"],
  ["zh", "中文"],
];
export type Theme = "system" | "light" | "dark";

interface Preferences {
  readonly text: Text;
  readonly language: Language;
  readonly setLanguage: (language: Language) => void;
  readonly theme: Theme;
  readonly setTheme: (theme: Theme) => void;
}

const Context = createContext<Preferences | undefined>(undefined);

function stored(name: string): string | null {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // Some browsers forbid it; then a choice lasts until the page is closed.
  }
}

function store(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // As above.
  }
}

function firstLanguage(): Language {
  const kept = stored("language");
  if (kept === "en" || kept === "zh") return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

function firstTheme(): Theme {
  const kept = stored("theme");
  return kept === "light" || kept === "dark" ? kept : "system";
}

/** What the page says in a language, fetched if it is not the one that is always here. */
async function load(language: Language): Promise<Spoken> {
  return { language, text: language === "zh" ? (await import("./zh")).zh : en };
}

interface Spoken {
  readonly language: Language;
  readonly text: Text;
}

/** What the page says at first. */
export const firstSpoken = (): Promise<Spoken> => load(firstLanguage()).catch(() => load("en"));

export function PreferencesProvider({ first, children }: { first: Spoken; children: ReactNode }) {
  const [{ language, text }, setSpoken] = useState(first);
  const [theme, setTheme] = useState(firstTheme);
  useEffect(() => {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    store("language", language);
  }, [language]);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    store("theme", theme);
  }, [theme]);
  const value = useMemo(
    () => ({
      text,
      language,
      // Without a server the page goes on in the language that it has.
      setLanguage: (next: Language) => void load(next).then(setSpoken, () => {}),
      theme,
      setTheme,
    }),
    [text, language, theme],
  );
  return <Context value={value}>{children}</Context>;
}

export function usePreferences(): Preferences {
  const value = useContext(Context);
  if (!value) throw new Error("within PreferencesProvider");
  return value;
}

/** What the page says, in the chosen language. */
export function useText(): Text {
  return usePreferences().text;
}

/** Sizes and times as people of the chosen language write them. */
export function useFormat() {
  const { language } = usePreferences();
  return useMemo(() => {
    const locale = language === "zh" ? "zh-CN" : "en";
    const number = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
    const date = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
    const units = ["B", "KiB", "MiB", "GiB"];
    return {
      number: (value: number) => number.format(value),
      date: (value: string) => date.format(new Date(value)),
      size: (bytes: number) => {
        let value = bytes;
        let unit = 0;
        while (value >= 1024 && unit < units.length - 1) {
          value /= 1024;
          unit += 1;
        }
        return `${number.format(value)} ${units[unit]}`;
      },
      duration: (ms: number) => (ms < 1000 ? `${Math.round(ms)} ms` : `${number.format(ms / 1000)} s`),
    };
  }, [language]);
}
