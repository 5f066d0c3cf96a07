//! Parses the options of the benchmarks.

/// The parsed command-line options of a benchmark. An option that is not set is `None`. Each
/// benchmark has its own defaults.
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
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || {
                let value = rest.next();
                value
                    .cloned()
                    .ok_or_else(|| format!("{name} requires a value"))
            };
            match name.as_str() {
                "--quick" => options.quick = true,
                "--http2" => options.http2 = true,
                "--requests" => options.requests = Some(positive(name, &value()?)?),
                "--concurrency" => options.concurrency = Some(positive(name, &value()?)?),
                "--latency" => options.latency_ms = Some(integer(name, &value()?)?),
                "--turns" => options.turns = Some(positive(name, &value()?)?),
                "--only" => options.only = Some(value()?),
                other => return Err(format!("unknown option `{other}`")),
            }
        }
        Ok(options)
    }
}

fn integer(name: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{name}: expected an integer, got `{text}`"))
}

fn positive(name: &str, text: &str) -> Result<u64, String> {
    match integer(name, text)? {
        0 => Err(format!("{name}: expected at least 1, got 0")),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn benchmark_options_are_parsed_and_invalid_options_are_named() {
        let options = parse("--quick --requests 7 --latency 0 --only walk").unwrap();
        assert!(options.quick && !options.http2);
        assert_eq!((options.requests, options.latency_ms), (Some(7), Some(0)));
        assert_eq!(options.only.as_deref(), Some("walk"));
        for (line, word) in [
            ("--fast", "--fast"),
            ("--requests", "--requests requires a value"),
            ("--requests 0", "at least 1"),
            ("--turns many", "expected an integer"),
        ] {
            assert!(parse(line).unwrap_err().contains(word), "{line}");
        }
    }
}
