//! Small language models trained with LoRA on the CPU, behind the embedded Tinker server.
#![doc = include_str!("../README.md")]
