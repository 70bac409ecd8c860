//! Sharing books.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{BookPath, Message, SharePath, SlugPath, books::BookPublic, cards::CardPublic},
    app::App,
    input::{self, Complaint, Fields, Input, Json as Body, Page, Read, choice},
    moment::Moment,
    password::random_secret,
    problem::Problem,
    signed_in::SignedIn,
    store::{Access, Role, Share, ShareError},
};

/// A way in which a book is shared.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SharePublic {
    id: Uuid,
    book_id: Uuid,
    role: Role,
    /// Of a link: the last part of `/shared/{slug}`.
    slug: Option<String>,
    /// With whom; not of links.
    user_id: Option<Uuid>,
    /// Their email; not of links.
    email: Option<String>,
    created_at: Moment,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SharesPublic {
    data: Vec<SharePublic>,
    /// Of all, not only of these.
    count: i64,
}

#[derive(Debug, ToSchema)]
pub(crate) struct ShareCreate {
    /// A link is only ever for viewers.
    #[schema(required = false, default = "viewer")]
    role: Role,
    /// The user with whom the book is shared. Left out: whoever has the link.
    #[schema(format = Email)]
    email: Option<String>,
}

/// A book behind a link.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SharedBook {
    book: BookPublic,
    /// In their order.
    cards: Vec<CardPublic>,
}

const ROLES: &[(&str, Role)] =
    &[("viewer", Role::Viewer), ("editor", Role::Editor), ("runner", Role::Runner)];

impl Read for ShareCreate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let role = fields.optional("role", choice(ROLES));
        let email = fields.optional("email", input::email);
        let (role, email) = (role?.unwrap_or(Role::Viewer), email?);
        if email.is_none() && role != Role::Viewer {
            fields.refuse(
                "role",
                Complaint::value("a link is only for viewers; name a user by `email`"),
            );
        }
        Some(Self { role, email })
    }
}

impl From<Share> for SharePublic {
    fn from(share: Share) -> Self {
        let Share { id, book_id, role, slug, user_id, email, created_at } = share;
        Self { id, book_id, role, slug, user_id, email, created_at }
    }
}

/// How a book is shared, newest first. For its owner.
#[utoipa::path(
    get,
    path = "/books/{book_id}/shares/",
    tag = "shares",
    operation_id = "shares-read_shares",
    params(("book_id" = Uuid, Path), Page),
    responses((status = 200, body = SharesPublic))
)]
pub(crate) async fn read_shares(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, query: page, .. }: Input<BookPath, Page>,
) -> Result<Json<SharesPublic>, Problem> {
    app.book(&me, path.book_id, Access::Own).await?;
    let (shares, count) = app.store.shares(path.book_id, page.skip, page.limit).await?;
    Ok(Json(SharesPublic { data: shares.into_iter().map(Into::into).collect(), count }))
}

/// Shares a book with a user, or by a link that anybody can read. For its owner.
#[utoipa::path(
    post,
    path = "/books/{book_id}/shares/",
    tag = "shares",
    operation_id = "shares-create_share",
    params(("book_id" = Uuid, Path)),
    request_body = ShareCreate,
    responses(
        (status = 200, body = SharePublic),
        (status = 409, body = crate::problem::ProblemBody, description = "It is shared so already."),
    )
)]
pub(crate) async fn create_share(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, body: Body(new), .. }: Input<BookPath, (), Body<ShareCreate>>,
) -> Result<Json<SharePublic>, Problem> {
    let book = app.book(&me, path.book_id, Access::Own).await?;
    let (slug, user) = match &new.email {
        None => (Some(random_secret("").map_err(Problem::internal)?), None),
        Some(email) => {
            let found = app.store.user_by_email(email).await?;
            let (user, _) = found.ok_or_else(|| Problem::not_found("User"))?;
            if user.id == book.owner_id {
                return Err(Problem::conflict("own_book", "The book is this user's own"));
            }
            (None, Some(user))
        }
    };
    let share = Share {
        id: Uuid::new_v4(),
        book_id: path.book_id,
        role: new.role,
        slug,
        user_id: user.as_ref().map(|user| user.id),
        email: user.map(|user| user.email),
        created_at: Moment::now(),
    };
    app.store.add_share(&share).await?;
    Ok(Json(share.into()))
}

/// Ends a share. For the owner of the book.
#[utoipa::path(
    delete,
    path = "/books/{book_id}/shares/{share_id}",
    tag = "shares",
    operation_id = "shares-delete_share",
    params(("book_id" = Uuid, Path), ("share_id" = Uuid, Path)),
    responses((status = 200, body = Message))
)]
pub(crate) async fn delete_share(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, .. }: Input<SharePath>,
) -> Result<Json<Message>, Problem> {
    app.book(&me, path.book_id, Access::Own).await?;
    match app.store.delete_share(path.book_id, path.share_id).await? {
        true => Ok(Message::new("Share deleted successfully")),
        false => Err(Problem::not_found("Share")),
    }
}

/// A book and its cards, for whoever has the link.
#[utoipa::path(
    get,
    path = "/shared/{slug}",
    tag = "shares",
    operation_id = "shares-read_shared_book",
    security(()),
    params(("slug" = String, Path)),
    responses((status = 200, body = SharedBook))
)]
pub(crate) async fn read_shared_book(
    State(app): State<Arc<App>>,
    Input { path, .. }: Input<SlugPath>,
) -> Result<Json<SharedBook>, Problem> {
    let book = app.store.shared_book(&path.slug).await?;
    let book = book.ok_or_else(|| Problem::not_found("Book"))?;
    let (cards, _) =
        app.store.cards(book.id, 0, i64::from(app.settings.max_cards_per_book)).await?;
    // Runs are for those who can run.
    let cards = cards.into_iter().map(|card| CardPublic::new(card, None)).collect();
    Ok(Json(SharedBook { book: book.into(), cards }))
}

impl From<ShareError> for Problem {
    fn from(error: ShareError) -> Self {
        match error {
            ShareError::Present => Self::conflict(
                "shared",
                "The book is shared with this user already; end that first",
            ),
            ShareError::Full => {
                Self::conflict("shares_full", "The book has as many shares as it may")
            }
            ShareError::Store(error) => error.into(),
        }
    }
}
