//! Adapters made for a test: PEFT's files with random weights of a chosen rank.

use std::path::Path;

use serde_json::{Map, Value, json};

/// The linear modules of a llama or mistral model, `(path in the layer, outputs, inputs)`.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Decoder layers.
    pub layers: usize,
    /// The modules of each.
    pub modules: Vec<(&'static str, usize, usize)>,
}

impl Shape {
    /// Of a llama or mistral model with these dimensions.
    #[must_use]
    pub fn llama(layers: usize, hidden: usize, kv: usize, ffn: usize) -> Self {
        let modules = vec![
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", ffn, hidden),
            ("mlp.up_proj", ffn, hidden),
            ("mlp.down_proj", hidden, ffn),
        ];
        Self { layers, modules }
    }

    /// The base model of LoRA Land in miniature.
    #[must_use]
    pub fn loraland() -> Self {
        Self::llama(4, 256, 64, 640)
    }

    /// SmolLM2-135M.
    #[must_use]
    pub fn smollm2() -> Self {
        Self::llama(30, 576, 192, 1536)
    }
}

/// Writes an adapter of `rank` on every module of `shape`, in bf16, and returns the bytes of its weights.
///
/// # Panics
/// When the folder cannot be written.
pub fn adapter(folder: &Path, shape: &Shape, rank: usize, seed: u64) -> u64 {
    let mut random = Random(seed);
    let mut header = Map::new();
    let mut data = Vec::new();
    let mut tensor = |name: String, rows: usize, columns: usize, scale: f32| {
        let begin = data.len();
        for _ in 0..rows * columns {
            data.extend_from_slice(&bf16(random.next() * scale).to_le_bytes());
        }
        header.insert(
            name,
            json!({"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, data.len()]}),
        );
    };
    for layer in 0..shape.layers {
        for (path, outputs, inputs) in &shape.modules {
            let module = format!("base_model.model.model.layers.{layer}.{path}");
            tensor(format!("{module}.lora_A.weight"), rank, *inputs, 0.05);
            tensor(format!("{module}.lora_B.weight"), *outputs, rank, 0.05);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    let targets: Vec<_> = shape.modules.iter().filter_map(|(path, ..)| path.rsplit('.').next()).collect();
    let config = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets});
    std::fs::create_dir_all(folder).expect("the folder is made");
    std::fs::write(folder.join("adapter_model.safetensors"), file).expect("the weights are written");
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).expect("the config is written");
    data.len() as u64
}

/// A seeded stream of numbers (SplitMix64): the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// One of `list`.
    ///
    /// # Panics
    /// When it is empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// From -1 to 1.
    fn next(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

/// The nearest bf16 below in magnitude.
fn bf16(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}
