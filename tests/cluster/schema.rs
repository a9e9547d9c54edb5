//! What the API server refuses when a user applies: every rule of both kinds, one by one, and what it lets through.

use std::collections::BTreeMap;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lorikeet_crds::{Adapter, Deployment};
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::ground::Ground;
use crate::manifests::{adapter, deployment, digest, with};

/// For what is not kept: a dry run needs a namespace that is there.
const NAMESPACE: &str = "default";

/// `(where, what, part of the refusal)`; an empty part: it is taken.
type Case = (&'static str, Value, &'static str);

fn long(length: usize) -> Value {
    Value::from("x".repeat(length))
}

/// The grammar of a source, below `at`: once for a model, once for an adapter.
fn source_cases() -> Vec<Case> {
    let taken = "";
    let scheme = "source: expected one of hf://";
    let revision = "revision: expected letters, digits";
    vec![
        ("source", json!("s3://bucket/key"), taken),
        ("source", json!("gs://bucket/key"), scheme),
        ("source", json!("oci://registry.example/name:tag"), scheme),
        ("source", json!("https://example.com/adapter/"), taken),
        ("source", json!("pvc://claim/path"), taken),
        ("source", json!("file:///models/base"), taken),
        ("source", json!("ftp://example.com/x"), scheme),
        ("source", json!("/models/base"), scheme),
        ("source", json!("hf://"), "should be at least 6 chars long"),
        ("source", json!("hf://acme/a b"), scheme),
        ("source", json!("https://user@example.com/x"), scheme),
        ("source", json!("https://example.com\\x"), scheme),
        ("source", json!("file:///models/../etc/passwd"), "source: '..' is not allowed in a path"),
        ("source", json!("file:///models/.."), "source: '..' is not allowed in a path"),
        ("source", json!("file:///models/..a"), taken),
        ("source", json!(format!("hf://{}", "x".repeat(2048))), "may not be more than 2048"),
        ("revision", json!("main"), taken),
        ("revision", json!(""), "should be at least 1 chars long"),
        ("revision", long(201), "may not be more than 200"),
        ("revision", json!("refs/pr/1"), taken),
        ("revision", json!("release-1.2_rc..3"), revision),
        ("revision", json!("a b"), revision),
        ("revision", json!("x?y"), revision),
        ("revision", json!("x%2Fy"), revision),
        ("revision", json!(".."), revision),
        ("revision", json!("."), revision),
        ("revision", json!("/main"), revision),
        ("revision", json!("a//b"), revision),
        ("digest", json!(digest('a')), taken),
        ("digest", json!("sha256:abc"), "digest: expected sha256: and 64"),
        ("digest", json!(digest('A')), "digest: expected sha256: and 64"),
        ("digest", json!(format!("{}0", digest('a'))), "may not be more than 71"),
        ("secretRef", json!({"name": "hf-token"}), taken),
        ("servedName", json!("Acme/mistral_7b.v1-x"), taken),
        ("servedName", json!("-x"), "servedName: expected letters"),
        ("servedName", json!("x/"), "servedName: expected letters"),
        ("servedName", json!("a b"), "servedName: expected letters"),
        ("servedName", json!(""), "should be at least 1 chars long"),
        ("servedName", long(254), "may not be more than 253"),
    ]
}

fn adapter_cases() -> Vec<Case> {
    let replicas = "placement.replicas: expected All, Auto or a number from 1 to 1024";
    vec![
        ("/metadata/name", long(63), ""),
        ("/metadata/name", long(64), "metadata.name: at most 63 characters"),
        ("/spec/deploymentRef/name", json!(""), "should be at least 1 chars long"),
        ("/spec/deploymentRef/name", long(64), "may not be more than 63"),
        ("/spec/deploymentRef/namespace", json!("other"), ""),
        ("/spec/deploymentRef/namespace", long(64), "may not be more than 63"),
        ("/spec/placement/replicas", json!("All"), ""),
        ("/spec/placement/replicas", json!("Auto"), ""),
        ("/spec/placement/replicas", json!(1), ""),
        ("/spec/placement/replicas", json!(1024), ""),
        ("/spec/placement/replicas", json!(0), replicas),
        ("/spec/placement/replicas", json!(1025), replicas),
        ("/spec/placement/replicas", json!("all"), replicas),
        ("/spec/placement/replicas", json!("3"), replicas),
        ("/spec/placement/priority", json!(-1_000_000), ""),
        ("/spec/placement/priority", json!(1_000_001), "should be less than or equal to"),
        ("/spec/placement/pinned", json!("yes"), "must be of type boolean"),
    ]
}

fn deployment_cases() -> Vec<Case> {
    let one = |value: i64| json!(value);
    let less = "should be less than or equal to";
    let more = "should be greater than or equal to";
    let selector = "allowedNamespaces.selector: expected with from: Selector, and only then";
    vec![
        ("/metadata/name", long(50), ""),
        ("/metadata/name", long(51), "metadata.name: at most 50 characters"),
        ("/metadata/name", json!("llama-3-1-8b"), ""),
        ("/metadata/name", json!("llama-3.1-8b"), "metadata.name: expected lower-case letters"),
        ("/metadata/name", json!("7b-chat"), "metadata.name: expected lower-case letters"),
        ("/spec/nodePool/nodeSelector", json!({}), "nodeSelector: expected at least one label"),
        ("/spec/replicas", one(0), ""),
        ("/spec/replicas", one(-1), more),
        ("/spec/replicas", one(1025), less),
        ("/spec/model/quantization", json!("q4_k"), ""),
        ("/spec/model/quantization", json!("q3"), "Unsupported value"),
        ("/spec/nodePool", json!({"accelerator": "nvidia-a100-80gb"}), ""),
        ("/spec/nodePool", json!({"accelerator": "nvidia-h100"}), "Unsupported value"),
        ("/spec/nodePool", json!({"nodeSelector": {"pool": "gpu"}, "gpus": 1}), ""),
        (
            "/spec/nodePool",
            json!({"nodeSelector": {"pool": "gpu"}, "accelerator": "nvidia-a100-80gb"}),
            "nodePool: expected accelerator or nodeSelector, got both",
        ),
        ("/spec/nodePool/gpus", one(2), less),
        ("/spec/adapters/maxRank", one(1024), ""),
        ("/spec/adapters/maxRank", one(0), more),
        ("/spec/adapters/maxRank", one(1025), less),
        ("/spec/adapters/gpuMemory", json!("8Gi"), ""),
        ("/spec/adapters/allowedNamespaces", json!({"from": "All"}), ""),
        ("/spec/adapters/allowedNamespaces", json!({"from": "Some"}), "Unsupported value"),
        ("/spec/adapters/allowedNamespaces", json!({"from": "Selector", "selector": {}}), ""),
        ("/spec/adapters/allowedNamespaces", json!({"from": "Selector"}), selector),
        ("/spec/adapters/allowedNamespaces", json!({"from": "Same", "selector": {}}), selector),
        ("/spec/serving/maxModelLength", one(15), more),
        ("/spec/serving/maxModelLength", one(1_048_577), less),
        ("/spec/serving/maxSequences", one(0), more),
        ("/spec/serving/maxSequences", one(1025), less),
        ("/spec/serving/maxQueue", one(0), more),
        ("/spec/serving/maxQueue", one(65_537), less),
        ("/spec/autoscaling", json!({"minReplicas": 1, "maxReplicas": 1}), ""),
        (
            "/spec/autoscaling",
            json!({"minReplicas": 2, "maxReplicas": 1}),
            "autoscaling: expected minReplicas <= maxReplicas",
        ),
        ("/spec/autoscaling", json!({"minReplicas": 0, "maxReplicas": 1}), more),
        ("/spec/autoscaling", json!({"minReplicas": 1, "maxReplicas": 1025}), less),
        ("/spec/rollout/strategy", json!("Recreate"), ""),
        ("/spec/rollout/strategy", json!("BlueGreen"), "Unsupported value"),
        ("/spec/rollout/drainSeconds", one(-1), more),
        ("/spec/rollout/drainSeconds", one(3601), less),
        ("/spec/image", json!(""), "should be at least 1 chars long"),
        ("/spec/paused", json!(true), ""),
    ]
}

/// Cases of one field that only a whole object shows.
fn together() -> Vec<(Value, &'static str)> {
    let revision = "revision: only hf:// sources have revisions";
    let of = |source: &str| {
        let adapter = with(adapter(NAMESPACE, "x", "base"), "/spec/source", json!(source));
        with(adapter, "/spec/revision", json!("v1"))
    };
    let mut cases = vec![
        (of("hf://acme/name"), ""),
        (of("s3://bucket/key"), revision),
        (of("https://example.com/x"), revision),
    ];
    let mut missing = adapter(NAMESPACE, "x", "base");
    missing["spec"] = json!({"source": "hf://acme/x"});
    cases.push((missing, "spec.deploymentRef: Required value"));
    let mut missing = deployment(NAMESPACE, "x", 1);
    missing["spec"] = json!({"model": {}});
    cases.push((missing, "spec.model.source: Required value"));
    cases
}

fn api(client: &Client, object: &Value) -> Api<DynamicObject> {
    let resource = if object["kind"] == "Adapter" {
        ApiResource::erase::<Adapter>(&())
    } else {
        ApiResource::erase::<Deployment>(&())
    };
    let namespace = object["metadata"]["namespace"].as_str().expect("it has one");
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// What the API server says of `object`; nothing when it would take it.
async fn refusal(client: &Client, object: &Value) -> Option<String> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let parsed = serde_json::from_value(object.clone()).expect("an object");
    api(client, object).create(&params, &parsed).await.err().map(|error| error.to_string())
}

fn judge(findings: &mut Vec<String>, case: &str, refusal: Option<String>, expected: &str) {
    match refusal {
        None if expected.is_empty() => {}
        Some(said) if !expected.is_empty() && said.contains(expected) => {}
        None => findings.push(format!("{case}: taken, expected {expected:?}")),
        Some(said) => findings.push(format!("{case}: expected {expected:?}, got {said}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_refuses_what_it_should_and_nothing_else() {
    let client = ControlPlane::shared().await.client().await;
    let mut findings = Vec::new();
    let mut cases: Vec<(Value, String, Value, &str)> = Vec::new();
    for (at, value, expected) in adapter_cases() {
        cases.push((adapter(NAMESPACE, "x", "base"), at.to_owned(), value, expected));
    }
    for (at, value, expected) in deployment_cases() {
        cases.push((deployment(NAMESPACE, "x", 1), at.to_owned(), value, expected));
    }
    for (field, value, expected) in source_cases() {
        let (one, other) = (value.clone(), value);
        cases.push((adapter(NAMESPACE, "x", "base"), format!("/spec/{field}"), one, expected));
        cases.push((deployment(NAMESPACE, "x", 1), format!("/spec/model/{field}"), other, expected));
    }
    for (object, at, value, expected) in cases {
        let case = format!("{} {at} = {value}", object["kind"]);
        judge(&mut findings, &case, refusal(&client, &with(object, &at, value)).await, expected);
    }
    for (object, expected) in together() {
        judge(&mut findings, &object["spec"].to_string(), refusal(&client, &object).await, expected);
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_identifies_an_object_cannot_be_changed() {
    let plane = ControlPlane::shared().await;
    let (client, ground) = (plane.client().await, Ground::new(&plane, "identity"));
    let namespace = ground.namespace.as_str();
    let named = with(deployment(namespace, "frozen-named", 1), "/spec/model/servedName", json!("a"));
    let adapter_named = with(adapter(namespace, "frozen-named", "base"), "/spec/servedName", json!("a"));
    let (plain, plain_adapter) = (deployment(namespace, "frozen", 1), adapter(namespace, "frozen", "base"));
    let made = [named.clone(), adapter_named.clone(), plain.clone(), plain_adapter.clone()];
    plane.kubectl().apply(&ground.documents(&made));
    let served = "servedName: cannot be changed";
    let model = |name: Value| json!({"spec": {"model": {"servedName": name}}});
    let cases: Vec<(&Value, Value, &str)> = vec![
        (&named, model(json!("b")), served),
        (&named, model(Value::Null), served),
        (&named, json!({"spec": {"model": {"source": "hf://acme/other"}}}), ""),
        (&plain, model(json!("b")), served),
        (&plain, json!({"spec": {"replicas": 3}}), ""),
        (&adapter_named, json!({"spec": {"servedName": "b"}}), served),
        (&adapter_named, json!({"spec": {"servedName": null}}), served),
        (&adapter_named, json!({"spec": {"source": "hf://acme/other", "digest": digest('a')}}), ""),
        (&plain_adapter, json!({"spec": {"servedName": "b"}}), served),
        (
            &plain_adapter,
            json!({"spec": {"deploymentRef": {"name": "b"}}}),
            "deploymentRef: cannot be changed",
        ),
        (
            &plain_adapter,
            json!({"spec": {"deploymentRef": {"namespace": "b"}}}),
            "deploymentRef: cannot be changed",
        ),
        (&plain_adapter, json!({"spec": {"placement": {"replicas": 2, "pinned": true}}}), ""),
    ];
    let mut findings = Vec::new();
    for (object, change, expected) in cases {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let changed = api(&client, object).patch(name, &params, &Patch::Merge(&change)).await;
        let case = format!("{} {name}: {change}", object["kind"]);
        judge(&mut findings, &case, changed.err().map(|error| error.to_string()), expected);
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_defaults_are_written_where_a_user_left_a_field_out() {
    let client = ControlPlane::shared().await.client().await;
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let mut defaulted = BTreeMap::new();
    for object in [adapter(NAMESPACE, "x", "base"), deployment(NAMESPACE, "x", 1)] {
        let parsed = serde_json::from_value(object.clone()).expect("an object");
        let made = api(&client, &object).create(&params, &parsed).await.expect("it is valid");
        defaulted.insert(object["kind"].to_string(), made.data["spec"].clone());
    }
    let expected = BTreeMap::from([
        (
            json!("Adapter").to_string(),
            json!({
                "deploymentRef": {"name": "base"}, "source": "hf://acme/x", "baseModel": "Same",
                "placement": {"replicas": "All", "pinned": false, "priority": 0},
            }),
        ),
        (
            json!("Deployment").to_string(),
            json!({
                "model": {"source": "hf://acme/base", "quantization": "none"}, "replicas": 1, "nodePool": {},
                "adapters": {
                    "gpuMemory": "8Gi", "hostMemory": "16Gi", "maxRank": 128, "allowedNamespaces": {"from": "Same"},
                },
                "serving": {}, "rollout": {"strategy": "Auto", "drainSeconds": 3}, "paused": false,
            }),
        ),
    ]);
    assert_eq!(defaulted, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_knows_the_kinds_by_their_short_names_and_explains_them() {
    let kubectl = ControlPlane::shared().await.kubectl();
    let names = kubectl.run(&["api-resources", "--api-group=lorikeet.dev", "--no-headers", "--output=wide"]);
    for (short, kind) in [("ldep", "Deployment"), ("lora", "Adapter")] {
        let line = names.lines().find(|line| line.contains(kind)).unwrap_or_default();
        assert!(line.contains(short) && line.contains("lorikeet"), "{names}");
    }
    for (field, part) in [
        ("deployments.lorikeet.dev", "A base model on a pool of nodes"),
        ("deployments.lorikeet.dev.spec.nodePool", "The nodes it runs on"),
        ("adapters.lorikeet.dev.spec.placement", "Where it is kept resident"),
        ("adapters.lorikeet.dev.spec.source", "hf://OWNER/NAME"),
        ("adapters.lorikeet.dev.status.placements", "Where it is, replica by replica"),
    ] {
        let text = kubectl.run(&["explain", field]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(part), "kubectl explain {field}: {text}");
    }
}
