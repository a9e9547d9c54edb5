//! Every adapter of the suite's `bad` folder: refused at load with a message that names the fault, over the command, the
//! adapters' folder and the admin face; the good ones beside them are served.

use std::collections::BTreeSet;
use std::process::Command;

use lorikeet_api::ADAPTERS_PATH;
use lorikeet_tests::golden::{BadAdapter, Suite};
use lorikeet_tests::replica::{Replica, binary};
use lorikeet_tests::say::say;
use lorikeet_tests::until::until;
use serde_json::json;

/// What is wrong with the answer to a load of `adapter`, if anything is.
fn judge(adapter: &BadAdapter, loaded: bool, message: &str) -> Option<String> {
    let lower = message.to_lowercase();
    let named = adapter.error_should_mention.is_empty()
        || adapter.error_should_mention.iter().any(|word| lower.contains(&word.to_lowercase()));
    match (adapter.expect.as_str(), loaded) {
        ("error", true) => Some(format!("{}: was loaded", adapter.dir)),
        ("ok", false) => Some(format!("{}: refused: {message}", adapter.dir)),
        (_, false) if !named => {
            Some(format!("{}: expected one of {:?} in: {message}", adapter.dir, adapter.error_should_mention))
        }
        _ => None,
    }
}

#[tokio::test]
async fn invalid_adapters_are_refused_by_the_admin_face_and_the_good_ones_stay() {
    let suite = Suite::load();
    let Some(bad) = suite.bad() else { return };
    let model = suite.model(&bad.base_model);
    let good = model.adapters_folder().expect("the model has adapters");
    let root = suite.folder.join("bad");
    let flags = [
        "--served-name",
        "base",
        "--source-root",
        root.to_str().expect("a UTF-8 path"),
        "--adapters",
        good.to_str().expect("a UTF-8 path"),
    ];
    let mut replica = Replica::start(&model.folder, &flags).await;
    let mut findings = Vec::new();
    for adapter in &bad.adapters {
        let body = json!({"lora_name": format!("bad-{}", adapter.dir), "lora_path": root.join(&adapter.dir)});
        let answer = replica.admin.post("/v1/load_lora_adapter", &body).await;
        let message = if answer.status == 200 { String::new() } else { answer.message() };
        say(&format!("{:24} {} {message}", adapter.dir, answer.status));
        findings.extend(judge(adapter, answer.status == 200, &message));
    }
    replica.process().assert_running();
    let case =
        model.cases().into_iter().find(|case| case.adapter.as_deref() == Some("qv_r8")).expect("a case");
    let body = json!({
        "model": "qv_r8", "prompt": case.prompt_ids, "max_tokens": 24, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
    });
    let answer = replica.public.post("/v1/completions", &body).await.ok();
    assert_eq!(answer["choices"][0]["token_ids"], json!(case.greedy_ids));
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn inspect_says_why_an_adapter_would_be_refused() {
    let suite = Suite::load();
    let Some(bad) = suite.bad() else { return };
    let mut findings = Vec::new();
    for adapter in &bad.adapters {
        let mut command = Command::new(binary());
        command.arg("inspect").arg(suite.folder.join("bad").join(&adapter.dir));
        let ended =
            command.arg("--model").arg(&suite.model(&bad.base_model).folder).output().expect("lorikeet runs");
        let said =
            format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        findings.extend(judge(adapter, ended.status.success(), &said));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[tokio::test]
async fn a_folder_with_invalid_adapters_is_served_without_them() {
    let suite = Suite::load();
    let Some(bad) = suite.bad() else { return };
    let root = suite.folder.join("bad");
    let flags = ["--served-name", "base", "--adapters", root.to_str().expect("a UTF-8 path")];
    let mut replica = Replica::start(&suite.model(&bad.base_model).folder, &flags).await;
    let ask = async |name: &str| {
        let body = json!({"model": name, "prompt": "The wind", "max_tokens": 1});
        replica.public.post("/v1/completions", &body).await.status
    };
    assert_eq!(ask("control_good").await, 200);
    assert_ne!(ask("wrong_hidden").await, 200);
    replica.process().assert_running();
    let refused = async || {
        let report = replica.admin.get(ADAPTERS_PATH).await.ok();
        let adapters = report["adapters"].as_array().cloned().unwrap_or_default();
        let failed = adapters.into_iter().filter(|adapter| adapter["state"] == "failed");
        failed.map(|adapter| adapter["name"].as_str().unwrap_or_default().to_owned()).collect::<BTreeSet<_>>()
    };
    let expected = bad.adapters.iter().filter(|adapter| adapter.expect == "error");
    let expected: BTreeSet<String> = expected.map(|adapter| adapter.dir.clone()).collect();
    until(&format!("refused are {expected:?}"), async || {
        let refused = refused().await;
        if expected.is_subset(&refused) { Ok(()) } else { Err(refused) }
    })
    .await;
    let listed = replica.public.get("/v1/models").await.ok();
    let listed = listed["data"].as_array().cloned().unwrap_or_default();
    let listed: BTreeSet<String> =
        listed.iter().map(|model| model["id"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(listed.contains("base") && listed.contains("control_good"), "{listed:?}");
    assert!(listed.is_disjoint(&expected), "what is refused is not offered: {listed:?}");
}
