//! The engine as its clients see it: over the handle, on its own thread, with a scripted model.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::config::EngineConfig;
use super::fixtures::{counted_pin, generation_of, limits, pin_of};
use super::handle::EngineHandle;
use super::heart::EngineState;
use super::request::{Event, Failure, FinishReason, Request, RequestId, Sampling};
use super::scripted::{Control, POISON, Scripted, alone};
use super::stats::EngineMetrics;
use super::{Engine, StartError};
use crate::adapters::pin::{Pin, PinCount};
use crate::adapters::tenure::{Cause, Notice, Tenure};

struct Bench {
    handle: EngineHandle,
    control: Arc<Control>,
}

fn small() -> EngineConfig {
    EngineConfig {
        blocks: 64,
        block_size: 4,
        max_context: 64,
        max_waiting: 4,
        resident_bytes: 100,
        ..EngineConfig::default()
    }
}

fn start(config: EngineConfig) -> Bench {
    let control = Arc::new(Control::default());
    let model = Scripted::new(config.block_size, &control);
    let handle = Engine::start(Box::new(model), config, Arc::new(EngineMetrics::default())).unwrap();
    Bench { handle, control }
}

fn request(id: u64, prompt: &[u32]) -> (Request, UnboundedReceiver<Event>) {
    let (events, received) = unbounded_channel();
    let request = Request {
        id: RequestId(id),
        prompt: prompt.to_vec(),
        adapter: None,
        salt: 0,
        weight: NonZeroU32::MIN,
        sampling: Sampling::greedy(),
        limits: limits(8),
        deadline: None,
        events,
    };
    (request, received)
}

/// Everything up to the last event.
fn all(events: &mut UnboundedReceiver<Event>) -> Vec<Event> {
    let mut all = Vec::new();
    while let Some(event) = events.blocking_recv() {
        all.push(event);
    }
    let last = |event: &Event| matches!(event, Event::Finished(_) | Event::Failed(_));
    assert_eq!(all.iter().filter(|event| last(event)).count(), 1, "one last event: {all:?}");
    assert!(all.last().is_some_and(last), "and it is the last: {all:?}");
    all
}

fn ids(events: &[Event]) -> Vec<u32> {
    events
        .iter()
        .filter_map(|event| if let Event::Token(token) = event { Some(token.id) } else { None })
        .collect()
}

fn failure(events: &[Event]) -> Option<&Failure> {
    events.iter().find_map(|event| if let Event::Failed(failure) = event { Some(failure) } else { None })
}

/// Waits until the engine has come to `condition`.
fn until(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
}

fn expected(adapter: Option<&Pin>, prompt: &[u32]) -> Vec<u32> {
    let generation = adapter.map(Pin::generation);
    alone(generation, prompt, &Sampling::greedy(), &limits(8), &[], 64).iter().map(|token| token.id).collect()
}

#[test]
fn a_request_is_answered_with_the_models_tokens() {
    let bench = start(small());
    let (request, mut events) = request(1, &[1, 2, 3]);
    bench.handle.submit(request).unwrap();
    let events = all(&mut events);
    assert_eq!(events[0], Event::Started { cached_tokens: 0 });
    assert_eq!(ids(&events), expected(None, &[1, 2, 3]));
    assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Length)));
}

#[test]
fn adapters_of_one_batch_each_get_their_own_tokens() {
    let bench = start(small());
    let pins = [None, Some(pin_of("a", 10)), Some(pin_of("b", 10))];
    let mut streams = Vec::new();
    bench.control.close();
    for (id, pin) in pins.iter().enumerate() {
        let (request, events) = request(id as u64, &[1, 2, 3]);
        bench.handle.submit(Request { adapter: pin.clone(), ..request }).unwrap();
        streams.push(events);
    }
    bench.control.open();
    for (pin, events) in pins.iter().zip(&mut streams) {
        assert_eq!(ids(&all(events)), expected(pin.as_ref(), &[1, 2, 3]));
    }
}

#[test]
fn a_full_queue_refuses_the_next_with_its_numbers() {
    let bench = start(EngineConfig { max_sequences: 1, max_logits_rows: 1, ..small() });
    bench.control.close();
    let (first, _first_events) = request(0, &[1]);
    bench.handle.submit(first).unwrap();
    until(|| bench.control.steps.load(Ordering::SeqCst) == 1);
    let mut streams = Vec::new();
    for id in 1..=4 {
        let (request, events) = request(id, &[1]);
        bench.handle.submit(request).unwrap();
        streams.push(events);
    }
    let (fifth, _) = request(5, &[1]);
    assert_eq!(bench.handle.submit(fifth), Err(Failure::QueueFull { waiting: 4, limit: 4 }));
    bench.control.open();
    for events in &mut streams {
        assert_eq!(ids(&all(events)), expected(None, &[1]));
    }
    let (sixth, _events) = request(6, &[1]);
    assert_eq!(bench.handle.submit(sixth), Ok(()), "there is room again");
}

#[test]
fn what_can_never_be_served_is_refused_at_once() {
    let bench = start(small());
    let (fits, _events) = request(0, &[1; 63]);
    assert_eq!(bench.handle.submit(fits), Ok(()));
    let (long, _) = request(0, &[1; 64]);
    assert_eq!(bench.handle.submit(long), Err(Failure::NeverFits { needed: 65, available: 64 }));
    let (big, _) = request(0, &[1]);
    let big = Request { adapter: Some(pin_of("big", 101)), ..big };
    assert_eq!(bench.handle.submit(big), Err(Failure::AdapterTooLarge { needed: 101, budget: 100 }));
    let (empty, _) = request(0, &[]);
    assert!(matches!(bench.handle.submit(empty), Err(Failure::Internal(_))));
    let (beyond, _) = request(0, &[1, 1000]);
    let refused = bench.handle.submit(beyond).unwrap_err().to_string();
    assert_eq!(refused, "internal: prompt: expected ids below 29, got 1000");
}

#[test]
fn a_client_that_went_away_leaves_nothing_behind() {
    let bench = start(small());
    let count = Arc::<PinCount>::default();
    bench.control.close();
    for id in 0..3 {
        let (request, events) = request(id, &[1, 2, 3, 4, 5]);
        let adapter = Some(counted_pin("a", 10, &count));
        bench.handle.submit(Request { adapter, limits: limits(50), ..request }).unwrap();
        drop(events);
    }
    assert_eq!(count.held(), 3);
    bench.control.open();
    until(|| count.held() == 0);
    until(|| bench.handle.heartbeat().busy.is_none());
    let snapshot = bench.handle.snapshot();
    assert_eq!((snapshot.running, snapshot.waiting, snapshot.kv_usage), (0, 0, 0.0));
    assert_eq!(snapshot.resident_bytes, 0, "the weights are gone with the pins");
}

#[test]
fn a_cancelled_request_hears_so() {
    let bench = start(small());
    bench.control.close();
    let (request, mut events) = request(7, &[1, 2]);
    bench.handle.submit(request).unwrap();
    bench.handle.cancel(RequestId(7));
    bench.control.open();
    let events = all(&mut events);
    assert!(matches!(failure(&events), Some(Failure::Cancelled)) || ids(&events).len() == 8, "{events:?}");
}

#[test]
fn a_late_request_hears_so_wherever_it_is() {
    let bench = start(small());
    let (request, mut events) = request(0, &[1, 2]);
    bench.handle.submit(Request { deadline: Some(Instant::now()), ..request }).unwrap();
    assert_eq!(failure(&all(&mut events)), Some(&Failure::DeadlineExceeded));
}

#[test]
fn logits_that_are_not_finite_fail_their_request_alone() {
    let bench = start(small());
    bench.control.close();
    let (good, mut good_events) = request(0, &[1, 2, 3]);
    let (odd, mut odd_events) = request(1, &[1, POISON, 3, 4, 5, 6]);
    bench.handle.submit(good).unwrap();
    bench.handle.submit(odd).unwrap();
    bench.control.open();
    assert_eq!(ids(&all(&mut good_events)), expected(None, &[1, 2, 3]));
    assert_eq!(
        failure(&all(&mut odd_events)),
        Some(&Failure::Internal("the logits are not finite".to_owned()))
    );
    assert_eq!(bench.handle.metrics().corrupted_requests.load(Ordering::Relaxed), 1);
}

#[test]
fn a_panic_in_one_requests_path_fails_that_request() {
    let bench = start(small());
    bench.control.close();
    let (good, mut good_events) = request(0, &[1, 2, 3]);
    let (bad, mut bad_events) = request(1, &[1, 2, 3]);
    // A face checks the ids of a bias; here it did not.
    let sampling = Sampling { logit_bias: vec![(1_000_000, 1.0)], ..Sampling::greedy() };
    bench.handle.submit(good).unwrap();
    bench.handle.submit(Request { sampling, ..bad }).unwrap();
    bench.control.open();
    assert_eq!(ids(&all(&mut good_events)), expected(None, &[1, 2, 3]));
    let events = all(&mut bad_events);
    assert!(
        failure(&events).unwrap().to_string().contains("sampling panicked: index out of bounds"),
        "{events:?}"
    );
    assert_eq!(bench.handle.metrics().panics.load(Ordering::Relaxed), 1);
}

#[test]
fn a_failed_or_panicking_step_fails_its_requests_and_the_engine_goes_on() {
    let bench = start(small());
    for (count, text) in
        [(&bench.control.failures, "device: scripted"), (&bench.control.panics, "scripted panic")]
    {
        count.store(1, Ordering::SeqCst);
        let (first, mut events) = request(0, &[1, 2, 3]);
        bench.handle.submit(first).unwrap();
        assert!(failure(&all(&mut events)).unwrap().to_string().contains(text));
        let (second, mut events) = request(1, &[1, 2, 3]);
        bench.handle.submit(second).unwrap();
        let events = all(&mut events);
        assert_eq!(events[0], Event::Started { cached_tokens: 0 }, "nothing of a failed step is reused");
        assert_eq!(ids(&events), expected(None, &[1, 2, 3]));
    }
    assert_eq!(bench.handle.heartbeat().state, EngineState::Serving);
}

#[test]
fn a_device_that_keeps_failing_stops_the_engine_in_a_clear_state() {
    let bench = start(small());
    bench.control.failures.store(usize::MAX, Ordering::SeqCst);
    for id in 0..3 {
        let (request, mut events) = request(id, &[1, 2, 3]);
        bench.handle.submit(request).unwrap();
        assert!(failure(&all(&mut events)).is_some());
    }
    until(|| bench.handle.heartbeat().state == EngineState::Failed);
    let (request, _) = request(4, &[1]);
    assert_eq!(bench.handle.submit(request), Err(Failure::EngineStopped));
}

#[test]
fn a_drain_finishes_what_there_is_and_takes_nothing_new() {
    let bench = start(small());
    bench.control.close();
    let (request_one, mut events) = request(0, &[1, 2, 3]);
    bench.handle.submit(request_one).unwrap();
    let drained = bench.handle.drain(Instant::now() + Duration::from_secs(600));
    let (request_two, _) = request(1, &[1]);
    assert_eq!(bench.handle.submit(request_two), Err(Failure::Draining));
    bench.control.open();
    block_on(drained);
    assert_eq!(ids(&all(&mut events)), expected(None, &[1, 2, 3]));
    assert_eq!(bench.handle.heartbeat().state, EngineState::Stopped);
}

#[test]
fn a_drain_ends_at_its_deadline_with_a_last_event_for_everybody() {
    let bench = start(EngineConfig { max_sequences: 1, max_logits_rows: 1, ..small() });
    bench.control.close();
    let (running, mut running_events) = request(0, &[1, 2, 3]);
    bench.handle.submit(running).unwrap();
    until(|| bench.control.steps.load(Ordering::SeqCst) == 1);
    let (waiting, mut waiting_events) = request(1, &[1, 2, 3]);
    bench.handle.submit(waiting).unwrap();
    let drained = bench.handle.drain(Instant::now());
    bench.control.open();
    block_on(drained);
    assert_eq!(failure(&all(&mut running_events)), Some(&Failure::Draining));
    assert_eq!(failure(&all(&mut waiting_events)), Some(&Failure::Draining));
}

#[test]
fn those_whose_notice_is_over_end_running_or_waiting_and_their_neighbours_do_not_notice() {
    let bench = start(EngineConfig { max_sequences: 3, ..small() });
    let (old, kept) = (Arc::new(Tenure::default()), Arc::new(Tenure::default()));
    let held = Arc::new(PinCount::default());
    let submit = |id, pin: Option<Pin>| {
        let (request, events) = request(id, &[1, 2, 3]);
        bench.handle.submit(Request { adapter: pin, ..request }).unwrap();
        events
    };
    let leaving = || Some(counted_pin("a", 10, &held).under(&old));
    bench.control.close();
    // The same content under another name, other content, and the base model.
    let staying = [Some(pin_of("a", 10).under(&kept)), Some(pin_of("b", 10))];
    let mut running = submit(0, leaving());
    let mut neighbours: Vec<_> =
        staying.iter().zip(1..).map(|(pin, id)| (pin, submit(id, pin.clone()))).collect();
    until(|| bench.control.steps.load(Ordering::SeqCst) == 1);
    let mut waiting = submit(3, leaving());
    neighbours.push((&None, submit(4, None)));
    assert_eq!((old.held(), held.held()), (2, 2));
    old.give(Notice::new(Cause::Swapped, Duration::ZERO, Instant::now()));
    kept.give(Notice::new(Cause::Swapped, Duration::from_secs(600), Instant::now()));
    bench.control.open();
    for events in [&mut running, &mut waiting] {
        assert_eq!(failure(&all(events)), Some(&Failure::AdapterSwapped { seconds: 0 }));
    }
    for (pin, mut events) in neighbours {
        assert_eq!(ids(&all(&mut events)), expected(pin.as_ref(), &[1, 2, 3]));
    }
    assert_eq!((old.held(), held.held(), kept.held()), (0, 0, 1), "what they held is given back");
    until(|| bench.handle.heartbeat().busy.is_none());
    assert_eq!(bench.handle.metrics().used_blocks.load(Ordering::Relaxed), 0);
}

#[test]
fn a_notice_that_is_taken_back_ends_nobody() {
    let bench = start(small());
    let tenure = Arc::new(Tenure::default());
    let (request, mut events) = request(0, &[1, 2, 3]);
    let pin = pin_of("a", 10).under(&tenure);
    tenure.give(Notice::new(Cause::Removed, Duration::ZERO, Instant::now()));
    tenure.take_back();
    bench.handle.submit(Request { adapter: Some(pin.clone()), ..request }).unwrap();
    assert_eq!(ids(&all(&mut events)), expected(Some(&pin), &[1, 2, 3]));
}

#[test]
fn the_engine_ends_when_nobody_holds_it_and_its_work_is_done() {
    let bench = start(small());
    let (request, mut events) = request(0, &[1, 2, 3]);
    bench.handle.submit(request).unwrap();
    let ended = bench.handle.ended();
    drop(bench.handle);
    assert_eq!(ids(&all(&mut events)), expected(None, &[1, 2, 3]));
    block_on(ended);
}

#[test]
fn a_second_request_finds_the_firsts_prefix_and_another_tenant_does_not() {
    let bench = start(small());
    let prompt: Vec<u32> = (0..20).map(|i| i % 9).collect();
    let cached = |salt, adapter: Option<Pin>| {
        let (request, mut events) = request(0, &prompt);
        bench.handle.submit(Request { salt, adapter: adapter.clone(), ..request }).unwrap();
        let events = all(&mut events);
        assert_eq!(ids(&events), expected(adapter.as_ref(), &prompt));
        events[0].clone()
    };
    let started = |cached_tokens| Event::Started { cached_tokens };
    assert_eq!(cached(0, None), started(0));
    assert_eq!(cached(0, None), started(16), "all but the block of the last token");
    assert_eq!(cached(1, None), started(0), "another tenant");
    assert_eq!(cached(0, Some(pin_of("a", 1))), started(0), "another generation");
    assert_eq!(cached(0, Some(pin_of("a", 1))), started(16));
    assert_eq!(bench.handle.metrics().prefix_hits.load(Ordering::Relaxed), 32);
    assert_eq!(bench.handle.metrics().prefix_queries.load(Ordering::Relaxed), 100);
}

#[test]
fn the_load_by_generation_is_published() {
    let bench = start(small());
    bench.control.close();
    let (request, mut events) = request(0, &[1, 2]);
    bench.handle.submit(Request { adapter: Some(pin_of("a", 10)), ..request }).unwrap();
    until(|| bench.control.steps.load(Ordering::SeqCst) == 1);
    bench.control.open();
    all(&mut events);
    until(|| bench.handle.heartbeat().busy.is_none());
    assert!(bench.handle.snapshot().adapters.is_empty());
    assert_eq!(generation_of("a"), pin_of("a", 10).generation());
}

#[test]
fn a_prompts_log_probabilities_come_in_order_however_it_is_chunked() {
    let prompt: Vec<u32> = (0..23).map(|i| i * 7 % 20).collect();
    let scores = |max_step_tokens, max_logits_rows| {
        let bench = start(EngineConfig { max_sequences: 2, max_step_tokens, max_logits_rows, ..small() });
        let (request, mut events) = request(0, &prompt);
        let sampling = Sampling { prompt_logprobs: Some(2), ..Sampling::greedy() };
        bench.handle.submit(Request { sampling, limits: limits(0), ..request }).unwrap();
        let events = all(&mut events);
        assert_eq!(events.last(), Some(&Event::Finished(FinishReason::Length)));
        assert!(ids(&events).is_empty());
        let scores = events
            .into_iter()
            .filter_map(|event| if let Event::Prompt(scores) = event { Some(scores) } else { None });
        scores.flatten().collect::<Vec<_>>()
    };
    let whole = scores(256, 256);
    assert_eq!(whole.iter().map(|score| score.id).collect::<Vec<_>>(), prompt[1..]);
    assert_eq!(scores(5, 256), whole);
    assert_eq!(scores(256, 2), whole);
}

#[test]
fn limits_that_cannot_be_do_not_start_an_engine() {
    let config = EngineConfig { blocks: 0, ..small() };
    let model = Scripted::new(4, &Arc::default());
    let started = Engine::start(Box::new(model), config, Arc::default());
    assert!(matches!(started, Err(StartError::Config(_))));
}
