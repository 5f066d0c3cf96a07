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

/// What is read of a body of one value may take so many times its length: a buffer that grows by doubling, and what is made of it.
const COPIES: usize = 6;
/// In bytes.
const GIANT: usize = 8 << 20;

fn giants() -> [Vec<u8>; 4] {
    let of = |open: &str, byte: u8, close: &str| {
        let mut giant = open.as_bytes().to_vec();
        giant.resize(GIANT, byte);
        giant.extend_from_slice(close.as_bytes());
        giant
    };
    [
        of(r#"{"request_id": "a", "max_tokens": "#, b'9', "}"),
        of(r#"{"retry_after_ms": 0."#, b'3', "}"),
        of(r#"{"detail": "#, b'[', ""),
        of(r#"{"detail": ""#, b'\\', r#""}"#),
    ]
}

fn reads_json(target: &Target) -> bool {
    [
        "json-answers",
        "json-requests",
        "poll-answers",
        "sampling-params",
        "openapi",
    ]
    .contains(&target.name)
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
    // The longest number, the deepest list and the longest text, of megabytes: a reader copies them, and not often.
    for target in TARGETS.iter().filter(|target| reads_json(target)) {
        for giant in giants() {
            let (taken, _) = taken(*target, &giant);
            let most = BESIDES + COPIES * giant.len();
            let opens = String::from_utf8_lossy(&giant[..20]);
            assert!(
                taken <= most,
                "{} took {taken} bytes for {opens}",
                target.name
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
