//! What a family's file builds: the layers between the embedding and the last norm.

use std::sync::Arc;

use crate::layers::linear::Linear;
use crate::layers::norm::{HeadNorm, Norm};
use crate::layers::pass::Pass;
use crate::layers::workspace::Workspace;

/// The layers of a model.
pub(crate) trait Decoder: Send + Sync {
    /// Takes `work.hidden[rows, hidden]` through all layers.
    fn forward(&self, pass: &mut Pass<'_>, work: &mut Workspace);
}

/// What one layer is built of. The norms are in the order of the family's [`Names`](super::family::Names).
pub(crate) struct LayerParts {
    pub qkv: Arc<Linear>,
    pub output: Arc<Linear>,
    pub gate_up: Arc<Linear>,
    pub down: Arc<Linear>,
    pub norms: Vec<Norm>,
    /// Of queries and keys.
    pub head_norms: Option<(HeadNorm, HeadNorm)>,
}

/// The norms of a layer, as many as its family names.
pub(crate) fn named<const N: usize>(norms: Vec<Norm>) -> [Norm; N] {
    norms.try_into().unwrap_or_else(|norms: Vec<Norm>| unreachable!("{} norms, {N} named", norms.len()))
}

impl LayerParts {
    /// The linears, by site.
    pub(crate) fn linears(&self) -> [Arc<Linear>; 4] {
        [&self.qkv, &self.output, &self.gate_up, &self.down].map(Arc::clone)
    }
}
