//! How byte-level BPE cuts a text into words before merging, by the names that GGUF files use (`tokenizer.ggml.pre`).
//! Must refuse a name that it does not know: another cut gives other ids, and a model that answers nonsense.

use serde_json::{Value, json};

/// One kind of cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Split {
    /// The pre-tokenizer, as `tokenizer.json` writes it.
    pub(super) pre_tokenizer: Value,
    /// The normalizer of the models that use this cut.
    pub(super) normalizer: Value,
    /// A word that is a token is that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether a beginning is added where the file does not say.
    pub(super) add_bos: bool,
}

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const UPPER: &str = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
const LOWER: &str = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";

/// The names that are known, for the refusal.
pub(super) const KNOWN: &str = "default, gpt-2, phi-2, olmo, jais, mpt, smollm, starcoder, refact, command-r, codeshell, exaone, \
    minerva-7b, llama-bpe, llama3, llama-v3, falcon3, smaug-bpe, dbrx, chatglm-bpe, qwen2, megrez, stablelm2, deepseek-r1-qwen, \
    deepseek-v3, tekken, gpt-4o, llama4";

impl Split {
    /// By name; `None` if it is not known.
    pub(super) fn named(name: &str) -> Option<Self> {
        let begins = |split: Self| Self { ignore_merges: true, add_bos: true, ..split };
        Some(match name {
            "default" => Self::regexes(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
            "gpt-2" | "phi-2" | "olmo" | "jais" | "mpt" => Self::regexes(&[GPT2]),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                Self::regexes(&[r"\p{N}", GPT2])
            }
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => {
                begins(Self::regexes(&[&words(r"\p{N}{1,3}")]))
            }
            "smaug-bpe" | "dbrx" | "chatglm-bpe" => Self::regexes(&[&words(r"\p{N}{1,3}")]),
            // These models were trained on text in normal form C.
            "qwen2" | "megrez" | "deepseek-r1-qwen" => {
                Self { normalizer: json!({"type": "NFC"}), ..Self::regexes(&[&words(r"\p{N}")]) }
            }
            "stablelm2" => Self::regexes(&[&words(r"\p{N}")]),
            "deepseek-v3" => Self::regexes(&[
                r"\p{N}{1,3}",
                "[一-龥\u{3040}-ゟ゠-ヿ]+",
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ]),
            "tekken" => begins(Self::regexes(&[&cased(r"\p{N}", "")])),
            "gpt-4o" | "llama4" => Self::regexes(&[&cased(r"\p{N}{1,3}", &format!("{CONTRACTIONS}?"))]),
            _ => return None,
        })
    }

    fn regexes(regexes: &[&str]) -> Self {
        let mut steps: Vec<Value> = regexes
            .iter()
            .map(|regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}))
            .collect();
        steps.push(
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
        );
        let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": steps});
        Self { pre_tokenizer, normalizer: Value::Null, ignore_merges: false, add_bos: false }
    }
}

/// Llama 3's cut and its kin, with this cut of digits.
fn words(digits: &str) -> String {
    format!(
        r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// GPT-4o's cut and its kin: a word ends where a capital follows a small letter.
fn cased(digits: &str, after: &str) -> String {
    let lead = r"[^\r\n\p{L}\p{N}]?";
    format!(
        r"{lead}{UPPER}*{LOWER}+{after}|{lead}{UPPER}+{LOWER}*{after}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_a_cut_that_the_library_takes() {
        for name in KNOWN.split(',') {
            let split = Split::named(name.trim()).unwrap_or_else(|| panic!("{name}"));
            serde_json::from_value::<tokenizers::PreTokenizerWrapper>(split.pre_tokenizer).unwrap();
        }
        assert_eq!(Split::named("babel"), None);
    }
}
