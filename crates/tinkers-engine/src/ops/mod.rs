//! The differentiable operations that the model is made of, and the tape that strings them together.
//!
//! Each has its way back written beside it and held against finite differences; the whole is held against the tensor
//! library's own automatic differentiation of plain compositions.

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
