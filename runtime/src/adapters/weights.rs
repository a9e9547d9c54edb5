//! An adapter's weights in memory: one low-rank update a layer and site, checked against the base model's shape.
//!
//! Must not read files or names from a request: it is given checked tensors.

use std::sync::Arc;

use lorikeet_kernels::low_rank::LowRank;

use crate::adapters::pin::Generation;
use crate::model::modules::Site;

/// The weights of one generation. Immutable: a swap makes another.
pub struct AdapterWeights {
    /// Whose content it is.
    pub generation: Generation,
    /// The greatest rank of its modules.
    pub rank: usize,
    /// Bytes that it takes in memory.
    pub bytes: u64,
    /// The modules that it changes, by their last name, ordered.
    pub target_modules: Vec<String>,
    /// The model that it was trained on, as reports tell it.
    pub base_model: Arc<str>,
    /// `[layer][site]` of the four sites of a decoder layer.
    pub(crate) layers: Vec<[Option<LowRank>; 4]>,
    /// The update of the token embedding.
    pub(crate) embedding: Option<LowRank>,
    /// The update of the head.
    pub(crate) head: Option<LowRank>,
}

impl AdapterWeights {
    /// The update of `site` in `layer` (ignored for the embedding and the head), where the adapter has one.
    #[must_use]
    pub fn site(&self, layer: usize, site: Site) -> Option<&LowRank> {
        let of_layer = |index: usize| self.layers.get(layer).and_then(|sites| sites[index].as_ref());
        match site {
            Site::Qkv => of_layer(0),
            Site::Output => of_layer(1),
            Site::GateUp => of_layer(2),
            Site::Down => of_layer(3),
            Site::Embedding => self.embedding.as_ref(),
            Site::Head => self.head.as_ref(),
        }
    }

    /// Puts the update of `site` in its place.
    pub(super) fn place(&mut self, layer: Option<usize>, site: Site, update: LowRank) {
        let of_layer = |index: usize| layer.map(|layer| (layer, index));
        let at = match site {
            Site::Qkv => of_layer(0),
            Site::Output => of_layer(1),
            Site::GateUp => of_layer(2),
            Site::Down => of_layer(3),
            Site::Embedding => return self.embedding = Some(update),
            Site::Head => return self.head = Some(update),
        };
        if let Some((layer, index)) = at
            && let Some(sites) = self.layers.get_mut(layer)
        {
            sites[index] = Some(update);
        }
    }
}
