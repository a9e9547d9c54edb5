//! The same cases through the engine: all at once, under limits that cut prompts and preempt sequences in the middle.
//! Greedy tokens are the references'; log-probabilities have the same bits whatever the limits.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lorikeet_kernels::device::Device;
use lorikeet_runtime::adapters::pin::{Pin, PinCount};
use lorikeet_runtime::engine::Engine;
use lorikeet_runtime::engine::config::EngineConfig;
use lorikeet_runtime::engine::handle::EngineHandle;
use lorikeet_runtime::engine::request::{Event, FinishReason, Limits, Request, RequestId, Sampling, Token};
use lorikeet_runtime::model::{KvChoice, KvOptions, LoadOptions, Model};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::driver::adapter;
use crate::suite::{Case, GoldenModel, Suite};

const BLOCK_SIZE: usize = 4;

/// The limits of one run.
#[derive(Clone, Copy)]
struct Run {
    max_step_tokens: usize,
    blocks: usize,
    max_sequences: usize,
    /// Room for so many of the biggest adapter.
    adapters: u64,
}

/// A model in an engine, and its adapters.
struct Served {
    engine: EngineHandle,
    pins: HashMap<String, Pin>,
}

fn serve(model: &GoldenModel, run: Run) -> Served {
    let options = LoadOptions {
        device: Device::new(NonZeroUsize::new(2).unwrap()),
        quantize: None,
        kv: KvOptions { blocks: run.blocks, block_size: BLOCK_SIZE, dtype: KvChoice::Auto },
        max_step_rows: run.max_step_tokens,
        progress: &|_, _| {},
    };
    let loaded = Model::load(&model.dir, options).unwrap();
    let pins: HashMap<String, Pin> = (model.adapters().into_iter())
        .filter_map(|name| {
            let weights = adapter(&model.adapter_dir(&name), &loaded).ok()?;
            Some((name, Pin::new(Arc::new(weights), Arc::<PinCount>::default())))
        })
        .collect();
    let biggest = pins.values().map(|pin| pin.weights().bytes).max().unwrap_or(0);
    let config = EngineConfig {
        max_sequences: run.max_sequences,
        max_step_tokens: run.max_step_tokens,
        max_logits_rows: run.max_sequences,
        blocks: run.blocks,
        block_size: BLOCK_SIZE,
        resident_bytes: biggest * run.adapters,
        drain_after: Duration::ZERO,
        ..EngineConfig::default()
    };
    let engine = Engine::start(Box::new(loaded), config, Arc::default()).unwrap();
    Served { engine, pins }
}

impl Served {
    fn submit(&self, case: &Case) -> UnboundedReceiver<Event> {
        let (events, received) = unbounded_channel();
        let max_tokens = case.greedy.len() as u32;
        let request = Request {
            id: RequestId(0),
            prompt: case.prompt.clone(),
            adapter: case.adapter.as_ref().map(|name| self.pins[name].clone()),
            salt: 0,
            weight: NonZeroU32::MIN,
            sampling: Sampling { logprobs: Some(2), ..Sampling::greedy() },
            limits: Limits { max_tokens, min_tokens: 0, ignore_eos: true, stop_token_ids: Vec::new() },
            deadline: None,
            events,
        };
        self.engine.submit(request).unwrap();
        received
    }
}

fn tokens(mut events: UnboundedReceiver<Event>) -> Vec<Token> {
    let mut tokens = Vec::new();
    loop {
        match events.blocking_recv().unwrap() {
            Event::Started { .. } => {}
            Event::Token(token) => tokens.push(token),
            Event::Finished(FinishReason::Length) => return tokens,
            other => panic!("{other:?}"),
        }
    }
}

fn check(model: &GoldenModel, case: &Case, tokens: &[Token]) {
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    assert_eq!(ids, case.greedy, "{} {}", model.name, case.name);
    for (token, expected) in tokens.iter().zip(&case.logprobs) {
        let logprob = f64::from(token.logprobs.as_ref().unwrap().logprob);
        assert!((logprob - expected).abs() < 1e-3, "{} {}: {logprob}, not {expected}", model.name, case.name);
    }
}

#[test]
fn the_engine_gives_the_reference_tokens_and_the_same_bits_under_any_limits() {
    let mut evictions = 0;
    for model in Suite::open().models() {
        let plenty = Run { max_step_tokens: 512, blocks: 4096, max_sequences: 64, adapters: 99 };
        let served = serve(&model, plenty);
        let mut cases = model.cases();
        cases.extend(model.batch());
        cases.retain(|case| case.adapter.as_ref().is_none_or(|name| served.pins.contains_key(name)));
        // The short ones first: they alone run where blocks are scarce, so that they get into each other's way.
        let length = |case: &Case| case.prompt.len() + case.greedy.len();
        cases.sort_by_key(length);
        let short = cases.len().div_ceil(2);
        let alone: Vec<_> = cases.iter().map(|case| tokens(served.submit(case))).collect();
        for (case, tokens) in cases.iter().zip(&alone) {
            check(&model, case, tokens);
        }
        let scarce = length(&cases[short - 1]).div_ceil(BLOCK_SIZE) + 2;
        for run in [
            plenty,
            Run { max_step_tokens: 16, ..plenty },
            Run { max_step_tokens: 5, max_sequences: 5, ..plenty },
            Run { adapters: 1, ..plenty },
            Run { blocks: scarce, ..plenty },
            Run { blocks: scarce, max_step_tokens: 16, adapters: 2, ..plenty },
        ] {
            let served = serve(&model, run);
            let cases = if run.blocks == scarce { &cases[..short] } else { &cases[..] };
            let streams: Vec<_> = cases.iter().map(|case| served.submit(case)).collect();
            for ((case, alone), stream) in cases.iter().zip(&alone).zip(streams) {
                assert_eq!(&tokens(stream), alone, "{} {}", model.name, case.name);
            }
            let figures = served.engine.metrics();
            let preemptions = figures.preemptions.load(Ordering::Relaxed);
            assert_eq!(preemptions > 0, run.blocks == scarce, "{}: {preemptions} preemptions", model.name);
            evictions += figures.resident_evictions.load(Ordering::Relaxed);
        }
    }
    assert!(evictions > 0, "adapters had to leave for each other");
}
