use bytes::Bytes;
use http::{Method, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::client::{PASSWORD, Site};

#[tokio::test]
async fn a_book_is_made_found_changed_and_removed() {
    let site = Site::start().await;
    let me = site.superuser().await;
    for title in ["Alpha", "Beta", "Gamma 100%"] {
        site.book(&me, title).await;
    }
    let page = site.get("/books/?skip=1&limit=1", &me).await.expect(200);
    assert_eq!(page["count"], 4, "the sample book too: {page}");
    assert_eq!(page["data"][0]["title"], "Beta", "newest first: {page}");
    for (q, count) in [("gAmMa", 1), ("a", 3), ("100%25", 1), ("%25", 1), ("_", 0)] {
        let found = site.get(&format!("/books/?q={q}"), &me).await.expect(200);
        assert_eq!(found["count"], count, "{q}: {found}");
    }
    let book = site.book(&me, "Delta").await;
    let changed = site.put(&book, &me, json!({"description": "D"})).await.expect(200);
    assert_eq!((&changed["title"], &changed["description"]), (&json!("Delta"), &json!("D")));
    assert_eq!(changed["role"], "owner");
    site.delete(&book, &me).await.expect(200);
    assert_eq!(site.get(&book, &me).await.refusal(404), "not_found");
}

fn titles(cards: &Value) -> Vec<&str> {
    cards["data"].as_array().unwrap().iter().map(|card| card["title"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn cards_keep_their_order() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let book = site.book(&me, "A").await;
    let cards = format!("{book}/cards/");
    let mut ids = Vec::new();
    for (title, position) in [("b", None), ("c", None), ("a", Some(0)), ("d", Some(99))] {
        let card = json!({"title": title, "position": position});
        ids.push(site.post(&cards, &me, card).await.expect(200)["id"].clone());
    }
    let all = site.get(&cards, &me).await.expect(200);
    assert_eq!(titles(&all), ["a", "b", "c", "d"]);
    let positions: Vec<_> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| card["position"].as_i64().unwrap())
        .collect();
    assert_eq!(positions, [0, 1, 2, 3]);

    let order = json!({"ids": [ids[3], ids[1], ids[2], ids[0]]});
    let all = site.post(&format!("{cards}reorder"), &me, order).await.expect(200);
    assert_eq!(titles(&all), ["d", "c", "a", "b"]);
    for wrong in
        [json!([]), json!([ids[0], ids[1], ids[2]]), json!([ids[0], ids[0], ids[1], ids[2]])]
    {
        let refused = site.post(&format!("{cards}reorder"), &me, json!({"ids": wrong})).await;
        assert_eq!(refused.refusal(409), "other_cards");
    }
    site.delete(&format!("{cards}{}", ids[1].as_str().unwrap()), &me).await.expect(200);
    assert_eq!(titles(&site.get(&cards, &me).await.expect(200)), ["d", "a", "b"]);
    assert_eq!(site.get(&book, &me).await.expect(200)["card_count"], 3);
}

#[tokio::test]
async fn a_card_that_was_changed_meanwhile_is_not_overwritten() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let book = site.book(&me, "A").await;
    let card = site.card(&me, &book, "print(1)").await;
    let put = |version: &'static str, code: &'static str| {
        let request = site
            .request(Method::PUT, &card)
            .header(header::AUTHORIZATION, format!("Bearer {me}"))
            .header(header::IF_MATCH, version)
            .header(header::CONTENT_TYPE, "application/json");
        site.send(request.body(Full::new(Bytes::from(json!({"code": code}).to_string()))).unwrap())
    };
    let read = site.get(&card, &me).await;
    assert_eq!(read.headers[header::ETAG], "\"1\"");
    assert_eq!(put("\"1\"", "print(2)").await.expect(200)["version"], 2);
    assert_eq!(put("\"1\"", "print(3)").await.refusal(412), "version");
    assert_eq!(put("W/\"2\"", "print(2)").await.expect(200)["version"], 2, "nothing changed");
    assert_eq!(put("*", "print(4)").await.expect(200)["version"], 3);
    assert_eq!(put("\"abc\"", "print(5)").await.refusal(400), "bad_if_match");
    assert_eq!(site.get(&card, &me).await.expect(200)["code"], "print(4)");
    let delete = |version: &'static str| {
        let request = site
            .request(Method::DELETE, &card)
            .header(header::AUTHORIZATION, format!("Bearer {me}"))
            .header(header::IF_MATCH, version);
        site.send(request.body(Full::default()).unwrap())
    };
    assert_eq!(delete("\"2\"").await.refusal(412), "version");
    delete("\"3\"").await.expect(200);
    assert_eq!(site.get(&card, &me).await.refusal(404), "not_found");
}

#[tokio::test]
async fn only_what_may_change_of_a_card_changes() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let (book, other) = (site.book(&me, "A").await, site.book(&me, "B").await);
    let card = site.card(&me, &book, "print(1)").await;
    let before = site.get(&card, &me).await.expect(200);
    let id = |path: &str| path.rsplit('/').next().unwrap().to_owned();

    let elsewhere = json!({"code": "x", "book_id": id(&other)});
    let refused = site.put(&card, &me, elsewhere).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "book_id"]));
    let as_other = json!({"id": id(&other), "book_id": id(&other)});
    assert_eq!(
        site.put(&card, &me, as_other).await.expect(422)["detail"].as_array().unwrap().len(),
        2
    );
    // The seed's client sends the whole card.
    let mut whole = before.clone();
    whole["code"] = json!("print(2)");
    whole["version"] = json!(77);
    whole["position"] = json!(77);
    whole["kind"] = json!("markdown");
    let after = site.put(&card, &me, whole).await.expect(200);
    assert_eq!(after["code"], "print(2)");
    assert_eq!((&after["version"], &after["position"]), (&json!(2), &json!(0)));
    assert_eq!(after["kind"], "code");
}

#[tokio::test]
async fn many_changes_at_once_lose_nothing() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let book = site.book(&me, "A").await;
    let cards = format!("{book}/cards/");
    let all = (0..24).map(|n| {
        let (site, cards, me) = (&site, &cards, &me);
        async move {
            let card = json!({"title": n.to_string(), "position": 0});
            site.post(cards, me, card).await.expect(200);
        }
    });
    let mut waiting = Vec::new();
    for one in all {
        waiting.push(Box::pin(one));
    }
    // All are under way before the first is done.
    let mut left = waiting;
    std::future::poll_fn(|cx| {
        left.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if left.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    let all = site.get(&cards, &me).await.expect(200);
    assert_eq!(all["count"], 24);
    let positions: Vec<_> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| card["position"].as_i64().unwrap())
        .collect();
    assert_eq!(positions, (0..24).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_share_gives_its_role_and_no_more() {
    let site = Site::start().await;
    let (me, ann) = (site.superuser().await, site.user("ann@example.com").await);
    let book = site.book(&me, "A").await;
    let card = site.card(&me, &book, "print(1)").await;
    let shares = format!("{book}/shares/");
    let code = json!({"code": "print(2)"});

    assert_eq!(site.get(&book, &ann).await.refusal(404), "not_found");
    for (role, can_edit) in [("viewer", false), ("runner", false), ("editor", true)] {
        let share = json!({"email": "ann@example.com", "role": role});
        let share = site.post(&shares, &me, share.clone()).await.expect(200);
        assert_eq!(share["email"], "ann@example.com");
        assert_eq!(site.get(&book, &ann).await.expect(200)["role"], role);
        assert_eq!(site.get("/books/", &ann).await.expect(200)["count"], 1);
        site.get(&card, &ann).await.expect(200);
        let put = site.put(&card, &ann, code.clone()).await;
        assert_eq!(put.status, if can_edit { 200 } else { 403 }, "{role}");
        // What only the owner may do.
        assert_eq!(site.delete(&book, &ann).await.refusal(403), "role");
        assert_eq!(site.get(&shares, &ann).await.refusal(403), "role");
        let more = json!({"email": "ann@example.com"});
        assert_eq!(site.post(&shares, &me, more).await.refusal(409), "shared");
        let path = format!("{shares}{}", share["id"].as_str().unwrap());
        assert_eq!(site.delete(&path, &ann).await.refusal(403), "role");
        site.delete(&path, &me).await.expect(200);
        assert_eq!(site.get(&book, &ann).await.refusal(404), "not_found");
    }
    let nobody = json!({"email": "nobody@example.com"});
    assert_eq!(site.post(&shares, &me, nobody).await.refusal(404), "not_found");
}

#[tokio::test]
async fn a_link_is_read_by_anybody_until_it_ends() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let book = site.book(&me, "A").await;
    site.card(&me, &book, "print(1)").await;
    let shares = format!("{book}/shares/");
    site.post(&shares, &me, json!({"role": "editor"})).await.expect(422);
    let share = site.post(&shares, &me, json!({})).await.expect(200);
    let path = format!("/shared/{}", share["slug"].as_str().unwrap());
    let shared = site.ask(Method::GET, &path, None, None).await.expect(200);
    assert_eq!(shared["book"]["title"], "A");
    assert_eq!(shared["book"]["role"], "viewer");
    assert_eq!(shared["cards"][0]["code"], "print(1)");
    assert_eq!(site.get(&shares, &me).await.expect(200)["count"], 1);
    site.delete(&format!("{shares}{}", share["id"].as_str().unwrap()), &me).await.expect(200);
    assert_eq!(site.ask(Method::GET, &path, None, None).await.refusal(404), "not_found");
}

#[tokio::test]
async fn a_book_has_two_hundred_shares_at_most() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let shares = format!("{}/shares/", site.book(&me, "A").await);
    for _ in 0..200 {
        site.post(&shares, &me, json!({})).await.expect(200);
    }
    assert_eq!(site.post(&shares, &me, json!({})).await.refusal(409), "shares_full");
}

#[tokio::test]
async fn there_are_no_more_of_anything_than_may_be() {
    let site = Site::start_with(|settings| {
        settings.max_books_per_user = 2;
        settings.max_cards_per_book = 2;
        settings.max_users = 2;
        settings.sample_book = false;
        settings.max_code = schwann_process::ByteSize::new(100);
    })
    .await;
    let me = site.superuser().await;
    let book = site.book(&me, "A").await;
    site.book(&me, "B").await;
    assert_eq!(site.post("/books/", &me, json!({"title": "C"})).await.refusal(409), "books_full");
    site.card(&me, &book, "1").await;
    let card = site.card(&me, &book, "2").await;
    let third = site.post(&format!("{book}/cards/"), &me, json!({})).await;
    assert_eq!(third.refusal(409), "cards_full");
    let long = json!({"code": "x".repeat(101)});
    assert_eq!(site.put(&card, &me, long.clone()).await.refusal(413), "code_too_large");
    let run = format!("{card}/run");
    assert_eq!(site.post(&run, &me, long).await.refusal(413), "code_too_large");
    assert_eq!(site.get(&card, &me).await.expect(200)["code"], "2");
    site.user("ann@example.com").await;
    let third = json!({"email": "c@example.com", "password": PASSWORD});
    assert_eq!(site.post("/users/", &me, third).await.refusal(403), "users_full");
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let book = site.book(&me, "Kept").await;
    let site = site.restart().await;
    assert_eq!(site.get(&book, &me).await.expect(200)["title"], "Kept");
}
