//! From the residual stream to logits, for the rows whose logits are wanted: `cap(head(norm(x[rows])))`.

use std::sync::Arc;

use lorikeet_kernels::soft_cap::soft_cap;

use crate::layers::linear::Linear;
use crate::layers::norm::Norm;
use crate::layers::pass::Pass;
use crate::layers::workspace::Workspace;

/// The last norm and the head.
pub(crate) struct Head {
    pub norm: Norm,
    pub linear: Arc<Linear>,
    pub cap: Option<f32>,
}

impl Head {
    /// `work.logits[wanted, vocabulary]` of `work.hidden[rows, hidden]`.
    pub(crate) fn forward(&self, pass: &Pass<'_>, work: &mut Workspace) {
        let wanted = &pass.batch.logits_rows;
        work.normed.set_rows(wanted.len());
        work.update.set_rows(wanted.len());
        work.logits.set_rows(wanted.len());
        if wanted.is_empty() {
            return;
        }
        for (place, row) in wanted.iter().enumerate() {
            work.update.row_mut(place).copy_from_slice(work.hidden.row(*row as usize));
        }
        self.norm.forward(pass, &work.update, &mut work.normed);
        self.linear.forward(pass, &work.normed, &mut work.logits);
        if let Some(cap) = self.cap {
            soft_cap(pass.device, &mut work.logits, cap);
        }
    }
}
