//! Where a result goes when it does not go to the caller.

use form_urlencoded::byte_serialize;
use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{
    failure::Failure,
    question::Question,
    target::{Target, host},
};

/// The next hop, and what it is to be told of those after it.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    authority: Authority,
    /// Of the destination target, escaped as it came; empty for a stage.
    path: String,
    query: String,
    /// The stages after the next one, as they came.
    pub(crate) rest: Option<HeaderValue>,
}

impl Pipeline {
    /// Reads the value of `Ais-Node-Url`; a blank one is none.
    pub(crate) fn parse(value: &str) -> Result<Option<Self>, Failure> {
        let value = value.trim();
        if value.is_empty() {
            return Ok(None);
        }
        if value.split(',').any(|entry| entry.trim().is_empty()) {
            return Err(Failure::pipeline("Pipeline header contains empty entry"));
        }
        let (hop, rest) = match value.split_once(',') {
            Some((hop, rest)) => (hop.trim(), Some(rest.trim())),
            None => (value, None),
        };
        let no_url = || Failure::pipeline("its first entry is not an http:// or https:// URL");
        let after = hop.split_once("://").and_then(|(scheme, after)| {
            let known = ["http", "https"].iter().any(|one| scheme.eq_ignore_ascii_case(one));
            known.then_some(after)
        });
        let after = after.ok_or_else(no_url)?;
        let after = after.split('#').next().unwrap_or_default();
        let (place, query) = after.split_once('?').unwrap_or((after, ""));
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let authority = host(authority).ok_or_else(no_url)?;
        // What cannot stand in a request line is refused here, before anything runs.
        let line = format!("{}?{query}", if path.is_empty() { "/" } else { path });
        PathAndQuery::try_from(line).map_err(|_| no_url())?;
        let rest =
            rest.map(|rest| HeaderValue::from_str(rest).map_err(|_| no_url())).transpose()?;
        Ok(Some(Self { authority, path: path.to_owned(), query: query.to_owned(), rest }))
    }

    /// Where the result of `question` is PUT.
    pub(crate) fn url(&self, target: &Target, question: &Question) -> Result<Uri, Failure> {
        let mut line = if self.path.is_empty() {
            question.path_for_stage()
        } else {
            format!("{}{}", target.path(), self.path)
        };
        let mut separator = '?';
        let mut add = |pair: &str| {
            line.push(separator);
            line.push_str(pair);
            separator = '&';
        };
        let replaced = !question.etl_args.is_empty();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let key = pair.split('=').next().unwrap_or_default();
            if !(replaced && key == "etl_args") {
                add(pair);
            }
        }
        if replaced {
            let args: String = byte_serialize(question.etl_args.as_bytes()).collect();
            add(&format!("etl_args={args}"));
        }
        uri(target.scheme(), &self.authority, &line)
            .ok_or_else(|| Failure::pipeline("its first entry is too long"))
    }
}

/// An absolute URL of parts that were checked.
pub(crate) fn uri(scheme: &Scheme, authority: &Authority, line: &str) -> Option<Uri> {
    let line = PathAndQuery::try_from(line).ok()?;
    let parts = Uri::builder().scheme(scheme.clone()).authority(authority.clone());
    parts.path_and_query(line).build().ok()
}

/// An http or https URL that can be asked.
pub(crate) fn absolute(text: &str) -> Option<Uri> {
    let uri: Uri = text.split('#').next()?.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    host(uri.authority()?.as_str())?;
    known.then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "http://t:1/v1/etl/_object/x/s";

    #[track_caller]
    fn goes(header: &str, request: &str, expected: &str) {
        let (head, ()) = http::Request::put(request)
            .header("Ais-Node-Url", header)
            .body(())
            .unwrap()
            .into_parts();
        let question = Question::of(&head).unwrap();
        let target = Target::parse(TARGET).unwrap();
        let url = question.pipeline.as_ref().unwrap().url(&target, &question).unwrap();
        assert_eq!(url.to_string(), expected, "{header}");
    }

    #[test]
    fn a_destination_is_below_the_targets_path_and_a_stage_has_the_requests() {
        goes(
            "http://d:2/ais%2F@%23%2Fdst%2Fo?owt=3&uuid=x",
            "/src/o?etl_fqn=%2Fa",
            "http://d:2/v1/etl/_object/x/s/ais%2F@%23%2Fdst%2Fo?owt=3&uuid=x",
        );
        goes("https://d:2/t", "/src/o", "http://d:2/v1/etl/_object/x/s/t");
        goes(" http://d:2 , http://e:3", "/src/a%20b", "http://d:2/src/a%20b");
        goes("http://d:2", "/o?etl_args=a%20b", "http://d:2/o?etl_args=a+b");
        goes(
            "http://d:2/t?etl_args=old&owt=3&etl_args=older",
            "/o?etl_args=%7B%22k%22%3A%26%7D",
            "http://d:2/v1/etl/_object/x/s/t?owt=3&etl_args=%7B%22k%22%3A%26%7D",
        );
        goes("http://[::1]:2/t?x", "/o", "http://[::1]:2/v1/etl/_object/x/s/t?x");
    }

    #[test]
    fn a_blank_header_is_none_and_a_bad_one_is_refused() {
        assert!(Pipeline::parse("  ").unwrap().is_none());
        for bad in [
            ",,,",
            "http://a:1,",
            ",http://a:1",
            "http://a:1,,http://b:2",
            "a:1",
            "ftp://a/x",
            "http://",
            "http://u@a/x",
            "http://a:b/x",
            "http:///x",
            "http://a:0/x",
            "http://a/b c",
        ] {
            let failure = Pipeline::parse(bad).unwrap_err();
            assert_eq!(failure.status, 400, "{bad}");
            assert!(failure.detail.starts_with("Invalid pipeline header: "), "{}", failure.detail);
        }
    }

    #[test]
    fn stages_after_the_next_one_are_passed_on_as_they_came() {
        let parsed = Pipeline::parse("http://a:1, http://b:2 ,http://c:3/x?y").unwrap().unwrap();
        assert_eq!(parsed.rest.unwrap(), "http://b:2 ,http://c:3/x?y");
    }

    fn entry() -> impl proptest::strategy::Strategy<Value = String> {
        proptest::prop_oneof![
            "https?://[a-z0-9.-]{1,12}(:[0-9]{1,5})?(/[!-+.-~]{0,20})?(\\?[!-+.-~]{0,20})?",
            "[ -~]{0,30}",
        ]
    }

    proptest::proptest! {
        #[test]
        fn any_pipeline_is_followed_as_written_or_refused(
            entries in proptest::collection::vec(entry(), 0..5),
            args in "[ -~]{0,10}",
        ) {
            let value = entries.join(",");
            let pipeline = match Pipeline::parse(&value) {
                Err(failure) => {
                    assert_eq!(failure.status, 400, "{value}");
                    return Ok(());
                }
                Ok(None) => {
                    assert!(value.trim().is_empty(), "{value}");
                    return Ok(());
                }
                Ok(Some(pipeline)) => pipeline,
            };
            // What is left for the others is what stood after the first comma, and is a pipeline or to be refused there.
            let rest = value.trim().split_once(',').map(|(_, rest)| rest.trim());
            assert_eq!(pipeline.rest.as_ref().map(HeaderValue::as_bytes), rest.map(str::as_bytes));
            let target = Target::parse(TARGET).unwrap();
            let question = Question::named("b/o".to_owned(), args.clone(), None, None).unwrap();
            let url = pipeline.url(&target, &question).unwrap();
            assert_eq!(url.scheme_str(), Some("http"), "{value}");
            let named = value.trim().split("://").nth(1).unwrap();
            assert!(named.starts_with(url.authority().unwrap().as_str()), "{value}: {url}");
            // A destination stays below the target's secret; a stage never learns it.
            let below = url.path().starts_with("/v1/etl/_object/x/s/");
            assert_eq!(below, !pipeline.path.is_empty(), "{value}: {url}");
            let given = form_urlencoded::parse(url.query().unwrap_or_default().as_bytes())
                .filter(|(key, _)| key == "etl_args")
                .map(|(_, value)| value.into_owned())
                .last();
            if !args.is_empty() {
                assert_eq!(given.as_deref(), Some(args.as_str()), "{value}: {url}");
            }
        }
    }
}
