//! Prints how a batch is split into requests.

use tinkers_training::{ChunkLimits, plan_chunks};
use tinkers_wire::Datum;

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() {
    let batch: Vec<Datum> = (1..=10).map(|n| Datum::new(vec![1; 100 * n])).collect();
    for chunk in plan_chunks(
        &batch,
        ChunkLimits {
            data: 4,
            bytes: 4000,
        },
    ) {
        let bytes: u64 = batch[chunk.clone()]
            .iter()
            .map(Datum::estimated_bytes)
            .sum();
        println!("data {chunk:?}: {bytes} estimated bytes");
    }
}
