//! For each field of both kinds: a value that is refused, by whom and with what, and one that serves.

use lorikeet_crds::Reason;
use serde_json::{Value, json};

use crate::manifests::digest;

/// How an invalid value is refused.
pub(super) enum Refused {
    /// By the API server, with this text.
    AtOnce(&'static str),
    /// By the operator: the status says so.
    ByStatus(Reason),
}

/// One field; some are tried with several invalid values.
pub(super) struct Row {
    /// Below `/spec`.
    pub(super) field: &'static str,
    pub(super) bad: Value,
    pub(super) refused: Refused,
    pub(super) good: Value,
    /// Other fields that it needs.
    pub(super) beside: Vec<(&'static str, Value)>,
}

fn at_once(field: &'static str, bad: Value, why: &'static str, good: Value) -> Row {
    Row { field, bad, refused: Refused::AtOnce(why), good, beside: Vec::new() }
}

fn by_status(field: &'static str, bad: Value, reason: Reason, good: Value) -> Row {
    Row { field, bad, refused: Refused::ByStatus(reason), good, beside: Vec::new() }
}

impl Row {
    fn beside(mut self, field: &'static str, value: Value) -> Self {
        self.beside.push((field, value));
        self
    }
}

const LESS: &str = "should be less than or equal to";
const MORE: &str = "should be greater than or equal to";
const EMPTY: &str = "should be at least 1 chars long";
const STRING: &str = "expected string";
const UNKNOWN: &str = "Unsupported value";

/// The fields of an Adapter of namespace `namespace`.
pub(super) fn of_adapter(namespace: &str) -> Vec<Row> {
    vec![
        at_once("/deploymentRef/name", json!(""), EMPTY, json!("base")),
        at_once("/deploymentRef/namespace", json!(""), EMPTY, json!(namespace)),
        at_once("/source", json!("ftp://example.com/x"), "source: expected one of", json!("hf://acme/other")),
        at_once("/revision", json!(""), EMPTY, json!("v2")),
        at_once("/revision", json!("a b"), "revision: expected letters", json!("refs/pr/1")),
        at_once("/digest", json!("sha256:abc"), "digest: expected sha256", json!(digest('a'))),
        at_once("/secretRef/name", json!(7), STRING, json!("hf-token")),
        at_once("/servedName", json!("a b"), "servedName: expected letters", json!("served")),
        at_once("/placement/replicas", json!("some"), "placement.replicas: expected All", json!(1)),
        at_once("/placement/pinned", json!("yes"), "expected boolean", json!(true)),
        at_once("/placement/priority", json!(1_000_001), LESS, json!(5)),
        at_once("/baseModel", json!("Other"), UNKNOWN, json!("Any")),
    ]
}

/// The fields of a Deployment.
pub(super) fn of_deployment() -> Vec<Row> {
    let mut rows = of_model();
    rows.extend(of_nodes());
    rows.extend(of_adapters());
    rows.extend(of_serving());
    rows
}

fn of_model() -> Vec<Row> {
    vec![
        at_once("/model/source", json!("/models/base"), "source: expected one of", json!("hf://acme/other")),
        at_once("/model/revision", json!(""), EMPTY, json!("main")),
        at_once("/model/revision", json!("../main"), "revision: expected letters", json!("refs/pr/1")),
        at_once("/model/digest", json!(digest('B')), "digest: expected sha256", json!(digest('b'))),
        at_once("/model/secretRef/name", json!(7), STRING, json!("hf-token")),
        at_once("/model/servedName", json!("a b"), "servedName: expected letters", json!("served")),
        at_once("/model/quantization", json!("q3"), UNKNOWN, json!("q4_k")),
    ]
}

fn of_nodes() -> Vec<Row> {
    let quantity = || json!({"memory": "much"});
    let small = |row: Row| {
        row.beside("/adapters/gpuMemory", json!("256Mi")).beside("/adapters/hostMemory", json!("512Mi"))
    };
    vec![
        at_once("/nodePool/accelerator", json!("nvidia-h100"), UNKNOWN, json!("nvidia-a100-80gb")),
        at_once("/nodePool/nodeSelector", json!({"pool": 7}), STRING, json!({"pool": "gpu"})),
        at_once(
            "/nodePool/tolerations",
            json!([{"key": 7}]),
            STRING,
            json!([{"key": "pool", "operator": "Exists", "effect": "NoSchedule"}]),
        ),
        at_once("/nodePool/gpus", json!(2), LESS, json!(1)),
        small(by_status("/resources/limits", quantity(), Reason::InvalidSpec, json!({"memory": "1Gi"}))),
        by_status("/resources/requests", quantity(), Reason::InvalidSpec, json!({"memory": "1Gi"})),
        by_status("/resources/claims", json!([{"name": "gpu"}]), Reason::InvalidSpec, json!([])),
    ]
}

fn of_adapters() -> Vec<Row> {
    let selector = |row: Row| row.beside("/adapters/allowedNamespaces/from", json!("Selector"));
    vec![
        by_status("/adapters/gpuMemory", json!("plenty"), Reason::InvalidSpec, json!("4Gi")),
        by_status("/adapters/hostMemory", json!("plenty"), Reason::InvalidSpec, json!("4Gi")),
        by_status("/adapters/hostMemory", json!("4Gi"), Reason::InvalidSpec, json!("3Gi"))
            .beside("/adapters/gpuMemory", json!("4Gi"))
            .beside("/resources/limits", json!({"memory": "8Gi"})),
        at_once("/adapters/maxRank", json!(0), MORE, json!(64)),
        at_once("/adapters/allowedNamespaces/from", json!("Some"), UNKNOWN, json!("All")),
        selector(at_once(
            "/adapters/allowedNamespaces/selector/matchLabels",
            json!({"team": 7}),
            STRING,
            json!({"team": "nlp"}),
        )),
        selector(at_once(
            "/adapters/allowedNamespaces/selector/matchExpressions",
            json!([{"key": "team"}]),
            "operator: Required value",
            json!([{"key": "team", "operator": "Exists"}]),
        )),
    ]
}

fn of_serving() -> Vec<Row> {
    let (lowest, highest) = ("/autoscaling/minReplicas", "/autoscaling/maxReplicas");
    vec![
        at_once("/replicas", json!(-1), MORE, json!(2)),
        at_once(lowest, json!(0), MORE, json!(1)).beside(highest, json!(2)),
        at_once(highest, json!(1025), LESS, json!(3)).beside(lowest, json!(1)),
        at_once("/rollout/strategy", json!("BlueGreen"), UNKNOWN, json!("Recreate")),
        at_once("/rollout/drainSeconds", json!(-1), MORE, json!(5)),
        at_once("/serving/maxModelLength", json!(15), MORE, json!(4096)),
        at_once("/serving/maxSequences", json!(1025), LESS, json!(32)),
        at_once("/serving/maxQueue", json!(0), MORE, json!(100)),
        at_once("/auth/apiKeysSecretRef/name", json!(7), STRING, json!("keys")),
        at_once("/image", json!(""), EMPTY, json!("registry.example/lorikeet:next")),
        at_once("/paused", json!("yes"), "expected boolean", json!(false)),
    ]
}
