//! Differentiable operations of the model, and the tape that records them.
//!
//! Each operation has a hand-written backward pass, which is tested against finite differences. The complete model is tested against
//! the automatic differentiation of a tensor library.

pub(crate) mod add;
pub(crate) mod attention;
pub(crate) mod embed;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod matrix;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod swiglu;
pub(crate) mod tape;
pub(crate) mod target;
