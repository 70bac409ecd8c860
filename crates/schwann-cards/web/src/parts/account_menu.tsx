import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { users } from "../api/client";
import { useMe } from "../api/session";
import { LANGUAGES, type Language, type Theme, usePreferences } from "../text/text";
import { Menu, MenuChoice, MenuItem, MenuLine, MenuText } from "./menu";

/** What belongs to whoever sits here. It is fetched when it is first asked for, and opens then. */
export default function AccountMenu() {
  const { text, language, setLanguage, theme, setTheme } = usePreferences();
  const { data: me } = useMe();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const logOut = async () => {
    await users.logOut().catch(() => {}); // Without a server the page forgets it all the same.
    queries.clear();
    queries.setQueryData(["me"], null);
    await navigate({ to: "/login" });
  };
  return (
    <Menu label={text.account} icon="person" defaultOpen>
      {me && (
        <>
          <MenuText>{me.email}</MenuText>
          <MenuItem onSelect={() => void navigate({ to: "/settings" })}>{text.settings}</MenuItem>
          <MenuItem onSelect={() => void logOut()}>{text.logOut}</MenuItem>
          <MenuLine />
        </>
      )}
      <MenuChoice<Theme>
        label={text.theme}
        value={theme}
        onChoose={setTheme}
        options={[
          ["system", text.themeSystem],
          ["light", text.themeLight],
          ["dark", text.themeDark],
        ]}
      />
      <MenuChoice<Language>
        label={text.language}
        value={language}
        onChoose={setLanguage}
        options={LANGUAGES}
      />
    </Menu>
  );
}
