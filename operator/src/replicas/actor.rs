//! One replica's actor: follows its report by long polling, and brings its desired set to what is wanted.
//!
//! Compares with what the replica reports, never with what was sent before it restarted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use lorikeet_api::{AdapterReport, DesiredAdapter, DesiredChange, DesiredSet, ReportedSet, Version};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::fleet::{Contact, FleetKey};
use crate::replicas::Shared;
use crate::replicas::change::change;
use crate::replicas::client::{Client, ClientError, Endpoint};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A handle on the actor; dropped, it stops.
pub struct Actor {
    endpoint: Endpoint,
    contact: Arc<Mutex<Contact>>,
    wanted: watch::Sender<Option<Arc<Vec<DesiredAdapter>>>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// The newest report.
type Held = Option<Arc<ReportedSet>>;

impl Actor {
    /// Starts to follow the replica at `endpoint`.
    #[must_use]
    pub fn start(fleet: FleetKey, endpoint: Endpoint, shared: Shared) -> Self {
        let contact = Arc::new(Mutex::new(Contact::Pending));
        let (wanted, wants) = watch::channel(None);
        let (held, holds) = watch::channel(None);
        let poll = Poll {
            fleet,
            endpoint: endpoint.clone(),
            contact: Arc::clone(&contact),
            held,
            shared: shared.clone(),
        };
        let push = Push { endpoint: endpoint.clone(), wants, holds, shared };
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(poll.run())),
            AbortOnDropHandle::new(tokio::spawn(push.run())),
        ];
        Self { endpoint, contact, wanted, _tasks: tasks }
    }

    /// Where the replica is.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What it says now.
    #[must_use]
    pub fn contact(&self) -> Contact {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it should hold, ordered by name.
    pub fn want(&self, set: Vec<DesiredAdapter>) {
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted.as_deref() != Some(&set);
            if differs {
                *wanted = Some(Arc::new(set));
            }
            differs
        });
    }
}

/// Follows the report.
struct Poll {
    fleet: FleetKey,
    endpoint: Endpoint,
    contact: Arc<Mutex<Contact>>,
    held: watch::Sender<Held>,
    shared: Shared,
}

impl Poll {
    async fn run(self) {
        let client = match Client::new(&self.endpoint) {
            Ok(client) => client,
            // Another endpoint, with another authority, gets another actor.
            Err(error) => return self.fail(&error, None),
        };
        let mut last: Option<Arc<ReportedSet>> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            match next(&client, last.as_deref()).await {
                Ok(report) => {
                    pause = FIRST_PAUSE;
                    let report = Arc::new(report);
                    let changed = last.as_ref().is_none_or(|last| **last != *report) || !self.is_reported();
                    last = Some(Arc::clone(&report));
                    if changed {
                        self.held.send_replace(Some(Arc::clone(&report)));
                        self.say(Contact::Reported(report));
                    }
                }
                Err(error) => {
                    self.fail(&error, last.as_ref());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn is_reported(&self) -> bool {
        matches!(*self.contact.lock().unwrap_or_else(PoisonError::into_inner), Contact::Reported(_))
    }

    fn fail(&self, error: &ClientError, last: Option<&Arc<ReportedSet>>) {
        let error = error.to_string();
        let since = match &*self.contact.lock().unwrap_or_else(PoisonError::into_inner) {
            Contact::Unreachable { since, error: same, .. } if *same == error => return,
            Contact::Unreachable { since, .. } => *since,
            Contact::Pending | Contact::Reported(_) => Timestamp::now(),
        };
        self.say(Contact::Unreachable { error, since, last: last.cloned() });
    }

    fn say(&self, contact: Contact) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = contact;
        // Nobody listens any more only while the operator stops.
        let _ = self.shared.changed.send(self.fleet.clone());
    }
}

async fn next(client: &Client, last: Option<&ReportedSet>) -> Result<ReportedSet, ClientError> {
    let answer = client.report(last.map(|last| (last.instance.as_str(), last.report))).await?;
    Ok(match last {
        Some(last) if !answer.complete => merged(last, answer),
        _ => answer,
    })
}

/// A report brought up to date by a partial one.
fn merged(last: &ReportedSet, mut answer: ReportedSet) -> ReportedSet {
    let news = std::mem::take(&mut answer.adapters);
    let gone = std::mem::take(&mut answer.removed);
    let is_old = |one: &&AdapterReport| {
        news.binary_search_by(|new| new.name.cmp(&one.name)).is_err()
            && gone.binary_search(&one.name).is_err()
    };
    let mut adapters: Vec<AdapterReport> = last.adapters.iter().filter(is_old).cloned().collect();
    adapters.extend(news);
    adapters.sort_by(|one, other| one.name.cmp(&other.name));
    ReportedSet { adapters, complete: true, ..answer }
}

/// The last set that the replica accepted, and the process that did.
struct Sent {
    instance: String,
    version: Version,
    set: Arc<Vec<DesiredAdapter>>,
}

impl Sent {
    /// Whether the process that reports has it, or will say so in its next report.
    fn is_known_to(&self, report: &ReportedSet) -> bool {
        self.instance == report.instance && Some(self.version) >= report.version
    }

    /// Whether the replica has exactly this set by its version and yet lacks some of it: somebody took it away by hand.
    fn is_lost_by(&self, report: &ReportedSet) -> bool {
        let has = |name: &str| report.adapters.binary_search_by(|one| one.name.as_str().cmp(name)).is_ok();
        report.version == Some(self.version) && !self.set.iter().all(|one| has(&one.name))
    }
}

/// Brings the desired set to what is wanted.
struct Push {
    endpoint: Endpoint,
    wants: watch::Receiver<Option<Arc<Vec<DesiredAdapter>>>>,
    holds: watch::Receiver<Held>,
    shared: Shared,
}

impl Push {
    async fn run(mut self) {
        let Ok(client) = Client::new(&self.endpoint) else { return };
        let mut sent: Option<Sent> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let wanted = self.wants.borrow_and_update().clone();
            let held = self.holds.borrow_and_update().clone();
            if let (Some(wanted), Some(report)) = (wanted, held) {
                let known = sent.as_ref().filter(|sent| sent.is_known_to(&report));
                let is_lost = known.is_some_and(|sent| sent.is_lost_by(&report));
                if is_lost {
                    // It may be on its way back; and a replica that always forgets must not be asked all the time.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if self.holds.has_changed().unwrap_or(false) {
                        continue;
                    }
                }
                let known = known.filter(|_| !is_lost);
                if known.is_none_or(|sent| sent.set != wanted) {
                    let base = known.map(|sent| (sent.version, sent.set.as_slice()));
                    match self.write(&client, base, &wanted).await {
                        Ok((instance, version)) => {
                            if !is_lost {
                                pause = FIRST_PAUSE;
                            }
                            sent = Some(Sent { instance, version, set: wanted });
                        }
                        Err(error) => {
                            tracing::debug!(replica = %self.endpoint.address, %error, "desired set not accepted");
                            if matches!(error, ClientError::Conflict) {
                                sent = None;
                            }
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(LONGEST_PAUSE);
                        }
                    }
                    continue;
                }
            }
            tokio::select! {
                ended = self.wants.changed() => if ended.is_err() { return },
                ended = self.holds.changed() => if ended.is_err() { return },
            }
        }
    }

    async fn write(
        &self,
        client: &Client,
        known: Option<(Version, &[DesiredAdapter])>,
        wanted: &[DesiredAdapter],
    ) -> Result<(String, Version), ClientError> {
        let _permit = self.shared.writes.acquire().await;
        let version = self.shared.versions.next();
        let accepted = match known {
            Some((base, old)) => {
                let (set, remove) = change(old, wanted);
                client.patch(&DesiredChange { base, version, set, remove }).await?
            }
            None => client.put(&DesiredSet { version, adapters: wanted.to_vec() }).await?,
        };
        Ok((accepted.instance, accepted.version))
    }
}
