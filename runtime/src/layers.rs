//! What models are built of: each layer once, over the kernels' operations, for any device.
//!
//! Low-rank updates are known to [`linear`], [`embedding`] and [`head`] alone.

pub(crate) mod attention;
pub(crate) mod embedding;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod mlp;
pub(crate) mod norm;
pub(crate) mod pass;
pub(crate) mod workspace;
