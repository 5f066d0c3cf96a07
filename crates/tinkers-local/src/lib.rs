//! The embedded Tinker server: the protocol over an Engine trait.
#![doc = include_str!("../README.md")]
