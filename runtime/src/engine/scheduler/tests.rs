//! The scheduler's rules, each by itself, on sequences whose tokens are all 1.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::*;
use crate::adapters::pin::{Generation, Pin};
use crate::engine::fixtures::{job, limits, pin_of};
use crate::engine::request::RequestId;
use crate::engine::sequence::Job;

struct Bench {
    scheduler: Scheduler<()>,
    now: Instant,
    /// The ids that have ended, in order.
    ended: Vec<u64>,
}

fn small() -> EngineConfig {
    EngineConfig {
        max_sequences: 8,
        max_step_tokens: 16,
        max_logits_rows: 16,
        blocks: 64,
        block_size: 4,
        resident_bytes: 100,
        drain_after: Duration::from_secs(3),
        drain_for: Duration::from_secs(30),
        prefix_cache: false,
        ..EngineConfig::default()
    }
}

impl Bench {
    fn new(config: EngineConfig) -> Self {
        Self { scheduler: Scheduler::new(config), now: Instant::now(), ended: Vec::new() }
    }

    fn submit(&mut self, id: u64, prompt: usize, max_tokens: u32) {
        self.submit_with(id, prompt, max_tokens, None);
    }

    fn submit_with(&mut self, id: u64, prompt: usize, max_tokens: u32, adapter: Option<&Pin>) {
        let job = Job {
            id: RequestId(id),
            adapter: adapter.cloned(),
            limits: limits(max_tokens),
            ..job(&vec![1; prompt])
        };
        self.scheduler.submit(Sequence::new(job, (), self.now));
    }

    /// One step of a second. `(id, rows)` in the order of the batch.
    fn step(&mut self) -> Vec<(u64, usize)> {
        self.now += Duration::from_secs(1);
        let plan = self.scheduler.schedule(self.now).to_vec();
        let running = |work: &Work| self.scheduler.running()[work.index].id().0;
        let rows: Vec<_> = plan.iter().map(|work| (running(work), work.rows)).collect();
        let mut ended = Vec::new();
        for (place, work) in plan.iter().enumerate() {
            self.scheduler.commit(place);
            if work.samples && self.scheduler.push(work.index, 1).is_some() {
                ended.push(work.index);
            }
        }
        ended.sort_unstable();
        for index in ended.into_iter().rev() {
            self.ended.push(self.scheduler.end(index).id().0);
        }
        rows
    }

    fn running(&self) -> Vec<u64> {
        self.scheduler.running().iter().map(|sequence| sequence.id().0).collect()
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.scheduler.is_empty() {
                assert_eq!(self.scheduler.pool().used(), 0);
                assert!(self.scheduler.residency().seated().is_empty());
                return;
            }
            assert!(!self.step().is_empty(), "somebody can always run");
        }
        panic!("it does not end: {:?}", self.scheduler);
    }
}

#[test]
fn a_decoding_sequence_has_its_row_in_every_step_whatever_prompts_there_are() {
    let mut bench = Bench::new(small());
    bench.submit(0, 1, 30);
    bench.step();
    for id in 1..8 {
        bench.submit(id, 30, 4);
    }
    for _ in 0..28 {
        let rows = bench.step();
        assert!(rows.contains(&(0, 1)), "{rows:?}");
        assert!(rows.iter().map(|(_, rows)| rows).sum::<usize>() <= 16);
    }
    bench.finish();
}

#[test]
fn a_long_prompt_is_read_in_chunks_and_a_short_one_behind_it_is_not_shut_out() {
    let mut bench = Bench::new(small());
    bench.submit(0, 100, 1);
    bench.submit(1, 3, 1);
    assert_eq!(
        bench.step(),
        [(0, 13), (1, 3)],
        "half for the first, what the second needs, the rest to the first"
    );
    assert_eq!(bench.step(), [(0, 16)]);
    bench.finish();
    assert_eq!(bench.ended, [1, 0]);
}

#[test]
fn the_sequence_that_arrived_last_gives_way_when_blocks_run_out_and_comes_back() {
    let mut bench = Bench::new(EngineConfig { blocks: 6, max_context: 24, ..small() });
    bench.submit(0, 6, 18);
    bench.submit(1, 6, 18);
    while bench.scheduler.counts().preemptions == 0 {
        bench.step();
    }
    assert_eq!(bench.running(), [0]);
    bench.finish();
    assert_eq!(bench.ended, [0, 1]);
    assert!(bench.scheduler.counts().recomputed > 0);
}

#[test]
fn nobody_overtakes_one_that_waits_for_blocks() {
    let mut bench = Bench::new(EngineConfig { blocks: 10, max_context: 40, ..small() });
    bench.submit(0, 16, 12);
    bench.step();
    bench.submit(1, 28, 2);
    bench.submit(2, 1, 2);
    bench.step();
    assert_eq!(bench.running(), [0]);
    bench.finish();
    assert_eq!(bench.ended, [0, 2, 1], "the short one runs beside the long one, not before");
}

#[test]
fn rows_of_one_generation_lie_together_and_base_rows_come_first() {
    let mut bench = Bench::new(small());
    let (a, b) = (pin_of("a", 10), pin_of("b", 10));
    for (id, pin) in [(0, Some(&a)), (1, Some(&b)), (2, None), (3, Some(&a)), (4, Some(&b))] {
        bench.submit_with(id, 1, 3, pin);
    }
    let ids: Vec<u64> = bench.step().iter().map(|(id, _)| *id).collect();
    let expected = if a.generation() < b.generation() { [2, 0, 3, 1, 4] } else { [2, 1, 4, 0, 3] };
    assert_eq!(ids, expected);
}

#[test]
fn riders_of_a_resident_adapter_pass_one_that_waits_for_bytes() {
    let mut bench = Bench::new(small());
    let (a, b) = (pin_of("a", 60), pin_of("b", 60));
    bench.submit_with(0, 1, 50, Some(&a));
    bench.step();
    bench.submit_with(1, 1, 2, Some(&b));
    bench.submit_with(2, 1, 2, Some(&a));
    bench.submit(3, 1, 2);
    bench.step();
    assert_eq!(bench.running().into_iter().collect::<HashSet<_>>(), HashSet::from([0, 2, 3]));
}

#[test]
fn an_adapter_that_waited_too_long_gets_its_bytes_from_the_one_that_ends_soonest() {
    let mut bench = Bench::new(small());
    let (a, b, c) = (pin_of("a", 50), pin_of("b", 50), pin_of("c", 50));
    bench.submit_with(0, 1, 100, Some(&a));
    bench.submit_with(1, 1, 12, Some(&b));
    bench.step();
    bench.submit_with(2, 1, 2, Some(&c));
    for id in 3..40 {
        // New riders of `b` all the time, which would keep it in for ever.
        bench.submit_with(id, 1, 4, Some(&b));
        bench.step();
        if bench.ended.contains(&2) {
            assert!(id < 20, "it waited for {id} steps");
            return bench.finish();
        }
    }
    panic!("c starves: {:?}", bench.ended);
}

#[test]
fn a_drain_that_takes_too_long_ends_by_preemption() {
    let mut bench =
        Bench::new(EngineConfig { max_context: 256, drain_for: Duration::from_secs(5), ..small() });
    let (a, b) = (pin_of("a", 60), pin_of("b", 60));
    bench.submit_with(0, 1, 200, Some(&a));
    bench.step();
    bench.submit_with(1, 1, 2, Some(&b));
    for _ in 0..15 {
        bench.step();
    }
    assert_eq!(bench.ended, [1]);
    assert_eq!(bench.scheduler.counts().preemptions, 1);
    bench.finish();
    assert_eq!(bench.ended, [1, 0]);
}

#[test]
fn when_more_adapters_are_asked_for_than_fit_none_waits_longer_than_a_bound() {
    let mut bench =
        Bench::new(EngineConfig { max_sequences: 4, drain_for: Duration::from_secs(8), ..small() });
    let pins: Vec<Pin> = (0..10).map(|i| pin_of(&format!("{i}"), 50)).collect();
    let (mut since, mut worst) = (HashMap::new(), 0);
    let mut id = 0;
    let mut waiting: HashMap<u64, usize> = HashMap::new();
    for step in 0..3000 {
        for (adapter, pin) in pins.iter().enumerate() {
            // One request an adapter waits at any time.
            if !waiting.values().any(|&other| other == adapter) {
                bench.submit_with(id, 1 + adapter % 3, 2 + (id % 7) as u32, Some(pin));
                waiting.insert(id, adapter);
                since.insert(id, step);
                id += 1;
            }
        }
        let planned: HashSet<u64> = bench.step().into_iter().map(|(id, _)| id).collect();
        for id in planned {
            waiting.remove(&id);
            worst = worst.max(since.remove(&id).map_or(0, |since| step - since));
        }
    }
    // Ten adapters, two at a time: five rounds of 3 s until starving and a drain of at most 8 s.
    assert!(worst <= 60, "{worst} steps");
    assert!(bench.ended.len() > 1000, "and the device is not idle: {}", bench.ended.len());
}

#[test]
fn tenants_that_always_wait_get_the_same_number_of_tokens() {
    let mut bench = Bench::new(EngineConfig { max_sequences: 4, ..small() });
    let mut tokens = [0_u64; 2];
    let mut next = 0;
    for _ in 0..2000 {
        // The first has short requests and floods, the second has long ones and few of them.
        for (tenant, least) in [(0, 50), (1, 2)] {
            let of_tenant = |scheduler: &Scheduler<()>| {
                scheduler
                    .waiting()
                    .flows()
                    .filter(|(flow, _)| flow.salt == tenant)
                    .map(|(_, count)| count)
                    .sum::<usize>()
            };
            while of_tenant(&bench.scheduler) < least {
                let (prompt, made) = if tenant == 0 { (3, 2) } else { (40, 9) };
                let id = RequestId(2 * next + tenant);
                let job = Job { id, salt: tenant, limits: limits(made), ..job(&vec![1; prompt]) };
                bench.scheduler.submit(Sequence::new(job, (), bench.now));
                next += 1;
            }
        }
        let before = bench.ended.len();
        bench.step();
        for &ended in &bench.ended[before..] {
            tokens[(ended % 2) as usize] += if ended % 2 == 1 { 40 + 2 * 9 } else { 3 + 2 * 2 };
        }
    }
    let (less, more) = (tokens[0].min(tokens[1]), tokens[0].max(tokens[1]));
    assert!(more - less < 200, "{tokens:?}");
}

#[test]
fn equal_prompts_that_come_together_are_computed_once() {
    let mut bench = Bench::new(EngineConfig { prefix_cache: true, ..small() });
    for id in 0..4 {
        bench.submit(id, 40, 1);
    }
    let mut rows = 0;
    while !bench.scheduler.is_empty() {
        rows += bench.step().iter().map(|(_, rows)| rows).sum::<usize>();
    }
    // The last block of each holds the token whose logits are wanted; chunks that end inside a block cost a little.
    assert!(rows <= 40 + 4 * 8, "{rows} rows");
    assert_eq!(bench.scheduler.pool().used(), 0);
}

#[test]
fn who_leaves_while_waiting_or_running_leaves_nothing() {
    let mut bench = Bench::new(EngineConfig { max_sequences: 2, ..small() });
    let pin = pin_of("a", 10);
    for id in 0..4 {
        bench.submit_with(id, 5, 9, Some(&pin));
    }
    bench.step();
    let mut out = Vec::new();
    bench.scheduler.take_out(|sequence| sequence.id().0 % 2 == 0, &mut out);
    assert_eq!(out.len(), 2);
    drop(out);
    bench.finish();
    assert_eq!(bench.ended, [1, 3]);
    let weights = std::sync::Arc::downgrade(pin.weights());
    drop(pin);
    assert_eq!(weights.strong_count(), 0, "nobody holds the adapter");
}

#[test]
fn a_failed_step_takes_its_sequences_and_the_others_begin_again() {
    let mut bench = Bench::new(EngineConfig { prefix_cache: true, max_step_tokens: 8, ..small() });
    for id in 0..3 {
        bench.submit(id, 12, 4);
    }
    bench.scheduler.schedule(bench.now);
    let planned = bench.scheduler.plan().len();
    let mut out = Vec::new();
    bench.scheduler.fail_step(bench.now, &mut out);
    assert_eq!(out.len(), planned);
    drop(out);
    assert_eq!(
        (bench.scheduler.pool().used(), bench.scheduler.pool().cached()),
        (0, 0),
        "nothing of it is found"
    );
    bench.finish();
    assert_eq!(bench.ended.len(), 3 - planned);
}

#[test]
fn a_generation_is_never_seated_twice_nor_beyond_the_budget() {
    let mut bench = Bench::new(EngineConfig { max_sequences: 6, ..small() });
    let pins: Vec<Pin> = (0..7).map(|i| pin_of(&format!("{i}"), 20 + i)).collect();
    for id in 0..200 {
        bench.submit_with(id, 2, 1 + (id % 5) as u32, Some(&pins[(id * 5 % 7) as usize]));
    }
    while !bench.scheduler.is_empty() {
        bench.step();
        let (bytes, _) = bench.scheduler.residency().usage();
        assert!(bytes <= 100);
        let seated: HashSet<Generation> = bench.scheduler.residency().seated().keys().copied().collect();
        let running: HashSet<Generation> =
            bench.scheduler.running().iter().filter_map(|sequence| sequence.owner().generation).collect();
        assert_eq!(seated, running);
    }
}
