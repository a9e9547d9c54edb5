//! The metrics of LoRA Land, in 0..=1, higher is better: what Predibase's lora_bakeoff computes, in the miniature's form.

use std::collections::BTreeSet;

use serde_json::Value;

/// The score of `answers` against `targets` by `metric`.
///
/// # Panics
/// When nobody knows the metric.
#[must_use]
pub fn score(metric: &str, answers: &[String], targets: &[String]) -> f64 {
    let of_row: fn(&str, &str) -> f64 = match metric {
        "accuracy" => accuracy,
        "exact_match" => exact_match,
        "gsm8k_regex" => last_number,
        "stsb" => similarity,
        "rouge" => rouge,
        "f1" => return f1(answers, targets),
        other => panic!("no metric {other}"),
    };
    let pairs = answers.iter().zip(targets);
    pairs.map(|(answer, target)| of_row(answer, target)).sum::<f64>() / targets.len() as f64
}

fn accuracy(answer: &str, target: &str) -> f64 {
    let plain = |text: &str| text.trim().trim_matches('.').to_lowercase();
    f64::from(plain(answer) == plain(target))
}

fn exact_match(answer: &str, target: &str) -> f64 {
    f64::from(answer.trim() == target.trim())
}

/// The runs of digits of `text`, each with a minus before it where there is one.
fn whole_numbers(text: &str) -> Vec<String> {
    let mut numbers: Vec<String> = Vec::new();
    let mut before = None;
    for now in text.chars() {
        match (before, now) {
            (Some('0'..='9'), '0'..='9') => numbers.last_mut().expect("a number is open").push(now),
            (Some('-'), '0'..='9') => numbers.push(format!("-{now}")),
            (_, '0'..='9') => numbers.push(now.to_string()),
            _ => {}
        }
        before = Some(now);
    }
    numbers
}

fn last_number(answer: &str, target: &str) -> f64 {
    let (answer, target) = (whole_numbers(answer), whole_numbers(target));
    f64::from(answer.last().is_some() && answer.last() == target.last())
}

/// One less the distance of the first number from the target, of five.
fn similarity(answer: &str, target: &str) -> f64 {
    let Some(begin) = answer.find(|c: char| c.is_ascii_digit()) else { return 0.0 };
    let mut number = String::new();
    let mut rest = answer[begin..].chars().peekable();
    while let Some(c) = rest.next() {
        let point = c == '.' && !number.contains('.') && rest.peek().is_some_and(char::is_ascii_digit);
        if !c.is_ascii_digit() && !point {
            break;
        }
        number.push(c);
    }
    let answer: f64 = number.parse().expect("digits with at most one point");
    let target: f64 = target.parse().expect("a number");
    if answer > 5.0 { 0.0 } else { 1.0 - (answer - target).abs() / 5.0 }
}

/// ROUGE-L, F1: the longest common subsequence of words.
fn rouge(answer: &str, target: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        let parts = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
        parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (answer, target) = (words(answer), words(target));
    if answer.is_empty() || target.is_empty() {
        return 0.0;
    }
    let mut lengths = vec![0_u32; target.len() + 1];
    for word in &answer {
        let mut diagonal = 0;
        for (place, other) in target.iter().enumerate() {
            let above = lengths[place + 1];
            lengths[place + 1] = if word == other { diagonal + 1 } else { above.max(lengths[place]) };
            diagonal = above;
        }
    }
    2.0 * f64::from(lengths[target.len()]) / (answer.len() + target.len()) as f64
}

/// Micro-F1 over the (kind, entity) pairs of JSON lists. An answer that is no such JSON has none.
fn f1(answers: &[String], targets: &[String]) -> f64 {
    let (mut both, mut either) = (0, 0);
    for (answer, target) in answers.iter().zip(targets) {
        let (answer, target) =
            (pairs(answer).unwrap_or_default(), pairs(target).expect("a target is JSON lists"));
        both += answer.intersection(&target).count();
        either += answer.len() + target.len();
    }
    if either == 0 { 0.0 } else { 2.0 * both as f64 / either as f64 }
}

fn pairs(text: &str) -> Option<BTreeSet<(String, String)>> {
    let Value::Object(kinds) = serde_json::from_str(text).ok()? else { return None };
    let mut pairs = BTreeSet::new();
    for (kind, entities) in kinds {
        let entities: Vec<String> = match entities {
            Value::Array(list) if list.iter().any(|one| one.is_array() || one.is_object()) => return None,
            Value::Array(list) => list.iter().map(Value::to_string).collect(),
            // Python walks over the letters of a string and over the names of an object.
            Value::String(text) => {
                text.chars().map(|letter| Value::from(letter.to_string()).to_string()).collect()
            }
            Value::Object(names) => names.keys().map(|name| Value::from(name.as_str()).to_string()).collect(),
            _ => return None,
        };
        pairs.extend(entities.into_iter().map(|entity| (kind.clone(), entity)));
    }
    Some(pairs)
}
