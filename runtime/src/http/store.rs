//! The store behind the faces: [`Registry`] by the adapters' room.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lorikeet_api::{Accepted, AdapterReport, DesiredChange, DesiredSet, ErrorCode, ReportedSet};

use super::registry::{Refusal, Registry};
use crate::adapters::pin::Pin;
use crate::adapters::store::{AdapterStore, PinError, StoreError};
use crate::metrics::{Family, TierFigures};

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self { code: error.code, message: error.message, retry_after: None }
    }
}

impl From<PinError> for Refusal {
    fn from(error: PinError) -> Self {
        let message = error.to_string();
        match error {
            PinError::Unknown => Self { code: ErrorCode::UnknownAdapter, message, retry_after: None },
            PinError::Refused { code, .. } => Self { code, message, retry_after: None },
            PinError::Unavailable { code, retry_after, .. } => {
                Self { code, message, retry_after: Some(retry_after) }
            }
        }
    }
}

/// A refusal of the content of `name`: whoever asked for it may not know that there is a file behind the name.
fn named(name: &str, error: PinError) -> Refusal {
    let is_known = !matches!(error, PinError::Unknown);
    let mut refusal = Refusal::from(error);
    if is_known {
        refusal.message = format!("adapter {name:?} cannot be served: {}", refusal.message);
    }
    refusal
}

impl Registry for AdapterStore {
    fn knows(&self, name: &str) -> bool {
        self.knows(name)
    }

    fn names(&self) -> Vec<String> {
        self.servable()
    }

    fn try_pin(&self, name: &str) -> Option<Pin> {
        self.try_pin(name)
    }

    fn pin<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Pin, Refusal>> {
        async move { self.pin(name).await.map_err(|error| named(name, error)) }.boxed()
    }

    fn ready(&self) -> bool {
        self.ready()
    }

    fn apply(&self, set: DesiredSet) -> Result<Accepted, Refusal> {
        Ok(self.apply(set)?)
    }

    fn change(&self, change: DesiredChange) -> Result<Accepted, Refusal> {
        Ok(self.change(change)?)
    }

    fn remove(&self, name: &str) -> Result<Accepted, Refusal> {
        Ok(self.remove(name)?)
    }

    fn adapter(&self, name: &str) -> Option<AdapterReport> {
        self.adapter(name)
    }

    fn report(&self) -> ReportedSet {
        self.report()
    }

    fn report_after<'a>(
        &'a self,
        instance: &'a str,
        after: u64,
        wait: Duration,
    ) -> BoxFuture<'a, ReportedSet> {
        self.report_after(instance, after, wait).boxed()
    }

    fn load<'a>(
        &'a self,
        name: &'a str,
        source: &'a str,
        in_place: bool,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        async move { self.load(name, source, in_place).await.map_err(Refusal::from) }.boxed()
    }

    fn unload<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), Refusal>> {
        async move { self.unload(name).await.map_err(Refusal::from) }.boxed()
    }

    fn figures(&self) -> TierFigures {
        let now = self.figures();
        let (disk, host) = (&now.disk, &now.host);
        let plain = [
            ("adapters_registered", "Names that requests may ask for.", false, now.registered as u64),
            ("host_adapters", "Adapters in host memory.", false, now.loaded as u64),
            ("adapters_loading", "Loads under way.", false, now.loading as u64),
            ("host_bytes", "Bytes of adapters in host memory.", false, host.used),
            ("host_budget_bytes", "Bytes that they may take.", false, host.budget),
            ("host_evictions_total", "Adapters that left host memory.", true, now.evictions),
            ("host_misses_total", "Requests whose adapter was not in host memory.", true, now.misses),
            ("disk_bytes", "Bytes of the disk cache.", false, disk.used),
            ("disk_budget_bytes", "Bytes that it may take.", false, disk.budget),
            ("disk_evictions_total", "Contents put out of the disk cache.", true, disk.evictions),
        ];
        let plain = plain.into_iter().map(|(name, help, counter, value)| Family {
            name: format!("lorikeet_{name}"),
            help,
            counter,
            series: vec![("", "", value as f64)],
        });
        let tiers = |name: &str, help, disk: f64, remote: f64| Family {
            name: name.to_owned(),
            help,
            counter: true,
            series: vec![("tier", "disk", disk), ("tier", "remote", remote)],
        };
        let failures = now.failures.iter().map(|(code, count)| ("code", code.as_str(), *count as f64));
        let loads = [
            tiers(
                "lorikeet_adapter_loads_total",
                "Loads, by the tier that they came from.",
                now.from_disk.count as f64,
                now.from_remote.count as f64,
            ),
            tiers(
                "lorikeet_adapter_load_seconds_total",
                "Time that loads took, by the tier that they came from.",
                now.from_disk.seconds,
                now.from_remote.seconds,
            ),
            Family {
                name: "lorikeet_adapter_load_failures_total".to_owned(),
                help: "Loads that failed, by code.",
                counter: true,
                series: failures.collect(),
            },
        ];
        TierFigures { families: plain.chain(loads).collect() }
    }
}
