//! Fit: whether an adapter suits its Deployment, by what was read of its source before any replica hears of it. Pure.
//!
//! Refuses only what every replica would refuse too, except for the base model's name, which replicas do not compare.

use lorikeet_api::{ErrorCode, Failure};
use lorikeet_crds::adapter::BaseModelRule;
use lorikeet_crds::condition::{Truth, find};
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};

use crate::decide::adapter_status::reason;
use crate::decide::refusal::{Limits, Worth, worth};
use crate::decide::unaccepted::own_words;
use crate::decide::validate::{Refusal, ValidFleet};
use crate::fleet::{AdapterFacts, Probe};

/// Ends of a repository's name that say how a model is stored, not which one it is.
const FORMS: [&str; 14] = [
    "-gguf",
    "-awq",
    "-gptq",
    "-unsloth",
    "-bnb-4bit",
    "-bnb-8bit",
    "-4bit",
    "-8bit",
    "-int4",
    "-int8",
    "-fp8",
    "-fp16",
    "-bf16",
    "-hf",
];

/// The start of names that the hub has shortened since: `meta-llama/Meta-Llama-3.1-8B` is `meta-llama/Llama-3.1-8B`, and
/// both go on leading there.
const FORMER_START: &str = "meta-";

/// Whether replicas may hear of `adapter`: not yet, where more is to be read of it first. `probe` is what was read of it for this;
/// `known` is what is known of it without.
///
/// # Errors
/// What was read of it, or is known of it, does not suit `deployment`, whose budget `valid` holds; or it cannot be read.
pub fn fit(
    probe: Option<&Probe>,
    known: &AdapterFacts,
    adapter: &Adapter,
    deployment: &Deployment,
    valid: &ValidFleet,
) -> Result<bool, Refusal> {
    let standing = || standing(adapter, deployment, valid);
    let is_compared = adapter.spec.base_model == BaseModelRule::Same;
    match probe {
        None | Some(Probe::Unjudged(_)) => {
            suits(known, is_compared, deployment, valid)?;
            measured(known, valid)?;
            // Nobody reads it, and nobody has it: a limit that it was over it is over still.
            let is_over = |reason| {
                matches!(reason, Reason::RankExceeded | Reason::BaseModelMismatch | Reason::BudgetExceeded)
            };
            match standing().filter(|_| probe.is_none() && known.rank == 0) {
                Some((worth, refusal)) if worth != Worth::NotRead && is_over(refusal.reason()) => {
                    Err(refusal)
                }
                _ => Ok(true),
            }
        }
        Some(Probe::Pending | Probe::Awaited(_)) => standing().map_or(Ok(false), |(_, refusal)| Err(refusal)),
        Some(Probe::Refused(failure)) => Err(match standing() {
            Some((Worth::Verdict | Worth::Measure, refusal)) => refusal,
            _ => not_read(failure),
        }),
        Some(Probe::Faulty(fault)) => Err(Refusal::InvalidConfig(fault.clone())),
        Some(Probe::Facts(facts)) => {
            suits(facts, is_compared, deployment, valid)?;
            match standing() {
                Some((Worth::Measure, refusal)) => Err(refusal),
                _ => within_budget(facts, valid).map(|()| true),
            }
        }
    }
}

/// Whether what is served, of which `facts` are known, fits `deployment` still.
#[must_use]
pub fn may_go_on(facts: &AdapterFacts, deployment: &Deployment, valid: &ValidFleet) -> bool {
    suits(facts, true, deployment, valid).is_ok() && measured(facts, valid).is_ok()
}

fn not_read(failure: &Failure) -> Refusal {
    let reason = match failure.code {
        ErrorCode::InvalidRequest => Reason::InvalidSpec,
        code => reason(code),
    };
    Refusal::NotRead { reason, message: failure.message.clone() }
}

/// What the status of `adapter` as it is now says of its source, where that is worth anything under what `deployment` asks
/// for now: it stands until its source is read again.
fn standing(adapter: &Adapter, deployment: &Deployment, valid: &ValidFleet) -> Option<(Worth, Refusal)> {
    let said = find(&adapter.status.as_ref()?.conditions, ConditionType::Accepted)?;
    if said.status != Truth::False.as_str() || said.observed_generation != adapter.metadata.generation {
        return None;
    }
    let reason = *Reason::ALL.iter().find(|reason| reason.as_str() == said.reason)?;
    let message = own_words(&said.message);
    let limits = Limits {
        max_rank: valid.max_rank,
        budget: valid.resident_bytes,
        base_model: repository_of(&deployment.spec.model.source.source),
    };
    match worth(reason, message, &limits) {
        Worth::Nothing => None,
        worth => Some((worth, Refusal::Standing { reason, message: message.to_owned() })),
    }
}

/// Whether rank and base model suit; the latter where names are compared.
fn suits(
    facts: &AdapterFacts,
    is_compared: bool,
    deployment: &Deployment,
    valid: &ValidFleet,
) -> Result<(), Refusal> {
    if facts.rank > u64::from(valid.max_rank) {
        let field = facts.rank_field.clone();
        return Err(Refusal::RankExceeded { field, limit: valid.max_rank, rank: facts.rank });
    }
    if let Some(got) = facts.base_model.as_ref().filter(|_| is_compared)
        && let Some(expected) = repository_of(&deployment.spec.model.source.source)
        && is_another_model(expected, got)
    {
        return Err(Refusal::BaseModelMismatch { expected: expected.to_owned(), got: got.clone() });
    }
    Ok(())
}

/// Whether its weights fit the budget, as its source says how many they are.
fn within_budget(facts: &AdapterFacts, valid: &ValidFleet) -> Result<(), Refusal> {
    let budget = valid.resident_bytes;
    let over = facts.bytes.filter(|bytes| *bytes > budget);
    over.map_or(Ok(()), |bytes| Err(Refusal::BudgetExceeded { budget, bytes }))
}

/// Whether it fits the budget by the bytes that it takes.
fn measured(facts: &AdapterFacts, valid: &ValidFleet) -> Result<(), Refusal> {
    let budget = valid.resident_bytes;
    let over = facts.bytes.filter(|bytes| *bytes > budget);
    over.map_or(Ok(()), |bytes| Err(Refusal::MeasureExceeded { budget, bytes }))
}

/// `OWNER/NAME` of a source of the hub, without revision and file.
fn repository_of(source: &str) -> Option<&str> {
    let rest = source.strip_prefix("hf://")?;
    let owner = rest.find('/')?;
    let end = rest[owner + 1..].find(['@', '/']).map_or(rest.len(), |end| owner + 1 + end);
    Some(&rest[..end])
}

/// Whether two repositories are of different models for certain: both are repositories, and their names differ, whatever
/// the owner and the form that the model is stored in.
fn is_another_model(expected: &str, got: &str) -> bool {
    model_name(expected).zip(model_name(got)).is_some_and(|(expected, got)| expected != got)
}

/// The model's name, where `text` is `OWNER/NAME`: in lower case, without the form that it is stored in, as it is called now.
fn model_name(text: &str) -> Option<String> {
    let (owner, name) = text.split_once('/')?;
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with(['.', '-'])
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if !is_word(owner) || !is_word(name) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let mut bare = lower.strip_prefix(FORMER_START).unwrap_or(&lower);
    while let Some(shorter) = FORMS.iter().find_map(|form| bare.strip_suffix(form)) {
        bare = shorter;
    }
    Some(bare.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::ConfigFault;

    fn deployment(source: &str) -> Deployment {
        let mut deployment = Deployment::default();
        deployment.spec.model.source.source = source.to_owned();
        deployment
    }

    fn facts() -> AdapterFacts {
        AdapterFacts {
            rank: 16,
            rank_field: "r".to_owned(),
            base_model: Some("mistralai/Mistral-7B-v0.1".to_owned()),
            bytes: Some(1000),
        }
    }

    fn judge(facts: AdapterFacts, adapter: &Adapter) -> Result<bool, Refusal> {
        let valid = ValidFleet { max_rank: 16, resident_bytes: 1000, ..ValidFleet::default() };
        let deployment = deployment("hf://mistralai/Mistral-7B-v0.1@main");
        fit(Some(&Probe::Facts(facts)), &AdapterFacts::default(), adapter, &deployment, &valid)
    }

    #[test]
    fn what_is_within_every_limit_is_accepted() {
        assert_eq!(judge(facts(), &Adapter::default()), Ok(true));
        let unknown = AdapterFacts { base_model: None, bytes: None, ..facts() };
        assert_eq!(judge(unknown, &Adapter::default()), Ok(true));
    }

    #[test]
    fn a_rank_over_the_limit_is_refused_with_the_field_and_what_to_do() {
        let facts = AdapterFacts { rank: 17, rank_field: "rank_pattern.q_proj".to_owned(), ..facts() };
        let refusal = judge(facts, &Adapter::default()).unwrap_err().to_string();
        for part in ["rank_pattern.q_proj", "at most 16", "got 17", "adapters.maxRank"] {
            assert!(refusal.contains(part), "{refusal}");
        }
    }

    #[test]
    fn weights_over_the_whole_budget_are_refused() {
        let refusal = judge(AdapterFacts { bytes: Some(1001), ..facts() }, &Adapter::default()).unwrap_err();
        assert_eq!(refusal, Refusal::BudgetExceeded { budget: 1000, bytes: 1001 });
        assert!(refusal.to_string().contains("adapters.gpuMemory"), "{refusal}");
    }

    #[test]
    fn an_adapter_of_another_model_is_refused_unless_its_spec_says_any() {
        let of = |name: &str| AdapterFacts { base_model: Some(name.to_owned()), ..facts() };
        let refusal = judge(of("meta-llama/Llama-2-7b-hf"), &Adapter::default()).unwrap_err().to_string();
        for part in ["mistralai/Mistral-7B-v0.1", "meta-llama/Llama-2-7b-hf", "spec.baseModel: Any"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let mut adapter = Adapter::default();
        adapter.spec.base_model = BaseModelRule::Any;
        assert_eq!(judge(of("meta-llama/Llama-2-7b-hf"), &adapter), Ok(true));
    }

    #[test]
    fn only_certain_differences_of_names_count() {
        let expected = "mistralai/Mistral-7B-v0.1";
        for same in [
            "mistralai/mistral-7b-v0.1",
            "unsloth/mistral-7b-v0.1-bnb-4bit",
            "unsloth/mistral-7b-v0.1-unsloth-bnb-4bit",
            "TheBloke/Mistral-7B-v0.1-GGUF",
            "/models/other",
            "./other/model",
            "other",
            "a/b/c",
            "",
        ] {
            assert!(!is_another_model(expected, same), "{same}");
        }
        let llama = "meta-llama/Llama-3.1-8B";
        for same in ["meta-llama/Meta-Llama-3.1-8B", "unsloth/Meta-Llama-3.1-8B-bnb-4bit"] {
            assert!(!is_another_model(llama, same) && !is_another_model(same, llama), "{same}");
        }
        assert!(is_another_model(llama, "meta-llama/Meta-Llama-3-8B"));
        for other in ["mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-v0.2"] {
            assert!(is_another_model(expected, other), "{other}");
        }
        for (source, name) in [
            ("hf://a/b", Some("a/b")),
            ("hf://a/b@v1/x.gguf", Some("a/b")),
            ("hf://a/b/x.gguf", Some("a/b")),
            ("hf://gpt2", None),
            ("pvc://a/b", None),
        ] {
            assert_eq!(repository_of(source), name, "{source}");
        }
    }

    #[test]
    fn what_cannot_be_read_and_what_is_no_configuration_are_refused_and_what_nobody_judges_is_left_to_the_replicas()
     {
        let judge = |probe: Option<&Probe>| {
            fit(
                probe,
                &AdapterFacts::default(),
                &Adapter::default(),
                &Deployment::default(),
                &ValidFleet::default(),
            )
        };
        assert_eq!(judge(None), Ok(true));
        assert_eq!(judge(Some(&Probe::Unjudged("not LORA".to_owned()))), Ok(true));
        assert_eq!(judge(Some(&Probe::Pending)), Ok(false));
        assert_eq!(judge(Some(&Probe::Awaited("a pod".to_owned()))), Ok(false));
        let failure = Failure { code: ErrorCode::SourceUnauthorized, message: "closed".to_owned() };
        let refusal = judge(Some(&Probe::Refused(failure))).unwrap_err();
        assert_eq!(refusal.reason(), Reason::SourceUnauthorized);
        assert_eq!(refusal.to_string(), "closed; it is tried again until it can be read");
        let refusal = judge(Some(&Probe::Faulty(ConfigFault::NotAnObject("a list")))).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "adapter_config.json: expected a JSON object, got a list; correct it at the source"
        );
    }
}
