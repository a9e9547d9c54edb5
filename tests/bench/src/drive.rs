//! Sends a scenario's requests at their times and collects what was seen.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};

use crate::client::{Seen, Server};
use crate::progress::Progress;
use crate::scenario::{Arrivals, Scenario, Until};

/// What a run gave.
pub(crate) struct Run {
    /// Every measured request, in the order of their ends.
    pub(crate) seen: Vec<Seen>,
    /// When the measurement began.
    pub(crate) began: Instant,
    /// When it was over: the last end, or the end of the time that was asked for.
    pub(crate) over: Instant,
}

/// Asks for each adapter so often that its load is not measured. The first failure ends it: nothing after it would work.
pub(crate) async fn warm_up(scenario: &Scenario, server: &Server) -> Result<(), String> {
    for _ in 0..scenario.warm_up {
        for ask in scenario.traffic.warm_up() {
            let name = scenario.traffic.name(ask.adapter);
            if let Some(error) = server.send(&ask, name).await.error {
                return Err(format!("warm-up of {name}: {error}"));
            }
        }
    }
    Ok(())
}

/// Runs `scenario` against `server`.
pub(crate) async fn run(scenario: &Scenario, server: &Server, progress: &Progress) -> Run {
    let driver = Driver { scenario, server, began: Instant::now(), next: Cell::new(0) };
    let seen = match scenario.arrivals {
        Arrivals::Users { users, think } => driver.closed_loop(users, think, progress).await,
        Arrivals::Poisson { rate } => driver.open_loop(rate, progress).await,
    };
    let last = seen.iter().map(|one| one.ended).max().unwrap_or(driver.began);
    let over = match scenario.until {
        Until::Requests(_) => last,
        Until::Elapsed(time) => last.min(driver.began + time),
    };
    Run { seen, began: driver.began, over }
}

struct Driver<'a> {
    scenario: &'a Scenario,
    server: &'a Server,
    began: Instant,
    /// The number of the next request.
    next: Cell<usize>,
}

impl Driver<'_> {
    /// Each user sends its next request when it has the answer.
    async fn closed_loop(&self, users: usize, think: Duration, progress: &Progress) -> Vec<Seen> {
        let user = async || {
            let mut seen = Vec::new();
            while let Some(number) = self.take() {
                let one = self.send(number).await;
                progress.step(&one);
                seen.push(one);
                if think > Duration::ZERO {
                    tokio::time::sleep(think).await;
                }
            }
            seen
        };
        let mut users: FuturesUnordered<_> = (0..users).map(|_| user()).collect();
        let mut seen = Vec::new();
        while let Some(of_one) = users.next().await {
            seen.extend(of_one);
        }
        seen.sort_by_key(|one: &Seen| one.ended);
        seen
    }

    /// Requests start at random times, whatever the server does.
    async fn open_loop(&self, rate: f64, progress: &Progress) -> Vec<Seen> {
        let mut gaps = self.scenario.traffic.gaps(rate);
        let mut gap = move || Duration::from_secs_f64(gaps.next().unwrap_or_default());
        let mut due = self.began + gap();
        let mut open = true;
        let mut running = FuturesUnordered::new();
        let mut seen = Vec::new();
        while open || !running.is_empty() {
            tokio::select! {
                () = tokio::time::sleep_until(due.into()), if open => match self.take() {
                    Some(number) => {
                        running.push(self.send(number));
                        due += gap();
                    }
                    None => open = false,
                },
                Some(one) = running.next(), if !running.is_empty() => {
                    progress.step(&one);
                    seen.push(one);
                }
            }
        }
        seen
    }

    /// The number of the next request, or `None` when no more may start.
    fn take(&self) -> Option<usize> {
        let number = self.next.get();
        let may = match self.scenario.until {
            Until::Requests(requests) => number < requests,
            Until::Elapsed(time) => self.began.elapsed() < time,
        };
        may.then(|| {
            self.next.set(number + 1);
            number
        })
    }

    async fn send(&self, number: usize) -> Seen {
        let ask = self.scenario.traffic.ask(number);
        self.server.send(&ask, self.scenario.traffic.name(ask.adapter)).await
    }
}
