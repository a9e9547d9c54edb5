//! Who leads: a Lease, as client-go keeps it. Each term has a number that is greater than any before: replicas refuse what
//! a former leader still sends. Where one of them has heard of a greater number, the term takes one above that. Must not know
//! what is led.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::cluster::client::Gate;
use crate::cluster::clock::Clock;
use crate::cluster::config::LeaseConfig;
use crate::replicas::versions::Versions;

/// Ten years in minutes: no clock is that far ahead.
const FURTHEST: i32 = 5_256_000;

/// Renewals that are given up as late before the Lease is.
const ATTEMPTS: u32 = 3;

/// One process's view of the Lease, and the gate that it opens.
pub struct Candidate {
    api: Api<Lease>,
    config: LeaseConfig,
    namespace: String,
    gate: Gate,
    clock: Clock,
}

/// A term: from the moment that the Lease is ours.
pub struct Term {
    candidate: Candidate,
    lease: Lease,
    renewed: Instant,
}

/// The Lease is somebody else's, or could not be renewed in time.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Somebody else has it.
    #[error("the Lease is held by {0:?}")]
    Taken(String),
    /// Nobody answered.
    #[error("the Lease was not renewed for {0:?}: {1}")]
    NotRenewed(Duration, kube::Error),
}

/// What to do about a Lease as it is.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    /// Nobody has it, or its holder is this process's former self, or gone.
    Take,
    /// Somebody has it, and may still.
    Wait,
}

/// `unchanged` is for how long this process has seen the Lease as it is: no clock but its own is compared.
fn consider(spec: &LeaseSpec, identity: &str, unchanged: Duration) -> Move {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let lasts = Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0));
    if holder.is_empty() || holder == identity || unchanged > lasts { Move::Take } else { Move::Wait }
}

/// The number of the first term under a new Lease. Minutes, so that a Lease that somebody deleted does not start again
/// below the terms that replicas have heard of.
fn first_transition(now: Timestamp) -> i32 {
    i32::try_from(now.as_second() / 60).unwrap_or(i32::MAX)
}

/// The transitions of a term that has `own` and meets what `others` wrote in a term of that number: as many as lead above
/// it. A number that no clock can have led to is a replica's fault, and would use up the numbers that there are.
fn raised(own: i32, others: u64, now: Timestamp) -> i32 {
    let furthest = first_transition(now).saturating_add(FURTHEST);
    let above = i32::try_from(others).ok().filter(|above| *above <= furthest);
    above.map_or(own, |above| own.max(above))
}

impl Candidate {
    /// A candidate for the Lease in `namespace`. While it leads `gate` is open.
    #[must_use]
    pub fn new(client: Client, namespace: &str, config: LeaseConfig, gate: Gate, clock: Clock) -> Self {
        Self { api: Api::namespaced(client, namespace), config, namespace: namespace.to_owned(), gate, clock }
    }

    /// Waits until the Lease is ours.
    pub async fn lead(self) -> Term {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(Some((lease, renewed))) => {
                    self.gate.open_until(renewed + self.config.deadline());
                    return Term { candidate: self, lease, renewed };
                }
                Ok(None) => {}
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
                Err(error) => tracing::warn!(%error, "the Lease cannot be read or taken"),
            }
            tokio::time::sleep(self.config.retry()).await;
        }
    }

    async fn attempt(
        &self,
        seen: &mut Option<(Option<String>, Instant)>,
    ) -> kube::Result<Option<(Lease, Instant)>> {
        let Some(lease) = self.api.get_opt(&self.config.name).await? else {
            let now = self.clock.now();
            let lease = self.lease(first_transition(now), now);
            let renewed = Instant::now();
            return Ok(Some((self.api.create(&PostParams::default(), &lease).await?, renewed)));
        };
        let version = &lease.metadata.resource_version;
        let since = match seen {
            Some((of, since)) if of == version => *since,
            _ => seen.insert((version.clone(), Instant::now())).1,
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if consider(&spec, &self.config.identity, since.elapsed()) == Move::Wait {
            return Ok(None);
        }
        let mut taken = self.lease(spec.lease_transitions.unwrap_or(0).saturating_add(1), self.clock.now());
        taken.metadata = lease.metadata;
        let renewed = Instant::now();
        let taken = self.api.replace(&self.config.name, &PostParams::default(), &taken).await?;
        Ok(Some((taken, renewed)))
    }

    fn lease(&self, transitions: i32, now: Timestamp) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.identity.clone()),
                lease_duration_seconds: Some(
                    i32::try_from(self.config.duration.as_secs()).unwrap_or(i32::MAX),
                ),
                lease_transitions: Some(transitions),
                acquire_time: Some(MicroTime(now)),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl Term {
    /// The number of the term: greater than any before.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let transitions = self.lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        u64::try_from(transitions.unwrap_or(0)).unwrap_or(0) + 1
    }

    /// Renews the Lease until it is lost. `versions` are of the term: it is raised above those that others left.
    pub async fn hold(&mut self, versions: &Versions) -> Lost {
        let Self { candidate: Candidate { config, .. }, .. } = &self;
        let (retry, deadline) = (config.retry(), config.deadline());
        let mut pause = retry;
        loop {
            tokio::time::sleep(pause).await;
            let left = deadline.saturating_sub(self.renewed.elapsed());
            // One attempt may hang, as on a connection that is gone without a word, and another one take its place.
            let limit = left.min(deadline / ATTEMPTS);
            let began = Instant::now();
            // With no time left it is not even asked: another process may have the Lease.
            let renewing = async {
                if left.is_zero() {
                    std::future::pending().await
                } else {
                    self.renew(versions.others()).await
                }
            };
            let error = match tokio::time::timeout(limit, renewing).await {
                Ok(Ok(())) => {
                    pause = retry;
                    self.renewed = began;
                    versions.raise(self.epoch());
                    self.candidate.gate.open_until(began + deadline);
                    continue;
                }
                Ok(Err(Failure::Taken(holder))) => return Lost::Taken(holder),
                Ok(Err(Failure::Api(error))) => error,
                Err(late) => kube::Error::Service(late.into()),
            };
            let since = self.renewed.elapsed();
            if since >= deadline {
                return Lost::NotRenewed(since, error);
            }
            pause = retry / ATTEMPTS;
            tracing::warn!(%error, "the Lease was not renewed; trying again");
        }
    }

    async fn renew(&mut self, others: u64) -> Result<(), Failure> {
        let name = &self.candidate.config.name;
        let mut next = self.lease.clone();
        if let Some(spec) = &mut next.spec {
            let now = self.candidate.clock.now();
            spec.renew_time = Some(MicroTime(now));
            spec.lease_transitions = spec.lease_transitions.map(|own| raised(own, others, now));
        }
        match self.candidate.api.replace(name, &PostParams::default(), &next).await {
            Ok(lease) => self.lease = lease,
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                let there = self.candidate.api.get(name).await.map_err(Failure::Api)?;
                if !self.is_ours(&there) {
                    let holder = there.spec.and_then(|spec| spec.holder_identity);
                    return Err(Failure::Taken(holder.unwrap_or_default()));
                }
                // Our own write whose answer was lost, or somebody's label: go on from there.
                self.lease = there;
                return Box::pin(self.renew(others)).await;
            }
            Err(error) => return Err(Failure::Api(error)),
        }
        Ok(())
    }

    /// Whether it is of this term: another one, of this process's namesake too, was acquired at another time.
    fn is_ours(&self, there: &Lease) -> bool {
        let term = |lease: &Lease| {
            let spec = lease.spec.clone().unwrap_or_default();
            (lease.metadata.uid.clone(), spec.holder_identity, spec.acquire_time)
        };
        term(there) == term(&self.lease)
    }

    /// Gives the Lease back, so that another process need not wait for its end.
    pub async fn release(self) {
        if let Err(error) = self.given_back().await {
            tracing::warn!(%error, "the Lease was not given back");
        }
    }

    async fn given_back(&self) -> kube::Result<()> {
        match self.give_back(self.lease.clone()).await {
            // It stopped before it heard of its last renewal.
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                let there = self.candidate.api.get(&self.candidate.config.name).await?;
                if self.is_ours(&there) { self.give_back(there).await } else { Ok(()) }
            }
            done => done,
        }
    }

    async fn give_back(&self, mut lease: Lease) -> kube::Result<()> {
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.candidate.clock.now()));
        }
        let name = &self.candidate.config.name;
        self.candidate.api.replace(name, &PostParams::default(), &lease).await.map(drop)
    }
}

enum Failure {
    Taken(String),
    Api(kube::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_from_nobody_from_ones_former_self_and_from_one_who_is_gone() {
        let second = Duration::from_secs(1);
        assert_eq!(consider(&spec(""), "me", Duration::ZERO), Move::Take);
        assert_eq!(consider(&LeaseSpec::default(), "me", Duration::ZERO), Move::Take);
        assert_eq!(consider(&spec("me"), "me", Duration::ZERO), Move::Take);
        assert_eq!(consider(&spec("other"), "me", 15 * second), Move::Wait);
        assert_eq!(consider(&spec("other"), "me", 16 * second), Move::Take);
    }

    #[test]
    fn a_lease_made_anew_begins_above_the_terms_of_the_old_one() {
        let [early, late] =
            [1_700_000_000, 1_700_000_120].map(|second| Timestamp::from_second(second).unwrap());
        assert_eq!(first_transition(late) - first_transition(early), 2);
    }

    #[test]
    fn a_term_is_raised_above_others_but_not_where_no_clock_can_have_led() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let own = first_transition(now);
        let met = |others: i32| raised(own, u64::try_from(others).unwrap(), now);
        assert_eq!(met(0), own);
        assert_eq!(met(own), own, "the term's number is one more already");
        // An hour, and a term of the same number.
        assert_eq!(met(own + 60), own + 60);
        assert_eq!(met(own + 1), own + 1);
        assert_eq!(met(own + FURTHEST + 1), own);
        assert_eq!(raised(own, u64::MAX, now), own);
    }
}
