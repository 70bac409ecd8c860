//! What a request asks for: which object, from where, and where its result goes.

use std::{
    borrow::Cow,
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use http::{HeaderMap, Method, Uri, request::Parts, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use crate::{
    failure::{Failure, Stage},
    pipeline::Pipeline,
};

/// Where results go if not to the caller.
pub(crate) const NODE_URL: &str = "ais-node-url";

/// All but unreserved characters (RFC 3986 §2.3), `@` and `/`.
const IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@').remove(b'/');
/// The same without `/`: a whole name as one segment.
const IN_SEGMENT: &AsciiSet = &IN_PATH.add(b'/');

/// One object to be transformed.
#[derive(Debug)]
pub(crate) struct Question {
    /// As the transform sees it.
    pub(crate) path: String,
    /// The same as it stands in URLs, from the first slash on.
    escaped: PathAndQuery,
    pub(crate) etl_args: String,
    pub(crate) input: Input,
    pub(crate) pipeline: Option<Pipeline>,
}

/// Where the object's bytes are.
#[derive(Debug)]
pub(crate) enum Input {
    /// In the request.
    Body,
    /// In this file, by its absolute and normalised name.
    File(PathBuf),
    /// At the target, by the question's path.
    Target,
    /// Anywhere, for a download through this ETL.
    Url(Uri),
}

impl Question {
    /// Reads a `PUT` or `GET` of an object.
    pub(crate) fn of(head: &Parts) -> Result<Self, Failure> {
        let query = head.uri.query().unwrap_or_default();
        let etl_args = trimmed(parameter(query, "etl_args"));
        let fqn = parameter(query, "etl_fqn").unwrap_or_default();
        let input = match (fqn.trim_ascii(), &head.method) {
            (b"", &Method::GET) => Input::Target,
            (b"", _) => Input::Body,
            (fqn, _) => Input::File(file_name(fqn)?),
        };
        let escaped = match head.uri.path_and_query() {
            Some(whole) => whole.clone(),
            None => PathAndQuery::from_static("/"),
        };
        let decoded = percent_decode(escaped.path().as_bytes()).decode_utf8_lossy();
        let path = decoded.strip_prefix('/').unwrap_or(&decoded).to_owned();
        let pipeline = pipeline(&head.headers)?;
        Ok(Self { path, escaped, etl_args, input, pipeline })
    }

    /// Reads a `POST /download`.
    pub(crate) fn download(head: &Parts) -> Result<Self, Failure> {
        let query = head.uri.query().unwrap_or_default();
        let needed = |name| match trimmed(parameter(query, name)) {
            value if value.is_empty() => {
                Err(Failure::request(format!("the query parameter {name} is missing")))
            }
            value => Ok(value),
        };
        let url = needed("original_url")?;
        let url = crate::pipeline::absolute(&url)
            .ok_or_else(|| Failure::request("original_url is not an http:// or https:// URL"))?;
        let mut question = Self::named(
            needed("object_to")?,
            trimmed(parameter(query, "etl_args")),
            None,
            pipeline(&head.headers)?,
        )?;
        question.input = Input::Url(url);
        Ok(question)
    }

    /// What the fields of a control message ask for. `fqn` is escaped once.
    pub(crate) fn named(
        path: String,
        etl_args: String,
        fqn: Option<&str>,
        pipeline: Option<Pipeline>,
    ) -> Result<Self, Failure> {
        let input = match fqn.map(str::trim).filter(|fqn| !fqn.is_empty()) {
            Some(fqn) => Input::File(file_name(fqn.as_bytes())?),
            None => Input::Body,
        };
        let path = match path.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None => path,
        };
        let escaped = format!("/{}", utf8_percent_encode(&path, IN_PATH));
        let escaped = PathAndQuery::try_from(escaped)
            .map_err(|_| Failure::request("the object's name is too long"))?;
        Ok(Self { path, escaped, etl_args, input, pipeline })
    }

    /// The object's file, if that is where it is.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.input {
            Input::File(file) => Some(file),
            Input::Body | Input::Target | Input::Url(_) => None,
        }
    }

    /// The path as the next stage gets it, from the first slash on.
    pub(crate) fn path_for_stage(&self) -> String {
        let bytes: Cow<'_, [u8]> = percent_decode(self.escaped.path().as_bytes()).into();
        percent_encoding::percent_encode(&bytes, IN_PATH).to_string()
    }

    /// The object as the target is asked for it: its path as one segment, without the slash before it, and whether it has
    /// to be the latest version, if that was asked.
    pub(crate) fn path_for_target(&self) -> String {
        let bytes: Cow<'_, [u8]> = percent_decode(self.escaped.path().as_bytes()).into();
        let bytes = bytes.strip_prefix(b"/").unwrap_or(&bytes);
        let mut path = percent_encoding::percent_encode(bytes, IN_SEGMENT).to_string();
        let mut pairs = self.escaped.query().unwrap_or_default().split('&');
        if let Some(latest) = pairs.find(|pair| pair.split('=').next() == Some("latest-ver")) {
            path.push('?');
            path.push_str(latest);
        }
        path
    }
}

/// The way that the header of a request lays out, if it has one.
fn pipeline(headers: &HeaderMap) -> Result<Option<Pipeline>, Failure> {
    let mut values = headers.get_all(NODE_URL).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Failure::pipeline("Pipeline header is given twice"));
    }
    let text = value.to_str().map_err(|_| Failure::pipeline("Pipeline header is not ASCII"))?;
    Pipeline::parse(text)
}

/// The last value of a query parameter, decoded once.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let value = query.split('&').rev().find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let same = key == name || (key.contains('%') && *decoded(key) == *name.as_bytes());
        same.then_some(value)
    });
    value.map(decoded)
}

/// A form's escapes undone: `+` is a space.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let bytes: Cow<'_, [u8]> = percent_decode(spaced.as_bytes()).into();
        return Cow::Owned(bytes.into_owned());
    }
    percent_decode(text.as_bytes()).into()
}

fn trimmed(value: Option<Cow<'_, [u8]>>) -> String {
    match value {
        None => String::new(),
        Some(value) => String::from_utf8_lossy(&value).trim().to_owned(),
    }
}

/// The file that an `etl_fqn` names, which is escaped once more than its query.
fn file_name(fqn: &[u8]) -> Result<PathBuf, Failure> {
    let bytes: Cow<'_, [u8]> = percent_decode(fqn).into();
    if bytes.contains(&0) {
        return Err(Failure::request("etl_fqn has a NUL byte"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in bytes.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut name = Vec::with_capacity(bytes.len() + 1);
    for part in parts {
        name.push(b'/');
        name.extend_from_slice(part);
    }
    if name.is_empty() {
        let status = http::StatusCode::BAD_REQUEST;
        return Err(Failure::new(Stage::Source, status, "etl_fqn names no file"));
    }
    Ok(PathBuf::from(OsString::from_vec(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, uri: &str) -> Question {
        let (head, ()) =
            http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        Question::of(&head).unwrap()
    }

    #[track_caller]
    fn file(query: &str, expected: &str) {
        let question = asked("PUT", &format!("/b/o?{query}"));
        assert_eq!(question.file(), Some(Path::new(expected)), "{query}");
    }

    #[test]
    fn a_file_name_is_decoded_twice_and_normalised() {
        file("etl_fqn=%252Fd%252Fa%2520b%2525", "/d/a b%");
        file("etl_fqn=%2Fd%2Fa", "/d/a");
        file("etl_fqn=/d/a", "/d/a");
        file("etl_fqn=d/a", "/d/a");
        file("etl_fqn=%2Fmissing%2F..%2Fx%2F.%2F%2Fy", "/x/y");
        file("etl_fqn=%2F..%2F..%2Fetc", "/etc");
        file("etl_fqn=a&etl_fqn=%2Fb", "/b");
        file("etl%5Ffqn=%2Fb", "/b");
        file("etl_fqn=%2Fr%252Bs", "/r+s");
        file("etl_fqn=%2Fa+b", "/a b");
        file("etl_fqn=%2Fbad%25zz", "/bad%zz");
        file("etl_fqn=%20%2Fa%20", "/a");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_in_file_names_and_paths() {
        use std::os::unix::ffi::OsStrExt as _;
        let question = asked("GET", "/b/%FF?etl_fqn=%25FF");
        assert_eq!(question.file().unwrap().as_os_str().as_bytes(), b"/\xff");
        assert_eq!(question.path_for_stage(), "/b/%FF");
        assert_eq!(question.path_for_target(), "b%2F%FF");
    }

    #[test]
    fn an_empty_file_name_is_none() {
        for query in ["", "?etl_fqn=", "?etl_fqn=%20", "?foo=1"] {
            assert!(matches!(asked("PUT", &format!("/b/o{query}")).input, Input::Body), "{query}");
            let pulled = asked("GET", &format!("/b/o{query}")).input;
            assert!(matches!(pulled, Input::Target), "{query}");
        }
    }

    #[test]
    fn a_file_name_with_a_nul_or_without_a_name_is_refused() {
        for query in ["etl_fqn=%2500", "etl_fqn=%2Fa%2500b", "etl_fqn=%2F", "etl_fqn=a%2F.."] {
            let uri = format!("/b/o?{query}");
            let (head, ()) = http::Request::put(uri).body(()).unwrap().into_parts();
            assert_eq!(Question::of(&head).unwrap_err().status, 400, "{query}");
        }
    }

    #[test]
    fn arguments_are_decoded_once_and_trimmed_and_the_last_counts() {
        let asked = asked("PUT", "/b/o?etl_args=old&etl_args=+%7B%22a%22%3A+1%7D%25+&x=y");
        assert_eq!(asked.etl_args, "{\"a\": 1}%");
    }

    #[test]
    fn a_path_is_decoded_for_the_transform_and_escaped_again_for_others() {
        let asked = asked("GET", "/ais%2F@%23%2Fsrc%2Fa%20b%25d+e?x");
        assert_eq!(asked.path, "ais/@#/src/a b%d+e");
        assert_eq!(asked.path_for_stage(), "/ais/@%23/src/a%20b%25d%2Be");
        assert_eq!(asked.path_for_target(), "ais%2F@%23%2Fsrc%2Fa%20b%25d%2Be");
    }

    #[test]
    fn of_a_query_the_target_is_told_only_which_version_is_wanted() {
        let asked = asked("GET", "/o?etl_args=x&latest-ver=true&foo");
        assert_eq!(asked.path_for_target(), "o?latest-ver=true");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_is_read_or_refused(
            target in "/[!-~]{0,80}",
            header in proptest::option::of("[ -~]{0,60}"),
        ) {
            let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
            let mut request = http::Request::put(uri);
            if let Some(header) = &header {
                request = request.header(NODE_URL, header);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            match Question::of(&head) {
                Err(failure) => assert!(failure.status.is_client_error()),
                Ok(question) => {
                    if let Some(file) = question.file() {
                        let text = file.to_str().unwrap_or("/");
                        assert!(text.starts_with('/') && !text.contains("//"), "{text}");
                        assert!(!text.split('/').any(|part| part == ".." || part == "."), "{text}");
                    }
                    let before: Vec<u8> = percent_decode(head.uri.path().as_bytes()).collect();
                    let after = question.path_for_stage();
                    assert_eq!(before, percent_decode(after.as_bytes()).collect::<Vec<u8>>());
                    if let Some(pipeline) = &question.pipeline {
                        let target = crate::Target::parse("http://t:1/v1/etl/_object/x/s").unwrap();
                        let url = pipeline.url(&target, &question).unwrap();
                        assert_eq!(url.scheme_str(), Some("http"));
                        assert!(!url.query().unwrap_or_default().contains("etl_fqn"), "{url}");
                    }
                }
            }
        }
    }
}
