//! Drives a model without an engine: builds batches, gives out blocks, takes the greatest logit.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use lorikeet_kernels::device::Device;
use lorikeet_runtime::adapters::build::{AdapterLimits, build};
use lorikeet_runtime::adapters::files;
use lorikeet_runtime::adapters::pin::Generation;
use lorikeet_runtime::adapters::weights::AdapterWeights;
use lorikeet_runtime::engine::batch::{AdapterRows, Batch, Span};
use lorikeet_runtime::engine::forward::{Forward, Residents};
use lorikeet_runtime::model::config::ModelConfig;
use lorikeet_runtime::model::{KvChoice, KvOptions, LoadOptions, Model};
use lorikeet_runtime::safetensors::Limits;
use lorikeet_runtime::source::folder::Folder;

use crate::suite::{Case, GoldenModel};

/// No power of two, and no divisor of a window.
const BLOCK_SIZE: usize = 5;
const BLOCKS: usize = 4096;

/// What an adapter of the suite may ask for.
pub const LIMITS: AdapterLimits = AdapterLimits {
    rank: 128,
    file: Limits { file_bytes: 16 << 20, header_bytes: 1 << 20, tensors: 10_000 },
};

/// A model and its adapters.
pub struct Driver {
    model: Model,
    residents: Residents,
    adapters: HashMap<String, Generation>,
}

/// What came out for one case.
pub struct Run {
    /// Logits of every prompt position.
    pub prompt: Vec<Vec<f32>>,
    /// Logits of every further step.
    pub steps: Vec<Vec<f32>>,
    pub greedy: Vec<u32>,
    pub logprobs: Vec<f64>,
}

/// A sequence on its way.
struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    wanted: usize,
    computed: usize,
    blocks: Vec<u32>,
    generation: Option<Generation>,
    run: Run,
}

/// Loads a model for tests.
pub fn load(path: &Path) -> Model {
    let options = LoadOptions {
        device: Device::new(NonZeroUsize::new(2).unwrap()),
        quantize: None,
        kv: KvOptions { blocks: BLOCKS, block_size: BLOCK_SIZE, dtype: KvChoice::Auto },
        max_step_rows: 256,
        progress: &|_, _| {},
    };
    Model::load(path, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Builds the adapter in `dir` for `model`.
pub fn adapter(dir: &Path, model: &Model) -> Result<AdapterWeights, String> {
    let files = files::read(&Folder::trusted(dir.to_owned()), LIMITS.file.file_bytes)
        .map_err(|error| error.to_string())?;
    build(&files.config, &files.weights, &model.shape(), &*model.weights(), &LIMITS)
        .map_err(|error| error.to_string())
}

impl Driver {
    /// The golden model and all its adapters.
    pub fn of(model: &GoldenModel) -> Self {
        Self::with(load(&model.dir), model)
    }

    /// Another form of the golden model, and all its adapters.
    pub fn with(model: Model, golden: &GoldenModel) -> Self {
        let (mut residents, mut adapters) = (Residents::new(), HashMap::new());
        for name in golden.adapters() {
            match adapter(&golden.adapter_dir(&name), &model) {
                Ok(weights) => {
                    adapters.insert(name, weights.generation);
                    residents.insert(weights.generation, Arc::new(weights));
                }
                Err(error) => assert!(golden.may_be_refused(&name), "{}: {name}: {error}", golden.name),
            }
        }
        Self { model, residents, adapters }
    }

    /// The model's description.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The cases whose adapters are loaded.
    pub fn runnable(&self, cases: Vec<Case>) -> Vec<Case> {
        let loaded = |case: &Case| case.adapter.as_ref().is_none_or(|name| self.adapters.contains_key(name));
        let cases: Vec<Case> = cases.into_iter().filter(loaded).collect();
        assert!(!cases.is_empty());
        cases
    }

    /// Runs one case, its prompt in chunks.
    pub fn run_alone(&mut self, case: &Case, chunk: usize) -> Run {
        self.run_together(std::slice::from_ref(case), chunk).remove(0)
    }

    /// Runs cases in one batch; each prompt in chunks, so that prefill and decode mix.
    pub fn run_together(&mut self, cases: &[Case], chunk: usize) -> Vec<Run> {
        let generation = |case: &Case| case.adapter.as_ref().map(|name| self.adapters[name]);
        let mut sequences: Vec<Sequence> =
            cases.iter().map(|case| Sequence::new(case, generation(case))).collect();
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|index| sequences[*index].generation);
        // Blocks from the far end, so that neighbours in a sequence are none in the cache.
        let mut free: Vec<u32> = (0..BLOCKS as u32).step_by(2).collect();
        while sequences.iter().any(Sequence::is_running) {
            let mut batch = Batch::default();
            for index in &order {
                sequences[*index].add_to(&mut batch, chunk, &mut free);
            }
            let vocabulary = self.model.vocabulary();
            let logits = self.model.forward(&batch, &self.residents).unwrap();
            assert_eq!(logits.len(), batch.logits_rows.len() * vocabulary);
            let mut rows = logits.chunks_exact(vocabulary);
            for index in &order {
                sequences[*index].take(chunk, &mut rows);
            }
        }
        sequences.into_iter().map(|sequence| sequence.run).collect()
    }
}

impl Sequence {
    fn new(case: &Case, generation: Option<Generation>) -> Self {
        let run = Run { prompt: Vec::new(), steps: Vec::new(), greedy: Vec::new(), logprobs: Vec::new() };
        let (tokens, prompt, wanted) = (case.prompt.clone(), case.prompt.len(), case.greedy.len());
        Self { tokens, prompt, wanted, computed: 0, blocks: Vec::new(), generation, run }
    }

    fn is_running(&self) -> bool {
        self.run.greedy.len() < self.wanted
    }

    /// The rows of its next step.
    fn next(&self, chunk: usize) -> std::ops::Range<usize> {
        let end =
            if self.is_running() { self.tokens.len().min(self.computed.saturating_add(chunk)) } else { 0 };
        self.computed..end.max(self.computed)
    }

    fn add_to(&mut self, batch: &mut Batch, chunk: usize, free: &mut Vec<u32>) {
        let next = self.next(chunk);
        if next.is_empty() {
            return;
        }
        while self.blocks.len() * BLOCK_SIZE < next.end {
            self.blocks.push(free.pop().unwrap());
        }
        let (first_row, first_block) = (batch.rows(), batch.block_tables.len());
        for position in next {
            batch.logits_rows.push(batch.tokens.len() as u32);
            batch.tokens.push(self.tokens[position]);
            batch.positions.push(position as u32);
            let block = self.blocks[position / BLOCK_SIZE] as usize;
            batch.slots.push((block * BLOCK_SIZE + position % BLOCK_SIZE) as u32);
        }
        batch.block_tables.extend(&self.blocks);
        let rows = first_row..batch.rows();
        batch.spans.push(Span { rows: rows.clone(), blocks: first_block..batch.block_tables.len() });
        let Some(generation) = self.generation else { return };
        match batch.segments.last_mut().filter(|last| last.generation == generation) {
            Some(last) => last.rows.end = rows.end,
            None => batch.segments.push(AdapterRows { rows, generation }),
        }
    }

    fn take<'a>(&mut self, chunk: usize, rows: &mut impl Iterator<Item = &'a [f32]>) {
        for position in self.next(chunk) {
            let logits = rows.next().unwrap().to_vec();
            self.computed = position + 1;
            if self.computed == self.tokens.len() {
                let best = lorikeet_kernels::sample::argmax(&logits);
                self.run.logprobs.push(logprob(&logits, best as usize));
                self.run.greedy.push(best);
                self.tokens.push(best);
            }
            if position < self.prompt { &mut self.run.prompt } else { &mut self.run.steps }.push(logits);
        }
    }
}

fn logprob(logits: &[f32], id: usize) -> f64 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
    f64::from(logits[id] - greatest) - sum.ln()
}
