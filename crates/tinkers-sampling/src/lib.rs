//! The sampling client of tinkers.
#![doc = include_str!("../README.md")]
