//! What a replica holds, as it says itself. Never what it was asked to hold.

use serde::{Deserialize, Serialize};

use crate::desired::Version;
use crate::error::ErrorCode;

/// The longest name of a base model that an adapter's report tells, in bytes.
pub const MAX_BASE_MODEL_BYTES: usize = 256;

/// Everything that a replica reports. A writer compares it with what it wants and never assumes that a write took.
///
/// `A` is one adapter's report: who reads those of many replicas may choose a form that shares what is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedSet<A = AdapterReport> {
    /// Made anew by each process: a changed value means that the replica restarted and forgot.
    pub instance: String,
    /// Grows with every change of this report; hand it back as `after` to wait for the next.
    pub report: u64,
    /// The newest desired set that was accepted; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The base model.
    pub base: BaseModel,
    /// Draining: it finishes what it has and takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// Bytes in use and allowed, by tier.
    pub resident: TierBytes,
    /// As `resident`, of the host tier.
    pub host: TierBytes,
    /// True: `adapters` are all there are. False: only those that changed since the report that was asked after.
    pub complete: bool,
    /// Ordered by name.
    pub adapters: Vec<A>,
    /// Names that are gone since the report that was asked after; empty in a complete report.
    #[serde(default)]
    pub removed: Vec<String>,
}

impl<A> Default for ReportedSet<A> {
    /// All of a process that has said nothing of itself and holds no adapter.
    fn default() -> Self {
        Self {
            instance: String::new(),
            report: 0,
            version: None,
            base: BaseModel::default(),
            draining: false,
            resident: TierBytes::default(),
            host: TierBytes::default(),
            complete: true,
            adapters: Vec::new(),
            removed: Vec::new(),
        }
    }
}

/// The base model of a replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaseModel {
    /// The name that requests use as `model`.
    pub name: String,
    /// `sha256:<hex>` of its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The revision that its source resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Loaded and serving.
    pub ready: bool,
}

/// Bytes of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierBytes {
    /// Bytes that adapters take now.
    pub used: u64,
    /// Bytes that they may take.
    pub budget: u64,
}

/// Where an adapter's weights are, the nearest copy to the device first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// On the device, ready for the next step.
    Resident,
    /// In host memory, checked.
    Host,
    /// In the disk cache, its digest known.
    Disk,
    /// Only at its source.
    #[default]
    Remote,
}

impl Tier {
    /// As it is spelled on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resident => "resident",
            Self::Host => "host",
            Self::Disk => "disk",
            Self::Remote => "remote",
        }
    }
}

/// What is happening to an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterState {
    /// Known and loadable; the first request loads it.
    #[default]
    Registered,
    /// Being fetched, checked or loaded.
    Loading,
    /// Serving from the tier that is reported.
    Ready,
    /// Refused; `error` says why. Requests are answered with the same error.
    Failed,
    /// No longer desired: running requests finish, new ones are refused.
    Draining,
}

/// One adapter as a replica holds it. The default is one that was registered and not read yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdapterReport {
    /// The name that requests use.
    pub name: String,
    /// The source that this state speaks of.
    pub source: String,
    /// The Secret that the source is read with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// What is happening to it.
    pub state: AdapterState,
    /// Where its weights are.
    pub tier: Tier,
    /// `sha256:<hex>` of the generation that new requests take; absent until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The revision that its source resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The greatest rank of its modules; 0 until it is known.
    #[serde(default)]
    pub rank: u32,
    /// Bytes that its weights take in memory; 0 until it is known.
    #[serde(default)]
    pub bytes: u64,
    /// The modules that it changes, by their last name (`q_proj`), ordered.
    #[serde(default)]
    pub target_modules: Vec<String>,
    /// The model that its configuration says it was trained on; empty where it names none, or one longer than
    /// [`MAX_BASE_MODEL_BYTES`]; absent until it is known, and where a replica of an older release does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Requests that run on any generation of it.
    #[serde(default)]
    pub running: u32,
    /// Requests that wait for it.
    #[serde(default)]
    pub waiting: u32,
    /// Requests that run or wait at a time: the most of the last minute, rounded up by at most a quarter; 0 where they come
    /// one by one. It falls only when it has stayed lower for that long, so that who follows it does not follow every pause.
    #[serde(default)]
    pub demand: u32,
    /// Why it failed, or why the newest generation was refused while an older one serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// Why an adapter is not served as desired.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For people: the field, what was expected, what came.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_an_older_replica_says_no_base_model_and_one_that_names_none_says_so() {
        let older = r#"{"name":"a","source":"/a","state":"ready","tier":"host"}"#;
        let mut report: AdapterReport = serde_json::from_str(older).unwrap();
        assert_eq!(report.base_model, None);
        assert!(!serde_json::to_string(&report).unwrap().contains("base_model"));
        for said in ["", "acme/base"] {
            report.base_model = Some(said.to_owned());
            let text = serde_json::to_string(&report).unwrap();
            assert!(text.contains(&format!(r#""base_model":"{said}""#)), "{text}");
            assert_eq!(serde_json::from_str::<AdapterReport>(&text).unwrap(), report);
        }
    }
}
