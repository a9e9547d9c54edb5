//! An inspector's face: who is answered, with what, and how many at a time.

use std::sync::Arc;
use std::time::Duration;

use lorikeet_api::{AdminError, ErrorCode, INSPECT_PATH, InspectedSource, WeightsSize};
use serde_json::json;

use super::super::inspect::Inspector;
use super::super::routes::inspector_router;
use super::*;
use crate::source::config::FetchConfig;
use crate::source::fetch::Fetcher;
use crate::source::server::{Answer as Said, Server};

const CONFIG: &str = "{\"peft_type\": \"LORA\"}";

fn face(sources: FetchConfig, concurrent: usize, time: Duration) -> Router {
    let inspector = Inspector::new(Fetcher::new(sources).unwrap(), concurrent, time, Limits::default());
    inspector_router(Arc::new(inspector), &Keys::open())
}

fn with_root(root: &std::path::Path) -> Router {
    let sources = FetchConfig { source_roots: vec![root.to_owned()], ..FetchConfig::default() };
    face(sources, 4, Duration::from_secs(10))
}

fn with_hosts(concurrent: usize, time: Duration) -> Router {
    let hosts = crate::source::address::HostPolicy { allow: vec!["127.0.0.0/8".parse().unwrap()] };
    face(FetchConfig { hosts, ..FetchConfig::default() }, concurrent, time)
}

fn error(answer: &Answer) -> (u16, ErrorCode, Option<String>, String) {
    let AdminError { error } = serde_json::from_str(&answer.text).unwrap();
    (answer.status.as_u16(), error.code, error.param, error.message)
}

#[tokio::test]
async fn a_source_is_said_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("sql")).unwrap();
    std::fs::write(root.path().join("sql/adapter_config.json"), CONFIG).unwrap();
    std::fs::write(root.path().join("sql/adapter_model.safetensors"), [2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'])
        .unwrap();
    let router = with_root(root.path());
    assert_eq!(get(&router, "/health").await.status, 200);
    let answer = post(&router, INSPECT_PATH, &json!({"source": "sql"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let said: InspectedSource = serde_json::from_str(&answer.text).unwrap();
    let weights = Some(WeightsSize { length: 10, header: 2 });
    assert_eq!(said, InspectedSource { config: CONFIG.to_owned(), weights });
}

#[tokio::test]
async fn a_long_answer_is_written_as_any_other_while_its_place_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("odd");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), []).unwrap();
    let sources = FetchConfig { source_roots: vec![root.path().to_owned()], ..FetchConfig::default() };
    let router = face(sources, 1, Duration::from_millis(100));
    for config in ["", "\u{1}\"\\\n", "é", "\u{1f980}"].map(|text| text.repeat(20_001)) {
        std::fs::write(folder.join("adapter_config.json"), &config).unwrap();
        let answer = post(&router, INSPECT_PATH, &json!({"source": "odd"})).await;
        assert_eq!(answer.headers["content-type"], "application/json");
        let said = InspectedSource { config, weights: None };
        assert_eq!(answer.text, serde_json::to_string(&said).unwrap());
    }
    let request = Request::post(INSPECT_PATH).header("host", "localhost");
    let request = request.header("content-type", "application/json");
    let request = request.body(Body::from("{\"source\": \"odd\"}")).unwrap();
    let unread = router.clone().oneshot(request).await.unwrap();
    assert_eq!(unread.status(), 200);
    let other = post(&router, INSPECT_PATH, &json!({"source": "odd"})).await;
    assert_eq!(other.status, 429, "{}", other.text);
    drop(unread);
    assert_eq!(post(&router, INSPECT_PATH, &json!({"source": "odd"})).await.status, 200);
}

#[tokio::test]
async fn what_cannot_be_asked_is_400_by_its_field_and_what_cannot_be_read_is_422() {
    let root = tempfile::tempdir().unwrap();
    let router = with_root(root.path());
    let asked = async |body: Value| error(&post(&router, INSPECT_PATH, &body).await);
    for (body, field, words) in [
        (json!({"source": "ftp://x"}), Some("source"), "the scheme \"ftp\""),
        (json!({"source": ""}), Some("source"), "got nothing"),
        (json!({"source": "/a", "revision": "v1"}), Some("revision"), "only a source of the hub"),
        (json!({"source": "/a", "credentials": "../x"}), Some("credentials"), "the name of a Secret"),
        (json!({"credentials": "x"}), None, "missing field `source`"),
        (json!({"source": "/a", "digest": "x"}), None, "unknown field `digest`"),
        (json!({"source": 1}), None, "expected a string"),
    ] {
        let (status, code, param, message) = asked(body).await;
        assert_eq!((status, code, param.as_deref()), (400, ErrorCode::InvalidRequest, field), "{message}");
        assert!(message.contains(words), "{message}");
        // A status repeats the message alone.
        assert!(message.starts_with(&format!("{}: ", field.unwrap_or("body"))), "{message}");
    }
    let gone = asked(json!({"source": "gone"})).await;
    assert_eq!(gone, (422, ErrorCode::SourceNotFound, Some("source".into()), "gone: no such folder".into()));
    let (status, code, _, message) = asked(json!({"source": "/etc"})).await;
    assert_eq!((status, code), (422, ErrorCode::SourceForbidden), "{message}");
    let (status, code, _, message) = asked(json!({"source": "https://h/x/", "credentials": "s"})).await;
    assert_eq!((status, code), (422, ErrorCode::SourceUnauthorized), "{message}");
}

#[tokio::test]
async fn a_body_that_is_too_long_other_methods_and_paths_are_refused() {
    let limits = Limits { body_bytes: 1024, ..Limits::default() };
    let fetcher = Fetcher::new(FetchConfig::default()).unwrap();
    let inspector = Inspector::new(fetcher, 1, Duration::from_secs(1), limits);
    let router = inspector_router(Arc::new(inspector), &Keys::open());
    let long = post(&router, INSPECT_PATH, &json!({"source": "a".repeat(2000)})).await;
    assert_eq!(long.status, 413);
    assert_eq!(call(&router, "PUT", INSPECT_PATH, &json!({})).await.status, 405);
    for path in ["/admin/v1/adapters", "/v1/models", "/metrics", "/"] {
        assert_eq!(get(&router, path).await.status, 404, "{path}");
    }
}

/// One that never says more than a head.
async fn stalling() -> Server {
    Server::start(|_| Said { claims: Some(9), stalls: true, ..Said::text("") }).await
}

#[tokio::test]
async fn a_source_that_takes_too_long_is_504() {
    let server = stalling().await;
    let router = with_hosts(1, Duration::from_millis(50));
    let answer = post(&router, INSPECT_PATH, &json!({"source": server.url("/a/")})).await;
    let late =
        (504, ErrorCode::SourceUnavailable, Some("source".into()), "source: not read within 50ms".into());
    assert_eq!(error(&answer), late);
}

#[tokio::test]
async fn of_more_than_may_wait_one_is_told_at_once_to_come_again() {
    let server = stalling().await;
    let router = with_hosts(1, Duration::from_secs(60));
    let body = json!({"source": server.url("/a/")});
    let asked: Vec<_> = (0..9)
        .map(|_| {
            let (router, body) = (router.clone(), body.clone());
            tokio::spawn(async move { post(&router, INSPECT_PATH, &body).await })
        })
        .collect();
    scripted::until(|| server.connections() > 0).await;
    let answer = post(&router, INSPECT_PATH, &body).await;
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(answer.json()["error"]["code"], "queue_full");
    assert!(server.connections() < 4, "the others wait for the first");
    // Whoever goes away makes room.
    asked.iter().for_each(tokio::task::JoinHandle::abort);
    for task in asked {
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
    }
    let again = post(&router, INSPECT_PATH, &json!({"source": "/x"})).await;
    assert_eq!(again.status, 422, "{}", again.text);
}

#[tokio::test]
async fn who_waits_for_as_long_as_a_source_may_take_is_told_to_come_again() {
    let server = stalling().await;
    let router = with_hosts(1, Duration::from_millis(100));
    let body = json!({"source": server.url("/a/")});
    let asked = futures::future::join_all((0..4).map(|_| post(&router, INSPECT_PATH, &body))).await;
    let mut statuses: Vec<u16> = asked.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert!(statuses[0] == 429 && statuses[3] == 504, "{statuses:?}");
}
