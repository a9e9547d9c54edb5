//! The fetcher against servers that behave, break, lie and lead astray.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::source::address::HostPolicy;
use crate::source::config::{HubConfig, Patience, S3Config, Secret};
use crate::source::server::{Answer, Asked, Server};

mod credentials;
mod glimpse;
mod hub;

const CONFIG: &[u8] = b"{\"peft_type\": \"LORA\"}";
const LIMIT: u64 = 10_000;

pub(super) fn weights() -> Vec<u8> {
    (0..5000_u32).map(|n| (n % 251) as u8).collect()
}

/// The digest of the adapter that servers here hold.
fn digest() -> Digest {
    Digest::of_files([("adapter_config.json", CONFIG), ("adapter_model.safetensors", &weights())])
}

pub(super) struct Here {
    pub(super) dir: tempfile::TempDir,
    pub(super) config: FetchConfig,
}

impl Here {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let patience = Patience {
            read: Duration::from_millis(300),
            tries: 2,
            pause: Duration::from_millis(1),
            ..Patience::default()
        };
        let config = FetchConfig { cache_dir: dir.path().join("cache"), patience, ..FetchConfig::default() };
        Self { dir, config }
    }

    pub(super) fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.config.clone()).unwrap()
    }
}

pub(super) fn source(text: &str) -> Source {
    Source::parse(text, None).unwrap()
}

async fn adapter(fetcher: &Fetcher, url: &str) -> Result<Fetched, FetchError> {
    fetcher.adapter(&source(url), Trust::CommandLine, None, None, LIMIT).await
}

async fn from_admin(fetcher: &Fetcher, url: &str) -> Result<Fetched, FetchError> {
    fetcher.adapter(&source(url), Trust::Admin, None, None, LIMIT).await
}

/// A good folder below `/a/`.
fn good(asked: &Asked) -> Answer {
    match asked.path.as_str() {
        "/a/adapter_config.json" => Answer::file(asked, CONFIG, "c1"),
        "/a/adapter_model.safetensors" => Answer::file(asked, &weights(), "w1"),
        _ => Answer::status(404),
    }
}

fn is_weights(asked: &Asked) -> bool {
    asked.method == "GET" && asked.path.ends_with("adapter_model.safetensors")
}

fn read(fetched: &Fetched) -> Vec<u8> {
    fetched.folder.read("adapter_model.safetensors", LIMIT).unwrap()
}

#[tokio::test]
async fn a_folder_is_fetched_once_and_found_again_by_its_tags() {
    let server = Server::start(good).await;
    let here = Here::new();
    let fetcher = here.fetcher();
    for url in ["/a/", "/a", "/a/adapter_model.safetensors"] {
        let fetched = adapter(&fetcher, &server.url(url)).await.unwrap();
        assert_eq!((read(&fetched), fetched.digest), (weights(), Some(digest())));
    }
    let again = adapter(&fetcher, &server.url("/a/")).await.unwrap();
    assert_eq!(again.from, Tier::Disk);
    assert_eq!(server.got().len(), 6, "once for each way of writing it");
}

#[tokio::test]
async fn however_many_ask_there_is_one_download() {
    let server = Server::start(|asked| {
        let mut answer = good(asked);
        answer.headers.clear();
        answer
    })
    .await;
    let fetcher = Here::new();
    let (_dir, fetcher) = (&fetcher.dir, fetcher.fetcher());
    let url = server.url("/a/");
    let asked: Vec<_> = (0..50).map(|_| adapter(&fetcher, &url)).collect();
    for fetched in futures::future::join_all(asked).await {
        assert_eq!(read(&fetched.unwrap()), weights());
    }
    assert_eq!(server.got().len(), 2);
}

#[tokio::test]
async fn what_breaks_is_gone_on_with_where_it_broke() {
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |asked| {
        let answer = good(asked);
        match is_weights(asked) && tries.fetch_add(1, Ordering::SeqCst) < 4 {
            true => answer.cut(1000),
            false => answer,
        }
    })
    .await;
    let here = Here::new();
    let fetched = adapter(&here.fetcher(), &server.url("/a/")).await.unwrap();
    assert_eq!(read(&fetched), weights());
    let ranges: Vec<Option<String>> = server
        .asked()
        .iter()
        .filter(|asked| is_weights(asked))
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    let expected = [None, Some("bytes=1000-"), Some("bytes=2000-"), Some("bytes=3000-"), Some("bytes=4000-")];
    assert_eq!(ranges, expected.map(|range| range.map(str::to_owned)));
}

#[tokio::test]
async fn a_process_that_died_left_what_the_next_one_goes_on_with() {
    let cut = Arc::new(AtomicUsize::new(1));
    let server = Server::start({
        let cut = Arc::clone(&cut);
        move |asked| match is_weights(asked) && cut.load(Ordering::SeqCst) > 0 {
            true if asked.headers.contains_key("range") => Answer::status(503),
            true => good(asked).cut(3000),
            false => good(asked),
        }
    })
    .await;
    let here = Here::new();
    let failed = adapter(&here.fetcher(), &server.url("/a/")).await;
    assert!(matches!(failed, Err(FetchError::Unavailable(_))), "{failed:?}");
    cut.store(0, Ordering::SeqCst);
    let fetched = adapter(&here.fetcher(), &server.url("/a/")).await.unwrap();
    assert_eq!(read(&fetched), weights());
    let last = server.asked().into_iter().rfind(is_weights).unwrap();
    assert_eq!(last.headers["range"], "bytes=3000-");
    assert_eq!(server.got().iter().filter(|path| path.ends_with("config.json")).count(), 1);
}

#[tokio::test]
async fn a_file_that_changes_under_way_is_never_mixed() {
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |asked| match is_weights(asked) {
        true if tries.fetch_add(1, Ordering::SeqCst) == 0 => good(asked).cut(1000),
        true => Answer::file(asked, &[7; 5000], "w2"),
        false => good(asked),
    })
    .await;
    let here = Here::new();
    let refused = adapter(&here.fetcher(), &server.url("/a/")).await.unwrap_err();
    assert!(refused.to_string().contains("changed while it was fetched"), "{refused}");
}

#[tokio::test]
async fn a_server_that_stalls_lies_or_never_ends_is_given_up() {
    let server = Server::start(|asked| match asked.path.split('/').nth(1) {
        _ if asked.path.ends_with("adapter_config.json") => Answer::file(asked, CONFIG, "c1"),
        Some("stalls") => Answer { claims: Some(5000), stalls: true, ..Answer::text([1; 100]) },
        Some("short") => Answer { claims: Some(6000), ..Answer::text(weights()) },
        Some("endless") => Answer { endless: true, ..Answer::text([0; 1000]) },
        Some("large") => Answer { claims: Some(LIMIT + 1), ..Answer::text([0; 10]) },
        Some("busy") => Answer::status(503),
        Some("part") => Answer { status: 206, ..Answer::text(weights()) },
        _ => Answer::status(418),
    })
    .await;
    let here = Here::new();
    let fetcher = here.fetcher();
    let error = |kind: &'static str| {
        let (fetcher, url) = (fetcher.clone(), server.url(&format!("/{kind}/")));
        async move { adapter(&fetcher, &url).await.unwrap_err() }
    };
    for kind in ["stalls", "short", "busy"] {
        let error = error(kind).await;
        assert!(matches!(error, FetchError::Unavailable(_)), "{kind}: {error}");
    }
    for kind in ["endless", "large"] {
        let error = error(kind).await;
        assert!(matches!(error, FetchError::TooLarge { limit: LIMIT, .. }), "{kind}: {error}");
    }
    for kind in ["part", "teapot"] {
        let error = error(kind).await;
        assert!(matches!(error, FetchError::Protocol(_)), "{kind}: {error}");
    }
    let nobody = adapter(&fetcher, "http://127.0.0.1:9/a/").await.unwrap_err();
    assert!(matches!(nobody, FetchError::Unavailable(_)), "{nobody}");
}

#[tokio::test]
async fn redirects_are_followed_some_way() {
    let server =
        Server::start(|asked| match asked.path.strip_prefix("/r").and_then(|path| path.split_once('/')) {
            Some(("0", file)) => Answer::to(format!("/a/{file}")),
            Some((n, file)) => Answer::to(format!("/r{}/{file}", n.parse::<usize>().unwrap() - 1)),
            None => good(asked),
        })
        .await;
    let here = Here::new();
    let fetcher = here.fetcher();
    assert!(adapter(&fetcher, &server.url("/r4/")).await.is_ok());
    let error = adapter(&fetcher, &server.url("/r5/")).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
}

#[tokio::test]
async fn the_admin_face_reaches_only_what_the_policy_allows() {
    let server = Server::start(|asked| match asked.path.strip_prefix("/away/") {
        Some(file) => Answer::to(format!("http://127.0.0.1:1/{file}")),
        None => good(asked),
    })
    .await;
    let mut here = Here::new();
    let port = server.address.port();
    let by_name = format!("http://localhost:{port}/a/");
    for url in [server.url("/a/"), by_name.clone(), format!("https://localhost:{port}/a/")] {
        let error = from_admin(&here.fetcher(), &url).await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden(_)), "{url}: {error}");
    }
    assert!(server.asked().is_empty(), "nobody connected");
    here.config.hosts = HostPolicy { allow: vec![format!("localhost:{port}").parse().unwrap()] };
    let fetcher = here.fetcher();
    assert!(from_admin(&fetcher, &by_name).await.is_ok());
    let error = from_admin(&fetcher, &format!("http://localhost:{port}/away/")).await.unwrap_err();
    assert!(matches!(error, FetchError::Forbidden(_)), "a redirect is judged like the first: {error}");
}

#[tokio::test]
async fn a_rule_with_a_port_opens_that_port_alone() {
    // What must not be asked: it would answer.
    let other = Server::start(good).await;
    let closed = other.address.port();
    let server = Server::start(move |asked| match asked.path.split('/').collect::<Vec<_>>()[..] {
        ["", "to", scheme, file] => Answer::to(format!("{scheme}://localhost:{closed}/a/{file}")),
        _ => good(asked),
    })
    .await;
    let open = server.address.port();
    let mut here = Here::new();
    here.config.hosts = HostPolicy { allow: vec![format!("localhost:{open}").parse().unwrap()] };
    let fetcher = here.fetcher();
    assert!(from_admin(&fetcher, &format!("http://localhost:{open}/a/")).await.is_ok());
    // It speaks no TLS, but it is asked for it.
    let spoken = from_admin(&fetcher, &format!("https://localhost:{open}/a/")).await.unwrap_err();
    assert!(matches!(spoken, FetchError::Unavailable(_)), "{spoken}");
    for url in [
        format!("http://localhost:{closed}/a/"),
        format!("https://localhost:{closed}/a/"),
        format!("http://localhost:{open}/to/http/"),
        format!("http://localhost:{open}/to/https/"),
    ] {
        let error = from_admin(&fetcher, &url).await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden(_)), "{url}: {error}");
    }
    assert_eq!(other.connections(), 0, "nobody connected");
}

#[tokio::test]
async fn a_pinned_digest_is_all_that_is_taken_and_enough_to_find_it_again() {
    let server = Server::start(good).await;
    let here = Here::new();
    let fetcher = here.fetcher();
    let url = server.url("/a/");
    let pinned =
        async |digest| fetcher.adapter(&source(&url), Trust::CommandLine, None, Some(digest), LIMIT).await;
    let error = pinned(Digest::of(b"other")).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { got, .. } if got == digest()));
    assert_eq!(pinned(digest()).await.unwrap().from, Tier::Remote);
    let error = pinned(Digest::of(b"other")).await.unwrap_err();
    assert!(matches!(error, FetchError::DigestMismatch { .. }), "from the cache as well");
    let asked = server.asked().len();
    assert_eq!(pinned(digest()).await.unwrap().from, Tier::Disk);
    assert_eq!(server.asked().len(), asked, "nobody was asked");
}

#[tokio::test]
async fn the_cache_stays_within_its_bytes() {
    let server = Server::start(|asked| {
        let tag = asked.path.split('/').nth(1).unwrap().to_owned();
        let mut content = weights();
        content[0] = tag.as_bytes()[0];
        match asked.path.rsplit('/').next().unwrap() {
            "adapter_config.json" => Answer::file(asked, CONFIG, "c"),
            _ => Answer::file(asked, &content, &tag),
        }
    })
    .await;
    let mut here = Here::new();
    here.config.cache_bytes = 3 * 5100;
    let fetcher = here.fetcher();
    for name in ["a", "b", "c", "d", "e"] {
        let fetched = adapter(&fetcher, &server.url(&format!("/{name}/"))).await.unwrap();
        assert_eq!(fetched.folder.read("adapter_model.safetensors", LIMIT).unwrap()[0], name.as_bytes()[0]);
    }
    let kept = std::fs::read_dir(here.config.cache_dir.join("content")).unwrap().count();
    assert_eq!(kept, 3);
    here.config.cache_bytes = 1000;
    let error = adapter(&here.fetcher(), &server.url("/f/")).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { limit: 1000, .. }), "{error}");
}

#[tokio::test]
async fn a_bucket_is_listed_and_read() {
    let server = Server::start(|asked| {
        let object = |key: &str, size: usize| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>\
                 <ETag>&quot;{size}&quot;</ETag><Size>{size}</Size></Contents>"
            )
        };
        let path = asked.path.split('?').next().unwrap();
        match path.rsplit('/').next().unwrap() {
            "adapter_config.json" => Answer::file(asked, CONFIG, &CONFIG.len().to_string()),
            "adapter_model.safetensors" => Answer::file(asked, &weights(), "5000"),
            _ if asked.path.contains("denied") => Answer::status(403),
            _ => Answer::text(format!(
                "<ListBucketResult><Name>loras</Name><IsTruncated>false</IsTruncated>{}{}{}</ListBucketResult>",
                object("acme/sql/adapter_config.json", CONFIG.len()),
                object("acme/sql/adapter_model.safetensors", 5000),
                object("acme/sql/deeper/adapter_model.safetensors", 1),
            )),
        }
        .with("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
    })
    .await;
    let mut here = Here::new();
    here.config.s3 = S3Config {
        endpoint: Some(server.url("")),
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some(Secret::new("secret")),
        ..S3Config::default()
    };
    let fetcher = here.fetcher();
    let fetched = from_admin(&fetcher, "s3://loras/acme/sql/").await.unwrap();
    assert_eq!((read(&fetched), fetched.digest), (weights(), Some(digest())));
    assert!(server.asked()[0].headers["authorization"].starts_with("AWS4-HMAC-SHA256 Credential=id/"));
    assert_eq!(from_admin(&fetcher, "s3://loras/acme/sql").await.unwrap().from, Tier::Disk);
    let denied = from_admin(&fetcher, "s3://loras/denied").await.unwrap_err();
    assert!(matches!(denied, FetchError::Unauthorized(_)), "{denied}");
}

#[tokio::test]
async fn progress_is_told_to_its_end() {
    let server = Server::start(good).await;
    let mut here = Here::new();
    let told = Arc::<Mutex<Vec<(String, u64, bool)>>>::default();
    let hears = Arc::clone(&told);
    here.config.progress = Some(Arc::new(move |progress| {
        hears.lock().unwrap().push((progress.file.to_owned(), progress.done, progress.finished));
    }));
    adapter(&here.fetcher(), &server.url("/a/")).await.unwrap();
    let told = told.lock().unwrap().clone();
    assert!(told.contains(&("adapter_model.safetensors".to_owned(), 5000, true)));
    assert_eq!(told.iter().filter(|(_, _, finished)| *finished).count(), 2);
}
