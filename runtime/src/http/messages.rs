//! The messages of a chat, checked and brought into the one form that templates read: `{role, content, …}` with content
//! as text.

use serde_json::{Map, Value, json};

use super::error::Problem;
use super::fields::{Fields, describe, expected, invalid};
use super::parameters::unsupported;

const MAX_ROLE: usize = 64;

/// Takes `messages`, at most `most`: each costs template time.
///
/// # Errors
/// The [`Problem`] of the first message at fault, named by its place.
pub fn take(fields: &mut Fields, most: usize) -> Result<Vec<Value>, Problem> {
    let list = match fields.take("messages") {
        None => return Err(Problem::MissingField("messages".into())),
        Some(Value::Array(list)) if list.is_empty() => return Err(Problem::EmptyPrompt("messages")),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(expected("messages", "a list of messages", &other)),
    };
    if list.len() > most {
        return Err(invalid("messages", &format!("expected at most {most}, got {}", list.len())));
    }
    list.into_iter().enumerate().map(|(place, message)| one(&format!("messages[{place}]"), message)).collect()
}

fn one(path: &str, message: Value) -> Result<Value, Problem> {
    let mut fields = Fields::of(path, message)?;
    let role = fields.need_text("role")?;
    if role.len() > MAX_ROLE {
        return Err(invalid(&format!("{path}.role"), &format!("expected at most {MAX_ROLE} bytes")));
    }
    let content = match fields.take("content") {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts_text(path, parts)?,
        Some(other) => {
            return Err(expected(&format!("{path}.content"), "a string or a list of text parts", &other));
        }
    };
    let mut message = Map::new();
    message.insert("role".into(), role.into());
    message.insert("content".into(), content.into());
    if let Some(name) = fields.text("name")? {
        message.insert("name".into(), name.into());
    }
    if let Some(reasoning) = fields.text("reasoning_content")? {
        message.insert("reasoning_content".into(), reasoning.into());
    }
    for name in ["tool_calls", "function_call", "tool_call_id", "audio", "images"] {
        if let Some(value) = fields.take(name).filter(|value| *value != json!([])) {
            let param = format!("{path}.{name}");
            return Err(unsupported(&param, &format!("{param}: not supported, got {}", describe(&value))));
        }
    }
    Ok(Value::Object(message))
}

/// Text parts joined by line breaks, as vLLM does for templates that take text.
fn parts_text(path: &str, parts: Vec<Value>) -> Result<String, Problem> {
    let texts = parts.into_iter().enumerate().map(|(place, part)| {
        let path = format!("{path}.content[{place}]");
        let mut part = Fields::of(&path, part)?;
        match part.need_text("type")?.as_str() {
            "text" | "input_text" | "output_text" => {
                part.text("text")?.ok_or_else(|| Problem::MissingField(format!("{path}.text")))
            }
            other => {
                let param = format!("{path}.type");
                let got = describe(&Value::String(other.to_owned()));
                Err(unsupported(&param, &format!("{param}: only text parts are supported, got {got}")))
            }
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(body: &str) -> Result<Vec<Value>, Problem> {
        take(&mut Fields::parse(body.as_bytes()).unwrap(), 3)
    }

    #[test]
    fn content_may_be_text_or_text_parts_or_nothing() {
        let body = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null},
            {"role":"user","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}],"name":"x"}]}"#;
        let expected = json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "b\nc", "name": "x"},
        ]);
        assert_eq!(Value::Array(messages(body).unwrap()), expected);
    }

    #[test]
    fn the_message_at_fault_is_named_by_its_place() {
        for (body, param) in [
            (r#"{"messages":[{"content":"a"}]}"#, "messages[0].role"),
            (
                r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":7}]}"#,
                "messages[1].content",
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
                "messages[0].content[0].type",
            ),
            (r#"{"messages":[{"role":"user","content":[{"type":"text"}]}]}"#, "messages[0].content[0].text"),
            (r#"{"messages":[{"role":"assistant","tool_calls":[{}]}]}"#, "messages[0].tool_calls"),
            (r#"{"messages":["hi"]}"#, "messages[0]"),
            (r#"{"messages":[{},{},{},{}]}"#, "messages"),
        ] {
            let problem = messages(body).unwrap_err();
            assert_eq!(super::super::error::ApiError::from(problem).param.as_deref(), Some(param), "{body}");
        }
    }
}
