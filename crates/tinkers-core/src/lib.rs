//! The seams of tinkers: traits, the error, time, jitter and retry policies.
#![doc = include_str!("../README.md")]
