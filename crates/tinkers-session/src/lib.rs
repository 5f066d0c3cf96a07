//! The life of a Tinker session: create, heartbeat, configuration, close.
#![doc = include_str!("../README.md")]
