//! The sequences that wait, a queue a flow. Pure.

use std::collections::{HashMap, VecDeque};

use crate::engine::fairness::Flow;
use crate::engine::sequence::Sequence;

/// The queues: in each the one that arrived first is first, a preempted one too.
#[derive(Debug)]
pub struct Waiting<T> {
    queues: HashMap<Flow, VecDeque<Sequence<T>>>,
    len: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), len: 0 }
    }
}

impl<T> Waiting<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more waits, in its place by arrival.
    pub fn push(&mut self, sequence: Sequence<T>) {
        let queue = self.queues.entry(sequence.owner()).or_default();
        let place = queue.partition_point(|other| other.arrival < sequence.arrival);
        queue.insert(place, sequence);
        self.len += 1;
    }

    /// The first of a flow.
    #[must_use]
    pub fn first(&self, flow: &Flow) -> Option<&Sequence<T>> {
        self.queues.get(flow)?.front()
    }

    /// Takes the first of a flow.
    pub fn pop(&mut self, flow: &Flow) -> Option<Sequence<T>> {
        let queue = self.queues.get_mut(flow)?;
        let first = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.queues.remove(flow);
        }
        Some(first)
    }

    /// The first of every flow, in no order.
    pub fn firsts(&self) -> impl Iterator<Item = (&Flow, &Sequence<T>)> {
        self.queues.iter().filter_map(|(flow, queue)| Some((flow, queue.front()?)))
    }

    /// Every flow that waits and how many of it, in no order.
    pub fn flows(&self) -> impl Iterator<Item = (&Flow, usize)> {
        self.queues.iter().map(|(flow, queue)| (flow, queue.len()))
    }

    /// Takes out those that `leaves` says.
    pub fn take_out(&mut self, mut leaves: impl FnMut(&Sequence<T>) -> bool, out: &mut Vec<Sequence<T>>) {
        for queue in self.queues.values_mut() {
            let mut place = 0;
            while let Some(sequence) = queue.get(place) {
                if leaves(sequence) {
                    out.extend(queue.remove(place));
                    self.len -= 1;
                } else {
                    place += 1;
                }
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::engine::fixtures::job;
    use crate::engine::request::RequestId;
    use crate::engine::sequence::Job;

    fn waiting(arrivals: &[u64]) -> Waiting<()> {
        let mut waiting = Waiting::default();
        for &arrival in arrivals {
            let mut sequence = Sequence::new(Job { id: RequestId(arrival), ..job(&[1]) }, (), Instant::now());
            sequence.arrival = arrival;
            waiting.push(sequence);
        }
        waiting
    }

    #[test]
    fn a_sequence_that_comes_back_takes_its_old_place() {
        let mut waiting = waiting(&[3, 5, 4, 1]);
        let flow = Flow { generation: None, salt: 0 };
        let order: Vec<u64> =
            std::iter::from_fn(|| waiting.pop(&flow)).map(|sequence| sequence.arrival).collect();
        assert_eq!(order, [1, 3, 4, 5]);
        assert!(waiting.is_empty() && waiting.queues.is_empty());
    }

    #[test]
    fn those_that_leave_are_taken_out_wherever_they_stand() {
        let mut waiting = waiting(&[1, 2, 3, 4]);
        let mut out = Vec::new();
        waiting.take_out(|sequence| sequence.id().0 % 2 == 0, &mut out);
        assert_eq!((out.len(), waiting.len()), (2, 2));
        waiting.take_out(|_| true, &mut out);
        assert!(waiting.is_empty() && waiting.queues.is_empty());
    }
}
