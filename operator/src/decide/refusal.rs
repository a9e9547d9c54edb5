//! Refusals: why a spec is not carried out, in words that say what to do. Types only; who refuses is elsewhere.

use lorikeet_crds::Reason;

use crate::fleet::ConfigFault;

/// The end of what is said of an Adapter whose source could not be read: nothing else that is said of one ends so.
const NOT_READ: &str = "; it is tried again until it can be read";

/// What is said of bytes that were measured where it was loaded: its source says less.
const MEASURED: &str = ", as it was measured; an edit of revision or digest has it measured anew";

/// Why a spec is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The Deployment does not exist.
    #[error(
        "deploymentRef: no Deployment {namespace}/{name}; apply it, or delete this Adapter and make it anew with another reference"
    )]
    DeploymentNotFound {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The Deployment does not allow the namespace.
    #[error(
        "deploymentRef: {deployment} allows Adapters {allowed}, not of namespace {namespace}; see its spec.adapters.allowedNamespaces"
    )]
    NamespaceNotAllowed {
        /// The Deployment.
        deployment: String,
        /// What it allows.
        allowed: String,
        /// The Adapter's namespace.
        namespace: String,
    },
    /// Somebody older has the name.
    #[error("servedName: {name:?} is taken by {owner}; choose another")]
    NameConflict {
        /// The name.
        name: String,
        /// Who has it.
        owner: String,
    },
    /// Not all of the spec could be read: it was written for another release.
    #[error(
        "the object cannot be read: {0}; correct it, or run the release of the operator that it was written for"
    )]
    Unreadable(String),
    /// A value that no rule of the API server could refuse.
    #[error("{field}: expected {expected}, got {got:?}")]
    InvalidSpec {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// Adapters may take more memory than a replica may have.
    #[error(
        "{fields}: expected less than resources.limits.memory, {limit} bytes, got {bytes}; lower what adapters may take, or raise the limit, which has to hold the model too"
    )]
    MemoryExceeded {
        /// The budgets.
        fields: &'static str,
        /// What the replica may have.
        limit: u64,
        /// What they are together.
        bytes: u64,
    },
    /// A Secret or a claim of another namespace cannot be mounted.
    #[error(
        "{field}: a pod of namespace {pods} cannot mount a {kind} of namespace {namespace}; put Adapter and {kind} into {pods}, or the files where none is needed"
    )]
    MountElsewhere {
        /// The field that names it.
        field: &'static str,
        /// What it is.
        kind: &'static str,
        /// The Deployment's namespace.
        pods: String,
        /// The Adapter's namespace.
        namespace: String,
    },
    /// The pods mount as many as they may.
    #[error(
        "{field}: the Deployment and its older Adapters name {most} {kind}s, which is all that its pods mount; name one of those, or another Deployment"
    )]
    TooManyMounts {
        /// The field that names one more.
        field: &'static str,
        /// Of what.
        kind: &'static str,
        /// How many may be mounted.
        most: usize,
    },
    /// Replicas that start cannot be told of it.
    #[error(
        "source: the Deployment's registry is full: names and sources of its older Adapters take all that a replica can be told of at its start; shorten them, or name another Deployment"
    )]
    RegistryFull,
    /// Its configuration is none.
    #[error("adapter_config.json: {0}; correct it at the source")]
    InvalidConfig(ConfigFault),
    /// A rank is over the limit.
    #[error(
        "adapter_config.json: {field}: {}{rank}; raise adapters.maxRank of the Deployment, or train with a lower rank",
        ranks_up_to(*.limit)
    )]
    RankExceeded {
        /// The setting of its configuration.
        field: String,
        /// The greatest rank of the Deployment.
        limit: u32,
        /// The adapter's.
        rank: u64,
    },
    /// It was trained on another model.
    #[error(
        "adapter_config.json: base_model_name_or_path: {}{got:?}; name a Deployment of that model, or say spec.baseModel: Any if it is the same model under another name",
        trained_on(.expected)
    )]
    BaseModelMismatch {
        /// The Deployment's model.
        expected: String,
        /// The adapter's.
        got: String,
    },
    /// Its source cannot be read where replicas would read it.
    #[error("{message}{NOT_READ}")]
    NotRead {
        /// Why.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// Its source was read and refused before, and cannot be read now: as its status says.
    #[error("{message}")]
    Standing {
        /// Why.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// Its weights do not fit even alone.
    #[error(
        "adapter_model.safetensors: {}of weights, got {bytes}; raise adapters.gpuMemory of the Deployment, or train with a lower rank or fewer modules",
        bytes_up_to(*.budget)
    )]
    BudgetExceeded {
        /// What the Deployment has for all adapters.
        budget: u64,
        /// What this one takes.
        bytes: u64,
    },
    /// As a replica loaded it, it does not fit even alone.
    #[error(
        "adapter_model.safetensors: {}in memory, got {bytes}{MEASURED}; raise adapters.gpuMemory of the Deployment, or train with a lower rank or fewer modules",
        bytes_up_to(*.budget)
    )]
    MeasureExceeded {
        /// What the Deployment has for all adapters.
        budget: u64,
        /// What this one takes.
        bytes: u64,
    },
}

impl Refusal {
    /// The reason that a condition and a metric name.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::DeploymentNotFound { .. } => Reason::DeploymentNotFound,
            Self::NamespaceNotAllowed { .. } => Reason::NamespaceNotAllowed,
            Self::NameConflict { .. } => Reason::NameConflict,
            Self::Unreadable(_)
            | Self::InvalidSpec { .. }
            | Self::MemoryExceeded { .. }
            | Self::MountElsewhere { .. } => Reason::InvalidSpec,
            Self::TooManyMounts { .. }
            | Self::RegistryFull
            | Self::InvalidConfig(ConfigFault::TooLong { .. }) => Reason::TooLarge,
            Self::InvalidConfig(_) => Reason::InvalidConfig,
            Self::RankExceeded { .. } => Reason::RankExceeded,
            Self::BaseModelMismatch { .. } => Reason::BaseModelMismatch,
            Self::BudgetExceeded { .. } | Self::MeasureExceeded { .. } => Reason::BudgetExceeded,
            Self::NotRead { reason, .. } | Self::Standing { reason, .. } => *reason,
        }
    }
}

/// What an adapter is held against, as the Deployment says it now.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// The greatest rank.
    pub max_rank: u32,
    /// Bytes for all adapters.
    pub budget: u64,
    /// `OWNER/NAME` of the base model, where names are compared.
    pub base_model: Option<&'a str>,
}

/// What an earlier refusal, as a status has it, is worth while its source is not read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// It is at fault by what holds now too, as it was read.
    Verdict,
    /// It is at fault by what holds now too, as it was loaded: reading its source anew does not say otherwise.
    Measure,
    /// It was not read.
    NotRead,
    /// It speaks of what may no longer hold, or of something else than the source.
    Nothing,
}

/// What the refusal for `reason` in the words of `message` is worth under `limits`.
#[must_use]
pub fn worth(reason: Reason, message: &str, limits: &Limits<'_>) -> Worth {
    let stands = match reason {
        _ if message.ends_with(NOT_READ) => return Worth::NotRead,
        Reason::InvalidConfig => true,
        Reason::TooLarge => message.starts_with("adapter_config.json: "),
        Reason::RankExceeded => message.contains(&ranks_up_to(limits.max_rank)),
        Reason::BudgetExceeded => message.contains(&bytes_up_to(limits.budget)),
        Reason::BaseModelMismatch => {
            limits.base_model.is_some_and(|expected| message.contains(&trained_on(expected)))
        }
        _ => false,
    };
    match stands {
        true if message.contains(MEASURED) => Worth::Measure,
        true => Worth::Verdict,
        false => Worth::Nothing,
    }
}

fn ranks_up_to(limit: u32) -> String {
    format!("expected at most {limit}, got ")
}

fn bytes_up_to(budget: u64) -> String {
    format!("expected at most {budget} bytes ")
}

fn trained_on(expected: &str) -> String {
    format!("expected {expected:?}, got ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits<'_> = Limits { max_rank: 16, budget: 1000, base_model: Some("acme/base") };

    fn worth_of(refusal: &Refusal, limits: &Limits<'_>) -> Worth {
        worth(refusal.reason(), &refusal.to_string(), limits)
    }

    #[test]
    fn a_verdict_is_worth_as_much_as_the_limit_that_it_names() {
        let other = Limits { max_rank: 160, budget: 10_000, base_model: Some("acme/base-2") };
        let none = Limits { base_model: None, ..LIMITS };
        let rank = Refusal::RankExceeded { field: "r".to_owned(), limit: 16, rank: 32 };
        let bytes = Refusal::BudgetExceeded { budget: 1000, bytes: 1001 };
        let base = Refusal::BaseModelMismatch { expected: "acme/base".to_owned(), got: "a/b".to_owned() };
        for refusal in [&rank, &bytes, &base] {
            let worths = [LIMITS, other].map(|limits| worth_of(refusal, &limits));
            assert_eq!(worths, [Worth::Verdict, Worth::Nothing], "{refusal}");
        }
        assert_eq!(worth_of(&base, &none), Worth::Nothing);
        let long = Refusal::InvalidConfig(ConfigFault::TooLong { limit: 1 });
        for refusal in [long, Refusal::InvalidConfig(ConfigFault::NotAnObject("a list"))] {
            assert_eq!(worth_of(&refusal, &other), Worth::Verdict, "{refusal}");
        }
        for refusal in [Refusal::RegistryFull, Refusal::Unreadable("no".to_owned())] {
            assert_eq!(worth_of(&refusal, &LIMITS), Worth::Nothing, "{refusal}");
        }
    }

    #[test]
    fn what_was_not_read_is_no_verdict_whatever_its_reason() {
        for reason in Reason::ALL.iter().copied() {
            let message = Refusal::NotRead { reason, message: "adapter_config.json: missing".to_owned() };
            assert_eq!(worth_of(&message, &LIMITS), Worth::NotRead, "{reason:?}");
        }
    }
}
