//! What is small and would be a gigabyte if it were believed. Made in code, once.

use std::sync::LazyLock;

/// A gigabyte of digits and one of brackets in zstd, each some ten thousand times shorter.
pub(crate) static BOMBS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [b'9', b'['].map(|byte| {
        let frame = zstd::encode_all(&vec![byte; 64 << 20][..], 3).unwrap_or_default();
        // Frames that follow each other are one body.
        frame.repeat(16)
    })
});
