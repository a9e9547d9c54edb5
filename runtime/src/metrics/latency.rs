//! The histograms, under vLLM's names and with vLLM's buckets, so that existing dashboards and autoscalers read them.

use prometheus::{Encoder as _, Histogram, HistogramOpts, Registry, TextEncoder};

use crate::engine::stats::{StepObserver, StepReport};

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const BETWEEN_TOKENS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const STEP_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const STEP_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    registry: Registry,
    pub(crate) first_token: Histogram,
    pub(crate) between_tokens: Histogram,
    pub(crate) per_token: Histogram,
    pub(crate) end_to_end: Histogram,
    pub(crate) queue: Histogram,
    pub(crate) inference: Histogram,
    pub(crate) prefill: Histogram,
    pub(crate) decode: Histogram,
    pub(crate) prompt_tokens: Histogram,
    pub(crate) generation_tokens: Histogram,
    pub(crate) max_tokens: Histogram,
    pub(crate) choices: Histogram,
    step_tokens: Histogram,
    step: Histogram,
    forward: Histogram,
}

impl Latency {
    /// Registers every histogram with the labels that vLLM gives all of its own.
    pub(crate) fn new(model: &str, context: usize) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let tokens = one_two_five(context);
        let make = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help)
                .const_label("engine", "0")
                .const_label("model_name", model)
                .buckets(buckets.to_vec());
            let histogram = Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        Ok(Self {
            first_token: make(
                "vllm:time_to_first_token_seconds",
                "From arrival to the first token.",
                FIRST_TOKEN,
            )?,
            between_tokens: make("vllm:inter_token_latency_seconds", "Between two tokens.", BETWEEN_TOKENS)?,
            per_token: make(
                "vllm:request_time_per_output_token_seconds",
                "A request's mean time between two tokens.",
                BETWEEN_TOKENS,
            )?,
            end_to_end: make("vllm:e2e_request_latency_seconds", "From arrival to the last token.", REQUEST)?,
            queue: make("vllm:request_queue_time_seconds", "From arrival to the first step.", REQUEST)?,
            inference: make(
                "vllm:request_inference_time_seconds",
                "From the first step to the last.",
                REQUEST,
            )?,
            prefill: make(
                "vllm:request_prefill_time_seconds",
                "From the first step to the first token.",
                REQUEST,
            )?,
            decode: make("vllm:request_decode_time_seconds", "From the first token to the last.", REQUEST)?,
            prompt_tokens: make("vllm:request_prompt_tokens", "Tokens of a prompt.", &tokens)?,
            generation_tokens: make("vllm:request_generation_tokens", "Tokens of an answer.", &tokens)?,
            max_tokens: make("vllm:request_params_max_tokens", "max_tokens asked for.", &tokens)?,
            choices: make("vllm:request_params_n", "n asked for.", CHOICES)?,
            step_tokens: make("vllm:iteration_tokens_total", "Tokens of a step.", STEP_TOKENS)?,
            step: make(
                "lorikeet_step_seconds",
                "Of a step, from scheduling to the last event.",
                STEP_SECONDS,
            )?,
            forward: make(
                "lorikeet_step_forward_seconds",
                "Of a step, the part in the model.",
                STEP_SECONDS,
            )?,
            registry,
        })
    }

    /// In Prometheus' text format.
    pub(crate) fn encode(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => {
                tracing::error!(%error, "histograms cannot be encoded");
                String::new()
            }
        }
    }
}

impl StepObserver for Latency {
    fn step(&self, step: &StepReport) {
        self.step_tokens.observe((step.prefill_rows + step.decode_rows) as f64);
        self.step.observe(step.total.as_secs_f64());
        self.forward.observe(step.forward.as_secs_f64());
    }
}

/// 1, 2, 5, 10, 20, 50, ... up to `most`: vLLM's buckets for token counts.
fn one_two_five(most: usize) -> Vec<f64> {
    let mut buckets = Vec::new();
    let mut decade = 1usize;
    while decade <= most.max(1) {
        for step in [1, 2, 5] {
            let bound = decade.saturating_mul(step);
            if bound <= most.max(1) {
                buckets.push(bound as f64);
            }
        }
        decade = decade.saturating_mul(10);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_buckets_go_up_to_the_context() {
        assert_eq!(one_two_five(128), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(one_two_five(0), [1.0]);
    }
}
