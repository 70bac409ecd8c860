//! Publishing cards.

use std::sync::Arc;

use axum::{Json, extract::State};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    CardPath, Message,
    cards::{if_match, other_version},
};
use crate::{
    app::App,
    input::{Complaint, Fields, Input, Json as Body, Read, choice, flag, text},
    moment::Moment,
    problem::{Fault, Problem, Step},
    published::{Mount, Place, Publishing, Refused},
    signed_in::SignedIn,
    store::{Access, Face, NewPublication, Publication, PublishError},
};

/// How a card is published.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PublicationPublic {
    face: Face,
    /// What callers call it.
    name: String,
    /// Whether the answer is passed on as it is written. If not, it is one JSON object. Transforms always stream.
    stream: bool,
    /// Fields that callers hash, in order.
    hash: Vec<String>,
    /// Of a synapse: the hotkeys that may call it. Empty: every hotkey.
    allow: Vec<String>,
    follow: Follow,
    /// The version of the card that is called; null if that is the latest.
    version: Option<i64>,
    /// Where it is called. Null while it cannot be.
    url: Option<String>,
    /// A command that calls it, for a shell. Null while it cannot be called.
    command: Option<String>,
    /// Why it cannot be called now.
    unavailable: Option<String>,
    created_at: Moment,
    updated_at: Moment,
}

/// What is called once the card is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Follow {
    /// What was published, until it is published again.
    Version,
    /// The card as it is then, whoever changed it.
    Latest,
}

/// How a card is to be published.
#[derive(Debug, ToSchema)]
pub(crate) struct PublicationUpdate {
    face: Face,
    /// For a synapse letters, digits and `_`; for a transform also `-`.
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    name: String,
    /// Of a synapse. Default: false.
    stream: Option<bool>,
    /// Of a synapse: the fields that the callers' class hashes (`required_hash_fields`), in order. Default: none.
    #[schema(max_items = 64)]
    hash: Option<Vec<String>>,
    /// Of a synapse: the hotkeys that may call it, as SS58 addresses. Default, and if it is empty: every hotkey.
    #[schema(max_items = 256)]
    allow: Option<Vec<String>>,
    /// Default: `version`.
    follow: Option<Follow>,
}

/// Whether cards can be published here.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FacePublic {
    face: Face,
    available: bool,
    /// Why not, and which setting would change it.
    reason: Option<String>,
}

/// Callers that may be named for a card.
const MAX_ALLOWED: usize = 256;

const FACES: &[(&str, Face)] = &[("synapse", Face::Synapse), ("etl", Face::Etl)];
const FOLLOW: &[(&str, Follow)] = &[("version", Follow::Version), ("latest", Follow::Latest)];

fn name(value: &Value) -> Result<String, Complaint> {
    let name = text(1, 64)(value)?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match name.bytes().all(good) {
        true => Ok(name),
        false => Err(Complaint::new(
            "string_pattern_mismatch",
            "String should match pattern '^[A-Za-z0-9_-]{1,64}$'",
        )),
    }
}

impl Read for PublicationUpdate {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let face = fields.required("face", choice(FACES));
        let name = fields.required("name", name);
        let stream = fields.optional("stream", flag);
        let hash = fields.list("hash", 64, text(1, 128));
        let allow = fields.list("allow", MAX_ALLOWED, text(1, 128));
        let follow = fields.optional("follow", choice(FOLLOW));
        Some(Self {
            face: face?,
            name: name?,
            stream: stream?,
            hash: hash?,
            allow: allow?,
            follow: follow?,
        })
    }
}

impl PublicationPublic {
    pub(crate) fn new(publishing: &Publishing, publication: Publication) -> Self {
        let Publication { face, name, stream, hash, allow, fixed, created_at, updated_at, .. } =
            publication;
        let (mut url, mut command, mut unavailable) = (None, None, None);
        match publishing.place(face) {
            Place::Closed(why) => unavailable = Some(why.clone()),
            Place::Open(mount) => match mount.check(&name) {
                Ok(()) => {
                    url = Some(mount.url(&name));
                    command = Some(mount.command(&name, stream));
                }
                Err(Refused::Taken(why) | Refused::Unfit(why)) => unavailable = Some(why),
            },
        }
        Self {
            face,
            name,
            stream,
            hash,
            allow,
            follow: if fixed.is_some() { Follow::Version } else { Follow::Latest },
            version: fixed.map(|fixed| fixed.version),
            url,
            command,
            unavailable,
            created_at,
            updated_at,
        }
    }
}

impl FacePublic {
    /// All faces, and whether cards can be published there.
    pub(crate) fn all(publishing: &Publishing) -> Vec<Self> {
        let face = |&(_, face): &(&str, Face)| {
            let reason = match publishing.place(face) {
                Place::Open(_) => None,
                Place::Closed(why) => Some(why.clone()),
            };
            Self { face, available: reason.is_none(), reason }
        };
        FACES.iter().map(face).collect()
    }
}

/// These callers as the face writes them, each once; all faults at once.
fn callers(mount: &dyn Mount, named: Vec<String>) -> Result<Vec<String>, Problem> {
    let mut callers = Vec::new();
    let mut faults = Vec::new();
    for (place, named) in named.into_iter().enumerate() {
        match mount.caller(&named) {
            Ok(caller) if callers.contains(&caller) => {}
            Ok(caller) => callers.push(caller),
            Err(why) => faults.push(Fault {
                kind: "value_error",
                loc: vec![
                    Step::Name("body".to_owned()),
                    Step::Name("allow".to_owned()),
                    Step::Place(place),
                ],
                msg: format!("Value error, {why}"),
                input: named.into(),
                ctx: None,
            }),
        }
    }
    if faults.is_empty() { Ok(callers) } else { Err(Problem::faults(faults)) }
}

/// How a card is published. 404 if it is not.
#[utoipa::path(
    get,
    path = "/books/{book_id}/cards/{id}/publication",
    tag = "publications",
    operation_id = "publications-read_publication",
    params(("book_id" = Uuid, Path), ("id" = Uuid, Path)),
    responses((status = 200, body = PublicationPublic))
)]
pub(crate) async fn read_publication(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, .. }: Input<CardPath>,
) -> Result<Json<PublicationPublic>, Problem> {
    app.book(&me, path.book_id, Access::View).await?;
    app.store.card(path.book_id, path.id).await?.ok_or_else(|| Problem::not_found("Card"))?;
    let publication = app.store.publication(path.id).await?;
    let publication = publication.ok_or_else(|| Problem::not_found("Publication"))?;
    Ok(Json(PublicationPublic::new(&app.publishing, publication)))
}

/// Publishes a card, so that callers of another face run it: as a synapse of the axon that is served beside this application, or as a
/// transform of objects. It is called as it is now, and changes of the card do not change that; unless it follows the latest version.
/// A card is published once; publishing it again replaces that. Only the owner of the book can.
#[utoipa::path(
    put,
    path = "/books/{book_id}/cards/{id}/publication",
    tag = "publications",
    operation_id = "publications-publish_card",
    params(
        ("book_id" = Uuid, Path),
        ("id" = Uuid, Path),
        ("If-Match" = Option<String>, Header, description = "The version that is to be published, as `\"3\"`")
    ),
    request_body = PublicationUpdate,
    responses(
        (status = 200, body = PublicationPublic),
        (status = 409, body = crate::problem::ProblemBody, description = "Something else has this name (`name_taken`), \
            cards are not published here (`publishing_off`, which says what would change it), or too many are (`publications_full`)."),
        (status = 412, body = crate::problem::ProblemBody, description = "The card is at another version."),
    )
)]
pub(crate) async fn publish_card(
    State(app): State<Arc<App>>,
    me: SignedIn,
    headers: HeaderMap,
    Input { path, body: Body(new), .. }: Input<CardPath, (), Body<PublicationUpdate>>,
) -> Result<Json<PublicationPublic>, Problem> {
    app.book(&me, path.book_id, Access::Own).await?;
    let version = if_match(&headers)?;
    let mount = match app.publishing.place(new.face) {
        Place::Open(mount) => mount,
        Place::Closed(why) => return Err(Problem::conflict("publishing_off", why.clone())),
    };
    mount.check(&new.name).map_err(|refused| match refused {
        Refused::Taken(why) => Problem::conflict("name_taken", why),
        Refused::Unfit(why) => Problem::bad_request("bad_name", why),
    })?;
    let allow = callers(&**mount, new.allow.unwrap_or_default())?;
    let wanted = NewPublication {
        face: new.face,
        stream: new.face == Face::Etl || new.stream.unwrap_or(false),
        hash: new.hash.unwrap_or_default(),
        allow,
        latest: new.follow == Some(Follow::Latest),
        name: new.name,
    };
    let (book_id, id, now) = (path.book_id, path.id, Moment::now());
    let max = app.settings.max_publications;
    let publication = app.store.publish(book_id, id, wanted, version, max, now).await?;
    app.publishing.renew().await?;
    Ok(Json(PublicationPublic::new(&app.publishing, publication)))
}

/// Takes a published card back. Calls under way go on; new ones get 404. Only the owner of the book can.
#[utoipa::path(
    delete,
    path = "/books/{book_id}/cards/{id}/publication",
    tag = "publications",
    operation_id = "publications-unpublish_card",
    params(("book_id" = Uuid, Path), ("id" = Uuid, Path)),
    responses((status = 200, body = Message))
)]
pub(crate) async fn unpublish_card(
    State(app): State<Arc<App>>,
    me: SignedIn,
    Input { path, .. }: Input<CardPath>,
) -> Result<Json<Message>, Problem> {
    app.book(&me, path.book_id, Access::Own).await?;
    if !app.store.unpublish(path.book_id, path.id).await? {
        return Err(Problem::not_found("Publication"));
    }
    app.publishing.renew().await?;
    Ok(Message::new("Card is not published any more"))
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotFound => Self::not_found("Card"),
            PublishError::NotCode => Self::bad_request("not_code", "Text cannot be published"),
            PublishError::OtherVersion(version) => other_version(version),
            PublishError::Taken => {
                Self::conflict("name_taken", "Another card is published by this name")
            }
            PublishError::Full => Self::conflict(
                "publications_full",
                "As many cards are published as may be; `[cards] max_publications` is the limit",
            ),
            PublishError::Store(error) => error.into(),
        }
    }
}
