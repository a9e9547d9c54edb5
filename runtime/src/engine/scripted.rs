//! A model for tests: its logits follow from the generation and the text that a row can read, and it checks that every
//! row reads its own text and nothing else. A mix-up of blocks, slots, positions or generations panics here.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::adapters::pin::Generation;
use crate::engine::batch::{Batch, Span};
use crate::engine::forward::{Forward, ForwardError, Residents};
use crate::engine::request::{Limits, Sampling, Token};
use crate::engine::sampler::{Sampler, Scratch};

/// Ids are below this.
pub(crate) const VOCABULARY: usize = 29;
/// A text with this id has no finite logits.
pub(crate) const POISON: u32 = 28;

/// The model.
pub(crate) struct Scripted {
    block_size: usize,
    cells: HashMap<u32, Cell>,
    logits: Vec<f32>,
    control: Arc<Control>,
}

/// What the test tells the model while it runs.
#[derive(Default)]
pub(crate) struct Control {
    /// So many steps fail.
    pub(crate) failures: AtomicUsize,
    /// So many steps panic.
    pub(crate) panics: AtomicUsize,
    /// Steps that came.
    pub(crate) steps: AtomicUsize,
    closed: Mutex<bool>,
    opened: Condvar,
}

/// What one slot of the KV cache holds: which token, where, by whose weights, after which text.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Cell {
    generation: Option<Generation>,
    position: u32,
    token: u32,
    context: u64,
}

impl Control {
    /// Steps wait from now on.
    pub(crate) fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    /// They go on.
    pub(crate) fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        drop(self.opened.wait_while(self.closed.lock().unwrap(), |closed| *closed).unwrap());
    }
}

fn take(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Scripted {
    pub(crate) fn new(block_size: usize, control: &Arc<Control>) -> Self {
        Self { block_size, cells: HashMap::new(), logits: Vec::new(), control: Arc::clone(control) }
    }

    fn slot(&self, batch: &Batch, span: &Span, position: usize) -> u32 {
        let block = batch.block_tables[span.blocks.clone()][position / self.block_size];
        block * self.block_size as u32 + (position % self.block_size) as u32
    }

    /// The text that a row at `position` reads, checked cell by cell.
    fn read(&self, batch: &Batch, span: &Span, generation: Option<Generation>, position: u32) -> Vec<u32> {
        let cell = |place: usize| self.cells[&self.slot(batch, span, place)];
        let read = |place| {
            let cell = cell(place);
            assert_eq!(cell.generation, generation, "keys of other weights at {place}");
            assert_eq!(cell.position as usize, place, "keys of another place");
            cell.token
        };
        (0..=position as usize).map(read).collect()
    }

    fn check_contexts(&self, batch: &Batch, span: &Span, text: &[u32]) {
        for place in 0..text.len() {
            let cell = self.cells[&self.slot(batch, span, place)];
            assert_eq!(cell.context, context(&text[..=place]), "keys computed after another text at {place}");
        }
    }
}

impl Forward for Scripted {
    fn forward(&mut self, batch: &Batch, residents: &Residents) -> Result<&mut [f32], ForwardError> {
        self.control.pass();
        if take(&self.control.failures) {
            return Err(ForwardError::Device("scripted".to_owned()));
        }
        assert!(!take(&self.control.panics), "scripted panic");
        let generations = generations(batch, residents)?;
        assert_eq!(batch.slots.iter().collect::<HashSet<_>>().len(), batch.rows(), "two rows write one slot");
        for (row, generation) in generations.iter().enumerate() {
            let (position, token) = (batch.positions[row], batch.tokens[row]);
            let cell = Cell { generation: *generation, position, token, context: 0 };
            self.cells.insert(batch.slots[row], cell);
        }
        let mut texts = vec![Vec::new(); batch.rows()];
        for span in &batch.spans {
            for row in span.rows.clone() {
                assert_eq!(batch.slots[row], self.slot(batch, span, batch.positions[row] as usize));
                texts[row] = self.read(batch, span, generations[row], batch.positions[row]);
                let cell = self.cells.get_mut(&batch.slots[row]).unwrap();
                cell.context = context(&texts[row]);
            }
        }
        for span in &batch.spans {
            span.rows.clone().for_each(|row| self.check_contexts(batch, span, &texts[row]));
        }
        self.logits.clear();
        for &row in &batch.logits_rows {
            self.logits.extend(logits(generations[row as usize], &texts[row as usize]));
        }
        Ok(&mut self.logits)
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }
}

/// Whose weights each row takes.
fn generations(batch: &Batch, residents: &Residents) -> Result<Vec<Option<Generation>>, ForwardError> {
    let mut generations = vec![None; batch.rows()];
    for segment in &batch.segments {
        if residents.get(&segment.generation).is_none_or(|weights| weights.generation != segment.generation) {
            return Err(ForwardError::NotResident(segment.generation));
        }
        for row in segment.rows.clone() {
            assert_eq!(generations[row].replace(segment.generation), None, "a row in two segments");
        }
    }
    Ok(generations)
}

fn context(text: &[u32]) -> u64 {
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    hash.finish()
}

/// The logits after `text`.
pub(crate) fn logits(generation: Option<Generation>, text: &[u32]) -> Vec<f32> {
    let mut hash = DefaultHasher::new();
    (generation, text).hash(&mut hash);
    let mut state = hash.finish();
    if text.contains(&POISON) {
        return vec![f32::NAN; VOCABULARY];
    }
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1 << 21) as f32
    };
    let mut logits: Vec<f32> = (0..VOCABULARY).map(|_| next()).collect();
    // It never makes the poison itself.
    logits[POISON as usize] = -100.0;
    logits
}

/// What the model makes of a prompt when it is alone, by the sampler and nothing else of the engine.
pub(crate) fn alone(
    generation: Option<Generation>,
    prompt: &[u32],
    sampling: &Sampling,
    limits: &Limits,
    eos_ids: &[u32],
    context: usize,
) -> Vec<Token> {
    let mut sampler = Sampler::new(sampling.clone(), prompt);
    let (mut text, mut output) = (prompt.to_vec(), Vec::new());
    let mut stops = limits.stop_token_ids.clone();
    stops.extend(eos_ids.iter().filter(|_| !limits.ignore_eos));
    while output.len() < limits.max_tokens as usize && text.len() < context {
        let early = output.len() < limits.min_tokens as usize;
        let forbidden: &[u32] = if early { &stops } else { &[] };
        let mut row = logits(generation, &text);
        let token = sampler.choose(&mut row, output.len(), forbidden, &mut Scratch::default()).unwrap();
        text.push(token.id);
        let stop = !early && stops.contains(&token.id);
        output.push(token);
        if stop {
            break;
        }
    }
    output
}
