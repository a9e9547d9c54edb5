//! Finds the files of a model: a Hugging Face directory or one GGUF file.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Files;
use crate::gguf::{self, GgufFile};
use crate::model::config::{ModelConfig, gguf as gguf_config, hugging_face};
use crate::model::load::LoadError;
use crate::safetensors::{self, SafetensorsFile};

/// What a model's files may ask for.
#[derive(Clone, Copy, Debug)]
pub struct FileLimits {
    /// Of each safetensors file.
    pub safetensors: safetensors::Limits,
    /// Of a GGUF file.
    pub gguf: gguf::Limits,
    /// The longest `config.json` and index, in bytes.
    pub json_bytes: u64,
    /// The most shards.
    pub shards: usize,
}

impl Default for FileLimits {
    fn default() -> Self {
        let safetensors =
            safetensors::Limits { file_bytes: 1 << 40, header_bytes: 64 << 20, tensors: 1 << 17 };
        Self { safetensors, gguf: gguf::Limits::default(), json_bytes: 16 << 20, shards: 1024 }
    }
}

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens the files at `path` and reads the model's description.
pub(crate) fn open(path: &Path, limits: &FileLimits) -> Result<(ModelConfig, Files), LoadError> {
    let io = |source| LoadError::Io { file: path.display().to_string(), source };
    if fs::metadata(path).map_err(io)?.is_dir() {
        return open_directory(path, limits);
    }
    let in_file = |error| LoadError::Gguf { file: path.display().to_string(), error };
    let file = GgufFile::open(path, &limits.gguf).map_err(in_file)?;
    let config = gguf_config::parse(&file)?;
    Ok((config, Files::Gguf(file)))
}

fn open_directory(path: &Path, limits: &FileLimits) -> Result<(ModelConfig, Files), LoadError> {
    let json = read_json(path, "config.json", limits)?
        .ok_or_else(|| LoadError::NotFound { what: "config.json", directory: path.display().to_string() })?;
    let config = hugging_face::parse(&json)?;
    let mut shards = Vec::new();
    for name in weight_files(path, limits)? {
        let in_file = |error| LoadError::Safetensors { file: name.clone(), error };
        let file = SafetensorsFile::open(&path.join(&name), &limits.safetensors).map_err(in_file)?;
        shards.push((name, file));
    }
    Ok((config, Files::HuggingFace { others: vec![("config.json".to_owned(), json)], shards }))
}

/// The content of a JSON file, if it is there.
fn read_json(directory: &Path, name: &str, limits: &FileLimits) -> Result<Option<Vec<u8>>, LoadError> {
    let path = directory.join(name);
    let io = |source| LoadError::Io { file: name.to_owned(), source };
    let bytes = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(io)?.len(),
    };
    if bytes > limits.json_bytes {
        return Err(LoadError::JsonTooLarge { file: name.to_owned(), bytes, limit: limits.json_bytes });
    }
    fs::read(&path).map(Some).map_err(io)
}

fn weight_files(path: &Path, limits: &FileLimits) -> Result<Vec<String>, LoadError> {
    if path.join(WEIGHTS).exists() {
        return Ok(vec![WEIGHTS.to_owned()]);
    }
    let Some(index) = read_json(path, INDEX, limits)? else {
        let directory = path.display().to_string();
        if path.join("pytorch_model.bin").exists() || path.join("pytorch_model.bin.index.json").exists() {
            return Err(LoadError::Pickle { directory });
        }
        return Err(LoadError::NotFound {
            what: "model.safetensors or model.safetensors.index.json",
            directory,
        });
    };
    let invalid = |reason: String| LoadError::Index { file: INDEX, reason };
    let index: Value = serde_json::from_slice(&index).map_err(|error| invalid(error.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| invalid("expected an object weight_map".to_owned()))?;
    let mut names = BTreeSet::new();
    for value in map.values() {
        let name = value.as_str().filter(|name| {
            name.ends_with(".safetensors") && !name.contains(['/', '\\']) && !name.starts_with('.')
        });
        let name =
            name.ok_or_else(|| invalid(format!("expected the name of a file beside it, got {value}")))?;
        names.insert(name.to_owned());
    }
    if names.is_empty() || names.len() > limits.shards {
        return Err(invalid(format!("{} files, expected 1 to {}", names.len(), limits.shards)));
    }
    Ok(names.into_iter().collect())
}
