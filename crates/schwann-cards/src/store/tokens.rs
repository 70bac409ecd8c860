//! Sessions and API tokens. Their secrets are never stored, only hashes.

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Columns, Store, StoreError, User, read_all, strange, users::user};
use crate::moment::Moment;

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// Reading books, cards, runs and their output.
    Read,
    /// Running cards, and what belongs to runs: stdin, cancel.
    Run,
    /// Changing books and cards.
    Write,
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scopes {
    pub(crate) read: bool,
    pub(crate) run: bool,
    pub(crate) write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// Made by logging in.
    Session,
    /// Made by a user for a program.
    Api,
}

/// What is known about a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: Uuid,
    pub(crate) user_id: Uuid,
    pub(crate) kind: TokenKind,
    pub(crate) name: String,
    pub(crate) scopes: Scopes,
    pub(crate) created_at: Moment,
    pub(crate) expires_at: Option<Moment>,
    /// To the minute or so.
    pub(crate) last_used_at: Option<Moment>,
}

/// Most sessions of one user; the oldest end when there are more.
const MAX_SESSIONS: i64 = 50;
/// Most API tokens of one user.
const MAX_API_TOKENS: i64 = 100;

impl Scopes {
    pub(crate) const ALL: Self = Self { read: true, run: true, write: true };

    pub(crate) fn has(self, scope: Scope) -> bool {
        match scope {
            Scope::Read => self.read,
            Scope::Run => self.run,
            Scope::Write => self.write,
        }
    }

    pub(crate) fn list(self) -> Vec<Scope> {
        [Scope::Read, Scope::Run, Scope::Write].into_iter().filter(|s| self.has(*s)).collect()
    }

    fn word(self) -> String {
        let words = [(self.read, "read"), (self.run, "run"), (self.write, "write")];
        words.iter().filter(|(has, _)| *has).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    }

    fn parse(words: &str) -> Self {
        let has = |word| words.split(' ').any(|each| each == word);
        Self { read: has("read"), run: has("run"), write: has("write") }
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut all = Self { read: false, run: false, write: false };
        for scope in scopes {
            match scope {
                Scope::Read => all.read = true,
                Scope::Run => all.run = true,
                Scope::Write => all.write = true,
            }
        }
        all
    }
}

fn token(row: &AnyRow) -> Result<Token, sqlx::Error> {
    Ok(Token {
        id: row.id("token_id")?,
        user_id: row.id("user_id")?,
        kind: match row.text("kind")?.as_str() {
            "session" => TokenKind::Session,
            "api" => TokenKind::Api,
            other => return Err(strange("kind", other)),
        },
        name: row.text("name")?,
        scopes: Scopes::parse(&row.text("scopes")?),
        created_at: row.moment("token_created_at")?,
        expires_at: row.maybe_moment("expires_at")?,
        last_used_at: row.maybe_moment("last_used_at")?,
    })
}

const TOKEN: &str = "t.id AS token_id, t.user_id, t.kind, t.name, t.scopes, t.created_at AS token_created_at, t.expires_at, t.last_used_at";

impl Store {
    /// Keeps a token by its hash. False if the user has as many API tokens as may be.
    pub(crate) async fn add_token(&self, token: &Token, hash: &str) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let kind = match token.kind {
            TokenKind::Session => "session",
            TokenKind::Api => "api",
        };
        let (count,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM tokens WHERE user_id = $1 AND kind = $2")
                .bind(token.user_id.to_string())
                .bind(kind)
                .fetch_one(&mut *transaction)
                .await?;
        match token.kind {
            TokenKind::Api if count >= MAX_API_TOKENS => return Ok(false),
            TokenKind::Session => {
                sqlx::query(
                    "DELETE FROM tokens WHERE user_id = $1 AND kind = 'session' AND (expires_at <= $2 OR id IN \
                     (SELECT id FROM tokens WHERE user_id = $1 AND kind = 'session' \
                     ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET $3))",
                )
                .bind(token.user_id.to_string())
                .bind(token.created_at.millis())
                .bind(MAX_SESSIONS - 1)
                .execute(&mut *transaction)
                .await?;
            }
            TokenKind::Api => {}
        }
        sqlx::query(
            "INSERT INTO tokens (id, user_id, kind, name, hash, scopes, created_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(token.id.to_string())
        .bind(token.user_id.to_string())
        .bind(kind)
        .bind(&token.name)
        .bind(hash)
        .bind(token.scopes.word())
        .bind(token.created_at.millis())
        .bind(token.expires_at.map(Moment::millis))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// The token with this hash that has not expired, and its user.
    pub(crate) async fn token(
        &self,
        hash: &str,
        now: Moment,
    ) -> Result<Option<(Token, User)>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {TOKEN}, u.* FROM tokens t JOIN users u ON u.id = t.user_id \
             WHERE t.hash = $1 AND (t.expires_at IS NULL OR t.expires_at > $2)"
        )))
        .bind(hash)
        .bind(now.millis())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((token(&row)?, user(&row)?)))
    }

    /// Notes that a token was used.
    pub(crate) async fn touch_token(&self, id: Uuid, now: Moment) -> Result<(), StoreError> {
        sqlx::query("UPDATE tokens SET last_used_at = $1 WHERE id = $2")
            .bind(now.millis())
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The API tokens of a user, newest first, and how many there are.
    pub(crate) async fn api_tokens(
        &self,
        user_id: Uuid,
        skip: i64,
        limit: i64,
    ) -> Result<(Vec<Token>, i64), StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {TOKEN} FROM tokens t WHERE t.user_id = $1 AND t.kind = 'api' \
             ORDER BY t.created_at DESC, t.id DESC LIMIT $2 OFFSET $3"
        )))
        .bind(user_id.to_string())
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.pool)
        .await?;
        let (count,): (i64,) =
            sqlx::query_as("SELECT COUNT(*) FROM tokens WHERE user_id = $1 AND kind = 'api'")
                .bind(user_id.to_string())
                .fetch_one(&self.pool)
                .await?;
        Ok((read_all(&rows, token)?, count))
    }

    /// Ends a token of this user. Whether there was one.
    pub(crate) async fn delete_token(&self, user_id: Uuid, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM tokens WHERE user_id = $1 AND id = $2")
            .bind(user_id.to_string())
            .bind(id.to_string())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() > 0)
    }
}
