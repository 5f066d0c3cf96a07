//! The text form of dates.

use std::time::Duration;

/// Formats the time since the Unix epoch as RFC 3339 in UTC with microseconds, such as `2026-11-23T08:52:27.925306Z`.
pub fn rfc3339(since_epoch: Duration) -> String {
    let (days, second) = (
        since_epoch.as_secs() / 86_400,
        since_epoch.as_secs() % 86_400,
    );
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_epoch.subsec_micros()
    )
}

/// Parses a date and a time in the form of RFC 3339, and returns the time since the Unix epoch. Without an offset, the time is in UTC, since
/// some servers omit it. A date without a time is its midnight. Returns `None` for other texts and for times before 1970.
pub fn since_epoch(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "00:00:00"),
    };
    let mut parts = date.splitn(3, '-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let is_valid = (1970..=9999).contains(&year) && (1..=12).contains(&month);
    if !is_valid || !(1..=31).contains(&day) {
        return None;
    }
    let days = days(year, month, day);
    // Rejects days that the month does not have.
    if civil(days) != (year, month, day) {
        return None;
    }
    let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) if time[at..].eq_ignore_ascii_case("z") => (&time[..at], 0),
        Some(at) => {
            let (hours, minutes) = time[at + 1..].split_once(':')?;
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::try_from(hours * 3600 + minutes * 60).ok()?;
            let sign = if time.as_bytes()[at] == b'-' { -1 } else { 1 };
            (&time[..at], sign * seconds)
        }
        None => (time, 0),
    };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = clock.splitn(3, ':').map(number);
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    number(fraction)?;
    let nanos: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let whole = i64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()? - offset;
    Some(Duration::new(
        u64::try_from(whole).ok()?,
        nanos.parse().ok()?,
    ))
}

/// Parses digits. Returns `None` if there are none, or other characters.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Converts year, month and day to the number of days since 1970-01-01; the inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Converts a number of days since 1970-01-01 to year, month and day. Internally, a year begins in March, so that a leap day is the
/// last day of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_leap_days_and_centuries_are_formatted_correctly() {
        for (seconds, text) in [
            (0.0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399.0, "2000-02-28T23:59:59.000000Z"),
            (951_782_400.0, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_200.5, "2024-03-01T00:00:00.500000Z"),
            (1_795_423_947.25, "2026-11-23T08:52:27.250000Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs_f64(seconds)), text);
            assert_eq!(since_epoch(text), Some(Duration::from_secs_f64(seconds)));
        }
    }

    #[test]
    fn dates_of_other_servers_are_parsed() {
        let noon = Some(Duration::from_millis(1_795_435_200_500));
        for text in [
            "2026-11-23T12:00:00.5Z",
            "2026-11-23 12:00:00.500000",
            "2026-11-23t12:00:00.5z",
            "2026-11-23T13:30:00.5+01:30",
            "2026-11-23T07:00:00.500-05:00",
        ] {
            assert_eq!(since_epoch(text), noon, "{text}");
        }
        let midnight = Some(Duration::from_secs(1_795_392_000));
        assert_eq!(since_epoch("2026-11-23"), midnight);
        assert_eq!(since_epoch("2026-11-23T00:00Z"), midnight);
        for text in [
            "",
            "x",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "1969-12-31",
            "2026-01-01T25:00:00Z",
            "2026-01-01T00:00:00.xZ",
            "2026-01-01T00:00:00+1",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+18446744073709551615:00",
            "-2026-01-01",
            "2026-01-01T",
        ] {
            assert_eq!(since_epoch(text), None, "{text}");
        }
    }
}
