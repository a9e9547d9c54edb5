//! Turns to write to replicas: so many at once, over all fleets. Those that do not answer must not keep the others waiting:
//! whoever takes long goes on among the late ones, of which there are as many at the most, and begins there the next time.

use std::time::Duration;

use tokio::sync::Semaphore;

/// An answer that did not begin within that time is late.
const PROMPT: Duration = Duration::from_secs(1);

/// The turns.
pub(super) struct Turns {
    prompt: Semaphore,
    late: Semaphore,
}

/// Whether a replica was late with its last answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Prompt,
    Late,
}

impl Turns {
    /// `each` for those that answer, and as many for those that are late.
    pub(super) fn new(each: usize) -> Self {
        Self { prompt: Semaphore::new(each), late: Semaphore::new(each) }
    }

    /// What comes of `write`, begun when a turn is free. Nothing where it is late and all turns of the late are taken: it is
    /// given up. `work`: what the replica has to do may take so long beyond what any answer may.
    pub(super) async fn take<T>(
        &self,
        manner: &mut Manner,
        work: Duration,
        write: impl Future<Output = T>,
    ) -> Option<T> {
        let mut write = std::pin::pin!(write);
        let turns = match manner {
            Manner::Prompt => &self.prompt,
            Manner::Late => &self.late,
        };
        // Neither is ever closed.
        let turn = turns.acquire().await;
        if let Ok(done) = tokio::time::timeout(PROMPT + work, &mut write).await {
            *manner = Manner::Prompt;
            return Some(done);
        }
        let _turn = match std::mem::replace(manner, Manner::Late) {
            Manner::Late => turn,
            Manner::Prompt => {
                drop(turn);
                Ok(self.late.try_acquire().ok()?)
            }
        };
        Some(write.await)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt as _;

    use super::*;

    /// Twice as many as there are turns, of each kind.
    const HUNG: usize = 64;

    #[tokio::test]
    async fn sixty_four_replicas_that_hang_do_not_delay_another() {
        let (turns, is_over) = (Turns::new(HUNG / 2), Cell::new(false));
        let hangs = async || {
            let mut manner = Manner::default();
            let write = async {
                tokio::time::timeout(PROMPT * 4, std::future::pending::<()>()).await.unwrap_err();
                is_over.set(true);
            };
            turns.take(&mut manner, Duration::ZERO, write).await;
            assert_eq!(manner, Manner::Late);
        };
        let mut hung: Vec<_> = (0..HUNG).map(|_| Box::pin(hangs())).collect();
        let waits = hung.iter_mut().all(|one| one.as_mut().now_or_never().is_none());
        assert!(waits, "each has a turn or waits for one");
        let another = async {
            let mut manner = Manner::default();
            turns.take(&mut manner, Duration::ZERO, std::future::ready(())).await.expect("it answers");
            assert!(!is_over.get(), "it waited for the limit of one that hangs");
        };
        let both = futures::future::join(another, futures::future::join_all(hung));
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("all end");
    }

    #[tokio::test]
    async fn whoever_was_late_takes_no_turn_from_those_that_answer_until_it_answers() {
        let turns = Turns::new(1);
        let (mut late, mut prompt) = (Manner::Late, Manner::Prompt);
        let mut hung = Box::pin(turns.take(&mut late, Duration::ZERO, std::future::pending::<()>()));
        assert!((&mut hung).now_or_never().is_none());
        let done = turns.take(&mut prompt, Duration::ZERO, std::future::ready(7)).now_or_never();
        assert_eq!(done, Some(Some(7)), "at once");
        drop(hung);
        let done = turns.take(&mut late, Duration::ZERO, std::future::ready(7)).now_or_never();
        assert_eq!((done, late), (Some(Some(7)), Manner::Prompt));
    }
}
