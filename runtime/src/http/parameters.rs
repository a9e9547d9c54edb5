//! The parameters that OpenAI's two generating endpoints share, checked. LoRAX's spelling is in lorax/request.rs.
//! What is not supported is refused by name: nothing that would change the answer is ignored.

use serde_json::Value;

use super::error::Problem;
use super::fields::{Fields, describe, expected, invalid};
use super::limits::Limits;
use crate::engine::request::Sampling;
use crate::text::GenerationDefaults;

/// What a caller asked for, of every sequence of a body.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// How tokens are chosen; its seed is the first choice's.
    pub sampling: Sampling,
    /// The seed, where one was given.
    pub seed: Option<u64>,
    /// Choices of each prompt.
    pub choices: u32,
    /// At most so many tokens; `None` for as many as fit.
    pub max_tokens: Option<u32>,
    /// At most so many where the caller does not say: the model's own habit.
    pub usual_tokens: Option<u32>,
    /// No end before so many.
    pub min_tokens: u32,
    /// The model's own end does not end it.
    pub ignore_eos: bool,
    /// Further ids that end it.
    pub stop_token_ids: Vec<u32>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// The text that ended it is part of the answer.
    pub include_stop: bool,
    /// Special tokens are not part of the text.
    pub skip_special: bool,
    /// The prompt's text stands before the answer's.
    pub goes_on: bool,
    /// The answer carries token ids.
    pub return_token_ids: bool,
    /// Special tokens (a BOS) are put before the prompt; `None` for the endpoint's habit.
    pub add_special: Option<bool>,
    /// As server-sent events.
    pub stream: Option<Stream>,
}

/// How a stream reports usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// One more chunk at the end with the usage.
    pub include_usage: bool,
    /// Every chunk with the usage so far.
    pub continuous_usage: bool,
}

/// What the parameters are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// The face's limits.
    pub limits: &'a Limits,
    /// What the model's `generation_config.json` says.
    pub defaults: &'a GenerationDefaults,
    /// Ids are below this.
    pub vocabulary: usize,
}

const MAX_TEMPERATURE: f64 = 100.0;
const MAX_REPETITION_PENALTY: f64 = 100.0;
const MAX_PENALTY: f64 = 2.0;
const MAX_BIAS: f64 = 100.0;

impl Parameters {
    /// Reads the shared fields; those of the endpoint alone must have been taken before.
    ///
    /// # Errors
    /// The [`Problem`] of the first field at fault.
    pub fn read(fields: &mut Fields, bounds: Bounds<'_>) -> Result<Self, Problem> {
        let seed = seed(fields)?;
        let parameters = Self {
            sampling: Self::sampling(fields, bounds, seed)?,
            seed,
            choices: fields.count("n", 1..=bounds.limits.choices)?.unwrap_or(1),
            max_tokens: None,
            usual_tokens: bounds.defaults.max_new_tokens,
            min_tokens: fields.count("min_tokens", 0..=u32::MAX)?.unwrap_or(0),
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            stop_token_ids: fields
                .token_ids("stop_token_ids", bounds.vocabulary, bounds.limits.stop_ids)?
                .unwrap_or_default(),
            stop: stop(fields, bounds.limits)?,
            include_stop: fields.flag("include_stop_str_in_output")?.unwrap_or(false),
            skip_special: fields.flag("skip_special_tokens")?.unwrap_or(true),
            goes_on: false,
            return_token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            add_special: fields.flag("add_special_tokens")?,
            stream: stream(fields)?,
        };
        Ok(parameters)
    }

    fn sampling(fields: &mut Fields, bounds: Bounds<'_>, seed: Option<u64>) -> Result<Sampling, Problem> {
        let defaults = bounds.defaults;
        Ok(Sampling {
            temperature: single(fields.number("temperature", 0.0..=MAX_TEMPERATURE)?)
                .or(defaults.temperature)
                .unwrap_or(1.0),
            top_p: single(fields.positive("top_p", 1.0)?).or(defaults.top_p).unwrap_or(1.0),
            top_k: top_k(fields)?.or(defaults.top_k).unwrap_or(0),
            min_p: single(fields.number("min_p", 0.0..=1.0)?).or(defaults.min_p).unwrap_or(0.0),
            presence_penalty: penalty(fields, "presence_penalty")?,
            frequency_penalty: penalty(fields, "frequency_penalty")?,
            repetition_penalty: single(fields.positive("repetition_penalty", MAX_REPETITION_PENALTY)?)
                .or(defaults.repetition_penalty)
                .unwrap_or(1.0),
            logit_bias: logit_bias(fields, bounds)?,
            seed: seed.unwrap_or(0),
            logprobs: None,
            prompt_logprobs: fields.count("prompt_logprobs", 0..=bounds.limits.logprobs)?,
        })
    }

    /// The most tokens of a sequence with this prompt.
    ///
    /// # Errors
    /// [`Problem::ContextLength`] when prompt and output are more than `context`; [`Problem::EmptyPrompt`];
    /// [`Problem::InvalidValue`] when `min_tokens` are more than that.
    pub fn room(&self, param: &'static str, prompt: usize, context: usize) -> Result<u32, Problem> {
        if prompt == 0 {
            return Err(Problem::EmptyPrompt(param));
        }
        let output = self.max_tokens.map_or(1, |tokens| tokens as usize);
        if prompt.saturating_add(output) > context {
            return Err(Problem::ContextLength { param, limit: context, prompt, output });
        }
        let left = u32::try_from(context - prompt).unwrap_or(u32::MAX);
        let most = self.max_tokens.unwrap_or_else(|| self.usual_tokens.map_or(left, |usual| usual.min(left)));
        if self.min_tokens > most {
            let what = format!("expected at most max_tokens ({most}), got {}", self.min_tokens);
            return Err(invalid("min_tokens", &what));
        }
        Ok(most)
    }
}

/// Narrowed to what the sampler computes in.
#[expect(clippy::cast_possible_truncation, reason = "a parameter between 0 and 100")]
pub(crate) fn single(number: Option<f64>) -> Option<f32> {
    number.map(|number| number as f32)
}

fn penalty(fields: &mut Fields, field: &str) -> Result<f32, Problem> {
    Ok(single(fields.number(field, -MAX_PENALTY..=MAX_PENALTY)?).unwrap_or(0.0))
}

/// -1 and 0 keep all.
fn top_k(fields: &mut Fields) -> Result<Option<u32>, Problem> {
    Ok(fields.whole("top_k", -1..=i64::from(u32::MAX))?.map(|k| u32::try_from(k).unwrap_or(0)))
}

/// Any 64 bits, signed or not.
pub(crate) fn seed(fields: &mut Fields) -> Result<Option<u64>, Problem> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    value
        .as_u64()
        .or_else(|| value.as_i64().map(i64::cast_unsigned))
        .map(Some)
        .ok_or_else(|| expected(&fields.name("seed"), "a whole number of 64 bits", &value))
}

/// One stop string or a list of them.
pub(crate) fn stop(fields: &mut Fields, limits: &Limits) -> Result<Vec<String>, Problem> {
    let list = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    };
    if list.len() > limits.stop_strings {
        let what = format!("expected at most {} strings, got {}", limits.stop_strings, list.len());
        return Err(invalid(&fields.name("stop"), &what));
    }
    list.into_iter().map(|value| stop_string(&fields.name("stop"), value, limits.stop_bytes)).collect()
}

fn stop_string(param: &str, value: Value, most: usize) -> Result<String, Problem> {
    match value {
        Value::String(text) if (1..=most).contains(&text.len()) => Ok(text),
        Value::String(text) => {
            Err(invalid(param, &format!("expected strings of 1 to {most} bytes, got one of {}", text.len())))
        }
        other => Err(expected(param, "a string or a list of strings", &other)),
    }
}

fn logit_bias(fields: &mut Fields, bounds: Bounds<'_>) -> Result<Vec<(u32, f32)>, Problem> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let map = object.into_rest();
    let (most, vocabulary) = (bounds.limits.logit_bias, bounds.vocabulary);
    if map.len() > most {
        return Err(invalid("logit_bias", &format!("expected at most {most} entries, got {}", map.len())));
    }
    map.into_iter()
        .map(|(name, value)| {
            let param = format!("logit_bias.{}", super::error::shorten(&name));
            let id = name.parse().ok().filter(|id: &u32| (*id as usize) < vocabulary).ok_or_else(|| {
                let message =
                    format!("{param}: expected a token id from 0 to {}", vocabulary.saturating_sub(1));
                Problem::InvalidTokenId { param: param.clone(), message }
            })?;
            let bias = value.as_f64().filter(|bias| bias.abs() <= MAX_BIAS);
            let bias = bias.ok_or_else(|| expected(&param, "a number from -100 to 100", &value))?;
            Ok((id, single(Some(bias)).unwrap_or(0.0)))
        })
        .collect()
}

fn stream(fields: &mut Fields) -> Result<Option<Stream>, Problem> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(stream.then(Stream::default));
    };
    if !stream {
        return Err(invalid("stream_options", "expected only with stream = true"));
    }
    Ok(Some(Stream {
        include_usage: options.flag("include_usage")?.unwrap_or(false),
        continuous_usage: options.flag("continuous_usage_stats")?.unwrap_or(false),
    }))
}

/// What other servers know and this one would ignore. Refused by name, unless the value asks for nothing.
const UNSUPPORTED: &[&str] = &[
    "adapter_id",
    "adapter_source",
    "allowed_token_ids",
    "api_token",
    "audio",
    "bad_words",
    "best_of",
    "cache_salt",
    "chat_template",
    "chat_template_kwargs",
    "decoder_input_ids",
    "echo",
    "documents",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "guideline",
    "kv_transfer_params",
    "length_penalty",
    "logits_processors",
    "lora_path",
    "merged_adapters",
    "mm_processor_kwargs",
    "modalities",
    "prediction",
    "priority",
    "prompt_embeds",
    "reasoning_effort",
    "response_format",
    "schema",
    "structured_outputs",
    "suffix",
    "thinking_token_budget",
    "tool_choice",
    "tool_prompt",
    "tools",
    "truncate",
    "truncate_prompt_tokens",
    "typical_p",
    "use_beam_search",
    "vllm_xargs",
    "watermark",
    "web_search_options",
];

/// Refuses what is left and not harmless. Fields that nobody knows are let pass, as OpenAI's clients send new ones
/// before servers know them.
///
/// # Errors
/// [`Problem::UnsupportedParameter`].
pub fn refuse_unsupported(fields: &Fields) -> Result<(), Problem> {
    match fields.rest().find(|(name, value)| UNSUPPORTED.contains(name) && !asks_for_nothing(name, value)) {
        None => Ok(()),
        Some((name, value)) => {
            let path = fields.name(name);
            // A secret is not said back, not even to whoever sent it.
            let got = if name == "api_token" { "one".to_owned() } else { describe(value) };
            Err(unsupported(&path, &format!("{path}: not supported, got {got}")))
        }
    }
}

/// A parameter that is not supported, in words of its own.
pub(crate) fn unsupported(param: &str, message: &str) -> Problem {
    Problem::UnsupportedParameter { param: param.to_owned(), message: message.to_owned() }
}

/// Values that mean the same as leaving the field out: clients send them by default.
fn asks_for_nothing(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("best_of" | "length_penalty" | "typical_p", value) => value.as_f64() == Some(1.0),
        ("priority", value) => value.as_f64() == Some(0.0),
        ("response_format", Value::Object(format)) => format.get("type").is_some_and(|kind| kind == "text"),
        ("modalities", Value::Array(list)) => list.iter().all(|kind| kind == "text"),
        ("tool_choice" | "function_call", Value::String(choice)) => choice == "none" || choice == "auto",
        (_, Value::Bool(flag)) => !flag,
        (_, Value::Array(list)) => list.is_empty(),
        // An empty schema is a wish too.
        ("guided_json" | "guided_grammar" | "schema" | "structured_outputs", Value::Object(_)) => false,
        (_, Value::Object(map)) => map.is_empty(),
        (_, Value::String(text)) => text.is_empty(),
        (_, _) => false,
    }
}
