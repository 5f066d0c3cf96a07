//! The Rust SDK for the Tinker training API.
#![doc = include_str!("../README.md")]
