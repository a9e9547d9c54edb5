//! The admin Secret of a Deployment: made, read by its name, renewed before it expires. Secrets are never listed nor
//! watched, and no other Secret is read: what a user's `secretRef` names is mounted into the pods, not read here.
//!
//! A renewal replaces authority, certificate and token. Running replicas have the Secret's files before them, which their
//! kubelets bring up to date a while later: until then they answer to what was there before. So the former authority and
//! token stay in the Secret, and open replicas too for a while: nothing can be signed by that authority any more, as its key
//! was never kept, but whoever has the former certificate's key is a replica for as long.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use lorikeet_crds::Deployment;

use crate::build::Scope;
use crate::cluster::failure::{Failure, is_gone};
use crate::cluster::ownership::{Owner, owner};
use crate::credentials::{self, digest};
use crate::fleet::FleetKey;
use crate::replicas::client::{Access, Pass};

/// The digest of what opens the replicas, and what opened them: nobody but the operator edits that.
const DIGEST: &str = "digest";
/// What it is of.
const WHOLE: [&str; 9] = [
    "ca.crt",
    "tls.crt",
    "tls.key",
    "token",
    "made",
    "expires",
    "former-ca.crt",
    "former-token",
    "former-expires",
];

/// What opened the replicas before a renewal opens them for that long: kubelets bring files up to date within minutes, and
/// so does one that was away once it is back.
const FORMER_LASTS: SignedDuration = SignedDuration::from_hours(1);

/// What the Secret says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// What opens the replicas.
    pub access: Arc<Access>,
    made: Timestamp,
    expires: Timestamp,
}

impl Admin {
    /// Less than a third of its time is left.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let whole = self.expires.as_second().saturating_sub(self.made.as_second());
        self.expires.as_second().saturating_sub(now.as_second()) < whole / 3
    }
}

/// The name that every replica of `fleet` answers to.
#[must_use]
pub fn host(fleet: &FleetKey) -> String {
    format!("{}-replicas.{}.svc", fleet.name, fleet.namespace)
}

/// How the Secret is kept.
#[derive(Clone, Copy)]
pub struct Keeping<'a> {
    /// For how long a certificate is valid.
    pub days: u32,
    /// It may be made and renewed.
    pub may_write: bool,
    /// What it said before: what replicas answer to still where somebody has damaged it.
    pub known: Option<&'a Admin>,
}

/// Reads the Secret of `fleet`; where that is allowed, makes it, or renews it when it is due or damaged. One that was
/// deleted is made without what opened the replicas before: whoever deletes it takes that back. Nothing where it is not
/// there, or damaged, and may not be written.
///
/// # Errors
/// Any [`Failure`] of the calls; [`Failure::NotOurs`].
pub async fn ensure(
    client: &Client,
    fleet: &FleetKey,
    deployment: &Deployment,
    keeping: Keeping<'_>,
    now: Timestamp,
) -> Result<Option<Admin>, Failure> {
    let Keeping { days, may_write, known } = keeping;
    let scope = Scope::of(fleet, deployment);
    let name = scope.name("-admin");
    let what = || format!("Secret {}/{name}", fleet.namespace);
    let api: Api<Secret> = Api::namespaced(client.clone(), &fleet.namespace);
    let there = api.get_opt(&name).await.map_err(|error| Failure::of(what(), error))?;
    let Some(there) = there else {
        if !may_write {
            return Ok(None);
        }
        let secret = secret(&scope, data(&credentials::make(&host(fleet), days, now)?, None, now));
        return match api.create(&writing(), &secret).await {
            Ok(made) => Ok(read(&made, now)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(Failure::of(what(), error)),
        };
    };
    let uid = deployment.uid().unwrap_or_default();
    match owner(&there.metadata, &uid, &fleet.name) {
        Owner::Ours => {}
        Owner::Former => return Err(Failure::Conflict { what: what() }),
        Owner::Other => return Err(Failure::NotOurs { what: what() }),
    }
    let admin = read(&there, now);
    let is_good = admin.as_ref().is_some_and(|admin| !admin.is_due(now));
    let metadata = claimed(&there.metadata, scope.metadata("-admin"));
    if !may_write || is_good && metadata == there.metadata {
        return Ok(admin);
    }
    let next = if is_good {
        tracing::info!(secret = what(), "its labels and owner are put right");
        Secret { metadata, ..there }
    } else {
        let why = if admin.is_some() { "it is due" } else { "it is not as it was written" };
        tracing::info!(secret = what(), why, "renewing");
        let data = data(&credentials::make(&host(fleet), days, now)?, admin.as_ref().or(known), now);
        Secret { metadata, ..secret(&scope, data) }
    };
    let written = api.replace(&name, &writing(), &next).await;
    written.map(|secret| read(&secret, now)).map_err(|error| Failure::of(what(), error))
}

/// `there` with the labels and the owner of `ours`; with its version too, so that it is written over nothing but what was read.
fn claimed(there: &ObjectMeta, ours: ObjectMeta) -> ObjectMeta {
    let mut claimed = there.clone();
    claimed.labels.get_or_insert_default().extend(ours.labels.unwrap_or_default());
    for owner in ours.owner_references.unwrap_or_default() {
        let owners = claimed.owner_references.get_or_insert_default();
        match owners.iter_mut().find(|one| one.uid == owner.uid) {
            Some(one) => *one = owner,
            None => owners.push(owner),
        }
    }
    claimed
}

fn writing() -> PostParams {
    PostParams { field_manager: Some(lorikeet_crds::FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

fn secret(scope: &Scope, data: BTreeMap<String, String>) -> Secret {
    Secret {
        metadata: scope.metadata("-admin"),
        type_: Some("Opaque".to_owned()),
        data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect()),
        ..Secret::default()
    }
}

fn data(new: &credentials::Credentials, old: Option<&Admin>, now: Timestamp) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("ca.crt".to_owned(), new.authority.clone()),
        ("tls.crt".to_owned(), new.certificate.clone()),
        ("tls.key".to_owned(), new.key.clone()),
        ("token".to_owned(), new.token.clone()),
        ("made".to_owned(), now.to_string()),
        ("expires".to_owned(), new.expires.to_string()),
    ]);
    if let Some(old) = old {
        all.insert("former-ca.crt".to_owned(), old.access.newest.authority.clone());
        all.insert("former-token".to_owned(), old.access.newest.token.clone());
        all.insert("former-expires".to_owned(), old.expires.min(now + FORMER_LASTS).to_string());
    }
    all.insert(DIGEST.to_owned(), digest(WHOLE.map(|key| all.get(key).map_or("", String::as_str))));
    all
}

/// What a Secret of ours says; nothing where somebody has damaged it. What was there before counts for a while.
fn read(secret: &Secret, now: Timestamp) -> Option<Admin> {
    let text = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        String::from_utf8(bytes.clone()).ok().filter(|text| !text.is_empty())
    };
    let pass = |authority: &str, token: &str| Some(Pass { authority: text(authority)?, token: text(token)? });
    let time = |key: &str| text(key)?.parse::<Timestamp>().ok();
    let whole = WHOLE.map(|key| text(key).unwrap_or_default());
    if text(DIGEST)? != digest(whole.each_ref().map(String::as_str)) {
        return None;
    }
    let lasts = time("former-expires").is_some_and(|expires| now < expires);
    Some(Admin {
        access: Arc::new(Access {
            newest: pass("ca.crt", "token")?,
            former: pass("former-ca.crt", "former-token").filter(|_| lasts),
        }),
        made: time("made")?,
        expires: time("expires")?,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
    }

    fn made(old: Option<&Admin>, now: Timestamp) -> Secret {
        let data = data(&credentials::make("x", 90, now).unwrap(), old, now);
        let data = data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn what_was_written_is_read_and_damage_is_noticed() {
        let secret = made(None, at(0));
        let admin = read(&secret, at(0)).unwrap();
        assert!(!admin.is_due(at(59)));
        assert!(admin.is_due(at(61)));
        for key in ["ca.crt", "tls.crt", "tls.key", "token", "made", "expires", "digest"] {
            let mut damaged = secret.clone();
            damaged.data.as_mut().unwrap().remove(key);
            assert_eq!(read(&damaged, at(0)), None, "{key} is gone");
            damaged.data.as_mut().unwrap().insert(key.to_owned(), ByteString(b"edited".to_vec()));
            assert_eq!(read(&damaged, at(0)), None, "{key} is another");
        }
        for key in ["made", "expires", "former-expires"] {
            let mut damaged = secret.clone();
            let time = ByteString(at(3000).to_string().into_bytes());
            damaged.data.as_mut().unwrap().insert(key.to_owned(), time);
            assert_eq!(read(&damaged, at(0)), None, "{key} is another time");
        }
    }

    #[test]
    fn what_others_put_on_it_stays_and_what_is_ours_is_put_right() {
        let owner = |uid: &str, name: &str| OwnerReference {
            uid: uid.to_owned(),
            name: name.to_owned(),
            ..OwnerReference::default()
        };
        let labels = |all: &[(&str, &str)]| {
            Some(all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        let ours = || ObjectMeta {
            labels: labels(&[("a", "1"), ("b", "2")]),
            owner_references: Some(vec![owner("u", "base")]),
            ..ObjectMeta::default()
        };
        let there = ObjectMeta {
            labels: labels(&[("a", "9"), ("theirs", "x")]),
            owner_references: Some(vec![owner("t", "theirs"), owner("u", "other")]),
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        };
        let claimed_now = claimed(&there, ours());
        assert_eq!(claimed_now.labels, labels(&[("a", "1"), ("b", "2"), ("theirs", "x")]));
        assert_eq!(claimed_now.owner_references, Some(vec![owner("t", "theirs"), owner("u", "base")]));
        assert_eq!(claimed_now.resource_version, there.resource_version);
        assert_eq!(claimed(&claimed_now, ours()), claimed_now, "once");
        assert_eq!(claimed(&ObjectMeta::default(), ours()), ours());
    }

    #[test]
    fn what_was_there_before_a_renewal_opens_replicas_for_an_hour() {
        let old = read(&made(None, at(0)), at(0)).unwrap();
        assert_eq!(old.access.former, None);
        let renewed = made(Some(&old), at(61));
        let new = read(&renewed, at(61)).unwrap();
        assert_ne!(new.access.newest, old.access.newest);
        assert_eq!(new.access.former.as_ref(), Some(&old.access.newest));
        let after = |minutes| at(61) + SignedDuration::from_mins(minutes);
        assert_eq!(read(&renewed, after(59)).unwrap().access.former, new.access.former);
        assert_eq!(read(&renewed, after(60)).unwrap().access.former, None);
        // Nor longer than its certificate is valid.
        let late = read(&made(Some(&old), old.expires), old.expires).unwrap();
        assert_eq!(late.access.former, None);
        // A second renewal leaves nothing of the first generation.
        let third = read(&made(Some(&new), at(70)), at(70)).unwrap();
        assert_eq!(third.access.former.as_ref(), Some(&new.access.newest));
    }
}
