//! Who else may use a book: users by a role, and whoever has a link.

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Book, Columns, Store, StoreError, books::book, read_all, strange};
use crate::moment::Moment;

/// What somebody with whom a book is shared may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Read it.
    Viewer,
    /// Read and run it.
    Runner,
    /// Read, run and change it.
    Editor,
}

/// A way in which a book is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) id: Uuid,
    pub(crate) book_id: Uuid,
    pub(crate) role: Role,
    /// The secret part of a link; only of links.
    pub(crate) slug: Option<String>,
    /// With whom; not of links.
    pub(crate) user_id: Option<Uuid>,
    /// Their email; not of links.
    pub(crate) email: Option<String>,
    pub(crate) created_at: Moment,
}

/// What may stand in the way of a share.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareError {
    #[error("the book is shared with this user already")]
    Present,
    #[error("the book has as many shares as may be")]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ShareError {
    fn from(error: sqlx::Error) -> Self {
        StoreError(error).into()
    }
}

/// Most shares of one book.
const MAX_SHARES: i64 = 200;

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Runner => "runner",
            Self::Editor => "editor",
        }
    }

    pub(super) fn parse(word: &str) -> Result<Self, sqlx::Error> {
        match word {
            "viewer" => Ok(Self::Viewer),
            "runner" => Ok(Self::Runner),
            "editor" => Ok(Self::Editor),
            other => Err(strange("role", other)),
        }
    }
}

fn share(row: &AnyRow) -> Result<Share, sqlx::Error> {
    Ok(Share {
        id: row.id("id")?,
        book_id: row.id("book_id")?,
        role: Role::parse(&row.text("role")?)?,
        slug: row.maybe_text("slug")?,
        user_id: row.maybe_id("user_id")?,
        email: row.maybe_text("email")?,
        created_at: row.moment("created_at")?,
    })
}

impl Store {
    pub(crate) async fn add_share(&self, share: &Share) -> Result<(), ShareError> {
        let mut transaction = self.begin().await?;
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM shares WHERE book_id = $1")
            .bind(share.book_id.to_string())
            .fetch_one(&mut *transaction)
            .await?;
        if count >= MAX_SHARES {
            return Err(ShareError::Full);
        }
        sqlx::query(
            "INSERT INTO shares (id, book_id, role, slug, user_id, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(share.id.to_string())
        .bind(share.book_id.to_string())
        .bind(share.role.word())
        .bind(&share.slug)
        .bind(share.user_id.map(|id| id.to_string()))
        .bind(share.created_at.millis())
        .execute(&mut *transaction)
        .await
        .map_err(|error| {
            let error = StoreError(error);
            if error.is_duplicate() { ShareError::Present } else { error.into() }
        })?;
        transaction.commit().await?;
        Ok(())
    }

    /// The shares of a book, newest first, and how many there are.
    pub(crate) async fn shares(
        &self,
        book_id: Uuid,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<Share>, i64), StoreError> {
        let rows = sqlx::query(
            "SELECT s.*, u.email FROM shares s LEFT JOIN users u ON u.id = s.user_id \
             WHERE s.book_id = $1 ORDER BY s.created_at DESC, s.id DESC LIMIT $2 OFFSET $3",
        )
        .bind(book_id.to_string())
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.pool)
        .await?;
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM shares WHERE book_id = $1")
            .bind(book_id.to_string())
            .fetch_one(&self.pool)
            .await?;
        Ok((read_all(&rows, share)?, count))
    }

    /// Ends a share. Whether there was one.
    pub(crate) async fn delete_share(&self, book_id: Uuid, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM shares WHERE book_id = $1 AND id = $2")
            .bind(book_id.to_string())
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The book to which this link leads.
    pub(crate) async fn shared_book(&self, slug: &str) -> Result<Option<Book>, StoreError> {
        let row = sqlx::query(
            "SELECT b.*, s.role, (SELECT COUNT(*) FROM cards c WHERE c.book_id = b.id) AS card_count \
             FROM shares s JOIN books b ON b.id = s.book_id WHERE s.slug = $1",
        )
        .bind(slug)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(book).transpose()?)
    }
}
