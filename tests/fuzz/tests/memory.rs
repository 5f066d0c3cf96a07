//! What a reader takes of memory hangs on how long its input is, and not on what it says of itself.

use peak_alloc::PeakAlloc;
use tinkers_fuzz::TARGETS;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A reader may take so many bytes for each byte of input: numbers of one digit become eight bytes, and grow in vectors.
const FOR_EACH: usize = 200;
/// And so many besides: a whole server, and one body of the most that it takes after decompression.
const BESIDES: usize = 48 << 20;

// One test alone, since memory is the process's.
#[test]
fn memory_grows_with_the_input_alone() {
    // The lies: lengths of gigabytes, bombs, nesting, numbers of a hundred thousand digits.
    for target in TARGETS {
        for seed in (target.seeds)() {
            ALLOCATOR.reset_peak_usage();
            let before = ALLOCATOR.current_usage();
            (target.run)(&seed);
            let taken = ALLOCATOR.peak_usage().saturating_sub(before);
            let most = BESIDES + FOR_EACH * seed.len();
            assert!(
                taken <= most,
                "{} took {taken} bytes for {} bytes: {:?}",
                target.name,
                seed.len(),
                &seed[..seed.len().min(40)]
            );
        }
    }
    // The control: a reader that believes a length takes more.
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(
        BESIDES + 4096,
    )));
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken > BESIDES, "the measure does not see {taken}");
}
