use bytes::Bytes;
use http::{Method, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::client::{Answer, Site};

fn notebook() -> Value {
    json!({
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": ["# Hello\n", "world"]},
            {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [{"output_type": "stream"}], "source": "print(1)"},
        ],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4, "nbformat_minor": 5,
    })
}

async fn import(site: &Site, token: &str, kind: &str, body: impl Into<Bytes>) -> Answer {
    let request = site
        .request(Method::POST, "/books/import")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, kind);
    site.send(request.body(Full::new(body.into())).unwrap()).await
}

fn form(name: &str, content: &str) -> String {
    format!(
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n{content}\r\n--b--\r\n"
    )
}

#[tokio::test]
async fn a_notebook_comes_in_and_goes_out_in_every_form() {
    let site = Site::start().await;
    let me = site.superuser().await;
    let body = form("../../My notes.ipynb", &notebook().to_string());
    let book = import(&site, &me, "multipart/form-data; boundary=b", body).await.expect(200);
    assert_eq!(book["title"], "My notes");
    assert_eq!(book["card_count"], 2);
    let path = format!("/books/{}", book["id"].as_str().unwrap());
    let cards = site.get(&format!("{path}/cards/"), &me).await.expect(200);
    for (format, kind) in
        [("ipynb", "application/json"), ("json", "application/json"), ("md", "text/markdown")]
    {
        let file = site.get(&format!("{path}/export?format={format}"), &me).await;
        assert_eq!(file.status, 200);
        let name = file.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
        assert!(name.contains(&format!("filename=\"My notes.{format}\"")), "{name}");
        let again = import(&site, &me, kind, file.body).await.expect(200);
        assert_eq!(again["title"], "My notes", "{format}");
        let again = site
            .get(&format!("/books/{}/cards/", again["id"].as_str().unwrap()), &me)
            .await
            .expect(200);
        for place in 0..2 {
            for key in ["kind", "language", "code", "title", "settings"] {
                assert_eq!(again["data"][place][key], cards["data"][place][key], "{format} {key}");
            }
        }
    }
    assert_eq!(site.get(&format!("{path}/export?format=pdf"), &me).await.status, 422);
}

#[tokio::test]
async fn a_bad_notebook_is_refused_and_nothing_is_left_of_it() {
    let site = Site::start_with(|settings| settings.sample_book = false).await;
    let me = site.superuser().await;
    for (kind, body, code) in [
        ("application/json", "{\"nbformat\": 3}".to_owned(), "bad_notebook"),
        ("application/json", "{\"nbformat\": 4, \"cells\": [{}]}".to_owned(), "bad_notebook"),
        ("application/json", "nonsense".to_owned(), "bad_notebook"),
        ("application/json", String::new(), "bad_notebook"),
        ("text/markdown", "<!-- card {} -->\n".to_owned(), "bad_notebook"),
        ("multipart/form-data; boundary=b", form("a.json", "{}"), "bad_notebook"),
        ("multipart/form-data; boundary=b", "--b\r\nbroken".to_owned(), "bad_form"),
        ("multipart/form-data; boundary=b", "--b--\r\n".to_owned(), "bad_form"),
        ("multipart/form-data", form("a.json", "{}"), "bad_form"),
    ] {
        let refused = import(&site, &me, kind, body.clone()).await;
        assert_eq!(refused.refusal(400), code, "{kind}: {body}");
    }
    assert_eq!(import(&site, &me, "image/png", "x").await.refusal(415), "unsupported_media_type");
    assert_eq!(site.get("/books/", &me).await.expect(200)["count"], 0);
}
