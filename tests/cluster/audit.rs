//! The API server's audit log: who asked for what. The tests' own requests are not in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

/// The requests of one user in an audit log. What was read is not read again.
pub(crate) struct Audit {
    path: PathBuf,
    user: String,
    read: Mutex<Read>,
}

/// What was read so far.
#[derive(Default)]
struct Read {
    offset: u64,
    seen: BTreeSet<String>,
    events: Vec<Event>,
}

/// A request that the API server answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    #[serde(rename = "auditID")]
    id: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub(crate) verb: String,
    user: User,
    #[serde(default)]
    pub(crate) object_ref: Object,
    #[serde(default)]
    response_status: Status,
    #[serde(rename = "requestURI")]
    pub(crate) uri: String,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Object {
    #[serde(default)]
    pub(crate) resource: String,
    #[serde(default)]
    pub(crate) api_group: String,
    #[serde(default)]
    pub(crate) subresource: String,
    #[serde(default)]
    pub(crate) name: String,
}

/// What RBAC speaks of: `(API group, resource[/subresource], verb)`.
pub(crate) type Permission = (String, String, String);

impl Event {
    /// Whether it changes something.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// Whether it keeps a Lease: the one thing that is written while nothing changes.
    pub(crate) fn is_lease(&self) -> bool {
        self.object_ref.resource == "leases"
    }

    /// The status of the answer.
    pub(crate) fn code(&self) -> u16 {
        self.response_status.code
    }

    /// What it needed to be allowed. A patch that makes what it applies to needs the right to create it too.
    pub(crate) fn permissions(&self) -> Vec<Permission> {
        let object = &self.object_ref;
        let resource = if object.subresource.is_empty() {
            object.resource.clone()
        } else {
            format!("{}/{}", object.resource, object.subresource)
        };
        let mut verbs = vec![self.verb.as_str()];
        if self.verb == "patch" && self.code() == 201 {
            verbs.push("create");
        }
        verbs.into_iter().map(|verb| (object.api_group.clone(), resource.clone(), verb.to_owned())).collect()
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {} -> {}", self.verb, self.uri, self.code())
    }
}

impl Audit {
    /// The requests of `user` in the log at `path`.
    pub(crate) fn of(path: PathBuf, user: String) -> Self {
        Self { path, user, read: Mutex::default() }
    }

    /// Every request so far, each once.
    pub(crate) fn requests(&self) -> Vec<Event> {
        self.with(<[Event]>::to_vec)
    }

    /// The writes so far, renewals of Leases left out.
    pub(crate) fn writes(&self) -> Vec<Event> {
        self.with(|events| {
            events.iter().filter(|event| event.is_write() && !event.is_lease()).cloned().collect()
        })
    }

    /// How many [`Self::writes`] there are.
    pub(crate) fn count(&self) -> usize {
        self.with(|events| events.iter().filter(|event| event.is_write() && !event.is_lease()).count())
    }

    fn with<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // Not there before the first request.
        if let Ok(mut file) = File::open(&self.path) {
            let mut news = Vec::new();
            file.seek(SeekFrom::Start(read.offset)).expect("the log can be read from where it was left");
            file.read_to_end(&mut news).expect("the log can be read");
            // The last line may be half written.
            news.truncate(news.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
            read.offset += news.len() as u64;
            for line in String::from_utf8_lossy(&news).lines().filter(|line| line.contains(&self.user)) {
                let event: Event = serde_json::from_str(line).expect("an audit event");
                // A watch is told when it starts and when it ends.
                if event.user.username == self.user && read.seen.insert(event.id.clone()) {
                    read.events.push(event);
                }
            }
        }
        look(&read.events)
    }
}
