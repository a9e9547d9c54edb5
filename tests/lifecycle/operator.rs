//! Changes what names mean, over the two faces that there are for it, and says in the ledger what may be believed when.

use std::collections::BTreeMap;

use lorikeet_api::{
    ADAPTERS_PATH, AdapterReport, AdapterState, DesiredAdapter, DesiredSet, ReportedSet, Version,
};
use lorikeet_tests::client::Client;
use lorikeet_tests::made::Random;
use lorikeet_tests::until::until;
use serde_json::json;

use crate::ledger::Meaning;
use crate::traffic::{NAMES, Traffic};

/// One of the two faces.
pub(crate) enum Operator {
    /// vLLM's.
    Endpoints(Endpoints),
    /// The desired set.
    Desired(Desired),
}

impl Operator {
    /// Changes names until the users are done. Returns how often.
    pub(crate) async fn work(&mut self, traffic: &Traffic, seed: u64) -> usize {
        let mut random = Random(!seed);
        let mut changes = 0;
        while !traffic.over() {
            let name = *random.pick(&NAMES);
            let next = (random.below(4) > 0).then(|| random.pick(traffic.adapters()).clone());
            self.change(traffic, name, &next).await;
            // The change is confirmed: no other meaning is right any more.
            traffic.ask(name, &mut random).await;
            changes += 1;
        }
        changes
    }

    /// Takes every name back.
    pub(crate) async fn forget_all(&mut self, traffic: &Traffic) {
        for name in NAMES {
            self.change(traffic, name, &None).await;
        }
    }

    async fn change(&mut self, traffic: &Traffic, name: &str, next: &Meaning) {
        traffic.ledger.begin(name, next);
        match self {
            Self::Endpoints(endpoints) => endpoints.change(name, next).await,
            Self::Desired(desired) => desired.change(name, next).await,
        }
        traffic.ledger.settle(name, next);
    }
}

/// vLLM's load and unload, in place where the name is taken.
pub(crate) struct Endpoints {
    admin: Client,
    adapters: String,
    held: BTreeMap<String, Meaning>,
}

impl Endpoints {
    pub(crate) fn new(admin: Client, adapters: &str) -> Self {
        Self { admin, adapters: adapters.to_owned(), held: BTreeMap::new() }
    }

    async fn change(&mut self, name: &str, next: &Meaning) {
        let held = self.held.insert(name.to_owned(), next.clone()).flatten();
        let (path, body, status) = match next {
            Some(adapter) => {
                let path = format!("{}/{adapter}", self.adapters);
                (
                    "/v1/load_lora_adapter",
                    json!({"lora_name": name, "lora_path": path, "load_inplace": held.is_some()}),
                    200,
                )
            }
            None => (
                "/v1/unload_lora_adapter",
                json!({"lora_name": name}),
                if held.is_some() { 200 } else { 404 },
            ),
        };
        let answer = self.admin.post(path, &body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
        self.refused(name).await;
    }

    /// A load that fails changes nothing.
    async fn refused(&self, name: &str) {
        let bad = format!("{}/../../bad/wrong_hidden", self.adapters);
        let bad = std::fs::canonicalize(bad).expect("the suite has an adapter of the wrong width");
        let body = json!({"lora_name": name, "lora_path": bad, "load_inplace": true});
        let answer = self.admin.post("/v1/load_lora_adapter", &body).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    }
}

/// The whole set, under a version that grows.
pub(crate) struct Desired {
    admin: Client,
    adapters: String,
    set: DesiredSet,
    /// The digest of each adapter, once it was reported.
    digests: BTreeMap<String, String>,
}

impl Desired {
    pub(crate) fn new(admin: Client, adapters: &str) -> Self {
        Self { admin, adapters: adapters.to_owned(), set: DesiredSet::default(), digests: BTreeMap::new() }
    }

    /// Says so of `name`, and waits until it is.
    pub(crate) async fn change(&mut self, name: &str, next: &Meaning) {
        self.set.adapters.retain(|adapter| adapter.name != name);
        if let Some(adapter) = next {
            let source = format!("{}/{adapter}", self.adapters);
            self.set.adapters.push(DesiredAdapter {
                name: name.to_owned(),
                source,
                resident: true,
                ..DesiredAdapter::default()
            });
        }
        self.set.version = Version { epoch: 1, sequence: self.set.version.sequence + 1 };
        let body = serde_json::to_value(&self.set).expect("a set is JSON");
        let request = self.admin.request(reqwest::Method::PUT, ADAPTERS_PATH).json(&body);
        let answer = Client::send(request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text);
        self.until_settled(name, next).await;
    }

    /// Long-polls the report until `name` is what was asked for.
    async fn until_settled(&mut self, name: &str, next: &Meaning) {
        let mut after = None;
        until(&format!("{name} is {next:?}"), async || {
            let query = after.map_or(String::new(), |after| format!("?after={after}&wait_seconds=10"));
            let answer = self.admin.get(&format!("{ADAPTERS_PATH}{query}")).await;
            let report: ReportedSet = serde_json::from_value(answer.ok()).expect("a report");
            after = Some(report.report);
            // A partial report leaves out what did not change: ask for the whole.
            let whole = self.admin.get(ADAPTERS_PATH).await;
            let report: ReportedSet = serde_json::from_value(whole.ok()).expect("a report");
            let found = report.adapters.into_iter().find(|adapter| adapter.name == name);
            if self.is_settled(found.as_ref(), next) { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Whether what is reported of a name is what it should mean.
    fn is_settled(&mut self, found: Option<&AdapterReport>, next: &Meaning) -> bool {
        let Some(adapter) = next else {
            return found.is_none_or(|adapter| adapter.state == AdapterState::Draining);
        };
        let Some(found) = found else { return false };
        assert_ne!(found.state, AdapterState::Failed, "{found:?}");
        let known = self.digests.get(adapter);
        let is_ours = found.source == format!("{}/{adapter}", self.adapters)
            && known.is_none_or(|digest| found.digest.as_ref() == Some(digest));
        if found.state != AdapterState::Ready || !is_ours {
            return false;
        }
        let digest = found.digest.clone().expect("a ready adapter has a digest");
        self.digests.insert(adapter.clone(), digest);
        true
    }
}
