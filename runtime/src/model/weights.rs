//! The base model's weights, shared by those who run them and those who look at them.

use std::sync::Arc;

use lorikeet_kernels::matrix::Matrix;

use crate::layers::linear::Linear;
use crate::model::modules::{BaseRows, Module, Site};

/// All matrices of a model.
pub(crate) struct Weights {
    /// `[vocabulary, hidden]`.
    pub embedding: Arc<Matrix>,
    pub head: Arc<Linear>,
    /// Per layer: qkv, output, gate_up, down.
    pub layers: Vec<[Arc<Linear>; 4]>,
}

impl Weights {
    fn linear(&self, module: &Module) -> Option<&Linear> {
        let sites = module.layer.and_then(|layer| self.layers.get(layer));
        match module.site {
            Site::Qkv => sites.map(|sites| &*sites[0]),
            Site::Output => sites.map(|sites| &*sites[1]),
            Site::GateUp => sites.map(|sites| &*sites[2]),
            Site::Down => sites.map(|sites| &*sites[3]),
            Site::Head => Some(&*self.head),
            Site::Embedding => None,
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let layers = self.layers.iter().flatten().map(|linear| linear.bytes());
        self.embedding.bytes() as u64 + self.head.bytes() + layers.sum::<u64>()
    }
}

impl BaseRows for Weights {
    fn row(&self, module: &Module, output: usize, row: &mut [f32]) {
        if let Some(linear) = self.linear(module) {
            return linear.row(module.columns.start + output, row);
        }
        // The embedding's inputs are its rows: output `i` is a column of the table.
        let mut token = vec![0.0; self.embedding.k()];
        for (index, value) in row.iter_mut().enumerate() {
            self.embedding.row(index, &mut token);
            *value = token[output];
        }
    }

    fn bias(&self, module: &Module) -> Option<Vec<f32>> {
        let bias = self.linear(module)?.bias()?;
        module.has_bias.then(|| bias[module.columns.clone()].to_vec())
    }
}
