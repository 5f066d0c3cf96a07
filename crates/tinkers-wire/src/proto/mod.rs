//! Protobuf bodies: the messages of the schema and their conversion to and from the public types.

mod messages;
pub(crate) mod sampling;
mod tensors;
pub(crate) mod training;
