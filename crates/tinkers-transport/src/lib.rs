//! The HTTP stack of tinkers, on hyper.
#![doc = include_str!("../README.md")]
