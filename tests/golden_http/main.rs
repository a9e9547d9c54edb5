//! Every case of the golden suite through HTTP: the same greedy ids, log-probabilities within 3e-4 and the same text, one by
//! one, all at once, and a chat rendered by the server's own template.

use futures::future::join_all;
use lorikeet_tests::golden::{Case, Model, Suite, TOLERANCE};
use lorikeet_tests::replica::Replica;
use serde_json::{Value, json};

/// What a server gave for a case.
struct Answered {
    ids: Vec<u32>,
    logprobs: Vec<f64>,
    text: String,
}

async fn start(model: &Model) -> Replica {
    let adapters = model.adapters_folder();
    let folder = adapters.as_ref().map(|folder| folder.to_str().expect("a UTF-8 path"));
    let flags = folder.map_or(vec![], |folder| vec!["--adapters", folder]);
    Replica::start(&model.folder, &[&flags[..], &["--served-name", "base"]].concat()).await
}

fn body(case: &Case, prompt: Value) -> Value {
    json!({
        "model": case.adapter.as_deref().unwrap_or("base"), "prompt": prompt, "max_tokens": case.greedy_ids.len(),
        "temperature": 0, "ignore_eos": true, "logprobs": 0, "return_token_ids": true,
    })
}

async fn ask(replica: &Replica, body: &Value) -> Result<Answered, String> {
    let answer = replica.public.post("/v1/completions", body).await;
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.text));
    }
    let choice = &answer.json()["choices"][0];
    let list = |pointer: &str| choice.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(Answered {
        ids: list("/token_ids").iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect(),
        logprobs: list("/logprobs/token_logprobs").iter().filter_map(Value::as_f64).collect(),
        text: choice["text"].as_str().unwrap_or_default().to_owned(),
    })
}

/// What is wrong with `answered`, if anything is.
fn differs(case: &Case, answered: &Answered) -> Option<String> {
    if answered.ids != case.greedy_ids {
        return Some(format!("ids\n    expected {:?}\n    got      {:?}", case.greedy_ids, answered.ids));
    }
    let pairs = case.greedy_logprobs.iter().zip(&answered.logprobs);
    let worst = pairs.map(|(expected, got)| (expected - got).abs()).fold(0.0, f64::max);
    if answered.logprobs.len() != case.greedy_logprobs.len() || worst > TOLERANCE {
        return Some(format!("{} log-probabilities, the worst off by {worst:e}", answered.logprobs.len()));
    }
    match &case.greedy_text {
        Some(text) if *text != answered.text => {
            Some(format!("text\n    expected {text:?}\n    got      {:?}", answered.text))
        }
        _ => None,
    }
}

/// Every case of `model` alone, by ids and by text; then all at once; then its batch. Returns what differs.
async fn judge(model: &Model) -> Vec<String> {
    let replica = start(model).await;
    let expectations = model.expectations();
    let mut findings = Vec::new();
    let mut served = Vec::new();
    for case in model.cases() {
        match ask(&replica, &body(&case, json!(case.prompt_ids))).await {
            Ok(answered) => {
                findings.extend(
                    differs(&case, &answered).map(|what| format!("{}/{}: {what}", model.name, case.name)),
                );
                served.push(case);
            }
            Err(refused) => {
                let may = case
                    .adapter
                    .as_deref()
                    .is_some_and(|name| expectations.get(name) == Some(&"unsupported-ok"));
                if !may {
                    findings.push(format!("{}/{}: {refused}", model.name, case.name));
                }
            }
        }
    }
    for case in &served {
        let Some(text) = case.prompt_text.as_ref() else { continue };
        let mut body = body(case, json!(text));
        body["add_special_tokens"] = json!(case.add_special_tokens);
        findings.extend(compare(model, "as text", case, &ask(&replica, &body).await));
    }
    let judged = &replica;
    let at_once = served
        .iter()
        .map(|case| async move { (case, ask(judged, &body(case, json!(case.prompt_ids))).await) });
    for (case, answered) in join_all(at_once).await {
        findings.extend(compare(model, "with all cases at once", case, &answered));
    }
    let batch = model.batch();
    let judged = &replica;
    let at_once = batch
        .iter()
        .map(|case| async move { (case, ask(judged, &body(case, json!(case.prompt_ids))).await) });
    for (number, (case, answered)) in join_all(at_once).await.into_iter().enumerate() {
        findings.extend(compare(model, &format!("batch, request {number}"), case, &answered));
    }
    for case in served.iter().filter(|case| case.messages.is_some()) {
        findings.extend(chat(model, &replica, case).await);
    }
    findings
}

fn compare(model: &Model, how: &str, case: &Case, answered: &Result<Answered, String>) -> Option<String> {
    let what = match answered {
        Ok(answered) => differs(case, answered)?,
        Err(refused) => refused.clone(),
    };
    Some(format!("{}/{} {how}: {what}", model.name, case.name))
}

/// A conversation, rendered by the server.
async fn chat(model: &Model, replica: &Replica, case: &Case) -> Option<String> {
    let body = json!({
        "model": case.adapter.as_deref().unwrap_or("base"), "messages": case.messages, "max_tokens": case.greedy_ids.len(),
        "temperature": 0, "ignore_eos": true, "return_token_ids": true,
    });
    let answer = replica.public.post("/v1/chat/completions", &body).await;
    let got = answer.json();
    let ids = |pointer: &str| got.pointer(pointer).cloned().unwrap_or_default();
    if ids("/prompt_token_ids") != json!(case.prompt_ids) {
        return Some(format!("{}/{}: rendered {}", model.name, case.name, answer.text));
    }
    let same = ids("/choices/0/token_ids") == json!(case.greedy_ids);
    (!same).then(|| format!("{}/{}: chat answered {}", model.name, case.name, answer.text))
}

#[tokio::test]
async fn every_model_of_the_suite_answers_as_transformers_and_peft_do() {
    let mut findings = Vec::new();
    for model in Suite::load().models {
        findings.extend(judge(&model).await);
    }
    assert!(findings.is_empty(), "{} differences:\n  {}", findings.len(), findings.join("\n  "));
}

#[tokio::test]
async fn an_answer_ends_at_the_models_own_end_unless_told_otherwise() {
    let suite = Suite::load();
    let ends = |case: &Case| case.eos_at.is_some() && case.adapter.is_none();
    let found = suite.models.iter().find_map(|model| Some((model, model.cases().into_iter().find(ends)?)));
    let Some((model, case)) = found else { return };
    let replica = start(model).await;
    let mut body = body(&case, json!(case.prompt_ids));
    body["ignore_eos"] = json!(false);
    let answer = replica.public.post("/v1/completions", &body).await.ok();
    let at = case.eos_at.expect("it was chosen for it");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["token_ids"], json!(case.greedy_ids[..=at]));
}
