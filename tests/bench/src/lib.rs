//! What the client is measured against.

pub mod bare;
mod record;
mod wire;
