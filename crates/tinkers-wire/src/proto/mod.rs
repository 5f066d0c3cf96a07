//! The protobuf bodies: messages as the schema has them, and the way to and from the public types.

mod messages;
pub(crate) mod sampling;
mod tensors;
pub(crate) mod training;
