//! The store against a scripted loader: who waits for what, and what everybody is told.

use lorikeet_api::{AdapterState, DesiredAdapter, Tier, Version};
use tokio::sync::Semaphore;

use super::*;
use crate::adapters::scripted::{Scripted, base, generation};
use crate::adapters::tenure::Cause;

fn store(script: &Arc<Scripted>, host_budget: u64) -> AdapterStore {
    let config = StoreConfig { host_budget, room_wait: Duration::from_millis(20), ..StoreConfig::default() };
    AdapterStore::new(config, base(), Arc::new(Arc::clone(script)))
}

fn desired(name: &str, source: &str) -> DesiredAdapter {
    DesiredAdapter { name: name.to_owned(), source: source.to_owned(), ..DesiredAdapter::default() }
}

fn set(sequence: u64, adapters: &[DesiredAdapter]) -> DesiredSet {
    DesiredSet { version: Version { epoch: 1, sequence }, adapters: adapters.to_vec() }
}

/// Waits until the report says so of `name`.
async fn until(
    store: &AdapterStore,
    name: &str,
    says: impl Fn(Option<&AdapterReport>) -> bool,
) -> ReportedSet {
    let mut report = store.report();
    loop {
        if says(report.adapters.iter().find(|adapter| adapter.name == name)) {
            return report;
        }
        let next = store.report_after(&report.instance, report.report, Duration::from_secs(20)).await;
        assert!(next.report > report.report, "nothing happens to {name}: {:?}", report.adapters);
        report = store.report();
    }
}

fn is(state: AdapterState) -> impl Fn(Option<&AdapterReport>) -> bool {
    move |adapter| adapter.is_some_and(|adapter| adapter.state == state)
}

#[tokio::test]
async fn however_many_ask_for_a_cold_adapter_it_is_loaded_once() {
    let (script, gate) = Scripted::gated();
    script.put("/a", "one", 10);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a"), desired("also_a", "/a")])).unwrap();
    let ask = |n: usize| {
        let store = store.clone();
        tokio::spawn(async move { store.pin(if n.is_multiple_of(2) { "a" } else { "also_a" }).await })
    };
    let asked: Vec<_> = (0..50).map(ask).collect();
    let waiting = |store: &AdapterStore| store.adapter("a").map_or(0, |adapter| adapter.waiting);
    while waiting(&store) < 25 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1);
    for pin in asked {
        assert_eq!(pin.await.unwrap().unwrap().generation(), generation("one"));
    }
    assert_eq!(script.loads(), ["/a"]);
    assert_eq!((waiting(&store), store.figures().host.used), (0, 10));
}

#[tokio::test]
async fn a_load_goes_on_when_its_caller_has_gone() {
    let (script, gate) = Scripted::gated();
    script.put("/a", "one", 10);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a")])).unwrap();
    let asking = tokio::spawn({
        let store = store.clone();
        async move { store.pin("a").await }
    });
    until(&store, "a", is(AdapterState::Loading)).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    let report = until(&store, "a", is(AdapterState::Ready)).await;
    assert_eq!((report.adapters[0].waiting, report.adapters[0].tier), (0, Tier::Host));
    assert!(store.try_pin("a").is_some());
}

#[tokio::test]
async fn a_swap_serves_the_old_generation_until_the_new_one_is_in_memory() {
    let (script, gate) = Scripted::gated();
    script.put("/old", "old", 10);
    script.put("/new", "new", 20);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/old")])).unwrap();
    gate.add_permits(1);
    let running = store.pin("a").await.unwrap();
    store.apply(set(2, &[desired("a", "/new")])).unwrap();
    assert_eq!(store.pin("a").await.unwrap().generation(), generation("old"));
    gate.add_permits(1);
    let new = generation("new").digest().to_string();
    let flipped = |adapter: Option<&AdapterReport>| adapter.unwrap().digest.as_ref() == Some(&new);
    let report = until(&store, "a", flipped).await;
    assert_eq!((report.host.used, report.adapters[0].source.as_str()), (30, "/new"));
    assert_eq!(store.pin("a").await.unwrap().generation(), generation("new"));
    assert_eq!(running.generation(), generation("old"));
    let notice = running.notice().expect("its name has left the old one");
    assert_eq!((notice.cause, notice.given), (Cause::Swapped, StoreConfig::default().drain));
    drop(running);
    while store.figures().host.used > 20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_swap_that_is_refused_leaves_the_old_generation_and_says_why() {
    let script = Arc::new(Scripted::default());
    script.put("/old", "old", 10);
    script.fail("/new", ErrorCode::InvalidWeights);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/old")])).unwrap();
    drop(store.pin("a").await.unwrap());
    store.apply(set(2, &[desired("a", "/new")])).unwrap();
    let report = until(&store, "a", |adapter| adapter.unwrap().error.is_some()).await;
    let adapter = &report.adapters[0];
    assert_eq!((adapter.state, adapter.source.as_str()), (AdapterState::Ready, "/new"));
    assert_eq!(adapter.error.as_ref().unwrap().code, ErrorCode::InvalidWeights);
    assert_eq!(store.pin("a").await.unwrap().generation(), generation("old"));
}

#[tokio::test]
async fn a_removed_name_drains_and_is_forgotten_with_its_last_request() {
    let script = Arc::new(Scripted::default());
    script.put("/a", "one", 10);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a")])).unwrap();
    let pin = store.pin("a").await.unwrap();
    let before = store.report();
    store.apply(set(2, &[])).unwrap();
    assert_eq!(store.pin("a").await.unwrap_err(), PinError::Unknown);
    assert!(!store.knows("a") && store.names().is_empty());
    let report = until(&store, "a", is(AdapterState::Draining)).await;
    assert_eq!((report.adapters[0].running, report.host.used), (1, 10));
    assert_eq!(pin.notice().map(|notice| notice.cause), Some(Cause::Removed));
    drop(pin);
    let report = until(&store, "a", |adapter| adapter.is_none()).await;
    assert_eq!(report.host.used, 0);
    let partial = store.report_after(&before.instance, before.report, Duration::ZERO).await;
    assert_eq!((partial.complete, partial.removed), (false, vec!["a".to_owned()]));
}

#[tokio::test]
async fn what_does_not_fit_waits_for_a_pin_to_go_and_gives_up_in_time() {
    let script = Arc::new(Scripted::default());
    for name in ["a", "b", "big"] {
        script.put(&format!("/{name}"), name, if name == "big" { 101 } else { 60 });
    }
    let store = store(&script, 100);
    let adapters = ["a", "b", "big"].map(|name| desired(name, &format!("/{name}")));
    store.apply(set(1, &adapters)).unwrap();
    let held = store.pin("a").await.unwrap();
    let refused = store.pin("b").await.unwrap_err();
    assert!(matches!(refused, PinError::Unavailable { code: ErrorCode::NoRoom, .. }), "{refused}");
    let refused = store.pin("big").await.unwrap_err();
    assert!(matches!(refused, PinError::Refused { code: ErrorCode::BudgetExceeded, .. }), "{refused}");
    assert_eq!(store.figures().host.used, 60);
    drop(held);
    store.load("b", "/b", true).await.unwrap();
    assert_eq!((store.figures().host.used, store.figures().evictions), (60, 1));
    assert_eq!(store.adapter("a").unwrap().tier, Tier::Disk);
}

#[tokio::test]
async fn a_failure_is_remembered_and_tried_again_only_when_it_is_time() {
    let script = Arc::new(Scripted::default());
    script.fail("/a", ErrorCode::InvalidConfig);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a")])).unwrap();
    for _ in 0..3 {
        let refused = store.pin("a").await.unwrap_err();
        assert!(matches!(refused, PinError::Refused { code: ErrorCode::InvalidConfig, .. }));
    }
    assert_eq!(script.loads().len(), 1);
    assert_eq!(store.adapter("a").unwrap().state, AdapterState::Failed);
    assert_eq!(store.figures().failures, [(ErrorCode::InvalidConfig, 1)]);
}

#[tokio::test]
async fn a_loader_that_panics_fails_its_adapter_alone() {
    let script = Arc::new(Scripted::default());
    script.panic("/a");
    script.put("/b", "b", 10);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a"), desired("b", "/b")])).unwrap();
    let refused = store.pin("a").await.unwrap_err();
    assert!(matches!(refused, PinError::Unavailable { code: ErrorCode::Internal, .. }));
    assert!(store.pin("b").await.is_ok());
}

#[tokio::test]
async fn loading_by_hand_names_an_adapter_only_when_it_is_in_memory() {
    let script = Arc::new(Scripted::default());
    script.fail("/bad", ErrorCode::InvalidWeights);
    script.put("/a", "one", 10);
    let store = store(&script, 100);
    assert_eq!(store.load("a", "/bad", false).await.unwrap_err().code, ErrorCode::InvalidWeights);
    assert!(!store.knows("a"));
    store.load("a", "/a", false).await.unwrap();
    assert_eq!(store.try_pin("a").unwrap().generation(), generation("one"));
    assert_eq!(store.load("a", "/a", false).await.unwrap_err().code, ErrorCode::NameConflict);
    assert_eq!(store.load("base", "/a", false).await.unwrap_err().code, ErrorCode::NameConflict);
    script.put("/a", "two", 10);
    store.load("a", "/a", true).await.unwrap();
    assert_eq!(store.try_pin("a").unwrap().generation(), generation("two"));
    store.unload("a").await.unwrap();
    assert_eq!(store.unload("a").await.unwrap_err().code, ErrorCode::UnknownAdapter);
}

#[tokio::test]
async fn a_reload_in_place_never_takes_what_was_read_before_it_was_asked() {
    let (script, gate) = Scripted::gated();
    script.put("/a", "one", 10);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a")])).unwrap();
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.pin("a").await }
    });
    until(&store, "a", is(AdapterState::Loading)).await;
    let again = tokio::spawn({
        let store = store.clone();
        async move { store.load("a", "/a", true).await }
    });
    gate.add_permits(2);
    first.await.unwrap().unwrap();
    again.await.unwrap().unwrap();
    assert_eq!(script.loads().len(), 2);
}

#[tokio::test]
async fn the_replica_is_ready_when_what_is_pinned_is_in_memory_or_refused() {
    let (script, gate) = Scripted::gated();
    script.put("/a", "one", 10);
    script.fail("/bad", ErrorCode::InvalidWeights);
    let store = store(&script, 100);
    let pinned = |name: &str, source: &str| DesiredAdapter { pinned: true, ..desired(name, source) };
    store.apply(set(1, &[pinned("a", "/a"), pinned("bad", "/bad"), desired("c", "/c")])).unwrap();
    assert!(!store.ready());
    gate.add_permits(2);
    until(&store, "a", is(AdapterState::Ready)).await;
    until(&store, "bad", is(AdapterState::Failed)).await;
    assert!(store.ready());
    assert!(!script.loads().contains(&"/c".to_owned()), "what is not placed waits for a request");
    store.apply(set(2, &[pinned("a", "/a"), pinned("later", "/c")])).unwrap();
    assert!(store.ready(), "one that is pinned later takes no replica back");
}

#[tokio::test]
async fn a_start_waits_for_pinned_adapters_and_not_for_ever() {
    let (script, _gate) = Scripted::gated();
    let waits = |pinned_wait| {
        let config = StoreConfig { pinned_wait, ..StoreConfig::default() };
        let store = AdapterStore::new(config, base(), Arc::new(Arc::clone(&script)));
        store.apply(set(1, &[DesiredAdapter { pinned: true, ..desired("a", "/a") }])).unwrap();
        store.ready()
    };
    assert!(!waits(Duration::from_mins(5)) && waits(Duration::ZERO));
}

#[tokio::test]
async fn a_demand_that_is_another_is_told_though_nothing_else_changes() {
    let script = Arc::new(Scripted::default());
    script.put("/a", "one", 10);
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a")])).unwrap();
    let first = store.pin("a").await.unwrap();
    let told = until(&store, "a", is(AdapterState::Ready)).await;
    let pins: Vec<Pin> = (0..20).map(|_| first.clone()).collect();
    let next = store.report_after(&told.instance, told.report, Duration::from_secs(20)).await;
    let told = |adapter: &AdapterReport| (adapter.running, adapter.demand);
    assert_eq!(next.adapters.first().map(told), Some((21, 24)), "{next:?}");
    drop((pins, first));
    // A change of another kind at a quiet moment does not take the demand back.
    store.apply(set(2, &[DesiredAdapter { priority: 3, ..desired("a", "/a") }])).unwrap();
    assert_eq!(store.report().adapters.first().map(told), Some((0, 24)));
}

#[tokio::test]
async fn the_command_lines_adapters_are_loaded_ahead_and_reported_when_refused() {
    let script = Arc::new(Scripted::default());
    for n in 0..30 {
        script.put(&format!("/{n}"), &n.to_string(), 1);
    }
    let store = store(&script, 100);
    for n in 0..30 {
        store.register(&format!("a{n}"), &format!("/{n}")).unwrap();
    }
    store.register("bad", "/nothing").unwrap();
    assert_eq!(store.register("bad", "/x").unwrap_err().code, ErrorCode::NameConflict);
    for n in 0..30 {
        until(&store, &format!("a{n}"), is(AdapterState::Ready)).await;
    }
    until(&store, "bad", is(AdapterState::Failed)).await;
}

#[tokio::test]
async fn a_report_of_another_process_is_answered_whole_and_at_once() {
    let script = Arc::new(Scripted::default());
    let store = store(&script, 100);
    store.apply(set(1, &[desired("a", "/a")])).unwrap();
    let now = store.report();
    for (instance, after) in [("another", now.report), (now.instance.as_str(), now.report + 1)] {
        let report = store.report_after(instance, after, Duration::from_secs(60)).await;
        assert!(report.complete && report.adapters.len() == 1);
    }
    let report = store.report_after(&now.instance, now.report, Duration::ZERO).await;
    assert!(!report.complete && report.adapters.is_empty() && report.report == now.report);
}

#[tokio::test]
async fn names_that_nobody_registered_leave_no_trace() {
    let script = Arc::new(Scripted::default());
    let store = store(&script, 100);
    let before = store.report();
    for n in 0..1000 {
        assert_eq!(store.pin(&format!("unknown{n}")).await.unwrap_err(), PinError::Unknown);
    }
    assert_eq!(store.report(), before);
    assert!(script.loads().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_over_more_adapters_than_fit_ends_where_it_began() {
    let script = Arc::new(Scripted::default());
    let adapters: Vec<DesiredAdapter> = (0..20)
        .map(|n| {
            script.put(&format!("/{n}"), &n.to_string(), 10 + n);
            desired(&n.to_string(), &format!("/{n}"))
        })
        .collect();
    let config = StoreConfig { host_budget: 100, ..StoreConfig::default() };
    let store = AdapterStore::new(config, base(), Arc::new(Arc::clone(&script)));
    store.apply(set(1, &adapters)).unwrap();
    let users = Arc::new(Semaphore::new(4));
    let tasks: Vec<_> = (0..400_usize)
        .map(|n| {
            let (store, users) = (store.clone(), Arc::clone(&users));
            tokio::spawn(async move {
                let _user = users.acquire_owned().await.unwrap();
                let name = (n * 7 % 20).to_string();
                let pin = store.pin(&name).await.unwrap();
                assert_eq!(pin.generation(), generation(&name));
                tokio::task::yield_now().await;
                assert!(store.figures().host.used <= 100);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    store.apply(set(2, &[])).unwrap();
    while store.figures().host.used > 0 {
        tokio::task::yield_now().await;
    }
    assert!(store.report().adapters.is_empty());
}

#[tokio::test]
async fn a_preset_adapter_is_served_until_the_first_desired_set() {
    let script = Arc::<Scripted>::default();
    script.put("/a", "one", 10);
    script.put("/b", "two", 10);
    let store = store(&script, 100);
    store.register("mine", "/b").unwrap();
    store.preset(&desired("a", "/a")).unwrap();
    store.preset(&desired("b", "/b")).unwrap();
    for (name, code) in [
        ("a", ErrorCode::NameConflict),
        ("mine", ErrorCode::NameConflict),
        ("x y", ErrorCode::InvalidRequest),
    ] {
        assert_eq!(store.preset(&desired(name, "/b")).unwrap_err().code, code, "{name}");
    }
    assert_eq!(store.pin("a").await.unwrap().generation(), generation("one"));
    assert_eq!(store.report().version, None);
    store.apply(set(1, &[desired("b", "/b")])).unwrap();
    until(&store, "a", |adapter| adapter.is_none()).await;
    assert_eq!(store.names(), ["b", "mine"]);
}

#[tokio::test]
async fn a_refused_change_is_told_under_the_source_that_was_asked_for() {
    let script = Arc::<Scripted>::default();
    script.put("/a", "one", 10);
    let store = store(&script, 100);
    store.apply(set(1, &[DesiredAdapter { resident: true, ..desired("a", "/a") }])).unwrap();
    until(&store, "a", is(AdapterState::Ready)).await;
    store.apply(set(2, &[DesiredAdapter { resident: true, ..desired("a", "/nowhere") }])).unwrap();
    let refused = |adapter: Option<&AdapterReport>| adapter.is_some_and(|adapter| adapter.error.is_some());
    let report = until(&store, "a", refused).await;
    let adapter = &report.adapters[0];
    assert_eq!((adapter.source.as_str(), adapter.state), ("/nowhere", AdapterState::Ready));
}
