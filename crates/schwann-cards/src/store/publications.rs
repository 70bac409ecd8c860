//! Cards that are published, and as what.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    CardKind, Columns, Store, StoreError,
    cards::{self, CardError},
    read_all, strange,
};
use crate::moment::Moment;

/// By what a published card is called. What these are is for whoever mounts them to know.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Face {
    /// A synapse of the axon beside the application.
    Synapse,
    /// A transform of objects.
    Etl,
}

/// A card as it is published.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Publication {
    pub(crate) card_id: Uuid,
    pub(crate) face: Face,
    pub(crate) name: String,
    /// Whether its answer is passed on as it is written.
    pub(crate) stream: bool,
    /// Fields that callers hash, in order.
    pub(crate) hash: Vec<String>,
    /// Who may call it; empty: everybody.
    pub(crate) allow: Vec<String>,
    /// `None`: the card as it is when it is called.
    pub(crate) fixed: Option<Fixed>,
    pub(crate) created_at: Moment,
    pub(crate) updated_at: Moment,
}

/// What a card was at a version.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fixed {
    pub(crate) version: i64,
    pub(crate) language: String,
    pub(crate) code: String,
    pub(crate) settings: Map<String, Value>,
}

/// How a card is to be published.
#[derive(Clone, Debug)]
pub(crate) struct NewPublication {
    pub(crate) face: Face,
    pub(crate) name: String,
    pub(crate) stream: bool,
    pub(crate) hash: Vec<String>,
    pub(crate) allow: Vec<String>,
    /// Follow the card's later versions.
    pub(crate) latest: bool,
}

/// By what a card is called.
#[derive(Clone, Debug)]
pub(crate) struct CalledBy {
    pub(crate) face: Face,
    pub(crate) name: String,
    pub(crate) stream: bool,
    pub(crate) hash: Vec<String>,
    pub(crate) allow: Vec<String>,
}

/// A published card, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) book_id: Uuid,
    pub(crate) owner_id: Uuid,
    pub(crate) publication: Publication,
}

/// What may stand in the way of publishing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("there is no such card in this book")]
    NotFound,
    #[error("the card is text, which cannot be run")]
    NotCode,
    #[error("the card is at version {0}")]
    OtherVersion(i64),
    #[error("another card has this name")]
    Taken,
    #[error("as many cards are published as may be")]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PublishError {
    fn from(error: sqlx::Error) -> Self {
        StoreError(error).into()
    }
}

impl From<CardError> for PublishError {
    fn from(error: CardError) -> Self {
        match error {
            CardError::OtherVersion(version) => Self::OtherVersion(version),
            CardError::Store(error) => Self::Store(error),
            CardError::NotFound | CardError::Full | CardError::OtherCards => Self::NotFound,
        }
    }
}

impl Face {
    /// The word of the interface and the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Synapse => "synapse",
            Self::Etl => "etl",
        }
    }
}

fn face(row: &AnyRow) -> Result<Face, sqlx::Error> {
    match row.text("face")?.as_str() {
        "synapse" => Ok(Face::Synapse),
        "etl" => Ok(Face::Etl),
        other => Err(strange("face", other)),
    }
}

fn texts(row: &AnyRow, column: &str) -> Result<Vec<String>, sqlx::Error> {
    serde_json::from_str(&row.text(column)?).map_err(|error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    })
}

fn list(texts: &[String]) -> String {
    serde_json::to_string(texts).expect("texts can be written")
}

fn publication(row: &AnyRow) -> Result<Publication, sqlx::Error> {
    let fixed = match row.maybe_number("version")? {
        None => None,
        Some(version) => Some(Fixed {
            version,
            language: row.text("language")?,
            code: row.text("code")?,
            settings: serde_json::from_str(&row.text("settings")?).map_err(|error| {
                sqlx::Error::ColumnDecode { index: "settings".to_owned(), source: Box::new(error) }
            })?,
        }),
    };
    Ok(Publication {
        card_id: row.id("card_id")?,
        face: face(row)?,
        name: row.text("name")?,
        stream: row.flag("stream")?,
        hash: texts(row, "hash")?,
        allow: texts(row, "allow")?,
        fixed,
        created_at: row.moment("created_at")?,
        updated_at: row.moment("updated_at")?,
    })
}

/// Of owners who may log in: others' cards are not called either.
const CALLED: &str = "FROM publications p \
     JOIN cards c ON c.id = p.card_id JOIN books b ON b.id = c.book_id \
     JOIN users u ON u.id = b.owner_id AND u.is_active = 1";

fn called(row: &AnyRow) -> Result<Called, sqlx::Error> {
    Ok(Called {
        book_id: row.id("book_id")?,
        owner_id: row.id("owner_id")?,
        publication: publication(row)?,
    })
}

impl Store {
    /// Publishes a card, in place of how it was published before.
    pub(crate) async fn publish(
        &self,
        book_id: Uuid,
        card_id: Uuid,
        new: NewPublication,
        version: Option<i64>,
        max: u32,
        now: Moment,
    ) -> Result<Publication, PublishError> {
        let mut transaction = self.begin().await?;
        let card = cards::lock(&mut transaction, book_id, card_id, now).await?;
        if version.is_some_and(|version| version != card.version) {
            return Err(PublishError::OtherVersion(card.version));
        }
        let language = card.language.filter(|_| card.kind == CardKind::Code);
        let language = language.ok_or(PublishError::NotCode)?;
        let before = sqlx::query("SELECT * FROM publications WHERE card_id = $1")
            .bind(card_id.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        let before = before.as_ref().map(publication).transpose()?;
        let (others,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM publications WHERE card_id <> $1")
                .bind(card_id.to_string())
                .fetch_one(&mut *transaction)
                .await?;
        if others >= i64::from(max) {
            return Err(PublishError::Full);
        }
        let publication = Publication {
            card_id,
            face: new.face,
            name: new.name,
            stream: new.stream,
            hash: new.hash,
            allow: new.allow,
            fixed: (!new.latest).then_some(Fixed {
                version: card.version,
                language,
                code: card.code,
                settings: card.settings,
            }),
            created_at: before.map_or(now, |before| before.created_at),
            updated_at: now,
        };
        sqlx::query("DELETE FROM publications WHERE card_id = $1")
            .bind(card_id.to_string())
            .execute(&mut *transaction)
            .await?;
        let fixed = publication.fixed.as_ref();
        sqlx::query(
            "INSERT INTO publications (card_id, face, name, stream, version, language, code, settings, created_at, \
             updated_at, hash, allow) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(card_id.to_string())
        .bind(publication.face.word())
        .bind(&publication.name)
        .bind(i64::from(publication.stream))
        .bind(fixed.map(|fixed| fixed.version))
        .bind(fixed.map(|fixed| fixed.language.as_str()))
        .bind(fixed.map(|fixed| fixed.code.as_str()))
        .bind(fixed.map(|fixed| cards::json(&fixed.settings)))
        .bind(publication.created_at.millis())
        .bind(publication.updated_at.millis())
        .bind(list(&publication.hash))
        .bind(list(&publication.allow))
        .execute(&mut *transaction)
        .await
        .map_err(|error| {
            let error = StoreError(error);
            if error.is_duplicate() { PublishError::Taken } else { error.into() }
        })?;
        transaction.commit().await?;
        Ok(publication)
    }

    /// Ends a publication. Whether there was one.
    pub(crate) async fn unpublish(&self, book_id: Uuid, card_id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "DELETE FROM publications WHERE card_id = $1 \
             AND card_id IN (SELECT c.id FROM cards c WHERE c.book_id = $2)",
        )
        .bind(card_id.to_string())
        .bind(book_id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// How a card is published, if it is.
    pub(crate) async fn publication(
        &self,
        card_id: Uuid,
    ) -> Result<Option<Publication>, StoreError> {
        let row = sqlx::query("SELECT * FROM publications WHERE card_id = $1")
            .bind(card_id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(publication).transpose()?)
    }

    /// How the cards of a book are published, by card.
    pub(crate) async fn publications(
        &self,
        book_id: Uuid,
    ) -> Result<HashMap<Uuid, Publication>, StoreError> {
        let rows = sqlx::query(
            "SELECT p.* FROM publications p JOIN cards c ON c.id = p.card_id WHERE c.book_id = $1",
        )
        .bind(book_id.to_string())
        .fetch_all(&self.pool)
        .await?;
        let all = read_all(&rows, publication)?;
        Ok(all.into_iter().map(|publication| (publication.card_id, publication)).collect())
    }

    /// By what all cards are called.
    pub(crate) async fn all_called(&self) -> Result<Vec<CalledBy>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT p.face, p.name, p.stream, p.hash, p.allow {CALLED} ORDER BY p.face, p.name"
        )))
        .fetch_all(&self.pool)
        .await?;
        read_all(&rows, |row| {
            Ok(CalledBy {
                face: face(row)?,
                name: row.text("name")?,
                stream: row.flag("stream")?,
                hash: texts(row, "hash")?,
                allow: texts(row, "allow")?,
            })
        })
    }

    /// The card that is called by this name.
    pub(crate) async fn called(
        &self,
        face: Face,
        name: &str,
    ) -> Result<Option<Called>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT p.*, c.book_id, b.owner_id {CALLED} WHERE p.face = $1 AND p.name = $2"
        )))
        .bind(face.word())
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(called).transpose()?)
    }
}
