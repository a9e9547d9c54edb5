//! Real replicas, LoRA Land in miniature: no request fails while an adapter is swapped under it, and every answer is one
//! of the two generations'.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use lorikeet_tests::args;
use lorikeet_tests::client::{Answer, Client};
use serde_json::{Value, json};

use crate::kubelet::Kubelet;
use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

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

#[tokio::test(flavor = "multi_thread")]
async fn real_replicas_serve_swap_and_forget_as_the_manifests_say() {
    let mut stage = Stage::new("real").await;
    let namespace = stage.namespace.clone();
    stage.kubelet = Kubelet::real(stage.client.clone(), &namespace);
    stage.start_operator().await;
    let base = with(deployment(&namespace, "base", 2), "/spec/model/source", source("base"));
    stage.kubectl.apply(&[base, of(&namespace, "swapped", "wikisql"), of(&namespace, "reference", "gsm8k")]);
    for object in ["ldep/base", "lora/swapped", "lora/reference"] {
        stage.kubectl.run(&[
            "wait",
            "--for=condition=Ready",
            "--timeout=120s",
            "--namespace",
            &namespace,
            object,
        ]);
    }
    let faces = until("two are ready", PATIENCE, async || {
        Some(stage.kubelet.faces()).filter(|faces| faces.len() == 2)
    })
    .await;
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
