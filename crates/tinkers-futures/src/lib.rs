//! From a request id to a typed result: polling, queue state, combination.
#![doc = include_str!("../README.md")]
