//! Looking into a source: everywhere that a fetch goes, and hardly a byte of the weights.

use lorikeet_api::{MAX_CONFIG_BYTES, WeightsSize};

use super::credentials::with_secrets;
use super::*;

/// What the weights of servers here say of themselves.
const SIZE: WeightsSize = WeightsSize { length: 5000, header: 0x0706_0504_0302_0100 };

/// What a server, or a socket between it and us, may have on its way when nobody reads any more.
const ON_ITS_WAY: usize = 32 << 20;

async fn look(here: &Here, text: &str) -> Result<Glimpse, FetchError> {
    here.fetcher().glimpse(&source(text), Trust::Admin, None).await
}

async fn look_with(here: &Here, text: &str, secret: &str) -> Result<Glimpse, FetchError> {
    let secret: SecretName = secret.parse().unwrap();
    here.fetcher().glimpse(&source(text), Trust::Admin, Some(&secret)).await
}

/// One who may ask servers here, and keeps nothing.
fn allowed() -> Here {
    let mut here = with_secrets(&[]);
    here.config.cache_dir = std::path::PathBuf::new();
    here
}

fn whole() -> Glimpse {
    Glimpse { config: CONFIG.to_vec(), weights: Some(SIZE) }
}

#[tokio::test]
async fn a_folder_and_a_single_file_are_looked_into_and_eight_bytes_of_weights_come() {
    let server = Server::start(good).await;
    let here = allowed();
    for path in ["/a/", "/a", "/a/adapter_model.safetensors"] {
        assert_eq!(look(&here, &server.url(path)).await.unwrap(), whole(), "{path}");
    }
    assert_eq!(server.sent(), 3 * (CONFIG.len() + 8));
    let ranges: Vec<_> =
        server.asked().into_iter().filter(is_weights).map(|asked| asked.headers["range"].clone()).collect();
    assert_eq!(ranges, ["bytes=0-7"; 3]);
    assert_eq!(std::fs::read_dir(here.dir.path()).unwrap().count(), 0, "nothing is written");
}

#[tokio::test]
async fn of_a_server_that_knows_no_ranges_no_more_is_read() {
    let server = Server::start(|asked| match asked.path.split('/').nth(1) {
        _ if asked.path.ends_with("adapter_config.json") => Answer::text(CONFIG),
        Some("long") => Answer { claims: Some(1 << 40), endless: true, ..Answer::text(weights()) },
        Some("refuses") if asked.headers.contains_key("range") => Answer::status(416),
        Some("refuses") => Answer::text(weights()),
        Some("silent") if asked.method == "HEAD" => Answer::status(405),
        Some("silent") => Answer { endless: true, ..Answer::text(weights()) },
        _ => Answer::status(404),
    })
    .await;
    let here = allowed();
    let weights = async |kind: &str| look(&here, &server.url(&format!("/{kind}/"))).await.unwrap().weights;
    assert_eq!(weights("refuses").await, Some(SIZE));
    assert_eq!(weights("long").await, Some(WeightsSize { length: 1 << 40, ..SIZE }));
    assert_eq!(weights("silent").await, None, "it never says how long they are");
    assert!(server.sent() < 2 * ON_ITS_WAY, "{}", server.sent());
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_names_its_file_and_weights_that_are_too_short_are_none() {
    let server = Server::start(|asked| match asked.path.split('/').collect::<Vec<_>>()[..] {
        ["", "empty", "adapter_model.safetensors"] => Answer::text(""),
        ["", "short", "adapter_model.safetensors"] => Answer::file(asked, b"1234567", "s"),
        ["", "stalls", "adapter_model.safetensors"] => {
            Answer { claims: Some(9), stalls: true, ..Answer::text("") }
        }
        ["", "busy", "adapter_model.safetensors"] if asked.method == "GET" => Answer::status(503),
        ["", "closed", "adapter_model.safetensors"] => Answer::status(403),
        ["", "away", "adapter_model.safetensors"] => Answer::to("http://127.0.0.1:1/"),
        ["", "few", "adapter_model.safetensors"] if asked.method == "GET" => {
            let few = Answer { status: 206, ..Answer::text("123") };
            few.with("Content-Range", "bytes 0-2/5000")
        }
        ["", "gone", "adapter_model.safetensors"] => Answer::status(404),
        ["", "late", "adapter_config.json"] => Answer { claims: Some(9), stalls: true, ..Answer::text("{") },
        ["", "cut", "adapter_config.json"] => Answer::text(CONFIG).cut(3),
        ["", "none", "adapter_config.json"] => Answer::status(404),
        [.., "adapter_config.json"] => Answer::text(CONFIG),
        _ => Answer::file(asked, &weights(), "w"),
    })
    .await;
    let here = allowed();
    for kind in ["short", "empty"] {
        let found = look(&here, &server.url(&format!("/{kind}/"))).await.unwrap();
        assert_eq!(found, Glimpse { weights: None, ..whole() }, "{kind}");
    }
    for (kind, why) in [
        ("stalls", "adapter_model.safetensors: no byte"),
        ("busy", "adapter_model.safetensors: 127.0.0.1 answers 503"),
        ("closed", "adapter_model.safetensors: 127.0.0.1 asks for other credentials"),
        ("away", "127.0.0.1"),
        ("few", "adapter_model.safetensors: 3 bytes came, of 5000"),
        ("gone", "adapter_model.safetensors: not found"),
        ("late", "adapter_config.json: no byte"),
        ("cut", "adapter_config.json"),
        ("none", "adapter_config.json: not found"),
    ] {
        let error = look(&here, &server.url(&format!("/{kind}/"))).await.unwrap_err().to_string();
        assert!(error.contains(why), "{kind}: {error}");
    }
}

#[tokio::test]
async fn a_configuration_that_is_too_long_is_cut_where_that_can_be_told() {
    let server = Server::start(|asked| match asked.path.ends_with("adapter_config.json") {
        true => Answer { claims: Some(1 << 40), endless: true, ..Answer::text(vec![0xff; 1 << 16]) },
        false => good(asked),
    })
    .await;
    let found = look(&allowed(), &server.url("/a/")).await.unwrap();
    assert_eq!((found.config.len(), found.weights), (MAX_CONFIG_BYTES + 1, Some(SIZE)));
    assert!(server.sent() < ON_ITS_WAY, "{}", server.sent());
    let said = lorikeet_api::InspectedSource::from(found);
    assert!(said.config.chars().all(|letter| letter == char::REPLACEMENT_CHARACTER));
}

#[tokio::test]
async fn a_repository_is_looked_into_at_its_revision_and_folder_and_the_token_stays_at_the_hub() {
    let elsewhere = Server::start(good).await;
    let away = elsewhere.url("/a/adapter_model.safetensors");
    let hub =
        Server::start(move |asked| match asked.path.strip_prefix("/acme/sql/resolve/").unwrap_or_default() {
            "old/v2/adapter_config.json" => Answer::text(CONFIG),
            "old/v2/adapter_model.safetensors" => Answer::to(&away),
            "old/adapter_config.json" | "pickled/adapter_config.json" => Answer::text(CONFIG),
            "pickled/adapter_model.bin" => Answer::text("pickled"),
            _ => Answer::status(404),
        })
        .await;
    let mut here = allowed();
    here.config.hub = HubConfig { endpoint: hub.url(""), token: Some(Secret::new("hf_canary")) };
    assert_eq!(look(&here, "hf://acme/sql@old/v2").await.unwrap(), whole());
    assert!(hub.asked().iter().all(|asked| asked.headers["authorization"] == "Bearer hf_canary"));
    assert!(elsewhere.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
    assert_eq!(elsewhere.sent(), 8);
    for (text, why) in [
        ("hf://acme/sql@old", "adapter_model.safetensors: not found"),
        ("hf://acme/sql@old/v2/adapter_model.safetensors", "adapter_config.json: not found"),
        ("hf://acme/sql@pickled", "adapter_model.bin is a pickle"),
        ("hf://acme/sql", "adapter_config.json: not found"),
    ] {
        let error = look(&here, text).await.unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert!(hub.got().iter().all(|path| path.contains("/resolve/")), "no list is asked for");
}

#[tokio::test]
async fn a_folder_of_this_machine_is_looked_into_below_a_root_alone() {
    let mut here = Here::new();
    let (root, outside) = (here.dir.path().join("root"), here.dir.path().join("outside"));
    for folder in [root.join("a"), root.join("half"), outside.clone()] {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("adapter_config.json"), CONFIG).unwrap();
        std::fs::write(folder.join("adapter_model.safetensors"), weights()).unwrap();
    }
    std::fs::remove_file(root.join("half/adapter_model.safetensors")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
    std::fs::create_dir(root.join("file_out")).unwrap();
    std::os::unix::fs::symlink(
        outside.join("adapter_config.json"),
        root.join("file_out/adapter_config.json"),
    )
    .unwrap();
    let paths = ["a", "out", "file_out", "half", "gone"].map(|name| root.join(name).display().to_string());
    let closed = look(&here, &paths[0]).await.unwrap_err();
    assert!(matches!(closed, FetchError::Forbidden(_)), "{closed}");
    here.config.source_roots = vec![root];
    let [a, out, file_out, half, gone] = paths;
    assert_eq!(look(&here, &a).await.unwrap(), whole());
    assert_eq!(look(&here, "a").await.unwrap(), whole());
    let error = look(&here, &half).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::NoFile(name) if name == "adapter_model.safetensors"),
        "the copy has not ended: {error}"
    );
    for text in [out, file_out, outside.display().to_string()] {
        let error = look(&here, &text).await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden(_)), "{text}: {error}");
    }
    assert!(matches!(look(&here, &gone).await, Err(FetchError::NoFolder(_))));
}

#[tokio::test]
async fn folders_that_hang_are_refused_by_themselves_and_their_places_come_back() {
    let server = Server::start(good).await;
    let mut here = allowed();
    let root = here.dir.path().join("root");
    std::fs::create_dir_all(root.join("a")).unwrap();
    std::fs::write(root.join("a/adapter_config.json"), CONFIG).unwrap();
    std::fs::write(root.join("a/adapter_model.safetensors"), weights()).unwrap();
    (here.config.source_roots, here.config.folders) = (vec![root], 3);
    let fetcher = here.fetcher();
    let folder = async || fetcher.glimpse(&source("a"), Trust::Admin, None).await;
    let mut hang = Vec::new();
    for _ in 0..3 {
        assert_eq!(folder().await.unwrap(), whole());
        let (ends, waits) = std::sync::mpsc::channel::<()>();
        let read =
            fetcher.inner.mounts.read(move || waits.recv().map_err(|_| FetchError::NotAFile("x".into())));
        // Whoever asked has gone; the read has not.
        assert!(tokio::time::timeout(Duration::from_millis(20), read).await.is_err());
        hang.push(ends);
    }
    let error = folder().await.unwrap_err();
    assert!(matches!(&error, FetchError::Unavailable(why) if why.contains("3 reads")), "{error}");
    assert_eq!(fetcher.glimpse(&source(&server.url("/a/")), Trust::Admin, None).await.unwrap(), whole());
    hang.pop();
    for _ in 0..1000 {
        if folder().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the place of a read that ended is not free");
}

/// A bucket `loras` with an adapter in `acme/sql`, which knows ranges or does not.
fn bucket(asked: &Asked, ranges: bool) -> Answer {
    match asked.path.strip_prefix("/loras/acme/").unwrap_or_default() {
        "sql/adapter_config.json" => Answer::file(asked, CONFIG, "c"),
        "sql/adapter_model.safetensors" if ranges => Answer::file(asked, &weights(), "w"),
        "sql/adapter_model.safetensors" => Answer::text(weights()).with("ETag", "\"w\""),
        "old/adapter_config.json" => Answer::file(asked, CONFIG, "c"),
        "old/adapter_model.pt" => Answer::file(asked, b"pickled", "p"),
        // A list has no end, and neither have words to an error.
        _ if asked.path.contains("list-type") => {
            Answer { endless: true, ..Answer::text("<ListBucketResult>") }
        }
        _ => Answer { endless: true, body: vec![b'x'; 1000], ..Answer::status(404) },
    }
    .with("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
}

#[tokio::test]
async fn a_bucket_is_looked_into_with_a_secret_and_without() {
    for ranges in [true, false] {
        let server = Server::start(move |asked| bucket(asked, ranges)).await;
        let endpoint = server.url("");
        let secret =
            [("s/access-key-id", "key"), ("s/secret-access-key", "canary"), ("s/endpoint", &endpoint)];
        let mut here = with_secrets(&secret);
        for text in ["s3://loras/acme/sql", "s3://loras/acme/sql/adapter_model.safetensors"] {
            assert_eq!(look_with(&here, text, "s").await.unwrap(), whole(), "{text} {ranges}");
        }
        let signed = server.asked();
        assert!(signed.iter().all(|asked| asked.headers["authorization"].contains("Credential=key/")));
        here.config.s3 = S3Config { endpoint: Some(endpoint), ..S3Config::default() };
        assert_eq!(look(&here, "s3://loras/acme/sql").await.unwrap(), whole());
        let unsigned = server.asked().split_off(signed.len());
        assert!(unsigned.iter().all(|asked| !asked.headers.contains_key("authorization")));
        for (text, why) in [
            ("s3://loras/acme/gone", "adapter_config.json: not found"),
            ("s3://loras/acme/old", "adapter_model.pt is a pickle"),
        ] {
            let error = look(&here, text).await.unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let part = |asked: &Asked| asked.headers.get("range").is_some_and(|range| range == "bytes=0-7");
        assert_eq!(server.asked().iter().filter(|asked| part(asked)).count(), 4);
        assert!(server.sent() < ON_ITS_WAY, "{}", server.sent());
    }
}

#[tokio::test]
async fn nobody_is_asked_without_the_secret_or_where_the_policy_closes() {
    let server = Server::start(good).await;
    let mut here = with_secrets(&[("there/token", "t")]);
    let error = look_with(&here, &server.url("/a/"), "absent").await.unwrap_err();
    assert!(matches!(&error, FetchError::Credentials(why) if why.contains("no Secret absent")), "{error}");
    here.config.hosts = HostPolicy::default();
    let error = look_with(&here, &server.url("/a/"), "there").await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden(_)), "{error}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_is_asked_once_where_one_try_is_configured() {
    let server = Server::start(|_| Answer::status(503)).await;
    let mut here = allowed();
    here.config.s3 = S3Config { endpoint: Some(server.url("")), ..S3Config::default() };
    here.config.patience = Patience::once(Duration::from_secs(5));
    let error = look(&here, "s3://loras/acme/sql").await.unwrap_err();
    assert!(matches!(error, FetchError::Unavailable(_)), "{error}");
    assert_eq!(server.asked().len(), 1);
}
