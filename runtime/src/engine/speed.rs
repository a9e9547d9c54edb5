//! What the engine itself costs a step, with a model that costs nothing. Measurements, not tests:
//! `cargo test --release -p lorikeet-runtime --lib engine::speed -- --ignored --nocapture`

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;

use super::batch::Batch;
use super::client::{Client, Place};
use super::config::EngineConfig;
use super::fixtures::{limits, pin_of};
use super::forward::{Forward, ForwardError, Residents};
use super::handle::Submitted;
use super::request::{Request, RequestId, Sampling};
use super::stats::EngineMetrics;
use super::step::Core;

const VOCABULARY: usize = 49_152;

struct Free(Vec<f32>);

impl Forward for Free {
    fn forward(&mut self, batch: &Batch, _: &Residents) -> Result<&mut [f32], ForwardError> {
        Ok(&mut self.0[..batch.logits_rows.len() * VOCABULARY])
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }
}

/// What this thread has computed: other work on the machine does not count.
fn on_cpu() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
}

fn measure(name: &str, sequences: usize, sampling: &Sampling) {
    let config = EngineConfig { max_sequences: sequences, blocks: 8192, ..EngineConfig::default() };
    let logits: Vec<f32> = (0..128 * VOCABULARY).map(|i| (i * 7919 % 10_007) as f32 / 1000.0).collect();
    let mut core = Core::new(Box::new(Free(logits)), config, Arc::new(EngineMetrics::default()));
    let pins: Vec<_> = (0..25).map(|i| pin_of(&i.to_string(), 1000)).collect();
    let places = Arc::new(AtomicUsize::new(0));
    let mut streams = Vec::new();
    for id in 0..sequences {
        let (events, received) = unbounded_channel();
        let request = Request {
            id: RequestId(id as u64),
            prompt: (0..60).map(|i| (i * id) as u32 % 1000).collect(),
            adapter: Some(pins[id % pins.len()].clone()),
            salt: 0,
            weight: NonZeroU32::MIN,
            sampling: sampling.clone(),
            limits: limits(4000),
            deadline: None,
            events,
        };
        let client = Client::new(request.events.clone(), Place::take(&places, usize::MAX).unwrap());
        core.submit(Submitted { request, client, at: Instant::now() });
        streams.push(received);
    }
    for _ in 0..20 {
        core.step(Instant::now()).unwrap();
    }
    let (steps, begun) = (10, on_cpu());
    for _ in 0..steps {
        core.step(Instant::now()).unwrap();
    }
    println!("{name}: {sequences} sequences: {:?} a step", (on_cpu() - begun) / steps);
}

#[test]
#[ignore = "a measurement"]
fn a_step_without_a_model() {
    let drawn = Sampling { temperature: 0.8, ..Sampling::greedy() };
    for sequences in [1, 25, 64] {
        measure("greedy", sequences, &Sampling::greedy());
        measure("logprobs", sequences, &Sampling { logprobs: Some(5), ..Sampling::greedy() });
        measure("drawn", sequences, &drawn);
        measure("drawn top-p 0.9", sequences, &Sampling { top_p: 0.9, ..drawn.clone() });
        measure("drawn top-k 40", sequences, &Sampling { top_k: 40, ..drawn.clone() });
    }
}

#[test]
#[ignore = "a measurement"]
fn scheduling_alone() {
    use super::fixtures::job;
    use super::scheduler::Scheduler;
    use super::sequence::{Job, Sequence};
    for (sequences, waiting) in [(1, 0), (25, 0), (64, 0), (64, 448)] {
        let config = EngineConfig { max_sequences: 64, blocks: 8192, ..EngineConfig::default() };
        let pins: Vec<_> = (0..200).map(|i| pin_of(&i.to_string(), 1000)).collect();
        let mut scheduler = Scheduler::new(config);
        let now = Instant::now();
        for id in 0..sequences + waiting {
            let adapter = Some(pins[id % pins.len()].clone());
            let job = Job { adapter, limits: limits(100_000), ..job(&vec![1 + id as u32; 60]) };
            scheduler.submit(Sequence::new(job, (), now));
        }
        let mut batch = Batch::default();
        let mut step = || {
            scheduler.schedule(now);
            scheduler.fill(&mut batch);
            for place in 0..scheduler.plan().len() {
                let work = scheduler.plan()[place].clone();
                scheduler.commit(place);
                if work.samples {
                    scheduler.push(work.index, 1);
                }
            }
        };
        (0..100).for_each(|_| step());
        let begun = on_cpu();
        (0..1000).for_each(|_| step());
        println!("{sequences} running, {waiting} waiting: {:?} a step", (on_cpu() - begun) / 1000);
    }
}
