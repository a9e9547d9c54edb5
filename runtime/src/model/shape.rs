//! From a description to the list of modules that it has. Pure.

use crate::model::config::ModelConfig;
use crate::model::modules::{ModelShape, Module, Site};

/// The path of the token embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens";
/// The path of the head.
pub(crate) const HEAD: &str = "lm_head";

/// The shape of the model that `config` describes; `kv_bytes` is the width of an element of the KV cache.
pub(crate) fn shape(config: &ModelConfig, kv_bytes: usize) -> ModelShape {
    let mut modules = vec![embedding(config)];
    for layer in 0..config.layers {
        modules.extend(layer_modules(config, layer));
    }
    modules.push(Module {
        path: HEAD.to_owned(),
        layer: None,
        site: Site::Head,
        columns: 0..config.vocabulary,
        inputs: config.hidden,
        has_bias: config.biases.head,
    });
    ModelShape {
        architecture: config.family.name().to_owned(),
        layers: config.layers,
        hidden: config.hidden,
        vocabulary: config.vocabulary,
        max_context: config.max_context,
        kv_bytes_per_token: config.layers * 2 * config.key_width() * kv_bytes,
        modules,
    }
}

fn embedding(config: &ModelConfig) -> Module {
    Module {
        path: EMBEDDING.to_owned(),
        layer: None,
        site: Site::Embedding,
        columns: 0..config.hidden,
        inputs: config.vocabulary,
        has_bias: false,
    }
}

/// The linears of a layer, in the order of its sites; the parts of a fused one side by side.
fn layer_modules(config: &ModelConfig, layer: usize) -> Vec<Module> {
    let names = &config.family.definition().modules;
    let (queries, keys) = (config.query_width(), config.key_width());
    let mut modules = Vec::new();
    let mut add = |site, names: &[&str], widths: &[usize], inputs, has_bias| {
        let mut start = 0;
        for (name, width) in names.iter().zip(widths) {
            let path = format!("model.layers.{layer}.{name}");
            let columns = start..start + width;
            start = columns.end;
            modules.push(Module { path, layer: Some(layer), site, columns, inputs, has_bias });
        }
    };
    let fused = [queries + 2 * keys];
    let apart = [queries, keys, keys];
    let widths: &[usize] = if names.qkv.len() == 1 { &fused } else { &apart };
    add(Site::Qkv, names.qkv, widths, config.hidden, config.biases.qkv);
    add(Site::Output, &[names.output], &[config.hidden], queries, config.biases.output);
    let f = config.intermediate;
    let first: &[usize] = match (names.gated, names.gate_up.len()) {
        (true, 1) => &[2 * f],
        (true, _) => &[f, f],
        (false, _) => &[f],
    };
    add(Site::GateUp, names.gate_up, first, config.hidden, config.biases.mlp);
    add(Site::Down, &[names.down], &[config.hidden], f, config.biases.mlp);
    modules
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::config::hugging_face;

    fn shape_of(model: &str) -> ModelShape {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden");
        let config = std::fs::read(root.join(model).join("config.json")).unwrap();
        shape(&hugging_face::parse(&config).unwrap(), 4)
    }

    fn named<'a>(shape: &'a ModelShape, path: &str) -> &'a Module {
        shape.modules.iter().find(|module| module.path == path).unwrap()
    }

    #[test]
    fn parts_of_a_fused_linear_lie_side_by_side() {
        let shape = shape_of("llama_gqa");
        assert_eq!(named(&shape, "model.layers.1.self_attn.q_proj").columns, 0..64);
        assert_eq!(named(&shape, "model.layers.1.self_attn.k_proj").columns, 64..96);
        assert_eq!(named(&shape, "model.layers.1.self_attn.v_proj").columns, 96..128);
        assert_eq!(named(&shape, "model.layers.0.mlp.up_proj").columns, 88..176);
        assert_eq!(named(&shape, "model.layers.0.mlp.down_proj").inputs, 88);
        assert_eq!(named(&shape, "model.embed_tokens").inputs, 336);
        assert_eq!(shape.kv_bytes_per_token, 2 * 2 * 32 * 4);
        assert_eq!(shape.modules.len(), 2 + 2 * 7);
    }

    #[test]
    fn a_module_that_is_fused_in_the_checkpoint_takes_all_columns() {
        let shape = shape_of("phi3");
        assert_eq!(named(&shape, "model.layers.0.self_attn.qkv_proj").columns, 0..80);
        assert_eq!(named(&shape, "model.layers.0.mlp.gate_up_proj").columns, 0..160);
        let phi = shape_of("phi");
        assert_eq!(named(&phi, "model.layers.0.mlp.fc1").columns, 0..96);
        assert_eq!(named(&phi, "model.layers.0.mlp.fc1").site, Site::GateUp);
        assert!(phi.modules[1..].iter().all(|module| module.has_bias));
    }
}
