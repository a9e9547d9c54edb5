//! What a step could not do: told once for as long as it lasts, and done by a later step. What serves goes on meanwhile. Must
//! not know what it is.

use std::collections::BTreeSet;
use std::fmt::Display;

/// The troubles of the step that runs, and of the one before.
#[derive(Default)]
pub struct Troubles {
    now: BTreeSet<String>,
    before: BTreeSet<String>,
}

impl Troubles {
    /// What was done, or nothing: then `whose` it is, and why not, is told.
    pub fn note<T, E: Display>(&mut self, whose: impl Display, done: Result<T, E>) -> Option<T> {
        let why = match done {
            Ok(done) => return Some(done),
            Err(why) => format!("{whose}: {why}"),
        };
        if !self.before.contains(&why) && !self.now.contains(&why) {
            tracing::error!("{why}; it is tried again, what serves goes on");
        }
        self.now.insert(why);
        None
    }

    /// The step is over. Whether another one has to follow soon.
    pub fn remain(&mut self) -> bool {
        let (before, now) =
            (std::mem::replace(&mut self.before, std::mem::take(&mut self.now)), &self.before);
        before.difference(now).for_each(|over| tracing::info!("over: {over}"));
        !now.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_tried_again_until_it_is_done() {
        let mut troubles = Troubles::default();
        assert_eq!(troubles.note("a", Ok::<_, String>(7)), Some(7));
        assert!(!troubles.remain());
        for _ in 0..2 {
            assert_eq!(troubles.note("a", Err::<(), _>("no space")), None);
            assert!(troubles.remain());
            assert_eq!(troubles.before, BTreeSet::from(["a: no space".to_owned()]));
        }
        assert_eq!(troubles.note("a", Ok::<_, String>(())), Some(()));
        assert!(!troubles.remain());
    }
}
