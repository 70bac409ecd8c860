//! Books, and who may do what with them.

use sqlx::{Any, Transaction, any::AnyRow};
use uuid::Uuid;

use super::{Columns, Role, Store, StoreError, containing, read_all};
use crate::moment::Moment;

/// A book, as one user may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) id: Uuid,
    pub(crate) owner_id: Uuid,
    pub(crate) title: String,
    pub(crate) description: Option<String>,
    pub(crate) card_count: i64,
    pub(crate) created_at: Moment,
    pub(crate) updated_at: Moment,
    /// What the user who asked may do.
    pub(crate) access: Access,
}

/// What a user may do with a book. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    View,
    Run,
    Edit,
    Own,
}

/// What is to be changed of a book. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct BookChange {
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
}

impl From<Role> for Access {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::View,
            Role::Runner => Self::Run,
            Role::Editor => Self::Edit,
        }
    }
}

pub(super) fn book(row: &AnyRow) -> Result<Book, sqlx::Error> {
    let access = match row.maybe_text("role")? {
        Some(role) => Role::parse(&role)?.into(),
        None => Access::Own,
    };
    Ok(Book {
        id: row.id("id")?,
        owner_id: row.id("owner_id")?,
        title: row.text("title")?,
        description: row.maybe_text("description")?,
        card_count: row.number("card_count")?,
        created_at: row.moment("created_at")?,
        updated_at: row.moment("updated_at")?,
        access,
    })
}

/// Books that user `$1` may see: with the role of a share, or NULL for the owner.
const VISIBLE: &str = "SELECT b.*, (SELECT COUNT(*) FROM cards c WHERE c.book_id = b.id) AS card_count, \
     CASE WHEN b.owner_id = $1 THEN NULL ELSE s.role END AS role \
     FROM books b LEFT JOIN shares s ON s.book_id = b.id AND s.user_id = $1 \
     WHERE (b.owner_id = $1 OR s.role IS NOT NULL)";

impl Store {
    /// Adds a book with its cards. False if its owner has as many as may be.
    pub(crate) async fn add_book(
        &self,
        book: &Book,
        cards: &[super::Card],
        max: u32,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM books WHERE owner_id = $1")
            .bind(book.owner_id.to_string())
            .fetch_one(&mut *transaction)
            .await?;
        if count >= i64::from(max) {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO books (id, owner_id, title, description, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(book.id.to_string())
        .bind(book.owner_id.to_string())
        .bind(&book.title)
        .bind(&book.description)
        .bind(book.created_at.millis())
        .bind(book.updated_at.millis())
        .execute(&mut *transaction)
        .await?;
        for card in cards {
            super::cards::insert(&mut transaction, card).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// The book, if the user may see it.
    pub(crate) async fn book(&self, user_id: Uuid, id: Uuid) -> Result<Option<Book>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{VISIBLE} AND b.id = $2")))
            .bind(user_id.to_string())
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(book).transpose()?)
    }

    /// The books that a user may see, own and shared, newest first, and how many there are.
    pub(crate) async fn books(
        &self,
        user_id: Uuid,
        containing_text: &str,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<Book>, i64), StoreError> {
        let pattern = containing(containing_text);
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{VISIBLE} AND LOWER(b.title) LIKE $2 ESCAPE '\\' \
             ORDER BY b.created_at DESC, b.id DESC LIMIT $3 OFFSET $4"
        )))
        .bind(user_id.to_string())
        .bind(&pattern)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.pool)
        .await?;
        let (count,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM books b LEFT JOIN shares s ON s.book_id = b.id AND s.user_id = $1 \
             WHERE (b.owner_id = $1 OR s.role IS NOT NULL) AND LOWER(b.title) LIKE $2 ESCAPE '\\'",
        )
        .bind(user_id.to_string())
        .bind(&pattern)
        .fetch_one(&self.pool)
        .await?;
        Ok((read_all(&rows, book)?, count))
    }

    /// Changes a book, whoever's it is. Whether there is one.
    pub(crate) async fn change_book(
        &self,
        id: Uuid,
        change: &BookChange,
        now: Moment,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE books SET title = COALESCE($1, title), description = COALESCE($2, description), \
             updated_at = $3 WHERE id = $4",
        )
        .bind(&change.title)
        .bind(&change.description)
        .bind(now.millis())
        .bind(id.to_string())
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes a book with its cards and shares. Whether there was one.
    pub(crate) async fn delete_book(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM books WHERE id = $1")
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }
}

/// Says that a book changed, which also makes other changes of it wait. Whether there is one.
pub(super) async fn touch(
    transaction: &mut Transaction<'static, Any>,
    id: Uuid,
    now: Moment,
) -> Result<bool, StoreError> {
    let done = sqlx::query("UPDATE books SET updated_at = $1 WHERE id = $2")
        .bind(now.millis())
        .bind(id.to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(done.rows_affected() > 0)
}
