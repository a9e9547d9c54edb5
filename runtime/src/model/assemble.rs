//! Puts loaded tensors together: fused linears, norms, layers, the model and its buffers.

use std::collections::BTreeMap;
use std::sync::Arc;

use lorikeet_kernels::kv_cache::{KvCache, KvDtype};
use lorikeet_kernels::matrix::Matrix;
use lorikeet_kernels::rope::RopeTable;

use crate::digest::Digest;
use crate::layers::embedding::Embedding;
use crate::layers::head::Head;
use crate::layers::linear::{Linear, Parts};
use crate::layers::norm::{HeadNorm, Norm};
use crate::layers::workspace::Workspace;
use crate::model::Model;
use crate::model::config::{ModelConfig, NormKind};
use crate::model::decoder::LayerParts;
use crate::model::load::LoadError;
use crate::model::modules::{ModelShape, Site};
use crate::model::options::LoadOptions;
use crate::model::plan::{key_norm, query_norm};
use crate::model::shape::{EMBEDDING, HEAD};
use crate::model::tensors::Loaded;
use crate::model::weights::Weights;

/// All that a model is made of.
pub(crate) struct Assembly<'a> {
    pub config: ModelConfig,
    pub shape: ModelShape,
    /// By their Hugging Face names.
    pub tensors: BTreeMap<String, Loaded>,
    pub digest: Digest,
    pub kv_dtype: KvDtype,
    pub options: LoadOptions<'a>,
}

/// Builds the model.
pub(crate) fn assemble(assembly: Assembly<'_>) -> Result<Model, LoadError> {
    let Assembly { config, shape, tensors, digest, kv_dtype, options } = assembly;
    let mut tensors = Tensors { config: &config, tensors };
    let embedding = Arc::new(tensors.matrix(EMBEDDING)?);
    let layers = (0..config.layers).map(|layer| tensors.layer(layer)).collect::<Result<Vec<_>, _>>()?;
    let parts = if config.tied_head {
        Parts::Shared(Arc::clone(&embedding))
    } else {
        Parts::Own(vec![tensors.matrix(HEAD)?])
    };
    let bias = config.biases.head.then(|| tensors.vector(&format!("{HEAD}.bias"))).transpose()?;
    let head = Arc::new(Linear::new(0, Site::Head, parts, bias));
    let names = &config.family.definition().modules;
    let norm = tensors.norm(&format!("model.{}", names.final_norm))?;
    let weights = Weights {
        embedding: Arc::clone(&embedding),
        head: Arc::clone(&head),
        layers: layers.iter().map(LayerParts::linears).collect(),
    };
    let kv = options.kv;
    Ok(Model {
        rope: RopeTable::new(config.rope.inverse_frequencies()),
        cache: KvCache::new(
            config.layers,
            kv.blocks,
            kv.block_size,
            config.kv_heads,
            config.head_dim,
            kv_dtype,
        ),
        embedding: Embedding::new(embedding, config.embedding_scale),
        decoder: (config.family.definition().decoder)(&config, layers),
        head: Head { norm, linear: head, cap: config.logit_cap },
        workspace: Workspace::new(&config, options.max_step_rows),
        device: options.device,
        weights: Arc::new(weights),
        shape: Arc::new(shape),
        config,
        digest,
    })
}

/// The tensors that are not placed yet.
struct Tensors<'a> {
    config: &'a ModelConfig,
    tensors: BTreeMap<String, Loaded>,
}

impl Tensors<'_> {
    fn take(&mut self, name: &str) -> Result<Loaded, LoadError> {
        self.tensors.remove(name).ok_or_else(|| LoadError::MissingTensor(name.to_owned()))
    }

    fn matrix(&mut self, path: &str) -> Result<Matrix, LoadError> {
        let name = format!("{path}.weight");
        match self.take(&name)? {
            Loaded::Matrix(matrix) => Ok(matrix),
            Loaded::Vector(_) => Err(LoadError::MissingTensor(name)),
        }
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, LoadError> {
        match self.take(name)? {
            Loaded::Vector(vector) => Ok(vector),
            Loaded::Matrix(_) => Err(LoadError::MissingTensor(name.to_owned())),
        }
    }

    fn norm(&mut self, path: &str) -> Result<Norm, LoadError> {
        let weight = self.vector(&format!("{path}.weight"))?;
        let eps = self.config.norm_eps;
        Ok(match self.config.norm {
            NormKind::Rms { unit_offset } => Norm::Rms { weight, unit_offset, eps },
            NormKind::Layer => Norm::Layer { weight, bias: self.vector(&format!("{path}.bias"))?, eps },
        })
    }

    fn head_norm(&mut self, name: &str) -> Result<HeadNorm, LoadError> {
        Ok(HeadNorm { weight: self.vector(name)?, eps: self.config.norm_eps })
    }

    /// One fused linear of the modules `names`.
    fn linear(
        &mut self,
        layer: usize,
        site: Site,
        names: &[&str],
        biased: bool,
    ) -> Result<Arc<Linear>, LoadError> {
        let path = |name: &str| format!("model.layers.{layer}.{name}");
        let parts = names.iter().map(|name| self.matrix(&path(name))).collect::<Result<Vec<_>, _>>()?;
        let mut bias = Vec::new();
        for name in names.iter().filter(|_| biased) {
            bias.extend(self.vector(&format!("{}.bias", path(name)))?);
        }
        Ok(Arc::new(Linear::new(layer, site, Parts::Own(parts), biased.then_some(bias))))
    }

    fn layer(&mut self, layer: usize) -> Result<LayerParts, LoadError> {
        let names = &self.config.family.definition().modules;
        let biases = self.config.biases;
        let head_norms = if self.config.query_key_norm {
            Some((self.head_norm(&query_norm(layer))?, self.head_norm(&key_norm(layer))?))
        } else {
            None
        };
        let norms = names.norms.iter().map(|norm| self.norm(&format!("model.layers.{layer}.{norm}")));
        let norms = norms.collect::<Result<_, _>>()?;
        Ok(LayerParts {
            qkv: self.linear(layer, Site::Qkv, names.qkv, biases.qkv)?,
            output: self.linear(layer, Site::Output, &[names.output], biases.output)?,
            gate_up: self.linear(layer, Site::GateUp, names.gate_up, biases.mlp)?,
            down: self.linear(layer, Site::Down, &[names.down], biases.mlp)?,
            norms,
            head_norms,
        })
    }
}
