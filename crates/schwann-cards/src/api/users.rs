//! Users: one's own account, and all of them for superusers.

use std::{sync::Arc, time::Instant};

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{Message, UserPath},
    app::App,
    input::{self, Fields, Input, Json as Body, Page, Read, flag, text},
    moment::Moment,
    password,
    problem::Problem,
    signed_in::{LoggedIn, SignedIn, Superuser, too_often},
    store::{User, UserChange, UserError},
};

/// A user, as others see one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UserPublic {
    id: Uuid,
    email: String,
    full_name: Option<String>,
    is_active: bool,
    is_superuser: bool,
    created_at: Moment,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsersPublic {
    data: Vec<UserPublic>,
    /// Of all, not only of these.
    count: i64,
}

impl From<User> for UserPublic {
    fn from(user: User) -> Self {
        let User { id, email, full_name, is_active, is_superuser, created_at } = user;
        Self { id, email, full_name, is_active, is_superuser, created_at }
    }
}

#[derive(Debug, ToSchema)]
pub(crate) struct UserCreate {
    #[schema(format = Email, max_length = 255)]
    email: String,
    #[schema(min_length = 8, max_length = 128)]
    password: String,
    #[schema(max_length = 255)]
    full_name: Option<String>,
    #[schema(required = false, default = true)]
    is_active: bool,
    #[schema(required = false, default = false)]
    is_superuser: bool,
}

#[derive(Debug, ToSchema)]
pub(crate) struct UserRegister {
    #[schema(format = Email, max_length = 255)]
    email: String,
    #[schema(min_length = 8, max_length = 128)]
    password: String,
    #[schema(max_length = 255)]
    full_name: Option<String>,
}

#[derive(Debug, ToSchema)]
pub(crate) struct UserUpdate {
    #[schema(format = Email, max_length = 255)]
    email: Option<String>,
    #[schema(min_length = 8, max_length = 128)]
    password: Option<String>,
    #[schema(max_length = 255)]
    full_name: Option<String>,
    is_active: Option<bool>,
    is_superuser: Option<bool>,
}

#[derive(Debug, ToSchema)]
pub(crate) struct UserUpdateMe {
    #[schema(format = Email, max_length = 255)]
    email: Option<String>,
    #[schema(max_length = 255)]
    full_name: Option<String>,
}

#[derive(Debug, ToSchema)]
pub(crate) struct UpdatePassword {
    #[schema(min_length = 8, max_length = 128)]
    current_password: String,
    #[schema(min_length = 8, max_length = 128)]
    new_password: String,
}

fn new_password(value: &serde_json::Value) -> Result<String, input::Complaint> {
    text(password::LENGTH.0, password::LENGTH.1)(value)
}

impl Read for UserCreate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let email = fields.required("email", input::email);
        let password = fields.required("password", new_password);
        let full_name = fields.optional("full_name", text(0, 255));
        let is_active = fields.optional("is_active", flag);
        let is_superuser = fields.optional("is_superuser", flag);
        Some(Self {
            email: email?,
            password: password?,
            full_name: full_name?,
            is_active: is_active?.unwrap_or(true),
            is_superuser: is_superuser?.unwrap_or(false),
        })
    }
}

impl Read for UserRegister {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let email = fields.required("email", input::email);
        let password = fields.required("password", new_password);
        let full_name = fields.optional("full_name", text(0, 255));
        Some(Self { email: email?, password: password?, full_name: full_name? })
    }
}

impl Read for UserUpdate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let email = fields.optional("email", input::email);
        let password = fields.optional("password", new_password);
        let full_name = fields.optional("full_name", text(0, 255));
        let is_active = fields.optional("is_active", flag);
        let is_superuser = fields.optional("is_superuser", flag);
        Some(Self {
            email: email?,
            password: password?,
            full_name: full_name?,
            is_active: is_active?,
            is_superuser: is_superuser?,
        })
    }
}

impl Read for UserUpdateMe {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let email = fields.optional("email", input::email);
        let full_name = fields.optional("full_name", text(0, 255));
        Some(Self { email: email?, full_name: full_name? })
    }
}

impl Read for UpdatePassword {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let current_password = fields.required("current_password", new_password);
        let new_password = fields.required("new_password", new_password);
        Some(Self { current_password: current_password?, new_password: new_password? })
    }
}

/// All users, newest first. For superusers.
#[utoipa::path(
    get,
    path = "/users/",
    tag = "users",
    operation_id = "users-read_users",
    params(Page),
    responses((status = 200, body = UsersPublic))
)]
pub(crate) async fn read_users(
    State(app): State<Arc<App>>,
    _: Superuser,
    Input { query: page, .. }: Input<(), Page>,
) -> Result<Json<UsersPublic>, Problem> {
    let (users, count) = app.store.users("", page.skip, page.limit).await?;
    Ok(Json(UsersPublic { data: users.into_iter().map(Into::into).collect(), count }))
}

/// Adds a user. For superusers.
#[utoipa::path(
    post,
    path = "/users/",
    tag = "users",
    operation_id = "users-create_user",
    request_body = UserCreate,
    responses((status = 200, body = UserPublic))
)]
pub(crate) async fn create_user(
    State(app): State<Arc<App>>,
    _: Superuser,
    Input { body: Body(new), .. }: Input<(), (), Body<UserCreate>>,
) -> Result<Json<UserPublic>, Problem> {
    add(&app, new).await
}

/// Signs up, if the server allows that.
#[utoipa::path(
    post,
    path = "/users/signup",
    tag = "users",
    operation_id = "users-register_user",
    security(()),
    request_body = UserRegister,
    responses(
        (status = 200, body = UserPublic),
        (status = 400, body = crate::problem::ProblemBody, description = "The email has an account."),
        (status = 403, body = crate::problem::ProblemBody, description = "Nobody can sign up here."),
    )
)]
pub(crate) async fn register_user(
    State(app): State<Arc<App>>,
    request: axum::extract::Request,
) -> Result<Json<UserPublic>, Problem> {
    use axum::extract::FromRequest as _;
    let (parts, body) = request.into_parts();
    if !app.settings.signup {
        return Err(Problem::forbidden(
            "signup_disabled",
            "Open user registration is forbidden on this server",
        ));
    }
    let address = crate::signed_in::client_address(&parts, &app);
    app.logins.take(&format!("address {address}"), Instant::now()).map_err(too_often)?;
    let request = axum::extract::Request::from_parts(parts, body);
    let Input { body: Body(new), .. } =
        Input::<(), (), Body<UserRegister>>::from_request(request, &app).await?;
    let UserRegister { email, password, full_name } = new;
    add(&app, UserCreate { email, password, full_name, is_active: true, is_superuser: false }).await
}

async fn add(app: &App, new: UserCreate) -> Result<Json<UserPublic>, Problem> {
    let hash = app.passwords.hash(new.password).await?;
    let user = User {
        id: Uuid::new_v4(),
        email: new.email,
        full_name: new.full_name,
        is_active: new.is_active,
        is_superuser: new.is_superuser,
        created_at: Moment::now(),
    };
    match app.store.add_user(&user, &hash, app.settings.max_users).await {
        Ok(()) => Ok(Json(user.into())),
        // As the template has it: 400 for a new user, 409 for a changed one.
        Err(UserError::EmailTaken) => Err(Problem::bad_request(
            "email_taken",
            "The user with this email already exists in the system.",
        )),
        Err(error) => Err(error.into()),
    }
}

/// One's own account.
#[utoipa::path(
    get,
    path = "/users/me",
    tag = "users",
    operation_id = "users-read_user_me",
    responses((status = 200, body = UserPublic))
)]
pub(crate) async fn read_user_me(signed_in: SignedIn) -> Json<UserPublic> {
    Json(signed_in.user.into())
}

/// Changes one's own email or name.
#[utoipa::path(
    patch,
    path = "/users/me",
    tag = "users",
    operation_id = "users-update_user_me",
    request_body = UserUpdateMe,
    responses(
        (status = 200, body = UserPublic),
        (status = 409, body = crate::problem::ProblemBody, description = "Another user has this email."),
    )
)]
pub(crate) async fn update_user_me(
    State(app): State<Arc<App>>,
    LoggedIn(me): LoggedIn,
    Input { body: Body(new), .. }: Input<(), (), Body<UserUpdateMe>>,
) -> Result<Json<UserPublic>, Problem> {
    let change = UserChange { email: new.email, full_name: new.full_name, ..UserChange::default() };
    changed(&app, me.user.id, &change, Some(me.token.id)).await
}

/// Changes one's own password, and ends all other sessions.
#[utoipa::path(
    patch,
    path = "/users/me/password",
    tag = "users",
    operation_id = "users-update_password_me",
    request_body = UpdatePassword,
    responses((status = 200, body = Message))
)]
pub(crate) async fn update_password_me(
    State(app): State<Arc<App>>,
    LoggedIn(me): LoggedIn,
    Input { body: Body(new), .. }: Input<(), (), Body<UpdatePassword>>,
) -> Result<Json<Message>, Problem> {
    app.logins.take(&format!("email {}", me.user.email), Instant::now()).map_err(too_often)?;
    let hash = app.store.password_hash(me.user.id).await?;
    if !app.passwords.matches(new.current_password.clone(), hash).await? {
        return Err(Problem::bad_request("wrong_password", "Incorrect password"));
    }
    if new.current_password == new.new_password {
        return Err(Problem::bad_request(
            "same_password",
            "New password cannot be the same as the current one",
        ));
    }
    let hash = app.passwords.hash(new.new_password).await?;
    let change = UserChange { password_hash: Some(hash), ..UserChange::default() };
    let Json(_) = changed(&app, me.user.id, &change, Some(me.token.id)).await?;
    Ok(Message::new("Password updated successfully"))
}

/// Removes one's own account with all that is in it. Not for superusers.
#[utoipa::path(
    delete,
    path = "/users/me",
    tag = "users",
    operation_id = "users-delete_user_me",
    responses((status = 200, body = Message))
)]
pub(crate) async fn delete_user_me(
    State(app): State<Arc<App>>,
    LoggedIn(me): LoggedIn,
) -> Result<Json<Message>, Problem> {
    if me.user.is_superuser {
        return Err(Problem::forbidden(
            "own_account",
            "Super users are not allowed to delete themselves",
        ));
    }
    app.store.delete_user(me.user.id).await?;
    Ok(Message::new("User deleted successfully"))
}

/// A user: oneself, or any for superusers.
#[utoipa::path(
    get,
    path = "/users/{user_id}",
    tag = "users",
    operation_id = "users-read_user_by_id",
    params(("user_id" = Uuid, Path)),
    responses((status = 200, body = UserPublic))
)]
pub(crate) async fn read_user_by_id(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, .. }: Input<UserPath>,
) -> Result<Json<UserPublic>, Problem> {
    if path.user_id != me.user.id && !me.user.is_superuser {
        return Err(Problem::forbidden("not_superuser", "The user doesn't have enough privileges"));
    }
    let user = app.store.user(path.user_id).await?;
    Ok(Json(user.ok_or_else(|| Problem::not_found("User"))?.into()))
}

/// Changes a user, for superusers. This is also how a forgotten password is replaced: no mail is sent from here.
#[utoipa::path(
    patch,
    path = "/users/{user_id}",
    tag = "users",
    operation_id = "users-update_user",
    params(("user_id" = Uuid, Path)),
    request_body = UserUpdate,
    responses(
        (status = 200, body = UserPublic),
        (status = 409, body = crate::problem::ProblemBody, description = "Another user has this email, or no superuser would be left."),
    )
)]
pub(crate) async fn update_user(
    State(app): State<Arc<App>>,
    Superuser(me): Superuser,
    Input { path, body: Body(new), .. }: Input<UserPath, (), Body<UserUpdate>>,
) -> Result<Json<UserPublic>, Problem> {
    let password_hash = match new.password {
        Some(password) => Some(app.passwords.hash(password).await?),
        None => None,
    };
    let change = UserChange {
        email: new.email,
        full_name: new.full_name,
        password_hash,
        is_active: new.is_active,
        is_superuser: new.is_superuser,
    };
    changed(&app, path.user_id, &change, Some(me.token.id)).await
}

/// Removes a user with all that is theirs. For superusers, and not of themselves.
#[utoipa::path(
    delete,
    path = "/users/{user_id}",
    tag = "users",
    operation_id = "users-delete_user",
    params(("user_id" = Uuid, Path)),
    responses((status = 200, body = Message))
)]
pub(crate) async fn delete_user(
    State(app): State<Arc<App>>,
    Superuser(me): Superuser,
    Input { path, .. }: Input<UserPath>,
) -> Result<Json<Message>, Problem> {
    if path.user_id == me.user.id {
        return Err(Problem::forbidden(
            "own_account",
            "Super users are not allowed to delete themselves",
        ));
    }
    match app.store.delete_user(path.user_id).await? {
        true => Ok(Message::new("User deleted successfully")),
        false => Err(Problem::not_found("User")),
    }
}

async fn changed(
    app: &App,
    id: Uuid,
    change: &UserChange,
    keep: Option<Uuid>,
) -> Result<Json<UserPublic>, Problem> {
    let user = app.store.change_user(id, change, keep).await?;
    Ok(Json(user.ok_or_else(|| Problem::not_found("User"))?.into()))
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        match error {
            UserError::EmailTaken => {
                Self::conflict("email_taken", "User with this email already exists")
            }
            UserError::Full => {
                Self::forbidden("users_full", "This server has as many users as it may")
            }
            UserError::LastSuperuser => {
                Self::conflict("last_superuser", "There must be one active superuser at least")
            }
            UserError::Store(error) => error.into(),
        }
    }
}
