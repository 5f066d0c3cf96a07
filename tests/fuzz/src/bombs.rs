//! Decompression bombs.

use std::sync::LazyLock;

/// Zstd bodies that decompress to a gigabyte of digits and of brackets.
pub(crate) static BOMBS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [b'9', b'['].map(|byte| {
        let frame = zstd::encode_all(&vec![byte; 64 << 20][..], 3).unwrap_or_default();
        // Concatenated frames are one body.
        frame.repeat(16)
    })
});
