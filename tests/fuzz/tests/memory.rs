//! What a reader takes of memory hangs on how long its input is, and not on what it says of itself.

use peak_alloc::PeakAlloc;
use tinkers_fuzz::mutate::Mutator;
use tinkers_fuzz::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A reader may take so many bytes for each byte of input: each datum of an output becomes a map of its own.
const FOR_EACH: usize = 300;
/// And so many besides: a server, what a decoder works with, a body of the most that is taken after decompression in a buffer that
/// grows by doubling.
const BESIDES: usize = 8 << 20;

/// What a target took for an input, and the most that it may take.
fn taken(target: Target, input: &[u8]) -> (usize, usize) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    (target.run)(input);
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    (taken, BESIDES + FOR_EACH * input.len())
}

fn believes_lengths(input: &[u8]) {
    if let [a, b, c, d, ..] = input {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        // Bounded, for the sake of whoever runs it.
        std::hint::black_box(Vec::<u8>::with_capacity(length.min(64 << 20)));
    }
}

// One test alone, since memory is the process's.
#[test]
fn memory_grows_with_the_input_alone() {
    for target in TARGETS {
        // The lies among the seeds: lengths of gigabytes, bombs, nesting, numbers of a hundred thousand digits.
        let seeds = target.inputs().expect("a corpus");
        let mutator = Mutator::new(3);
        let draw = |_| (target.draw)(&mutator, &seeds);
        let made = (0..300).map(draw).collect::<Vec<_>>();
        for input in seeds.iter().chain(&made) {
            let (taken, most) = taken(target, input);
            assert!(
                taken <= most,
                "{} took {taken} bytes for {} bytes: {:?}",
                target.name,
                input.len(),
                &input[..input.len().min(40)]
            );
        }
    }
    // A reader that believes what it is told is found.
    let naive = Target {
        name: "naive",
        run: believes_lengths,
        seeds: || vec![vec![0; 8]],
        draw: Mutator::next,
    };
    let mutator = Mutator::new(3);
    let is_found = (0..300).any(|_| {
        let (taken, most) = taken(naive, &mutator.next(&(naive.seeds)()));
        taken > most
    });
    assert!(is_found);
}
