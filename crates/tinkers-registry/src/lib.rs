//! A read-mostly keyed registry whose entries live as long as somebody uses them.
#![doc = include_str!("../README.md")]
