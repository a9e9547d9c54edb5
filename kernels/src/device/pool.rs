//! Worker threads that wait for regions of tasks: they spin for some microseconds, then sleep. Must not know what a task does.
//!
//! A region is open while tasks are left. A worker joins an open region or none: one that is late, or was put off its core,
//! is not waited for unless it holds a task.
#![allow(
    unsafe_code,
    reason = "a borrowed closure is handed to threads that outlive it, and is not used after it ends"
)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread spins without giving way.
const SPIN: Duration = Duration::from_micros(5);
/// How long it then gives way to others before it sleeps.
const YIELD: Duration = Duration::from_micros(80);

/// [`Shared::state`]: the workers in the region, whether it is open, and its number.
const WORKER: u64 = 1;
const OPEN: u64 = 1 << 16;
const REGION: u64 = 1 << 17;
const WORKERS: u64 = OPEN - 1;

thread_local! {
    /// Whether this thread is within a task, where a further region runs on it alone.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Worker threads. Dropping it joins them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller of a region: one at a time.
    region: Mutex<()>,
}

#[repr(align(64))]
struct Line<T>(T);

struct Shared {
    state: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    /// Written while the region is closed and no worker is in it; read by workers in it.
    job: UnsafeCell<Job>,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    caller_waits: AtomicBool,
    caller: Mutex<Option<Thread>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: `job` is the only part that is not `Sync` or `Send`; see its rule. The closure that it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `workers` threads, or as many as the system gives.
    pub(crate) fn new(workers: usize) -> Pool {
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job { task: &|_: usize| {}, tasks: 0 }),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            caller_waits: AtomicBool::new(false),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("kernels-{index}")).spawn(move || shared.work(index)).ok()
        };
        let workers = (0..workers).map_while(start).collect();
        Pool { shared, workers, region: Mutex::new(()) }
    }

    /// The threads that it has, without the caller.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Runs `task(0)` to `task(tasks - 1)` on the workers and the caller; returns when all are done, or panics as a task did.
    pub(crate) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || IN_TASK.get() {
            (0..tasks).for_each(task);
            return;
        }
        let region = lock(&self.region);
        let shared = &*self.shared;
        // SAFETY: the lifetime is dropped, and the pointer not used after this function: it returns when the region is
        // closed and no worker is in it.
        let task: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        // SAFETY: the region is closed and no worker is in it, so none reads `job`.
        unsafe { *shared.job.get() = Job { task, tasks } };
        shared.next.0.store(0, Relaxed);
        let number = shared.state.0.load(Relaxed) / REGION + 1;
        shared.state.0.store(number * REGION + OPEN, SeqCst);
        self.wake(tasks - 1);
        shared.take_tasks(Job { task, tasks });
        shared.state.0.fetch_and(!OPEN, SeqCst);
        shared.wait_for_workers();
        let panic = lock(&shared.panic).take();
        drop(region);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Wakes at most `count` sleeping workers.
    fn wake(&self, count: usize) {
        let asleep = |(worker, asleep): &(&JoinHandle<()>, &AtomicBool)| {
            let _ = worker;
            asleep.load(SeqCst) && asleep.swap(false, SeqCst)
        };
        let sleepers = self.workers.iter().zip(&self.shared.asleep).filter(asleep);
        sleepers.take(count).for_each(|(worker, _)| worker.thread().unpark());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker does not panic: what its tasks throw is caught.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize) {
        let mut last = 0;
        while let Some(region) = self.next_region(index, last) {
            last = region;
            // SAFETY: this worker is in the region, so the caller does not write `job`.
            self.take_tasks(unsafe { *self.job.get() });
            let left = self.state.0.fetch_sub(WORKER, SeqCst) & WORKERS;
            if left == 1
                && self.caller_waits.load(SeqCst)
                && let Some(caller) = lock(&self.caller).take()
            {
                caller.unpark();
            }
        }
    }

    /// Waits for an open region after `last` and joins it; `None` when it is time to end.
    fn next_region(&self, index: usize, last: u64) -> Option<u64> {
        let mut waiting = Waiting::new();
        loop {
            let state = self.state.0.load(SeqCst);
            if is_new(state, last) {
                if self.state.0.compare_exchange_weak(state, state + WORKER, SeqCst, Relaxed).is_ok() {
                    return Some(state / REGION);
                }
                continue;
            }
            if self.stop.load(Acquire) {
                return None;
            }
            if waiting.spin() {
                continue;
            }
            self.asleep[index].store(true, SeqCst);
            // Looked at once more after the flag: a caller either sees the flag or is seen here.
            if !is_new(self.state.0.load(SeqCst), last) && !self.stop.load(SeqCst) {
                thread::park();
            }
            self.asleep[index].store(false, SeqCst);
            waiting = Waiting::new();
        }
    }

    /// Does tasks until none is left. A panic is kept for the caller and ends the region's tasks.
    fn take_tasks(&self, job: Job) {
        let outer = IN_TASK.replace(true);
        let tasks = || {
            // SAFETY: the closure lives until the caller has seen every worker leave the region.
            let task = unsafe { &*job.task };
            loop {
                let index = self.next.0.fetch_add(1, Relaxed);
                if index >= job.tasks {
                    return;
                }
                task(index);
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(tasks)) {
            self.next.0.store(job.tasks, Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
        IN_TASK.set(outer);
    }

    /// Waits until no worker is in the closed region.
    fn wait_for_workers(&self) {
        let mut waiting = Waiting::new();
        while self.state.0.load(SeqCst) & WORKERS != 0 {
            if waiting.spin() {
                continue;
            }
            *lock(&self.caller) = Some(thread::current());
            self.caller_waits.store(true, SeqCst);
            if self.state.0.load(SeqCst) & WORKERS != 0 {
                thread::park();
            }
            self.caller_waits.store(false, SeqCst);
        }
    }
}

/// Whether a region is open that is not the `last`.
fn is_new(state: u64, last: u64) -> bool {
    state & OPEN != 0 && state / REGION != last
}

/// The first microseconds of a wait.
struct Waiting {
    turns: u32,
    since: Option<Instant>,
}

impl Waiting {
    fn new() -> Waiting {
        Waiting { turns: 0, since: None }
    }

    /// Waits a moment; `false` when it is time to sleep.
    fn spin(&mut self) -> bool {
        self.turns += 1;
        if !self.turns.is_multiple_of(16) {
            std::hint::spin_loop();
            return true;
        }
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited > SPIN {
            thread::yield_now();
        }
        waited < YIELD
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for workers in [0, 1, 3] {
            let pool = Pool::new(workers);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..200 {
                    pool.run(tasks, &|task| {
                        counts[task].fetch_add(1, Relaxed);
                    });
                }
                assert!(counts.iter().all(|count| count.load(Relaxed) == 200), "{workers} {tasks}");
            }
        }
    }

    #[test]
    fn a_worker_that_sleeps_is_woken() {
        let pool = Pool::new(1);
        for _ in 0..3 {
            while !pool.shared.asleep[0].load(SeqCst) {
                thread::yield_now();
            }
            // Each of the two tasks waits for the other: both threads must come.
            let (left, right) = (AtomicBool::new(false), AtomicBool::new(false));
            let meet = |mine: &AtomicBool, other: &AtomicBool| {
                mine.store(true, SeqCst);
                while !other.load(SeqCst) {
                    thread::yield_now();
                }
            };
            pool.run(2, &|task| if task == 0 { meet(&left, &right) } else { meet(&right, &left) });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        for place in [0, 5, 63] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, &|task| assert!(task != place, "task {task} failed"));
            }));
            let panic = result.unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("task {place} failed"));
            let count = AtomicUsize::new(0);
            pool.run(64, &|_| {
                count.fetch_add(1, Relaxed);
            });
            assert_eq!(count.load(Relaxed), 64);
        }
    }

    #[test]
    fn a_region_within_a_task_runs_on_its_thread() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            let thread = thread::current().id();
            pool.run(8, &|_| {
                assert_eq!(thread::current().id(), thread);
                count.fetch_add(1, Relaxed);
            });
        });
        assert_eq!(count.load(Relaxed), 32);
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(5, &|_| {
                            count.fetch_add(1, Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Relaxed), 2000);
    }

    #[test]
    fn dropping_it_ends_its_threads() {
        let pool = Pool::new(3);
        let shared = Arc::downgrade(&pool.shared);
        pool.run(8, &|_| {});
        drop(pool);
        assert!(shared.upgrade().is_none());
    }
}
