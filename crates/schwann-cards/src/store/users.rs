//! Users.

use sqlx::any::AnyRow;
use uuid::Uuid;

use super::{Columns, Store, StoreError, containing, read_all};
use crate::moment::Moment;

/// A user, without the hash of the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: Uuid,
    /// In lower case; nobody else has it.
    pub(crate) email: String,
    pub(crate) full_name: Option<String>,
    pub(crate) is_active: bool,
    pub(crate) is_superuser: bool,
    pub(crate) created_at: Moment,
}

/// What is to be changed of a user. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct UserChange {
    pub(crate) email: Option<String>,
    pub(crate) full_name: Option<String>,
    pub(crate) password_hash: Option<String>,
    pub(crate) is_active: Option<bool>,
    pub(crate) is_superuser: Option<bool>,
}

/// What may stand in the way of a new or changed user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("another user has this email")]
    EmailTaken,
    #[error("there are as many users as may be")]
    Full,
    #[error("the last active superuser would be gone")]
    LastSuperuser,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for UserError {
    fn from(error: sqlx::Error) -> Self {
        StoreError(error).into()
    }
}

pub(super) fn user(row: &AnyRow) -> Result<User, sqlx::Error> {
    Ok(User {
        id: row.id("id")?,
        email: row.text("email")?,
        full_name: row.maybe_text("full_name")?,
        is_active: row.flag("is_active")?,
        is_superuser: row.flag("is_superuser")?,
        created_at: row.moment("created_at")?,
    })
}

impl Store {
    /// Adds a user, if there are fewer than `max`.
    pub(crate) async fn add_user(
        &self,
        user: &User,
        password_hash: &str,
        max: u32,
    ) -> Result<(), UserError> {
        let mut transaction = self.begin().await?;
        let (count,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM users").fetch_one(&mut *transaction).await?;
        if count >= i64::from(max) {
            return Err(UserError::Full);
        }
        sqlx::query(
            "INSERT INTO users (id, email, full_name, password_hash, is_active, is_superuser, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(user.id.to_string())
        .bind(&user.email)
        .bind(&user.full_name)
        .bind(password_hash)
        .bind(i64::from(user.is_active))
        .bind(i64::from(user.is_superuser))
        .bind(user.created_at.millis())
        .execute(&mut *transaction)
        .await
        .map_err(taken)?;
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn user(&self, id: Uuid) -> Result<Option<User>, StoreError> {
        let row = sqlx::query("SELECT * FROM users WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(user).transpose()?)
    }

    /// The user with this email, and the hash of the password.
    pub(crate) async fn user_by_email(
        &self,
        email: &str,
    ) -> Result<Option<(User, String)>, StoreError> {
        let row = sqlx::query("SELECT * FROM users WHERE email = $1")
            .bind(email)
            .fetch_optional(&self.pool)
            .await?;
        let read = |row: AnyRow| Ok((user(&row)?, row.text("password_hash")?));
        row.map(read).transpose().map_err(StoreError)
    }

    pub(crate) async fn password_hash(&self, id: Uuid) -> Result<Option<String>, StoreError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT password_hash FROM users WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.map(|(hash,)| hash))
    }

    /// Whether there is a superuser.
    pub(crate) async fn has_superuser(&self) -> Result<bool, StoreError> {
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM users WHERE is_superuser = 1")
            .fetch_one(&self.pool)
            .await?;
        Ok(count > 0)
    }

    /// Users, newest first, and how many there are in all.
    pub(crate) async fn users(
        &self,
        containing_text: &str,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<User>, i64), StoreError> {
        let pattern = containing(containing_text);
        let rows = sqlx::query(
            "SELECT * FROM users WHERE email LIKE $1 ESCAPE '\\' \
             ORDER BY created_at DESC, id DESC LIMIT $2 OFFSET $3",
        )
        .bind(&pattern)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.pool)
        .await?;
        let (count,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM users WHERE email LIKE $1 ESCAPE '\\'")
                .bind(&pattern)
                .fetch_one(&self.pool)
                .await?;
        Ok((read_all(&rows, user)?, count))
    }

    /// Changes a user. `None` if there is none. A new password or no longer being active ends all sessions but `keep`.
    pub(crate) async fn change_user(
        &self,
        id: Uuid,
        change: &UserChange,
        keep: Option<Uuid>,
    ) -> Result<Option<User>, UserError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query(
            "UPDATE users SET email = COALESCE($1, email), full_name = COALESCE($2, full_name), \
             password_hash = COALESCE($3, password_hash), is_active = COALESCE($4, is_active), \
             is_superuser = COALESCE($5, is_superuser) WHERE id = $6 RETURNING *",
        )
        .bind(&change.email)
        .bind(&change.full_name)
        .bind(&change.password_hash)
        .bind(change.is_active.map(i64::from))
        .bind(change.is_superuser.map(i64::from))
        .bind(id.to_string())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(taken)?;
        let Some(row) = row else { return Ok(None) };
        let changed = user(&row)?;
        if change.is_active == Some(false) || change.is_superuser == Some(false) {
            one_superuser_left(&mut transaction).await?;
        }
        if change.password_hash.is_some() || !changed.is_active {
            sqlx::query("DELETE FROM tokens WHERE user_id = $1 AND kind = 'session' AND id <> $2")
                .bind(id.to_string())
                .bind(keep.unwrap_or_default().to_string())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(Some(changed))
    }

    /// Removes a user with all that is theirs. Whether there was one.
    pub(crate) async fn delete_user(&self, id: Uuid) -> Result<bool, UserError> {
        let mut transaction = self.begin().await?;
        let done = sqlx::query("DELETE FROM users WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        one_superuser_left(&mut transaction).await?;
        transaction.commit().await?;
        Ok(done.rows_affected() > 0)
    }
}

async fn one_superuser_left(
    transaction: &mut sqlx::Transaction<'static, sqlx::Any>,
) -> Result<(), UserError> {
    let (count,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM users WHERE is_superuser = 1 AND is_active = 1")
            .fetch_one(&mut **transaction)
            .await?;
    if count == 0 { Err(UserError::LastSuperuser) } else { Ok(()) }
}

fn taken(error: sqlx::Error) -> UserError {
    let error = StoreError(error);
    if error.is_duplicate() { UserError::EmailTaken } else { error.into() }
}
