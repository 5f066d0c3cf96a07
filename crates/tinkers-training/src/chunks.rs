//! Splits a batch into chunks, each of which is sent as one request.

use std::ops::Range;

use tinkers_wire::{ClientConfig, Datum};

/// The limits of one chunk of a batch of training examples. Each chunk is sent as one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// The maximum number of training examples ([`Datum`]s) in a chunk, at least 1.
    pub data: usize,
    /// The maximum estimated size of a chunk in bytes, before compression. A single datum above this size is sent as a chunk of its own.
    pub bytes: u64,
}

impl From<&ClientConfig> for ChunkLimits {
    fn from(config: &ClientConfig) -> Self {
        // With a limit of zero nothing could be sent.
        Self {
            data: config.fwdbwd_max_chunk_len.max(1),
            bytes: config.fwdbwd_max_chunk_bytes_count,
        }
    }
}

/// Splits `data` into chunks, and returns the index range of each chunk. The ranges are in order and without gaps. A datum that exceeds the
/// byte limit alone forms a chunk of its own.
pub fn plan_chunks(data: &[Datum], limits: ChunkLimits) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (i, datum) in data.iter().enumerate() {
        let size = datum.estimated_bytes();
        let full = i - start == limits.data || bytes.saturating_add(size) > limits.bytes;
        if i > start && full {
            chunks.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(size);
    }
    if start < data.len() {
        chunks.push(start..data.len());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datum(tokens: usize) -> Datum {
        Datum::new(vec![1; tokens])
    }

    #[test]
    fn batch_is_split_at_the_limits_on_data_and_bytes() {
        let data: Vec<Datum> = [10, 10, 10, 50, 5, 5].map(datum).into();
        let limits = ChunkLimits {
            data: 2,
            bytes: 100,
        };
        assert_eq!(plan_chunks(&data, limits), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(
            plan_chunks(&data[..1], ChunkLimits { data: 1, bytes: 1 }),
            vec![0..1]
        );
        assert!(plan_chunks(&[], limits).is_empty());
    }

    proptest! {
        #[test]
        fn batch_chunks_cover_all_data_and_are_as_large_as_the_limits_allow(
            sizes in proptest::collection::vec(0usize..40, 0..60), most in 1usize..7, bytes in 1u64..200,
        ) {
            let data: Vec<Datum> = sizes.iter().copied().map(datum).collect();
            let chunks = plan_chunks(&data, ChunkLimits { data: most, bytes });
            let size = |range: Range<usize>| data[range].iter().map(Datum::estimated_bytes).sum::<u64>();
            let mut next = 0;
            for chunk in &chunks {
                prop_assert_eq!(chunk.start, next);
                prop_assert!(!chunk.is_empty() && chunk.len() <= most);
                prop_assert!(chunk.len() == 1 || size(chunk.clone()) <= bytes);
                if chunk.end < data.len() {
                    prop_assert!(chunk.len() == most || size(chunk.start..chunk.end + 1) > bytes);
                }
                next = chunk.end;
            }
            prop_assert_eq!(next, data.len());
        }
    }
}
