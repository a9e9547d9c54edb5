//! Invalid, valid, invalid again, for every field of both kinds: what is invalid is refused by name and changes nothing that
//! serves; what is valid becomes Ready. The fields are those of the schema: one that has no row fails.

mod rows;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _, stream};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};
use lorikeet_tests::args;
use serde_json::Value;

use self::rows::{Refused, Row, of_adapter, of_deployment};
use crate::account::yaml;
use crate::manifests::{adapter, deployment, secret, with};
use crate::stage::{
    OF_ADAPTER, OF_DEPLOYMENT, Stage, assert_conditions, is_ready_adapter, is_ready_deployment,
};
use crate::until::{PATIENCE, until};

/// Rows that are gone through side by side: they wait more than they work.
const LANES: usize = 6;

/// The fields of a kind's `spec`, as its definition has them: `/model/source`.
fn fields(plural: &str) -> BTreeSet<String> {
    let path = args::root().join(format!("crds/yaml/{plural}.yaml"));
    let definition = yaml(&std::fs::read_to_string(path).expect("a definition")).remove(0);
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let mut found = BTreeSet::new();
    collect(definition.pointer(schema).expect("a schema"), "", &mut found);
    found
}

fn collect(schema: &Value, at: &str, into: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            properties.iter().for_each(|(name, field)| collect(field, &format!("{at}/{name}"), into));
        }
        None => drop(into.insert(at.to_owned())),
    }
}

#[test]
fn every_field_of_both_kinds_has_a_row() {
    for (plural, rows) in [("deployments", of_deployment()), ("adapters", of_adapter("any"))] {
        let rows: BTreeSet<String> = rows.iter().map(|row| row.field.to_owned()).collect();
        assert_eq!(fields(plural), rows, "{plural}: fields and rows differ");
    }
}

/// One row on the stage: a Deployment or an Adapter of its own.
struct Case<'a> {
    stage: &'a Stage,
    row: &'a Row,
    /// Without the field.
    plain: Value,
}

impl Case<'_> {
    fn name(&self) -> &str {
        self.plain["metadata"]["name"].as_str().expect("a name")
    }

    fn is_adapter(&self) -> bool {
        self.plain["kind"] == "Adapter"
    }

    fn api(&self) -> Api<DynamicObject> {
        let resource = if self.is_adapter() {
            ApiResource::erase::<Adapter>(&())
        } else {
            ApiResource::erase::<Deployment>(&())
        };
        Api::namespaced_with(self.stage.client.clone(), &self.stage.namespace, &resource)
    }

    /// `kubectl apply --server-side` with `value` in the field; what the API server said when it refused.
    async fn apply(&self, value: &Value) -> Option<String> {
        let beside = self.row.beside.iter();
        let object = beside.fold(self.plain.clone(), |object, (at, value)| {
            with(object, &format!("/spec{at}"), value.clone())
        });
        let object = with(object, &format!("/spec{}", self.row.field), value.clone());
        let params = PatchParams::apply("kubectl").force();
        self.api()
            .patch(self.name(), &params, &Patch::Apply(&object))
            .await
            .err()
            .map(|error| error.to_string())
    }

    /// Whether the newest spec is Ready, or not for `reason`; nothing before the operator has said so.
    async fn says(&self, reason: Option<Reason>) -> Option<()> {
        let (ready, conditions, observed, generation) = if self.is_adapter() {
            let found = self.stage.get::<Adapter>(self.name()).await?;
            let status = found.status.clone().unwrap_or_default();
            (
                is_ready_adapter(&found),
                status.conditions,
                status.observed_generation,
                found.metadata.generation,
            )
        } else {
            let found = self.stage.get::<Deployment>(self.name()).await?;
            let status = found.status.clone().unwrap_or_default();
            (
                is_ready_deployment(&found),
                status.conditions,
                status.observed_generation,
                found.metadata.generation,
            )
        };
        if observed == generation {
            let types = if self.is_adapter() { OF_ADAPTER } else { OF_DEPLOYMENT };
            assert_conditions(&conditions, types, generation);
        }
        let Some(reason) = reason else { return ready.then_some(()) };
        let is_stalled = find(&conditions, ConditionType::Stalled).is_some_and(|one| one.status == "True");
        // By the name that it has among its own.
        let name = self.row.field.rsplit('/').next().unwrap_or_default();
        let ready = find(&conditions, ConditionType::Ready);
        let says = ready.is_some_and(|one| one.reason == reason.as_str() && one.message.contains(name));
        (observed == generation && is_stalled && says).then_some(())
    }

    async fn until_says(&self, reason: Option<Reason>) {
        let what = format!("{}: {}", self.row.field, reason.map_or("Ready", Reason::as_str));
        until(&what, PATIENCE, async || self.says(reason).await).await;
    }

    /// The pods that serve it.
    fn serving(&self) -> Vec<String> {
        let fakes = self.stage.kubelet.fakes();
        let of_deployment = format!("{}-runtime-", self.name());
        let serves = fakes.iter().filter(|fake| {
            if self.is_adapter() { fake.serves(self.name()) } else { fake.name().starts_with(&of_deployment) }
        });
        serves.map(|fake| fake.name().to_owned()).collect()
    }

    async fn run(&self) {
        let Row { field, good, bad, refused, .. } = self.row;
        match refused {
            Refused::AtOnce(why) => {
                self.refused_at_once(bad, why).await;
                assert!(
                    self.api().get_opt(self.name()).await.expect("an answer").is_none(),
                    "{field}: it is there"
                );
            }
            Refused::ByStatus(reason) => {
                assert_eq!(self.apply(bad).await, None, "{field}");
                self.until_says(Some(*reason)).await;
                assert!(self.serving().is_empty(), "{field}: served although it is invalid");
            }
        }
        assert_eq!(self.apply(good).await, None, "{field} = {good}");
        self.until_says(None).await;
        let before = (self.api().get(self.name()).await.expect("it is there"), self.serving());
        match refused {
            Refused::AtOnce(why) => {
                self.refused_at_once(bad, why).await;
                let after = self.api().get(self.name()).await.expect("it is there");
                assert_eq!(
                    after.metadata.generation, before.0.metadata.generation,
                    "{field}: it was changed"
                );
            }
            Refused::ByStatus(reason) => {
                assert_eq!(self.apply(bad).await, None, "{field}");
                self.until_says(Some(*reason)).await;
                assert_eq!(self.serving(), before.1, "{field}: what served was taken away");
                assert_eq!(self.apply(good).await, None, "{field}");
            }
        }
        self.until_says(None).await;
        assert_eq!(before.0.uid(), self.api().get(self.name()).await.expect("it is there").uid());
    }

    async fn refused_at_once(&self, bad: &Value, why: &str) {
        let field = self.row.field;
        let said = self.apply(bad).await.unwrap_or_else(|| panic!("{field} = {bad} was taken"));
        assert!(said.contains(why), "{field} = {bad}: expected {why:?}, got {said}");
        let path = format!("spec{}", field.replace('/', "."));
        assert!(said.contains(&path), "{field} = {bad}: expected the field's name, {path}, got {said}");
    }
}

async fn go_through(stage: &Stage, cases: Vec<(Row, Value)>) {
    let runs = cases.iter().map(|(row, plain)| async move {
        let case = Case { stage, row, plain: plain.clone() };
        (row.field, AssertUnwindSafe(case.run()).catch_unwind().await.is_ok())
    });
    let ended: Vec<_> = stream::iter(runs).buffer_unordered(LANES).collect().await;
    let failed: Vec<_> = ended.iter().filter(|(_, is_well)| !is_well).map(|(field, _)| field).collect();
    assert!(failed.is_empty(), "{failed:?}: their panics are above");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_a_deployment_goes_from_invalid_to_valid_and_back() {
    let stage = Stage::with_operator("fields").await;
    // Pods that are to have it do not start without.
    stage.kubectl.apply(&[secret(&stage.namespace, "keys")]);
    let one = |(at, row)| (row, deployment(&stage.namespace, &format!("d-{at}"), 1));
    go_through(&stage, of_deployment().into_iter().enumerate().map(one).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_an_adapter_goes_from_invalid_to_valid_and_back() {
    let stage = Stage::with_operator("fields-of-adapters").await;
    stage.kubectl.apply(&[deployment(&stage.namespace, "base", 1)]);
    stage.until_deployment_ready("base").await;
    let one = |(at, row)| (row, adapter(&stage.namespace, &format!("a-{at}"), "base"));
    go_through(&stage, of_adapter(&stage.namespace).into_iter().enumerate().map(one).collect()).await;
}
