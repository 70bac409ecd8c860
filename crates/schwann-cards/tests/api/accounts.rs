use bytes::Bytes;
use http::{Method, header};
use http_body_util::Full;
use serde_json::json;

use crate::client::{EMAIL, PASSWORD, Site};

#[tokio::test]
async fn the_first_superuser_logs_in_and_out() {
    let site = Site::start().await;
    let token = site.superuser().await;
    let me = site.get("/users/me", &token).await.expect(200);
    assert_eq!(me["email"], EMAIL);
    assert_eq!(me["is_superuser"], true);
    assert!(me.get("password_hash").is_none(), "{me}");
    assert_eq!(
        site.ask(Method::POST, "/login/test-token", Some(&token), None).await.expect(200),
        me
    );

    site.ask(Method::POST, "/login/logout", Some(&token), None).await.expect(200);
    assert_eq!(site.get("/users/me", &token).await.refusal(403), "invalid_token");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_email_are_told_the_same() {
    let site = Site::start().await;
    let wrong = site.log_in(EMAIL, "not the password").await.expect(400);
    let unknown = site.log_in("nobody@example.com", PASSWORD).await.expect(400);
    assert_eq!(wrong, unknown);
    assert_eq!(wrong["detail"], "Incorrect email or password");
}

#[tokio::test]
async fn nobody_and_a_bad_token_are_refused_as_the_template_does() {
    let site = Site::start().await;
    let nobody = site.ask(Method::GET, "/users/me", None, None).await;
    assert_eq!(nobody.headers[header::WWW_AUTHENTICATE], "Bearer");
    assert_eq!(nobody.expect(401)["detail"], "Not authenticated");
    let bad = site.get("/users/me", "cs_guessed").await.expect(403);
    assert_eq!(bad["detail"], "Could not validate credentials");
}

#[tokio::test]
async fn log_ins_are_limited() {
    let site = Site::start_with(|settings| settings.logins_per_minute = 3).await;
    for _ in 0..3 {
        site.log_in(EMAIL, "not the password").await.expect(400);
    }
    let refused = site.log_in(EMAIL, PASSWORD).await;
    let seconds: u64 = refused.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&seconds), "{seconds}");
    assert_eq!(refused.refusal(429), "rate_limit");
}

#[tokio::test]
async fn requests_are_limited_for_each_user() {
    let site = Site::start_with(|settings| settings.requests_per_minute = 20).await;
    let ann = site.user("ann@example.com").await;
    let mut answers = Vec::new();
    for _ in 0..25 {
        answers.push(site.get("/users/me", &ann).await.status.as_u16());
    }
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 20, "{answers:?}");
    assert_eq!(answers.last(), Some(&429));
    // Somebody else is not held back.
    let superuser = site.superuser().await;
    site.get("/users/me", &superuser).await.expect(200);
}

#[tokio::test]
async fn the_cookie_works_from_the_page_and_not_from_elsewhere() {
    let site = Site::start().await;
    let answer = site.log_in(EMAIL, PASSWORD).await;
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/api", "Max-Age=691200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap();
    let post = |headers: &[(&str, &str)]| {
        let mut request = site.request(Method::POST, "/books/").header(header::COOKIE, cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.header(header::CONTENT_TYPE, "application/json");
        site.send(request.body(Full::new(Bytes::from("{\"title\": \"A\"}"))).unwrap())
    };
    post(&[("sec-fetch-site", "same-origin")]).await.expect(200);
    post(&[("origin", &format!("http://{}", site.address()))]).await.expect(200);
    for elsewhere in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
        &[],
    ] {
        assert_eq!(post(elsewhere).await.refusal(403), "cross_site", "{elsewhere:?}");
    }
    let read = site.request(Method::GET, "/users/me").header(header::COOKIE, cookie);
    site.send(read.body(Full::default()).unwrap()).await.expect(200);
}

#[tokio::test]
async fn users_are_managed_by_superusers_only() {
    let site = Site::start().await;
    let superuser = site.superuser().await;
    let ann = site.user("Ann@Example.com").await;
    let me = site.get("/users/me", &ann).await.expect(200);
    assert_eq!(me["email"], "ann@example.com");
    let id = me["id"].as_str().unwrap();

    for (method, path) in [
        (Method::GET, "/users/".to_owned()),
        (Method::POST, "/users/".to_owned()),
        (Method::PATCH, format!("/users/{id}")),
        (Method::DELETE, format!("/users/{id}")),
    ] {
        let refused = site.ask(method, &path, Some(&ann), Some(json!({}))).await;
        assert_eq!(refused.refusal(403), "not_superuser", "{path}");
    }
    let all = site.get("/users/?limit=1", &superuser).await.expect(200);
    assert_eq!(all["count"], 2);
    assert_eq!(all["data"][0]["email"], "ann@example.com", "newest first: {all}");

    let again = json!({"email": "ann@example.com", "password": PASSWORD});
    assert_eq!(site.post("/users/", &superuser, again).await.refusal(400), "email_taken");
    let taken = json!({"email": EMAIL});
    assert_eq!(site.patch("/users/me", &ann, taken).await.refusal(409), "email_taken");

    let change = json!({"full_name": "Ann Lee", "password": "another password"});
    let changed = site.patch(&format!("/users/{id}"), &superuser, change).await.expect(200);
    assert_eq!(changed["full_name"], "Ann Lee");
    assert_eq!(site.get("/users/me", &ann).await.refusal(403), "invalid_token", "sessions end");
    let ann = site.token("ann@example.com", "another password").await;

    let off = json!({"is_active": false});
    site.patch(&format!("/users/{id}"), &superuser, off).await.expect(200);
    assert_eq!(site.get("/users/me", &ann).await.status, 403);
    assert_eq!(
        site.log_in("ann@example.com", "another password").await.refusal(400),
        "inactive_user"
    );
    site.delete(&format!("/users/{id}"), &superuser).await.expect(200);
    assert_eq!(site.delete(&format!("/users/{id}"), &superuser).await.refusal(404), "not_found");
}

#[tokio::test]
async fn the_last_superuser_stays() {
    let site = Site::start().await;
    let superuser = site.superuser().await;
    let id = site.get("/users/me", &superuser).await.expect(200)["id"].as_str().unwrap().to_owned();
    assert_eq!(site.delete("/users/me", &superuser).await.refusal(403), "own_account");
    assert_eq!(site.delete(&format!("/users/{id}"), &superuser).await.refusal(403), "own_account");
    for change in [json!({"is_superuser": false}), json!({"is_active": false})] {
        let refused = site.patch(&format!("/users/{id}"), &superuser, change).await;
        assert_eq!(refused.refusal(409), "last_superuser");
    }
    site.get("/users/", &superuser).await.expect(200);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let site = Site::start().await;
    let (here, there) = (site.superuser().await, site.superuser().await);
    let same = json!({"current_password": PASSWORD, "new_password": PASSWORD});
    assert_eq!(site.patch("/users/me/password", &here, same).await.refusal(400), "same_password");
    let wrong = json!({"current_password": "not the password", "new_password": "battery staple"});
    assert_eq!(site.patch("/users/me/password", &here, wrong).await.refusal(400), "wrong_password");
    let good = json!({"current_password": PASSWORD, "new_password": "battery staple"});
    site.patch("/users/me/password", &here, good).await.expect(200);
    site.get("/users/me", &here).await.expect(200);
    assert_eq!(site.get("/users/me", &there).await.refusal(403), "invalid_token");
    site.log_in(EMAIL, PASSWORD).await.expect(400);
    site.log_in(EMAIL, "battery staple").await.expect(200);
}

#[tokio::test]
async fn sign_up_is_closed_unless_it_is_opened() {
    let new = json!({"email": "ann@example.com", "password": PASSWORD, "is_superuser": true});
    let closed = Site::start().await;
    let refused = closed.ask(Method::POST, "/users/signup", None, Some(new.clone())).await;
    assert_eq!(refused.refusal(403), "signup_disabled");
    assert_eq!(
        closed.ask(Method::GET, "/utils/site", None, None).await.expect(200)["signup"],
        false
    );

    let open = Site::start_with(|settings| settings.signup = true).await;
    assert_eq!(open.ask(Method::GET, "/utils/site", None, None).await.expect(200)["signup"], true);
    let user = open.ask(Method::POST, "/users/signup", None, Some(new.clone())).await.expect(200);
    assert_eq!(user["is_superuser"], false, "not by one's own word");
    let again = open.ask(Method::POST, "/users/signup", None, Some(new)).await;
    assert_eq!(again.refusal(400), "email_taken");
    let ann = open.token("ann@example.com", PASSWORD).await;
    open.delete("/users/me", &ann).await.expect(200);
    assert_eq!(open.get("/users/me", &ann).await.refusal(403), "invalid_token");
}

#[tokio::test]
async fn an_api_token_does_what_its_scopes_say() {
    let site = Site::start().await;
    let session = site.superuser().await;
    let new = json!({"name": "reader", "scopes": ["read"]});
    let made = site.post("/users/me/tokens/", &session, new).await.expect(200);
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("cc_"), "{token}");

    site.get("/books/", token).await.expect(200);
    let refused = site.post("/books/", token, json!({"title": "A"})).await;
    assert_eq!(refused.refusal(403), "scope");
    // No token makes another, or changes the account.
    let more = site.post("/users/me/tokens/", token, json!({"name": "b"})).await;
    assert_eq!(more.refusal(403), "scope");
    let all = site.post("/users/me/tokens/", &session, json!({"name": "all"})).await.expect(200);
    let all = all["token"].as_str().unwrap();
    site.post("/books/", all, json!({"title": "A"})).await.expect(200);
    for path in ["/users/me/tokens/", "/users/"] {
        assert_eq!(site.get(path, all).await.refusal(403), "session_required", "{path}");
    }

    let list = site.get("/users/me/tokens/", &session).await.expect(200);
    assert_eq!(list["count"], 2);
    assert!(!list.to_string().contains("cc_"), "the secret is shown once: {list}");
    assert!(list["data"][1]["last_used_at"].is_string(), "{list}");
    let id = made["id"].as_str().unwrap();
    site.delete(&format!("/users/me/tokens/{id}"), &session).await.expect(200);
    assert_eq!(site.get("/books/", token).await.refusal(403), "invalid_token");
}

#[tokio::test]
async fn an_api_token_expires() {
    let site = Site::start().await;
    let session = site.superuser().await;
    let none = json!({"name": "n", "scopes": []});
    site.post("/users/me/tokens/", &session, none).await.expect(422);
    let day = json!({"name": "day", "expires_in_days": 1});
    let made = site.post("/users/me/tokens/", &session, day).await.expect(200);
    assert!(made["expires_at"].as_str() > made["created_at"].as_str(), "{made}");
}

#[tokio::test]
async fn a_made_up_password_is_told_once() {
    let data = tempfile::TempDir::new().unwrap();
    let settings = schwann_cards::CardsSettings {
        data: data.path().to_owned(),
        ..schwann_cards::CardsSettings::default()
    };
    let mut first = schwann_cards::Application::start(settings.clone()).await.unwrap();
    assert_eq!(first.first_password().map(|password| password.len()), Some(24));
    assert_eq!(first.first_password(), None);
    first.close().await;
    let mut second = schwann_cards::Application::start(settings).await.unwrap();
    assert_eq!(second.first_password(), None);
}
