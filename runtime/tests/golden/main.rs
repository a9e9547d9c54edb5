//! Golden parity: every model of the suite gives the logits and the greedy tokens of transformers + PEFT, and a
//! sequence's bits do not depend on how its prompt was cut or on its neighbours.
//!
//! `LORIKEET_GOLDEN` names another suite of the same format.

#![expect(unreachable_pub, reason = "the modules of one test")]
#![expect(clippy::unwrap_used, reason = "a test stops where its own plumbing breaks")]

mod driver;
mod engine;
mod forms;
mod suite;

use driver::{Driver, Run};
use forms::Width;
use suite::{Case, Suite};

/// Between float32 implementations.
const TOLERANCE: f32 = 3e-4;

#[test]
fn every_case_gives_the_reference_logits_and_greedy_tokens() {
    for model in Suite::open().models() {
        let mut driver = Driver::of(&model);
        for case in driver.runnable(model.cases()) {
            let run = driver.run_alone(&case, usize::MAX);
            check_prompt(&model.name, &case, &run);
            check_greedy(&model.name, &case, &run);
        }
    }
}

#[test]
fn a_prompt_cut_in_chunks_gives_the_same_bits() {
    for model in Suite::open().models() {
        let mut driver = Driver::of(&model);
        for case in driver.runnable(model.cases()) {
            let whole = driver.run_alone(&case, usize::MAX);
            for chunk in [1, 3, 7, 16] {
                let cut = driver.run_alone(&case, chunk);
                assert_same(&format!("{} {} in chunks of {chunk}", model.name, case.name), &whole, &cut);
            }
        }
    }
}

#[test]
fn a_sequence_among_others_gives_the_bits_that_it_gives_alone() {
    for model in Suite::open().models() {
        let mut driver = Driver::of(&model);
        let cases = driver.runnable(model.cases());
        let alone: Vec<Run> = cases.iter().map(|case| driver.run_alone(case, usize::MAX)).collect();
        for chunk in [5, usize::MAX] {
            for ((case, alone), together) in cases.iter().zip(&alone).zip(driver.run_together(&cases, chunk))
            {
                assert_same(&format!("{} {} among others", model.name, case.name), alone, &together);
            }
        }
    }
}

#[test]
fn a_mixed_batch_gives_the_tokens_of_one_by_one() {
    for model in Suite::open().models() {
        let mut driver = Driver::of(&model);
        let cases = driver.runnable(model.batch());
        for (case, run) in cases.iter().zip(driver.run_together(&cases, 4)) {
            check_greedy(&model.name, case, &run);
        }
    }
}

#[test]
fn every_invalid_adapter_is_refused_with_a_clear_error() {
    let suite = Suite::open();
    let models = suite.models();
    for bad in suite.bad() {
        let golden = models.iter().find(|model| model.name == bad.base).unwrap();
        let model = driver::load(&golden.dir);
        let place = bad.dir.file_name().unwrap().to_string_lossy().into_owned();
        match driver::adapter(&bad.dir, &model) {
            Ok(_) => assert_ne!(bad.expect, "error", "{place} loads"),
            Err(error) => {
                let message = error.to_lowercase();
                assert_ne!(bad.expect, "ok", "{place}: {message}");
                assert!(
                    bad.words.iter().any(|word| message.contains(word)),
                    "{place}: {message}: {:?}",
                    bad.words
                );
            }
        }
    }
}

#[test]
fn the_gguf_form_of_a_model_answers_as_its_hugging_face_form() {
    for model in Suite::open().models() {
        for width in [Width::Single, Width::Half] {
            let dir = tempfile::tempdir().unwrap();
            forms::write_hugging_face(&model.dir, width, dir.path());
            let mut original = Driver::with(driver::load(dir.path()), &model);
            if !forms::is_expressible(original.config()) {
                continue;
            }
            let gguf = dir.path().join("model.gguf");
            forms::write_gguf(&model.dir, original.config(), width, &gguf);
            let mut driver = Driver::with(driver::load(&gguf), &model);
            for case in driver.runnable(model.cases()) {
                let (expected, run) =
                    (original.run_alone(&case, usize::MAX), driver.run_alone(&case, usize::MAX));
                let place = format!("{} {} as {width:?} GGUF", model.name, case.name);
                for (position, (got, expected)) in run.prompt.iter().zip(&expected.prompt).enumerate() {
                    let (difference, _) = greatest_difference(got, expected);
                    assert!(difference < 1e-4, "{place}: position {position} differs by {difference}");
                }
                if width == Width::Single {
                    check_greedy(&place, &case, &run);
                }
            }
        }
    }
}

fn check_prompt(model: &str, case: &Case, run: &Run) {
    let place = format!("{model} {}", case.name);
    for (position, expected) in &case.logits_rows {
        let (difference, at) = greatest_difference(&run.prompt[*position], expected);
        assert!(difference < TOLERANCE, "{place}: position {position}: logit {at} differs by {difference}");
    }
    for (position, logits) in run.prompt.iter().enumerate() {
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let expected = logits[case.argmax[position]];
        assert!(greatest - expected < 2.0 * TOLERANCE, "{place}: position {position}: another argmax");
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
        let difference = (sum.ln() + f64::from(greatest) - case.logsumexp[position]).abs();
        assert!(
            difference < f64::from(TOLERANCE) + 1e-5,
            "{place}: position {position}: logsumexp off by {difference}"
        );
    }
}

fn check_greedy(model: &str, case: &Case, run: &Run) {
    let place = format!("{model} {}", case.name);
    assert_eq!(run.greedy, case.greedy, "{place}: greedy tokens; smallest margin {}", case.min_margin);
    for (step, (got, expected)) in run.logprobs.iter().zip(&case.logprobs).enumerate() {
        assert!(
            (got - expected).abs() < 2.0 * f64::from(TOLERANCE),
            "{place}: step {step}: {got} for {expected}"
        );
    }
}

fn greatest_difference(got: &[f32], expected: &[f32]) -> (f32, usize) {
    assert_eq!(got.len(), expected.len());
    let differences = got.iter().zip(expected).map(|(got, expected)| {
        let difference = (got - expected).abs();
        if difference.is_nan() { f32::INFINITY } else { difference }
    });
    differences.zip(0..).fold((0.0, 0), |most, this| if this.0 > most.0 { this } else { most })
}

fn assert_same(place: &str, one: &Run, other: &Run) {
    assert_eq!(one.greedy, other.greedy, "{place}: greedy tokens");
    let bits = |run: &Run| -> Vec<Vec<u32>> {
        run.prompt
            .iter()
            .chain(&run.steps)
            .map(|row| row.iter().map(|logit| logit.to_bits()).collect())
            .collect()
    };
    let (one, other) = (bits(one), bits(other));
    let first = one.iter().zip(&other).position(|(one, other)| one != other);
    assert!(first.is_none() && one.len() == other.len(), "{place}: the bits of row {first:?} differ");
}
