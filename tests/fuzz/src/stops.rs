//! The fuzz target `stops`: searches a growing sample for stop sequences. The engine searches only
//! the end of the sample, and must find the same stop sequences as a search of the whole sample.

use tinkers_engine::{Text, stop_ends};
use tinkers_wire::Stop;

/// The maximum number of tokens that are sampled for one input.
const MAX_TOKENS: usize = 200;

/// Checks the handling of stop sequences with one input. The input consists of stop sequences as
/// JSON, a zero byte, and one byte for each sampled token. Bytes from 0xf0 on stand for tokens
/// without text.
pub(crate) fn run_sample(bytes: &[u8]) {
    let at = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let (stop, sampled) = bytes.split_at(at);
    let Ok(stop) = serde_json::from_slice::<Stop>(stop) else {
        return;
    };
    let written = tinkers_wire::to_json(&stop);
    assert_eq!(
        serde_json::from_slice::<Stop>(&written).ok(),
        Some(stop.clone())
    );
    let (tokens, texts) = match stop {
        Stop::Tokens(tokens) => (tokens, Vec::new()),
        Stop::Texts(texts) => (Vec::new(), texts),
    };
    let stop =
        tinkers_engine::StopConditions::tokens(tokens.clone()).or_texts(texts.iter().cloned());
    let mut sample = Vec::new();
    let mut text_so_far = Vec::new();
    for byte in sampled.iter().skip(1).take(MAX_TOKENS) {
        let is_empty = *byte >= 0xf0;
        sample.push(u32::from(*byte) + 256 * u32::from(is_empty));
        if !is_empty {
            text_so_far.push(*byte);
        }
        let has = |text: &String| {
            let text = text.as_bytes();
            !text.is_empty() && text_so_far.windows(text.len()).any(|part| part == text)
        };
        let expected =
            texts.iter().any(has) || sample.last().is_some_and(|last| tokens.contains(last));
        let found = stop_ends(&stop, &sample, &Text::Bytes).expect("byte tokens can be decoded");
        assert_eq!(found, expected, "{texts:?} {tokens:?} in {sample:?}");
        if found {
            return;
        }
    }
}
