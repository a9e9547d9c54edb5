//! What a server speaks: a request's path and body, and what an event of its stream says. Pure.

use serde_json::{Value, json};

use crate::args::Speaks;
use crate::traffic::{Ask, Prompt};

/// One event of a stream, understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// It carries output: text, or a token that shows none.
    pub(crate) output: bool,
    /// Tokens of the prompt, where the server counts them.
    pub(crate) prompt_tokens: Option<u64>,
    /// Tokens of the answer so far, where the server counts them.
    pub(crate) output_tokens: Option<u64>,
    /// The answer has ended as it should.
    pub(crate) finished: bool,
    /// The stream failed: the message.
    pub(crate) error: Option<String>,
}

impl Speaks {
    /// Where a request goes.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Completions | Self::LlamaCpp => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Lorax => "/generate_stream",
        }
    }

    /// How many connections wait for their next request. llama.cpp's server closes a connection after its answer without
    /// saying so, and the next request on it would fail.
    pub(crate) fn kept_connections(self) -> usize {
        if matches!(self, Self::LlamaCpp) { 0 } else { 4096 }
    }

    /// The body of a request. `model` is the base model's name, `name` the adapter's or the base model's.
    pub(crate) fn body(self, ask: &Ask, model: &str, name: &str) -> Value {
        let prompt = match &ask.prompt {
            Prompt::Text(text) => json!(text),
            Prompt::Ids(ids) => json!(ids),
        };
        match self {
            Self::Completions => {
                let mut body = openai(ask, name);
                body["prompt"] = prompt;
                body
            }
            Self::Chat => {
                let mut body = openai(ask, name);
                body["messages"] = json!([{"role": "user", "content": prompt}]);
                body
            }
            Self::Lorax => {
                let parameters = json!({
                    "max_new_tokens": ask.new_tokens, "ignore_eos_token": ask.ignore_eos, "details": true,
                    "adapter_id": ask.adapter.map(|_| name),
                });
                json!({"inputs": prompt, "parameters": parameters})
            }
            Self::LlamaCpp => {
                let mut body = openai(ask, model);
                body["prompt"] = prompt;
                // An adapter that is not in the list has the scale 0; an empty list would mean the server's own scales.
                body["lora"] = match ask.adapter {
                    Some(place) => json!([{"id": place, "scale": 1.0}]),
                    None => json!([{"id": 0, "scale": 0.0}]),
                };
                body
            }
        }
    }

    /// What the data of an event says. What is not understood says nothing.
    pub(crate) fn understand(self, data: &str) -> Said {
        if data.trim() == "[DONE]" {
            return Said { finished: true, ..Said::default() };
        }
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            return Said { error: Some(format!("not JSON: {data}")), ..Said::default() };
        };
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            let message = error.get("message").unwrap_or(error);
            return Said {
                error: Some(message.as_str().unwrap_or(&message.to_string()).to_owned()),
                ..Said::default()
            };
        }
        match self {
            Self::Lorax => lorax_event(&event),
            Self::Completions | Self::Chat | Self::LlamaCpp => openai_event(&event),
        }
    }
}

/// The fields that completions and chat share.
fn openai(ask: &Ask, model: &str) -> Value {
    json!({
        "model": model, "max_tokens": ask.new_tokens, "temperature": 0, "ignore_eos": ask.ignore_eos,
        "stream": true, "stream_options": {"include_usage": true},
    })
}

fn openai_event(event: &Value) -> Said {
    let count = |name: &str| event.pointer(&format!("/usage/{name}")).and_then(Value::as_u64);
    let choice = &event["choices"][0];
    // A role alone is no output; a token that shows no text yet is.
    let output = match choice.get("delta") {
        Some(delta) => delta.get("content").is_some_and(Value::is_string) && delta.get("role").is_none(),
        None => choice.get("text").is_some_and(Value::is_string) && choice["finish_reason"].is_null(),
    };
    let last_with_text = !choice["finish_reason"].is_null()
        && choice
            .pointer("/delta/content")
            .or(choice.get("text"))
            .and_then(Value::as_str)
            .is_some_and(|t| !t.is_empty());
    Said {
        output: output || last_with_text,
        prompt_tokens: count("prompt_tokens"),
        output_tokens: count("completion_tokens"),
        ..Said::default()
    }
}

fn lorax_event(event: &Value) -> Said {
    let details = &event["details"];
    Said {
        output: event.get("token").is_some_and(|token| !token["special"].as_bool().unwrap_or(false)),
        prompt_tokens: details.get("prompt_tokens").or(details.get("input_length")).and_then(Value::as_u64),
        output_tokens: details["generated_tokens"].as_u64(),
        finished: !event["generated_text"].is_null(),
        error: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(adapter: Option<usize>) -> Ask {
        Ask { adapter, prompt: Prompt::Text("a b".to_owned()), new_tokens: 9, ignore_eos: true }
    }

    #[test]
    fn the_adapter_is_named_as_each_server_wants_it() {
        let asked = ask(Some(3));
        assert_eq!(Speaks::Completions.body(&asked, "base", "sql")["model"], "sql");
        assert_eq!(Speaks::Chat.body(&asked, "base", "sql")["messages"][0]["content"], "a b");
        assert_eq!(Speaks::Lorax.body(&asked, "base", "sql")["parameters"]["adapter_id"], "sql");
        assert_eq!(Speaks::LlamaCpp.body(&asked, "base", "sql")["lora"], json!([{"id": 3, "scale": 1.0}]));
        let base = ask(None);
        assert_eq!(Speaks::Lorax.body(&base, "base", "base")["parameters"]["adapter_id"], Value::Null);
        assert_eq!(Speaks::LlamaCpp.body(&base, "base", "base")["lora"], json!([{"id": 0, "scale": 0.0}]));
    }

    #[test]
    fn a_completions_stream_is_understood() {
        let said = |data: &str| Speaks::Completions.understand(data);
        assert!(said(r#"{"choices":[{"text":" sea","finish_reason":null}]}"#).output);
        assert!(said(r#"{"choices":[{"text":"","finish_reason":null}]}"#).output, "a token without text yet");
        assert!(!said(r#"{"choices":[{"text":"","finish_reason":"length"}]}"#).output);
        assert!(said(r#"{"choices":[{"text":".","finish_reason":"length"}]}"#).output);
        let usage = said(r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9}}"#);
        assert_eq!((usage.prompt_tokens, usage.output_tokens, usage.output), (Some(5), Some(9), false));
        assert!(said("[DONE]").finished);
        assert_eq!(
            said(r#"{"error":{"message":"the replica is draining"}}"#).error.unwrap(),
            "the replica is draining"
        );
    }

    #[test]
    fn the_role_of_a_chat_stream_is_no_output() {
        let said = |data: &str| Speaks::Chat.understand(data).output;
        assert!(!said(r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#));
        assert!(said(r#"{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}"#));
        assert!(!said(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#));
    }

    #[test]
    fn a_lorax_stream_is_understood() {
        let said = |data: &str| Speaks::Lorax.understand(data);
        let token =
            said(r#"{"token":{"id":4,"text":" sea","special":false},"generated_text":null,"details":null}"#);
        assert!(token.output && !token.finished);
        let last = said(
            r#"{"token":{"id":4,"text":".","special":false},"generated_text":" sea.","details":{"generated_tokens":2,"prompt_tokens":7}}"#,
        );
        assert!(last.output && last.finished);
        assert_eq!((last.prompt_tokens, last.output_tokens), (Some(7), Some(2)));
        assert_eq!(
            said(r#"{"error":"Request failed","error_type":"generation"}"#).error.unwrap(),
            "Request failed"
        );
    }
}
