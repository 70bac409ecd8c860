//! The page: files that are built into this program.
//!
//! `cargo xtask up` builds them from `web/`. In a debug build they are read
//! from disk, so that building the page anew is enough.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Built;

/// What the built page has where the nonce of this answer belongs.
const NONCE_PLACE: &str = "__CSP_NONCE__";

/// Files below it are named for their content, so they never change.
const ASSETS: &str = "assets/";

const NOT_BUILT: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>The page is not built</title>
<h1>The page is not built</h1>
<p>This program was built without its page. The API works: see <a href=\"/docs/\">/docs</a>.</p>
<p>To build the page, with Node 20.19 or later:</p>
<pre>cargo xtask up</pre>
<p>or, in <code>crates/schwann-cards/web</code>, <code>npm ci</code> and <code>npm run build</code>, and then <code>cargo build</code>.</p>
</html>
";

/// The answer to a request for the page or one of its files.
///
/// None if the request is for something else: another method, a path of the API or of its documentation, or a file that is not there.
pub(crate) fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
    if method != Method::GET && method != Method::HEAD {
        return None;
    }
    let name = path.strip_prefix('/')?;
    let reserved = |folder: &str| {
        name.strip_prefix(folder).is_some_and(|r| r.is_empty() || r.starts_with('/'))
    };
    if reserved("api") || reserved("docs") {
        return None;
    }
    if name.starts_with(ASSETS) {
        return asset(name, headers);
    }
    if !name.is_empty()
        && name != "index.html"
        && !name.contains('/')
        && let Some(file) = Built::get(name)
    {
        return Some(plain_file(name, file));
    }
    // Every other address is one within the page, for whoever wants to see a page.
    if name.is_empty() || accepts_html(headers) {
        return Some(index());
    }
    None
}

fn index() -> Response {
    let Some(file) = Built::get("index.html") else {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        let policy = HeaderValue::from_static("default-src 'none'");
        let head = [(header::CONTENT_TYPE, html), (header::CONTENT_SECURITY_POLICY, policy)];
        return guarded(
            (StatusCode::SERVICE_UNAVAILABLE, head, NOT_BUILT).into_response(),
            "no-store",
        );
    };
    let mut random = [0; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        tracing::error!(%error, "the system gives no random bytes");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let nonce = hex::encode(random);
    let text = String::from_utf8_lossy(&file.data).replace(NONCE_PLACE, &nonce);
    let policy = HeaderValue::from_str(&policy(&nonce)).expect("hexadecimal digits and plain text");
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let head = [(header::CONTENT_TYPE, html), (header::CONTENT_SECURITY_POLICY, policy)];
    guarded((head, text).into_response(), "no-cache")
}

/// What the page may load, and where it may be shown (Content Security Policy, level 3).
fn policy(nonce: &str) -> String {
    // The editor adds its style sheet by script; it knows the nonce, others do not.
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; font-src 'self'; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

fn asset(name: &str, headers: &HeaderMap) -> Option<Response> {
    // A compressed file is only ever an answer to the name without its ending.
    let (_, ending) = name.rsplit_once('.')?;
    let kind = content_type(ending)?;
    let packed = ["br", "gzip"].into_iter().filter(|coding| accepts_coding(headers, coding));
    let packed = packed.map(|coding| (coding, if coding == "gzip" { "gz" } else { coding }));
    let mut found = packed
        .filter_map(|(coding, ending)| Some((coding, Built::get(&format!("{name}.{ending}"))?)));
    let (coding, file) = match found.next() {
        Some((coding, file)) => (Some(coding), file),
        None => (None, Built::get(name)?),
    };
    let mut response = Body::from(file.data.into_owned()).into_response();
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    head.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(coding) = coding {
        head.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    Some(guarded(response, "public, max-age=31536000, immutable"))
}

fn plain_file(name: &str, file: EmbeddedFile) -> Response {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let kind = content_type(ending).unwrap_or("application/octet-stream");
    let mut response = Body::from(file.data.into_owned()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    guarded(response, "public, max-age=3600")
}

/// What every answer of the page says.
fn guarded(mut response: Response, cache: &'static str) -> Response {
    for (name, value) in [
        (header::CACHE_CONTROL, cache),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn content_type(ending: &str) -> Option<&'static str> {
    Some(match ending {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        _ => return None,
    })
}

/// Whether `Accept` names HTML, and not only by `*/*`: programs send that.
fn accepts_html(headers: &HeaderMap) -> bool {
    listed(headers, &header::ACCEPT).any(|(name, wanted)| name == "text/html" && wanted)
}

fn accepts_coding(headers: &HeaderMap, coding: &str) -> bool {
    listed(headers, &header::ACCEPT_ENCODING).any(|(name, wanted)| name == coding && wanted)
}

/// The items of a list with weights, and whether each is wanted at all (RFC 9110 §12.4.2).
fn listed<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = (String, bool)> + 'a {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let wanted =
            weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        (name, wanted)
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    const BROWSER: &[(&str, &str)] = &[("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];

    #[test]
    fn only_browsers_that_look_for_a_page_get_it_for_any_address() {
        #[track_caller]
        fn check(
            method: Method,
            path: &str,
            pairs: &[(&'static str, &'static str)],
            is_page: bool,
        ) {
            let answer = answer(&method, path, &headers(pairs));
            assert_eq!(answer.is_some(), is_page, "{method} {path} {pairs:?}");
        }
        check(Method::GET, "/", &[], true);
        check(Method::HEAD, "/", BROWSER, true);
        check(Method::GET, "/books/1", BROWSER, true);
        check(Method::GET, "/apiary", BROWSER, true);
        check(Method::GET, "/books/1", &[], false);
        check(Method::GET, "/books/1", &[("accept", "*/*")], false);
        check(Method::GET, "/books/1", &[("accept", "text/html;q=0, */*")], false);
        check(Method::POST, "/books/1", BROWSER, false);
        check(Method::GET, "/api", BROWSER, false);
        check(Method::GET, "/api/v1/nothing", BROWSER, false);
        check(Method::GET, "/docs", BROWSER, false);
        check(Method::GET, "/docs/nothing", BROWSER, false);
        check(Method::GET, "/assets/nothing.js", BROWSER, false);
        check(Method::GET, "/assets/../../../Cargo.toml", BROWSER, false);
        check(Method::GET, "/assets/../../src/page.rs", BROWSER, false);
        check(Method::GET, "*", BROWSER, false);
    }

    #[tokio::test]
    async fn the_page_says_what_it_may_do_or_how_it_is_built() {
        let response = answer(&Method::GET, "/", &headers(BROWSER)).expect("the page");
        let status = response.status();
        let policy =
            response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        if Built::get("index.html").is_some() {
            assert_eq!(status, StatusCode::OK);
            assert!(!text.contains(NONCE_PLACE), "the nonce is filled in: {text}");
            let nonce =
                policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
            assert!(text.contains(nonce) && nonce.len() == 32, "{policy} {text}");
            assert_eq!(policy, super::policy(nonce));
        } else {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(text.contains("cargo xtask up"), "{text}");
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_is_shown_nowhere_else() {
        let policy = policy("0123");
        let parts: std::collections::BTreeSet<_> = policy.split("; ").collect();
        let expected = [
            "base-uri 'none'",
            "connect-src 'self'",
            "default-src 'none'",
            "font-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "img-src 'self' data:",
            "script-src 'self'",
            "style-src 'self' 'nonce-0123'",
        ];
        assert_eq!(parts, expected.into());
    }

    #[test]
    fn built_files_never_change_and_come_compressed() {
        // Without a built page there is nothing to look at; `cargo xtask test` builds it first.
        for name in Built::iter().filter(|name| name.starts_with(ASSETS) && name.ends_with(".js")) {
            let path = format!("/{name}");
            let get = |coding| {
                answer(&Method::GET, &path, &headers(&[("accept-encoding", coding)]))
                    .expect("it is there")
            };
            let response = get("gzip, br");
            let head = response.headers();
            assert_eq!(head[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
            assert_eq!(head[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
            if Built::get(&format!("{name}.br")).is_some() {
                assert_eq!(head[header::CONTENT_ENCODING], "br");
                assert_eq!(get("gzip, br;q=0").headers()[header::CONTENT_ENCODING], "gzip");
                assert!(!get("identity").headers().contains_key(header::CONTENT_ENCODING));
            }
        }
    }
}
