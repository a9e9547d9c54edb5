//! A low-rank update of a fused linear: `y[:, p.columns] += p.scale * (x Aₚᵀ) Bₚᵀ` for each piece `p`.

/// The update of one fused linear.
pub struct LowRank {}
