//! Tests that the memory use of each parser depends on the length of the input, and not on lengths
//! that the input declares.

use peak_alloc::PeakAlloc;
use tinkers_fuzz::mutate::Mutator;
use tinkers_fuzz::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The memory that a fuzz target may use for each byte of its input, in bytes. It is large, because
/// a few bytes of a parsed result can become a map.
const LIMIT_PER_BYTE: usize = 300;
/// The memory that a fuzz target may use in addition to [`LIMIT_PER_BYTE`], even for an empty
/// input, in bytes. It covers the server, the buffers of decoders, and a decompressed body of the
/// maximum size in a buffer that grows by doubling.
const BASE_LIMIT: usize = 8 << 20;

/// Runs a fuzz target on `input`. Returns the peak memory use and the memory limit for this input,
/// both in bytes.
fn memory_use(target: Target, input: &[u8]) -> (usize, usize) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    (target.run)(input);
    let used = ALLOCATOR.peak_usage().saturating_sub(before);
    (used, BASE_LIMIT + LIMIT_PER_BYTE * input.len())
}

fn trusts_lengths(input: &[u8]) {
    if let [a, b, c, d, ..] = input {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        // The allocation is bounded, so that the test itself does not use too much memory.
        std::hint::black_box(Vec::<u8>::with_capacity(length.min(64 << 20)));
    }
}

/// The memory, as a multiple of the body length, that parsing a body with a single huge value may
/// use. It covers a buffer that grows by doubling, and the parsed value.
const LIMIT_FACTOR: usize = 6;
/// The length in bytes of the huge value (a number, list or string) in a test body.
const HUGE: usize = 8 << 20;

fn huge_bodies() -> [Vec<u8>; 4] {
    let of = |open: &str, byte: u8, close: &str| {
        let mut body = open.as_bytes().to_vec();
        body.resize(HUGE, byte);
        body.extend_from_slice(close.as_bytes());
        body
    };
    [
        of(r#"{"request_id": "a", "max_tokens": "#, b'9', "}"),
        of(r#"{"retry_after_ms": 0."#, b'3', "}"),
        of(r#"{"detail": "#, b'[', ""),
        of(r#"{"detail": ""#, b'\\', r#""}"#),
    ]
}

fn parses_json(target: &Target) -> bool {
    [
        "json-responses",
        "json-requests",
        "poll-responses",
        "sampling-params",
        "openapi",
    ]
    .contains(&target.name)
}

// This file has only one test, because the allocator counts the memory of the whole process.
#[test]
fn memory_use_of_fuzz_targets_is_bounded_by_the_input_length() {
    for target in TARGETS {
        // The seeds include declared lengths of gigabytes, decompression bombs, deep nesting, and
        // numbers with 100,000 digits.
        let seeds = target.inputs().expect("the corpus can be read");
        let mutator = Mutator::new(3);
        let generate = |_| (target.generate)(&mutator, &seeds);
        let made = (0..300).map(generate).collect::<Vec<_>>();
        for input in seeds.iter().chain(&made) {
            let (used, limit) = memory_use(target, input);
            assert!(
                used <= limit,
                "{} used {used} bytes for {} bytes: {:?}",
                target.name,
                input.len(),
                &input[..input.len().min(40)]
            );
        }
    }
    // Each of these bodies is one number, one nested list or one string of several megabytes.
    // Parsers may copy the value only a few times.
    for target in TARGETS.iter().filter(|target| parses_json(target)) {
        for body in huge_bodies() {
            let (used, _) = memory_use(*target, &body);
            let limit = BASE_LIMIT + LIMIT_FACTOR * body.len();
            let opens = String::from_utf8_lossy(&body[..20]);
            assert!(
                used <= limit,
                "{} used {used} bytes for {opens}",
                target.name
            );
        }
    }
    // Negative control: a parser that trusts a declared length exceeds the limit.
    let faulty = Target {
        name: "faulty",
        run: trusts_lengths,
        seeds: || vec![vec![0; 8]],
        generate: Mutator::next,
    };
    let mutator = Mutator::new(3);
    let is_found = (0..300).any(|_| {
        let (used, limit) = memory_use(faulty, &mutator.next(&(faulty.seeds)()));
        used > limit
    });
    assert!(is_found);
}
