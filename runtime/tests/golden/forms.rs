//! Writes a golden model in other forms: as GGUF, the way llama.cpp's converter does, and in half precision.

use std::fs;
use std::path::Path;

use half::f16;
use lorikeet_runtime::model::config::{ModelConfig, NormKind, RopeScaling};
use lorikeet_runtime::model::family::Family;
use lorikeet_runtime::safetensors::{Limits, SafetensorsFile, TensorDtype};

/// The precision of the matrices; vectors stay f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Single,
    Half,
}

/// A tensor in f32.
#[derive(Clone)]
struct Values {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

const LIMITS: Limits = Limits { file_bytes: 1 << 30, header_bytes: 1 << 20, tensors: 1 << 12 };

fn read_all(directory: &Path) -> Vec<Values> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let file = SafetensorsFile::open(&path, &LIMITS).unwrap();
        for (name, info) in &file.header().tensors {
            let mut bytes = Vec::new();
            file.read_range(info.range.clone(), &mut bytes).unwrap();
            let values = match info.dtype {
                TensorDtype::F32 => {
                    bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
                }
                TensorDtype::Bf16 => {
                    bytes.as_chunks().0.iter().map(|two| half::bf16::from_le_bytes(*two).to_f32()).collect()
                }
                other => panic!("{name}: {other}"),
            };
            all.push(Values { name: name.clone(), shape: info.shape.clone(), values });
        }
    }
    all
}

fn encode(width: Width, tensor: &Values) -> (bool, Vec<u8>) {
    if width == Width::Half && tensor.shape.len() == 2 {
        (true, tensor.values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect())
    } else {
        (false, tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

/// Writes the Hugging Face form of `directory` to `to`, its matrices in `width`.
pub fn write_hugging_face(directory: &Path, width: Width, to: &Path) {
    fs::copy(directory.join("config.json"), to.join("config.json")).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in read_all(directory) {
        let (is_half, bytes) = encode(width, &tensor);
        let end = data.len() + bytes.len();
        let dtype = if is_half { "F16" } else { "F32" };
        let entry =
            serde_json::json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [data.len(), end]});
        header.insert(tensor.name, entry);
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    fs::write(to.join("model.safetensors"), file).unwrap();
}

/// Whether GGUF's metadata can say what the model is: it has no place for windows that alternate otherwise than Gemma 2's.
pub fn is_expressible(config: &ModelConfig) -> bool {
    let window = config.windows.iter().flatten().next();
    let alike = config.windows.iter().all(|other| other.as_ref() == window);
    match config.family {
        Family::Qwen2 | Family::Qwen3 => window.is_none(),
        Family::Gemma2 => {
            let alternate =
                |(layer, own): (usize, &Option<u32>)| own.as_ref() == window.filter(|_| layer % 2 == 0);
            let capped = config.attention_cap.is_some() && config.logit_cap.is_some();
            capped && window.is_some() && config.windows.iter().enumerate().all(alternate)
        }
        _ => alike,
    }
}

/// Writes the GGUF form of `directory` to `to`, its matrices in `width`.
pub fn write_gguf(directory: &Path, config: &ModelConfig, width: Width, to: &Path) {
    let mut tensors = Vec::new();
    for mut tensor in read_all(directory) {
        let permuted = matches!(config.family, Family::Llama | Family::Mistral);
        let heads = match tensor.name.rsplit('.').nth(1) {
            Some("q_proj") if permuted => config.heads,
            Some("k_proj") if permuted => config.kv_heads,
            _ => 0,
        };
        if heads > 0 {
            tensor.values = permute(&tensor.values, tensor.shape[0], heads);
        }
        if config.norm == (NormKind::Rms { unit_offset: true }) && tensor.name.ends_with("norm.weight") {
            tensor.values.iter_mut().for_each(|value| *value += 1.0);
        }
        tensor.name = gguf_name(&tensor.name, config.family);
        tensors.push(tensor);
    }
    if config.family == Family::Phi && width == Width::Half {
        fuse_qkv(config.layers, &mut tensors);
    }
    if let RopeScaling::Llama3 { .. } = config.rope.scaling {
        let mut plain = config.rope.clone();
        plain.scaling = RopeScaling::None;
        let pairs = plain.inverse_frequencies().into_iter().zip(config.rope.inverse_frequencies());
        let values: Vec<f32> = pairs.map(|(plain, scaled)| plain / scaled).collect();
        tensors.push(Values { name: "rope_freqs.weight".to_owned(), shape: vec![values.len()], values });
    }
    fs::write(to, gguf_file(&metadata(config), &tensors, width)).unwrap();
}

/// llama.cpp's order of the rows of queries and keys: the halves of a head interleaved.
fn permute(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, half) = (values.len() / rows, rows / heads / 2);
    let mut permuted = Vec::with_capacity(values.len());
    for head in 0..heads {
        for pair in 0..half {
            for side in 0..2 {
                let row = (head * 2 + side) * half + pair;
                permuted.extend(&values[row * width..(row + 1) * width]);
            }
        }
    }
    permuted
}

/// Old converters write Phi's queries, keys and values as one tensor.
fn fuse_qkv(layers: usize, tensors: &mut Vec<Values>) {
    for layer in 0..layers {
        for kind in ["weight", "bias"] {
            let mut fused =
                Values { name: format!("blk.{layer}.attn_qkv.{kind}"), shape: vec![], values: vec![] };
            for part in ["attn_q", "attn_k", "attn_v"] {
                let name = format!("blk.{layer}.{part}.{kind}");
                let at = tensors.iter().position(|tensor| tensor.name == name).unwrap();
                let tensor = tensors.remove(at);
                fused.values.extend(tensor.values);
                match fused.shape.first_mut() {
                    Some(rows) => *rows += tensor.shape[0],
                    None => fused.shape = tensor.shape,
                }
            }
            tensors.push(fused);
        }
    }
}

fn gguf_name(name: &str, family: Family) -> String {
    let post_attention = if family == Family::Gemma2 { "post_attention_norm" } else { "ffn_norm" };
    [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.final_layernorm", "output_norm"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.dense", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.fc1", "ffn_up"),
        ("mlp.fc2", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", post_attention),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// A metadata value, of the types that are needed.
enum Key {
    Text(&'static str),
    Whole(usize),
    Float(f32),
}

fn metadata(config: &ModelConfig) -> Vec<(String, Key)> {
    let architecture = match config.family {
        Family::Llama | Family::Mistral => "llama",
        Family::Phi => "phi2",
        other => other.name(),
    };
    let eps = if config.norm == NormKind::Layer { "layer_norm_epsilon" } else { "layer_norm_rms_epsilon" };
    let mut keys = vec![
        ("block_count", Key::Whole(config.layers)),
        ("context_length", Key::Whole(config.max_context)),
        ("embedding_length", Key::Whole(config.hidden)),
        ("feed_forward_length", Key::Whole(config.intermediate)),
        ("attention.head_count", Key::Whole(config.heads)),
        ("attention.head_count_kv", Key::Whole(config.kv_heads)),
        ("rope.freq_base", Key::Float(config.rope.theta as f32)),
        ("rope.dimension_count", Key::Whole(config.rope.rotary_dim)),
    ];
    if config.head_dim * config.heads != config.hidden {
        keys.push(("attention.key_length", Key::Whole(config.head_dim)));
        keys.push(("attention.value_length", Key::Whole(config.head_dim)));
    }
    if let Some(window) = config.windows.iter().flatten().next() {
        keys.push(("attention.sliding_window", Key::Whole(*window as usize)));
    }
    for (key, cap) in
        [("attn_logit_softcapping", config.attention_cap), ("final_logit_softcapping", config.logit_cap)]
    {
        keys.extend(cap.map(|cap| (key, Key::Float(cap))));
    }
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        keys.push(("rope.scaling.type", Key::Text("linear")));
        keys.push(("rope.scaling.factor", Key::Float(factor as f32)));
    }
    if config.family == Family::Gemma2 {
        keys.push(("attention.scale", Key::Float(config.attention_scale)));
    }
    let mut all = vec![
        ("general.architecture".to_owned(), Key::Text(architecture)),
        (format!("{architecture}.attention.{eps}"), Key::Float(config.norm_eps)),
    ];
    all.extend(keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)));
    all
}

fn gguf_file(metadata: &[(String, Key)], tensors: &[Values], width: Width) -> Vec<u8> {
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut file, key);
        match value {
            Key::Whole(number) => file.extend([4u32.to_le_bytes(), (*number as u32).to_le_bytes()].concat()),
            Key::Float(number) => file.extend([6u32.to_le_bytes(), number.to_le_bytes()].concat()),
            Key::Text(value) => {
                file.extend(8u32.to_le_bytes());
                text(&mut file, value);
            }
        }
    }
    let mut data: Vec<u8> = Vec::new();
    for tensor in tensors {
        let (is_half, bytes) = encode(width, tensor);
        data.resize(data.len().next_multiple_of(32), 0);
        text(&mut file, &tensor.name);
        file.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|dim| file.extend((*dim as u64).to_le_bytes()));
        file.extend(u32::from(is_half).to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}
