//! The cells of tables for people: sizes, times, numbers and flags.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use tinkers::wire::{rfc3339, since_epoch};

use super::table::Row;

/// The cell of a missing value.
const MISSING: &str = "N/A";

/// Returns the text or number at a path.
pub(crate) fn text(row: &Row<'_>, path: &str) -> String {
    match row.get(path) {
        None => MISSING.to_owned(),
        Some(Value::String(text)) if text.is_empty() => MISSING.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Returns the size in bytes at a path, in units of 1024.
pub(crate) fn bytes(row: &Row<'_>, path: &str) -> String {
    let size = row.get(path).and_then(Value::as_u64);
    size.map_or_else(|| MISSING.to_owned(), size_text)
}

/// Formats a size in bytes, in units of 1024, such as `1.5 KB`.
pub(crate) fn size_text(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in ["KB", "MB", "GB", "TB", "PB"] {
        size /= 1024.0;
        unit = larger;
        // Values that would be rounded to 1024.0 belong to the next unit.
        if size < 1023.95 {
            break;
        }
    }
    format!("{size:.1} {unit}")
}

/// Returns the flag at a path.
pub(crate) fn yes_no(row: &Row<'_>, path: &str) -> String {
    match row.get(path).and_then(Value::as_bool) {
        Some(true) => "Yes",
        Some(false) => "No",
        None => MISSING,
    }
    .to_owned()
}

/// Returns the amount in US dollars at a path.
pub(crate) fn dollars(row: &Row<'_>, path: &str) -> String {
    let amount = row.get(path).and_then(Value::as_f64);
    amount.map_or_else(|| MISSING.to_owned(), |amount| format!("${amount:.4}"))
}

/// Returns the time at a path, relative to now.
pub(crate) fn age(row: &Row<'_>, path: &str) -> String {
    let Some(text) = row.str(path).filter(|text| !text.is_empty()) else {
        return MISSING.to_owned();
    };
    let now = row.now().duration_since(SystemTime::UNIX_EPOCH);
    match since_epoch(text) {
        Some(time) => relative(time, now.unwrap_or_default()),
        // The time is not in a known form.
        None => text.to_owned(),
    }
}

/// Returns the time at a path, relative to now, or `Never`.
pub(crate) fn expiry(row: &Row<'_>, path: &str) -> String {
    match row.get(path) {
        None => "Never".to_owned(),
        Some(_) => age(row, path),
    }
}

/// Formats a time relative to now. Both are counted from the Unix epoch. Times that are a month away or more become a date in UTC.
fn relative(time: Duration, now: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const WEEK: u64 = 7 * DAY;
    let is_future = time > now;
    let distance = time.abs_diff(now).as_secs();
    let (number, unit) = match distance {
        ..MINUTE => return "just now".to_owned(),
        MINUTE..HOUR => (distance / MINUTE, "minute"),
        HOUR..DAY => (distance / HOUR, "hour"),
        DAY..=WEEK => (distance / DAY, "day"),
        _ if distance <= 30 * DAY => (distance / WEEK, "week"),
        _ => {
            let date = rfc3339(time);
            return date.split('T').next().unwrap_or_default().to_owned();
        }
    };
    let plural = if number == 1 { "" } else { "s" };
    match is_future {
        true => format!("in {number} {unit}{plural}"),
        false => format!("{number} {unit}{plural} ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_units_of_1024() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KB"),
            (1536, "1.5 KB"),
            ((1 << 20) - 1, "1.0 MB"),
            (5 << 30, "5.0 GB"),
            (u64::MAX, "16384.0 PB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn times_are_shown_relative_to_now() {
        let day = 86_400;
        let now = 1000 * day;
        for (seconds, text) in [
            (now, "just now"),
            (now - 59, "just now"),
            (now - 60, "1 minute ago"),
            (now - 7199, "1 hour ago"),
            (now + 7200, "in 2 hours"),
            (now - 3 * day, "3 days ago"),
            (now - 20 * day, "2 weeks ago"),
            (now + 8 * day, "in 1 week"),
            (now - 31 * day, "1972-08-27"),
        ] {
            let shown = relative(Duration::from_secs(seconds), Duration::from_secs(now));
            assert_eq!(shown, text);
        }
    }
}
