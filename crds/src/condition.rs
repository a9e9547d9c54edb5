//! The words of a status: condition types and reasons, and how a condition changes. No decision when to say them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is written in a status and a metric's label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }
    };
}

words! {
    /// The type of a condition.
    ConditionType {
        /// kstatus: everything that the spec asks for is true.
        Ready,
        /// kstatus: work is going on.
        Reconciling,
        /// kstatus: nothing more will happen until somebody changes something.
        Stalled,
        /// The spec is valid and allowed.
        Accepted,
        /// Adapter: the source was found and its content checked.
        Resolved,
        /// Adapter: resident on as many replicas as placement asks for.
        Loaded,
        /// Deployment: every replica has loaded the model.
        ModelLoaded,
        /// Deployment: every Adapter that may name it, and stays, is Ready. It does not count for the Deployment's Ready.
        AdaptersReady,
        /// Deployment: at least one replica serves.
        Available,
    }
}

words! {
    /// Why a condition is as it is.
    Reason {
        /// All is as asked.
        AsDesired,
        /// Work goes on.
        Progressing,
        /// `spec.paused` is true.
        Paused,
        /// Accepted: valid and allowed.
        Valid,
        /// A field has a value that cannot be served.
        InvalidSpec,
        /// The Deployment that an Adapter names does not exist.
        DeploymentNotFound,
        /// The Deployment does not allow Adapters of that namespace.
        NamespaceNotAllowed,
        /// An older Adapter, or the base model, has that served name.
        NameConflict,
        /// No replica runs yet.
        NoReplicas,
        /// An object of the Deployment, or the finalizer of an Adapter, cannot be made as it should be.
        NotCarriedOut,
        /// Fewer replicas than asked for are ready.
        ReplicasNotReady,
        /// Replicas cannot be scheduled.
        Unschedulable,
        /// A replica does not answer.
        ReplicaUnreachable,
        /// A replica ends by itself and is started again.
        ReplicaFailed,
        /// Nobody can ask the Deployment: the port that it would answer on cannot be had.
        PortUnavailable,
        /// A Secret that the Deployment names is not there, or lacks what is needed of it.
        SecretNotFound,
        /// Loading on the replicas.
        Loading,
        /// The adapters do not all fit the budget of the replicas that they are placed on.
        InsufficientMemory,
        /// The source cannot be reached or has no such content.
        SourceUnavailable,
        /// The source may not be read.
        SourceForbidden,
        /// The source refused the credentials.
        SourceUnauthorized,
        /// The content is not what the digest pins.
        DigestMismatch,
        /// Replicas serve different contents of one source, and no digest says which is meant.
        ContentsDiffer,
        /// A size or count is over a limit.
        TooLarge,
        /// `adapter_config.json` has a fault.
        InvalidConfig,
        /// The weights have a fault.
        InvalidWeights,
        /// The adapter was not made for this base model.
        BaseModelMismatch,
        /// The adapter uses a feature that is not supported.
        UnsupportedFeature,
        /// The rank is over `adapters.maxRank`.
        RankExceeded,
        /// Larger than the whole budget.
        BudgetExceeded,
        /// Some adapters are not Ready.
        AdaptersNotReady,
        /// It is being drained for its deletion.
        Draining,
        /// It was let go at the end of the time for its drain, though replicas had it still.
        DrainTimeout,
        /// A replica or the operator failed otherwise.
        Internal,
    }
}

/// True, False or Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It is so.
    True,
    /// It is not.
    False,
    /// Nobody can say.
    Unknown,
}

impl Truth {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// What a condition says, before it is stamped with a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    /// Of what.
    pub condition: ConditionType,
    /// Whether.
    pub truth: Truth,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people, and what to do.
    pub message: String,
}

/// The conditions that `sayings` make after `before`: `lastTransitionTime` moves only where the truth does, so that a
/// status that says the same is the same, byte for byte.
#[must_use]
pub fn conditions(
    before: &[Condition],
    sayings: &[Saying],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    sayings
        .iter()
        .map(|saying| {
            let type_ = saying.condition.as_str();
            let status = saying.truth.as_str();
            let kept = before.iter().find(|old| old.type_ == type_ && old.status == status);
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: saying.reason.as_str().to_owned(),
                message: saying.message.clone(),
                observed_generation: generation,
                last_transition_time: kept.map_or_else(|| Time(now), |old| old.last_transition_time.clone()),
            }
        })
        .collect()
}

/// The condition of that type.
#[must_use]
pub fn find(conditions: &[Condition], condition: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|candidate| candidate.type_ == condition.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saying(truth: Truth, message: &str) -> Saying {
        Saying {
            condition: ConditionType::Ready,
            truth,
            reason: Reason::Loading,
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_transition_time_moves_only_with_the_truth() {
        let [early, late] = [1, 2].map(|second| Timestamp::from_second(second).unwrap());
        let first = conditions(&[], &[saying(Truth::False, "1 of 2")], Some(1), early);
        let second = conditions(&first, &[saying(Truth::False, "0 of 2")], Some(1), late);
        assert_eq!(second[0].last_transition_time, Time(early));
        assert_eq!(second[0].message, "0 of 2");
        let third = conditions(&second, &[saying(Truth::True, "2 of 2")], Some(1), late);
        assert_eq!(third[0].last_transition_time, Time(late));
    }
}
