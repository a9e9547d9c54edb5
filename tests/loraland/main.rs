//! The 25 tasks of LoRA Land in miniature through HTTP, all adapters at once: every score within 0.01 of what transformers +
//! PEFT reach, and the base model's as well.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use lorikeet_tests::loraland::{self, Scores, Task, score};
use lorikeet_tests::replica::Replica;
use lorikeet_tests::say::say;
use serde_json::{Value, json};

/// Requests under way at a time: more than the tasks, so that steps mix adapters.
const AT_ONCE: usize = 64;

/// The scores may differ by so much: half a row of 200 rounds to it.
const TOLERANCE: f64 = 0.01;

/// One row of one task, for one model.
struct Question<'a> {
    task: &'a str,
    row: usize,
    model: &'a str,
    prompt: &'a str,
    max_tokens: usize,
}

async fn ask(replica: &Replica, question: &Question<'_>) -> String {
    let body = json!({
        "model": question.model, "prompt": question.prompt, "max_tokens": question.max_tokens, "temperature": 0,
    });
    let answer = replica.public.post("/v1/completions", &body).await.ok();
    answer.pointer("/choices/0/text").and_then(Value::as_str).expect("a text").trim().to_owned()
}

/// The longest target's tokens and six more, as the reference had it.
async fn max_tokens(replica: &Replica, task: &Task) -> usize {
    let counts = stream::iter(&task.rows).map(|row| async {
        let answer =
            replica.public.post("/tokenize", &json!({"prompt": format!(" {}", row.target)})).await.ok();
        answer["count"].as_u64().expect("a count") as usize
    });
    counts.buffer_unordered(AT_ONCE).fold(0, async |most, count| most.max(count)).await + 6
}

/// Every row of every task by `model_of(task)`, adapters mixed: row 0 of each task first.
async fn scores(
    replica: &Replica,
    tasks: &[(Task, usize)],
    model_of: impl Fn(&Task) -> String,
) -> BTreeMap<String, f64> {
    let models: Vec<String> = tasks.iter().map(|(task, _)| model_of(task)).collect();
    let mut questions = Vec::new();
    for ((task, max_tokens), model) in tasks.iter().zip(&models) {
        questions.extend(task.rows.iter().enumerate().map(|(row, asked)| Question {
            task: &task.name,
            row,
            model,
            prompt: &asked.prompt,
            max_tokens: *max_tokens,
        }));
    }
    questions.sort_by_key(|question| question.row);
    let answers =
        stream::iter(&questions).map(|question| async move { (question, ask(replica, question).await) });
    let mut answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
    answers.sort_by_key(|(question, _)| question.row);
    let of_task = |task: &Task| {
        let texts =
            answers.iter().filter(|(question, _)| question.task == task.name).map(|(_, text)| text.clone());
        let targets: Vec<_> = task.rows.iter().map(|row| row.target.clone()).collect();
        score(&task.metric, &texts.collect::<Vec<_>>(), &targets)
    };
    tasks.iter().map(|(task, _)| (task.name.clone(), of_task(task))).collect()
}

#[tokio::test]
async fn twenty_five_adapters_at_once_reach_the_scores_of_transformers_and_peft() {
    let adapters = loraland::adapters();
    let flags = ["--served-name", "base", "--adapters", adapters.to_str().expect("a UTF-8 path")];
    let replica = Replica::start(&loraland::base(), &flags).await;
    let mut tasks = Vec::new();
    for task in loraland::tasks() {
        let most = max_tokens(&replica, &task).await;
        tasks.push((task, most));
    }
    assert_eq!((tasks.len(), tasks[0].0.rows.len()), (25, 200));
    let by_adapter = scores(&replica, &tasks, |task| task.name.clone()).await;
    let by_base = scores(&replica, &tasks, |_| "base".to_owned()).await;
    let mut table = String::new();
    let mut off = 0;
    for (task, Scores { base, adapter }) in loraland::results() {
        let (got_base, got) = (by_base[&task], by_adapter[&task]);
        let bad = (got - adapter).abs() > TOLERANCE || (got_base - base).abs() > TOLERANCE;
        off += usize::from(bad);
        let mark = if bad { "  <-- off" } else { "" };
        table +=
            &format!("{task:20} base {got_base:.4} ({base:.4})  adapter {got:.4} ({adapter:.4}){mark}\n");
    }
    let mean = |scores: &BTreeMap<String, f64>| scores.values().sum::<f64>() / scores.len() as f64;
    say(&format!(
        "{table}{:20} base {:.3}           adapter {:.3}",
        "mean",
        mean(&by_base),
        mean(&by_adapter)
    ));
    assert_eq!(off, 0, "scores off by more than {TOLERANCE} (in brackets: the reference)\n{table}");
}

#[test]
fn the_metrics_score_as_the_reference_does() {
    let one =
        |metric: &str, answer: &str, target: &str| score(metric, &[answer.to_owned()], &[target.to_owned()]);
    assert_eq!(one("accuracy", " True. ", "true"), 1.0);
    assert_eq!(one("exact_match", "a b ", "a b"), 1.0);
    assert_eq!(one("gsm8k_regex", "3 + 4 = -7", "it is -7"), 1.0);
    assert_eq!(one("gsm8k_regex", "none", "7"), 0.0);
    assert!((one("stsb", "about 3.5.", "2.5") - 0.8).abs() < 1e-12);
    assert_eq!(one("stsb", "7", "2"), 0.0);
    assert!((one("rouge", "the Cat sat", "the cat has sat") - 6.0 / 7.0).abs() < 1e-12);
    let f1 =
        one("f1", r#"{"disease": ["flu"], "chemical": ["tin"]}"#, r#"{"disease": ["flu"], "chemical": []}"#);
    assert!((f1 - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(one("f1", "not JSON", r#"{"disease": ["flu"]}"#), 0.0);
}
