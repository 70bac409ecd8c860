//! Cards of a book, in order.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::{Any, Transaction, any::AnyRow};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Columns, Store, StoreError, books::touch, read_all, strange};
use crate::moment::Moment;

/// A card.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Card {
    pub(crate) id: Uuid,
    pub(crate) book_id: Uuid,
    pub(crate) kind: CardKind,
    pub(crate) title: String,
    /// Of code cards.
    pub(crate) language: Option<String>,
    pub(crate) code: String,
    /// What the page or the runner wants to know about it: a JSON object.
    pub(crate) settings: Map<String, Value>,
    pub(crate) position: i64,
    /// 1 at first, and one more with each change.
    pub(crate) version: i64,
    pub(crate) created_at: Moment,
    pub(crate) updated_at: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CardKind {
    /// Can be run.
    Code,
    /// Is read.
    Markdown,
}

/// What a new card says about itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewCard {
    pub(crate) kind: CardKind,
    pub(crate) title: String,
    pub(crate) language: Option<String>,
    pub(crate) code: String,
    pub(crate) settings: Map<String, Value>,
}

/// What is to be changed of a card. What is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CardChange {
    pub(crate) title: Option<String>,
    pub(crate) language: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) settings: Option<Map<String, Value>>,
}

/// What may stand in the way of a change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CardError {
    #[error("there is no such card in this book")]
    NotFound,
    #[error("the card is at version {0}")]
    OtherVersion(i64),
    #[error("the book has as many cards as may be")]
    Full,
    #[error("the list is not that of the book's cards")]
    OtherCards,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for CardError {
    fn from(error: sqlx::Error) -> Self {
        StoreError(error).into()
    }
}

impl CardKind {
    fn word(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Markdown => "markdown",
        }
    }
}

impl NewCard {
    /// The card at `position` of a book.
    pub(crate) fn into_card(self, book_id: Uuid, position: i64, now: Moment) -> Card {
        Card {
            id: Uuid::new_v4(),
            book_id,
            kind: self.kind,
            title: self.title,
            language: self.language,
            code: self.code,
            settings: self.settings,
            position,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }
}

impl CardChange {
    /// Whether it would change the card.
    pub(crate) fn changes(&self, card: &Card) -> bool {
        self.title.as_ref().is_some_and(|title| *title != card.title)
            || self.language.as_ref().is_some_and(|l| Some(l) != card.language.as_ref())
            || self.code.as_ref().is_some_and(|code| *code != card.code)
            || self.settings.as_ref().is_some_and(|settings| *settings != card.settings)
    }

    pub(crate) fn apply(&self, card: &mut Card) {
        if let Some(title) = &self.title {
            card.title.clone_from(title);
        }
        if let Some(language) = &self.language {
            card.language = Some(language.clone());
        }
        if let Some(code) = &self.code {
            card.code.clone_from(code);
        }
        if let Some(settings) = &self.settings {
            card.settings.clone_from(settings);
        }
    }
}

pub(super) fn card(row: &AnyRow) -> Result<Card, sqlx::Error> {
    Ok(Card {
        id: row.id("id")?,
        book_id: row.id("book_id")?,
        kind: match row.text("kind")?.as_str() {
            "code" => CardKind::Code,
            "markdown" => CardKind::Markdown,
            other => return Err(strange("kind", other)),
        },
        title: row.text("title")?,
        language: row.maybe_text("language")?,
        code: row.text("code")?,
        settings: serde_json::from_str(&row.text("settings")?).map_err(|error| {
            sqlx::Error::ColumnDecode { index: "settings".to_owned(), source: Box::new(error) }
        })?,
        position: row.number("position")?,
        version: row.number("version")?,
        created_at: row.moment("created_at")?,
        updated_at: row.moment("updated_at")?,
    })
}

pub(super) async fn insert(
    transaction: &mut Transaction<'static, Any>,
    card: &Card,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO cards (id, book_id, kind, title, language, code, settings, position, version, \
         created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(card.id.to_string())
    .bind(card.book_id.to_string())
    .bind(card.kind.word())
    .bind(&card.title)
    .bind(&card.language)
    .bind(&card.code)
    .bind(json(&card.settings))
    .bind(card.position)
    .bind(card.version)
    .bind(card.created_at.millis())
    .bind(card.updated_at.millis())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Writes what may change of a card.
pub(super) async fn save(
    transaction: &mut Transaction<'static, Any>,
    card: &Card,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE cards SET title = $1, language = $2, code = $3, settings = $4, version = $5, \
         updated_at = $6 WHERE id = $7",
    )
    .bind(&card.title)
    .bind(&card.language)
    .bind(&card.code)
    .bind(json(&card.settings))
    .bind(card.version)
    .bind(card.updated_at.millis())
    .bind(card.id.to_string())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// A card of this book, and nobody else changes the book until the transaction ends.
pub(super) async fn lock(
    transaction: &mut Transaction<'static, Any>,
    book_id: Uuid,
    id: Uuid,
    now: Moment,
) -> Result<Card, CardError> {
    if !touch(transaction, book_id, now).await? {
        return Err(CardError::NotFound);
    }
    let row = sqlx::query("SELECT * FROM cards WHERE id = $1 AND book_id = $2")
        .bind(id.to_string())
        .bind(book_id.to_string())
        .fetch_optional(&mut **transaction)
        .await?;
    Ok(card(&row.ok_or(CardError::NotFound)?)?)
}

/// Changes a locked card in memory, if it is at this version. Whether it differs now.
pub(super) fn change(
    card: &mut Card,
    change: &CardChange,
    version: Option<i64>,
    now: Moment,
) -> Result<bool, CardError> {
    if version.is_some_and(|version| version != card.version) {
        return Err(CardError::OtherVersion(card.version));
    }
    if !change.changes(card) {
        return Ok(false);
    }
    change.apply(card);
    card.version += 1;
    card.updated_at = now;
    Ok(true)
}

pub(super) fn json(object: &Map<String, Value>) -> String {
    serde_json::to_string(object).expect("a JSON object can be written")
}

impl Store {
    /// The cards of a book in their order, and how many there are.
    pub(crate) async fn cards(
        &self,
        book_id: Uuid,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<Card>, i64), StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM cards WHERE book_id = $1 ORDER BY position, created_at, id LIMIT $2 OFFSET $3",
        )
        .bind(book_id.to_string())
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.pool)
        .await?;
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM cards WHERE book_id = $1")
            .bind(book_id.to_string())
            .fetch_one(&self.pool)
            .await?;
        Ok((read_all(&rows, card)?, count))
    }

    pub(crate) async fn card(&self, book_id: Uuid, id: Uuid) -> Result<Option<Card>, StoreError> {
        let row = sqlx::query("SELECT * FROM cards WHERE id = $1 AND book_id = $2")
            .bind(id.to_string())
            .bind(book_id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(card).transpose()?)
    }

    /// Adds a card at `place` (0 is the first), or at the end.
    pub(crate) async fn add_card(
        &self,
        book_id: Uuid,
        new: NewCard,
        place: Option<i64>,
        max: u32,
        now: Moment,
    ) -> Result<Card, CardError> {
        let mut transaction = self.begin().await?;
        if !touch(&mut transaction, book_id, now).await? {
            return Err(CardError::NotFound);
        }
        let mut order = order(&mut transaction, book_id).await?;
        if order.len() >= max as usize {
            return Err(CardError::Full);
        }
        let end = order.len();
        let place = place.and_then(|place| usize::try_from(place).ok()).unwrap_or(end).min(end);
        let card = new.into_card(book_id, place as i64, now);
        insert(&mut transaction, &card).await?;
        order.insert(place, card.id);
        set_order(&mut transaction, &order, place).await?;
        transaction.commit().await?;
        Ok(card)
    }

    /// Changes a card, if it is at `version` or that is not asked for.
    pub(crate) async fn change_card(
        &self,
        book_id: Uuid,
        id: Uuid,
        wanted: &CardChange,
        version: Option<i64>,
        now: Moment,
    ) -> Result<Card, CardError> {
        let mut transaction = self.begin().await?;
        let mut card = lock(&mut transaction, book_id, id, now).await?;
        if change(&mut card, wanted, version, now)? {
            save(&mut transaction, &card).await?;
            transaction.commit().await?;
        }
        Ok(card)
    }

    /// Removes a card, if it is at `version` or that is not asked for. Its runs stay.
    pub(crate) async fn delete_card(
        &self,
        book_id: Uuid,
        id: Uuid,
        version: Option<i64>,
        now: Moment,
    ) -> Result<(), CardError> {
        let mut transaction = self.begin().await?;
        let card = lock(&mut transaction, book_id, id, now).await?;
        if version.is_some_and(|version| version != card.version) {
            return Err(CardError::OtherVersion(card.version));
        }
        sqlx::query("DELETE FROM cards WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let order = order(&mut transaction, book_id).await?;
        set_order(&mut transaction, &order, 0).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Puts the cards of a book in this order, which must name each of them once.
    pub(crate) async fn reorder_cards(
        &self,
        book_id: Uuid,
        ids: &[Uuid],
        now: Moment,
    ) -> Result<(), CardError> {
        let mut transaction = self.begin().await?;
        if !touch(&mut transaction, book_id, now).await? {
            return Err(CardError::NotFound);
        }
        let present: BTreeSet<_> = order(&mut transaction, book_id).await?.into_iter().collect();
        let wanted: BTreeSet<_> = ids.iter().copied().collect();
        if wanted.len() != ids.len() || wanted != present {
            return Err(CardError::OtherCards);
        }
        set_order(&mut transaction, ids, 0).await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn order(
    transaction: &mut Transaction<'static, Any>,
    book_id: Uuid,
) -> Result<Vec<Uuid>, StoreError> {
    let rows =
        sqlx::query("SELECT id FROM cards WHERE book_id = $1 ORDER BY position, created_at, id")
            .bind(book_id.to_string())
            .fetch_all(&mut **transaction)
            .await?;
    read_all(&rows, |row| row.id("id"))
}

/// Numbers the cards from `first` on.
async fn set_order(
    transaction: &mut Transaction<'static, Any>,
    ids: &[Uuid],
    first: usize,
) -> Result<(), StoreError> {
    for (place, id) in ids.iter().enumerate().skip(first) {
        sqlx::query("UPDATE cards SET position = $1 WHERE id = $2 AND position <> $1")
            .bind(place as i64)
            .bind(id.to_string())
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}
