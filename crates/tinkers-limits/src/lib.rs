//! The rate-limit core of tinkers: decisions on atomics, without waiting and without a clock.
#![doc = include_str!("../README.md")]
