//! Books as files: Jupyter notebooks (nbformat 4), Markdown, and a JSON form of our own.
//!
//! Outputs are neither read nor written: what a card prints belongs to its runs. What a notebook cannot say of a card stands in the
//! cell's metadata under `schwann`, so that a book comes back as it went.

use serde_json::{Map, Value, json};

use crate::store::{Book, Card, CardKind, NewCard};

/// A book that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft {
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) cards: Vec<NewCard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Ipynb,
    Markdown,
    Json,
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotebookError(String);

/// What a book may have at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) cards: usize,
    pub(crate) code_bytes: usize,
}

/// Largest settings of a card, in bytes.
const MAX_SETTINGS: usize = 16 * 1024;

fn wrong<T>(text: impl Into<String>) -> Result<T, NotebookError> {
    Err(NotebookError(text.into()))
}

impl Format {
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Ipynb => "ipynb",
            Self::Markdown => "md",
            Self::Json => "json",
        }
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Ipynb => "application/x-ipynb+json",
            Self::Markdown => "text/markdown; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

/// Reads a book. JSON of either form is told apart by what is in it.
pub(crate) fn read(
    bytes: &[u8],
    is_markdown: bool,
    bounds: Bounds,
) -> Result<Draft, NotebookError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(_) => return wrong("the file is not UTF-8"),
    };
    let draft = if is_markdown {
        read_markdown(text)?
    } else {
        let value = match serde_json::from_str(text) {
            Ok(Value::Object(value)) => value,
            Ok(_) => return wrong("the file is not a JSON object"),
            Err(error) => return wrong(format!("the file is not JSON: {error}")),
        };
        match value.get("nbformat") {
            Some(_) => read_ipynb(&value)?,
            None => read_json(&value)?,
        }
    };
    bounded(draft, bounds)
}

fn bounded(draft: Draft, bounds: Bounds) -> Result<Draft, NotebookError> {
    if draft.cards.len() > bounds.cards {
        return wrong(format!(
            "a book has at most {} cards here, and this one has {}",
            bounds.cards,
            draft.cards.len()
        ));
    }
    for (place, card) in draft.cards.iter().enumerate() {
        if card.code.len() > bounds.code_bytes {
            return wrong(format!("card {} is larger than {} bytes", place + 1, bounds.code_bytes));
        }
        let settings = Value::Object(card.settings.clone()).to_string();
        if settings.len() > MAX_SETTINGS {
            return wrong(format!(
                "card {}: the settings are larger than {MAX_SETTINGS} bytes",
                place + 1
            ));
        }
        let has_nul =
            card.code.contains('\0') || card.title.contains('\0') || settings.contains("\\u0000");
        if has_nul {
            return wrong(format!("card {} has the character NUL in it", place + 1));
        }
    }
    let clean =
        |text: String, max| -> String { text.replace('\0', "").chars().take(max).collect() };
    Ok(Draft {
        title: draft.title.map(|title| clean(title, 255)).filter(|title| !title.trim().is_empty()),
        description: draft.description.map(|text| clean(text, 10_000)),
        cards: draft.cards,
    })
}

/// The title that a file's name gives: its last part, without its ending.
pub(crate) fn title_of(file_name: &str) -> Option<String> {
    let last = file_name.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = last.rsplit_once('.').map_or(last, |(stem, _)| stem);
    let plain: String = stem.chars().filter(|letter| !letter.is_control()).take(255).collect();
    let plain = plain.trim().trim_matches('.').to_owned();
    (!plain.is_empty()).then_some(plain)
}

/// A language as we name it.
fn language_of(word: &str) -> Option<String> {
    let word = word.trim().to_ascii_lowercase();
    let name = match word.as_str() {
        "py" | "python3" | "ipython" | "ipython3" | "python" => "python",
        "js" | "node" | "nodejs" | "javascript" => "javascript",
        "shell" | "sh" => "sh",
        "" => return None,
        other => other,
    };
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_+#.-".contains(&byte);
    (name.len() <= 32 && name.bytes().all(good)).then(|| name.to_owned())
}

fn text_at<'a>(object: &'a Map<String, Value>, path: &[&str]) -> Option<&'a str> {
    let (last, folders) = path.split_last()?;
    let mut object = object;
    for folder in folders {
        object = object.get(*folder)?.as_object()?;
    }
    object.get(*last)?.as_str()
}

fn code_card(language: String, code: String) -> NewCard {
    NewCard {
        kind: CardKind::Code,
        title: String::new(),
        language: Some(language),
        code,
        settings: Map::new(),
    }
}

fn text_card(code: String) -> NewCard {
    NewCard {
        kind: CardKind::Markdown,
        title: String::new(),
        language: None,
        code,
        settings: Map::new(),
    }
}

fn read_ipynb(notebook: &Map<String, Value>) -> Result<Draft, NotebookError> {
    match notebook.get("nbformat").and_then(Value::as_i64) {
        Some(4) => {}
        Some(other) => {
            return wrong(format!(
                "the notebook has nbformat {other}, and only 4 is read; `jupyter nbconvert --to notebook` converts it"
            ));
        }
        None => return wrong("`nbformat` must be a number"),
    }
    let Some(Value::Array(cells)) = notebook.get("cells") else {
        return wrong("`cells` must be a list");
    };
    let empty = Map::new();
    let metadata = notebook.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let language = text_at(metadata, &["language_info", "name"])
        .or_else(|| text_at(metadata, &["kernelspec", "language"]))
        .and_then(language_of)
        .unwrap_or_else(|| "python".to_owned());
    let mut cards = Vec::new();
    for (place, cell) in cells.iter().enumerate() {
        let number = place + 1;
        let Value::Object(cell) = cell else {
            return wrong(format!("cell {number} is not an object"));
        };
        let source = match source(cell.get("source")) {
            Some(source) => source,
            None => {
                return wrong(format!("cell {number}: `source` must be text or a list of texts"));
            }
        };
        let own = cell.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
        let mut card = match cell.get("cell_type").and_then(Value::as_str) {
            Some("code") => {
                let said = text_at(own, &["schwann", "language"])
                    .or_else(|| text_at(own, &["vscode", "languageId"]))
                    .and_then(language_of);
                match (said, magic(&source)) {
                    // The line is there for Jupyter only, or for nobody.
                    (Some(said), Some((named, code))) if said == named && said != language => {
                        code_card(said, code.to_owned())
                    }
                    (None, Some((named, code))) => code_card(named.to_owned(), code.to_owned()),
                    (said, _) => code_card(said.unwrap_or_else(|| language.clone()), source),
                }
            }
            Some("markdown") => text_card(source),
            Some("raw") => {
                let mut card = text_card(source);
                card.settings.insert("raw".to_owned(), json!(true));
                card
            }
            Some(other) => return wrong(format!("cell {number}: `{other}` is not a type of cell")),
            None => return wrong(format!("cell {number}: `cell_type` must be text")),
        };
        if let Some(title) = text_at(own, &["schwann", "title"]) {
            card.title = title.chars().take(255).collect();
        }
        let ours = own.get("schwann").and_then(Value::as_object);
        if let Some(settings) =
            ours.and_then(|ours| ours.get("settings")).and_then(Value::as_object)
        {
            card.settings.extend(settings.clone());
        }
        cards.push(card);
    }
    let title = text_at(metadata, &["title"]).or_else(|| text_at(metadata, &["schwann", "title"]));
    let description = text_at(metadata, &["schwann", "description"]);
    Ok(Draft {
        title: title.map(str::to_owned),
        description: description.map(str::to_owned),
        cards,
    })
}

/// Text, or a list of texts that are put together.
fn source(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Array(lines) => lines.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// The language that a first line such as `%%bash` names, and the rest.
fn magic(source: &str) -> Option<(&'static str, &str)> {
    let (first, rest) = source.split_once('\n').unwrap_or((source, ""));
    let language = match first.trim() {
        "%%bash" => "bash",
        "%%sh" => "sh",
        "%%script node" => "javascript",
        "%%python" | "%%python3" => "python",
        _ => return None,
    };
    Some((language, rest))
}

fn read_json(book: &Map<String, Value>) -> Result<Draft, NotebookError> {
    if book.get("format").and_then(Value::as_str) != Some("schwann-book") {
        return wrong(
            "the file is neither a notebook (`nbformat`) nor a book (`\"format\": \"schwann-book\"`)",
        );
    }
    if book.get("version").and_then(Value::as_i64) != Some(1) {
        return wrong("the book is of a version that is not known here; `version` must be 1");
    }
    let Some(Value::Array(items)) = book.get("cards") else {
        return wrong("`cards` must be a list");
    };
    let mut cards = Vec::new();
    for (place, item) in items.iter().enumerate() {
        let number = place + 1;
        let Value::Object(item) = item else {
            return wrong(format!("card {number} is not an object"));
        };
        let text = |name: &str| match item.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => wrong(format!("card {number}: `{name}` must be text")),
        };
        let code = text("code")?.unwrap_or_default();
        let mut card = match text("kind")?.as_deref() {
            Some("code") => {
                let language = text("language")?.unwrap_or_else(|| "python".to_owned());
                let Some(language) = language_of(&language) else {
                    return wrong(format!("card {number}: `language` is not a name of one"));
                };
                code_card(language, code)
            }
            Some("markdown") => text_card(code),
            _ => return wrong(format!("card {number}: `kind` must be \"code\" or \"markdown\"")),
        };
        card.title = text("title")?.unwrap_or_default().chars().take(255).collect();
        match item.get("settings") {
            None | Some(Value::Null) => {}
            Some(Value::Object(settings)) => card.settings = settings.clone(),
            Some(_) => return wrong(format!("card {number}: `settings` must be an object")),
        }
        cards.push(card);
    }
    let text = |name: &str| book.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Draft { title: text("title"), description: text("description"), cards })
}

/// The line before each card of a Markdown file that we wrote.
const MARK: &str = "<!-- card ";

fn read_markdown(text: &str) -> Result<Draft, NotebookError> {
    let text = text.replace("\r\n", "\n");
    if text.lines().any(|line| line.starts_with(MARK)) {
        read_marked(&text)
    } else {
        Ok(read_plain(&text))
    }
}

/// Markdown with our marks: each card is what stands between two of them.
fn read_marked(text: &str) -> Result<Draft, NotebookError> {
    let (mut head, mut cards) = (String::new(), Vec::<(Map<String, Value>, String)>::new());
    for line in text.split_inclusive('\n') {
        let mark = line.strip_prefix(MARK).and_then(|rest| rest.trim_end().strip_suffix(" -->"));
        if let Some(mark) = mark {
            let Ok(Value::Object(mark)) = serde_json::from_str(mark) else {
                return wrong(format!("the mark of card {} is not JSON", cards.len() + 1));
            };
            cards.push((mark, String::new()));
        } else if let Some((_, body)) = cards.last_mut() {
            body.push_str(line);
        } else {
            head.push_str(line);
        }
    }
    let mut new = Vec::new();
    for (mark, body) in cards {
        let number = new.len() + 1;
        // One empty line at each end belongs to the file and not to the card.
        let body = body.strip_prefix('\n').unwrap_or(&body);
        let body = body.strip_suffix("\n\n").or(body.strip_suffix('\n')).unwrap_or(body);
        let mut card = match text_at(&mark, &["kind"]) {
            Some("code") => {
                let Some((language, code)) = whole_fence(body) else {
                    return wrong(format!(
                        "card {number} is marked as code, and is not one fenced block"
                    ));
                };
                code_card(language_of(language).unwrap_or_else(|| "python".to_owned()), code)
            }
            Some("markdown") => text_card(body.to_owned()),
            _ => return wrong(format!("card {number}: `kind` must be \"code\" or \"markdown\"")),
        };
        card.title = text_at(&mark, &["title"]).unwrap_or_default().chars().take(255).collect();
        if let Some(Value::Object(settings)) = mark.get("settings") {
            card.settings = settings.clone();
        }
        new.push(card);
    }
    let (title, description) = match head.trim().strip_prefix("# ") {
        Some(head) => {
            let (title, rest) = head.split_once('\n').unwrap_or((head, ""));
            (
                Some(title.trim().to_owned()),
                Some(rest.trim().to_owned()).filter(|rest| !rest.is_empty()),
            )
        }
        None => (None, None),
    };
    Ok(Draft { title, description, cards: new })
}

/// The language and the code of text that is one fenced block.
fn whole_fence(text: &str) -> Option<(&str, String)> {
    let (first, rest) = text.split_once('\n')?;
    let (fence, language) = opening(first)?;
    let code = match rest.rsplit_once('\n') {
        Some((code, last)) if last.trim_end() == fence => code.to_owned(),
        None if rest.trim_end() == fence => String::new(),
        _ => return None,
    };
    Some((language, code))
}

/// The fence and the language of a line that opens a block.
fn opening(line: &str) -> Option<(&str, &str)> {
    let count = line.bytes().take_while(|byte| *byte == b'`').count();
    let language = line[count..].trim().trim_matches(['{', '}']);
    (count >= 3 && !language.contains('`')).then(|| (&line[..count], language))
}

/// Markdown of others: blocks fenced with a language are code, and what is between them is text.
fn read_plain(text: &str) -> Draft {
    let mut cards = Vec::new();
    let mut between = String::new();
    let mut lines = text.split_inclusive('\n').peekable();
    let flush = |between: &mut String, cards: &mut Vec<NewCard>| {
        let text = std::mem::take(between);
        if !text.trim().is_empty() {
            cards.push(text_card(text.trim_matches('\n').to_owned()));
        }
    };
    while let Some(line) = lines.next() {
        let found = opening(line.trim_end());
        let Some((fence, language)) = found else {
            between.push_str(line);
            continue;
        };
        let mut code = String::new();
        let mut closed = false;
        for inner in lines.by_ref() {
            if inner.trim_end().starts_with(fence)
                && inner.trim_end().bytes().all(|byte| byte == b'`')
            {
                closed = true;
                break;
            }
            code.push_str(inner);
        }
        let word = language.split([' ', ',']).next().unwrap_or_default();
        match language_of(word).filter(|name| {
            closed && !matches!(name.as_str(), "text" | "txt" | "console" | "output")
        }) {
            Some(language) => {
                flush(&mut between, &mut cards);
                cards.push(code_card(
                    language,
                    code.strip_suffix('\n').map(str::to_owned).unwrap_or(code),
                ));
            }
            None => {
                between.push_str(line);
                between.push_str(&code);
                if closed {
                    between.push_str(fence);
                    between.push('\n');
                }
            }
        }
    }
    flush(&mut between, &mut cards);
    let title = cards.first().filter(|card| card.kind == CardKind::Markdown).and_then(|card| {
        let first = card.code.lines().next()?.strip_prefix("# ")?;
        Some(first.trim().to_owned())
    });
    Draft { title, description: None, cards }
}

/// Writes a book.
pub(crate) fn write(book: &Book, cards: &[Card], format: Format) -> String {
    match format {
        Format::Ipynb => pretty(&ipynb(book, cards)),
        Format::Markdown => markdown(book, cards),
        Format::Json => pretty(&own_json(book, cards)),
    }
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
    text.push('\n');
    text
}

fn own_json(book: &Book, cards: &[Card]) -> Value {
    let cards: Vec<_> = cards
        .iter()
        .map(|card| {
            json!({
                "kind": card.kind,
                "title": card.title,
                "language": card.language,
                "code": card.code,
                "settings": card.settings,
            })
        })
        .collect();
    json!({
        "format": "schwann-book",
        "version": 1,
        "title": book.title,
        "description": book.description,
        "cards": cards,
    })
}

fn ipynb(book: &Book, cards: &[Card]) -> Value {
    // The language of most code cards is the notebook's.
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for language in cards.iter().filter_map(|card| card.language.as_deref()) {
        match counts.iter_mut().find(|(name, _)| *name == language) {
            Some((_, count)) => *count += 1,
            None => counts.push((language, 1)),
        }
    }
    let main = counts.iter().max_by_key(|(_, count)| *count).map_or("python", |(name, _)| name);
    let cells: Vec<_> = cards.iter().map(|card| cell(card, main)).collect();
    let kernel = match main {
        "python" => json!({"display_name": "Python 3", "language": "python", "name": "python3"}),
        "javascript" => {
            json!({"display_name": "JavaScript", "language": "javascript", "name": "javascript"})
        }
        "bash" | "sh" => json!({"display_name": "Bash", "language": "bash", "name": "bash"}),
        other => json!({"display_name": other, "language": other, "name": other}),
    };
    json!({
        "cells": cells,
        "metadata": {
            "kernelspec": kernel,
            "language_info": {"name": main},
            "title": book.title,
            "schwann": {"description": book.description.as_deref().unwrap_or_default()},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    })
}

fn cell(card: &Card, main: &str) -> Value {
    let mut settings = card.settings.clone();
    let is_raw = card.kind == CardKind::Markdown && settings.remove("raw") == Some(json!(true));
    let language = card.language.as_deref();
    let mut source = String::new();
    if let Some(language) = language.filter(|language| *language != main) {
        let magic = match language {
            "bash" => "%%bash\n",
            "sh" => "%%sh\n",
            "javascript" => "%%script node\n",
            _ => "",
        };
        source.push_str(magic);
    }
    source.push_str(&card.code);
    let lines: Vec<_> = source.split_inclusive('\n').collect();
    let mut ours = json!({"title": card.title, "settings": settings});
    if let Some(language) = language {
        ours["language"] = json!(language);
    }
    let mut cell = json!({
        "id": card.id,
        "cell_type": if is_raw { "raw" } else { "markdown" },
        "metadata": {"schwann": ours},
        "source": lines,
    });
    if card.kind == CardKind::Code {
        cell["cell_type"] = json!("code");
        cell["execution_count"] = Value::Null;
        cell["outputs"] = json!([]);
    }
    cell
}

fn markdown(book: &Book, cards: &[Card]) -> String {
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = format!("# {}\n\n", one_line(&book.title));
    if let Some(description) = book.description.as_deref().filter(|text| !text.is_empty()) {
        text.push_str(description);
        text.push_str("\n\n");
    }
    for card in cards {
        let mut mark = json!({"kind": card.kind});
        if !card.title.is_empty() {
            mark["title"] = json!(card.title);
        }
        if !card.settings.is_empty() {
            mark["settings"] = json!(card.settings);
        }
        // `-->` would end the comment.
        text.push_str(&format!("{MARK}{} -->\n\n", mark.to_string().replace('>', "\\u003e")));
        match card.kind {
            CardKind::Markdown => text.push_str(&card.code),
            CardKind::Code => {
                let longest = card
                    .code
                    .lines()
                    .map(|line| line.bytes().take_while(|b| *b == b'`').count())
                    .max();
                let fence = "`".repeat(longest.unwrap_or(0).max(2) + 1);
                let language = card.language.as_deref().unwrap_or("python");
                text.push_str(&format!("{fence}{language}\n{}\n{fence}", card.code));
            }
        }
        text.push_str("\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{api::books::new_book, moment::Moment};

    const BOUNDS: Bounds = Bounds { cards: 100, code_bytes: 10_000 };

    fn placed(cards: Vec<NewCard>) -> Vec<Card> {
        let now = Moment::from_millis(0);
        cards
            .into_iter()
            .zip(0..)
            .map(|(card, place)| card.into_card(Uuid::nil(), place, now))
            .collect()
    }

    #[track_caller]
    fn refused(text: &str, is_markdown: bool, expected: &str) {
        let error = read(text.as_bytes(), is_markdown, BOUNDS).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_real_notebook_is_read_without_its_outputs() {
        let notebook = json!({
            "cells": [
                {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "text"]},
                {"cell_type": "code", "execution_count": 3, "metadata": {"collapsed": true},
                 "outputs": [{"output_type": "stream", "name": "stdout", "text": ["6\n"]}],
                 "source": ["x = 6\n", "print(x)"]},
                {"cell_type": "code", "execution_count": null, "metadata": {}, "outputs": [], "source": "%%bash\nls"},
                {"cell_type": "raw", "metadata": {}, "source": ""},
            ],
            "metadata": {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
                         "language_info": {"name": "python", "version": "3.11.2"}},
            "nbformat": 4, "nbformat_minor": 4,
        });
        let draft = read(notebook.to_string().as_bytes(), false, BOUNDS).unwrap();
        let seen: Vec<_> =
            draft.cards.iter().map(|c| (c.language.as_deref(), c.code.as_str())).collect();
        assert_eq!(
            seen,
            [
                (None, "# Title\ntext"),
                (Some("python"), "x = 6\nprint(x)"),
                (Some("bash"), "ls"),
                (None, "")
            ]
        );
        assert_eq!(draft.cards[3].settings["raw"], true);
    }

    #[test]
    fn markdown_of_others_is_cut_at_its_code() {
        let text = "# Guide\n\nFirst:\n\n```python\nprint(1)\n```\n\nthen\n\n```\nplain\n```\n\n```console\n$ ls\n```\n\n~~~\nx\n~~~\n```js\nlet a = 1;\n";
        let draft = read(text.as_bytes(), true, BOUNDS).unwrap();
        assert_eq!(draft.title.as_deref(), Some("Guide"));
        let kinds: Vec<_> = draft.cards.iter().map(|card| card.language.as_deref()).collect();
        assert_eq!(
            kinds,
            [None, Some("python"), None],
            "a fence that is not closed is text: {draft:?}"
        );
        assert!(draft.cards[2].code.contains("```console\n$ ls\n```"), "{draft:?}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        refused("{", false, "not JSON");
        refused("[]", false, "not a JSON object");
        refused("{}", false, "neither a notebook");
        refused("{\"nbformat\": 3, \"worksheets\": []}", false, "only 4 is read");
        refused("{\"nbformat\": \"4\"}", false, "`nbformat` must be a number");
        refused("{\"nbformat\": 4}", false, "`cells` must be a list");
        refused("{\"nbformat\": 4, \"cells\": [7]}", false, "cell 1 is not an object");
        refused(
            "{\"nbformat\": 4, \"cells\": [{\"cell_type\": \"code\", \"source\": [1]}]}",
            false,
            "cell 1: `source`",
        );
        refused(
            "{\"nbformat\": 4, \"cells\": [{\"cell_type\": \"x\", \"source\": \"\"}]}",
            false,
            "`x` is not a type",
        );
        refused(
            "{\"nbformat\": 4, \"cells\": [{\"cell_type\": \"raw\", \"source\": \"a\\u0000\"}]}",
            false,
            "NUL",
        );
        refused("{\"format\": \"schwann-book\", \"version\": 2, \"cards\": []}", false, "version");
        refused("<!-- card {\"kind\": \"code\"} -->\n\nno fence\n", true, "not one fenced block");
        refused("<!-- card {kind} -->\n", true, "is not JSON");
        assert!(read(b"\xff\xfe", true, BOUNDS).is_err());
        let cells = vec![json!({"cell_type": "raw", "source": ""}); 101];
        refused(&json!({"nbformat": 4, "cells": cells}).to_string(), false, "at most 100 cards");
        let large =
            json!({"nbformat": 4, "cells": [{"cell_type": "raw", "source": "x".repeat(10_001)}]});
        refused(&large.to_string(), false, "card 1 is larger");
    }

    #[test]
    fn a_file_name_gives_only_a_title() {
        for (name, title) in [
            ("../../etc/passwd.ipynb", Some("passwd")),
            ("C:\\books\\My book.md", Some("My book")),
            ("...", None),
            (".ipynb", None),
            ("a\n\u{0}b.json", Some("ab")),
        ] {
            assert_eq!(title_of(name).as_deref(), title, "{name:?}");
        }
    }

    fn any_card() -> impl Strategy<Value = NewCard> {
        let code = "([a-z`<>#\\\\\"%é脳 ]{0,12}\n?){0,5}";
        (
            any::<bool>(),
            "[A-Za-z->é\"]{0,12}",
            code,
            prop::sample::select(vec!["python", "bash", "sh", "javascript", "c++"]),
            any::<bool>(),
        )
            .prop_map(|(is_code, title, code, language, has_settings)| {
                let mut card =
                    if is_code { code_card(language.to_owned(), code) } else { text_card(code) };
                card.title = title;
                if has_settings {
                    card.settings.insert("a-->b".to_owned(), json!([1, "é"]));
                }
                card
            })
    }

    proptest! {
        #[test]
        fn a_book_comes_back_as_it_went(cards in prop::collection::vec(any_card(), 0..6)) {
            let book = new_book(Uuid::nil(), "A title".to_owned(), Some("About it".to_owned()));
            for format in [Format::Ipynb, Format::Json, Format::Markdown] {
                let text = write(&book, &placed(cards.clone()), format);
                let draft = read(text.as_bytes(), format == Format::Markdown, BOUNDS).unwrap();
                if format != Format::Markdown || !cards.is_empty() {
                    prop_assert_eq!(draft.title.as_deref(), Some("A title"));
                    prop_assert_eq!(draft.description.as_deref(), Some("About it"), "{}", text);
                    prop_assert_eq!(&draft.cards, &cards, "{:?}: {}", format, text);
                }
            }
        }
    }
}
