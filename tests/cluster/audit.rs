//! The API server's audit log: who asked for what. The tests' own requests are not in it. Where it cannot be read, what passed
//! the proxies before the API server stands for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use crate::proxy::Call;

/// The requests of one user.
pub(crate) enum Audit {
    /// Of an audit log. What was read is not read again.
    Log { path: PathBuf, user: String, read: Mutex<Read> },
    /// Of what passed the proxies with the user's token.
    Passed { passed: Passed, token: String },
}

/// The requests that proxies passed on and that were answered, by the token that was shown.
#[derive(Clone, Default)]
pub(crate) struct Passed(Arc<Mutex<BTreeMap<String, Vec<Event>>>>);

/// What was read so far.
#[derive(Default)]
pub(crate) struct Read {
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

#[derive(Clone, Debug, Default, Deserialize)]
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

impl Object {
    /// What `path` is of; nothing of what is no object's.
    fn of(path: &str) -> Self {
        let mut parts = path.trim_start_matches('/').split('/');
        let api_group = match parts.next() {
            Some("api") => "",
            Some("apis") => parts.next().unwrap_or_default(),
            _ => return Self::default(),
        };
        // Its version.
        parts.next();
        let mut rest: Vec<&str> = parts.collect();
        // A namespace is an object too.
        if rest.len() > 2 && rest[0] == "namespaces" {
            rest.drain(..2);
        }
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        Self { resource: part(0), api_group: api_group.to_owned(), subresource: part(2), name: part(1) }
    }
}

/// What RBAC speaks of: `(API group, resource[/subresource], verb)`.
pub(crate) type Permission = (String, String, String);

impl Passed {
    /// `call` was answered with `code`.
    pub(crate) fn push(&self, token: &str, call: &Call, code: u16) {
        self.all().entry(token.to_owned()).or_default().push(Event::of(call, code));
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Event>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Event {
    /// `call`, answered with `code`.
    fn of(call: &Call, code: u16) -> Self {
        let object_ref = Object::of(&call.path);
        let is_one = !object_ref.name.is_empty();
        let verb = match call.method.as_str() {
            "GET" if call.is_watch() => "watch",
            "GET" if !is_one && !object_ref.resource.is_empty() => "list",
            "DELETE" if !is_one => "deletecollection",
            "POST" => "create",
            "PUT" => "update",
            other => &other.to_lowercase(),
        };
        Self {
            id: String::new(),
            verb: verb.to_owned(),
            user: User::default(),
            object_ref,
            response_status: Status { code },
            uri: call.target(),
        }
    }

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
    pub(crate) fn of_log(path: PathBuf, user: String) -> Self {
        Self::Log { path, user, read: Mutex::default() }
    }

    /// The requests among `passed` that showed `token`.
    pub(crate) const fn of_passed(passed: Passed, token: String) -> Self {
        Self::Passed { passed, token }
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
        match self {
            Self::Passed { passed, token } => look(passed.all().get(token).map_or(&[], Vec::as_slice)),
            Self::Log { path, user, read } => {
                let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                read.on(path, user);
                look(&read.events)
            }
        }
    }
}

impl Read {
    /// Reads what `path` has of `user` since it was read last.
    fn on(&mut self, path: &Path, user: &str) {
        // Not there before the first request.
        let Ok(mut file) = File::open(path) else { return };
        let mut news = Vec::new();
        file.seek(SeekFrom::Start(self.offset)).expect("the log can be read from where it was left");
        file.read_to_end(&mut news).expect("the log can be read");
        // The last line may be half written.
        news.truncate(news.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.offset += news.len() as u64;
        for line in String::from_utf8_lossy(&news).lines().filter(|line| line.contains(user)) {
            let event: Event = serde_json::from_str(line).expect("an audit event");
            // A watch is told when it starts and when it ends.
            if event.user.username == user && self.seen.insert(event.id.clone()) {
                self.events.push(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_a_proxy_is_told_as_the_audit_log_tells_it() {
        let ours = "/apis/lorikeet.dev/v1alpha1/namespaces/team/adapters";
        for (method, path, query, expected) in [
            (
                "PATCH",
                &*format!("{ours}/sql/status"),
                "force=true",
                ["patch", "lorikeet.dev", "adapters", "status", "sql"],
            ),
            ("GET", ours, "limit=500", ["list", "lorikeet.dev", "adapters", "", ""]),
            ("GET", ours, "watch=true", ["watch", "lorikeet.dev", "adapters", "", ""]),
            ("GET", "/api/v1/nodes", "", ["list", "", "nodes", "", ""]),
            ("GET", "/api/v1/namespaces/team", "", ["get", "", "namespaces", "", "team"]),
            ("POST", "/api/v1/namespaces/team/secrets", "", ["create", "", "secrets", "", ""]),
            ("DELETE", "/api/v1/namespaces/team/configmaps/one", "", ["delete", "", "configmaps", "", "one"]),
            ("GET", "/version", "", ["get", "", "", "", ""]),
        ] {
            let call = Call { method: method.to_owned(), path: path.to_owned(), query: query.to_owned() };
            let event = Event::of(&call, 200);
            let Object { resource, api_group, subresource, name } = &event.object_ref;
            assert_eq!([&event.verb, api_group, resource, subresource, name], expected, "{call}");
            assert_eq!((event.code(), &event.uri), (200, &call.target()));
        }
    }
}
