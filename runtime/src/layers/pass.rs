//! One step on its way through the layers: the batch, the cache, and whose weights each row takes.

use std::ops::Range;

use lorikeet_kernels::device::Device;
use lorikeet_kernels::kv_cache::KvCache;
use lorikeet_kernels::low_rank::Segment;
use lorikeet_kernels::paged_attention::AttentionSpan;
use lorikeet_kernels::rope::RopeTable;

use crate::adapters::weights::AdapterWeights;
use crate::engine::batch::Batch;
use crate::engine::forward::{ForwardError, Residents};
use crate::model::modules::Site;

/// One step.
pub(crate) struct Pass<'a> {
    pub device: &'a Device,
    pub rope: &'a RopeTable,
    pub cache: &'a mut KvCache,
    pub batch: &'a Batch,
    /// The batch's spans, as the attention takes them.
    pub spans: Vec<AttentionSpan<'a>>,
    /// Rows and whose weights they take.
    rows: Vec<(Range<usize>, &'a AdapterWeights)>,
    /// The same over the rows of the logits.
    logits: Vec<(Range<usize>, &'a AdapterWeights)>,
}

impl<'a> Pass<'a> {
    /// Looks up the generations of `batch` in `residents`.
    pub(crate) fn new(
        device: &'a Device,
        rope: &'a RopeTable,
        cache: &'a mut KvCache,
        batch: &'a Batch,
        residents: &'a Residents,
    ) -> Result<Self, ForwardError> {
        let span = |span: &crate::engine::batch::Span| AttentionSpan {
            rows: span.rows.clone(),
            first_position: batch.positions.get(span.rows.start).copied().unwrap_or_default(),
            blocks: &batch.block_tables[span.blocks.clone()],
        };
        let mut rows = Vec::with_capacity(batch.segments.len());
        let mut logits = Vec::with_capacity(batch.segments.len());
        for segment in &batch.segments {
            let weights = residents.get(&segment.generation);
            let weights: &AdapterWeights = weights.ok_or(ForwardError::NotResident(segment.generation))?;
            rows.push((segment.rows.clone(), weights));
            let wanted = |row: usize| batch.logits_rows.partition_point(|wanted| (*wanted as usize) < row);
            logits.push((wanted(segment.rows.start)..wanted(segment.rows.end), weights));
        }
        Ok(Self { device, rope, cache, batch, spans: batch.spans.iter().map(span).collect(), rows, logits })
    }

    /// The updates of `site` in `layer`, by runs of rows (the head's by runs of logits rows).
    pub(crate) fn segments(&self, layer: usize, site: Site) -> Vec<Segment<'a>> {
        let runs = if site == Site::Head { &self.logits } else { &self.rows };
        let segment = |(rows, weights): &(Range<usize>, &'a AdapterWeights)| {
            let update = weights.site(layer, site).filter(|_| !rows.is_empty())?;
            Some(Segment { rows: rows.clone(), update })
        };
        runs.iter().filter_map(segment).collect()
    }
}
