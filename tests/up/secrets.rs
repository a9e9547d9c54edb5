//! `secretRef` on one machine: a Secret among the manifests opens a source, late, rotated and taken away, and what is in it
//! is in no log, no object, no command line and no environment; only in files that nobody else may read, while it is used.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use lorikeet_tests::golden::Suite;
use lorikeet_tests::until::until;
use serde_json::json;

use crate::cluster_of_one::{ClusterOfOne, condition};
use crate::deployment;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub of one folder under every name, but for the name `great`, for who brings the word.
struct Hub {
    folder: PathBuf,
    great: PathBuf,
    word: Mutex<String>,
}

impl Hub {
    /// Starts it; its address.
    async fn start(folder: &Path, great: &Path, word: &str) -> (Arc<Self>, String) {
        let word = Mutex::new(word.to_owned());
        let hub = Arc::new(Self { folder: folder.to_owned(), great: great.to_owned(), word });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&hub));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (hub, url)
    }

    fn turn_to(&self, word: &str) {
        word.clone_into(&mut self.word.lock().expect("no panic"));
    }
}

async fn answer(State(hub): State<Arc<Hub>>, request: Request) -> Response {
    let wanted = format!("Bearer {}", hub.word.lock().expect("no panic"));
    let said = request.headers().get(header::AUTHORIZATION).and_then(|said| said.to_str().ok());
    if said != Some(&*wanted) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let path = request.uri().path();
    if path.ends_with("/revision/main") {
        let files =
            ["adapter_config.json", "adapter_model.safetensors"].map(|name| json!({"rfilename": name}));
        return axum::Json(json!({"sha": COMMIT, "siblings": files})).into_response();
    }
    let folder = if path.starts_with("/acme/great/") { &hub.great } else { &hub.folder };
    match std::fs::read(folder.join(path.rsplit('/').next().unwrap_or_default())) {
        Ok(bytes) => bytes.into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn closed(name: &str, secret: &str) -> String {
    format!(
        "apiVersion: lorikeet.dev/v1alpha1\nkind: Adapter\nmetadata: {{name: {name}}}\nspec:\n  deploymentRef: {{name: a}}\n  \
         source: hf://acme/{name}\n  baseModel: Any\n  secretRef: {{name: {secret}}}\n"
    )
}

fn secret(token: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: hf}}\nstringData: {{token: {token}}}\n")
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    let of = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(|entry| of(entry.path())).collect()
}

/// Nobody who looks finds `token`, but in files for the owner alone.
fn assert_hidden(cluster: &mut ClusterOfOne, token: &str) {
    let holds = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(token.len()).any(|part| part == token.as_bytes())
    };
    let secrets = cluster.path("state/run/secrets");
    let found: Vec<PathBuf> = files(&cluster.path("state")).into_iter().filter(|path| holds(path)).collect();
    assert_eq!(found, [secrets.join("default/hf/token")], "where it is read, and nowhere else");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!([mode(&found[0]), mode(&secrets), mode(&secrets.join("default/hf"))], [0o600, 0o700, 0o700]);
    let mut processes = cluster.children();
    processes.push(cluster.process().id());
    assert!(processes.len() > 1, "a replica runs");
    for pid in processes {
        for what in ["cmdline", "environ"] {
            assert!(!holds(Path::new(&format!("/proc/{pid}/{what}"))), "{what} of {pid}");
        }
    }
    assert!(!cluster.process().log().contains(token), "what it prints: {}", cluster.process().log());
    assert!(!cluster.why("one").contains(token));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_opens_sources_and_is_seen_by_nobody() {
    let suite = Suite::load();
    let model = &suite.model("llama_gqa").folder;
    let adapters = model.join("adapters");
    let (hub, url) = Hub::start(&adapters.join("qv_r8"), &adapters.join("attn_r64"), "canary-first").await;
    let mut cluster = ClusterOfOne::new();
    cluster.write("a.yaml", &deployment("a", model, "  adapters: {maxRank: 16}\n"));
    cluster.write("one.yaml", &closed("one", "hf"));
    cluster.start_with(&[("HF_ENDPOINT", &url)]);
    let lacks = |object: &serde_yaml::Value| condition(object, "Ready").1.contains("no Secret hf");
    cluster.until("Adapter", "one", "lacks its Secret", lacks).await;

    cluster.write("secret.yaml", &secret("canary-wrong"));
    let refused = |object: &serde_yaml::Value| condition(object, "Ready").1.contains("other credentials");
    cluster.until("Adapter", "one", "is refused by its source", refused).await;
    assert_hidden(&mut cluster, "canary-wrong");

    cluster.write("secret.yaml", &secret("canary-first"));
    cluster.until_ready("Adapter", "one", 1).await;
    cluster.until_ready("Deployment", "a", 1).await;
    assert_hidden(&mut cluster, "canary-first");

    // What it opens is read before a replica hears of it.
    cluster.write("great.yaml", &closed("great", "hf"));
    let refused =
        |object: &serde_yaml::Value| condition(object, "Ready").1.contains("expected at most 16, got 64");
    cluster.until("Adapter", "great", "is refused", refused).await;
    let known = cluster.client(0).get("/v1/models").await.ok().to_string();
    assert!(known.contains("\"one\"") && !known.contains("great"), "{known}");

    // Rotated: what is fetched from now on is opened by the new one, in the same processes.
    let running = cluster.children();
    hub.turn_to("canary-second");
    cluster.write("secret.yaml", &secret("canary-second"));
    cluster.write("two.yaml", &closed("two", "hf"));
    cluster.until_ready("Adapter", "two", 1).await;
    assert_hidden(&mut cluster, "canary-second");
    assert_eq!(cluster.children(), running);

    cluster.remove("secret.yaml");
    let laid_out = cluster.path("state/run/secrets/default/hf");
    until("a Secret without a manifest is gone", async || {
        let left = files(&cluster.path("state/run/secrets"));
        if laid_out.exists() { Err(left) } else { Ok(()) }
    })
    .await;
    cluster.write("secret.yaml", &secret("canary-second"));
    until("it is back", async || if laid_out.join("token").exists() { Ok(()) } else { Err(()) }).await;
    cluster.process().terminate();
    until("it ends", async || cluster.process().ended().ok_or("it runs")).await;
    let holds =
        |path: &PathBuf| std::fs::read(path).unwrap_or_default().windows(6).any(|part| part == b"canary");
    let left: Vec<PathBuf> = files(&cluster.path("state")).into_iter().filter(holds).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "nothing of it is left where nothing runs");
}
