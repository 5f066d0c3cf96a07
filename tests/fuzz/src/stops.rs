//! What ends a sample: the engine looks at the end of what was sampled, and must find what a look at all of it finds.

use tinkers_engine::{Text, stop_ends};
use tinkers_wire::Stop;

/// A sample has so many tokens at most.
const LONGEST: usize = 200;

/// What stops, as the wire has it, up to a zero byte; behind it a token for each byte. Those from 0xf0 on are beyond the bytes and silent.
pub(crate) fn any_sample(bytes: &[u8]) {
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
    let stop = tinkers_engine::Stop::tokens(tokens.clone()).or_texts(texts.iter().cloned());
    let mut sample = Vec::new();
    let mut spelled = Vec::new();
    for byte in sampled.iter().skip(1).take(LONGEST) {
        let is_silent = *byte >= 0xf0;
        sample.push(u32::from(*byte) + 256 * u32::from(is_silent));
        if !is_silent {
            spelled.push(*byte);
        }
        let has = |text: &String| {
            let text = text.as_bytes();
            !text.is_empty() && spelled.windows(text.len()).any(|part| part == text)
        };
        let expected =
            texts.iter().any(has) || sample.last().is_some_and(|last| tokens.contains(last));
        let found = stop_ends(&stop, &sample, &Text::Bytes).expect("bytes are spelled");
        assert_eq!(found, expected, "{texts:?} {tokens:?} in {sample:?}");
        if found {
            return;
        }
    }
}
