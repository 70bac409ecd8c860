//! The book that a new server begins with.

use serde_json::{Map, json};
use uuid::Uuid;

use crate::{
    moment::Moment,
    store::{Access, Book, Card, CardKind, NewCard},
};

const WELCOME: &str = "# Welcome

This is a book of cards. Some are text, such as this one; the others are code, each in its own language.

* **Ctrl+Enter** runs a card, **Shift+Enter** runs it and goes to the next.
* Output arrives line by line, as the program prints it. Reload the page in the middle: nothing is lost.
* Programs run in a sandbox: without a network, without your files, and within limits.
";

const COUNT: &str = "import time

for n in range(1, 11):
    print(f\"line {n} of 10\")
    time.sleep(0.3)
";

const COLOURS: &str = "import sys, time

for percent in range(0, 101, 5):
    bar = \"#\" * (percent // 5)
    print(f\"\\r\\x1b[32m{bar:<20}\\x1b[0m {percent:3d} %\", end=\"\")
    time.sleep(0.1)
print()
print(\"This line is on stderr, and the exit code is 3.\", file=sys.stderr)
sys.exit(3)
";

const ASK: &str = "name = input(\"What is your name? \")
print(f\"Hello, {name}! 你好，{name}！\")
";

const SHELL: &str = "echo \"I am $(id -un 2>/dev/null || id -u), on $(uname -s), in $PWD\"
echo \"what I see of the network:\"
cat /proc/net/dev 2>/dev/null | tail -n +3 || echo none
";

const JAVASCRIPT: &str = "let n = 0;
const timer = setInterval(() => {
  console.log(`tick ${++n}`);
  if (n === 5) clearInterval(timer);
}, 300);
";

const CALLS: &str = "# This card has the setting `axon`, so it finds a way out of its sandbox to the axon beside this page, and nowhere else.
from axon import call, stream

print(call(\"Echo\", text=\"hello from a card\"))
for piece in stream(\"Words\", text=\"every word of this arrives by itself\"):
    print(piece, end=\"\", flush=True)
print()
";

/// A book with a card of each kind, and one that calls the axon if that can be done here.
pub(crate) fn sample_book(owner_id: Uuid, now: Moment, calls_axon: bool) -> (Book, Vec<Card>) {
    let book = Book {
        id: Uuid::new_v4(),
        owner_id,
        title: "Welcome".to_owned(),
        description: Some("A few cards to try".to_owned()),
        card_count: 0,
        created_at: now,
        updated_at: now,
        access: Access::Own,
    };
    let code = |language: &str, title: &str, code: &str| NewCard {
        kind: CardKind::Code,
        title: title.to_owned(),
        language: Some(language.to_owned()),
        code: code.to_owned(),
        settings: Map::new(),
    };
    let text = NewCard {
        kind: CardKind::Markdown,
        title: String::new(),
        language: None,
        code: WELCOME.to_owned(),
        settings: Map::new(),
    };
    let mut ask = code("python", "It asks for a line", ASK);
    ask.settings.insert("stdin".to_owned(), json!(true));
    let mut calls = code("python", "It calls the axon beside this page", CALLS);
    calls.settings.insert("axon".to_owned(), json!(true));
    let mut cards = vec![
        text,
        code("python", "Lines, one at a time", COUNT),
        code("python", "A progress bar, colours and an exit code", COLOURS),
        ask,
        code("sh", "A shell, and what it sees from its sandbox", SHELL),
        code("javascript", "Ticks", JAVASCRIPT),
    ];
    if calls_axon {
        cards.push(calls);
    }
    let placed =
        cards.into_iter().zip(0..).map(|(card, place)| card.into_card(book.id, place, now));
    let cards = placed.collect();
    (book, cards)
}
