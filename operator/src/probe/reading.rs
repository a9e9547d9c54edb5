//! Reading one source: by the operator itself where it may, and else, or where that fails, beside a replica. Whoever did not
//! answer a short while ago is left in peace: of thousands of sources there the first few wait, not all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::fleet::{FleetKey, Probe};
use crate::probe::beside::{self, Asking, Readers};
use crate::probe::files;
use crate::probe::memory::Outcome;
use crate::probe::wanted::{Place, Readable, Wanted};
use crate::probe::web::{Web, WebError};
use crate::replicas::client::{Client, ClientError, Endpoint};

/// Who did not answer is not asked again before.
const AVOIDED: Duration = Duration::from_secs(30);
/// Folders that are read at once: a mount that hangs keeps whoever reads it for ever.
const FOLDERS: usize = 8;
/// Clients of one fleet's inspectors that are kept.
const CLIENTS: usize = 1024;

/// What reads.
pub(super) struct Reading {
    /// The longest that one try may take.
    limit: Duration,
    /// What the operator may read itself.
    readable: Readable,
    web: Option<Web>,
    /// Turns of those that the operator reads itself.
    own: Semaphore,
    folders: Arc<Semaphore>,
    /// Turns of one fleet.
    of_fleet: usize,
    fleets: Mutex<HashMap<FleetKey, Fleet>>,
    avoided: Mutex<HashMap<String, Instant>>,
}

/// Who reads for a fleet now, and how many sources at once.
#[derive(Clone)]
struct Fleet {
    readers: Readers,
    turns: Arc<Semaphore>,
    clients: Arc<Clients>,
}

/// The clients of a fleet's inspectors: connections are kept while there is something to read.
#[derive(Default)]
struct Clients(Mutex<HashMap<SocketAddr, (Endpoint, Client)>>);

impl Clients {
    fn of(&self, endpoint: &Endpoint) -> Result<Client, ClientError> {
        let mut clients = lock(&self.0);
        if let Some((of, client)) = clients.get(&endpoint.address)
            && of == endpoint
        {
            return Ok(client.clone());
        }
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        let client = Client::new(endpoint)?;
        clients.insert(endpoint.address, (endpoint.clone(), client.clone()));
        Ok(client)
    }
}

impl Reading {
    /// One that reads so many sources at once itself, of what is `readable`, and as many for each fleet beside its replicas.
    pub(super) fn new(limit: Duration, concurrent: usize, readable: Readable, web: Option<Web>) -> Self {
        Self {
            limit,
            readable,
            web,
            own: Semaphore::new(concurrent.max(1)),
            folders: Arc::new(Semaphore::new(FOLDERS)),
            of_fleet: concurrent.max(1),
            fleets: Mutex::default(),
            avoided: Mutex::default(),
        }
    }

    /// These read for `fleet` from now on; nobody where there is nothing to read.
    pub(super) fn meet(&self, fleet: &FleetKey, readers: Option<&Readers>) {
        let mut fleets = lock(&self.fleets);
        match readers {
            None => drop(fleets.remove(fleet)),
            Some(readers) => {
                let turns = || Arc::new(Semaphore::new(readers.turns(self.of_fleet)));
                let new = || Fleet { readers: readers.clone(), turns: turns(), clients: Arc::default() };
                let known = fleets.entry(fleet.clone()).or_insert_with(new);
                known.readers = readers.clone();
            }
        }
    }

    /// Whether anything is kept for `fleet`.
    #[cfg(test)]
    pub(super) fn knows(&self, fleet: &FleetKey) -> bool {
        lock(&self.fleets).contains_key(fleet)
    }

    /// Whether the operator may read `wanted` itself.
    pub(super) fn is_own(&self, wanted: &Wanted) -> bool {
        wanted.place(&self.readable).is_some()
    }

    /// Reads `wanted` when its turn comes. `failures` of it went before. Thousands may wait: what a try takes is made when its turn
    /// has come.
    pub(super) async fn read(&self, wanted: &Wanted, failures: u32) -> Outcome {
        let mut own = None;
        if let Some(at) = wanted.place(&self.readable) {
            // Nobody closes it.
            let _turn = self.own.acquire().await;
            match Box::pin(self.itself(&at)).await {
                Outcome::Said(Probe::Refused(failure)) => own = Some(failure.message),
                said @ Outcome::Said(_) => return said,
                Outcome::Untried(_) | Outcome::Alone(_) => {}
            }
        }
        let turns = lock(&self.fleets).get(&wanted.fleet).map(|fleet| Arc::clone(&fleet.turns));
        let Some(turns) = turns else { return Outcome::Alone(own) };
        let _turn = turns.acquire().await;
        // Replicas come and go while it waits.
        let Some(fleet) = lock(&self.fleets).get(&wanted.fleet).cloned() else { return Outcome::Alone(own) };
        match fleet.readers.lacked(wanted) {
            None => Box::pin(self.beside(&fleet, wanted, failures)).await,
            Some(_) => Outcome::Alone(own),
        }
    }

    /// Reads where the operator may.
    async fn itself(&self, at: &Place) -> Outcome {
        match at {
            Place::Folder(folder) => {
                let Ok(turn) = Arc::clone(&self.folders).try_acquire_owned() else {
                    return Outcome::Untried("folders that are read do not answer".to_owned());
                };
                let folder = folder.clone();
                let reading = tokio::task::spawn_blocking(move || {
                    // A mount that hangs keeps its turn.
                    let _turn = turn;
                    files::read(&folder)
                });
                match timeout(self.limit, reading).await {
                    Ok(Ok(Ok(probe))) => Outcome::Said(probe),
                    Ok(Ok(Err(why))) => refused(why),
                    Ok(Err(broken)) => refused(broken.to_string()),
                    Err(_) => refused(late(self.limit)),
                }
            }
            Place::Web { config, weights } => self.browse(config, weights).await,
        }
    }

    async fn browse(&self, config: &Url, weights: &Url) -> Outcome {
        let Some(web) = &self.web else { return refused("there is no HTTP client".to_owned()) };
        let host = config.host_str().unwrap_or_default();
        if self.is_avoided(host) {
            return Outcome::Untried(format!("{host} did not answer a short while ago"));
        }
        match timeout(self.limit, web.read(config, weights)).await {
            Ok(Ok(probe)) => Outcome::Said(probe),
            Ok(Err(error)) => {
                if matches!(error, WebError::Unavailable(_)) {
                    self.avoid(host.to_owned());
                }
                refused(error.to_string())
            }
            Err(_) => {
                self.avoid(host.to_owned());
                refused(late(self.limit))
            }
        }
    }

    async fn beside(&self, fleet: &Fleet, wanted: &Wanted, failures: u32) -> Outcome {
        let place = format!("{}/{} {}", wanted.fleet.namespace, wanted.fleet.name, place(&wanted.source));
        if self.is_avoided(&place) {
            let shown = wanted.source.split('?').next().unwrap_or_default();
            return Outcome::Untried(format!("{shown} is where nothing answered a short while ago"));
        }
        let request = beside::request(wanted);
        let asking = match &fleet.readers {
            Readers::Program(program) => {
                timeout(self.limit, program.run(&request)).await.unwrap_or(Asking::Late)
            }
            Readers::Inspectors(all) => {
                let able: Vec<_> =
                    all.iter().filter(|one| one.has(wanted)).map(|one| &one.endpoint).collect();
                let mut asking = Asking::Unanswered("there is none".to_owned());
                for endpoint in beside::first(&able, &wanted.source, failures) {
                    asking = match fleet.clients.of(endpoint) {
                        Ok(client) => beside::ask(&client, &request, self.limit).await,
                        Err(error) => Asking::Unanswered(error.to_string()),
                    };
                    if matches!(asking, Asking::Said(_)) {
                        break;
                    }
                }
                asking
            }
        };
        match asking {
            Asking::Said(probe) => Outcome::Said(probe),
            Asking::Late => {
                self.avoid(place);
                refused(late(self.limit))
            }
            Asking::Unanswered(why) => {
                Outcome::Untried(format!("no inspector of its Deployment's replicas answers: {why}"))
            }
        }
    }

    fn is_avoided(&self, whom: &str) -> bool {
        let now = Instant::now();
        let mut avoided = lock(&self.avoided);
        avoided.retain(|_, until| *until > now);
        avoided.contains_key(whom)
    }

    fn avoid(&self, whom: String) {
        lock(&self.avoided).insert(whom, Instant::now() + AVOIDED);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(why: String) -> Outcome {
    Outcome::Said(Probe::Refused(beside::unavailable(why)))
}

fn late(limit: Duration) -> String {
    format!("it was not read within {limit:?}")
}

/// Where `source` is: a host, a bucket, a hub, the folder of a claim.
fn place(source: &str) -> &str {
    let (from, parts) = match source.split_once("://") {
        Some(("hf", _)) => return "hf://",
        Some((scheme, _)) => (scheme.len() + 3, 1),
        // `/FOLDER/CLAIM`.
        None => (0, 3),
    };
    let ends = source[from..].match_indices(['/', '?']).map(|(at, _)| from + at).nth(parts - 1);
    &source[..ends.unwrap_or(source.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_one_server_or_mount_answers_for_are_at_one_place() {
        for (source, expected) in [
            ("hf://acme/sql@v1/x", "hf://"),
            ("s3://bucket/a/b", "s3://bucket"),
            ("https://host:1/a?sig=1", "https://host:1"),
            ("https://host?sig=1", "https://host"),
            ("/models/claim/a/b", "/models/claim"),
            ("/models/claim", "/models/claim"),
            ("", ""),
        ] {
            assert_eq!(place(source), expected, "{source}");
        }
    }
}
