//! The options of the benchmarks.

/// What was asked for; what is not set has its default where it is used.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) http2: bool,
    pub(crate) requests: Option<u64>,
    pub(crate) concurrency: Option<u64>,
    pub(crate) latency_ms: Option<u64>,
    pub(crate) turns: Option<u64>,
    pub(crate) only: Option<String>,
}

impl Options {
    pub(crate) fn read(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || {
                let value = rest.next();
                value
                    .cloned()
                    .ok_or_else(|| format!("{name} takes a value"))
            };
            match name.as_str() {
                "--quick" => options.quick = true,
                "--http2" => options.http2 = true,
                "--requests" => options.requests = Some(number(name, &value()?)?),
                "--concurrency" => options.concurrency = Some(number(name, &value()?)?),
                "--latency" => options.latency_ms = Some(whole(name, &value()?)?),
                "--turns" => options.turns = Some(number(name, &value()?)?),
                "--only" => options.only = Some(value()?),
                other => return Err(format!("no option `{other}`")),
            }
        }
        Ok(options)
    }
}

fn whole(name: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{name}: expected a whole number, got `{text}`"))
}

fn number(name: &str, text: &str) -> Result<u64, String> {
    match whole(name, text)? {
        0 => Err(format!("{name}: expected at least 1")),
        some => Ok(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::read(&words)
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let options = read("--quick --requests 7 --latency 0 --only walk").unwrap();
        assert!(options.quick && !options.http2);
        assert_eq!((options.requests, options.latency_ms), (Some(7), Some(0)));
        assert_eq!(options.only.as_deref(), Some("walk"));
        for (line, word) in [
            ("--fast", "--fast"),
            ("--requests", "--requests takes a value"),
            ("--requests 0", "at least 1"),
            ("--turns many", "whole number"),
        ] {
            assert!(read(line).unwrap_err().contains(word), "{line}");
        }
    }
}
