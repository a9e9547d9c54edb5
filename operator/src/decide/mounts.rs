//! Mounts: the Secrets and claims that a Deployment's pods have mounted, for the sources of its model and its Adapters. Pure.
//!
//! They follow from specs, not from what was read of sources: while a source is being read no pod is replaced. Each list is
//! bounded and ordered, so that one set of Adapters makes one template.

use std::collections::BTreeSet;

use lorikeet_crds::DeploymentSpec;
use lorikeet_crds::source::SourceSpec;

use crate::decide::validate::{Refusal, ValidAdapter};

/// The most Secrets, and the most claims, that pods mount.
pub const MOST: usize = 32;

/// What pods mount, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// Secrets: credentials of sources.
    pub secrets: BTreeSet<String>,
    /// Claims: files of `pvc://` sources.
    pub claims: BTreeSet<String>,
}

impl Mounts {
    /// Those of a Deployment's model, in its own namespace.
    ///
    /// # Errors
    /// A name that no Secret or claim can have, that of its API keys included.
    pub fn of_spec(spec: &DeploymentSpec) -> Result<Self, Refusal> {
        if let Some(auth) = &spec.auth {
            check(&auth.api_keys_secret_ref.name, "auth.apiKeysSecretRef.name")?;
        }
        Self::of_model(&spec.model.source)
    }

    fn of_model(source: &SourceSpec) -> Result<Self, Refusal> {
        let mut mounts = Self::default();
        mounts.take(source)?;
        Ok(mounts)
    }

    /// Adds those of an Adapter of namespace `from`, for pods of namespace `pods`.
    ///
    /// # Errors
    /// Pods cannot mount it, or mount as many as they may.
    pub fn take_of(&mut self, source: &SourceSpec, from: &str, pods: &str) -> Result<(), Refusal> {
        let elsewhere = |field, kind| Refusal::MountElsewhere {
            field,
            kind,
            pods: pods.to_owned(),
            namespace: from.to_owned(),
        };
        match (from == pods, secret(source), claim(&source.source)) {
            (true, ..) => self.take(source),
            // What the pods have mounted is of their namespace alone.
            (false, None, None) if source.source.starts_with("file://") => Err(elsewhere("source", "folder")),
            (false, None, None) => self.take(source),
            (false, Some(_), _) => Err(elsewhere("secretRef", "Secret")),
            (false, None, Some(_)) => Err(elsewhere("source", "PersistentVolumeClaim")),
        }
    }

    /// Adds those of what is still served after an edit: it may have named others.
    pub fn keep(&mut self, former: &ValidAdapter, claims: &str) {
        let path = former.source.strip_prefix(claims).and_then(|path| path.strip_prefix('/'));
        let claim = path.and_then(|path| path.split('/').next());
        // Beyond the bound what is asked for now goes first.
        for (set, name) in [(&mut self.secrets, former.credentials.as_deref()), (&mut self.claims, claim)] {
            if let Some(name) = name.filter(|name| is_object_name(name) && set.len() < MOST) {
                set.insert(name.to_owned());
            }
        }
    }

    fn take(&mut self, source: &SourceSpec) -> Result<(), Refusal> {
        if let Some(name) = secret(source) {
            add(&mut self.secrets, name, "secretRef.name", "Secret")?;
        }
        if let Some(name) = claim(&source.source) {
            add(&mut self.claims, name, "source", "PersistentVolumeClaim")?;
        }
        Ok(())
    }
}

/// The Secret that opens `source`. A path is opened with none.
#[must_use]
pub fn secret(source: &SourceSpec) -> Option<&str> {
    let is_path = ["pvc://", "file://"].iter().any(|scheme| source.source.starts_with(scheme));
    source.secret_ref.as_ref().filter(|_| !is_path).map(|secret| secret.name.as_str())
}

/// The claim that `source` is on.
#[must_use]
pub fn claim(source: &str) -> Option<&str> {
    source.strip_prefix("pvc://")?.split('/').next()
}

fn add(
    names: &mut BTreeSet<String>,
    name: &str,
    field: &'static str,
    kind: &'static str,
) -> Result<(), Refusal> {
    check(name, field)?;
    if names.len() >= MOST && !names.contains(name) {
        return Err(Refusal::TooManyMounts { field, kind, most: MOST });
    }
    names.insert(name.to_owned());
    Ok(())
}

fn check(name: &str, field: &'static str) -> Result<(), Refusal> {
    let expected = "a name of lower-case letters, digits, - and ., first and last a letter or digit";
    match is_object_name(name) {
        true => Ok(()),
        false => Err(Refusal::InvalidSpec { field, expected, got: name.to_owned() }),
    }
}

/// Whether the API server takes `name` for a Secret or a claim: one it does not take would keep all pods from being made.
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    let alphanumeric = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let is_label = |label: &str| {
        alphanumeric(label.bytes().next())
            && alphanumeric(label.bytes().last())
            && label.bytes().all(|byte| alphanumeric(Some(byte)) || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::LocalObjectReference;
    use lorikeet_crds::Reason;
    use lorikeet_crds::deployment::Auth;

    use super::*;

    fn source(source: &str, secret: Option<&str>) -> SourceSpec {
        let secret_ref = secret.map(|name| LocalObjectReference { name: name.to_owned() });
        SourceSpec { source: source.to_owned(), secret_ref, ..SourceSpec::default() }
    }

    #[test]
    fn the_secret_of_api_keys_has_a_secrets_name() {
        let mut spec = DeploymentSpec::default();
        let mut named = |name: &str| {
            let api_keys_secret_ref = LocalObjectReference { name: name.to_owned() };
            spec.auth = Some(Auth { api_keys_secret_ref });
            Mounts::of_spec(&spec).map_err(|refusal| refusal.to_string())
        };
        assert!(named("keys.v1").is_ok());
        for name in ["../../etc", "", "Keys", "/etc"] {
            assert!(
                named(name).unwrap_err().starts_with("auth.apiKeysSecretRef.name: expected a name"),
                "{name}"
            );
        }
    }

    #[test]
    fn each_secret_and_claim_is_mounted_once_whoever_names_it_first() {
        let of = |adapters: &[SourceSpec]| {
            let mut mounts = Mounts::of_model(&source("pvc://models/llama", None)).unwrap();
            adapters.iter().for_each(|one| mounts.take_of(one, "here", "here").unwrap());
            mounts
        };
        let adapters = [
            source("hf://a/x", Some("hf")),
            source("s3://bucket/x", Some("s3")),
            source("hf://a/y", Some("hf")),
            source("pvc://loras/x", Some("of a path: not asked for")),
            source("pvc://models/y", None),
        ];
        let mounts = of(&adapters);
        assert_eq!(mounts.secrets.iter().collect::<Vec<_>>(), ["hf", "s3"]);
        assert_eq!(mounts.claims.iter().collect::<Vec<_>>(), ["loras", "models"]);
        let mut turned = adapters.to_vec();
        turned.reverse();
        assert_eq!(of(&turned), mounts);
    }

    #[test]
    fn what_is_of_another_namespace_is_refused_with_what_to_do() {
        let mut mounts = Mounts::default();
        let refused = |mounts: &mut Mounts, one: &SourceSpec| {
            let refusal = mounts.take_of(one, "team", "models").unwrap_err();
            assert_eq!(refusal.reason(), Reason::InvalidSpec);
            refusal.to_string()
        };
        let secret = refused(&mut mounts, &source("hf://a/x", Some("hf")));
        assert!(
            secret
                .starts_with("secretRef: a pod of namespace models cannot mount a Secret of namespace team")
        );
        let claim = refused(&mut mounts, &source("pvc://loras/x", None));
        assert!(claim.starts_with("source: ") && claim.contains("into models"), "{claim}");
        let folder = refused(&mut mounts, &source("file:///models/private/x", None));
        assert!(folder.starts_with("source: ") && folder.contains("of namespace team"), "{folder}");
        assert!(mounts.take_of(&source("hf://a/x", None), "team", "models").is_ok());
        assert_eq!(mounts, Mounts::default());
    }

    #[test]
    fn there_is_a_most_and_a_name_that_no_secret_can_have_is_refused() {
        let mut mounts = Mounts::default();
        for index in 0..MOST {
            mounts.take_of(&source("hf://a/x", Some(&format!("s{index}"))), "n", "n").unwrap();
        }
        let refusal = mounts.take_of(&source("hf://a/x", Some("one-more")), "n", "n").unwrap_err();
        assert_eq!(refusal.reason(), Reason::TooLarge);
        assert!(refusal.to_string().contains("32 Secrets"), "{refusal}");
        assert!(mounts.take_of(&source("hf://a/y", Some("s0")), "n", "n").is_ok(), "one of them still may");
        for (one, field) in [
            (source("hf://a/x", Some("../x")), "secretRef.name"),
            (source("hf://a/x", Some("")), "secretRef.name"),
            (source("pvc://Models/x", None), "source"),
        ] {
            let refusal = Mounts::of_model(&one).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{field}: expected a name")), "{refusal}");
        }
    }
}
