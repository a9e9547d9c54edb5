//! What scenarios wait for on a stage.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};
use serde::de::DeserializeOwned;

use crate::stage::Stage;
use crate::until::{PATIENCE, until};

impl Stage {
    /// Waits until Adapter `name` satisfies `condition`.
    #[track_caller]
    pub(crate) fn until_adapter(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&Adapter) -> bool,
    ) -> impl Future<Output = Adapter> {
        until(&format!("Adapter {name}: {what}"), PATIENCE, async move || {
            self.get::<Adapter>(name).await.filter(|adapter| condition(adapter))
        })
    }

    /// Waits until Adapter `name`'s newest spec is Ready.
    #[track_caller]
    pub(crate) fn until_adapter_ready(&self, name: &str) -> impl Future<Output = Adapter> {
        self.until_adapter(name, "Ready", is_ready_adapter)
    }

    /// Waits until Adapter `name` is not Ready for `reason`.
    #[track_caller]
    pub(crate) fn until_adapter_says(&self, name: &str, reason: Reason) -> impl Future<Output = Adapter> {
        self.until_adapter(name, reason.as_str(), move |adapter| {
            let status = adapter.status.clone().unwrap_or_default();
            status.observed_generation == adapter.metadata.generation
                && find(&status.conditions, ConditionType::Ready)
                    .is_some_and(|ready| ready.status != "True" && ready.reason == reason.as_str())
        })
    }

    /// Waits until Deployment `name`'s newest spec is Ready.
    #[track_caller]
    pub(crate) fn until_deployment_ready(&self, name: &str) -> impl Future<Output = Deployment> {
        until(&format!("Deployment {name}: Ready"), PATIENCE, async move || {
            self.get::<Deployment>(name).await.filter(is_ready_deployment)
        })
    }

    /// Waits until Deployment `name`'s newest spec is Ready, and all its Adapters are.
    #[track_caller]
    pub(crate) fn until_whole(&self, name: &str) -> impl Future<Output = Deployment> {
        until(&format!("Deployment {name}: Ready with its Adapters"), PATIENCE, async move || {
            self.get::<Deployment>(name).await.filter(is_whole)
        })
    }

    /// Waits until there is no object of kind `K` and that name.
    #[track_caller]
    pub(crate) fn until_gone<K>(&self, name: &str) -> impl Future<Output = ()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        until(&format!("{} {name} is gone", K::kind(&())), PATIENCE, async move || {
            self.get::<K>(name).await.is_none().then_some(())
        })
    }

    /// Waits until the operator has not written for `quiet`, as the audit log has it. This is a length of time and no
    /// condition: nothing else can show that nothing happens.
    pub(crate) async fn until_quiet(&self, quiet: Duration) -> usize {
        let mut count = self.audit.count();
        let mut since = Instant::now();
        until("the operator comes to rest", PATIENCE, async || {
            let now = self.audit.count();
            if now != count {
                (count, since) = (now, Instant::now());
            }
            (since.elapsed() >= quiet).then_some(count)
        })
        .await
    }
}

/// Conditions of an Adapter: all of them from the first status on.
pub(crate) const OF_ADAPTER: &[&str] = &["Accepted", "Resolved", "Loaded", "Ready", "Reconciling", "Stalled"];
/// Conditions of a Deployment.
pub(crate) const OF_DEPLOYMENT: &[&str] =
    &["Accepted", "ModelLoaded", "AdaptersReady", "Available", "Ready", "Reconciling", "Stalled"];

/// Fails unless `conditions` are of these `types`, and each speaks of that generation.
#[track_caller]
pub(crate) fn assert_conditions(conditions: &[Condition], types: &[&str], generation: Option<i64>) {
    let said: Vec<&str> = conditions.iter().map(|one| one.type_.as_str()).collect();
    assert_eq!(said, types, "{conditions:?}");
    let is_current = |one: &Condition| one.observed_generation == generation;
    assert!(conditions.iter().all(is_current), "not all of generation {generation:?}: {conditions:?}");
}

/// Whether the newest spec is Ready.
pub(crate) fn is_ready_adapter(adapter: &Adapter) -> bool {
    let status = adapter.status.clone().unwrap_or_default();
    is_ready(&status.conditions, status.observed_generation, adapter.metadata.generation)
}

/// Whether the newest spec is Ready.
pub(crate) fn is_ready_deployment(deployment: &Deployment) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    is_ready(&status.conditions, status.observed_generation, deployment.metadata.generation)
}

/// Whether the newest spec is Ready, and all Adapters that count for it.
pub(crate) fn is_whole(deployment: &Deployment) -> bool {
    let conditions = deployment.status.iter().flat_map(|status| &status.conditions);
    let mut of_adapters = conditions.filter(|one| one.type_ == ConditionType::AdaptersReady.as_str());
    is_ready_deployment(deployment) && of_adapters.any(|one| one.status == "True")
}

fn is_ready(conditions: &[Condition], observed: Option<i64>, generation: Option<i64>) -> bool {
    observed == generation
        && find(conditions, ConditionType::Ready).is_some_and(|condition| condition.status == "True")
}
