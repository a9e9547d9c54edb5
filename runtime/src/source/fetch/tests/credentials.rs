//! Secrets: what is sent with a source that names one, where to, and what is not.

use super::*;
use crate::source::credentials::SecretName;

pub(super) fn with_secrets(secrets: &[(&str, &str)]) -> Here {
    let mut here = Here::new();
    let folder = here.dir.path().join("secrets");
    for (path, text) in secrets {
        put(&here, path, text);
    }
    here.config.credentials = Some(folder);
    here.config.hosts = HostPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()] };
    here
}

fn put(here: &Here, path: &str, text: &str) {
    let path = here.dir.path().join("secrets").join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

async fn opened(fetcher: &Fetcher, text: &str, secret: &str) -> Result<Fetched, FetchError> {
    let secret: SecretName = secret.parse().unwrap();
    fetcher.adapter(&source(text), Trust::Admin, Some(&secret), None, LIMIT).await
}

/// Answers who says `word`.
fn closed(word: &'static str) -> impl Fn(&Asked) -> Answer + Send + Sync {
    move |asked| match asked.headers.get("authorization") {
        Some(said) if said == &format!("Bearer {word}") => good(asked),
        _ => Answer::status(401),
    }
}

#[tokio::test]
async fn a_rotated_secret_is_read_anew_and_one_that_comes_late_is_found() {
    let server = Server::start(closed("second")).await;
    let here = with_secrets(&[("other/token", "x")]);
    let fetcher = here.fetcher();
    let url = server.url("/a/");
    let error = opened(&fetcher, &url, "late").await.unwrap_err();
    assert!(error.to_string().contains("no Secret late"), "{error}");
    assert!(server.asked().is_empty(), "without it nobody is asked");
    put(&here, "late/token", "first");
    let error = opened(&fetcher, &url, "late").await.unwrap_err();
    assert!(matches!(error, FetchError::Unauthorized(_)) && !error.to_string().contains("first"), "{error}");
    put(&here, "late/token", "second");
    assert_eq!(read(&opened(&fetcher, &url, "late").await.unwrap()), weights());
}

#[tokio::test]
async fn a_token_goes_to_the_host_that_the_source_names_and_not_where_it_redirects() {
    let elsewhere = Server::start(good).await;
    let address = elsewhere.url("");
    let server = Server::start(move |asked| match is_weights(asked) {
        true => Answer::to(format!("{address}{}", asked.path)),
        false => closed("canary")(asked),
    })
    .await;
    let here = with_secrets(&[("s/token", "canary")]);
    let fetched = opened(&here.fetcher(), &server.url("/a/"), "s").await.unwrap();
    assert_eq!(read(&fetched), weights());
    assert!(server.asked().iter().all(|asked| asked.headers["authorization"] == "Bearer canary"));
    assert!(!elsewhere.asked().is_empty());
    assert!(elsewhere.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
}

#[tokio::test]
async fn with_a_secret_the_configured_token_stays_at_home() {
    let server = Server::start(closed("own")).await;
    let mut here = with_secrets(&[("s/token", "own")]);
    here.config.hub = HubConfig { endpoint: server.url(""), token: Some(Secret::new("of_all")) };
    let fetcher = here.fetcher();
    assert!(matches!(from_admin(&fetcher, &server.url("/a/")).await, Err(FetchError::Unauthorized(_))));
    let said = |server: &Server| server.asked().last().unwrap().headers.get("authorization").cloned();
    assert_eq!(said(&server).as_deref(), Some("Bearer of_all"));
    opened(&fetcher, &server.url("/a/"), "s").await.unwrap();
    assert_eq!(said(&server).as_deref(), Some("Bearer own"));
}

#[tokio::test]
async fn what_one_secret_opened_is_not_found_by_those_who_name_another_or_none() {
    let server = Server::start(closed("right")).await;
    let here = with_secrets(&[("right/token", "right"), ("wrong/token", "wrong")]);
    let fetcher = here.fetcher();
    let url = server.url("/a/");
    opened(&fetcher, &url, "right").await.unwrap();
    assert_eq!(opened(&fetcher, &url, "right").await.unwrap().from, Tier::Disk);
    assert!(matches!(opened(&fetcher, &url, "wrong").await, Err(FetchError::Unauthorized(_))));
    assert!(matches!(from_admin(&fetcher, &url).await, Err(FetchError::Unauthorized(_))));
}

#[tokio::test]
async fn a_bucket_is_asked_for_at_the_secrets_own_service_with_its_key() {
    let server = Server::start(|_| Answer::status(403)).await;
    let endpoint = server.url("");
    let secrets = [("s/access-key-id", "key"), ("s/secret-access-key", "canary"), ("s/endpoint", &endpoint)];
    let mut here = with_secrets(&secrets);
    let error = opened(&here.fetcher(), "s3://bucket/a", "s").await.unwrap_err();
    assert!(matches!(error, FetchError::Unauthorized(_)), "{error}");
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.headers["authorization"].contains("Credential=key/")));
    assert!(asked.iter().all(|asked| !format!("{asked:?}").contains("canary")));
    here.config.hosts = HostPolicy::default();
    let error = opened(&here.fetcher(), "s3://bucket/a", "s").await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden(_)), "a Secret opens no host that is closed: {error}");
    assert_eq!(server.asked().len(), asked.len());
}

#[tokio::test]
async fn a_bucket_that_redirects_is_not_followed() {
    let elsewhere = Server::start(|_| Answer::status(200)).await;
    let address = elsewhere.url("/bucket");
    let server = Server::start(move |_| Answer::to(&address)).await;
    let endpoint = server.url("");
    let here = with_secrets(&[
        ("s/access-key-id", "key"),
        ("s/secret-access-key", "canary"),
        ("s/session-token", "canary"),
        ("s/endpoint", &endpoint),
    ]);
    assert!(opened(&here.fetcher(), "s3://bucket/a", "s").await.is_err());
    assert!(!server.asked().is_empty() && elsewhere.asked().is_empty());
}
