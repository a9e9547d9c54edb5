//! Looks at a running `up` from another process: its objects, where its replicas are, and what they say now. Reads only.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use lorikeet_crds::{Adapter, Deployment};

use crate::decide::validate::AdapterKey;
use crate::fleet::{Contact, Fleet, Replica};
use crate::replicas::client::{Access, Client, Endpoint};
use crate::up::carrier::named_by;
use crate::up::fleets::{HOST, Noted, capacity};
use crate::up::state::Objects;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LookError {
    #[error("--state {folder}: no `up` keeps its state there: {source}")]
    NoState { folder: PathBuf, source: io::Error },
    #[error("no Adapter {0}/{1}; there are {2}")]
    NoAdapter(String, String, String),
    #[error("{0}: not as `up` writes it: {1}")]
    Unreadable(PathBuf, serde_yaml::Error),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// The fleet of the Adapter `named` (NAME or NAMESPACE/NAME), as it is now, and the Adapter's key.
///
/// # Errors
/// [`LookError`].
pub fn fleet_of(state: &Path, named: &str) -> Result<(Fleet, AdapterKey), LookError> {
    // It may have been installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let run = state.join("run");
    let text = std::fs::read_to_string(run.join("replicas.yaml"))
        .map_err(|source| LookError::NoState { folder: state.to_owned(), source })?;
    let noted: BTreeMap<String, Vec<Noted>> = serde_yaml::from_str(&text)
        .map_err(|error| LookError::Unreadable(run.join("replicas.yaml"), error))?;
    let (namespace, name) = named.split_once('/').unwrap_or(("default", named));
    let key = (namespace.to_owned(), name.to_owned());
    let (deployments, adapters) = (Objects::<Deployment>::open(state)?, Objects::<Adapter>::open(state)?);
    let Some(adapter) = adapters.get(&key) else {
        let names: Vec<String> = adapters.all().map(|(key, _)| format!("{}/{}", key.0, key.1)).collect();
        return Err(LookError::NoAdapter(key.0, key.1, names.join(", ")));
    };
    let fleet_key = named_by(&key, adapter);
    let access = Arc::new(Access {
        authority: std::fs::read_to_string(run.join("admin/ca.crt"))?,
        token: std::fs::read_to_string(run.join("admin/token"))?.trim().to_owned(),
    });
    let noted =
        noted.get(&format!("{}/{}", fleet_key.namespace, fleet_key.name)).cloned().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let replicas = runtime.block_on(async {
        futures::future::join_all(noted.into_iter().map(|one| ask(one, Arc::clone(&access)))).await
    });
    let deployment = deployments.get(&(fleet_key.namespace.clone(), fleet_key.name.clone())).cloned();
    let of_fleet = adapters.all().filter(|(key, adapter)| named_by(key, adapter) == fleet_key);
    let fleet = Fleet {
        adapters: of_fleet.map(|(_, adapter)| Arc::clone(adapter)).collect(),
        namespaces: BTreeMap::new(),
        probes: BTreeMap::new(),
        replicas,
        capacity: capacity(deployment.as_deref()),
        claims: std::fs::read_to_string(run.join("claims"))?,
        url: deployment.as_ref().and_then(|deployment| deployment.status.as_ref()?.url.clone()),
        workload: None,
        deployment,
        key: fleet_key,
    };
    Ok((fleet, key))
}

async fn ask(noted: Noted, access: Arc<Access>) -> Replica {
    let contact = match (noted.admin, noted.error) {
        (_, Some(error)) => Contact::Unreachable { error, since: Timestamp::now(), last: None },
        (None, None) => Contact::Pending,
        (Some(address), None) => {
            let (host, incarnation) = (HOST.to_owned(), noted.incarnation.clone());
            let client = Client::new(&Endpoint { host, address, incarnation, access });
            let asked = async { client?.report(None).await };
            match asked.await {
                Ok(report) => Contact::Reported(Arc::new(report)),
                Err(error) => {
                    Contact::Unreachable { error: error.to_string(), since: Timestamp::now(), last: None }
                }
            }
        }
    };
    Replica { name: noted.name, incarnation: noted.incarnation, leaving: noted.leaving, contact }
}
