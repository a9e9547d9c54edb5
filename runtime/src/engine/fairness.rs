//! Who is next: virtual token counters (Sheng et al., "Fairness in serving large language models"). Pure.
//!
//! Every flow has an account of the tokens that it was served, divided by its weight; of the flows that wait the one
//! that was served least is next. A flow that comes back from idleness is lifted to the others: idleness earns nothing.

use std::collections::HashMap;
use std::num::NonZeroU32;

use crate::engine::prefix::Owner;

/// Whose account: a tenant's use of one generation. The same that owns prefixes.
pub type Flow = Owner;

/// What a prompt's token costs. An output token costs twice: it takes a step of its own.
const PROMPT_COST: u64 = 1;
const OUTPUT_COST: u64 = 2;

/// Counters are in these parts of a token, so that weights divide well.
const PARTS: u64 = 1 << 16;

/// Accounts of idle flows that are kept at most.
const IDLE_ACCOUNTS: usize = 4096;

/// The accounts.
#[derive(Debug, Default)]
pub struct Fairness {
    accounts: HashMap<Flow, Account>,
    /// What the flow that was served last had then: flows that come back start no lower.
    floor: u64,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    served: u64,
    weight: NonZeroU32,
    waiting: usize,
    running: usize,
}

impl Fairness {
    /// One more request of `flow` waits. The first one that waits lifts the account.
    pub fn wait(&mut self, flow: Flow, weight: NonZeroU32) {
        let least_waiting = || {
            let waiting = self.accounts.values().filter(|account| account.waiting > 0);
            waiting.map(|account| account.served).min().unwrap_or(self.floor)
        };
        let lift = match self.accounts.get(&flow) {
            Some(account) if account.waiting > 0 => 0,
            _ => least_waiting(),
        };
        let fresh = Account { served: 0, weight, waiting: 0, running: 0 };
        let account = self.accounts.entry(flow).or_insert(fresh);
        account.served = account.served.max(lift);
        account.weight = weight;
        account.waiting += 1;
    }

    /// A request that was preempted waits again: neither lifted nor charged anew.
    pub fn wait_again(&mut self, flow: Flow) {
        if let Some(account) = self.accounts.get_mut(&flow) {
            account.running -= 1;
            account.waiting += 1;
        }
    }

    /// A waiting request runs: `prompt_tokens` of it are still to be computed and paid for.
    pub fn run(&mut self, flow: Flow, prompt_tokens: usize) {
        if let Some(account) = self.accounts.get_mut(&flow) {
            self.floor = self.floor.max(account.served);
            account.waiting -= 1;
            account.running += 1;
            account.charge(prompt_tokens as u64 * PROMPT_COST);
        }
    }

    /// It made a token.
    pub fn token(&mut self, flow: Flow) {
        if let Some(account) = self.accounts.get_mut(&flow) {
            account.charge(OUTPUT_COST);
        }
    }

    /// A waiting request is gone.
    pub fn leave_queue(&mut self, flow: Flow) {
        self.leave(flow, |account| account.waiting -= 1);
    }

    /// A running request has ended.
    pub fn end(&mut self, flow: Flow) {
        self.leave(flow, |account| account.running -= 1);
    }

    /// What it was served, in parts of a token over its weight.
    #[must_use]
    pub fn served(&self, flow: &Flow) -> u64 {
        self.accounts.get(flow).map_or(self.floor, |account| account.served)
    }

    fn leave(&mut self, flow: Flow, change: impl FnOnce(&mut Account)) {
        let Some(account) = self.accounts.get_mut(&flow) else { return };
        change(account);
        // What is not above the floor comes back at the floor anyway.
        if account.is_idle() && account.served <= self.floor {
            self.accounts.remove(&flow);
        }
        if self.accounts.len() > IDLE_ACCOUNTS {
            let floor = self.floor;
            self.accounts.retain(|_, account| !account.is_idle() || account.served > floor);
            let debts_too = self.accounts.len() > IDLE_ACCOUNTS;
            self.accounts.retain(|_, account| !debts_too || !account.is_idle());
        }
    }
}

impl Account {
    fn charge(&mut self, tokens: u64) {
        self.served = self.served.saturating_add(tokens * PARTS / u64::from(self.weight.get()));
    }

    fn is_idle(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn flow(salt: u64) -> Flow {
        Flow { generation: None, salt }
    }

    /// Which of `flows` was served least.
    fn next(fairness: &Fairness, flows: &[u64]) -> u64 {
        *flows.iter().min_by_key(|&&salt| (fairness.served(&flow(salt)), salt)).unwrap()
    }

    #[test]
    fn flows_that_always_wait_are_served_alike_whatever_the_size_of_their_requests() {
        let mut fairness = Fairness::default();
        for salt in [1, 2] {
            for _ in 0..2 {
                fairness.wait(flow(salt), ONE);
            }
        }
        let mut tokens = [0_u64; 3];
        for _ in 0..3000 {
            let salt = next(&fairness, &[1, 2]);
            let size = if salt == 1 { 100 } else { 7 };
            fairness.wait(flow(salt), ONE);
            fairness.run(flow(salt), size);
            fairness.end(flow(salt));
            tokens[salt as usize] += size as u64;
        }
        assert!(tokens[1].abs_diff(tokens[2]) <= 2 * 100, "{tokens:?}");
    }

    #[test]
    fn a_weight_of_three_gets_three_times_the_tokens() {
        let mut fairness = Fairness::default();
        let weight = |salt| NonZeroU32::new(if salt == 1 { 3 } else { 1 }).unwrap();
        let mut tokens = [0_u64; 3];
        for salt in [1, 2] {
            fairness.wait(flow(salt), weight(salt));
        }
        for _ in 0..4000 {
            let salt = next(&fairness, &[1, 2]);
            fairness.wait(flow(salt), weight(salt));
            fairness.run(flow(salt), 10);
            fairness.end(flow(salt));
            tokens[salt as usize] += 10;
        }
        assert!(tokens[1].abs_diff(3 * tokens[2]) <= 60, "{tokens:?}");
    }

    #[test]
    fn idleness_earns_nothing() {
        let mut fairness = Fairness::default();
        fairness.wait(flow(1), ONE);
        for _ in 0..100 {
            fairness.wait(flow(1), ONE);
            fairness.run(flow(1), 1000);
            fairness.end(flow(1));
        }
        fairness.wait(flow(2), ONE);
        assert_eq!(fairness.served(&flow(2)), fairness.served(&flow(1)));
    }

    #[test]
    fn a_flow_cannot_shed_its_debt_by_leaving() {
        let mut fairness = Fairness::default();
        fairness.wait(flow(1), ONE);
        fairness.wait(flow(2), ONE);
        fairness.run(flow(1), 1000);
        fairness.end(flow(1));
        fairness.wait(flow(1), ONE);
        assert_eq!(next(&fairness, &[1, 2]), 2);
    }

    #[test]
    fn accounts_of_idle_flows_do_not_pile_up() {
        let mut fairness = Fairness::default();
        for salt in 0..20_000 {
            fairness.wait(flow(salt), ONE);
            fairness.run(flow(salt), 5);
            fairness.end(flow(salt));
        }
        assert!(fairness.accounts.len() <= IDLE_ACCOUNTS);
    }
}
