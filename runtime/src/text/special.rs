//! `tokenizer_config.json` (and the older `special_tokens_map.json`): the names of special tokens and whether they are
//! added. Must not read the chat template: that is [`super::template`]'s.

use serde_json::{Map, Value};

/// The special tokens that a model's files name. Their contents, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The beginning of a text.
    pub bos: Option<String>,
    /// The end of a text.
    pub eos: Option<String>,
    /// All that are named (`bos_token`, `pad_token`, ...), as chat templates may use them.
    pub named: Vec<(String, String)>,
    /// Whether encoding adds the beginning; `None` where the file does not say.
    pub add_bos: Option<bool>,
    /// Whether encoding adds the end; `None` where the file does not say.
    pub add_eos: Option<bool>,
}

/// The names that transformers knows.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A field that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tokenizer_config.json: {field}: expected {expected}, got {got}")]
pub struct InvalidSpecial {
    field: String,
    expected: &'static str,
    got: String,
}

impl SpecialTokens {
    /// From the two files' JSON; what the first leaves out is taken from the second. `null` is the same as absent.
    ///
    /// # Errors
    /// A field of the wrong type, by name.
    pub fn parse(config: &Value, map: &Value) -> Result<Self, InvalidSpecial> {
        let nothing = Map::new();
        let config = config.as_object().unwrap_or(&nothing);
        let map = map.as_object().unwrap_or(&nothing);
        let mut special = Self {
            add_bos: flag(config, "add_bos_token")?,
            add_eos: flag(config, "add_eos_token")?,
            ..Self::default()
        };
        for name in NAMES {
            // A name that the config has as null was taken away on purpose.
            let source = if config.contains_key(name) { config } else { map };
            if let Some(content) = token(source, name)? {
                special.named.push((name.to_owned(), content));
            }
        }
        special.bos = special.get("bos_token").map(str::to_owned);
        special.eos = special.get("eos_token").map(str::to_owned);
        Ok(special)
    }

    /// The content of a named token.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, content)| content.as_str())
    }
}

fn flag(config: &Map<String, Value>, field: &str) -> Result<Option<bool>, InvalidSpecial> {
    match config.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(invalid(field, "true or false", other)),
    }
}

/// `"<s>"` or `{"content": "<s>", ...}`.
fn token(config: &Map<String, Value>, field: &str) -> Result<Option<String>, InvalidSpecial> {
    match config.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(content)) => Ok(Some(content.clone())),
        Some(Value::Object(token)) if token.get("content").is_some_and(Value::is_string) => {
            Ok(token["content"].as_str().map(str::to_owned))
        }
        Some(other) => Err(invalid(field, "a string or an object with \"content\"", other)),
    }
}

fn invalid(field: &str, expected: &'static str, got: &Value) -> InvalidSpecial {
    let mut got = got.to_string();
    if got.len() > 80 {
        got = got.chars().take(77).chain("...".chars()).collect();
    }
    InvalidSpecial { field: field.to_owned(), expected, got }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_a_string_or_an_object_with_its_content() {
        let config =
            json!({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null});
        let special =
            SpecialTokens::parse(&config, &json!({"pad_token": "<pad>", "unk_token": "<unk>"})).unwrap();
        assert_eq!((special.bos.as_deref(), special.eos.as_deref()), (Some("<s>"), Some("</s>")));
        assert_eq!((special.get("pad_token"), special.get("unk_token")), (None, Some("<unk>")));
        assert_eq!((special.add_bos, special.add_eos), (None, None));
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        let parse = |config: Value| SpecialTokens::parse(&config, &Value::Null).unwrap_err().to_string();
        assert_eq!(
            parse(json!({"add_bos_token": "yes"})),
            "tokenizer_config.json: add_bos_token: expected true or false, got \"yes\""
        );
        assert!(
            parse(json!({"eos_token": [2]}))
                .starts_with("tokenizer_config.json: eos_token: expected a string")
        );
    }
}
