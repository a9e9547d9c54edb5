//! The hub: revisions, tokens, and what a repository holds.

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with an adapter, a sharded model and two GGUFs; it redirects big files to `elsewhere`.
fn hub(asked: &Asked, elsewhere: Option<&str>) -> Answer {
    let listing = |files: &[&str]| {
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({"rfilename": file})).collect();
        Answer::text(serde_json::json!({"sha": COMMIT, "siblings": siblings, "private": false}).to_string())
    };
    let adapter = ["README.md", "adapter_config.json", "adapter_model.safetensors", "v2/adapter_config.json"];
    match asked.path.as_str() {
        "/api/models/acme/sql/revision/main" | "/api/models/acme/sql/revision/refs%2Fpr%2F1" => {
            listing(&adapter)
        }
        "/api/models/acme/pickle/revision/main" => listing(&["adapter_config.json", "adapter_model.bin"]),
        "/api/models/acme/private/revision/main" => Answer::status(401),
        "/api/models/acme/base/revision/main" => listing(&[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/consolidated.00.pth",
            "tokenizer.json",
        ]),
        "/api/models/acme/gguf/revision/main" => listing(&["q4.gguf", "q8.gguf"]),
        path => match path.split_once(&format!("/resolve/{COMMIT}/")) {
            Some((_, "adapter_config.json")) => Answer::text(CONFIG),
            Some((_, "adapter_model.safetensors")) => match elsewhere {
                Some(elsewhere) => Answer::to(format!("{elsewhere}/a/adapter_model.safetensors")),
                None => Answer::text(weights()),
            },
            Some((_, file)) => Answer::text(file.as_bytes()),
            None => Answer::status(404),
        },
    }
}

fn with_hub(server: &Server) -> Here {
    let mut here = Here::new();
    here.config.hub = HubConfig { endpoint: server.url(""), token: Some(Secret::new("hf_canary")) };
    here
}

#[tokio::test]
async fn a_revision_becomes_a_commit_and_a_commit_needs_nobody() {
    let server = Server::start(|asked| hub(asked, None)).await;
    let here = with_hub(&server);
    let fetcher = here.fetcher();
    for name in ["hf://acme/sql", "hf://acme/sql@refs%2Fpr%2F1"] {
        let fetched = from_admin(&fetcher, name).await.unwrap();
        assert_eq!((read(&fetched), fetched.revision.as_deref()), (weights(), Some(COMMIT)));
    }
    assert_eq!(server.got().iter().filter(|path| path.contains("/resolve/")).count(), 2);
    let asked = server.asked().len();
    let fetched = from_admin(&fetcher, &format!("hf://acme/sql@{COMMIT}")).await.unwrap();
    assert_eq!((fetched.from, fetched.revision.as_deref()), (Tier::Disk, Some(COMMIT)));
    assert_eq!(server.asked().len(), asked, "nobody was asked");
}

#[tokio::test]
async fn the_token_goes_to_the_hub_alone() {
    let elsewhere = Server::start(good).await;
    let address = elsewhere.url("");
    let server = Server::start(move |asked| hub(asked, Some(&address))).await;
    let mut here = with_hub(&server);
    let error = from_admin(&here.fetcher(), "hf://acme/sql").await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden(_)), "where it redirects to is not trusted: {error}");
    here.config.hosts = HostPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()] };
    let fetched = from_admin(&here.fetcher(), "hf://acme/sql").await.unwrap();
    assert_eq!(read(&fetched), weights());
    assert!(server.asked().iter().all(|asked| asked.headers["authorization"] == "Bearer hf_canary"));
    assert!(!elsewhere.asked().is_empty());
    assert!(elsewhere.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
    assert!(!format!("{:?}", here.config).contains("canary"));
}

#[tokio::test]
async fn a_hub_that_is_down_does_not_take_away_what_was_fetched() {
    let server = Server::start(|asked| hub(asked, None)).await;
    let here = with_hub(&server);
    from_admin(&here.fetcher(), "hf://acme/sql").await.unwrap();
    drop(server);
    let fetched = from_admin(&here.fetcher(), "hf://acme/sql").await.unwrap();
    assert_eq!((read(&fetched), fetched.from), (weights(), Tier::Disk));
    let error = from_admin(&here.fetcher(), "hf://acme/other").await.unwrap_err();
    assert!(matches!(error, FetchError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn what_a_repository_does_not_hold_is_said_before_anything_is_downloaded() {
    let server = Server::start(|asked| hub(asked, None)).await;
    let here = with_hub(&server);
    let fetcher = here.fetcher();
    let error = |text: &'static str| {
        let fetcher = fetcher.clone();
        async move { from_admin(&fetcher, text).await.unwrap_err() }
    };
    assert!(matches!(error("hf://acme/pickle").await, FetchError::Pickle(_)));
    assert!(matches!(error("hf://acme/private").await, FetchError::Unauthorized(_)));
    assert!(matches!(error("hf://acme/absent").await, FetchError::NotFound(_)));
    assert!(matches!(error("hf://acme/sql/v2").await, FetchError::NotFound(_)));
    assert!(server.got().iter().all(|path| !path.contains("/resolve/")));
}

#[tokio::test]
async fn a_model_is_its_texts_and_shards_or_one_file() {
    let server = Server::start(|asked| hub(asked, None)).await;
    let here = with_hub(&server);
    let fetcher = here.fetcher();
    let model = fetcher.model(&source("hf://acme/base"), None, None).await.unwrap();
    let mut names: Vec<String> = std::fs::read_dir(model.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    let gguf = fetcher.model(&source("hf://acme/gguf/q8.gguf"), None, None).await.unwrap();
    assert_eq!(std::fs::read(gguf.path()).unwrap(), b"q8.gguf");
    let error = fetcher.model(&source("hf://acme/gguf"), None, None).await.unwrap_err().to_string();
    assert!(error.contains("q4.gguf, q8.gguf"), "{error}");
}

#[tokio::test]
async fn a_model_behind_plain_urls_is_found_by_its_usual_names() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/m/config.json" | "/m/tokenizer.json" | "/m/model.safetensors" => {
            Answer::file(asked, asked.path.as_bytes(), "t")
        }
        "/x.gguf" => Answer::file(asked, b"GGUF", "g"),
        _ => Answer::status(404),
    })
    .await;
    let here = Here::new();
    let fetcher = here.fetcher();
    let model = fetcher.model(&source(&server.url("/m")), None, None).await.unwrap();
    assert_eq!(std::fs::read(model.path().join("model.safetensors")).unwrap(), b"/m/model.safetensors");
    assert!(!model.path().join("generation_config.json").exists());
    let gguf = fetcher.model(&source(&server.url("/x.gguf")), None, None).await.unwrap();
    assert!(gguf.path().ends_with("x.gguf") && gguf.path().is_file());
    let local = fetcher.model(&source(&gguf.path().display().to_string()), None, None).await.unwrap();
    assert_eq!(local.path(), gguf.path());
}
