//! Cards behind other faces: who may publish what, and what callers then get. The faces here are stand-ins without a wire.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use http::Method;
use http_body::Frame;
use http_body_util::StreamBody;
use schwann::{Call, Error, Finished, RequestBody};
use schwann_cards::{
    Beside, CallingRun, CardsSettings, Mount, Outlet, Place, PublishedCall, PublishedCard,
    PublishedError, PublishedRun, Refused,
};
use schwann_process::Sandbox;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::Site;

/// What must happen, within a time that only a hang exceeds.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("within a minute")
}

/// A face that keeps what it is to serve.
#[derive(Default)]
struct Shelf(Mutex<Vec<PublishedCard>>);

impl Mount for Shelf {
    fn check(&self, name: &str) -> Result<(), Refused> {
        match name {
            "Ping" => Err(Refused::Taken("Ping is the axon's own".to_owned())),
            name if name.contains('-') => Err(Refused::Unfit("no dashes".to_owned())),
            _ => Ok(()),
        }
    }

    fn caller(&self, named: &str) -> Result<String, String> {
        match named.strip_prefix('5') {
            Some(rest) => Ok(format!("5{}", rest.to_uppercase())),
            None => Err(format!("`{named}` does not begin with 5")),
        }
    }

    fn serve(&self, cards: Vec<PublishedCard>) {
        *self.0.lock().unwrap() = cards;
    }

    fn url(&self, name: &str) -> String {
        format!("http://here/{name}")
    }

    fn command(&self, name: &str, streams: bool) -> String {
        format!("call {name}{}", if streams { " --stream" } else { "" })
    }
}

impl Shelf {
    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|card| card.name().to_owned()).collect()
    }

    fn card(&self, name: &str) -> PublishedCard {
        let cards = self.0.lock().unwrap();
        cards.iter().find(|card| card.name() == name).expect("mounted").clone()
    }
}

/// A site with a shelf for synapses and none for transforms.
struct Shop {
    site: Site,
    shelf: Arc<Shelf>,
    token: String,
    book: String,
}

impl Shop {
    async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    async fn open_with(change: impl FnOnce(&mut CardsSettings)) -> Self {
        let shelf = Arc::new(Shelf::default());
        let beside = Beside {
            synapse: Place::Open(Arc::clone(&shelf) as Arc<dyn Mount>),
            etl: Place::Closed("set `[cards] etl_listen`".to_owned()),
            outlet: Ok(Outlet::new("axon", outlet)),
        };
        let site = Site::start_beside(beside, |settings| {
            settings.sandbox = Some(Sandbox::None);
            change(settings);
        })
        .await;
        let token = site.superuser().await;
        let book = site.book(&token, "published").await;
        Self { site, shelf, token, book }
    }

    async fn card(&self, code: &str) -> String {
        self.card_with(json!({"language": "sh", "code": code})).await
    }

    async fn card_with(&self, card: Value) -> String {
        let card = self.site.post(&format!("{}/cards/", self.book), &self.token, card).await;
        format!("{}/cards/{}", self.book, card.expect(200)["id"].as_str().unwrap())
    }

    async fn publish(&self, card: &str, name: &str) -> Value {
        let body = json!({"face": "synapse", "name": name});
        self.site.put(&format!("{card}/publication"), &self.token, body).await.expect(200)
    }

    async fn runs(&self, card: &str) -> Value {
        self.site.get(&format!("{card}/runs/"), &self.token).await.expect(200)
    }

    /// The newest run of a card, once it has ended.
    async fn ended(&self, card: &str) -> Value {
        soon(async {
            loop {
                let run = self.runs(card).await["data"][0].clone();
                if run["status"] == "finished" {
                    return run;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

/// Answers with what it was asked, and whether it knows who asks.
async fn outlet(call: Call) -> Result<Finished, Error> {
    let (head, body, reply) = call.into_parts();
    let known = head.extensions.get::<CallingRun>().is_some();
    let asked = body.collect().await?;
    let said = format!("{} {known} {}", head.uri.path(), String::from_utf8_lossy(&asked));
    Ok(reply.send(http::StatusCode::OK, said))
}

/// A request's body that arrives as it is sent here.
fn arriving() -> (mpsc::Sender<Result<Bytes, Error>>, RequestBody) {
    let (sender, mut received) = mpsc::channel(1);
    let pieces = stream::poll_fn(move |cx| received.poll_recv(cx)).map_ok(Frame::data);
    (sender, RequestBody::from_body(StreamBody::new(pieces)))
}

async fn start(card: &PublishedCard, input: &'static str) -> Result<PublishedRun, PublishedError> {
    begin(card, RequestBody::from_bytes(input)).await
}

async fn begin(card: &PublishedCard, input: RequestBody) -> Result<PublishedRun, PublishedError> {
    let call = PublishedCall { caller: "5Caller".to_owned(), ..PublishedCall::default() };
    soon(card.start(call, input)).await
}

#[tokio::test]
async fn a_published_card_is_run_for_its_callers_and_stands_in_its_history() {
    let shop = Shop::open().await;
    let card = shop.card("tr a-z A-Z; echo \"from $WHO\"; echo unseen >&2").await;
    let said = shop.publish(&card, "Shout").await;
    assert_eq!(said["face"], "synapse");
    assert_eq!((&said["follow"], &said["version"]), (&json!("version"), &json!(1)));
    assert_eq!(
        (&said["url"], &said["command"]),
        (&json!("http://here/Shout"), &json!("call Shout"))
    );
    let given = PublishedCall {
        caller: "5Caller".to_owned(),
        proven: None,
        environment: vec![("WHO".to_owned(), "them".to_owned())],
    };
    let run = shop.shelf.card("Shout").start(given, RequestBody::from_bytes("hello ")).await;
    let run = run.unwrap();
    let id = run.id();
    assert_eq!(soon(run.collect()).await.unwrap(), "HELLO from them\n");
    let seen = shop.ended(&card).await;
    assert_eq!(seen["id"], json!(id));
    assert_eq!((&seen["face"], &seen["caller"]), (&json!("synapse"), &json!("5Caller")));
    assert_eq!((&seen["reason"], &seen["exit_code"]), (&json!("exit"), &json!(0)));
    let output = shop.site.get(&format!("/runs/{id}/output?stream=stderr"), &shop.token).await;
    assert_eq!(output.body, "unseen\n");
    let public = shop.site.get(&card, &shop.token).await.expect(200);
    assert_eq!(public["publication"]["name"], "Shout");
    let all = shop.site.get(&format!("{}/cards/", shop.book), &shop.token).await.expect(200);
    assert_eq!(all["data"][0]["publication"], public["publication"]);
}

#[tokio::test]
async fn what_was_published_stays_until_it_is_published_again() {
    let shop = Shop::open().await;
    let card = shop.card("echo one").await;
    shop.publish(&card, "Fixed").await;
    shop.site.put(&card, &shop.token, json!({"code": "echo two"})).await.expect(200);
    let called = || async {
        let run = start(&shop.shelf.card("Fixed"), "").await.unwrap();
        soon(run.collect()).await.unwrap()
    };
    assert_eq!(called().await, "one\n");
    let again = shop.publish(&card, "Fixed").await;
    assert_eq!((&again["version"], called().await), (&json!(2), Bytes::from("two\n")));
    let latest = json!({"face": "synapse", "name": "Fixed", "follow": "latest", "stream": true});
    let said = shop.site.put(&format!("{card}/publication"), &shop.token, latest).await.expect(200);
    assert_eq!((&said["version"], &said["command"]), (&Value::Null, &json!("call Fixed --stream")));
    shop.site.put(&card, &shop.token, json!({"code": "echo three"})).await.expect(200);
    assert_eq!(called().await, "three\n");
    let stale = shop
        .site
        .request(Method::PUT, &format!("{card}/publication"))
        .header("authorization", format!("Bearer {}", shop.token))
        .header("content-type", "application/json")
        .header("if-match", "\"2\"")
        .body(http_body_util::Full::from(r#"{"face": "synapse", "name": "Fixed"}"#))
        .unwrap();
    assert_eq!(shop.site.send(stale).await.refusal(412), "version");
}

#[tokio::test]
async fn a_card_that_is_taken_back_is_not_called_any_more_and_what_runs_ends_by_itself() {
    let shop = Shop::open().await;
    let card = shop.card("echo begun; read line; echo \"got $line\"").await;
    shop.publish(&card, "Gone").await;
    let published = shop.shelf.card("Gone");
    let (sender, body) = arriving();
    let mut run = begin(&published, body).await.unwrap();
    assert_eq!(soon(run.chunk()).await.unwrap().unwrap(), "begun\n");
    let taken_back = shop.site.delete(&format!("{card}/publication"), &shop.token).await;
    taken_back.expect(200);
    assert!(shop.shelf.names().is_empty());
    let refused = start(&published, "").await.unwrap_err();
    assert!(matches!(refused, PublishedError::Gone(_)), "{refused}");
    assert_eq!(refused.public().0, 404);
    sender.send(Ok(Bytes::from("more\n"))).await.unwrap();
    drop(sender);
    assert_eq!(soon(run.collect()).await.unwrap(), "got more\n");
    let path = format!("{card}/publication");
    assert_eq!(shop.site.get(&path, &shop.token).await.refusal(404), "not_found");
    assert_eq!(shop.site.delete(&path, &shop.token).await.refusal(404), "not_found");

    // So is one that is deleted, whoever still has it mounted.
    shop.publish(&card, "Gone").await;
    let published = shop.shelf.card("Gone");
    shop.site.delete(&card, &shop.token).await.expect(200);
    let refused = start(&published, "").await.unwrap_err();
    assert!(matches!(refused, PublishedError::Gone(_)), "{refused}");
}

#[tokio::test]
async fn only_the_owner_publishes_and_only_where_it_is_allowed() {
    let shop = Shop::open().await;
    let card = shop.card("echo mine").await;
    let path = format!("{card}/publication");
    let good = json!({"face": "synapse", "name": "Mine"});
    let editor = shop.site.user("editor@example.com").await;
    let share = json!({"role": "editor", "email": "editor@example.com"});
    shop.site.post(&format!("{}/shares/", shop.book), &shop.token, share).await.expect(200);
    assert_eq!(shop.site.put(&path, &editor, good.clone()).await.refusal(403), "role");
    let scope = json!({"name": "t", "scopes": ["read", "run"]});
    let reader = shop.site.post("/users/me/tokens/", &shop.token, scope).await.expect(200);
    let reader = reader["token"].as_str().unwrap_or_else(|| panic!("{reader}"));
    assert_eq!(shop.site.put(&path, reader, good.clone()).await.refusal(403), "scope");
    let site = shop.site.get("/utils/site", &shop.token).await.expect(200);
    assert_eq!(site["faces"][0], json!({"face": "synapse", "available": true, "reason": null}));
    assert_eq!(site["faces"][1]["available"], false);

    let off = shop.site.put(&path, &shop.token, json!({"face": "etl", "name": "Mine"})).await;
    assert!(off.json()["detail"].as_str().unwrap().contains("etl_listen"), "{off:?}");
    assert_eq!(off.refusal(409), "publishing_off");
    let named = |name: &str| json!({"face": "synapse", "name": name});
    assert_eq!(shop.site.put(&path, &shop.token, named("Ping")).await.refusal(409), "name_taken");
    assert_eq!(shop.site.put(&path, &shop.token, named("a-b")).await.refusal(400), "bad_name");
    for bad in ["", "a b", "a/b", "é", &"x".repeat(65)] {
        shop.site.put(&path, &shop.token, named(bad)).await.expect(422);
    }
    shop.publish(&card, "Mine").await;
    let other = shop.card("echo other").await;
    let taken = shop.site.put(&format!("{other}/publication"), &shop.token, good).await;
    assert_eq!(taken.refusal(409), "name_taken");
    let text = shop.card_with(json!({"kind": "markdown", "code": "# hi"})).await;
    let refused = shop.site.put(&format!("{text}/publication"), &shop.token, named("Text")).await;
    assert_eq!(refused.refusal(400), "not_code");
    assert_eq!(shop.site.delete(&path, &editor).await.refusal(403), "role");
    // What was refused has changed nothing.
    assert_eq!(shop.shelf.names(), ["Mine"]);
}

#[tokio::test]
async fn a_publication_is_reached_through_its_own_book_only() {
    let shop = Shop::open().await;
    let card = shop.card("echo mine").await;
    shop.publish(&card, "Mine").await;
    let eve = shop.site.user("eve@example.com").await;
    let book = shop.site.book(&eve, "Eve's").await;
    let path = format!("{book}/cards/{}/publication", card.rsplit('/').next().unwrap());
    let good = json!({"face": "synapse", "name": "Eves"});
    assert_eq!(shop.site.get(&path, &eve).await.refusal(404), "not_found");
    assert_eq!(shop.site.put(&path, &eve, good).await.refusal(404), "not_found");
    assert_eq!(shop.site.delete(&path, &eve).await.refusal(404), "not_found");
    let run = start(&shop.shelf.card("Mine"), "").await.unwrap();
    assert_eq!(soon(run.collect()).await.unwrap(), "mine\n");
}

#[tokio::test]
async fn cards_of_an_owner_who_was_deactivated_are_not_called() {
    let shop = Shop::open().await;
    let ann = shop.site.user("ann@example.com").await;
    let book = shop.site.book(&ann, "Ann's").await;
    let card = json!({"language": "sh", "code": "echo hers"});
    let card = shop.site.post(&format!("{book}/cards/"), &ann, card).await.expect(200);
    let path = format!("{book}/cards/{}/publication", card["id"].as_str().unwrap());
    let body = json!({"face": "synapse", "name": "Hers"});
    shop.site.put(&path, &ann, body).await.expect(200);
    let mounted = shop.shelf.card("Hers");
    let id = shop.site.get("/users/me", &ann).await.expect(200)["id"].clone();
    let user = format!("/users/{}", id.as_str().unwrap());
    let set = async |active: bool| {
        let change = json!({"is_active": active});
        shop.site.patch(&user, &shop.token, change).await.expect(200);
    };
    set(false).await;
    let refused = start(&mounted, "").await.unwrap_err();
    assert!(matches!(refused, PublishedError::Gone(_)), "{refused}");
    set(true).await;
    assert_eq!(soon(start(&mounted, "").await.unwrap().collect()).await.unwrap(), "hers\n");
}

#[tokio::test]
async fn only_callers_that_are_named_and_proven_make_a_run() {
    let shop = Shop::open().await;
    let card = shop.card("cat").await;
    let path = format!("{card}/publication");
    let publish = async |allow: Value| {
        let body = json!({"face": "synapse", "name": "Some", "allow": allow});
        shop.site.put(&path, &shop.token, body).await
    };
    let said = publish(json!(["5ann", "5bob", "5Ann"])).await.expect(200);
    assert_eq!(said["allow"], json!(["5ANN", "5BOB"]));
    assert_eq!(shop.site.get(&card, &shop.token).await.expect(200)["publication"], said);
    let mounted = shop.shelf.card("Some");
    assert_eq!(mounted.allow(), ["5ANN", "5BOB"]);
    let call = async |proven: Option<&str>| {
        let proven = proven.map(str::to_owned);
        let call = PublishedCall { caller: "5BOB".to_owned(), proven, ..PublishedCall::default() };
        let run = soon(mounted.start(call, RequestBody::from_bytes("in"))).await?;
        soon(run.collect()).await
    };
    assert_eq!(call(Some("5BOB")).await.unwrap(), "in");
    for stranger in [None, Some("5EVE"), Some("5bob"), Some("")] {
        let refused = call(stranger).await.unwrap_err();
        assert!(matches!(refused, PublishedError::NotAllowed { .. }), "{stranger:?}: {refused}");
        assert_eq!(refused.public().0, 403);
    }
    assert_eq!(shop.runs(&card).await["count"], 1, "a refused call is a run");

    // What the list is now counts, whatever was mounted before.
    publish(json!(["5eve"])).await.expect(200);
    let refused = call(Some("5BOB")).await.unwrap_err();
    assert!(matches!(refused, PublishedError::NotAllowed { .. }), "{refused}");
    assert_eq!(call(Some("5EVE")).await.unwrap(), "in");
    for everybody in [json!([]), Value::Null] {
        assert_eq!(publish(everybody).await.expect(200)["allow"], json!([]));
        assert_eq!(call(None).await.unwrap(), "in");
    }

    let bad = publish(json!(["5ann", "ann", "bob"])).await;
    let faults = bad.expect(422);
    assert_eq!(faults["detail"].as_array().unwrap().len(), 2, "{faults}");
    assert_eq!(faults["detail"][0]["loc"], json!(["body", "allow", 1]));
    assert_eq!(faults["detail"][0]["msg"], "Value error, `ann` does not begin with 5");
    for bad in [json!("5ann"), json!([5]), json!(vec!["5ann"; 257])] {
        publish(bad).await.expect(422);
    }
}

#[tokio::test]
async fn as_many_cards_are_published_and_called_as_may_be() {
    let shop = Shop::open_with(|settings| {
        settings.max_publications = 1;
        settings.max_published_running = 1;
    })
    .await;
    let card = shop.card("cat").await;
    shop.publish(&card, "One").await;
    let second = shop.card("cat").await;
    let body = json!({"face": "synapse", "name": "Two"});
    let full = shop.site.put(&format!("{second}/publication"), &shop.token, body).await;
    assert_eq!(full.refusal(409), "publications_full");
    let (_sender, body) = arriving();
    let held = begin(&shop.shelf.card("One"), body).await.unwrap();
    let busy = start(&shop.shelf.card("One"), "").await.unwrap_err();
    assert!(matches!(busy, PublishedError::Busy(_)), "{busy}");
    drop(held);
    let run = start(&shop.shelf.card("One"), "whole").await.unwrap();
    assert_eq!(soon(run.collect()).await.unwrap(), "whole");
}

#[tokio::test]
async fn a_program_that_fails_is_never_a_short_success() {
    let shop = Shop::open().await;
    let card = shop.card("echo half; echo because >&2; exit 3").await;
    shop.publish(&card, "Fails").await;
    let mut run = start(&shop.shelf.card("Fails"), "").await.unwrap();
    assert_eq!(soon(run.chunk()).await.unwrap().unwrap(), "half\n");
    for _ in 0..2 {
        let failed = soon(run.chunk()).await.unwrap_err();
        assert!(failed.to_string().contains("code 3; its last words: because"), "{failed}");
        assert_eq!(failed.public(), (http::StatusCode::INTERNAL_SERVER_ERROR, "the card failed"));
    }
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_program_and_cut_input_is_never_taken_for_all() {
    let shop = Shop::open().await;
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("whole");
    let code = format!("cat; echo done > {}; echo end", mark.display());
    let card = shop.card(&code).await;
    shop.publish(&card, "Left").await;
    let (sender, body) = arriving();
    let mut run = begin(&shop.shelf.card("Left"), body).await.unwrap();
    sender.send(Ok(Bytes::from("begin"))).await.unwrap();
    assert_eq!(soon(run.chunk()).await.unwrap().unwrap(), "begin");
    drop(run);
    let ended = shop.ended(&card).await;
    assert_eq!((&ended["reason"], &ended["signal"]), (&json!("cancelled"), &json!(9)));

    let (sender, body) = arriving();
    let mut run = begin(&shop.shelf.card("Left"), body).await.unwrap();
    sender.send(Ok(Bytes::from("begin"))).await.unwrap();
    assert_eq!(soon(run.chunk()).await.unwrap().unwrap(), "begin");
    let cut = Error::caller(http::StatusCode::REQUEST_TIMEOUT, "cut");
    sender.send(Err(cut)).await.unwrap();
    let cut = soon(run.chunk()).await.unwrap_err();
    assert!(matches!(cut, PublishedError::Input(_)), "{cut}");
    drop(run);
    assert_eq!(shop.ended(&card).await["reason"], "cancelled");
    assert!(!mark.exists(), "it took what it had for all");
}

#[tokio::test]
async fn nobody_else_feeds_a_call() {
    let shop = Shop::open().await;
    let card = shop.card("echo on; cat").await;
    shop.publish(&card, "Fed").await;
    let (sender, body) = arriving();
    let mut run = begin(&shop.shelf.card("Fed"), body).await.unwrap();
    assert_eq!(soon(run.chunk()).await.unwrap().unwrap(), "on\n");
    let request = shop
        .site
        .request(Method::POST, &format!("/runs/{}/stdin", run.id()))
        .header("authorization", format!("Bearer {}", shop.token))
        .body(http_body_util::Full::from("forged"))
        .unwrap();
    assert_eq!(shop.site.send(request).await.status, 409);
    drop(sender);
    assert_eq!(soon(run.collect()).await.unwrap(), "");
}

const ASKS: &str = "import http.client, os, socket
path = os.environ.get('SCHWANN_AXON')
print('path:', path is not None)
if path:
    class Here(http.client.HTTPConnection):
        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(path)
    here = Here('axon')
    here.request('POST', '/Echo', b'hi')
    print(here.getresponse().read().decode())
";

#[tokio::test]
async fn a_card_reaches_the_outlet_if_it_asks_for_it_and_it_is_open() {
    let shop = Shop::open().await;
    let asks = json!({"language": "python", "code": ASKS, "settings": {"axon": true}});
    let card = shop.card_with(asks).await;
    let run = format!("{card}/run");
    let said = shop.site.post(&run, &shop.token, json!({})).await;
    assert_eq!(said.body, "path: True\n/Echo true hi\n");
    let silent = shop.card_with(json!({"language": "python", "code": ASKS})).await;
    let said = shop.site.post(&format!("{silent}/run"), &shop.token, json!({})).await;
    assert_eq!(said.body, "path: False\n");
    // Nothing of it is left but the folder that all have, which is empty.
    let work = shop.site.data().join("data/work");
    let count = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().count();
    soon(async {
        while (count(&work), count(&work.join("empty"))) != (1, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let closed = Site::start_with(|settings| settings.sandbox = Some(Sandbox::None)).await;
    let token = closed.superuser().await;
    let book = closed.book(&token, "b").await;
    let asks = json!({"code": ASKS, "settings": {"axon": true}});
    let card = closed.post(&format!("{book}/cards/"), &token, asks).await.expect(200);
    let run = format!("{book}/cards/{}/run", card["id"].as_str().unwrap());
    assert_eq!(closed.post(&run, &token, json!({})).await.refusal(409), "outlet_unavailable");
}
