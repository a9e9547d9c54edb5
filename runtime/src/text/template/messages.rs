//! A client's messages -> what templates expect: content as one text, the arguments of calls as objects. Must not drop a
//! field that it does not know.

use serde_json::{Map, Value};

use super::TemplateError;

pub(super) fn normalize(messages: &[Value]) -> Result<Vec<Value>, TemplateError> {
    if messages.is_empty() {
        return Err(invalid("messages".into(), "expected at least one message, got none"));
    }
    messages.iter().enumerate().map(|(at, message)| one(&format!("messages[{at}]"), message)).collect()
}

fn one(field: &str, message: &Value) -> Result<Value, TemplateError> {
    let Some(fields) = message.as_object() else {
        return Err(invalid(field.into(), format!("expected an object, got {}", kind(message))));
    };
    let role = fields.get("role").unwrap_or(&Value::Null);
    if !role.is_string() {
        return Err(invalid(format!("{field}.role"), format!("expected a text, got {}", kind(role))));
    }
    let mut fields: Map<String, Value> = fields.clone();
    let content = fields.get("content").unwrap_or(&Value::Null);
    let content = content_text(&format!("{field}.content"), content)?;
    fields.insert("content".into(), Value::String(content));
    if let Some(calls) = fields.get_mut("tool_calls").and_then(Value::as_array_mut) {
        for (at, call) in calls.iter_mut().enumerate() {
            read_arguments(&format!("{field}.tool_calls[{at}]"), call)?;
        }
    }
    Ok(Value::Object(fields))
}

/// A text, nothing (a message that only calls functions), or parts, which are joined by line ends.
fn content_text(field: &str, content: &Value) -> Result<String, TemplateError> {
    let parts = match content {
        Value::Null => return Ok(String::new()),
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => {
            return Err(invalid(
                field.into(),
                format!("expected a text or a list of parts, got {}", kind(other)),
            ));
        }
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let field = format!("{field}[{at}]");
        match (part, part["type"].as_str()) {
            (Value::String(text), _) => texts.push(text.as_str()),
            (Value::Object(_), Some("text")) => {
                let text = part["text"].as_str();
                texts.push(text.ok_or_else(|| {
                    invalid(format!("{field}.text"), format!("expected a text, got {}", kind(&part["text"])))
                })?);
            }
            (Value::Object(_), Some(other)) => {
                return Err(invalid(format!("{field}.type"), format!("expected \"text\", got {other:?}")));
            }
            _ => return Err(invalid(field, "expected {\"type\": \"text\", \"text\": …}")),
        }
    }
    Ok(texts.join("\n"))
}

/// Clients send a call's arguments as the text that the model wrote; templates want the object.
fn read_arguments(field: &str, call: &mut Value) -> Result<(), TemplateError> {
    let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else {
        return Ok(());
    };
    if let Some(text) = arguments.as_str() {
        let text = if text.trim().is_empty() { "{}" } else { text };
        *arguments = serde_json::from_str(text)
            .map_err(|_| invalid(format!("{field}.function.arguments"), "expected the JSON of an object"))?;
    }
    Ok(())
}

fn invalid(field: String, problem: impl Into<String>) -> TemplateError {
    TemplateError::Message { field, problem: problem.into() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
