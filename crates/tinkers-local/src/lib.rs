//! The embedded Tinker server: the protocol over an [`Engine`](engine::Engine).
#![doc = include_str!("../README.md")]

pub mod engine;
