//! One step: schedule, run, sample, commit. What goes wrong in one sequence's path ends that sequence; what goes wrong
//! in the model ends the step's; nothing else ends.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::batch::Batch;
use crate::engine::client::Client;
use crate::engine::config::EngineConfig;
use crate::engine::forward::Forward;
use crate::engine::handle::Submitted;
use crate::engine::report::Reporter;
use crate::engine::request::{Event, Failure, FinishReason, RequestId};
use crate::engine::sampler::{NotFinite, Sampler, Scratch};
use crate::engine::scheduler::Scheduler;
use crate::engine::sequence::{Job, Sequence, Work};
use crate::engine::stats::{EngineMetrics, StepReport};

/// What the engine attaches to a sequence.
pub(crate) struct Live {
    pub(crate) client: Client,
    sampler: Sampler,
    started: bool,
}

/// The engine's state. Lives on its thread.
pub(crate) struct Core {
    forward: Box<dyn Forward>,
    scheduler: Scheduler<Live>,
    config: EngineConfig,
    metrics: Arc<EngineMetrics>,
    reporter: Reporter,
    batch: Batch,
    choice: Choice,
    ended: Vec<(usize, End)>,
    leaving: Vec<Sequence<Live>>,
    failures: u32,
}

/// What choosing tokens needs from one step to the next.
#[derive(Default)]
struct Choice {
    scratch: Scratch,
    forbidden: Vec<u32>,
    tokens: u64,
}

/// How a sequence ended.
enum End {
    Finished(FinishReason),
    Failed(Failure),
}

/// The device failed too often.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeviceGone;

impl Core {
    pub(crate) fn new(forward: Box<dyn Forward>, config: EngineConfig, metrics: Arc<EngineMetrics>) -> Self {
        Self {
            forward,
            scheduler: Scheduler::new(config.clone()),
            reporter: Reporter::new(Arc::clone(&metrics)),
            config,
            metrics,
            batch: Batch::default(),
            choice: Choice::default(),
            ended: Vec::new(),
            leaving: Vec::new(),
            failures: 0,
        }
    }

    pub(crate) fn submit(&mut self, submitted: Submitted) {
        let Submitted { request, client, at } = submitted;
        let score_prompt = request.sampling.prompt_logprobs.is_some();
        let live = Live { client, sampler: Sampler::new(request.sampling, &request.prompt), started: false };
        let job = Job {
            id: request.id,
            prompt: request.prompt,
            adapter: request.adapter,
            salt: request.salt,
            weight: request.weight,
            limits: request.limits,
            score_prompt,
            deadline: request.deadline,
        };
        self.scheduler.submit(Sequence::new(job, live, at));
    }

    pub(crate) fn cancel(&mut self, id: RequestId) {
        self.fail_those(|sequence| (sequence.id() == id).then_some(Failure::Cancelled));
    }

    pub(crate) fn fail_all(&mut self, failure: &Failure) {
        self.fail_those(|_| Some(failure.clone()));
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.scheduler.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn scheduler(&self) -> &Scheduler<Live> {
        &self.scheduler
    }

    /// Publishes the figures; with `wait` surely, else unless a reader is in the way.
    pub(crate) fn report(&mut self, wait: bool) {
        self.reporter.report(&self.scheduler, wait);
    }

    /// One step, at `now`.
    pub(crate) fn step(&mut self, now: Instant) -> Result<(), DeviceGone> {
        self.fail_those(|sequence| match sequence {
            gone if gone.client.client.is_gone() => Some(Failure::Cancelled),
            late if late.is_late(now) => Some(Failure::DeadlineExceeded),
            other => other.outstayed(now).map(Failure::from),
        });
        if self.scheduler.schedule(now).is_empty() {
            return Ok(());
        }
        self.announce();
        self.scheduler.fill(&mut self.batch);
        let begun = Instant::now();
        let outcome = self.run();
        let forward = begun.elapsed();
        match outcome {
            Ok(()) => self.failures = 0,
            Err(error) => self.fail_step(&error, now),
        }
        self.observe(now, forward);
        self.report(false);
        if self.failures < self.config.max_device_failures { Ok(()) } else { Err(DeviceGone) }
    }

    /// Tells those that are in a step for the first time.
    fn announce(&mut self) {
        for place in 0..self.scheduler.plan().len() {
            let index = self.scheduler.plan()[place].index;
            let sequence = self.scheduler.running_mut(index);
            if !std::mem::replace(&mut sequence.client.started, true) {
                let (prompt, cached) = (sequence.prompt().len(), sequence.computed());
                sequence.client.client.start(cached);
                self.metrics.prompt_tokens.fetch_add(prompt as u64, Ordering::Relaxed);
                self.metrics.cached_prompt_tokens.fetch_add(cached as u64, Ordering::Relaxed);
            }
        }
    }

    /// Runs the model, then samples and commits sequence by sequence.
    fn run(&mut self) -> Result<(), String> {
        let Self { forward, scheduler, batch, choice, ended, config, metrics, .. } = self;
        let vocabulary = forward.vocabulary();
        let wanted = batch.logits_rows.len() * vocabulary;
        let (model, residency, rows) = (&mut **forward, scheduler.residency(), &*batch);
        let outcome = caught(move || model.forward(rows, &residency.seated()));
        let logits = match outcome {
            Ok(Ok(logits)) if logits.len() == wanted => logits,
            Ok(Ok(logits)) => return Err(format!("the model made {} logits, not {wanted}", logits.len())),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(panic) => return Err(format!("the model panicked: {}", panic)),
        };
        let mut rest = logits;
        for place in 0..scheduler.plan().len() {
            let work = scheduler.plan()[place].clone();
            let (of_work, others) = rest.split_at_mut(work.logits() * vocabulary);
            rest = others;
            scheduler.commit(place);
            let end = caught(|| advance(scheduler, &work, of_work, vocabulary, choice, config));
            let end = end.unwrap_or_else(|panic| {
                metrics.panics.fetch_add(1, Ordering::Relaxed);
                Some(End::Failed(Failure::Internal(format!("sampling panicked: {}", panic))))
            });
            ended.extend(end.map(|end| (work.index, end)));
        }
        self.end_those();
        Ok(())
    }

    /// The ended sequences leave; the last first, so that the others' places stay.
    fn end_those(&mut self) {
        self.ended.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, end) in self.ended.drain(..) {
            if matches!(end, End::Failed(_)) {
                self.metrics.corrupted_requests.fetch_add(1, Ordering::Relaxed);
                self.scheduler.running_mut(index).disown();
            }
            let sequence = self.scheduler.end(index);
            let id = sequence.id();
            // What it held is free before its client can ask for more.
            let client = sequence.into_client().client;
            match end {
                End::Finished(reason) => client.finish(reason),
                End::Failed(failure) => {
                    tracing::error!(request = id.0, %failure, "request failed");
                    client.fail(failure);
                }
            }
        }
        let tokens = std::mem::take(&mut self.choice.tokens);
        self.metrics.generation_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    fn fail_step(&mut self, error: &str, now: Instant) {
        tracing::error!(error, sequences = self.scheduler.plan().len(), "step failed");
        self.failures += 1;
        self.metrics.failed_steps.fetch_add(1, Ordering::Relaxed);
        self.scheduler.fail_step(now, &mut self.leaving);
        for sequence in self.leaving.drain(..) {
            sequence.into_client().client.fail(Failure::Internal(error.to_owned()));
        }
    }

    /// Those that have a reason leave with it. Each is asked once: a reason may be gone a moment later.
    fn fail_those(&mut self, mut why: impl FnMut(&Sequence<Live>) -> Option<Failure>) {
        let mut failures = Vec::new();
        let leaves = |sequence: &Sequence<Live>| {
            let failure = why(sequence);
            let leaves = failure.is_some();
            failures.extend(failure);
            leaves
        };
        self.scheduler.take_out(leaves, &mut self.leaving);
        for (sequence, failure) in self.leaving.drain(..).zip(failures) {
            sequence.into_client().client.fail(failure);
        }
    }

    fn observe(&self, began: Instant, forward: Duration) {
        let rows = |span: &crate::engine::batch::Span| span.rows.len();
        let decode_rows = self.batch.spans.iter().filter(|span| rows(span) == 1).count();
        self.metrics.steps.fetch_add(1, Ordering::Relaxed);
        self.metrics.observe(&StepReport {
            prefill_rows: self.batch.rows() - decode_rows,
            decode_rows,
            segments: self.batch.segments.len(),
            total: began.elapsed(),
            forward,
        });
    }
}

/// The next token of one sequence, and the scores of its prompt, where the step made them.
fn advance(
    scheduler: &mut Scheduler<Live>,
    work: &Work,
    logits: &mut [f32],
    vocabulary: usize,
    choice: &mut Choice,
    config: &EngineConfig,
) -> Option<End> {
    let sequence = scheduler.running_mut(work.index);
    let mut rows = logits.chunks_exact_mut(vocabulary);
    if !work.scored.is_empty() {
        let following = &sequence.prompt()[work.scored.start + 1..=work.scored.end];
        let sampler = &sequence.client.sampler;
        let scores: Result<Vec<_>, NotFinite> =
            following.iter().zip(rows.by_ref()).map(|(&id, row)| sampler.score(row, id)).collect();
        match scores {
            Ok(scores) => sequence.client.client.send(Event::Prompt(scores)),
            Err(odd) => return Some(End::Failed(Failure::Internal(odd.to_string()))),
        }
    }
    if !work.samples {
        return None;
    }
    if sequence.limits().max_tokens == 0 {
        return Some(End::Finished(FinishReason::Length));
    }
    choice.forbidden.clear();
    if !sequence.may_stop() {
        let limits = sequence.limits();
        let eos_ids = if limits.ignore_eos { &[] } else { &config.eos_ids[..] };
        choice.forbidden.extend(eos_ids.iter().chain(&limits.stop_token_ids));
    }
    let step = sequence.output().len();
    let token = sequence.client.sampler.choose(rows.next()?, step, &choice.forbidden, &mut choice.scratch);
    let token = match token {
        Ok(token) => token,
        Err(odd) => return Some(End::Failed(Failure::Internal(odd.to_string()))),
    };
    choice.tokens += 1;
    let id = token.id;
    sequence.client.client.send(Event::Token(token));
    scheduler.push(work.index, id).map(End::Finished)
}

/// Runs `work`; a panic in it becomes what it said.
pub(crate) fn caught<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().copied();
        text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
    })
}
