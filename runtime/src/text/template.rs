//! A chat template, rendered as transformers renders it. It comes from the base model's files alone, and even so may not
//! run without end nor fill the memory. Must not know the clock: now is passed.

mod messages;
mod python;
mod source;

use std::io;
use std::time::SystemTime;

use minijinja::{Environment, Error, ErrorKind};
use serde_json::{Map, Value};

pub use source::TemplateSources;

/// What rendering may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateLimits {
    /// Bytes of one template's source.
    pub source_bytes: usize,
    /// Steps: one for an instruction and for every 64 bytes made. Bounds time and memory.
    pub fuel: u64,
    /// Bytes of a rendered prompt.
    pub output_bytes: usize,
}

impl Default for TemplateLimits {
    fn default() -> Self {
        Self { source_bytes: 256 << 10, fuel: 4_000_000, output_bytes: 16 << 20 }
    }
}

/// A conversation to render.
#[derive(Clone, Copy, Debug)]
pub struct Chat<'a> {
    /// `{"role", "content", ...}` each. Content is a text or a list of `{"type": "text", "text"}`; other fields pass through.
    pub messages: &'a [Value],
    /// The functions that may be called, as the client sent them.
    pub tools: Option<&'a Value>,
    /// Begin the assistant's answer.
    pub add_generation_prompt: bool,
    /// Leave the last message open, to be continued.
    pub continue_final_message: bool,
    /// Further variables (`chat_template_kwargs`).
    pub variables: &'a Map<String, Value>,
    /// What `strftime_now` tells.
    pub now: SystemTime,
}

/// Why there is no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template does not parse, or is missing where one should be.
    #[error("chat template: {0}")]
    Malformed(String),
    /// The template refused the conversation: its own words.
    #[error("{0}")]
    Refused(String),
    /// A message that is none.
    #[error("{field}: {problem}")]
    Message {
        /// As `messages[1].content`.
        field: String,
        /// What was expected and what came.
        problem: String,
    },
    /// It took too many steps or made too much.
    #[error("the chat template exceeds its limit of {0}")]
    Limit(&'static str),
    /// It failed on this conversation.
    #[error("the chat template failed on this conversation: {0}")]
    Failed(String),
    /// Two wishes that exclude each other, or one that cannot be met.
    #[error("continue_final_message: {0}")]
    Continue(&'static str),
}

/// The words for a model that has none.
pub const NO_TEMPLATE: &str =
    "this model has no chat template: use /v1/completions and write the prompt as the model expects it";

/// A model's chat templates, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Vec<(String, String)>,
    names: Vec<String>,
    limits: TemplateLimits,
}

/// Bytes of one tag, texts in quotes apart; those of real templates have a few hundred.
const LONGEST_TAG: usize = 4096;

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// Compiles `sources`; `tokens` are the variables such as `bos_token`.
    ///
    /// # Errors
    /// [`TemplateError::Malformed`] with the line; [`TemplateError::Limit`] of the source's length.
    pub fn new(
        sources: &TemplateSources,
        tokens: &[(String, String)],
        limits: TemplateLimits,
    ) -> Result<Self, TemplateError> {
        let mut environment = python::environment();
        environment.set_fuel(Some(limits.fuel));
        let mut names = Vec::new();
        for (name, text) in sources.iter() {
            if text.len() > limits.source_bytes {
                return Err(TemplateError::Limit("source bytes"));
            }
            if source::longest_tag(text) > LONGEST_TAG {
                return Err(TemplateError::Limit("bytes in one tag"));
            }
            let text = source::without_generation_tags(text);
            compile(&mut environment, name, text)?;
            names.push(name.to_owned());
        }
        if !names.iter().any(|name| name == DEFAULT) && names.len() != 1 {
            let reason = format!("expected one named \"default\", got {names:?}");
            return Err(TemplateError::Malformed(reason));
        }
        Ok(Self { environment, tokens: tokens.to_vec(), names, limits })
    }

    /// The prompt. Its special tokens are written out: encode it without adding any.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn render(&self, chat: &Chat<'_>) -> Result<String, TemplateError> {
        if chat.continue_final_message && chat.add_generation_prompt {
            return Err(TemplateError::Continue("expected false together with add_generation_prompt"));
        }
        let messages = messages::normalize(chat.messages)?;
        let open = if chat.continue_final_message { Some(last_text(&messages)?) } else { None };
        let name = self.choose(chat.tools.is_some());
        let template =
            self.environment.get_template(name).map_err(|error| TemplateError::Malformed(words(&error)))?;
        let mut out = Bounded { bytes: Vec::new(), limit: self.limits.output_bytes, exceeded: false };
        let rendered = template.render_captured_to(self.variables(chat, messages), &mut out);
        if let Err(error) = rendered {
            return Err(if out.exceeded { TemplateError::Limit("output bytes") } else { failure(&error) });
        }
        let mut prompt =
            String::from_utf8(out.bytes).map_err(|error| TemplateError::Failed(error.to_string()))?;
        if let Some(text) = open {
            let end = cut_after(&prompt, &text)
                .ok_or(TemplateError::Continue("the template leaves out the last message's text"))?;
            prompt.truncate(end);
        }
        Ok(prompt)
    }

    /// The names of the templates that the model has.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn choose(&self, tools: bool) -> &str {
        let has = |name: &str| self.names.iter().any(|known| known == name);
        match () {
            () if tools && has(TOOL_USE) => TOOL_USE,
            () if has(DEFAULT) => DEFAULT,
            () => &self.names[0],
        }
    }

    fn variables(&self, chat: &Chat<'_>, messages: Vec<Value>) -> minijinja::Value {
        let mut variables: Map<String, Value> = chat.variables.clone();
        // The model's own and the conversation's come last: a request cannot change them.
        variables
            .extend(self.tokens.iter().map(|(name, content)| (name.clone(), Value::from(content.clone()))));
        variables.insert("messages".into(), Value::Array(messages));
        variables.insert("tools".into(), chat.tools.cloned().unwrap_or_default());
        variables.entry("documents").or_insert(Value::Null);
        variables.insert("add_generation_prompt".into(), Value::Bool(chat.add_generation_prompt));
        let values = variables.iter().map(|(name, value)| (name.as_str(), python::value(value)));
        minijinja::Value::from_pairs(values.chain([("strftime_now", python::strftime_now(chat.now))]))
    }
}

/// The compiler goes down the depth of what it compiles: it gets a stack that sources within the limits cannot use up.
/// (Reserved, not taken: only what is touched becomes memory.)
const COMPILER_STACK: usize = 64 << 20;

fn compile(environment: &mut Environment<'static>, name: &str, text: String) -> Result<(), TemplateError> {
    let add = || environment.add_template_owned(name.to_owned(), text);
    let compiled = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(COMPILER_STACK).spawn_scoped(scope, add);
        thread.map(std::thread::ScopedJoinHandle::join)
    });
    let malformed = |reason: String| TemplateError::Malformed(format!("{name}: {reason}"));
    match compiled {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(malformed(words(&error))),
        Ok(Err(_)) => Err(malformed("the template library panicked on it".into())),
        Err(error) => Err(malformed(format!("no thread to compile it: {error}"))),
    }
}

fn last_text(messages: &[Value]) -> Result<String, TemplateError> {
    let last = messages.last().and_then(|message| message["content"].as_str()).map(str::to_owned);
    last.filter(|text| !text.trim().is_empty())
        .ok_or(TemplateError::Continue("expected a last message with text"))
}

/// Where the last message's text ends in the prompt, which may have trimmed it.
fn cut_after(prompt: &str, text: &str) -> Option<usize> {
    let start = prompt.rfind(text.trim())?;
    let kept = if prompt[start..].starts_with(text.trim_start()) { text.trim_start() } else { text.trim() };
    Some(start + kept.len())
}

/// The error's words, with the line where there is one; never the template's source.
fn words(error: &Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    error.line().map_or_else(|| what.clone(), |line| format!("{what} (line {line})"))
}

fn failure(error: &Error) -> TemplateError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(python::Raised(message)) = cause.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::Limit("steps"),
        _ => TemplateError::Failed(words(error)),
    }
}

/// A writer with an end.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            self.exceeded = true;
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
