//! The `tinkers` program.
fn main() {}
