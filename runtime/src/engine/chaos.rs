//! Random arrivals, departures, cancels, deadlines, device faults, adapters and limits, against what the model makes of
//! each request alone: same tokens, same bits of log-probabilities, and nothing left behind.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::client::{Client, Place};
use super::config::EngineConfig;
use super::fixtures::{counted_pin, generation_of};
use super::handle::Submitted;
use super::request::{
    Event, Failure, FinishReason, Limits, Request, RequestId, Sampling, Token, TokenLogprobs,
};
use super::sampler::Sampler;
use super::scripted::{Control, POISON, Scripted, VOCABULARY, alone, logits};
use super::stats::EngineMetrics;
use super::step::Core;
use crate::adapters::pin::{Generation, Pin, PinCount};
use crate::adapters::tenure::{Cause, Notice, Tenure};

const EOS: u32 = 3;

/// What happens next.
#[derive(Clone, Debug)]
enum Op {
    Arrive(Arrival),
    /// The client of one of those that came goes away.
    Leave(usize),
    Cancel(usize),
    /// The name of an adapter leaves it, and its requests have so many seconds.
    Notice(u8, u8),
    /// It returns.
    Return(u8),
    /// The next step fails, or panics.
    Fault(bool),
    Steps(u8),
    Wait(u8),
}

#[derive(Clone, Debug)]
struct Arrival {
    /// Prompts of one family begin alike.
    family: u8,
    length: usize,
    /// 0 is the base model.
    adapter: u8,
    salt: u64,
    sampling: u8,
    max_tokens: u32,
    min_tokens: u32,
    ignore_eos: bool,
    deadline: Option<u8>,
    poisoned: bool,
    weight: u32,
}

/// One request and what may become of it.
struct Expected {
    tokens: Vec<Token>,
    scores: Vec<TokenLogprobs>,
    events: Option<UnboundedReceiver<Event>>,
    cancelled: bool,
    arrival: Arrival,
    limits: Limits,
}

struct World {
    core: Core,
    config: EngineConfig,
    control: Arc<Control>,
    now: Instant,
    places: Arc<AtomicUsize>,
    pins: Arc<PinCount>,
    /// What the host holds of adapters 1 to 6.
    store: Vec<Pin>,
    /// Their names' requests.
    tenures: Vec<Arc<Tenure>>,
    requests: Vec<Expected>,
    /// Adapters that ever had notice.
    noticed: HashSet<u8>,
    faults: bool,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let what = (0..2_u8, 1..40_usize, prop_oneof![2 => Just(1_u8), 2 => 0..7_u8], 0..2_u64, 0..6_u8);
    let ends = (
        0..40_u32,
        0..4_u32,
        prop::bool::weighted(0.8),
        prop::option::weighted(0.1, 1..30_u8),
        0..20_u8,
        1..4_u32,
    );
    (what, ends).prop_map(|((family, length, adapter, salt, sampling), ends)| {
        let (max_tokens, min_tokens, ignore_eos, deadline, poison, weight) = ends;
        let poisoned = poison == 0;
        Arrival {
            family,
            length,
            adapter,
            salt,
            sampling,
            max_tokens,
            min_tokens,
            ignore_eos,
            deadline,
            poisoned,
            weight,
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => arrival().prop_map(Op::Arrive),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => (0..6_u8, 0..20_u8).prop_map(|(adapter, seconds)| Op::Notice(adapter, seconds)),
        1 => (0..6_u8).prop_map(Op::Return),
        1 => any::<bool>().prop_map(Op::Fault),
        5 => (1..12_u8).prop_map(Op::Steps),
        2 => (1..6_u8).prop_map(Op::Wait),
    ]
}

fn config() -> impl Strategy<Value = EngineConfig> {
    (1..10_usize, 1..40_usize, 0..8_usize, 24..160_usize, 1..8_usize, 20..80_u64, prop::bool::weighted(0.8))
        .prop_map(
            |(
                max_sequences,
                max_step_tokens,
                more_logits,
                tokens,
                block_size,
                resident_bytes,
                prefix_cache,
            )| {
                EngineConfig {
                    max_sequences,
                    max_step_tokens,
                    max_logits_rows: max_sequences + more_logits,
                    max_waiting: usize::MAX,
                    max_context: 56,
                    blocks: tokens.div_ceil(block_size),
                    block_size,
                    prefix_cache,
                    resident_bytes,
                    drain_after: Duration::from_secs(3),
                    drain_for: Duration::from_secs(9),
                    eos_ids: vec![EOS],
                    max_device_failures: u32::MAX,
                }
            },
        )
}

fn sampling(kind: u8, seed: u64) -> Sampling {
    let drawn = Sampling { temperature: 0.9, seed, ..Sampling::greedy() };
    match kind {
        0 => Sampling::greedy(),
        1 => Sampling { logprobs: Some(2), ..Sampling::greedy() },
        2 => Sampling { repetition_penalty: 1.3, min_p: 0.05, ..drawn },
        3 => Sampling { top_k: 5, top_p: 0.8, presence_penalty: 0.5, logprobs: Some(0), ..drawn },
        4 => Sampling { prompt_logprobs: Some(1), frequency_penalty: 0.4, ..Sampling::greedy() },
        _ => Sampling { logit_bias: vec![(5, 2.0), (EOS, 1.0)], logprobs: Some(1), ..drawn },
    }
}

fn generation(adapter: u8) -> Option<Generation> {
    (adapter > 0).then(|| generation_of(&adapter.to_string()))
}

impl Arrival {
    fn prompt(&self, longest: usize) -> Vec<u32> {
        let seed = u32::from(self.family);
        let id = |place: u32| (place * place + seed * 7 + place / 11 * seed) % (VOCABULARY as u32 - 1);
        let mut prompt: Vec<u32> = (0..self.length.min(longest) as u32).map(id).collect();
        if self.poisoned {
            *prompt.last_mut().unwrap() = POISON;
        }
        prompt
    }
}

impl World {
    fn new(config: EngineConfig) -> Self {
        let control = Arc::new(Control::default());
        let model = Scripted::new(config.block_size, &control);
        let core = Core::new(Box::new(model), config.clone(), Arc::new(EngineMetrics::default()));
        let (places, pins) = (Arc::default(), Arc::default());
        let pin = |adapter: u64| counted_pin(&adapter.to_string(), 8 + 2 * adapter, &pins);
        let (store, tenures) = ((1..=6).map(pin).collect(), (1..=6).map(|_| Arc::default()).collect());
        let (now, requests) = (Instant::now(), Vec::new());
        Self {
            core,
            config,
            control,
            now,
            places,
            pins,
            store,
            tenures,
            requests,
            noticed: HashSet::new(),
            faults: false,
        }
    }

    fn arrive(&mut self, arrival: &Arrival) {
        let id = self.requests.len() as u64;
        let (events, received) = unbounded_channel();
        let prompt = arrival.prompt(self.config.context() - 1);
        let sampling = sampling(arrival.sampling, id);
        let limits = Limits {
            max_tokens: arrival.max_tokens,
            min_tokens: arrival.min_tokens,
            ignore_eos: arrival.ignore_eos,
            stop_token_ids: vec![11],
        };
        let generation = generation(arrival.adapter);
        let poisoned = arrival.poisoned;
        let (tokens, scores) = if poisoned {
            (Vec::new(), Vec::new())
        } else {
            let eos_ids = &self.config.eos_ids;
            let tokens = alone(generation, &prompt, &sampling, &limits, eos_ids, self.config.context());
            (tokens, scores(generation, &prompt, &sampling))
        };
        let request = Request {
            id: RequestId(id),
            prompt,
            adapter: arrival.adapter.checked_sub(1).map(|adapter| self.asked_for(usize::from(adapter))),
            salt: arrival.salt,
            weight: NonZeroU32::new(arrival.weight).unwrap(),
            sampling,
            limits: limits.clone(),
            deadline: arrival.deadline.map(|seconds| self.now + Duration::from_secs(u64::from(seconds))),
            events,
        };
        let client = Client::new(request.events.clone(), Place::take(&self.places, usize::MAX).unwrap());
        self.core.submit(Submitted { request, client, at: self.now });
        let (events, arrival) = (Some(received), arrival.clone());
        self.requests.push(Expected { tokens, scores, events, cancelled: false, arrival, limits });
    }

    fn asked_for(&self, adapter: usize) -> Pin {
        self.store[adapter].clone().under(&self.tenures[adapter])
    }

    fn apply(&mut self, op: &Op) {
        let count = self.requests.len().max(1);
        match op {
            Op::Arrive(arrival) => self.arrive(arrival),
            Op::Leave(which) => {
                if let Some(request) = self.requests.get_mut(which % count) {
                    request.events = None;
                }
            }
            Op::Cancel(which) => {
                if let Some(request) = self.requests.get_mut(which % count) {
                    request.cancelled = true;
                    self.core.cancel(RequestId((which % count) as u64));
                }
            }
            Op::Notice(adapter, seconds) => {
                let given = Duration::from_secs(u64::from(*seconds));
                self.tenures[usize::from(*adapter)].give(Notice::new(Cause::Removed, given, self.now));
                self.noticed.insert(*adapter + 1);
            }
            Op::Return(adapter) => self.tenures[usize::from(*adapter)].take_back(),
            Op::Fault(panics) => {
                let count = if *panics { &self.control.panics } else { &self.control.failures };
                count.store(1, Ordering::SeqCst);
                self.faults = true;
            }
            Op::Steps(steps) => (0..*steps).for_each(|_| self.step()),
            Op::Wait(seconds) => self.now += Duration::from_secs(u64::from(*seconds)),
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(500);
        let scheduler = self.core.scheduler();
        let preemptions = scheduler.counts().preemptions;
        let decoding: HashMap<RequestId, usize> = scheduler
            .running()
            .iter()
            .filter(|sequence| sequence.pending() == 1)
            .map(|sequence| (sequence.id(), sequence.output().len()))
            .collect();
        self.core.step(self.now).unwrap();
        let scheduler = self.core.scheduler();
        if scheduler.counts().preemptions == preemptions {
            for sequence in scheduler.running() {
                if let Some(before) = decoding.get(&sequence.id()) {
                    assert_eq!(sequence.output().len(), before + 1, "a decoding sequence stood still");
                }
            }
        }
        self.check_holdings();
        self.check_notices();
    }

    /// After a step nobody is left whose time was up.
    fn check_notices(&self) {
        let scheduler = self.core.scheduler();
        let outstays = scheduler.running().iter().find(|sequence| sequence.outstayed(self.now).is_some());
        assert!(outstays.is_none(), "{:?}", outstays.map(crate::engine::sequence::Sequence::id));
    }

    fn check_holdings(&self) {
        let scheduler = self.core.scheduler();
        let mut owners = HashMap::new();
        for sequence in scheduler.running() {
            for &block in sequence.blocks() {
                let owner = *owners.entry(block).or_insert(sequence.owner());
                assert_eq!(owner, sequence.owner(), "two owners share a block");
            }
        }
        assert_eq!(scheduler.pool().used(), owners.len());
        assert!(scheduler.residency().usage().0 <= self.config.resident_bytes);
    }

    fn finish(mut self) {
        let mut steps = 0;
        while !self.core.is_idle() {
            self.step();
            steps += 1;
            assert!(steps < 50_000, "it does not end");
        }
        self.store.clear();
        let scheduler = self.core.scheduler();
        assert_eq!(scheduler.pool().used(), 0);
        assert!(scheduler.residency().seated().is_empty());
        assert_eq!(scheduler.residency().usage().0, 0, "nobody holds weights any more");
        assert_eq!(self.pins.held(), 0);
        assert_eq!(self.places.load(Ordering::SeqCst), 0);
        for request in &mut self.requests {
            request.check(self.faults, &self.noticed);
        }
    }
}

fn scores(generation: Option<Generation>, prompt: &[u32], sampling: &Sampling) -> Vec<TokenLogprobs> {
    if sampling.prompt_logprobs.is_none() {
        return Vec::new();
    }
    let sampler = Sampler::new(sampling.clone(), prompt);
    let score = |place: usize| sampler.score(&logits(generation, &prompt[..place]), prompt[place]).unwrap();
    (1..prompt.len()).map(score).collect()
}

impl Expected {
    fn check(&mut self, faults: bool, noticed: &HashSet<u8>) {
        let Some(events) = &mut self.events else { return };
        let (mut tokens, mut scores, mut last) = (Vec::new(), Vec::new(), None);
        let mut started = 0;
        while let Ok(event) = events.try_recv() {
            assert!(last.is_none(), "an event after the last");
            match event {
                Event::Started { .. } => started += 1,
                Event::Prompt(more) => scores.extend(more),
                Event::Token(token) => tokens.push(token),
                Event::Finished(_) | Event::Failed(_) => last = Some(event),
            }
        }
        assert!(started <= 1);
        assert!(
            self.arrival.poisoned || self.tokens.starts_with(&tokens),
            "{tokens:?}, not {:?}",
            self.tokens
        );
        match last.unwrap() {
            Event::Finished(reason) => {
                assert!(!self.arrival.poisoned || self.limits.max_tokens == 0);
                assert_eq!(tokens.len(), self.tokens.len());
                assert!(self.arrival.poisoned || scores == self.scores);
                let stopped = tokens.last().is_some_and(|token| self.stops(token.id, tokens.len()));
                assert_eq!(matches!(reason, FinishReason::Stop(_)), stopped);
            }
            Event::Failed(Failure::Cancelled) => assert!(self.cancelled),
            Event::Failed(Failure::DeadlineExceeded) => assert!(self.arrival.deadline.is_some()),
            Event::Failed(Failure::AdapterRemoved { .. }) => assert!(noticed.contains(&self.arrival.adapter)),
            Event::Failed(Failure::Internal(_)) => assert!(faults || self.arrival.poisoned),
            other => panic!("{other:?}"),
        }
    }

    fn stops(&self, id: u32, made: usize) -> bool {
        let stop = self.limits.stop_token_ids.contains(&id) || (!self.limits.ignore_eos && id == EOS);
        stop && made > self.limits.min_tokens as usize
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_gets_what_it_would_get_alone_and_leaves_nothing(
        config in config(),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut world = World::new(config);
        ops.iter().for_each(|op| world.apply(op));
        world.finish();
    }
}
