//! Edits of a source's query, which no report shows.

use super::*;

const FIRST: &str = "https://host/sql?versionId=1";
const SECOND: &str = "https://host/sql?versionId=2";

fn at(source: &str) -> Scene {
    let mut scene = Scene::with_replicas(2).adapter("sql");
    scene.set_source("sql", source);
    scene
}

/// `sql` as replicas are asked for it: source and digest.
fn asked(decision: &Decision) -> Option<(&str, Option<&str>)> {
    wanted(decision, "r1", "sql").map(|one| (one.source.as_str(), one.digest.as_deref()))
}

#[test]
fn an_edit_of_a_query_alone_is_read_before_a_replica_hears_of_it_and_taken_back_where_it_is_refused() {
    let digest = format!("sha256:of {FIRST}");
    for (from, to) in [(FIRST, SECOND), (FIRST, "https://host/sql")] {
        let mut scene = at(from).settle();
        scene.set_source("sql", to);
        let unread = Failure { code: ErrorCode::SourceUnavailable, message: "no route".to_owned() };
        for probe in [Probe::Pending, Probe::Refused(unread), rank(17)] {
            scene.probe("sql", probe);
            for _ in 0..2 {
                let decision = scene.step();
                assert_eq!(asked(&decision), Some(("https://host/sql", Some(digest.as_str()))));
            }
            assert!(!is_true(&scene.status("sql").conditions, ConditionType::Accepted));
        }
        scene.probe("sql", rank(8));
        assert_eq!(asked(&scene.step()), Some((to, None)));
    }
}

#[test]
fn what_a_digest_pins_needs_no_other_reading_whatever_the_query() {
    let mut scene = at(FIRST).settle();
    let digest = format!("sha256:of {FIRST}");
    scene.edit("sql", |adapter| adapter.spec.source.digest = Some(format!("sha256:of {FIRST}")));
    scene.set_source("sql", SECOND);
    scene.probe("sql", Probe::Pending);
    assert_eq!(asked(&scene.step()), Some((SECOND, Some(digest.as_str()))));
}

#[test]
fn what_nobody_knows_by_a_digest_is_not_asked_for_without_its_query() {
    let mut scene = at(FIRST);
    let registered = AdapterReport {
        name: "sql".to_owned(),
        source: "https://host/sql".to_owned(),
        ..AdapterReport::default()
    };
    let forget = |scene: &mut Scene| {
        scene.step();
        scene.fleet.replicas.iter_mut().for_each(|one| one.contact = reported(vec![registered.clone()]));
    };
    forget(&mut scene);
    scene.set_source("sql", SECOND);
    scene.probe("sql", rank(17));
    assert_eq!(asked(&scene.step()), None);
    // One that was served is known by its digest, though every replica has restarted.
    let mut scene = at(FIRST).settle();
    forget(&mut scene);
    scene.set_source("sql", SECOND);
    scene.probe("sql", rank(17));
    let digest = format!("sha256:of {FIRST}");
    for _ in 0..2 {
        assert_eq!(asked(&scene.step()), Some(("https://host/sql", Some(digest.as_str()))));
    }
}
