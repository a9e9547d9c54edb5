//! The runtime's flags for a valid fleet: the same for a pod and for a process on this machine. Pure.

use std::fmt::Display;

use lorikeet_crds::deployment::Quantization;
use lorikeet_crds::{Deployment, DeploymentSpec};

use crate::decide::mounts;
use crate::decide::sources::carried;
use crate::decide::validate::ValidFleet;
use crate::quantity;

/// Where the runtime finds and leaves things; a carrier knows.
#[derive(Clone, Debug)]
pub struct Places {
    /// Address of the public face.
    pub listen: String,
    /// Address of the admin face.
    pub admin: String,
    /// A folder with `tls.crt`, `tls.key` and `token`.
    pub admin_folder: String,
    /// The folder of the registry's shards.
    pub registry: String,
    /// The folder of the disk cache.
    pub cache: String,
    /// The file of API keys, where there is one.
    pub api_keys: Option<String>,
    /// Folders below which `file://` sources may be.
    pub source_roots: Vec<String>,
    /// `pvc://claim/` is mounted below this folder.
    pub claims: String,
    /// The folder of Secrets with the credentials of sources, each under its name.
    pub credentials: String,
    /// What sources may lead to.
    pub reach: Reach,
}

/// What sources may lead to, as the operator itself is told: what it reads, replicas read too.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The Hugging Face hub.
    pub hub: String,
    /// Hosts and networks that are allowed beyond public addresses, as flags have them.
    pub hosts: Vec<String>,
}

impl Reach {
    /// The hub, and the rules.
    #[must_use]
    pub fn new(hub: &str, hosts: &[impl Display]) -> Self {
        Self { hub: hub.to_owned(), hosts: hosts.iter().map(ToString::to_string).collect() }
    }
}

/// The arguments of `lorikeet`, `serve` first.
#[must_use]
pub fn arguments(deployment: &Deployment, valid: &ValidFleet, places: &Places) -> Vec<String> {
    let spec = &deployment.spec;
    let mut flags = Flags(vec!["serve".to_owned()]);
    flags.set("model", carried(&spec.model.source.source, None, &places.claims));
    flags.set("served-name", &valid.served_name);
    flags.optional("model-revision", spec.model.source.revision.as_ref());
    flags.optional("model-digest", spec.model.source.digest.as_ref());
    flags.optional("model-credentials", mounts::secret(&spec.model.source));
    match spec.model.quantization {
        Quantization::None => {}
        Quantization::Q8_0 => flags.set("quantize", "q8_0"),
        Quantization::Q4K => flags.set("quantize", "q4_k"),
    }
    flags.set("listen", &places.listen);
    flags.set("admin-listen", &places.admin);
    flags.admin(places);
    flags.set("registry", &places.registry);
    flags.set("cache-dir", &places.cache);
    flags.optional("cache-bytes", cache_bytes(spec));
    flags.optional("api-keys-file", places.api_keys.as_ref());
    flags.sources(places);
    flags.set("adapter-memory", valid.resident_bytes.to_string());
    flags.set("host-memory", valid.host_bytes.to_string());
    flags.set("max-rank", valid.max_rank.to_string());
    flags.optional("max-model-length", spec.serving.max_model_length);
    flags.optional("max-sequences", spec.serving.max_sequences);
    flags.optional("max-queue", spec.serving.max_queue);
    flags.set("drain-seconds", valid.drain_seconds.to_string());
    flags.set("log-format", "json");
    flags.0
}

/// The arguments of `lorikeet` beside a replica, where it listens at `listen`: `inspector` first.
#[must_use]
pub fn inspector(places: &Places, listen: &str) -> Vec<String> {
    let mut flags = Flags(vec!["inspector".to_owned()]);
    flags.set("admin-listen", listen);
    flags.admin(places);
    flags.sources(places);
    flags.set("log-format", "json");
    flags.0
}

/// What fetched files may take of the disk that the replica may: a kubelet evicts a pod that takes more, and the next one
/// would fetch all of it again. A tenth is left to what else is written.
fn cache_bytes(spec: &DeploymentSpec) -> Option<u64> {
    let limit = spec.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?;
    quantity::bytes(&limit.0).map(|bytes| bytes / 10 * 9)
}

struct Flags(Vec<String>);

impl Flags {
    fn set(&mut self, name: &str, value: impl AsRef<str>) {
        self.0.push(format!("--{name}={}", value.as_ref()));
    }

    /// What opens an admin face.
    fn admin(&mut self, places: &Places) {
        self.set("admin-token-file", format!("{}/token", places.admin_folder));
        self.set("admin-tls-cert", format!("{}/tls.crt", places.admin_folder));
        self.set("admin-tls-key", format!("{}/tls.key", places.admin_folder));
    }

    /// What may be read, and what opens it.
    fn sources(&mut self, places: &Places) {
        places.source_roots.iter().for_each(|root| self.set("source-root", root));
        self.set("credentials", &places.credentials);
        self.set("hf-endpoint", &places.reach.hub);
        places.reach.hosts.iter().for_each(|host| self.set("allow-source-host", host));
    }

    fn optional(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.set(name, value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ResourceRequirements;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    #[test]
    fn fetched_files_take_less_than_the_pod_may() {
        let limits = [("ephemeral-storage".to_owned(), Quantity("20Gi".to_owned()))].into();
        let resources = ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() };
        let spec = DeploymentSpec { resources: Some(resources), ..DeploymentSpec::default() };
        let bytes = cache_bytes(&spec).unwrap();
        assert!((17 << 30..19 << 30).contains(&bytes), "{bytes}");
        assert_eq!(cache_bytes(&DeploymentSpec::default()), None);
    }
}
