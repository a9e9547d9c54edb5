//! Where a model's files keep its chat templates. Must not render.

use std::collections::BTreeMap;

use serde_json::Value;

use super::TemplateError;

/// Templates by name; a single one is called `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateSources(BTreeMap<String, String>);

impl TemplateSources {
    /// Adds one; the first of a name stays.
    pub fn add(&mut self, name: &str, text: &str) {
        self.0.entry(name.to_owned()).or_insert_with(|| text.to_owned());
    }

    /// Adds what the field `chat_template` of `tokenizer_config.json` says: a text, or a list of `{"name", "template"}`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn add_field(&mut self, field: &Value) -> Result<(), TemplateError> {
        match field {
            Value::Null => {}
            Value::String(text) => self.add("default", text),
            Value::Array(list) => {
                for (at, entry) in list.iter().enumerate() {
                    let (Some(name), Some(text)) = (entry["name"].as_str(), entry["template"].as_str())
                    else {
                        let reason =
                            format!("chat_template[{at}]: expected an object with \"name\" and \"template\"");
                        return Err(TemplateError::Malformed(reason));
                    };
                    self.add(name, text);
                }
            }
            _ => {
                let reason = "chat_template: expected a text or a list of {\"name\", \"template\"}";
                return Err(TemplateError::Malformed(reason.into()));
            }
        }
        Ok(())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

/// The longest tag of a template, in bytes, not counting texts in quotes. The compiler goes down an expression's whole
/// depth, and a chain of operators is as deep as it is long.
pub(super) fn longest_tag(text: &str) -> usize {
    let mut longest = 0;
    let mut rest = text.as_bytes();
    while let Some(at) = rest.windows(2).position(|two| matches!(two, b"{{" | b"{%" | b"{#")) {
        let (open, inside) = (rest[at + 1], &rest[at + 2..]);
        let (length, end) = match open {
            b'#' => (0, inside.windows(2).position(|two| two == b"#}")),
            open => tag_length(inside, if open == b'{' { b"}}" } else { b"%}" }),
        };
        longest = longest.max(length);
        let Some(end) = end else { break };
        rest = &inside[end + 2..];
    }
    longest
}

/// The bytes outside quotes up to `close`, and where that is.
fn tag_length(inside: &[u8], close: &[u8; 2]) -> (usize, Option<usize>) {
    let (mut length, mut quote, mut at) = (0, None, 0);
    while at < inside.len() {
        let byte = inside[at];
        match quote {
            Some(_) if byte == b'\\' => at += 1,
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if inside[at..].starts_with(close) => return (length, Some(at)),
            None => {
                length += 1;
                quote = matches!(byte, b'"' | b'\'').then_some(byte);
            }
        }
        at += 1;
    }
    (length, None)
}

/// `{% generation %}` marks what a model is trained on and says nothing of the prompt. It becomes a block that changes
/// nothing and trims white space as before.
pub(super) fn without_generation_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inner = &tag[2..end];
        let word = inner.trim_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => "",
        };
        if replacement.is_empty() {
            out.push_str(tag);
        } else {
            out.push_str(&tag.replacen(word, replacement, 1));
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
