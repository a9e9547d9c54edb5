//! The tasks: a prompt template, rows, and the split that is judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args;

/// One task with the rows of its test split.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name, and its adapter's.
    pub name: String,
    /// How an answer is scored.
    pub metric: String,
    /// The rows to judge by.
    pub rows: Vec<Row>,
}

/// One row: what is asked and what should come.
#[derive(Clone, Debug)]
pub struct Row {
    /// The template, filled.
    pub prompt: String,
    /// The answer.
    pub target: String,
}

/// The scores of transformers + PEFT for a task.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Scores {
    /// Of the base model.
    pub base: f64,
    /// Of its adapter.
    pub adapter: f64,
}

#[derive(Deserialize)]
struct Metadata {
    data_path: String,
    prompt_template: String,
    target_col: String,
    metric_name: String,
    split_column: String,
    split_column_value: i64,
}

fn folder() -> PathBuf {
    args::root().join("tests/loraland")
}

/// The scores to reach, by task.
///
/// # Panics
/// When the file is malformed.
#[must_use]
pub fn results() -> BTreeMap<String, Scores> {
    let text = std::fs::read(folder().join("results.json")).expect("results.json");
    serde_json::from_slice(&text).expect("scores by task")
}

/// Every task, by name.
///
/// # Panics
/// When a task is malformed.
#[must_use]
pub fn tasks() -> Vec<Task> {
    results().into_keys().map(|name| task(&folder().join("tasks").join(&name), name)).collect()
}

fn task(folder: &Path, name: String) -> Task {
    let text = std::fs::read_to_string(folder.join("metadata.yaml")).expect("metadata.yaml");
    let metadata: Metadata = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut data = csv::Reader::from_path(folder.join(&metadata.data_path)).expect("the rows");
    let split = metadata.split_column_value.to_string();
    let rows = data.deserialize().map(|row| row.unwrap_or_else(|error| panic!("{name}: {error}")));
    let rows = rows.filter(|row: &BTreeMap<String, String>| row[&metadata.split_column] == split);
    let filled = |row: &BTreeMap<String, String>| fill(&metadata.prompt_template, row);
    let rows =
        rows.map(|row| Row { prompt: filled(&row), target: row[&metadata.target_col].clone() }).collect();
    Task { name, metric: metadata.metric_name, rows }
}

/// `{column}` replaced by the row's value, as Python's `str.format` does.
fn fill(template: &str, row: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (column, after) = after.split_once('}').expect("a closed brace");
        text.push_str(before);
        text.push_str(&row[column]);
        rest = after;
    }
    text + rest
}
