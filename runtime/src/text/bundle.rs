//! All that a model's files say about text: tokenizer, chat template, defaults. Must not read weights, nor follow any name
//! that a file mentions: the files it opens are fixed.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::defaults::InvalidDefault;
use super::special::{InvalidSpecial, SpecialTokens};
use super::template::{TemplateError, TemplateLimits, TemplateSources};
use super::tokenizer::{MAX_FILE_BYTES, TokenizerError};
use super::{ChatTemplate, GenerationDefaults, Tokenizer};
use crate::gguf::Metadata;
use crate::model::ModelFiles;

/// A model's text side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Text {
    /// Text -> ids -> text.
    pub tokenizer: Tokenizer,
    /// Messages -> prompt; `None` for a model without ([`super::template::NO_TEMPLATE`] says what to tell).
    pub template: Option<Arc<ChatTemplate>>,
    /// What the authors say about sampling, and the ids that end a text.
    pub defaults: GenerationDefaults,
}

/// Why a model's text side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file is not there, or cannot be read.
    #[error("{file}: {problem}")]
    File {
        /// Its name.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its configuration.
    #[error(transparent)]
    Special(#[from] InvalidSpecial),
    /// The chat template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The defaults.
    #[error(transparent)]
    Defaults(#[from] InvalidDefault),
}

/// Bytes of a file other than the tokenizer.
const SMALL_FILE: u64 = 16 << 20;
/// Templates beside the main one.
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// Tokens that end a turn, which GGUF files do not always mark; llama.cpp's list.
const END_OF_TURN: [&str; 8] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

impl Text {
    /// Of a model whose files are open: from the GGUF file's metadata, or from the directory at `path`.
    ///
    /// # Errors
    /// The file and field that is wrong.
    pub fn of(path: &Path, files: &ModelFiles) -> Result<Self, TextError> {
        match files.gguf() {
            Some(gguf) => Self::from_gguf(gguf.metadata()),
            None => Self::from_dir(path),
        }
    }

    /// From a Hugging Face directory.
    ///
    /// # Errors
    /// The file and field that is wrong.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let config = json(dir, "tokenizer_config.json")?;
        let special = SpecialTokens::parse(&config, &json(dir, "special_tokens_map.json")?)?;
        let Some(file) = read(dir, "tokenizer.json", MAX_FILE_BYTES as u64)? else {
            let problem = "not found; a tokenizer of another form (tokenizer.model, vocab.json) has to be saved as tokenizer.json first";
            return Err(TextError::File { file: "tokenizer.json".into(), problem: problem.into() });
        };
        let tokenizer = Tokenizer::from_json(&file, &special)?;
        let mut sources = TemplateSources::default();
        if let Some(text) = text(dir, "chat_template.jinja")? {
            sources.add("default", &text);
        }
        for name in more_templates(dir) {
            if let Some(text) = text(dir, &format!("{MORE_TEMPLATES}/{name}.jinja"))? {
                sources.add(&name, &text);
            }
        }
        sources.add_field(&json(dir, "chat_template.json")?["chat_template"])?;
        sources.add_field(&config["chat_template"])?;
        let defaults =
            GenerationDefaults::parse(&json(dir, "generation_config.json")?, &json(dir, "config.json")?)?;
        Self::assemble(tokenizer, &special, &sources, defaults)
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TextError> {
        let (tokenizer, special) = Tokenizer::from_gguf(metadata)?;
        let mut sources = TemplateSources::default();
        const TEMPLATE: &str = "tokenizer.chat_template";
        if let Some(text) = metadata.get_str(TEMPLATE).map_err(TokenizerError::from)? {
            sources.add("default", text);
        }
        for key in metadata.keys() {
            if let Some(name) = key.strip_prefix("tokenizer.chat_template.")
                && let Some(text) = metadata.get_str(key).map_err(TokenizerError::from)?
            {
                sources.add(name, text);
            }
        }
        let mut eos_ids: Vec<u32> = END_OF_TURN.iter().filter_map(|token| tokenizer.id_of(token)).collect();
        for key in ["eos", "eot", "eom"] {
            eos_ids.extend(
                metadata.get_u32(&format!("tokenizer.ggml.{key}_token_id")).map_err(TokenizerError::from)?,
            );
        }
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let pad_id = special.get("pad_token").and_then(|token| tokenizer.id_of(token));
        let defaults = GenerationDefaults { eos_ids, pad_id, ..GenerationDefaults::default() };
        Self::assemble(tokenizer, &special, &sources, defaults)
    }

    fn assemble(
        tokenizer: Tokenizer,
        special: &SpecialTokens,
        sources: &TemplateSources,
        mut defaults: GenerationDefaults,
    ) -> Result<Self, TextError> {
        let id_of = |token: &Option<String>| token.as_ref().and_then(|token| tokenizer.id_of(token));
        if defaults.eos_ids.is_empty() {
            defaults.eos_ids.extend(id_of(&special.eos));
        }
        defaults.bos_id = defaults.bos_id.or_else(|| id_of(&special.bos));
        let template = if sources.is_empty() {
            None
        } else {
            Some(Arc::new(ChatTemplate::new(sources, &special.named, TemplateLimits::default())?))
        };
        Ok(Self { tokenizer, template, defaults })
    }
}

/// The names of the templates beside the main one, ordered.
fn more_templates(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir.join(MORE_TEMPLATES)) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".jinja").map(str::to_owned)).take(64).collect();
    names.sort_unstable();
    names
}

/// The JSON of a file; `null` if it is not there.
fn json(dir: &Path, file: &str) -> Result<Value, TextError> {
    let Some(bytes) = read(dir, file, SMALL_FILE)? else { return Ok(Value::Null) };
    let problem = |problem: String| TextError::File { file: file.to_owned(), problem };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| problem(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(problem("expected a JSON object".into())) }
}

fn text(dir: &Path, file: &str) -> Result<Option<String>, TextError> {
    let Some(bytes) = read(dir, file, SMALL_FILE)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| TextError::File { file: file.to_owned(), problem: error.to_string() })
}

/// A file's bytes; `None` if it is not there. Nothing but a plain file is opened, and no more than `limit` is read.
fn read(dir: &Path, file: &str, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    let path = dir.join(file);
    let problem = |problem: String| TextError::File { file: file.to_owned(), problem };
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(error.to_string())),
        Ok(metadata) if !metadata.is_file() => return Err(problem("not a plain file".into())),
        Ok(metadata) if metadata.len() > limit => {
            return Err(problem(format!("{} bytes, at most {limit} are read", metadata.len())));
        }
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    let opened = File::open(&path).map_err(|error| problem(error.to_string()))?;
    opened.take(limit).read_to_end(&mut bytes).map_err(|error| problem(error.to_string()))?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::text::tokenizer::gguf::tests::converted;
    use crate::text::tokenizer::tests::{MODELS, golden, golden_json, ids};

    fn golden_dir(model: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(model)
    }

    #[test]
    fn both_forms_of_every_golden_model_say_the_same() {
        for model in MODELS {
            let dir = Text::from_dir(&golden_dir(model)).unwrap();
            let gguf = Text::from_gguf(&converted(model)).unwrap();
            let mut expected = ids(&golden_json(model, "cases.json")["eos_ids"]);
            expected.sort_unstable();
            assert_eq!((&dir.defaults.eos_ids, &gguf.defaults.eos_ids), (&expected, &expected), "{model}");
            assert_eq!(dir.defaults.bos_id, gguf.defaults.bos_id, "{model}");
            assert_eq!(dir.template.is_some(), gguf.template.is_some(), "{model}");
        }
    }

    /// A copy of a golden model's text files, to be changed.
    fn copied() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            fs::write(dir.path().join(file), golden("llama2_mha", file)).unwrap();
        }
        dir
    }

    #[test]
    fn the_template_beside_goes_before_the_one_in_the_configuration() {
        let dir = copied();
        fs::write(dir.path().join("chat_template.jinja"), "beside").unwrap();
        fs::create_dir(dir.path().join(MORE_TEMPLATES)).unwrap();
        fs::write(dir.path().join(MORE_TEMPLATES).join("tool_use.jinja"), "tools").unwrap();
        let text = Text::from_dir(dir.path()).unwrap();
        assert_eq!(text.template.unwrap().names(), ["default", "tool_use"]);
    }

    #[test]
    fn every_hostile_file_is_an_error_that_names_it() {
        for file in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "special_tokens_map.json",
        ] {
            for bytes in [&b"{"[..], b"[]", b"\xFF\xFE", b"", &b"[".repeat(1 << 20)] {
                let dir = copied();
                fs::write(dir.path().join(file), bytes).unwrap();
                let error = Text::from_dir(dir.path()).unwrap_err().to_string();
                assert!(error.starts_with(&format!("{file}: ")), "{file}: {error}");
            }
            let dir = copied();
            let _ = fs::remove_file(dir.path().join(file));
            fs::create_dir(dir.path().join(file)).unwrap();
            let error = Text::from_dir(dir.path()).unwrap_err().to_string();
            assert_eq!(error, format!("{file}: not a plain file"));
        }
    }

    #[test]
    fn a_missing_tokenizer_says_what_to_do() {
        let dir = copied();
        fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        assert!(
            Text::from_dir(dir.path())
                .unwrap_err()
                .to_string()
                .contains("has to be saved as tokenizer.json first")
        );
    }
}
