//! LoRAX's request body: `{inputs, parameters}`, checked.

use serde_json::Value;

use super::super::App;
use super::super::error::Problem;
use super::super::fields::{Fields, expected, invalid};
use super::super::parameters::{Parameters, Stream, refuse_unsupported, seed, single, stop, unsupported};
use super::super::target::Target;
use crate::engine::request::Sampling;

/// What was asked for.
pub(super) struct Read {
    pub(super) target: Target,
    pub(super) inputs: String,
    pub(super) parameters: Parameters,
    pub(super) details: bool,
    pub(super) prefill: bool,
    pub(super) full_text: bool,
    pub(super) alternatives: bool,
}

/// Where LoRAX looks for an adapter. Here it is always among the registered ones, whatever the word.
const SOURCES: [&str; 4] = ["hub", "local", "s3", "pbase"];

pub(super) fn read(mut fields: Fields, app: &App, streamed: bool) -> Result<Read, Problem> {
    let inputs = fields.need_text("inputs")?;
    let mut parameters = match fields.object("parameters")? {
        Some(parameters) => parameters,
        None => Fields::of("parameters", Value::Object(serde_json::Map::new()))?,
    };
    let adapter = parameters.text("adapter_id")?.filter(|name| !name.is_empty());
    let source = parameters.text("adapter_source")?;
    let target = app.target(adapter.as_deref()).map_err(|problem| match problem {
        // LoRAX would fetch it. Here nobody makes this process fetch what they name.
        Problem::UnknownModel(name) if name.contains("://") || name.starts_with(['/', '.']) => unsupported(
            "parameters.adapter_id",
            "parameters.adapter_id: expected the name of a registered adapter, got a path or URL",
        ),
        other => other,
    })?;
    if let Some(source) = source.filter(|source| !SOURCES.contains(&source.as_str())) {
        let wanted = "hub, local, s3 or pbase (adapters come from the registered ones, whichever it is)";
        return Err(expected("parameters.adapter_source", wanted, &Value::String(source)));
    }
    let details = parameters.flag("details")?.unwrap_or(false);
    let prefill = parameters.flag("decoder_input_details")?.unwrap_or(false);
    if prefill && streamed {
        return Err(invalid("parameters.decoder_input_details", "expected only without streaming"));
    }
    let alternatives = parameters.count("return_k_alternatives", 1..=app.limits.logprobs)?;
    let full_text = parameters.flag("return_full_text")?.unwrap_or(false);
    let mut checked = shared(&mut parameters, app)?;
    refuse_unsupported(&parameters)?;
    refuse_unsupported(&fields)?;
    // A stream carries each token's log-probability, a whole answer does with its details.
    checked.sampling.logprobs =
        (details || streamed || alternatives.is_some()).then(|| alternatives.unwrap_or(0));
    checked.goes_on = full_text;
    checked.sampling.prompt_logprobs = prefill.then_some(0);
    checked.stream = streamed.then(Stream::default);
    Ok(Read {
        target,
        inputs,
        parameters: checked,
        details,
        prefill,
        full_text,
        alternatives: alternatives.is_some(),
    })
}

fn shared(fields: &mut Fields, app: &App) -> Result<Parameters, Problem> {
    let seed = seed(fields)?;
    let sampling = sampling(fields, seed)?;
    let max_tokens = fields.count("max_new_tokens", 1..=u32::MAX)?;
    Ok(Parameters {
        sampling,
        seed,
        choices: 1,
        max_tokens,
        usual_tokens: None,
        min_tokens: 0,
        ignore_eos: fields.flag("ignore_eos_token")?.unwrap_or(false),
        stop_token_ids: Vec::new(),
        stop: stop(fields, &app.limits)?,
        // The stop sequence is part of LoRAX's text.
        include_stop: true,
        skip_special: true,
        goes_on: false,
        return_token_ids: false,
        add_special: None,
        stream: None,
    })
}

/// LoRAX is greedy unless one of these says otherwise; the base model's own defaults do not count.
fn sampling(fields: &mut Fields, seed: Option<u64>) -> Result<Sampling, Problem> {
    let do_sample = fields.flag("do_sample")?.unwrap_or(false);
    let temperature = single(fields.number("temperature", 0.0..=100.0)?);
    let top_k = fields.count("top_k", 1..=u32::MAX)?;
    let top_p = single(fields.positive("top_p", 1.0)?);
    let asked = do_sample || temperature.is_some_and(|one| one > 0.0 && (one - 1.0).abs() > f32::EPSILON);
    let samples = asked || top_k.is_some() || top_p.is_some_and(|top_p| top_p < 1.0);
    Ok(Sampling {
        temperature: if samples { temperature.unwrap_or(1.0) } else { 0.0 },
        top_p: top_p.unwrap_or(1.0),
        top_k: top_k.unwrap_or(0),
        presence_penalty: single(fields.number("presence_penalty", -2.0..=2.0)?).unwrap_or(0.0),
        frequency_penalty: single(fields.number("frequency_penalty", -2.0..=2.0)?).unwrap_or(0.0),
        repetition_penalty: single(fields.positive("repetition_penalty", 100.0)?).unwrap_or(1.0),
        seed: seed.unwrap_or(0),
        ..Sampling::greedy()
    })
}
