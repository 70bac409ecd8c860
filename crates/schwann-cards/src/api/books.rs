//! Books.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    api::{BookPath, Message},
    app::App,
    input::{Fields, Input, Json as Body, Page, Read, text},
    moment::Moment,
    problem::Problem,
    signed_in::SignedIn,
    store::{Access, Book, BookChange},
};

/// A book, as one user sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BookPublic {
    id: Uuid,
    owner_id: Uuid,
    title: String,
    description: Option<String>,
    card_count: i64,
    /// What you may do with it.
    role: BookRole,
    created_at: Moment,
    updated_at: Moment,
}

/// What a user may do with a book. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BookRole {
    Viewer,
    Runner,
    Editor,
    Owner,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BooksPublic {
    data: Vec<BookPublic>,
    /// Of all, not only of these.
    count: i64,
}

#[derive(Debug, ToSchema)]
pub(crate) struct BookCreate {
    #[schema(min_length = 1, max_length = 255)]
    title: String,
    #[schema(max_length = 10000)]
    description: Option<String>,
}

#[derive(Debug, ToSchema)]
pub(crate) struct BookUpdate {
    #[schema(min_length = 1, max_length = 255)]
    title: Option<String>,
    #[schema(max_length = 10000)]
    description: Option<String>,
}

impl From<Book> for BookPublic {
    fn from(book: Book) -> Self {
        Self {
            id: book.id,
            owner_id: book.owner_id,
            title: book.title,
            description: book.description,
            card_count: book.card_count,
            role: match book.access {
                Access::View => BookRole::Viewer,
                Access::Run => BookRole::Runner,
                Access::Edit => BookRole::Editor,
                Access::Own => BookRole::Owner,
            },
            created_at: book.created_at,
            updated_at: book.updated_at,
        }
    }
}

impl Read for BookCreate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let title = fields.required("title", text(1, 255));
        let description = fields.optional("description", text(0, 10_000));
        Some(Self { title: title?, description: description? })
    }
}

impl Read for BookUpdate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let title = fields.optional("title", text(1, 255));
        let description = fields.optional("description", text(0, 10_000));
        Some(Self { title: title?, description: description? })
    }
}

/// Which books are wanted.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct BooksQuery {
    /// Only books with this text in the title.
    #[param(max_length = 255)]
    q: Option<String>,
}

/// The two parts of a query.
pub(crate) struct SearchedPage(BooksQuery, Page);

impl Read for SearchedPage {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let q = fields.optional("q", text(0, 255));
        let page = Page::read(fields);
        Some(Self(BooksQuery { q: q? }, page?))
    }
}

impl App {
    /// The book, for a user who may do this with it: 404 if the user may not even see it, 403 if that is all.
    pub(crate) async fn book(
        &self,
        signed_in: &SignedIn,
        id: Uuid,
        access: Access,
    ) -> Result<Book, Problem> {
        let book = self.store.book(signed_in.user.id, id).await?;
        let book = book.ok_or_else(|| Problem::not_found("Book"))?;
        if book.access < access {
            let role = match access {
                Access::View => "viewer",
                Access::Run => "runner",
                Access::Edit => "editor",
                Access::Own => "owner",
            };
            return Err(Problem::forbidden(
                "role",
                format!("Not enough permissions: this needs the role `{role}` for the book"),
            ));
        }
        Ok(book)
    }
}

/// A new book of this user.
pub(crate) fn new_book(owner_id: Uuid, title: String, description: Option<String>) -> Book {
    let now = Moment::now();
    Book {
        id: Uuid::new_v4(),
        owner_id,
        title,
        description,
        card_count: 0,
        created_at: now,
        updated_at: now,
        access: Access::Own,
    }
}

/// One's own books and those that are shared with one, newest first.
#[utoipa::path(
    get,
    path = "/books/",
    tag = "books",
    operation_id = "books-read_books",
    params(BooksQuery, Page),
    responses((status = 200, body = BooksPublic))
)]
pub(crate) async fn read_books(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { query: SearchedPage(search, page), .. }: Input<(), SearchedPage>,
) -> Result<Json<BooksPublic>, Problem> {
    let text = search.q.unwrap_or_default();
    let (books, count) = app.store.books(me.user.id, &text, page.skip, page.limit).await?;
    Ok(Json(BooksPublic { data: books.into_iter().map(Into::into).collect(), count }))
}

/// Makes a book.
#[utoipa::path(
    post,
    path = "/books/",
    tag = "books",
    operation_id = "books-create_book",
    request_body = BookCreate,
    responses(
        (status = 200, body = BookPublic),
        (status = 409, body = crate::problem::ProblemBody, description = "You have as many books as you may."),
    )
)]
pub(crate) async fn create_book(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { body: Body(new), .. }: Input<(), (), Body<BookCreate>>,
) -> Result<Json<BookPublic>, Problem> {
    let book = new_book(me.user.id, new.title, new.description);
    match app.store.add_book(&book, &[], app.settings.max_books_per_user).await? {
        true => Ok(Json(book.into())),
        false => Err(books_full()),
    }
}

pub(crate) fn books_full() -> Problem {
    Problem::conflict("books_full", "You have as many books as you may")
}

/// A book.
#[utoipa::path(
    get,
    path = "/books/{book_id}",
    tag = "books",
    operation_id = "books-read_book",
    params(("book_id" = Uuid, Path)),
    responses((status = 200, body = BookPublic))
)]
pub(crate) async fn read_book(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, .. }: Input<BookPath>,
) -> Result<Json<BookPublic>, Problem> {
    Ok(Json(app.book(&me, path.book_id, Access::View).await?.into()))
}

/// Changes what is set of title and description.
#[utoipa::path(
    put,
    path = "/books/{book_id}",
    tag = "books",
    operation_id = "books-update_book",
    params(("book_id" = Uuid, Path)),
    request_body = BookUpdate,
    responses((status = 200, body = BookPublic))
)]
pub(crate) async fn update_book(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, body: Body(new), .. }: Input<BookPath, (), Body<BookUpdate>>,
) -> Result<Json<BookPublic>, Problem> {
    app.book(&me, path.book_id, Access::Edit).await?;
    let change = BookChange { title: new.title, description: new.description };
    app.store.change_book(path.book_id, &change, Moment::now()).await?;
    Ok(Json(app.book(&me, path.book_id, Access::View).await?.into()))
}

/// Removes a book with its cards and shares. For its owner.
#[utoipa::path(
    delete,
    path = "/books/{book_id}",
    tag = "books",
    operation_id = "books-delete_book",
    params(("book_id" = Uuid, Path)),
    responses((status = 200, body = Message))
)]
pub(crate) async fn delete_book(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, .. }: Input<BookPath>,
) -> Result<Json<Message>, Problem> {
    app.book(&me, path.book_id, Access::Own).await?;
    match app.store.delete_book(path.book_id).await? {
        true => Ok(Message::new("Book deleted successfully")),
        false => Err(Problem::not_found("Book")),
    }
}
