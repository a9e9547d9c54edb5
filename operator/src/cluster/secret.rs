//! The admin Secret of a Deployment: made, read by its name, renewed before it expires. Secrets are never listed nor
//! watched, and no other Secret is read: what a user's `secretRef` names is mounted into the pods, not read here.
//!
//! A renewal replaces authority and token. Replicas that were made with the former ones answer to those until they are
//! replaced, so the former ones stay in the Secret until the next renewal.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use lorikeet_crds::Deployment;

use crate::build::Scope;
use crate::cluster::failure::{Failure, is_gone};
use crate::cluster::ownership::{Owner, owner};
use crate::credentials::{self, generation};
use crate::fleet::FleetKey;
use crate::replicas::client::Access;

/// What the Secret says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Which generation it is: pods bear it.
    pub generation: String,
    current: Arc<Access>,
    former: Option<(String, Arc<Access>)>,
    made: Timestamp,
    expires: Timestamp,
}

impl Admin {
    /// What opens a replica that was made with `generation`; the newest where it does not say.
    #[must_use]
    pub fn access(&self, generation: Option<&str>) -> Arc<Access> {
        match &self.former {
            Some((of, access)) if generation == Some(of) => Arc::clone(access),
            _ => Arc::clone(&self.current),
        }
    }

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

/// Reads the Secret of `fleet`; where `may_write` is set, makes it, or renews it when it is due.
///
/// # Errors
/// Any [`Failure`] of the calls; [`Failure::NotOurs`].
pub async fn ensure(
    client: &Client,
    fleet: &FleetKey,
    deployment: &Deployment,
    days: u32,
    may_write: bool,
    now: Timestamp,
) -> Result<Option<Admin>, Failure> {
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
            Ok(made) => Ok(read(&made)),
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
    let admin = read(&there);
    if !may_write || admin.as_ref().is_some_and(|admin| !admin.is_due(now)) {
        return Ok(admin);
    }
    let mut next = secret(&scope, data(&credentials::make(&host(fleet), days, now)?, admin.as_ref(), now));
    // Only over what was read.
    next.metadata.resource_version = there.metadata.resource_version;
    tracing::info!(secret = what(), "renewing");
    let renewed = api.replace(&name, &writing(), &next).await;
    renewed.map(|secret| read(&secret)).map_err(|error| Failure::of(what(), error))
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
        all.insert("former-ca.crt".to_owned(), old.current.authority.clone());
        all.insert("former-token".to_owned(), old.current.token.clone());
    }
    all
}

/// What a Secret of ours says; nothing where somebody has damaged it.
fn read(secret: &Secret) -> Option<Admin> {
    let text = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        String::from_utf8(bytes.clone()).ok().filter(|text| !text.is_empty())
    };
    let access = |authority: &str, token: &str| {
        let access = Access { authority: text(authority)?, token: text(token)? };
        Some((generation(&access.authority, &access.token), Arc::new(access)))
    };
    let (generation, current) = access("ca.crt", "token")?;
    text("tls.crt").zip(text("tls.key"))?;
    Some(Admin {
        generation,
        current,
        former: access("former-ca.crt", "former-token"),
        made: text("made")?.parse().ok()?,
        expires: text("expires")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
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
        let admin = read(&secret).unwrap();
        assert!(!admin.is_due(at(59)));
        assert!(admin.is_due(at(61)));
        for key in ["ca.crt", "tls.crt", "tls.key", "token", "made", "expires"] {
            let mut damaged = secret.clone();
            damaged.data.as_mut().unwrap().remove(key);
            assert_eq!(read(&damaged), None, "{key}");
        }
    }

    #[test]
    fn a_replica_of_the_former_generation_is_opened_by_what_it_was_made_with() {
        let old = read(&made(None, at(0))).unwrap();
        let new = read(&made(Some(&old), at(61))).unwrap();
        assert_ne!(new.generation, old.generation);
        assert_eq!(new.access(Some(&old.generation)), old.access(None));
        assert_eq!(new.access(Some(&new.generation)), new.access(None));
        assert_ne!(new.access(None), old.access(None));
    }
}
