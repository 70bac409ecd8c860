use bytes::Bytes;
use http::{Method, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::client::{Answer, Site};

async fn raw(site: &Site, path: &str, token: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
    let request = site
        .request(Method::POST, path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, kind);
    site.send(request.body(Full::new(body.into())).unwrap()).await
}

fn faults(body: &Value) -> Vec<(String, String)> {
    let one = |fault: &Value| {
        let loc: Vec<_> =
            fault["loc"].as_array().unwrap().iter().map(|step| step.to_string()).collect();
        (fault["type"].as_str().unwrap().to_owned(), loc.join(".").replace('"', ""))
    };
    body["detail"].as_array().unwrap().iter().map(one).collect()
}

#[tokio::test]
async fn all_faults_of_a_request_are_told_at_once() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let body =
        json!({"kind": "song", "title": 7, "language": "C Sharp", "position": -1, "settings": []});
    let refused = site.post("/books/not-an-id/cards/", &me, body).await.expect(422);
    assert_eq!(refused["code"], "validation");
    let expected = [
        ("uuid_parsing", "path.book_id"),
        ("enum", "body.kind"),
        ("string_type", "body.title"),
        ("string_pattern_mismatch", "body.language"),
        ("dict_type", "body.settings"),
        ("greater_than_equal", "body.position"),
    ];
    assert_eq!(faults(&refused), expected.map(|(kind, loc)| (kind.to_owned(), loc.to_owned())));

    let refused = site.get("/books/?skip=-1&limit=x", &me).await.expect(422);
    let expected = [("greater_than_equal", "query.skip"), ("int_parsing", "query.limit")];
    assert_eq!(faults(&refused), expected.map(|(kind, loc)| (kind.to_owned(), loc.to_owned())));
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused_for_what_it_is() {
    let site = Site::start().await;
    let me = site.superuser().await;
    for (body, kind) in [
        ("", "missing"),
        ("{", "json_invalid"),
        ("[]", "model_attributes_type"),
        ("null", "model_attributes_type"),
        ("{}", "missing"),
        ("{\"title\": \"\\ud800\"}", "json_invalid"),
        ("{\"title\": \"a\\u0000b\"}", "value_error"),
        ("{\"title\": \"\"}", "string_too_short"),
        ("{\"title\": null}", "string_type"),
    ] {
        let refused = raw(&site, "/books/", &me, "application/json", body).await.expect(422);
        assert_eq!(refused["detail"][0]["type"], kind, "{body}: {refused}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let refused = raw(&site, "/books/", &me, "application/json", deep).await.expect(422);
    assert_eq!(refused["detail"][0]["type"], "json_invalid");
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let refused = raw(&site, "/books/", &me, kind, "{\"title\": \"A\"}").await;
        assert_eq!(refused.refusal(415), "unsupported_media_type", "{kind}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_refused() {
    let site = Site::start_with(|settings| {
        settings.max_body = schwann_process::ByteSize::new(10_000);
    })
    .await;
    let me = site.superuser().await;
    let huge = format!("{{\"title\": \"{}\"}}", "x".repeat(20_000));
    let refused = raw(&site, "/books/", &me, "application/json", huge).await;
    assert_eq!(refused.refusal(413), "too_large");
    site.book(&me, "A").await;
}

#[tokio::test]
async fn names_are_only_names() {
    let site = Site::start().await;
    let me = site.superuser().await;
    for title in [
        "../../etc/passwd",
        "a/b\\c",
        "'; DROP TABLE books; --",
        "<script>alert(1)</script>",
        "日本 🧠",
    ] {
        let book = site.book(&me, title).await;
        assert_eq!(site.get(&book, &me).await.expect(200)["title"], title);
    }
    for path in
        ["/books/..%2f..%2fetc", "/books/%00", "/books/%ff", "/shared/..%2f..%2fcards.sqlite"]
    {
        let status = site.get(path, &me).await.status.as_u16();
        assert!(matches!(status, 404 | 422), "{path}: {status}");
    }
    let beside: Vec<_> =
        site.data().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["data"], "nothing beside the data folder");
}

#[tokio::test]
async fn a_log_in_that_is_no_form_is_refused() {
    let site = Site::start().await;
    let send = |kind: &'static str, body: &'static str| {
        let request =
            site.request(Method::POST, "/login/access-token").header(header::CONTENT_TYPE, kind);
        site.send(request.body(Full::new(Bytes::from(body))).unwrap())
    };
    let json = send("application/json", "{\"username\": \"a\", \"password\": \"b\"}").await;
    assert_eq!(json.refusal(415), "unsupported_media_type");
    let empty = send("application/x-www-form-urlencoded", "username=").await.expect(422);
    let expected = [("string_too_short", "body.username"), ("missing", "body.password")];
    assert_eq!(faults(&empty), expected.map(|(kind, loc)| (kind.to_owned(), loc.to_owned())));
}
