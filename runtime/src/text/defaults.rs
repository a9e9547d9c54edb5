//! `generation_config.json` and the end ids of `config.json`: what the model's authors say about sampling from it.
//! Must not decide anything: the faces combine it with a request.

use serde_json::{Map, Value};

/// Defaults of one model; `None` where its files say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Ids that end a text, ascending. Empty if no file names one.
    pub eos_ids: Vec<u32>,
    /// The beginning of a text.
    pub bos_id: Option<u32>,
    /// Padding.
    pub pad_id: Option<u32>,
    /// Whether to sample at all; `false` is greedy.
    pub do_sample: Option<bool>,
    /// [0, 100].
    pub temperature: Option<f32>,
    /// (0, 1].
    pub top_p: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<u32>,
    /// [0, 1].
    pub min_p: Option<f32>,
    /// (0, 100].
    pub repetition_penalty: Option<f32>,
    /// At least 1.
    pub max_new_tokens: Option<u32>,
}

/// A field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {field}: expected {expected}, got {got}")]
pub struct InvalidDefault {
    file: &'static str,
    field: &'static str,
    expected: String,
    got: String,
}

const GENERATION: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// One file's fields.
struct Fields<'a> {
    file: &'static str,
    fields: &'a Map<String, Value>,
}

impl GenerationDefaults {
    /// From the JSON of `generation_config.json` (or `null`) and `config.json`. Ids that the first leaves out are taken from
    /// the second.
    ///
    /// # Errors
    /// A field that is of the wrong type or out of range, by name.
    pub fn parse(generation: &Value, config: &Value) -> Result<Self, InvalidDefault> {
        let nothing = Map::new();
        let generation = Fields { file: GENERATION, fields: generation.as_object().unwrap_or(&nothing) };
        let config = Fields { file: CONFIG, fields: config.as_object().unwrap_or(&nothing) };
        let ids = |field| match generation.ids(field)? {
            ids if ids.is_empty() => config.ids(field),
            ids => Ok(ids),
        };
        Ok(Self {
            eos_ids: ids("eos_token_id")?,
            bos_id: ids("bos_token_id")?.first().copied(),
            pad_id: ids("pad_token_id")?.first().copied(),
            do_sample: generation.flag("do_sample")?,
            temperature: generation.number("temperature", 0.0, 100.0)?,
            top_p: generation.number("top_p", f64::MIN_POSITIVE, 1.0)?,
            top_k: generation.count("top_k", 0)?,
            min_p: generation.number("min_p", 0.0, 1.0)?,
            repetition_penalty: generation.number("repetition_penalty", f64::MIN_POSITIVE, 100.0)?,
            max_new_tokens: generation.count("max_new_tokens", 1)?,
        })
    }
}

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn invalid(&self, field: &'static str, expected: impl Into<String>, got: &Value) -> InvalidDefault {
        let got = got.to_string().chars().take(80).collect();
        InvalidDefault { file: self.file, field, expected: expected.into(), got }
    }

    /// An id, or a list of them; a negative one means none, as older files have it.
    fn ids(&self, field: &'static str) -> Result<Vec<u32>, InvalidDefault> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let list = match value {
            Value::Array(list) => list.as_slice(),
            single => std::slice::from_ref(single),
        };
        let mut ids = Vec::with_capacity(list.len());
        for id in list {
            match id.as_i64() {
                Some(id) if id < 0 => {}
                Some(id) => {
                    ids.push(u32::try_from(id).map_err(|_| self.invalid(field, "a token id", value))?)
                }
                None => return Err(self.invalid(field, "a token id or a list of them", value)),
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn flag(&self, field: &'static str) -> Result<Option<bool>, InvalidDefault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.invalid(field, "true or false", value))
    }

    fn number(&self, field: &'static str, least: f64, most: f64) -> Result<Option<f32>, InvalidDefault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            // Narrowing is the point: sampling is done in f32.
            #[expect(clippy::cast_possible_truncation, reason = "a number within these bounds fits f32")]
            Some(number) if (least..=most).contains(&number) => Ok(Some(number as f32)),
            _ if least > 0.0 => Err(self.invalid(field, format!("a number above 0 and up to {most}"), value)),
            _ => Err(self.invalid(field, format!("a number from {least} to {most}"), value)),
        }
    }

    fn count(&self, field: &'static str, least: u32) -> Result<Option<u32>, InvalidDefault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
            Some(count) if count >= least => Ok(Some(count)),
            _ => Err(self.invalid(field, format!("a whole number of at least {least}"), value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::tokenizer::tests::{MODELS, golden_json, ids};

    #[test]
    fn every_golden_model_ends_where_the_reference_does() {
        for model in MODELS {
            let defaults = GenerationDefaults::parse(
                &golden_json(model, "generation_config.json"),
                &golden_json(model, "config.json"),
            );
            let mut expected = ids(&golden_json(model, "cases.json")["eos_ids"]);
            expected.sort_unstable();
            assert_eq!(defaults.unwrap().eos_ids, expected, "{model}");
        }
    }

    #[test]
    fn without_a_generation_config_the_config_names_the_end() {
        let defaults = GenerationDefaults::parse(
            &Value::Null,
            &json!({"eos_token_id": [2, 1, 2], "bos_token_id": null}),
        );
        assert_eq!(
            defaults.unwrap(),
            GenerationDefaults { eos_ids: vec![1, 2], ..GenerationDefaults::default() }
        );
    }

    #[test]
    fn what_the_authors_say_is_read() {
        let file = json!({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "eos_token_id": 7, "max_new_tokens": 2048});
        let defaults = GenerationDefaults::parse(&file, &json!({"eos_token_id": 9})).unwrap();
        assert_eq!((defaults.temperature, defaults.top_p, defaults.top_k), (Some(0.7), Some(0.8), Some(20)));
        assert_eq!(
            (defaults.repetition_penalty, defaults.do_sample, defaults.eos_ids),
            (Some(1.05), Some(true), vec![7])
        );
        assert_eq!(defaults.max_new_tokens, Some(2048));
    }

    #[test]
    fn a_field_out_of_range_is_named_with_what_is_expected() {
        for (field, value, expected) in [
            ("temperature", json!(-1), "a number from 0 to 100"),
            ("temperature", json!("hot"), "a number from 0 to 100"),
            ("top_p", json!(0), "a number above 0 and up to 1"),
            ("top_p", json!(1.5), "a number above 0 and up to 1"),
            ("top_k", json!(-1), "a whole number of at least 0"),
            ("top_k", json!(2.5), "a whole number of at least 0"),
            ("repetition_penalty", json!(0), "a number above 0 and up to 100"),
            ("do_sample", json!(1), "true or false"),
            ("eos_token_id", json!("</s>"), "a token id or a list of them"),
            ("eos_token_id", json!([1, {}]), "a token id or a list of them"),
            ("eos_token_id", json!(5_000_000_000_u64), "a token id"),
        ] {
            let error = GenerationDefaults::parse(&json!({field: value}), &Value::Null).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("generation_config.json: {field}: expected {expected}, got {value}")
            );
        }
    }
}
