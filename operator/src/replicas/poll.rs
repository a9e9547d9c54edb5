//! Follows one replica's report by long polling, and says what is known of it. Must not write to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::fleet::{Contact, FleetKey, Report, Said};
use crate::replicas::Shared;
use crate::replicas::actor::{FIRST_PAUSE, LONGEST_PAUSE, Way};
use crate::replicas::client::ClientError;

/// One that loads its model is asked again after that time.
const LOADING_PAUSE: Duration = Duration::from_secs(1);
/// Polls of one replica begin no sooner after each other: one that loads thousands of adapters has news at any time, and each
/// is a list of all that it holds.
const PACE: Duration = Duration::from_millis(25);
/// One that answered is taken for what it said until it gave no answer for so long. A lost poll, or a container that starts
/// again, is over before that: told, it would be written into the status of each Adapter, and out of it again.
const GRACE: Duration = Duration::from_secs(3);

/// The newest report, and how often names may have vanished from the reports until then.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) report: Arc<Report>,
    pub(super) losses: u64,
}

/// Follows the report.
pub(super) struct Poll {
    pub(super) fleet: FleetKey,
    pub(super) contact: Arc<Mutex<Contact>>,
    pub(super) held: watch::Sender<Option<Held>>,
    pub(super) ways: watch::Receiver<Way>,
    pub(super) shared: Shared,
}

impl Poll {
    pub(super) async fn run(mut self) {
        let mut last: Option<Arc<Report>> = None;
        let mut losses = 0;
        let mut pause = FIRST_PAUSE;
        let mut silence = Silence::default();
        loop {
            let way = self.ways.borrow_and_update().clone();
            let client = match way {
                Ok(client) => client,
                Err(error) => {
                    self.fail(&error, &mut silence, last.as_ref());
                    match self.ways.changed().await {
                        Ok(()) => continue,
                        Err(_) => return,
                    }
                }
            };
            let asked = last.as_ref().map(|last| (last.instance.as_str(), last.report));
            let next = tokio::time::Instant::now() + PACE;
            // One that was silent is asked whether it is there, not what is new.
            match client.report(asked, silence.began.is_none()).await {
                Ok(answer) => {
                    (pause, silence) = (FIRST_PAUSE, Silence::default());
                    answer.version.iter().for_each(|version| self.shared.versions.hear(*version));
                    losses += u64::from(answer.complete || !answer.removed.is_empty());
                    let report = match &last {
                        Some(last) if !answer.complete => merged(last, answer),
                        _ => answer,
                    };
                    let report = Arc::new(report);
                    let changed = last.as_ref().is_none_or(|last| **last != *report) || !self.is_reported();
                    last = Some(Arc::clone(&report));
                    if changed {
                        self.held.send_replace(Some(Held { report: Arc::clone(&report), losses }));
                        self.say(Contact::Reported(report));
                    }
                    tokio::time::sleep_until(next).await;
                }
                Err(ClientError::Loading) => {
                    (pause, silence) = (FIRST_PAUSE, Silence::default());
                    self.load();
                    tokio::time::sleep(LOADING_PAUSE).await;
                }
                // Asked by a way that is not the newest.
                Err(_) if self.ways.has_changed().unwrap_or(false) => {}
                Err(error) => {
                    self.fail(&error, &mut silence, last.as_ref());
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                        changed = self.ways.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    /// Whether it is known what it does.
    fn is_heard(&self) -> bool {
        let contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*contact, Contact::Reported(_) | Contact::Loading)
    }

    fn is_reported(&self) -> bool {
        matches!(*self.contact.lock().unwrap_or_else(PoisonError::into_inner), Contact::Reported(_))
    }

    fn load(&self) {
        let is_known =
            matches!(*self.contact.lock().unwrap_or_else(PoisonError::into_inner), Contact::Loading);
        if !is_known {
            self.say(Contact::Loading);
        }
    }

    fn fail(&self, error: &ClientError, silence: &mut Silence, last: Option<&Arc<Report>>) {
        let (since, is_news) = silence.of(error, Instant::now(), Timestamp::now());
        if self.is_heard() && !is_news {
            return;
        }
        let error = error.to_string();
        match &*self.contact.lock().unwrap_or_else(PoisonError::into_inner) {
            Contact::Unreachable { error: same, .. } if *same == error => return,
            _ => {}
        }
        // Nothing is written to one that does not answer.
        self.held.send_replace(None);
        self.say(Contact::Unreachable { error, since, last: last.cloned() });
    }

    fn say(&self, contact: Contact) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = contact;
        // Nobody listens any more only while the operator stops.
        let _ = self.shared.changed.send(self.fleet.clone());
    }
}

/// Since when a replica gives no answer.
#[derive(Default)]
struct Silence {
    began: Option<(Instant, Timestamp)>,
}

impl Silence {
    /// It failed with `error`: since when it does, and whether that is news of one that answered before.
    fn of(&mut self, error: &ClientError, now: Instant, time: Timestamp) -> (Timestamp, bool) {
        let (began, since) = *self.began.get_or_insert((now, time));
        let is_news = match error {
            // It was waited for long enough, or nothing that is known opens it, and it is not asked again.
            ClientError::Late | ClientError::Authority(_) => true,
            _ => now.saturating_duration_since(began) >= GRACE,
        };
        (since, is_news)
    }
}

/// A report brought up to date by a partial one.
fn merged(last: &Report, mut answer: Report) -> Report {
    let news = std::mem::take(&mut answer.adapters);
    let gone = std::mem::take(&mut answer.removed);
    let mut changes: Vec<(&str, Option<&Said>)> =
        news.iter().map(|one| (one.name.as_str(), Some(one))).collect();
    changes.extend(gone.iter().map(|name| (name.as_str(), None)));
    changes.sort_by_key(|(name, _)| *name);
    let mut rest = last.adapters.as_slice();
    let mut adapters = Vec::with_capacity(rest.len() + news.len());
    for (name, said) in changes {
        let (before, from) = rest.split_at(rest.partition_point(|one| one.name.as_str() < name));
        adapters.extend_from_slice(before);
        adapters.extend(said.cloned());
        rest = &from[usize::from(from.first().is_some_and(|one| one.name == name))..];
    }
    adapters.extend_from_slice(rest);
    Report { adapters, complete: true, ..answer }
}

#[cfg(test)]
pub(super) mod tests {
    use internment::ArcIntern;
    use lorikeet_api::{AdapterReport, Version};

    use super::*;

    pub(in crate::replicas) fn said(name: &str, rank: u32) -> Said {
        let name = name.to_owned();
        ArcIntern::new(AdapterReport { name, rank, ..AdapterReport::default() })
    }

    pub(in crate::replicas) fn report(adapters: Vec<Said>, removed: &[&str]) -> Report {
        Report {
            instance: "i".to_owned(),
            report: 1,
            version: Some(Version { epoch: 1, sequence: 1 }),
            complete: false,
            adapters,
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            ..Report::default()
        }
    }

    #[test]
    fn a_partial_report_changes_what_it_names() {
        let last = report(vec![said("b", 1), said("d", 1), said("f", 1)], &[]);
        let news = report(vec![said("a", 2), said("d", 2), said("g", 2)], &["b", "c"]);
        let now = merged(&last, news);
        assert_eq!(now.adapters, [said("a", 2), said("d", 2), said("f", 1), said("g", 2)]);
        assert!(now.complete && now.removed.is_empty());
    }

    #[test]
    fn a_stutter_is_no_news_and_a_silence_is_since_its_first_failure() {
        let (now, time) = (Instant::now(), Timestamp::from_second(7).unwrap());
        let later = Timestamp::from_second(9).unwrap();
        let refused = ClientError::Unreachable("connection refused".to_owned());
        let mut silence = Silence::default();
        assert_eq!(silence.of(&refused, now, time), (time, false));
        assert_eq!(silence.of(&refused, now + GRACE / 2, later), (time, false));
        assert_eq!(silence.of(&refused, now + GRACE, later), (time, true));
        // One that hangs was waited for already.
        assert_eq!(Silence::default().of(&ClientError::Late, now, time), (time, true));
    }
}
