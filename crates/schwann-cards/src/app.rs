//! The application: its state, its start and its handler.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use schwann::Handler;
use tracing::warn;
use uuid::Uuid;

use crate::{
    api,
    metrics::CardsMetrics,
    moment::Moment,
    password::{self, Passwords},
    published::{Beside, Publishing},
    rate::RateLimit,
    runs::Runs,
    sample::sample_book,
    serve::Served,
    settings::CardsSettings,
    store::{Store, User},
};

/// Between two looks at what other servers with the same database have published.
const RENEWING: Duration = Duration::from_secs(5);

/// What every request may need.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) settings: CardsSettings,
    pub(crate) store: Store,
    pub(crate) runs: Runs,
    pub(crate) publishing: Publishing,
    pub(crate) passwords: Passwords,
    /// By address, and by email.
    pub(crate) logins: RateLimit<String>,
    /// By user, or by address.
    pub(crate) requests: RateLimit<String>,
}

/// The application, ready to serve.
#[derive(Debug)]
pub struct Application {
    app: Arc<App>,
    router: Router,
    first_password: Option<String>,
}

/// Why the application does not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    what: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StartError {
    pub(crate) fn new(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

impl Application {
    /// Opens data folder and database, brings the tables up to date, and makes the first superuser if there is none.
    ///
    /// # Errors
    ///
    /// Fails if the folder cannot be written, the database cannot be reached, or a setting cannot be used.
    pub async fn start(settings: CardsSettings) -> Result<Self, StartError> {
        Self::start_beside(settings, Beside::nothing()).await
    }

    /// As [`start`](Self::start), beside what cards can be published as and can call.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn start_beside(settings: CardsSettings, beside: Beside) -> Result<Self, StartError> {
        make_private_folder(&settings.data)?;
        let store = Store::open(&settings.data, settings.database.as_deref()).await;
        let store = store.map_err(|error| StartError::new("cannot open the database", error))?;
        let runs = Runs::open(&settings, store.clone(), beside.outlet.clone()).await;
        let runs = runs.map_err(|error| StartError::new("cannot take up the runs", error))?;
        let random = |error| StartError::new("the system gives no random bytes", error);
        let most = settings.max_published_running;
        let publishing = Publishing::new(store.clone(), runs.clone(), most, beside);
        let mut app = App {
            publishing,
            passwords: Passwords::new().map_err(random)?,
            logins: RateLimit::new(settings.logins_per_minute),
            requests: RateLimit::new(settings.requests_per_minute),
            store,
            runs,
            settings,
        };
        let first_password = first_superuser(&app).await?;
        // It is not needed any more.
        app.settings.first_superuser_password = None;
        let app = Arc::new(app);
        let renewed = app.publishing.renew().await;
        renewed.map_err(|error| StartError::new("cannot read what is published", error))?;
        let weak = Arc::downgrade(&app);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWING).await;
                let Some(app) = weak.upgrade() else { return };
                if let Err(error) = app.publishing.renew().await {
                    warn!(%error, "what is published cannot be read");
                }
            }
        });
        let router = api::router(Arc::clone(&app));
        Ok(Self { app, router, first_password })
    }

    /// The password that was made up for the first superuser, the first time only. Tell it to the operator.
    pub fn first_password(&mut self) -> Option<String> {
        self.first_password.take()
    }

    /// The application as a handler of the core.
    pub fn handler(&self) -> impl Handler + Clone {
        Served::new(self.router.clone())
    }

    /// What happens in it, as numbers.
    pub fn metrics(&self) -> CardsMetrics {
        CardsMetrics::new(self.app.runs.clone())
    }

    /// Closes the database, once nobody is served any more.
    pub async fn close(&self) {
        self.app.publishing.close();
        self.app.runs.close().await;
        self.app.store.close().await;
    }

    /// The OpenAPI document, as JSON.
    pub fn openapi() -> String {
        api::openapi_text()
    }
}

/// What runs print and what users write is nobody else's business on this machine.
fn make_private_folder(folder: &PathBuf) -> Result<(), StartError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let fail = |error: io::Error| {
        StartError::new(format!("cannot use the data folder {}", folder.display()), error)
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fail)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(fail)
}

/// Makes the first superuser if there is none. The password, if it was made up.
async fn first_superuser(app: &App) -> Result<Option<String>, StartError> {
    let fail = |error: Box<dyn std::error::Error + Send + Sync>| {
        StartError::new("cannot make the first superuser", error)
    };
    if app.store.has_superuser().await.map_err(|error| fail(error.into()))? {
        return Ok(None);
    }
    let settings = &app.settings;
    let email = crate::input::email(&serde_json::Value::from(settings.first_superuser.as_str()));
    let email = email.map_err(|_| {
        StartError::new(
            "cannot make the first superuser",
            "first_superuser must be an email address",
        )
    })?;
    let made_up = match &settings.first_superuser_password {
        Some(_) => None,
        None => Some(password::random_password().map_err(|error| fail(error.into()))?),
    };
    let password = made_up.clone().or_else(|| settings.first_superuser_password.clone());
    let password = password.unwrap_or_default();
    let (shortest, longest) = password::LENGTH;
    if !(shortest..=longest).contains(&password.chars().count()) {
        let error =
            format!("first_superuser_password must have {shortest} to {longest} characters");
        return Err(StartError::new("cannot make the first superuser", error));
    }
    let hash = app.passwords.hash(password).await;
    let hash = hash.map_err(|problem| fail(format!("{problem:?}").into()))?;
    let user = User {
        id: Uuid::new_v4(),
        email,
        full_name: None,
        is_active: true,
        is_superuser: true,
        created_at: Moment::now(),
    };
    let added = app.store.add_user(&user, &hash, u32::MAX).await;
    added.map_err(|error| fail(error.into()))?;
    if settings.sample_book {
        let (book, cards) = sample_book(user.id, Moment::now(), app.runs.outlet().is_ok());
        let added = app.store.add_book(&book, &cards, settings.max_books_per_user).await;
        added.map_err(|error| fail(error.into()))?;
    }
    Ok(made_up)
}
