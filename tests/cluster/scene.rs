//! Scenes that several scenarios begin with, or have to come to.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use lorikeet_crds::Adapter;
use serde_json::json;

use crate::control_plane::base64;
use crate::fake::Fake;
use crate::manifests::{adapter, deployment, digest, with};
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{PATIENCE, until};

/// What `sql` becomes while nobody looks.
const CHANGED: char = 'c';

/// Deployment `base` of `replicas` with `adapters`, all of them Ready.
pub(crate) async fn serving(stage: &Stage, replicas: u32, adapters: &[&str]) {
    let mut all = vec![deployment(&stage.namespace, "base", replicas)];
    all.extend(adapters.iter().map(|name| adapter(&stage.namespace, name, "base")));
    stage.kubectl.apply(&all);
    for name in adapters {
        stage.until_adapter_ready(name).await;
    }
    stage.until_whole("base").await;
}

/// Makes the admin Secret of `base` one that is due: less than a third of its time is left. Returns it as it is then.
pub(crate) async fn make_due(stage: &Stage) -> Secret {
    let hours = |count| base64(&(Timestamp::now() + SignedDuration::from_hours(count)).to_string());
    let due = Patch::Merge(json!({"data": {"made": hours(-20), "expires": hours(5)}}));
    let secrets = stage.api::<Secret>();
    secrets.patch("base-admin", &PatchParams::default(), &due).await.expect("it is there")
}

/// Of what [`serving`] made with `sql` and `chat`: the one is swapped, the other deleted, `late` is new, a child is gone.
pub(crate) async fn change_unseen(stage: &Stage) {
    let sql = adapter(&stage.namespace, "sql", "base");
    let changed = with(sql, "/spec/digest", json!(digest(CHANGED)));
    stage.kubectl.apply(&[changed, adapter(&stage.namespace, "late", "base")]);
    stage.kubectl.run(&["delete", "lora", "chat", "--namespace", &stage.namespace, "--wait=false"]);
    stage.api::<Service>().delete("base", &DeleteParams::default()).await.expect("it is there");
}

/// Waits until what [`change_unseen`] did is found and carried out, on every replica.
pub(crate) async fn until_carried_out(stage: &Stage, patience: Duration) {
    // At their newest spec.
    let ready = async |name: &str| stage.get::<Adapter>(name).await.filter(is_ready_adapter);
    until("what changed unseen is carried out", patience, async || {
        let swapped = ready("sql").await?.status?.digest == Some(digest(CHANGED));
        ready("late").await?;
        stage.get::<Service>("base").await?;
        let is_gone = stage.get::<Adapter>("chat").await.is_none();
        let fakes = stage.kubelet.fakes();
        let served =
            fakes.iter().all(|fake| fake.serves("sql") && fake.serves("late") && !fake.serves("chat"));
        (swapped && is_gone && served && !fakes.is_empty()).then_some(())
    })
    .await;
}

/// Scales `base` up to `count` replicas; all of them, once each serves the adapter `name`.
pub(crate) async fn grown(stage: &Stage, count: usize, name: &str) -> Vec<Arc<Fake>> {
    let replicas = format!("--replicas={count}");
    stage.kubectl.run(&["scale", "ldep/base", &replicas, "--namespace", &stage.namespace]);
    let fakes = stage.kubelet.until_running(count).await;
    until("a new replica serves it too", PATIENCE, async || {
        fakes.iter().all(|fake| fake.serves(name)).then_some(())
    })
    .await;
    fakes
}
