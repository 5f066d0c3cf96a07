//! Reads a list page by page, so that each item is yielded once although the list changes meanwhile.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use tinkers_core::{BoxFuture, Error, Result};

/// The default number of items per page.
pub(crate) const DEFAULT_PAGE: u64 = 100;
/// The largest number of items per page.
pub(crate) const MAX_PAGE: u64 = 1000;

/// The number of times that a server may send the same page for different offsets.
const MAX_REPEATS: u32 = 3;

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The number of items of the whole list, if the server sent it.
    pub(crate) total: Option<u64>,
}

/// A function that requests the page with an offset and a limit.
pub(crate) type Fetch<T> =
    Arc<dyn Fn(u64, u64) -> BoxFuture<'static, Result<Page<T>>> + Send + Sync>;

/// Returns a stream of all items of a list. `id` identifies an item.
pub(crate) fn all<T: Send + 'static>(
    fetch: Fetch<T>,
    id: fn(&T) -> &str,
    page_size: u64,
) -> BoxStream<'static, Result<T>> {
    if let Err(error) = check_size("page_size", page_size, 2) {
        return stream::iter([Err(error)]).boxed();
    }
    let reader = Reader {
        fetch,
        id,
        page_size,
        position: 0,
        largest: 0,
        seen: HashSet::new(),
        last: Vec::new(),
        repeats: 0,
        ready: VecDeque::new(),
        is_done: false,
    };
    stream::try_unfold(reader, |mut reader| async move {
        loop {
            if let Some(item) = reader.ready.pop_front() {
                return Ok(Some((item, reader)));
            }
            if reader.is_done {
                return Ok(None);
            }
            reader.read().await?;
        }
    })
    .boxed()
}

/// Checks the number of items per page.
pub(crate) fn check_size(field: &str, size: u64, least: u64) -> Result<()> {
    if (least..=MAX_PAGE).contains(&size) {
        return Ok(());
    }
    let expected = format!("{least} to {MAX_PAGE}, got {size}");
    Err(Error::invalid(field, expected))
}

/// The state of a stream over a list.
///
/// Servers number the items of a list, so items move when others are created or deleted between two requests. Therefore each page begins
/// with the last item of the page before. If no item of the page is known, items before it were deleted, and the reader goes back. Items
/// that it meets again are dropped.
struct Reader<T> {
    fetch: Fetch<T>,
    id: fn(&T) -> &str,
    page_size: u64,
    /// The offset up to which the list was read.
    position: u64,
    /// The number of items of the largest page so far. Servers may send fewer items per page than requested.
    largest: u64,
    seen: HashSet<String>,
    /// The ids of the page before.
    last: Vec<String>,
    /// How often in a row a page was the same as the page before.
    repeats: u32,
    ready: VecDeque<T>,
    is_done: bool,
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl<T> Reader<T> {
    /// Requests the next page, and further pages before it if items were deleted.
    async fn read(&mut self) -> Result<()> {
        let mut offset = self.position.saturating_sub(1);
        let page = loop {
            let page = (self.fetch)(offset, self.page_size).await?;
            self.largest = self.largest.max(page.items.len() as u64);
            let is_known = |item: &T| self.seen.contains((self.id)(item));
            if offset == 0 || page.items.iter().any(is_known) {
                break page;
            }
            // One item of overlap, so that the page contains an unknown item if this one does.
            offset = offset.saturating_sub(self.page_size - 1);
        };
        let len = page.items.len() as u64;
        let ids: Vec<String> = page
            .items
            .iter()
            .map(|item| (self.id)(item).to_owned())
            .collect();
        let id = self.id;
        let seen = &mut self.seen;
        let new = page
            .items
            .into_iter()
            .filter(|item| seen.insert(id(item).to_owned()));
        self.ready.extend(new);
        self.position = offset.saturating_add(len);
        self.repeats = if ids == self.last {
            self.repeats + 1
        } else {
            0
        };
        // A full page of known items may be due to new items at the start of the list. But a server that sends the same page again and
        // again ignores the offset.
        let is_stuck = self.repeats >= MAX_REPEATS;
        self.is_done = match page.total {
            _ if len == 0 || is_stuck => true,
            Some(total) => self.position >= total,
            // A page of one item is the item of overlap alone.
            None => self.ready.is_empty() && len < self.largest.max(2),
        };
        self.last = ids;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt;

    use super::*;

    type List = Arc<Mutex<Vec<String>>>;

    fn list(items: &[&str]) -> List {
        Arc::new(Mutex::new(
            items.iter().map(|item| (*item).to_owned()).collect(),
        ))
    }

    /// Streams a list. Before page number `n`, from 0, calls `change(n, list)`.
    fn read(
        list: &List,
        page_size: u64,
        has_total: bool,
        change: impl Fn(usize, &mut Vec<String>) + Send + Sync + 'static,
    ) -> (String, usize) {
        let pages = Arc::new(Mutex::new(0));
        let (items, count) = (Arc::clone(list), Arc::clone(&pages));
        let fetch: Fetch<String> = Arc::new(move |offset, limit| {
            let mut items = items.lock().unwrap();
            let mut count = count.lock().unwrap();
            assert!(*count < 50, "the stream does not end");
            change(*count, &mut items);
            *count += 1;
            let page = items.iter().skip(offset as usize).take(limit as usize);
            let page = Page {
                items: page.cloned().collect(),
                total: has_total.then_some(items.len() as u64),
            };
            async move { Ok(page) }.boxed()
        });
        let items: Vec<Result<String>> = all(fetch, |item| item, page_size)
            .collect()
            .now_or_never()
            .expect("ready");
        let items: Vec<String> = items
            .into_iter()
            .map(|item| item.expect("an item"))
            .collect();
        let pages = *pages.lock().unwrap();
        (items.concat(), pages)
    }

    #[test]
    fn unchanged_list_is_read_once_and_in_order() {
        for has_total in [true, false] {
            let items = ["a", "b", "c", "d", "e", "f", "g"];
            let (read_items, pages) = read(&list(&items), 3, has_total, |_, _| {});
            assert_eq!(read_items, "abcdefg");
            assert_eq!(pages, if has_total { 3 } else { 4 });
            assert_eq!(read(&list(&[]), 3, has_total, |_, _| {}).0, "");
            assert_eq!(read(&list(&["a"]), 3, has_total, |_, _| {}).0, "a");
        }
    }

    #[test]
    fn no_item_is_lost_when_items_before_it_are_deleted() {
        for has_total in [true, false] {
            for deleted in [&["a"][..], &["c"], &["a", "b"], &["a", "b", "c"]] {
                let items = list(&["a", "b", "c", "d", "e", "f", "g", "h"]);
                let (read_items, _) = read(&items, 3, has_total, move |page, items| {
                    if page == 1 {
                        items.retain(|item| !deleted.contains(&item.as_str()));
                    }
                });
                assert_eq!(read_items, "abcdefgh", "{deleted:?} {has_total}");
            }
        }
    }

    #[test]
    fn no_item_is_yielded_twice_when_items_are_created() {
        for has_total in [true, false] {
            let items = list(&["a", "b", "c", "d", "e", "f", "g"]);
            let (read_items, _) = read(&items, 3, has_total, |page, items| {
                if page == 1 {
                    for new in ["x", "y", "z", "w"] {
                        items.insert(0, new.to_owned());
                    }
                }
            });
            // New items may be among the items.
            let old: String = read_items.chars().filter(|item| *item < 'w').collect();
            assert_eq!(old, "abcdefg", "{has_total}");
            let mut all: Vec<char> = read_items.chars().collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), read_items.len(), "{read_items}");
        }
    }

    #[test]
    fn pages_that_the_server_caps_do_not_end_a_changing_list() {
        let items: Mutex<Vec<char>> = Mutex::new(('a'..='z').collect());
        let pages = Mutex::new(0);
        let fetch: Fetch<String> = Arc::new(move |offset, limit| {
            let mut items = items.lock().unwrap();
            let mut pages = pages.lock().unwrap();
            assert!(*pages < 50, "the stream does not end");
            // Newer items move the others by almost two pages of the server.
            if *pages == 1 {
                items.splice(0..0, 'A'..='G');
            }
            *pages += 1;
            let page = items
                .iter()
                .skip(offset as usize)
                .take(limit.min(4) as usize);
            let page = Page {
                items: page.map(char::to_string).collect(),
                total: None,
            };
            async move { Ok(page) }.boxed()
        });
        let items = all(fetch, |item| item, 10).collect::<Vec<_>>();
        let items: Vec<String> = items
            .now_or_never()
            .expect("ready")
            .into_iter()
            .map(|item| item.expect("an item"))
            .collect();
        let old: String = items
            .concat()
            .chars()
            .filter(char::is_ascii_lowercase)
            .collect();
        assert_eq!(old, ('a'..='z').collect::<String>());
    }

    #[test]
    fn list_of_one_item_without_a_total_takes_two_requests() {
        assert_eq!(
            read(&list(&["a"]), 3, false, |_, _| {}),
            ("a".to_owned(), 2)
        );
    }

    #[test]
    fn list_that_is_deleted_while_it_is_read_ends() {
        for has_total in [true, false] {
            let items = list(&["a", "b", "c", "d", "e", "f", "g", "h"]);
            // Deletes each page after it was read.
            let (read_items, _) = read(&items, 3, has_total, |page, items| {
                if page == 1 || page == 4 {
                    items.drain(..3.min(items.len()));
                }
            });
            assert_eq!(read_items, "abcdefgh", "{has_total}");
        }
    }

    #[test]
    fn server_that_ignores_the_offset_ends_the_stream() {
        for total in [None, Some(3), Some(u64::MAX)] {
            let fetch: Fetch<String> = Arc::new(move |_, _| {
                let items = ["a", "b", "c"].map(str::to_owned).to_vec();
                async move { Ok(Page { items, total }) }.boxed()
            });
            let items = all(fetch, |item| item, 2).take(50).collect::<Vec<_>>();
            assert_eq!(items.now_or_never().expect("ready").len(), 3, "{total:?}");
        }
    }

    #[test]
    fn invalid_page_size_is_refused_before_a_request() {
        for size in [0, 1, 1001] {
            let fetch: Fetch<String> = Arc::new(|_, _| panic!("a request was made"));
            let items = all(fetch, |item| item, size).collect::<Vec<_>>();
            let items = items.now_or_never().expect("ready");
            assert_eq!(
                items[0].as_ref().unwrap_err().field(),
                Some("page_size"),
                "{size}"
            );
        }
    }
}
