//! Looks at a running `up` from another process: its objects, where its replicas are, and what they say now. Reads only.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use lorikeet_crds::{Adapter, Deployment};

use crate::args::WhyArgs;
use crate::fleet::{Contact, Fleet, Replica, Unread};
use crate::replicas::client::{Access, Client, ClientError, Endpoint, Pass};
use crate::up::carrier::{Labels, NAMESPACES, labels_of, named_by};
use crate::up::fleets::{HOST, Noted, capacity};
use crate::up::lock::is_held;
use crate::up::state::Objects;
use crate::why::{NoAdapter, Sight, named};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LookError {
    #[error("--state {folder}: no `up` keeps its state there: {source}")]
    NoState { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    NoAdapter(#[from] NoAdapter),
    #[error("{0}: not as `up` writes it: {1}")]
    Unreadable(PathBuf, serde_yaml::Error),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// The fleet of the Adapter that is asked about, as it is now.
///
/// # Errors
/// [`LookError`].
pub fn sight(state: &Path, asked: &WhyArgs) -> Result<Sight, LookError> {
    // It may have been installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let run = state.join("run");
    let text = std::fs::read_to_string(run.join("replicas.yaml"))
        .map_err(|source| LookError::NoState { folder: state.to_owned(), source })?;
    let noted: BTreeMap<String, Vec<Noted>> = serde_yaml::from_str(&text)
        .map_err(|error| LookError::Unreadable(run.join("replicas.yaml"), error))?;
    let (deployments, adapters) = (Objects::<Deployment>::open(state)?, Objects::<Adapter>::open(state)?);
    let namespace = asked.namespace.as_deref().unwrap_or("default");
    let all: Vec<&Adapter> = adapters.all().map(|(_, one)| one.as_ref()).collect();
    let key = named(all.iter().copied(), &asked.adapter, namespace)?;
    let fleet_key = adapters.get(&key).map(|adapter| named_by(&key, adapter)).unwrap_or_default();
    let newest = Pass {
        authority: std::fs::read_to_string(run.join("admin/ca.crt"))?,
        token: std::fs::read_to_string(run.join("admin/token"))?.trim().to_owned(),
    };
    let access = Arc::new(Access { newest, former: None });
    let noted =
        noted.get(&format!("{}/{}", fleet_key.namespace, fleet_key.name)).cloned().unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let replicas = runtime.block_on(async {
        futures::future::join_all(noted.into_iter().map(|one| ask(one, Arc::clone(&access)))).await
    });
    let deployment = deployments.get(&(fleet_key.namespace.clone(), fleet_key.name.clone())).cloned();
    let of_fleet = adapters.all().filter(|(key, adapter)| named_by(key, adapter) == fleet_key);
    let adapters: Vec<Arc<Adapter>> = of_fleet.map(|(_, adapter)| Arc::clone(adapter)).collect();
    let known: Labels = match std::fs::read_to_string(run.join(NAMESPACES)) {
        Ok(text) => {
            serde_yaml::from_str(&text).map_err(|error| LookError::Unreadable(run.join(NAMESPACES), error))?
        }
        Err(_) => Labels::new(),
    };
    let fleet = Fleet {
        namespaces: labels_of(&known, &adapters),
        adapters,
        unread: Unread::default(),
        probes: BTreeMap::new(),
        replicas,
        capacity: capacity(deployment.as_deref()),
        moves: 0,
        claims: std::fs::read_to_string(run.join("claims"))?,
        url: deployment.as_ref().and_then(|deployment| deployment.status.as_ref()?.url.clone()),
        workload: None,
        deployment,
        key: fleet_key,
    };
    let stopped = !is_held(state)?;
    Ok(Sight { fleet, key, written: None, hindrances: BTreeMap::new(), stopped })
}

async fn ask(noted: Noted, access: Arc<Access>) -> Replica {
    let contact = match (noted.admin, noted.error) {
        (_, Some(error)) => Contact::Unreachable { error, since: Timestamp::now(), last: None },
        (None, None) => Contact::Pending,
        (Some(address), None) => {
            let (host, incarnation) = (HOST.to_owned(), noted.incarnation.clone());
            let client = Client::new(&Endpoint { host, address, incarnation, access });
            let asked = async { client?.report(None, false).await };
            match asked.await {
                Ok(report) => Contact::Reported(Arc::new(report)),
                Err(ClientError::Loading) => Contact::Loading,
                Err(error) => {
                    Contact::Unreachable { error: error.to_string(), since: Timestamp::now(), last: None }
                }
            }
        }
    };
    Replica {
        name: noted.name,
        incarnation: noted.incarnation,
        leaving: noted.leaving,
        contact,
        refusal: None,
    }
}
