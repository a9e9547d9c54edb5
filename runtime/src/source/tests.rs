//! What is a source and what is not.

use super::*;

fn parse(text: &str) -> Result<Source, InvalidSource> {
    Source::parse(text, None)
}

#[test]
fn every_form_is_read() {
    assert_eq!(parse("/models/a"), Ok(Source::Path("/models/a".into())));
    assert_eq!(parse("file:///models/a"), Ok(Source::Path("/models/a".into())));
    assert_eq!(parse("../here"), Ok(Source::Path("../here".into())));
    let hub = |text: &str| match parse(text) {
        Ok(Source::Hub(hub)) => (hub.repository, hub.revision, hub.path),
        other => panic!("{other:?}"),
    };
    assert_eq!(hub("hf://acme/sql"), ("acme/sql".into(), None, None));
    assert_eq!(hub("hf://gpt2"), ("gpt2".into(), None, None));
    assert_eq!(hub("hf://acme/sql@v3/"), ("acme/sql".into(), Some("v3".into()), None));
    assert_eq!(
        hub("hf://acme/sql@refs%2Fpr%2F1/q4/x.gguf"),
        ("acme/sql".into(), Some("refs/pr/1".into()), Some("q4/x.gguf".into()))
    );
    assert_eq!(
        parse("s3://bucket/a/b/"),
        Ok(Source::S3(S3Source { bucket: "bucket".into(), key: "a/b".into() }))
    );
    assert!(matches!(parse("https://host:8443/a/b/"), Ok(Source::Http(_))));
}

#[test]
fn what_is_shown_is_read_again_as_the_same() {
    for text in ["/a/b", "https://h/a/", "hf://o/n", "hf://o/n@refs%2Fpr%2F1/x.gguf", "s3://bucket/k"] {
        let source = parse(text).unwrap();
        assert_eq!(parse(&source.to_string()), Ok(source));
    }
}

#[test]
fn a_query_is_kept_but_never_shown() {
    let source = parse("https://h/x.safetensors?X-Amz-Signature=secret").unwrap();
    assert!(!source.to_string().contains("secret"));
    assert!(matches!(source, Source::Http(url) if url.query().is_some()));
}

#[test]
fn what_could_come_to_mean_another_place_is_refused() {
    use InvalidSource as E;
    let long = format!("/{}", "a".repeat(MAX_LENGTH));
    for (text, why) in [
        ("", E::Empty),
        (long.as_str(), E::TooLong { length: MAX_LENGTH + 1 }),
        ("/a\nb", E::OddCharacters),
        ("/a\0b", E::OddCharacters),
        (" /a", E::OddCharacters),
        ("https://good\\@evil/x", E::OddCharacters),
        ("ftp://h/x", E::Scheme("ftp".into())),
        ("HTTPS://h/x", E::Scheme("HTTPS".into())),
        ("gopher://127.0.0.1:6379/_x", E::Scheme("gopher".into())),
        ("https://user@h/x", E::Credentials),
        ("https://user:pw@h/x", E::Credentials),
        ("https://@h/x", E::Credentials),
        ("https://h/x#y", E::Fragment),
        ("https://h/a/../b", E::Traversal),
        ("https://h/a/%2e%2E/b", E::Traversal),
        ("https://h/a%2f..%2fb", E::Traversal),
        ("file:///a/../b", E::Traversal),
        ("hf://o/n/../x", E::Traversal),
        ("s3://bucket/../x", E::Traversal),
    ] {
        assert_eq!(parse(text), Err(why), "{text:?}");
    }
    for text in ["hf://", "hf:///n", "hf://o/", "hf://o/.n", "hf://../n", "hf://o/n?x", "hf://o/n//f"] {
        assert!(matches!(parse(text), Err(E::Hub(_))), "{text:?} {:?}", parse(text));
    }
    for text in
        ["s3://", "s3://b", "s3://bucket", "s3://bucket/", "s3://Bucket/x", "s3://a@b/x", "s3://b:9/x"]
    {
        assert!(matches!(parse(text), Err(E::S3(_))), "{text:?} {:?}", parse(text));
    }
    for text in ["http://", "https://[::1", "https://h:99999/x", "file://host/x", "file:///a%20b"] {
        assert!(matches!(parse(text), Err(E::Url(_))), "{text:?} {:?}", parse(text));
    }
}

#[test]
fn a_revision_given_apart_wins_and_only_the_hub_has_any() {
    let source = Source::parse("hf://o/n@old", Some("new")).unwrap();
    assert_eq!(source.to_string(), "hf://o/n@new");
    assert_eq!(Source::parse("/a", Some("main")), Err(InvalidSource::NoRevisions));
    for revision in ["", "a b", "../main", "a//b", "/a", "a?x", "a..b"] {
        assert!(matches!(Source::parse("hf://o/n", Some(revision)), Err(InvalidSource::Revision(_))));
    }
}

#[test]
fn only_a_commit_is_immutable() {
    let mutable = |text: &str| parse(text).unwrap().is_mutable();
    assert!(mutable("hf://o/n") && mutable("hf://o/n@main") && mutable("https://h/x") && mutable("/a"));
    assert!(!mutable(&format!("hf://o/n@{}", "a".repeat(40))));
}
