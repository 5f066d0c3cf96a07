//! The baseline of client benchmarks: a plain hyper loop that sends the requests of the client.

pub mod bare;
mod record;
mod wire;
