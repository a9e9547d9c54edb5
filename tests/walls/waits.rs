//! Tests wait for conditions, each with a deadline: a loop of one's own that sleeps hangs for as long as nobody looks.

use std::time::Duration;

use lorikeet_tests::until::within;

use crate::sources::{none, rust};

/// Where a wait has its deadline; and what pauses between looks that cost much, inside of such a wait.
const WAITS: &[&str] = &["tests/harness/until.rs", "tests/cluster/scale.rs"];

/// What stands for a part of a cluster: it takes its time, and runs until it is dropped.
const STAND_INS: &[&str] = &[
    "tests/cluster/container.rs",
    "tests/cluster/fake/",
    "tests/cluster/kubelet.rs",
    "tests/cluster/proxy/",
];

#[test]
fn whoever_waits_has_a_deadline() {
    let is_apart = |path: &str| {
        WAITS.contains(&path) || STAND_INS.iter().chain(&["tests/bench/"]).any(|part| path.starts_with(part))
    };
    let judged = rust().into_iter().filter(|file| file.path.starts_with("tests/") && !is_apart(&file.path));
    let mut findings = Vec::new();
    for file in judged {
        let sleeps = file.code.lines().enumerate().filter(|(_, line)| line.contains("sleep("));
        findings.extend(sleeps.map(|(number, _)| file.at(number, "sleeps")));
    }
    none("wait with `until`, which has a deadline and says what was seen last:", &findings);
}

#[tokio::test]
#[should_panic(expected = "never within 60ms: the tide turns; seen last: \"ebb\"")]
async fn what_never_comes_is_told_with_what_was_seen_last() {
    within(Duration::from_millis(60), "the tide turns", async || Err::<(), _>("ebb")).await;
}

#[tokio::test]
#[should_panic(expected = "the tide turns; seen last: nothing, the look itself hung")]
async fn a_look_that_hangs_is_given_up_too() {
    within(Duration::from_millis(60), "the tide turns", std::future::pending::<Result<(), ()>>).await;
}
