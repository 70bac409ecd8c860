//! What those who guess, those who flood and other sites are kept from, and how long a key opens anything.

use bytes::Bytes;
use http::{Method, header};
use http_body_util::Full;
use schwann_process::Span;
use serde_json::{Value, json};

use crate::client::{Answer, EMAIL, PASSWORD, Site};

/// Trusts this machine as a proxy, so that a client here has the address that it says.
async fn behind_a_proxy(change: impl FnOnce(&mut schwann_cards::CardsSettings)) -> Site {
    Site::start_with(|settings| {
        settings.trusted_proxies = vec![[127, 0, 0, 1].into()];
        change(settings);
    })
    .await
}

/// A log-in with further headers.
async fn log_in(site: &Site, email: &str, headers: &[(&str, &str)]) -> Answer {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("username", email)
        .append_pair("password", PASSWORD)
        .finish();
    let mut request = site
        .request(Method::POST, "/login/access-token")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    site.send(request.body(Full::from(form)).unwrap()).await
}

async fn get_from(site: &Site, address: &str, token: Option<&str>) -> u16 {
    let mut request = site.request(Method::GET, "/users/me").header("x-forwarded-for", address);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    site.send(request.body(Full::default()).unwrap()).await.status.as_u16()
}

#[tokio::test]
async fn a_log_in_ends_when_its_time_is_over() {
    let site = Site::start_with(|settings| settings.session = Span::from_secs(3)).await;
    let token = site.superuser().await;
    site.get("/users/me", &token).await.expect(200);
    let ended = async {
        loop {
            let answer = site.get("/users/me", &token).await;
            if answer.status != 200 {
                return answer.refusal(403);
            }
        }
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), ended).await;
    assert_eq!(ended.expect("it is good for ever"), "invalid_token");
}

#[tokio::test]
async fn a_user_who_was_deactivated_cannot_go_on_by_an_api_token() {
    let site = Site::start().await;
    let (superuser, ann) = (site.superuser().await, site.user("ann@example.com").await);
    let token = site.post("/users/me/tokens/", &ann, json!({"name": "a"})).await.expect(200);
    let token = token["token"].as_str().unwrap();
    let id = site.get("/users/me", token).await.expect(200)["id"].as_str().unwrap().to_owned();
    let path = format!("/users/{id}");
    site.patch(&path, &superuser, json!({"is_active": false})).await.expect(200);
    assert_eq!(site.get("/books/", token).await.refusal(400), "inactive_user");
    // A session is gone for good, and a token is good again when its user is.
    site.patch(&path, &superuser, json!({"is_active": true})).await.expect(200);
    assert_eq!(site.get("/books/", &ann).await.refusal(403), "invalid_token");
    site.get("/books/", token).await.expect(200);
}

#[tokio::test]
async fn guesses_are_limited_for_each_address_whichever_email_they_name() {
    let site = behind_a_proxy(|settings| settings.logins_per_minute = 3).await;
    let from = |email: String, address| {
        let site = &site;
        async move { log_in(site, &email, &[("x-forwarded-for", address)]).await }
    };
    for number in 0..3 {
        from(format!("{number}@example.com"), "192.0.2.1").await.expect(400);
    }
    assert_eq!(from(EMAIL.to_owned(), "192.0.2.1").await.refusal(429), "rate_limit");
    from(EMAIL.to_owned(), "192.0.2.2").await.expect(200);
}

#[tokio::test]
async fn guesses_are_limited_for_each_email_wherever_they_come_from() {
    let site = behind_a_proxy(|settings| settings.logins_per_minute = 3).await;
    for number in 0..3 {
        let address = format!("192.0.2.{number}");
        log_in(&site, "Ann@example.com", &[("x-forwarded-for", &address)]).await.expect(400);
    }
    let fourth = log_in(&site, "ann@Example.com", &[("x-forwarded-for", "192.0.2.9")]).await;
    assert_eq!(fourth.refusal(429), "rate_limit");
    log_in(&site, EMAIL, &[("x-forwarded-for", "192.0.2.9")]).await.expect(200);
}

#[tokio::test]
async fn an_address_that_a_client_makes_up_is_not_believed() {
    let site = Site::start_with(|settings| settings.logins_per_minute = 3).await;
    for number in 0..3 {
        let address = format!("192.0.2.{number}");
        let email = format!("{number}@example.com");
        log_in(&site, &email, &[("x-forwarded-for", &address)]).await.expect(400);
    }
    let fourth = log_in(&site, EMAIL, &[("x-forwarded-for", "192.0.2.9")]).await;
    assert_eq!(fourth.refusal(429), "rate_limit");
}

#[tokio::test]
async fn a_made_up_hop_before_a_trusted_proxy_is_not_believed() {
    let site = behind_a_proxy(|settings| settings.logins_per_minute = 3).await;
    for number in 0..3 {
        // What the proxy itself saw stands last.
        let hops = format!("192.0.2.{number}, 198.51.100.7");
        let email = format!("{number}@example.com");
        log_in(&site, &email, &[("x-forwarded-for", &hops)]).await.expect(400);
    }
    let hops = [("x-forwarded-for", "192.0.2.9, 198.51.100.7")];
    assert_eq!(log_in(&site, EMAIL, &hops).await.refusal(429), "rate_limit");
}

#[tokio::test]
async fn who_is_not_signed_in_is_limited_by_address() {
    for token in [None, Some("cs_guessed")] {
        let site = behind_a_proxy(|settings| settings.requests_per_minute = 10).await;
        let refused = if token.is_some() { 403 } else { 401 };
        for _ in 0..10 {
            assert_eq!(get_from(&site, "192.0.2.1", token).await, refused);
        }
        assert_eq!(get_from(&site, "192.0.2.1", token).await, 429, "{token:?}");
        assert_eq!(get_from(&site, "192.0.2.2", token).await, refused, "{token:?}");
    }
}

#[tokio::test]
async fn signing_up_and_trying_old_passwords_are_limited() {
    let site = behind_a_proxy(|settings| {
        settings.signup = true;
        settings.logins_per_minute = 3;
    })
    .await;
    let sign_up = |number: u32, address: &'static str| {
        let new = json!({"email": format!("{number}@example.com"), "password": PASSWORD});
        let request = site
            .request(Method::POST, "/users/signup")
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-forwarded-for", address);
        site.send(request.body(Full::new(Bytes::from(new.to_string()))).unwrap())
    };
    for number in 0..3 {
        sign_up(number, "192.0.2.1").await.expect(200);
    }
    assert_eq!(sign_up(3, "192.0.2.1").await.refusal(429), "rate_limit");
    sign_up(3, "192.0.2.2").await.expect(200);

    let answer = log_in(&site, "3@example.com", &[("x-forwarded-for", "192.0.2.3")]).await;
    let ann = answer.expect(200)["access_token"].as_str().unwrap().to_owned();
    let guess = json!({"current_password": "not the password", "new_password": "battery staple"});
    let mut codes = Vec::new();
    for _ in 0..4 {
        let answer = site.patch("/users/me/password", &ann, guess.clone()).await;
        codes.push(answer.status.as_u16());
    }
    assert_eq!(codes, [400, 400, 429, 429], "with the log-in they are three");
}

#[tokio::test]
async fn a_password_has_eight_characters_at_least_wherever_it_is_set() {
    let site = Site::start_with(|settings| settings.signup = true).await;
    let superuser = site.superuser().await;
    let id = site.get("/users/me", &superuser).await.expect(200)["id"].as_str().unwrap().to_owned();
    let at = |answer: Answer| answer.expect(422)["detail"][0]["loc"].clone();
    let new = json!({"email": "ann@example.com", "password": "seven c"});
    let signed_up = site.ask(Method::POST, "/users/signup", None, Some(new.clone())).await;
    assert_eq!(at(signed_up), json!(["body", "password"]));
    assert_eq!(at(site.post("/users/", &superuser, new).await), json!(["body", "password"]));
    let short = json!({"password": "seven c"});
    let changed = site.patch(&format!("/users/{id}"), &superuser, short).await;
    assert_eq!(at(changed), json!(["body", "password"]));
    let own = json!({"current_password": PASSWORD, "new_password": "seven c"});
    let own = site.patch("/users/me/password", &superuser, own).await;
    assert_eq!(at(own), json!(["body", "new_password"]));
    site.log_in(EMAIL, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn another_site_can_neither_log_a_browser_in_nor_is_the_cookie_sent_in_the_clear() {
    let site = behind_a_proxy(|_| {}).await;
    for elsewhere in [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")] {
        let refused = log_in(&site, EMAIL, &[elsewhere]).await;
        assert!(!refused.headers.contains_key(header::SET_COOKIE));
        assert_eq!(refused.refusal(403), "cross_site");
    }
    let is_secure = |answer: &Answer| {
        answer.headers[header::SET_COOKIE]
            .to_str()
            .unwrap()
            .split("; ")
            .any(|part| part == "Secure")
    };
    let https = [("x-forwarded-proto", "https")];
    assert!(is_secure(&log_in(&site, EMAIL, &https).await), "what came by TLS stays there");
    assert!(!is_secure(&log_in(&site, EMAIL, &[]).await), "a browser would drop it");
    let direct = Site::start().await;
    assert!(!is_secure(&log_in(&direct, EMAIL, &https).await), "said by nobody who is trusted");
}

#[tokio::test]
async fn a_user_has_fifty_sessions_and_a_hundred_tokens_at_most() {
    let site = Site::start().await;
    let first = site.superuser().await;
    // The passwords of fifty log-ins take a while; they are compared side by side.
    futures_util::future::join_all((0..49).map(|_| site.superuser())).await;
    site.get("/users/me", &first).await.expect(200);
    let last = site.superuser().await;
    assert_eq!(site.get("/users/me", &first).await.refusal(403), "invalid_token", "the oldest");

    for number in 0..100 {
        let new = json!({"name": format!("{number}")});
        site.post("/users/me/tokens/", &last, new).await.expect(200);
    }
    let more = site.post("/users/me/tokens/", &last, json!({"name": "more"})).await;
    assert_eq!(more.refusal(409), "tokens_full");
}

#[tokio::test]
async fn what_a_token_may_do_with_runs_is_what_its_scopes_say() {
    let site = Site::start_with(|settings| {
        settings.sandbox = Some(schwann_process::Sandbox::None);
    })
    .await;
    let me = site.superuser().await;
    let book = site.book(&me, "A").await;
    let card = site.card(&me, &book, "print('as it was')").await;
    let token = |scopes: Value| {
        let new = json!({"name": "t", "scopes": scopes});
        let (site, me) = (&site, &me);
        async move {
            let made = site.post("/users/me/tokens/", me, new).await.expect(200);
            made["token"].as_str().unwrap().to_owned()
        }
    };
    let path = format!("{card}/run");
    let (reads, runs) =
        (token(json!(["read", "write"])).await, token(json!(["read", "run"])).await);
    assert_eq!(site.post(&path, &reads, json!({})).await.refusal(403), "scope");
    assert_eq!(site.post(&format!("{book}/run"), &reads, json!({})).await.refusal(403), "scope");
    let saving = site.post(&path, &runs, json!({"code": "print('changed')"})).await;
    assert_eq!(saving.refusal(403), "scope");
    assert_eq!(site.put(&card, &runs, json!({"code": "x"})).await.refusal(403), "scope");
    let ran = site.post(&path, &runs, json!({"code": "print(2)", "save": false})).await;
    assert_eq!((ran.status.as_u16(), &ran.body[..]), (200, &b"2\n"[..]));
    assert_eq!(site.get(&card, &me).await.expect(200)["code"], "print('as it was')");

    let run = site.get("/runs/", &me).await.expect(200)["data"][0]["id"].clone();
    let run = format!("/runs/{}", run.as_str().unwrap());
    for what in ["cancel", "stdin", "resize"] {
        let size = json!({"cols": 80, "rows": 24});
        let refused = site.post(&format!("{run}/{what}"), &reads, size).await;
        assert_eq!(refused.refusal(403), "scope", "{what}");
    }
    assert_eq!(site.delete(&run, &runs).await.refusal(403), "scope");
}
