//! `GET /`: what a person reads who opens the address in a browser. Says where to look; must not tell what is served here.

/// In plain text.
const WORDS: &str = concat!(
    "Lorikeet ",
    env!("CARGO_PKG_VERSION"),
    ": one base model and its LoRA adapters, behind OpenAI's API.

  GET  /v1/models             the names that a request may give as `model`
  POST /v1/completions        OpenAI's; with \"stream\": true as events
  POST /v1/chat/completions   the same for chats
  POST /generate              LoRAX's, also /generate_stream; the adapter is parameters.adapter_id
  GET  /health, /ready        whether it lives, whether it takes requests
  GET  /metrics               figures for Prometheus
"
);

/// Answers.
pub(super) async fn words() -> &'static str {
    WORDS
}
