//! What belongs to one user is not there for another, whichever way it is asked for.

use http::Method;
use schwann_process::Sandbox;
use serde_json::{Value, json};

use crate::{client::Site, desk::soon};

/// The routes of the document that have an id in them, and those that are for everybody.
fn routes_with_ids(document: &Value) -> Vec<(Method, String)> {
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1").unwrap();
        if !path.contains('{') || path == "/shared/{slug}" || path == "/users/{user_id}" {
            continue;
        }
        for method in operations.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            routes.push((method, path.to_owned()));
        }
    }
    routes
}

#[tokio::test]
async fn anothers_things_are_not_found() {
    let site = Site::start_with(|settings| settings.sandbox = Some(Sandbox::None)).await;
    let (ann, eve) = (site.user("ann@example.com").await, site.user("eve@example.com").await);
    let book = site.book(&ann, "Ann's").await;
    let card = site.card(&ann, &book, "print('ann')").await;
    let share = site.post(&format!("{book}/shares/"), &ann, json!({})).await.expect(200);
    let token = site.post("/users/me/tokens/", &ann, json!({"name": "a"})).await.expect(200);
    site.post(&format!("{card}/run"), &ann, json!({})).await;
    let run = site.get("/runs/", &ann).await.expect(200)["data"][0]["id"].clone();
    let path = format!("/runs/{}", run.as_str().unwrap());
    soon(async {
        while site.get(&path, &ann).await.expect(200)["status"] != "finished" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let last = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let before = site.get(&card, &ann).await.expect(200);

    let document = site.ask(Method::GET, "/openapi.json", None, None).await.expect(200);
    let routes = routes_with_ids(&document);
    assert!(routes.len() > 10, "{routes:?}");
    for (method, route) in &routes {
        let id = match route {
            route if route.starts_with("/users/me/tokens") => {
                token["id"].as_str().unwrap().to_owned()
            }
            route if route.starts_with("/runs/") => run.as_str().unwrap().to_owned(),
            _ => last(&card),
        };
        let path = route
            .replace("{book_id}", &last(&book))
            .replace("{id}", &id)
            .replace("{share_id}", share["id"].as_str().unwrap());
        // A body that would be good, wherever one is asked for.
        let body = json!({"title": "Eve's", "code": "print('eve')", "ids": [last(&card)], "role": "viewer",
            "cols": 80, "rows": 24, "face": "synapse", "name": "Eves"});
        let body = (method != Method::GET).then_some(body);
        for who in [&eve, &site.superuser().await] {
            let answer = site.ask(method.clone(), &path, Some(who), body.clone()).await;
            assert_eq!(answer.status, 404, "{method} {route}: {:?}", answer.body);
        }
        let nobody = site.ask(method.clone(), &path, None, body.clone()).await;
        assert_eq!(nobody.status, 401, "{method} {route}");
    }
    assert_eq!(site.get(&card, &ann).await.expect(200), before, "nothing was changed");
    assert_eq!(site.get("/books/", &eve).await.expect(200)["count"], 0);
}

#[tokio::test]
async fn a_card_is_found_only_in_its_own_book() {
    let site = Site::start().await;
    let (ann, eve) = (site.user("ann@example.com").await, site.user("eve@example.com").await);
    let (anns, eves) = (site.book(&ann, "A").await, site.book(&eve, "E").await);
    let card = site.card(&ann, &anns, "print('ann')").await;
    let id = card.rsplit('/').next().unwrap();
    // Eve's book, Ann's card.
    let path = format!("{eves}/cards/{id}");
    for (method, body) in
        [(Method::GET, None), (Method::PUT, Some(json!({"code": "x"}))), (Method::DELETE, None)]
    {
        let answer = site.ask(method.clone(), &path, Some(&eve), body).await;
        assert_eq!(answer.refusal(404), "not_found", "{method}");
    }
    let order = json!({"ids": [id]});
    let refused = site.post(&format!("{eves}/cards/reorder"), &eve, order).await;
    assert_eq!(refused.refusal(409), "other_cards");
}

#[tokio::test]
async fn a_link_is_ended_through_its_own_book_only() {
    let site = Site::start().await;
    let (ann, eve) = (site.user("ann@example.com").await, site.user("eve@example.com").await);
    let (anns, eves) = (site.book(&ann, "A").await, site.book(&eve, "E").await);
    let share = site.post(&format!("{anns}/shares/"), &ann, json!({})).await.expect(200);
    // Eve's book, Ann's link.
    let path = format!("{eves}/shares/{}", share["id"].as_str().unwrap());
    assert_eq!(site.delete(&path, &eve).await.refusal(404), "not_found");
    let link = format!("/shared/{}", share["slug"].as_str().unwrap());
    site.ask(Method::GET, &link, None, None).await.expect(200);
}

#[tokio::test]
async fn a_user_sees_no_other_user() {
    let site = Site::start().await;
    let (ann, eve) = (site.user("ann@example.com").await, site.user("eve@example.com").await);
    let id = site.get("/users/me", &ann).await.expect(200)["id"].as_str().unwrap().to_owned();
    let path = format!("/users/{id}");
    site.get(&path, &ann).await.expect(200);
    assert_eq!(site.get(&path, &eve).await.refusal(403), "not_superuser");
}
