//! The MLPs: gated, `down(act(gate) * up)`, and plain, `down(act(up))`.

use std::sync::Arc;

use lorikeet_kernels::gate::{Activation, activate, gated};
use lorikeet_kernels::tensor::Tensor;

use crate::layers::linear::Linear;
use crate::layers::pass::Pass;
use crate::layers::workspace::MlpWork;

/// `down(act(gate(x)) * up(x))`, gate and up one fused linear.
pub(crate) struct GatedMlp {
    pub gate_up: Arc<Linear>,
    pub down: Arc<Linear>,
    pub activation: Activation,
}

impl GatedMlp {
    /// `out[rows, hidden]` of `x[rows, hidden]`.
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &Tensor, work: &mut MlpWork, out: &mut Tensor) {
        self.gate_up.forward(pass, x, &mut work.first);
        gated(pass.device, self.activation, &work.first, &mut work.gated);
        self.down.forward(pass, &work.gated, out);
    }
}

/// `down(act(up(x)))`.
pub(crate) struct PlainMlp {
    pub up: Arc<Linear>,
    pub down: Arc<Linear>,
    pub activation: Activation,
}

impl PlainMlp {
    /// `out[rows, hidden]` of `x[rows, hidden]`.
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &Tensor, work: &mut MlpWork, out: &mut Tensor) {
        self.up.forward(pass, x, &mut work.first);
        activate(pass.device, self.activation, &mut work.first);
        self.down.forward(pass, &work.first, out);
    }
}
