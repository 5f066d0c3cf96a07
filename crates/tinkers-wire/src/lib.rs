//! The bodies, ids and paths of the Tinker API, in JSON and protobuf.
#![doc = include_str!("../README.md")]
