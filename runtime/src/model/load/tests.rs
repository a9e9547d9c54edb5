//! A good model directory, broken in one place at a time.

use std::cell::Cell;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use lorikeet_kernels::device::Device;

use super::*;
use crate::model::modules::Site;
use crate::model::options::{KvChoice, KvOptions, Quantize};

fn golden(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden").join(model)
}

/// A copy of a golden model's own files.
fn copy(model: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(model)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "config.json" || name.contains("safetensors") {
            fs::copy(&path, dir.path().join(name)).unwrap();
        }
    }
    dir
}

fn options(progress: &dyn Fn(u64, u64)) -> LoadOptions<'_> {
    LoadOptions {
        device: Device::new(NonZeroUsize::MIN),
        quantize: None,
        kv: KvOptions { blocks: 4, block_size: 4, dtype: KvChoice::Auto },
        max_step_rows: 8,
        progress,
    }
}

fn open(path: &Path) -> Result<ModelFiles, LoadError> {
    ModelFiles::open(path, &FileLimits::default())
}

#[track_caller]
fn refused(path: &Path, words: &[&str]) {
    let message = open(path).err().unwrap().to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

/// Changes the header of a safetensors file: the same length of text for the same length of file.
fn rename(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sharded_model_loads_and_tells_how_far_it_is() {
    let (last, calls) = (Cell::new((0, 0)), Cell::new(0));
    let progress = |done, total| {
        assert!(done >= last.get().0);
        last.set((done, total));
        calls.set(calls.get() + 1);
    };
    let files = open(&golden("qwen2_bf16")).unwrap();
    assert_eq!(files.encoding(), "bf16");
    let bytes = files.bytes();
    let model = files.load(options(&progress)).unwrap();
    assert_eq!(last.get(), (bytes, bytes));
    assert!(calls.get() > 20);
    assert!(model.weight_bytes() < bytes + bytes / 4, "{} of {bytes}", model.weight_bytes());
}

#[test]
fn the_digest_is_that_of_the_files_that_were_read() {
    let load = |path: &Path| open(path).unwrap().load(options(&|_, _| {})).unwrap().digest();
    let dir = copy("llama_gqa");
    let first = load(dir.path());
    let files =
        ["config.json", "model.safetensors"].map(|name| (name, fs::read(dir.path().join(name)).unwrap()));
    assert_eq!(
        first,
        crate::digest::Digest::of_files(files.iter().map(|(name, bytes)| (*name, bytes.as_slice())))
    );
    let weights = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert_ne!(load(dir.path()), first);
}

#[test]
fn tensors_that_are_missing_unexpected_or_of_another_shape_are_named() {
    let dir = copy("llama_gqa");
    let weights = dir.path().join("model.safetensors");
    rename(&weights, "model.layers.1.mlp.up_proj", "model.layers.7.mlp.up_proj");
    refused(dir.path(), &["model.layers.1.mlp.up_proj.weight", "missing"]);

    let dir = copy("llama_gqa");
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("config.json")).unwrap()).unwrap();
    config["intermediate_size"] = 96.into();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    refused(dir.path(), &["mlp.gate_proj.weight", "expected the shape [96, 64]", "got [88, 64]"]);
    config["intermediate_size"] = 88.into();
    config["num_hidden_layers"] = 1.into();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    refused(dir.path(), &["model.layers.1.", "no such tensor"]);

    let dir = copy("llama_gqa");
    let weights = dir.path().join("model.safetensors");
    rename(&weights, r#""dtype":"F32""#, r#""dtype":"I32""#);
    refused(dir.path(), &["dtype I32", "BF16"]);
}

#[test]
fn a_tied_model_may_carry_its_head_and_old_files_their_frequencies() {
    let files = open(&golden("qwen2")).unwrap();
    assert!(names::is_superfluous(files.config(), "lm_head.weight"));
    assert!(names::is_superfluous(files.config(), "model.layers.0.self_attn.rotary_emb.inv_freq"));
    let untied = open(&golden("llama_gqa")).unwrap();
    assert!(!names::is_superfluous(untied.config(), "lm_head.weight"));
}

#[test]
fn directories_without_readable_weights_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), &["config.json", "not found"]);
    refused(&dir.path().join("nowhere"), &["nowhere"]);
    fs::copy(golden("llama_gqa").join("config.json"), dir.path().join("config.json")).unwrap();
    refused(dir.path(), &["model.safetensors", "not found"]);
    fs::write(dir.path().join("pytorch_model.bin"), b"PK").unwrap();
    refused(dir.path(), &["pickles", "pytorch_model.bin"]);
    for map in [r#"{"a":"../../etc/passwd"}"#, r#"{"a":"/etc/x.safetensors"}"#, r#"{"a":1}"#, "{}", "[]"] {
        let index = format!(r#"{{"weight_map":{map}}}"#);
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        refused(dir.path(), &["model.safetensors.index.json"]);
    }
    let text = dir.path().join("model.gguf");
    fs::write(&text, b"not a model at all").unwrap();
    refused(&text, &["model.gguf", "GGUF"]);
    let limits = FileLimits { json_bytes: 10, ..FileLimits::default() };
    assert!(ModelFiles::open(dir.path(), &limits).err().unwrap().to_string().contains("at most 10"));
}

#[test]
fn base_rows_are_the_checkpoints_rows() {
    let model = open(&golden("phi3")).unwrap().load(options(&|_, _| {})).unwrap();
    let (shape, weights) = (model.shape(), model.weights());
    let file = crate::safetensors::SafetensorsFile::open(
        &golden("phi3").join("model.safetensors"),
        &FileLimits::default().safetensors,
    )
    .unwrap();
    for module in &shape.modules {
        let mut bytes = Vec::new();
        let info = &file.header().tensors[&format!("{}.weight", module.path)];
        file.read_range(info.range.clone(), &mut bytes).unwrap();
        let all: Vec<f32> = bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        let mut row = vec![0.0; module.inputs];
        for output in [0, module.outputs() - 1] {
            weights.row(module, output, &mut row);
            for (input, value) in row.iter().enumerate() {
                let at = match module.site {
                    Site::Embedding => input * module.outputs() + output,
                    _ => output * module.inputs + input,
                };
                assert_eq!(value.to_bits(), all[at].to_bits(), "{} [{output}, {input}]", module.path);
            }
        }
        assert!(weights.bias(module).is_none());
    }
    let phi = open(&golden("phi")).unwrap().load(options(&|_, _| {})).unwrap();
    let shape = phi.shape();
    let keys = shape.modules.iter().find(|module| module.name() == "k_proj").unwrap();
    assert_eq!(phi.weights().bias(keys).unwrap().len(), 60);
}

#[test]
fn quantizing_at_load_shrinks_what_fits_and_keeps_the_rest() {
    let load = |quantize| {
        let mut options = options(&|_, _| {});
        options.quantize = quantize;
        open(&golden("llama_gqa")).unwrap().load(options).unwrap().weight_bytes()
    };
    let (plain, q8_0, q4_k) = (load(None), load(Some(Quantize::Q8_0)), load(Some(Quantize::Q4K)));
    // The rows of down_proj are no multiple of 32: it stays as it is.
    assert!(q8_0 < plain / 2 && q4_k < q8_0, "{q4_k}, {q8_0} of {plain}");
}
