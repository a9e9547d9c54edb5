//! One replica's actor: follows its report by long polling, and brings its desired set to what is wanted.
//!
//! Compares with what the replica reports, never with what was sent before it restarted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use lorikeet_api::{DesiredChange, Version};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::fleet::{Contact, DesiredList, FleetKey, Report, Said};
use crate::replicas::Shared;
use crate::replicas::change::change;
use crate::replicas::client::{Client, ClientError, Endpoint};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One that loads its model is asked again after that time.
const LOADING_PAUSE: Duration = Duration::from_secs(1);
/// So much of what a replica says is kept.
const LONGEST_REFUSAL: usize = 500;

/// A handle on the actor; dropped, it stops.
pub struct Actor {
    endpoint: Endpoint,
    contact: Arc<Mutex<Contact>>,
    refusal: Arc<Mutex<Option<String>>>,
    wanted: watch::Sender<Option<DesiredList>>,
    ways: watch::Sender<Way>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// The way to a replica, or why nothing that is known opens one.
type Way = Result<Client, Arc<ClientError>>;

fn way(endpoint: &Endpoint) -> Way {
    Client::new(endpoint).map_err(Arc::new)
}

/// The newest report, and how often names may have vanished from the reports until then.
#[derive(Clone)]
struct Held {
    report: Arc<Report>,
    losses: u64,
}

impl Actor {
    /// Starts to follow the replica at `endpoint`.
    #[must_use]
    pub fn start(fleet: FleetKey, endpoint: Endpoint, shared: Shared) -> Self {
        let contact = Arc::new(Mutex::new(Contact::Pending));
        let (wanted, wants) = watch::channel(None);
        let (held, holds) = watch::channel(None);
        let (ways, opens) = watch::channel(way(&endpoint));
        let refusal = Arc::new(Mutex::new(None));
        let poll = Poll {
            fleet: fleet.clone(),
            contact: Arc::clone(&contact),
            held,
            ways: opens.clone(),
            shared: shared.clone(),
        };
        let refusals = Refusals { fleet, at: endpoint.address, now: Arc::clone(&refusal), count: 0 };
        let push = Push { refusals, wants, holds, ways: opens, shared };
        let tasks = [tokio::spawn(poll.run()), tokio::spawn(push.run())].map(AbortOnDropHandle::new);
        Self { endpoint, contact, refusal, wanted, ways, _tasks: tasks }
    }

    /// Whether it follows the process at `endpoint`, whatever opens that.
    #[must_use]
    pub fn follows(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.is_same_process(endpoint)
    }

    /// What opens the replica is what `endpoint`, of the same process, says. What it said and was sent stays known.
    pub fn open(&mut self, endpoint: &Endpoint) {
        if self.endpoint.access != endpoint.access {
            drop(self.ways.send_replace(way(endpoint)));
            self.endpoint = endpoint.clone();
        }
    }

    /// What it says now.
    #[must_use]
    pub fn contact(&self) -> Contact {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it does not take what it should hold.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it should hold, ordered by name.
    pub fn want(&self, list: DesiredList) {
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted.as_ref() != Some(&list);
            if differs {
                *wanted = Some(list);
            }
            differs
        });
    }
}

/// Follows the report.
struct Poll {
    fleet: FleetKey,
    contact: Arc<Mutex<Contact>>,
    held: watch::Sender<Option<Held>>,
    ways: watch::Receiver<Way>,
    shared: Shared,
}

impl Poll {
    async fn run(mut self) {
        let mut last: Option<Arc<Report>> = None;
        let mut losses = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let way = self.ways.borrow_and_update().clone();
            let client = match way {
                Ok(client) => client,
                Err(error) => {
                    self.fail(&error, last.as_ref());
                    match self.ways.changed().await {
                        Ok(()) => continue,
                        Err(_) => return,
                    }
                }
            };
            let asked = last.as_ref().map(|last| (last.instance.as_str(), last.report));
            match client.report(asked).await {
                Ok(answer) => {
                    pause = FIRST_PAUSE;
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
                }
                Err(ClientError::Loading) => {
                    pause = FIRST_PAUSE;
                    self.load();
                    tokio::time::sleep(LOADING_PAUSE).await;
                }
                // Asked by a way that is not the newest.
                Err(_) if self.ways.has_changed().unwrap_or(false) => {}
                Err(error) => {
                    self.fail(&error, last.as_ref());
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                        changed = self.ways.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
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

    fn fail(&self, error: &ClientError, last: Option<&Arc<Report>>) {
        let error = error.to_string();
        let since = match &*self.contact.lock().unwrap_or_else(PoisonError::into_inner) {
            Contact::Unreachable { since, error: same, .. } if *same == error => return,
            Contact::Unreachable { since, .. } => *since,
            Contact::Pending | Contact::Loading | Contact::Reported(_) => Timestamp::now(),
        };
        self.say(Contact::Unreachable { error, since, last: last.cloned() });
    }

    fn say(&self, contact: Contact) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = contact;
        // Nobody listens any more only while the operator stops.
        let _ = self.shared.changed.send(self.fleet.clone());
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

/// The last set that the replica accepted, and the process that did.
struct Sent {
    instance: String,
    version: Version,
    list: DesiredList,
    /// Names that may have vanished until then were all there: since then they can only have become more.
    whole_after: Option<u64>,
}

impl Sent {
    /// Whether the process that reports has it, or will say so in its next report.
    fn is_known_to(&self, report: &Report) -> bool {
        self.instance == report.instance && Some(self.version) >= report.version
    }

    /// Whether the replica has exactly this set by its version and yet lacks some of it: somebody took it away by hand.
    fn is_lost_by(&mut self, held: &Held) -> bool {
        if held.report.version != Some(self.version) || self.whole_after == Some(held.losses) {
            return false;
        }
        let mut there = held.report.adapters.iter().map(|one| one.name.as_str());
        let has = |name: &str| there.find(|other| *other >= name) == Some(name);
        let is_whole = self.list.iter().map(|one| one.name.as_str()).all(has);
        self.whole_after = is_whole.then_some(held.losses);
        !is_whole
    }
}

/// Why the replica does not take what it should hold: told once for each change.
struct Refusals {
    fleet: FleetKey,
    at: SocketAddr,
    now: Arc<Mutex<Option<String>>>,
    count: u32,
}

impl Refusals {
    /// A write ended. Whether what is told changed: not by a first refusal, as somebody else's version is over with the
    /// second attempt. A replica that gives no answer to a write refuses nothing; that is told of its contact.
    fn note(&mut self, error: Option<&ClientError>) -> bool {
        self.count = match error {
            None => 0,
            Some(ClientError::Conflict | ClientError::Refused { .. }) => self.count.saturating_add(1),
            Some(ClientError::Authority(_) | ClientError::Unreachable(_) | ClientError::Loading) => {
                return false;
            }
        };
        let told = error.filter(|_| self.count > 1);
        let told = told.map(|error| error.to_string().chars().take(LONGEST_REFUSAL).collect::<String>());
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count == 1 || *now == told {
            return false;
        }
        let FleetKey { namespace, name } = &self.fleet;
        match &told {
            Some(error) => {
                tracing::warn!(namespace, name, replica = %self.at, error, "desired set not taken")
            }
            None => tracing::info!(namespace, name, replica = %self.at, "desired set taken again"),
        }
        *now = told;
        true
    }
}

/// Brings the desired set to what is wanted.
struct Push {
    refusals: Refusals,
    wants: watch::Receiver<Option<DesiredList>>,
    holds: watch::Receiver<Option<Held>>,
    ways: watch::Receiver<Way>,
    shared: Shared,
}

impl Push {
    async fn run(mut self) {
        let mut sent: Option<Sent> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let wanted = self.wants.borrow_and_update().clone();
            let held = self.holds.borrow_and_update().clone();
            let client = self.ways.borrow_and_update().clone().ok();
            if let (Some(wanted), Some(held), Some(client)) = (wanted, held, client) {
                let mut known = sent.as_mut().filter(|sent| sent.is_known_to(&held.report));
                let is_lost = known.as_mut().is_some_and(|sent| sent.is_lost_by(&held));
                if is_lost {
                    // It may be on its way back; and a replica that always forgets must not be asked all the time.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if self.holds.has_changed().unwrap_or(false) {
                        continue;
                    }
                }
                let known = known.filter(|_| !is_lost);
                if known.as_ref().is_none_or(|sent| sent.list != wanted) {
                    let base = known.map(|sent| (sent.version, &sent.list));
                    let written = self.write(&client, base, &wanted).await;
                    if self.refusals.note(written.as_ref().err()) {
                        // Nobody listens any more only while the operator stops.
                        let _ = self.shared.changed.send(self.refusals.fleet.clone());
                    }
                    match written {
                        Ok((instance, version)) => {
                            if !is_lost {
                                pause = FIRST_PAUSE;
                            }
                            sent = Some(Sent { instance, version, list: wanted, whole_after: None });
                        }
                        Err(error) => {
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
                ended = self.ways.changed() => if ended.is_err() { return },
            }
        }
    }

    async fn write(
        &self,
        client: &Client,
        known: Option<(Version, &DesiredList)>,
        wanted: &DesiredList,
    ) -> Result<(String, Version), ClientError> {
        let _permit = self.shared.writes.acquire().await;
        let version = self.shared.versions.next();
        let accepted = match known {
            Some((base, old)) => {
                let (set, remove) = change(old, wanted);
                client.patch(&DesiredChange { base, version, set, remove }).await?
            }
            None => client.put(version, Arc::clone(wanted)).await?,
        };
        Ok((accepted.instance, accepted.version))
    }
}

#[cfg(test)]
mod tests {
    use internment::ArcIntern;
    use lorikeet_api::{AdapterReport, DesiredAdapter};

    use super::*;

    fn said(name: &str, rank: u32) -> Said {
        let name = name.to_owned();
        ArcIntern::new(AdapterReport { name, rank, ..AdapterReport::default() })
    }

    fn report(adapters: Vec<Said>, removed: &[&str]) -> Report {
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
    fn names_that_vanish_are_missed_and_those_that_came_are_not_counted_again() {
        let list = |names: &[&str]| -> DesiredList {
            let one = |name: &&str| DesiredAdapter { name: (*name).to_owned(), ..DesiredAdapter::default() };
            names.iter().map(|name| ArcIntern::new(one(name))).collect()
        };
        let version = Version { epoch: 1, sequence: 1 };
        let mut sent = Sent { instance: "i".to_owned(), version, list: list(&["a", "c"]), whole_after: None };
        let mut held = |names: &[&str], losses| {
            let report = Arc::new(report(names.iter().map(|name| said(name, 1)).collect(), &[]));
            sent.is_lost_by(&Held { report, losses })
        };
        assert!(held(&["a", "b"], 0));
        assert!(!held(&["a", "b", "c"], 0));
        assert!(held(&["b", "c"], 1));
    }

    #[test]
    fn a_refusal_is_told_once_it_is_one_and_when_it_is_over() {
        let (fleet, now) = (FleetKey::default(), Arc::default());
        let at = "127.0.0.1:1".parse().unwrap();
        let mut refusals = Refusals { fleet, at, now: Arc::clone(&now), count: 0 };
        let error = |message: &str| ClientError::Refused { status: 413, message: message.to_owned() };
        let told = || now.lock().unwrap().clone();
        assert!(!refusals.note(Some(&ClientError::Conflict)), "the whole set comes next");
        assert!(!refusals.note(None) && told().is_none());
        let late = ClientError::Unreachable("it does not answer in time".to_owned());
        for none in [&late, &ClientError::Loading, &late, &ClientError::Loading] {
            assert!(!refusals.note(Some(none)) && told().is_none(), "{none} is no refusal");
        }
        assert!(!refusals.note(Some(&error("too many"))));
        assert!(!refusals.note(Some(&late)) && told().is_none());
        assert!(refusals.note(Some(&error("too many"))));
        assert_eq!(told().as_deref(), Some("413: too many"));
        assert!(!refusals.note(Some(&error("too many"))), "the same is told once");
        assert!(!refusals.note(Some(&late)));
        assert_eq!(told().as_deref(), Some("413: too many"), "silence takes nothing back");
        assert!(refusals.note(Some(&error(&"x".repeat(1000)))));
        assert_eq!(told().unwrap().len(), LONGEST_REFUSAL);
        assert!(refusals.note(None) && told().is_none());
    }
}
