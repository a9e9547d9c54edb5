//! The finalizer of Adapters that are served: lost, it comes back and takes nothing away; refused, it holds nobody else up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lorikeet_crds::{Adapter, FINALIZER, Reason};

use crate::audit::Event;
use crate::manifests::adapter;
use crate::proxy::Fault;
use crate::scene::serving;
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{PATIENCE, until};

/// More than one look puts on.
const MANY: usize = 300;

async fn until_held(stage: &Stage, name: &str) {
    let is_held = |one: &Adapter| one.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER);
    stage.until_adapter(name, "bears the finalizer", is_held).await;
}

/// What a replica was ever told to do without, or told without.
fn taken_away(stage: &Stage, names: &[&str]) -> Vec<String> {
    let mut taken = Vec::new();
    for fake in stage.kubelet.fakes() {
        let mut had: Vec<&str> = Vec::new();
        for heard in fake.heard() {
            let is_told = |name: &&str| heard.set.iter().any(|one| one.name == **name);
            let lacks =
                |name: &&&str| heard.removed.iter().any(|one| one == **name) || heard.whole && !is_told(name);
            taken.extend(had.iter().filter(lacks).map(|name| format!("{name} from {}", fake.name())));
            had.extend(names.iter().filter(|name| is_told(name)));
        }
    }
    taken
}

/// Strikes what the manifest of Adapter `name` does not have, as GitOps does that replaces objects.
#[track_caller]
fn replace(stage: &Stage, name: &str) {
    let manifest = adapter(&stage.namespace, name, "base").to_string();
    stage.kubectl.feed(&["replace", "-f", "-"], &manifest).expect("it is replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_adapter_that_loses_its_finalizer_gets_it_again_and_is_served_on() {
    let mut stage = Stage::wide("struck").await;
    stage.start_operator().await;
    serving(&stage, 2, &["sql", "chat"]).await;
    until_held(&stage, "sql").await;
    replace(&stage, "sql");
    until_held(&stage, "sql").await;
    // Nor where somebody's rule does not let it be put on again.
    stage.proxy.judge(|call| match call.is_of_finalizer() && call.path.ends_with("/sql") {
        true => Fault::Refuse(422, "Invalid"),
        false => Fault::None,
    });
    replace(&stage, "sql");
    stage.until_adapter_says("sql", Reason::NotCarriedOut).await;
    stage.kubectl.apply(&[adapter(&stage.namespace, "late", "base")]);
    stage.until_adapter_ready("late").await;
    // A replica that starts meanwhile hears of it too.
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=3", "--namespace", &stage.namespace]);
    let fakes = stage.kubelet.until_running(3).await;
    until("all replicas serve it", PATIENCE, async || {
        fakes.iter().all(|fake| fake.serves("sql")).then_some(())
    })
    .await;
    stage.proxy.heal();
    until_held(&stage, "sql").await;
    stage.until_adapter_ready("sql").await;
    assert_eq!(taken_away(&stage, &["sql", "chat", "late"]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_comes_to_watch_all_namespaces_takes_nothing_away() {
    let mut stage = Stage::wide("widened").await;
    stage.options().watches = Some(stage.namespace.clone());
    stage.start_operator().await;
    serving(&stage, 2, &["sql", "chat"]).await;
    let sql = stage.get::<Adapter>("sql").await.expect("it is there");
    assert_eq!(sql.metadata.finalizers, None, "it may not outlive it");
    stage.kill_operator();
    stage.options().watches = None;
    stage.start_operator().await;
    for name in ["sql", "chat"] {
        until_held(&stage, name).await;
    }
    stage.until_whole("base").await;
    assert_eq!(taken_away(&stage, &["sql", "chat"]), Vec::<String>::new());
}

/// A status must not be written over what the next look puts a finalizer on.
#[tokio::test(flavor = "multi_thread")]
async fn finalizers_and_statuses_of_many_adapters_that_come_at_once_do_not_race() {
    let mut stage = Stage::wide("many").await;
    stage.start_operator().await;
    serving(&stage, 2, &[]).await;
    stage.kill_operator();
    let names: Vec<String> = (0..MANY).map(|at| format!("a{at:03}")).collect();
    let all: Vec<_> = names.iter().map(|name| adapter(&stage.namespace, name, "base")).collect();
    stage.kubectl.apply(&all);
    stage.start_operator().await;
    until("all are Ready", PATIENCE, async || {
        let base = stage.get::<lorikeet_crds::Deployment>("base").await?;
        (base.status?.adapters.ready as usize == MANY).then_some(())
    })
    .await;
    let writes = stage.writes();
    let has_raced = |event: &&Event| event.code() == 409 && event.object_ref.resource == "adapters";
    let raced: Vec<String> = writes.iter().filter(has_raced).map(ToString::to_string).collect();
    assert!(raced.is_empty(), "{} of {} writes: {raced:?}", raced.len(), writes.len());
}

/// One tenant's rule against the finalizer is that tenant's alone: the pause before it is tried again is no other's.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_whose_finalizer_is_refused_holds_no_other_up() {
    let mut stage = Stage::wide("stuck").await;
    stage.options().flags = vec!["--backoff-ms=30000".to_owned(), "--max-backoff-seconds=60".to_owned()];
    // Nor is a status that met another's write worth that pause.
    let conflicts = Arc::new(AtomicUsize::new(0));
    let met = Arc::clone(&conflicts);
    stage.proxy.judge(move |call| {
        if call.is_of_finalizer() && call.path.ends_with("/stuck") {
            Fault::Refuse(422, "Invalid")
        } else if call.is_write()
            && call.path.ends_with("/late/status")
            && met.fetch_add(1, Ordering::Relaxed) < 2
        {
            Fault::Refuse(409, "Conflict")
        } else {
            Fault::None
        }
    });
    stage.start_operator().await;
    serving(&stage, 2, &[]).await;
    stage.kubectl.apply(&[adapter(&stage.namespace, "stuck", "base")]);
    stage.until_adapter_says("stuck", Reason::NotCarriedOut).await;
    for name in ["late", "later"] {
        stage.kubectl.apply(&[adapter(&stage.namespace, name, "base")]);
        // Less than the shortest pause after an error.
        until(&format!("{name} is Ready"), Duration::from_secs(15), async || {
            stage.get::<Adapter>(name).await.filter(is_ready_adapter)
        })
        .await;
    }
    assert!(conflicts.load(Ordering::Relaxed) > 2);
}
