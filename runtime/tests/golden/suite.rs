//! Reads a golden suite: what it asks and what it expects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A suite on disk.
pub struct Suite {
    root: PathBuf,
    manifest: Value,
}

/// One model of it.
pub struct GoldenModel {
    pub name: String,
    pub dir: PathBuf,
    cases: Value,
    batch: Value,
}

/// An invalid adapter, and what is expected of it.
pub struct Bad {
    pub dir: PathBuf,
    pub base: String,
    pub expect: String,
    pub words: Vec<String>,
}

/// One request and what is expected of it.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub adapter: Option<String>,
    pub prompt: Vec<u32>,
    pub greedy: Vec<u32>,
    pub logprobs: Vec<f64>,
    pub min_margin: f64,
    /// By position, the last one among them; none in a batch.
    pub logits_rows: BTreeMap<usize, Vec<f32>>,
    pub argmax: Vec<usize>,
    pub logsumexp: Vec<f64>,
}

fn read(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().into_iter().flatten().map(|value| item(value).unwrap()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    list(value, |value| value.as_f64().map(|value| value as f32))
}

fn ids(value: &Value) -> Vec<u32> {
    list(value, |value| value.as_u64().map(|value| value as u32))
}

impl Suite {
    /// The suite in the repository, or the one that the environment names.
    pub fn open() -> Self {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden");
        let root = std::env::var_os("LORIKEET_GOLDEN").map_or_else(own, PathBuf::from);
        Self { manifest: read(&root.join("suite.json")), root }
    }

    /// Invalid adapters: directory, base model, expectation and words of which the message has at least one; none where
    /// the suite has no such part.
    pub fn bad(&self) -> Vec<Bad> {
        let dir = self.root.join("bad");
        if !dir.is_dir() {
            return Vec::new();
        }
        let words = |value: &Value| list(value, |word| word.as_str().map(str::to_lowercase));
        list(&read(&dir.join("README.json"))["adapters"], |bad| {
            Some(Bad {
                dir: dir.join(bad["dir"].as_str()?),
                base: bad["base_model"].as_str()?.to_owned(),
                expect: bad["expect"].as_str()?.to_owned(),
                words: words(&bad["error_should_mention"]),
            })
        })
    }

    /// Its models.
    pub fn models(&self) -> Vec<GoldenModel> {
        let model = |model: &Value| {
            let dir = self.root.join(model["dir"].as_str()?);
            let (cases, batch) = (read(&dir.join("cases.json")), read(&dir.join("batch.json")));
            Some(GoldenModel { name: model["name"].as_str()?.to_owned(), dir, cases, batch })
        };
        list(&self.manifest["models"], model)
    }
}

impl GoldenModel {
    /// The single cases.
    pub fn cases(&self) -> Vec<Case> {
        list(&self.cases["cases"], |case| {
            let mut logits_rows: BTreeMap<usize, Vec<f32>> = list(&case["logits_rows"], |row| {
                Some((row["position"].as_u64()? as usize, floats(&row["logits"])))
            })
            .into_iter()
            .collect();
            let read = Case::read(case, case["name"].as_str()?.to_owned())?;
            logits_rows.insert(read.prompt.len() - 1, floats(&case["logits_last"]));
            Some(Case { logits_rows, ..read })
        })
    }

    /// The requests that are submitted together.
    pub fn batch(&self) -> Vec<Case> {
        list(&self.batch["requests"], |request| Case::read(request, format!("batch/{}", request["id"])))
    }

    /// The names of its adapters.
    pub fn adapters(&self) -> Vec<String> {
        self.cases["adapters"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// Where an adapter's files lie.
    pub fn adapter_dir(&self, name: &str) -> PathBuf {
        self.dir.join("adapters").join(name)
    }

    /// Whether a refusal of the adapter is right as well.
    pub fn may_be_refused(&self, name: &str) -> bool {
        self.cases["adapters"][name]["expect"] != "ok"
    }
}

impl Case {
    fn read(case: &Value, name: String) -> Option<Self> {
        let positions = &case["positions"];
        Some(Self {
            name,
            adapter: case["adapter"].as_str().map(str::to_owned),
            prompt: ids(&case["prompt_ids"]),
            greedy: ids(&case["greedy_ids"]),
            logprobs: list(&case["greedy_logprobs"], Value::as_f64),
            min_margin: case["min_margin"].as_f64().unwrap_or(f64::INFINITY),
            logits_rows: BTreeMap::new(),
            argmax: list(&positions["argmax"], |value| value.as_u64().map(|value| value as usize)),
            logsumexp: list(&positions["logsumexp"], Value::as_f64),
        })
    }
}
