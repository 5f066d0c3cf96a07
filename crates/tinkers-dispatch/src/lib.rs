//! Admission with waiting for tinkers: the limits made async.
#![doc = include_str!("../README.md")]
