//! Real replicas, LoRA Land in miniature: no request fails while an adapter is swapped under it, while the admin Secret is
//! renewed, or while the operator is away, and every answer is one of the two generations'.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ListParams;
use lorikeet_tests::args;
use lorikeet_tests::client::{Answer, Client};
use serde_json::{Value, json};

use crate::kubelet::Kubelet;
use crate::manifests::{adapter, deployment, with};
use crate::scene::make_due;
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// Of the replicas' admin faces.
const ADMIN_PORT: u16 = 8081;

fn source(path: &str) -> Value {
    json!(format!("file://{}", args::root().join("deploy/loraland").join(path).display()))
}

fn of(namespace: &str, name: &str, folder: &str) -> Value {
    with(adapter(namespace, name, "base"), "/spec/source", source(&format!("adapters/{folder}")))
}

async fn ask(face: &Client, model: &str) -> Answer {
    let body =
        json!({"model": model, "prompt": "List the cities of France.", "max_tokens": 12, "temperature": 0});
    face.post("/v1/completions", &body).await
}

async fn text(face: &Client, model: &str) -> String {
    ask(face, model).await.ok()["choices"][0]["text"].as_str().expect("a text").to_owned()
}

/// A stage whose pods run the real binary: `replicas` of the base, and `adapters` by name and folder, all Ready.
async fn serving(name: &str, replicas: u32, adapters: &[(&str, &str)]) -> Stage {
    let mut stage = Stage::new(name).await;
    let namespace = stage.namespace.clone();
    stage.kubelet = Kubelet::real(stage.client.clone(), &namespace);
    stage.start_operator().await;
    let base = with(deployment(&namespace, "base", replicas), "/spec/model/source", source("base"));
    let adapters = adapters.iter().map(|(name, folder)| of(&namespace, name, folder));
    stage.kubectl.apply(&adapters.chain([base]).collect::<Vec<_>>());
    let wait = ["wait", "--for=condition=Ready", "--timeout=120s", "--all", "ldep,lora", "--namespace"];
    stage.kubectl.run(&[wait.as_slice(), &[namespace.as_str()]].concat());
    stage
}

/// The faces, once `count` are ready.
async fn faces(stage: &Stage, count: usize) -> Vec<Client> {
    until("the replicas are ready", PATIENCE, async || {
        Some(stage.kubelet.faces()).filter(|faces| faces.len() == count)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn real_replicas_serve_swap_and_forget_as_the_manifests_say() {
    let stage = serving("real", 2, &[("swapped", "wikisql"), ("reference", "gsm8k")]).await;
    let namespace = stage.namespace.clone();
    let faces = faces(&stage, 2).await;
    let old = text(&faces[0], "swapped").await;
    let new = text(&faces[0], "reference").await;
    assert_ne!(old, new, "two adapters answer alike: they prove nothing");
    assert_eq!(text(&faces[1], "swapped").await, old);

    let (over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let users = async |face: &Client| {
        while !over.load(Ordering::Relaxed) {
            let answer = text(face, "swapped").await;
            assert!(answer == old || answer == new, "an answer of neither generation: {answer:?}");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let change = async {
        until("users ask", PATIENCE, async || (asked.load(Ordering::Relaxed) > 4).then_some(())).await;
        stage.kubectl.apply(&[of(&namespace, "swapped", "gsm8k")]);
        let digest = stage.until_adapter_ready("reference").await.status.and_then(|status| status.digest);
        stage
            .until_adapter("swapped", "the reference's digest", |adapter| {
                adapter
                    .status
                    .as_ref()
                    .is_some_and(|status| status.digest.is_some() && status.digest == digest)
            })
            .await;
        stage.until_adapter_ready("swapped").await;
        over.store(true, Ordering::Relaxed);
    };
    futures::future::join3(users(&faces[0]), users(&faces[1]), change).await;
    for face in &faces {
        assert_eq!(text(face, "swapped").await, new);
    }
    stage.kubectl.run(&["delete", "lora", "swapped", "--namespace", &namespace, "--timeout=60s"]);
    for face in &faces {
        // No finalizer holds an object of the operator's own namespace: it may be gone before the replicas heard of it.
        until("the replica forgets it", PATIENCE, async || {
            (ask(face, "swapped").await.status == 404).then_some(())
        })
        .await;
        assert_eq!(text(face, "reference").await, new);
    }
}

/// The status that the replica of `face` gives to `token`, over TLS against the authority `pem`; nothing where the two do not
/// come to terms.
async fn admitted(stage: &Stage, face: &Client, pem: &[u8], token: &[u8]) -> Option<u16> {
    let at: SocketAddr = face.url().trim_start_matches("http://").parse().expect("an address");
    let host = format!("base-replicas.{}.svc", stage.namespace);
    let authority = reqwest::Certificate::from_pem(pem).expect("a certificate");
    let builder = reqwest::Client::builder().tls_certs_only([authority]).timeout(PATIENCE).no_proxy();
    let client = builder.resolve(&host, SocketAddr::new(at.ip(), ADMIN_PORT)).build().expect("a client");
    let request = client.get(format!("https://{host}:{ADMIN_PORT}/admin/v1/adapters"));
    let token = std::str::from_utf8(token).expect("a token");
    Some(request.bearer_auth(token).send().await.ok()?.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_secret_opens_a_real_replica_and_the_former_one_no_longer() {
    let mut stage = serving("reopened", 1, &[("sql", "wikisql")]).await;
    let namespace = stage.namespace.clone();
    let face = faces(&stage, 1).await.remove(0);
    let expected = text(&face, "sql").await;
    let field = |secret: &Secret, key: &str| secret.data.as_ref().expect("data")[key].0.clone();
    let former = stage.get::<Secret>("base-admin").await.expect("it is there");
    let (authority, token) = (field(&former, "ca.crt"), field(&former, "token"));
    assert_eq!(admitted(&stage, &face, &authority, &token).await, Some(200));

    make_due(&stage).await;
    let renewed = until("the Secret is renewed", PATIENCE, async || {
        stage.get::<Secret>("base-admin").await.filter(|secret| field(secret, "token") != token)
    })
    .await;
    let (new_authority, new_token) = (field(&renewed, "ca.crt"), field(&renewed, "token"));
    until("the replica takes what its files say now", PATIENCE, async || {
        (admitted(&stage, &face, &new_authority, &new_token).await == Some(200)).then_some(())
    })
    .await;
    assert_eq!(admitted(&stage, &face, &new_authority, &token).await, Some(401), "the former token");
    assert_eq!(admitted(&stage, &face, &authority, &new_token).await, None, "the former authority");

    // The operator that renewed it reaches the replica, and so does one that never knew another Secret.
    stage.kubectl.apply(&[of(&namespace, "math", "gsm8k")]);
    stage.until_adapter_ready("math").await;
    stage.kill_operator();
    stage.start_operator().await;
    stage.kubectl.apply(&[of(&namespace, "more", "wikisql")]);
    stage.until_adapter_ready("more").await;
    assert_eq!(text(&face, "more").await, expected);
    assert_eq!(text(&face, "sql").await, expected);
}

/// What it should hold lies beside the pod: nobody has to tell it.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_replica_that_starts_while_the_operator_is_away_serves_its_adapters() {
    let mut stage = serving("away", 1, &[("sql", "wikisql"), ("math", "gsm8k")]).await;
    let namespace = stage.namespace.clone();
    let first = faces(&stage, 1).await.remove(0);
    let [sql, math] = [text(&first, "sql").await, text(&first, "math").await];
    until("the registry names both", PATIENCE, async || {
        let maps = stage.api::<ConfigMap>().list(&ListParams::default()).await.expect("maps").items;
        let texts: Vec<String> =
            maps.into_iter().filter_map(|map| map.data).flat_map(BTreeMap::into_values).collect();
        ["sql", "math"]
            .iter()
            .all(|name| texts.iter().any(|text| text.contains(&format!("\"{name}\""))))
            .then_some(())
    })
    .await;
    stage.kill_operator();
    stage.kubectl.run(&["delete", "pods", "--all", "--wait=false", "--namespace", &namespace]);
    let second = until("another replica is ready", PATIENCE, async || {
        let faces = stage.kubelet.faces();
        faces.into_iter().find(|face| face.url() != first.url())
    })
    .await;
    until("it serves an adapter", PATIENCE, async || (ask(&second, "sql").await.status == 200).then_some(()))
        .await;
    assert_eq!(text(&second, "sql").await, sql);
    assert_eq!(text(&second, "math").await, math);

    // An operator that comes back takes nothing away meanwhile.
    let over = AtomicBool::new(false);
    let user = async {
        while !over.load(Ordering::Relaxed) {
            assert_eq!(text(&second, "math").await, math);
        }
    };
    stage.start_operator().await;
    let back = async {
        stage.kubectl.apply(&[of(&namespace, "more", "wikisql")]);
        stage.until_adapter_ready("more").await;
        stage.until_whole("base").await;
        over.store(true, Ordering::Relaxed);
    };
    futures::future::join(user, back).await;
}
