//! How long a key means the same run, by a clock that the test sets.

use serde_json::{Map, json};
use tempfile::TempDir;

use super::*;
use crate::store::{Access, Book, NewCard, User};

const DAY: i64 = 24 * 3600 * 1000;
const START: i64 = 1_800_000_000_000;

/// A user with a book and a card.
struct Desk {
    store: Store,
    user_id: Uuid,
    book_id: Uuid,
    card_id: Uuid,
    _folder: TempDir,
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let (user_id, book_id, at) = (Uuid::new_v4(), Uuid::new_v4(), Moment::from_millis(START));
        let user = User {
            id: user_id,
            email: "a@example.com".to_owned(),
            full_name: None,
            is_active: true,
            is_superuser: false,
            created_at: at,
        };
        store.add_user(&user, "no hash", 1).await.unwrap();
        let book = Book {
            id: book_id,
            owner_id: user_id,
            title: "runs".to_owned(),
            description: None,
            card_count: 0,
            created_at: at,
            updated_at: at,
            access: Access::Own,
        };
        assert!(store.add_book(&book, &[], 1).await.unwrap());
        let card = NewCard {
            kind: CardKind::Code,
            title: String::new(),
            language: Some("sh".to_owned()),
            code: "echo once".to_owned(),
            settings: Map::new(),
        };
        let card_id = store.add_card(book_id, card, None, 1, at).await.unwrap().id;
        Self { store, user_id, book_id, card_id, _folder: folder }
    }

    /// Runs the card under a key, so many milliseconds after the start: which run that is, and whether it is an earlier one.
    async fn run(&self, hash: &str, after: i64) -> Result<(Uuid, bool), SaveAndRunError> {
        let wanted = SaveAndRun {
            user_id: self.user_id,
            book_id: self.book_id,
            card_id: self.card_id,
            change: CardChange::default(),
            save: false,
            version: None,
            run: NewRun {
                id: Uuid::new_v4(),
                server: "one".to_owned(),
                batch_id: None,
                request: json!({}),
                sandbox: "none".to_owned(),
            },
            key: Some(KeyUse { key: "k".to_owned(), request_hash: hash.to_owned() }),
            on_busy: OnBusy::Queue,
            max_unfinished: 100,
            max_queued: 100,
        };
        let started = self.store.save_and_run(&wanted, Moment::from_millis(START + after)).await?;
        Ok((started.run.id, started.repeated))
    }

    async fn forget(&self, after: i64) -> u64 {
        self.store.forget_keys(Moment::from_millis(START + after)).await.unwrap()
    }
}

#[tokio::test]
async fn a_key_means_the_same_run_for_a_day_and_another_from_then_on() {
    for tended in [false, true] {
        let desk = Desk::new().await;
        let (first, repeated) = desk.run("same", 0).await.unwrap();
        assert!(!repeated);
        if tended {
            assert_eq!(desk.forget(DAY - 1).await, 0, "forgotten too early");
        }
        for after in [0, 1, DAY / 2, DAY - 1] {
            assert_eq!(desk.run("same", after).await.unwrap(), (first, true), "{after} ms after");
        }
        // Repeating it does not keep it longer.
        if tended {
            assert_eq!(desk.forget(DAY).await, 1, "kept too long");
        }
        let (second, repeated) = desk.run("same", DAY).await.unwrap();
        assert!(!repeated && second != first, "the key is kept for more than a day");
        // And that one has a day of its own.
        assert_eq!(desk.run("same", 2 * DAY - 1).await.unwrap(), (second, true));
        assert!(!desk.run("same", 2 * DAY).await.unwrap().1);
    }
}

#[tokio::test]
async fn a_key_is_for_another_request_only_after_its_day() {
    let desk = Desk::new().await;
    let (first, _) = desk.run("one", 0).await.unwrap();
    let refused = desk.run("other", DAY - 1).await.unwrap_err();
    assert!(matches!(refused, SaveAndRunError::KeyReused), "{refused:?}");
    let (second, repeated) = desk.run("other", DAY).await.unwrap();
    assert!(!repeated && second != first);
    assert!(matches!(desk.run("one", DAY).await, Err(SaveAndRunError::KeyReused)));
}
