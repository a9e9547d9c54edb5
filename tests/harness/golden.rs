//! The golden suite: tiny models, adapters, and what transformers + PEFT computed with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args;

/// Float32 implementations agree within this.
pub const TOLERANCE: f64 = 3e-4;

/// `suite.json`.
#[derive(Debug, Deserialize)]
pub struct Suite {
    /// The models.
    pub models: Vec<Model>,
    /// Where it lies.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// One model of the suite.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its folder in the suite.
    pub dir: String,
    /// Tokens that its logits are of.
    pub vocab_size: usize,
    /// Ids that end an answer.
    pub eos_ids: Vec<u32>,
    /// Its adapters.
    pub adapters: Vec<Adapter>,
    /// Where it lies.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// One adapter of a model.
#[derive(Clone, Debug, Deserialize)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// `ok`, or `unsupported-ok`: it may be refused.
    pub expect: String,
}

/// What a model gives for one prompt.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Its name; the requests of a batch have none.
    #[serde(default)]
    pub name: String,
    /// The adapter; `None` is the base model.
    pub adapter: Option<String>,
    /// The prompt, where it is text.
    #[serde(default)]
    pub prompt_text: Option<String>,
    /// Whether the tokenizer put its special tokens before it.
    #[serde(default = "yes")]
    pub add_special_tokens: bool,
    /// The prompt.
    pub prompt_ids: Vec<u32>,
    /// The answer of greedy decoding that does not end at an end id.
    pub greedy_ids: Vec<u32>,
    /// Their log-probabilities.
    pub greedy_logprobs: Vec<f64>,
    /// The answer as text, special tokens left out.
    #[serde(default)]
    pub greedy_text: Option<String>,
    /// Where in the answer the first end id stands.
    #[serde(default)]
    pub eos_at: Option<usize>,
    /// The conversation, where the case is a chat.
    #[serde(default)]
    pub messages: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Batch {
    requests: Vec<Case>,
}

/// `bad/README.json`.
#[derive(Debug, Deserialize)]
pub struct BadAdapters {
    /// The model that they are for.
    pub base_model: String,
    /// The adapters.
    pub adapters: Vec<BadAdapter>,
}

/// One adapter that may have to be refused.
#[derive(Debug, Deserialize)]
pub struct BadAdapter {
    /// Its folder in `bad`.
    pub dir: String,
    /// `ok`, `error`, `error-or-ok` or `error-or-alpha8`.
    pub expect: String,
    /// Words of which the message should have one.
    pub error_should_mention: Vec<String>,
}

fn yes() -> bool {
    true
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Suite {
    /// The public suite, or the one that the environment names.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn load() -> Self {
        let folder = args::golden();
        let mut suite: Self = read(&folder.join("suite.json"));
        for model in &mut suite.models {
            model.folder = folder.join(&model.dir);
        }
        suite.folder = folder;
        suite
    }

    /// The model called `name`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn model(&self, name: &str) -> &Model {
        self.models.iter().find(|model| model.name == name).unwrap_or_else(|| panic!("no model {name}"))
    }

    /// The invalid adapters, where the suite has some.
    #[must_use]
    pub fn bad(&self) -> Option<BadAdapters> {
        let path = self.folder.join("bad/README.json");
        path.exists().then(|| read(&path))
    }
}

impl Model {
    /// Its cases.
    ///
    /// # Panics
    /// When the file is malformed.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        read::<Cases>(&self.folder.join("cases.json")).cases
    }

    /// The requests to send at once.
    ///
    /// # Panics
    /// When the file is malformed.
    #[must_use]
    pub fn batch(&self) -> Vec<Case> {
        read::<Batch>(&self.folder.join("batch.json")).requests
    }

    /// The folder of its adapters, where it has some.
    #[must_use]
    pub fn adapters_folder(&self) -> Option<PathBuf> {
        let folder = self.folder.join("adapters");
        folder.is_dir().then_some(folder)
    }

    /// What must be of each adapter, by name.
    #[must_use]
    pub fn expectations(&self) -> BTreeMap<&str, &str> {
        self.adapters.iter().map(|adapter| (adapter.name.as_str(), adapter.expect.as_str())).collect()
    }
}
