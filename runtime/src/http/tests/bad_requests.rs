//! Bad bodies and headers, each with the exact status, code, field and message, over a real socket.

use serde_json::json;

use super::sockets::{Listening, request};
use super::*;

/// `(path, body, status, code, param, message)`; `~` before a message: it begins so.
type Row = (&'static str, &'static str, u16, &'static str, Option<&'static str>, &'static str);

const C: &str = "/v1/completions";
const H: &str = "/v1/chat/completions";
const G: &str = "/generate";

#[rustfmt::skip]
const BODIES: &[Row] = &[
    (C, "", 400, "invalid_json", None, "body: expected a JSON object, got nothing"),
    (C, "[]", 400, "invalid_json", None, "body: expected a JSON object, got a list of 0"),
    (C, "null", 400, "invalid_json", None, "body: expected a JSON object, got null"),
    (C, "{", 400, "invalid_json", None, "~body: not JSON: EOF"),
    (C, "{}x", 400, "invalid_json", None, "~body: not JSON: trailing characters"),
    (C, "{'a':1}", 400, "invalid_json", None, "~body: not JSON: key must be a string"),
    (C, r#"{"prompt":"\ud800"}"#, 400, "invalid_json", None, "~body: not JSON:"),
    (C, r#"{"prompt":"a","temperature":1e400}"#, 400, "invalid_json", None, "~body: not JSON: number out of range"),
    (C, r#"{"model":"a","model":"b"}"#, 400, "duplicate_parameter", Some("model"), "model: given twice"),
    (C, r#"{"prompt":"a","logit_bias":{"1":1,"1":2}}"#, 400, "duplicate_parameter", Some("1"), "1: given twice"),
    (C, "{}", 400, "missing_required_parameter", Some("prompt"), "prompt: required, but missing"),
    (C, r#"{"prompt":null}"#, 400, "missing_required_parameter", Some("prompt"), "prompt: required, but missing"),
    (C, r#"{"prompt":7}"#, 400, "invalid_value", Some("prompt"), "prompt: expected a string, a list of token ids, or a list of either, got 7"),
    (C, r#"{"prompt":{}}"#, 400, "invalid_value", Some("prompt"), "prompt: expected a string, a list of token ids, or a list of either, got an object"),
    (C, r#"{"prompt":[]}"#, 400, "empty_prompt", Some("prompt"), "prompt: expected at least one token, got none"),
    (C, r#"{"prompt":[[]]}"#, 400, "empty_prompt", Some("prompt"), "prompt: expected at least one token, got none"),
    (C, r#"{"prompt":"","add_special_tokens":false}"#, 400, "empty_prompt", Some("prompt"), "prompt: expected at least one token, got none"),
    (C, r#"{"prompt":["a",{}]}"#, 400, "invalid_value", Some("prompt[1]"), "prompt[1]: expected a string or a list of token ids, got an object"),
    (C, r#"{"prompt":[1,-2]}"#, 400, "invalid_token_id", Some("prompt"), "~prompt[1]: expected a token id from 0 to"),
    (C, r#"{"prompt":[1,4294967296]}"#, 400, "invalid_token_id", Some("prompt"), "~prompt[1]: expected a token id from 0 to"),
    (C, r#"{"prompt":[1.5]}"#, 400, "invalid_token_id", Some("prompt"), "~prompt[0]: expected a token id from 0 to"),
    (C, r#"{"prompt":[[1],[1,"a"]]}"#, 400, "invalid_token_id", Some("prompt[1]"), "~prompt[1][1]: expected a token id from 0 to"),
    (C, r#"{"prompt":"a","model":"nobody"}"#, 404, "model_not_found", Some("model"), "The model `nobody` does not exist."),
    (C, r#"{"prompt":"a","model":"SQL"}"#, 404, "model_not_found", Some("model"), "The model `SQL` does not exist."),
    (C, r#"{"prompt":"a","model":7}"#, 400, "invalid_value", Some("model"), "model: expected a string, got 7"),
    (C, r#"{"prompt":"a","model":"broken"}"#, 503, "invalid_weights", Some("model"), "tensor \"a\": not finite"),
    (C, r#"{"prompt":"a","max_tokens":0}"#, 400, "invalid_value", Some("max_tokens"), "max_tokens: expected a whole number from 1 to 4294967295, got 0"),
    (C, r#"{"prompt":"a","max_tokens":-1}"#, 400, "invalid_value", Some("max_tokens"), "max_tokens: expected a whole number from 1 to 4294967295, got -1"),
    (C, r#"{"prompt":"a","max_tokens":1.5}"#, 400, "invalid_value", Some("max_tokens"), "max_tokens: expected a whole number from 1 to 4294967295, got 1.5"),
    (C, r#"{"prompt":"a","max_tokens":"9"}"#, 400, "invalid_value", Some("max_tokens"), "max_tokens: expected a whole number from 1 to 4294967295, got \"9\""),
    (C, r#"{"prompt":[1,2],"max_tokens":1000000000}"#, 400, "context_length_exceeded", Some("prompt"), "This model's maximum context length is 64 tokens. However, you requested 1000000002 tokens (2 in the prompt, 1000000000 in the completion). Please reduce the length of the prompt or the completion."),
    (C, r#"{"prompt":"a","min_tokens":99,"max_tokens":9}"#, 400, "invalid_value", Some("min_tokens"), "min_tokens: expected at most max_tokens (9), got 99"),
    (C, r#"{"prompt":"a","n":0}"#, 400, "invalid_value", Some("n"), "n: expected a whole number from 1 to 16, got 0"),
    (C, r#"{"prompt":"a","n":1000000000}"#, 400, "invalid_value", Some("n"), "n: expected a whole number from 1 to 16, got 1000000000"),
    (C, r#"{"prompt":"a","best_of":2}"#, 400, "unsupported_parameter", Some("best_of"), "best_of: not supported, got 2"),
    (C, r#"{"prompt":"a","temperature":-1}"#, 400, "invalid_value", Some("temperature"), "temperature: expected a number from 0 to 100, got -1"),
    (C, r#"{"prompt":"a","temperature":1e9}"#, 400, "invalid_value", Some("temperature"), "temperature: expected a number from 0 to 100, got 1000000000.0"),
    (C, r#"{"prompt":"a","temperature":"hot"}"#, 400, "invalid_value", Some("temperature"), "temperature: expected a number from 0 to 100, got \"hot\""),
    (C, r#"{"prompt":"a","top_p":0}"#, 400, "invalid_value", Some("top_p"), "top_p: expected a number above 0, at most 1, got 0"),
    (C, r#"{"prompt":"a","top_p":2}"#, 400, "invalid_value", Some("top_p"), "top_p: expected a number above 0, at most 1, got 2"),
    (C, r#"{"prompt":"a","top_k":-5}"#, 400, "invalid_value", Some("top_k"), "top_k: expected a whole number from -1 to 4294967295, got -5"),
    (C, r#"{"prompt":"a","min_p":2}"#, 400, "invalid_value", Some("min_p"), "min_p: expected a number from 0 to 1, got 2"),
    (C, r#"{"prompt":"a","presence_penalty":100}"#, 400, "invalid_value", Some("presence_penalty"), "presence_penalty: expected a number from -2 to 2, got 100"),
    (C, r#"{"prompt":"a","frequency_penalty":-100}"#, 400, "invalid_value", Some("frequency_penalty"), "frequency_penalty: expected a number from -2 to 2, got -100"),
    (C, r#"{"prompt":"a","repetition_penalty":0}"#, 400, "invalid_value", Some("repetition_penalty"), "repetition_penalty: expected a number above 0, at most 100, got 0"),
    (C, r#"{"prompt":"a","seed":18446744073709551616}"#, 400, "invalid_value", Some("seed"), "seed: expected a whole number of 64 bits, got 1.8446744073709552e+19"),
    (C, r#"{"prompt":"a","seed":1.5}"#, 400, "invalid_value", Some("seed"), "seed: expected a whole number of 64 bits, got 1.5"),
    (C, r#"{"prompt":"a","stop":""}"#, 400, "invalid_value", Some("stop"), "stop: expected strings of 1 to 1024 bytes, got one of 0"),
    (C, r#"{"prompt":"a","stop":[1]}"#, 400, "invalid_value", Some("stop"), "stop: expected a string or a list of strings, got 1"),
    (C, r#"{"prompt":"a","stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]}"#, 400, "invalid_value", Some("stop"), "stop: expected at most 16 strings, got 17"),
    (C, r#"{"prompt":"a","stop_token_ids":[-1]}"#, 400, "invalid_token_id", Some("stop_token_ids"), "~stop_token_ids[0]: expected a token id from 0 to"),
    (C, r#"{"prompt":"a","logprobs":1000000}"#, 400, "invalid_value", Some("logprobs"), "logprobs: expected a whole number from 0 to 20, got 1000000"),
    (C, r#"{"prompt":"a","logprobs":true}"#, 400, "invalid_value", Some("logprobs"), "logprobs: expected a whole number from 0 to 20, got true"),
    (C, r#"{"prompt":"a","prompt_logprobs":1,"stream":true}"#, 400, "invalid_value", Some("prompt_logprobs"), "prompt_logprobs: expected only without stream"),
    (C, r#"{"prompt":"a","logit_bias":{"x":1}}"#, 400, "invalid_token_id", Some("logit_bias.x"), "~logit_bias.x: expected a token id from 0 to"),
    (C, r#"{"prompt":"a","logit_bias":{"99999999":1}}"#, 400, "invalid_token_id", Some("logit_bias.99999999"), "~logit_bias.99999999: expected a token id from 0 to"),
    (C, r#"{"prompt":"a","logit_bias":{"1":1000}}"#, 400, "invalid_value", Some("logit_bias.1"), "logit_bias.1: expected a number from -100 to 100, got 1000"),
    (C, r#"{"prompt":"a","logit_bias":[1]}"#, 400, "invalid_value", Some("logit_bias"), "logit_bias: expected an object, got a list of 1"),
    (C, r#"{"prompt":"a","stream":"yes"}"#, 400, "invalid_value", Some("stream"), "stream: expected true or false, got \"yes\""),
    (C, r#"{"prompt":"a","stream_options":{}}"#, 400, "invalid_value", Some("stream_options"), "stream_options: expected only with stream = true"),
    (C, r#"{"prompt":"a","stream":true,"stream_options":{"include_usage":1}}"#, 400, "invalid_value", Some("stream_options.include_usage"), "stream_options.include_usage: expected true or false, got 1"),
    (C, r#"{"prompt":"a","response_format":{"type":"json_object"}}"#, 400, "unsupported_parameter", Some("response_format"), "response_format: not supported, got an object"),
    (C, r#"{"prompt":"a","guided_regex":"(a+)+$"}"#, 400, "unsupported_parameter", Some("guided_regex"), "guided_regex: not supported, got \"(a+)+$\""),
    (C, r#"{"prompt":"a","guided_json":{}}"#, 400, "unsupported_parameter", Some("guided_json"), "guided_json: not supported, got an object"),
    (C, r#"{"prompt":"a","suffix":"b"}"#, 400, "unsupported_parameter", Some("suffix"), "suffix: not supported, got \"b\""),
    (C, r#"{"prompt":"a","prompt_embeds":"AAAA"}"#, 400, "unsupported_parameter", Some("prompt_embeds"), "prompt_embeds: not supported, got \"AAAA\""),
    (C, r#"{"prompt":"a","cache_salt":"x"}"#, 400, "unsupported_parameter", Some("cache_salt"), "cache_salt: not supported, got \"x\""),
    (C, r#"{"prompt":"a","adapter_source":"s3"}"#, 400, "unsupported_parameter", Some("adapter_source"), "adapter_source: not supported, got \"s3\""),
    (C, r#"{"prompt":"a","priority":5}"#, 400, "unsupported_parameter", Some("priority"), "priority: not supported, got 5"),
    (H, "{}", 400, "missing_required_parameter", Some("messages"), "messages: required, but missing"),
    (H, r#"{"messages":[]}"#, 400, "empty_prompt", Some("messages"), "messages: expected at least one message, got none"),
    (H, r#"{"messages":"hi"}"#, 400, "invalid_value", Some("messages"), "messages: expected a list of messages, got \"hi\""),
    (H, r#"{"messages":[{"role":"user"},7]}"#, 400, "invalid_value", Some("messages[1]"), "messages[1]: expected an object, got 7"),
    (H, r#"{"messages":[{"role":"","content":"a"}]}"#, 400, "invalid_value", Some("messages[0].role"), "messages[0].role: expected a string that is not empty, got \"\""),
    (H, r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]}"#, 400, "unsupported_parameter", Some("messages[0].content[0].type"), "messages[0].content[0].type: only text parts are supported, got \"image_url\""),
    (H, r#"{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function"}]}"#, 400, "unsupported_parameter", Some("tools"), "tools: not supported, got a list of 1"),
    (H, r#"{"messages":[{"role":"user","content":"a"}],"chat_template":"{{ 1 }}"}"#, 400, "unsupported_parameter", Some("chat_template"), "chat_template: not supported, got \"{{ 1 }}\""),
    (H, r#"{"messages":[{"role":"user","content":"a"}],"top_logprobs":3}"#, 400, "invalid_value", Some("top_logprobs"), "top_logprobs: expected only with logprobs = true"),
    (H, r#"{"messages":[{"role":"user","content":"a"}],"logprobs":3}"#, 400, "invalid_value", Some("logprobs"), "logprobs: expected true or false, got 3"),
    (H, r#"{"messages":[{"role":"user","content":"a"}],"add_generation_prompt":true,"continue_final_message":true}"#, 400, "invalid_value", Some("continue_final_message"), "continue_final_message: expected only without add_generation_prompt"),
    (H, r#"{"messages":[{"role":"user","content":"a"}]}"#, 400, "invalid_value", Some("messages"), "messages: the model has no chat template: use /v1/completions"),
    (G, "{}", 400, "missing_required_parameter", Some("inputs"), "inputs: required, but missing"),
    (G, r#"{"inputs":""}"#, 400, "invalid_value", Some("inputs"), "inputs: expected a string that is not empty, got \"\""),
    (G, r#"{"inputs":["a"]}"#, 400, "invalid_value", Some("inputs"), "inputs: expected a string, got a list of 1"),
    (G, r#"{"inputs":"a","parameters":7}"#, 400, "invalid_value", Some("parameters"), "parameters: expected an object, got 7"),
    (G, r#"{"inputs":"a","parameters":{"max_new_tokens":0}}"#, 400, "invalid_value", Some("parameters.max_new_tokens"), "parameters.max_new_tokens: expected a whole number from 1 to 4294967295, got 0"),
    (G, r#"{"inputs":"a","parameters":{"adapter_id":"nobody"}}"#, 404, "model_not_found", Some("model"), "The model `nobody` does not exist."),
    (G, r#"{"inputs":"a","parameters":{"adapter_id":"/etc/passwd"}}"#, 400, "unsupported_parameter", Some("parameters.adapter_id"), "parameters.adapter_id: expected the name of a registered adapter, got a path or URL"),
    (G, r#"{"inputs":"a","parameters":{"adapter_id":"http://169.254.169.254/x"}}"#, 400, "unsupported_parameter", Some("parameters.adapter_id"), "parameters.adapter_id: expected the name of a registered adapter, got a path or URL"),
    (G, r#"{"inputs":"a","parameters":{"adapter_id":"sql","adapter_source":"/tmp"}}"#, 400, "invalid_value", Some("parameters.adapter_source"), "~parameters.adapter_source: expected hub, local, s3 or pbase"),
    (G, r#"{"inputs":"a","parameters":{"merged_adapters":{"ids":["a"],"weights":[1]}}}"#, 400, "unsupported_parameter", Some("parameters.merged_adapters"), "parameters.merged_adapters: not supported, got an object"),
    (G, r#"{"inputs":"a","parameters":{"api_token":"secret"}}"#, 400, "unsupported_parameter", Some("parameters.api_token"), "parameters.api_token: not supported, got one"),
    (G, r#"{"inputs":"a","parameters":{"watermark":true}}"#, 400, "unsupported_parameter", Some("parameters.watermark"), "parameters.watermark: not supported, got true"),
    ("/tokenize", "{}", 400, "missing_required_parameter", Some("prompt"), "prompt: required, but missing"),
    ("/detokenize", "{}", 400, "missing_required_parameter", Some("tokens"), "tokens: required, but missing"),
    ("/detokenize", r#"{"tokens":[99999999]}"#, 400, "invalid_token_id", Some("tokens"), "~tokens[0]: expected a token id from 0 to"),
    ("/v1/nothing", "{}", 404, "unknown_path", None, "No such path: /v1/nothing"),
    ("/v1/models", "{}", 405, "method_not_allowed", None, "This path has no method POST"),
];

/// `(headers after the request line, body, status, code)`.
#[rustfmt::skip]
const HEADS: &[(&str, &str, u16, &str)] = &[
    ("content-length: 2", "{}", 415, "unsupported_media_type"),
    ("content-type: text/plain\r\ncontent-length: 2", "{}", 415, "unsupported_media_type"),
    ("content-type: application/x-www-form-urlencoded\r\ncontent-length: 2", "{}", 415, "unsupported_media_type"),
    ("content-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2", "{}", 415, "unsupported_media_type"),
    ("content-type: application/json\r\ncontent-length: 99999999", "{}", 413, "body_too_large"),
    ("content-type: application/json\r\ntransfer-encoding: chunked", "zz\r\n{}\r\n0\r\n\r\n", 400, "incomplete_body"),
];

#[tokio::test]
async fn every_bad_body_has_its_status_code_field_and_message() {
    let face = Listening::start(Limits::default()).await;
    assert!(BODIES.len() >= 60);
    for (path, body, status, code, param, message) in BODIES {
        let answer = face.exchange(request(path, body).as_bytes()).await;
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {body}: {answer}");
        let error = serde_json::from_str::<Value>(text).unwrap()["error"].take();
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &json!(param)),
            "{path} {body}: {error}"
        );
        let said = error["message"].as_str().unwrap();
        match message.strip_prefix('~') {
            Some(begin) => assert!(said.starts_with(begin), "{path} {body}: {said}"),
            None => assert_eq!(said, *message, "{path} {body}"),
        }
        assert!(error["type"].is_string());
    }
}

#[tokio::test]
async fn every_bad_head_has_its_status_and_code() {
    let face = Listening::start(Limits::default()).await;
    for (headers, body, status, code) in HEADS {
        let bytes = format!("POST {C} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n\r\n{body}");
        let answer = face.exchange(bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{headers}: {answer}");
    }
}

#[tokio::test]
async fn nesting_that_would_overflow_a_stack_is_refused() {
    let face = Listening::start(Limits::default()).await;
    let deep = format!("{{\"prompt\":{}", "[".repeat(100_000));
    let answer = face.exchange(request(C, &deep).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:.300}");
    assert!(answer.contains("recursion limit exceeded"), "{answer}");
}
