//! Inputs that are small but decompress to a huge size (decompression bombs).

use std::sync::LazyLock;

/// Two decompression bombs: small Zstd bodies that each decompress to a gigabyte. The first one
/// decompresses to digits, the second one to opening brackets.
pub(crate) static BOMBS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [b'9', b'['].map(|byte| {
        let frame = zstd::encode_all(&vec![byte; 64 << 20][..], 3).unwrap_or_default();
        // A body may consist of several frames. Each frame decompresses to a part of the gigabyte.
        frame.repeat(16)
    })
});
