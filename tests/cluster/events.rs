//! Events are said at transitions of Ready: one for each, none while nothing changes, none by a restart.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use lorikeet_api::{ErrorCode, Failure};
use lorikeet_crds::{Adapter, Reason};
use serde_json::json;

use crate::manifests::{adapter, digest, with};
use crate::scene::serving;
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// A load takes so long that it is seen under way.
const LOAD: Duration = Duration::from_millis(500);

/// Each replica answers that many polls while nothing may be said: all is looked at again meanwhile.
const POLLS: usize = 40;

/// The Events at `kind` `name`, the oldest first, as `TYPE REASON`; one that is counted again is there again.
async fn said(stage: &Stage, kind: &str, name: &str) -> Vec<String> {
    let mut events = stage.api::<Event>().list(&ListParams::default()).await.expect("a list").items;
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let is_of = |event: &&Event| {
        let regards = event.regarding.as_ref();
        regards.is_some_and(|on| on.kind.as_deref() == Some(kind) && on.name.as_deref() == Some(name))
    };
    let texts = |event: &Event| {
        let count = event.series.as_ref().map_or(1, |series| usize::try_from(series.count).unwrap_or(0));
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        vec![format!("{} {}", part(&event.type_), part(&event.reason)); count]
    };
    events.iter().filter(is_of).flat_map(texts).collect()
}

/// Waits until these are the Events at Adapter `name`, and nothing comes after.
async fn until_said(stage: &Stage, name: &str, events: &[&str]) {
    until(&format!("{events:?} is said at {name}"), PATIENCE, async || {
        (said(stage, "Adapter", name).await.len() >= events.len()).then_some(())
    })
    .await;
    stage.until_quiet(Duration::from_secs(1)).await;
    assert_eq!(said(stage, "Adapter", name).await, events, "at {name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transition_is_said_once_and_nothing_at_rest_nor_by_a_restart() {
    let mut stage = Stage::wide("events").await;
    stage.kubelet.next(|script| {
        script.load = LOAD;
        script.longest_poll = Some(Duration::from_millis(200));
        script.clings = vec!["sql".to_owned()];
        let failure = Failure { code: ErrorCode::RankExceeded, message: "made by a test".to_owned() };
        script.refuses = vec![("large".to_owned(), failure)];
    });
    stage.start_operator().await;
    serving(&stage, 2, &[]).await;
    let namespace = stage.namespace.clone();
    let (sql, large) = (adapter(&namespace, "sql", "base"), adapter(&namespace, "large", "base"));
    // The first load is no news, what comes of it is.
    stage.kubectl.apply(&[sql.clone(), large.clone()]);
    stage.until_adapter_ready("sql").await;
    stage.until_adapter_says("large", Reason::RankExceeded).await;
    let refused = ["Warning RankExceeded"];
    until_said(&stage, "sql", &["Normal AsDesired"]).await;
    until_said(&stage, "large", &refused).await;
    stage.kubectl.apply(&[with(sql, "/spec/digest", json!(digest('d')))]);
    let swapped = ["Normal AsDesired", "Normal Loading", "Normal AsDesired"];
    until_said(&stage, "sql", &swapped).await;
    // It has nothing to do with its Adapters' Events.
    let of_base = ["Normal ReplicasNotReady", "Normal AsDesired"];
    assert_eq!(said(&stage, "Deployment", "base").await, of_base);
    // A restart finds all as it was, and so does each look at rest.
    stage.kill_operator();
    stage.options().flags = vec!["--resync-seconds=5".to_owned()];
    stage.start_operator().await;
    let polled: Vec<usize> = stage.kubelet.fakes().iter().map(|fake| fake.polls()).collect();
    until("the replicas answered for some seconds", PATIENCE, async || {
        let fakes = stage.kubelet.fakes();
        fakes.iter().zip(&polled).all(|(fake, before)| fake.polls() > before + POLLS).then_some(())
    })
    .await;
    until_said(&stage, "sql", &swapped).await;
    until_said(&stage, "large", &refused).await;
    assert_eq!(said(&stage, "Deployment", "base").await, of_base, "after a restart");
    // It goes when the time for its drain is over, and has not drained.
    stage.kubectl.run(&["delete", "lora", "sql", "--namespace", &namespace, "--wait=false"]);
    stage.until_gone::<Adapter>("sql").await;
    until_said(&stage, "sql", &[&swapped[..], &["Normal Draining", "Warning DrainTimeout"]].concat()).await;
}
