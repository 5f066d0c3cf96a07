//! Reads lists from the server, up to a limit, with a counter on the terminal.

use anyhow::Result;
use tinkers::rest::ItemStream;

use crate::output::Counter;

/// The largest number of runs or sessions per request, that of the official program.
pub(super) const LARGEST_PAGE: u64 = 100;
/// The largest number of checkpoints per request, that of the official program.
pub(super) const LARGEST_PAGE_OF_CHECKPOINTS: u64 = 1000;

/// The first items of a list.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub(super) items: Vec<T>,
    /// Whether the list has further items.
    pub(super) has_more: bool,
}

/// Returns the number of items per request, at most `largest`, for a list of which `limit` items are shown. One item more shows whether
/// there are further items.
pub(super) fn page_size(limit: Option<usize>, largest: u64) -> u64 {
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    limit.map_or(largest, |limit| limit.saturating_add(1).clamp(2, largest))
}

/// Reads the items that `keeps` selects, up to the limit.
///
/// # Errors
/// The first error of the stream.
pub(super) async fn read<T: Send + 'static>(
    mut stream: ItemStream<T>,
    limit: Option<usize>,
    noun: &str,
    keeps: impl Fn(&T) -> bool,
) -> Result<Listed<T>> {
    let counter = Counter::start(format!("listing {noun}"), None);
    let mut items = Vec::new();
    let mut seen = 0;
    while let Some(item) = stream.next().await {
        let item = item?;
        seen += 1;
        counter.set(seen);
        if !keeps(&item) {
            continue;
        }
        if limit.is_some_and(|limit| items.len() >= limit) {
            return Ok(Listed {
                items,
                has_more: true,
            });
        }
        items.push(item);
    }
    Ok(Listed {
        items,
        has_more: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_holds_one_item_more_than_the_limit() {
        for (limit, size) in [
            (None, 100),
            (Some(0), 2),
            (Some(1), 2),
            (Some(20), 21),
            (Some(99), 100),
            (Some(usize::MAX), 100),
        ] {
            assert_eq!(page_size(limit, LARGEST_PAGE), size, "{limit:?}");
        }
    }
}
