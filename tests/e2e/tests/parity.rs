//! The page that compares this SDK with the official Python SDK is complete.

use tinkers::wire::{ClientConfig, DynamicConfig};

const PAGE: &str = include_str!("../../../docs/parity.md");

/// Extensions of the embedded server, which the Python SDK does not have.
const EXTENSIONS: [&str; 3] = ["server", "deduplicates_seq_ids", "session_expiry_sec"];

#[test]
fn parity_page_lists_every_flag_of_the_server_configuration() {
    for flags in [
        serde_json::to_value(ClientConfig::default()).unwrap(),
        serde_json::to_value(DynamicConfig::default()).unwrap(),
    ] {
        for flag in flags.as_object().unwrap().keys() {
            let is_listed = PAGE.contains(&format!("`{flag}`"));
            assert!(is_listed || EXTENSIONS.contains(&flag.as_str()), "{flag}");
        }
    }
}
