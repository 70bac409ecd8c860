//! `config show`.

use toml::{Spanned, Value};

use super::{
    Config, Origin,
    keys::{EXAMPLES, SECRET, get},
};
use crate::problem::{Problem, print, print_line};

impl Config {
    /// `config show`: every setting, its value and where it comes from.
    pub(crate) fn show(&self, json: bool) -> Result<(), Problem> {
        if json {
            let mut all = serde_json::Map::new();
            for (key, _) in EXAMPLES {
                let value = serde_json::to_value(self.shown(key)).map_err(Problem::failed)?;
                let origin = self.origin(key).to_string();
                all.insert((*key).to_owned(), serde_json::json!({"value": value, "from": origin}));
            }
            let routes: Vec<_> = self.settings.synapse.iter().map(Spanned::get_ref).collect();
            let shown = serde_json::json!({
                "file": self.file,
                "settings": all,
                "synapse": routes,
            });
            return print_line(shown);
        }
        let mut out = String::new();
        if let Some(file) = &self.file {
            out.push_str(&format!("# file: {}\n", file.display()));
        }
        let mut section = "";
        for (key, _) in EXAMPLES {
            let (here, leaf) = key.rsplit_once('.').unwrap_or(("", key));
            if here != section {
                out.push_str(&format!("\n[{here}]\n"));
                section = here;
            }
            let line = match self.shown(key) {
                Some(value) => format!("{leaf} = {value}"),
                None => format!("# {leaf} is not set"),
            };
            match self.origin(key) {
                Origin::Default => out.push_str(&format!("{line}\n")),
                origin => out.push_str(&format!("{line:<40} # {origin}\n")),
            }
        }
        for (name, language) in &self.settings.cards.languages {
            let language = toml::to_string(language).map_err(Problem::failed)?;
            out.push_str(&format!("\n[cards.languages.{name}]\n{language}"));
        }
        for route in &self.settings.synapse {
            let route = toml::to_string(route.get_ref()).map_err(Problem::failed)?;
            out.push_str(&format!("\n[[synapse]]\n{route}"));
        }
        print(out)
    }

    fn shown(&self, key: &str) -> Option<Value> {
        let value = get(&self.merged, key)?;
        let dev = value.as_str().is_some_and(|uri| uri.starts_with("//"));
        if SECRET.contains(&key) && !dev {
            return Some(Value::from("(not shown)"));
        }
        Some(value.clone())
    }

    fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}
