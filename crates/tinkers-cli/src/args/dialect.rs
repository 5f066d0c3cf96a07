//! Which server `serve` speaks as.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tinkers_local::{Dialect, Expiry, LocalConfig};

use super::numbers::seconds;

/// The options that make the server one of another make.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Tests")]
pub(crate) struct DialectArgs {
    /// Accept and answer as another server does: tinker is the official service; json-strict reads JSON and the fields of the
    /// Python SDK 0.25 alone, answers in protobuf alone and has no document that says so; skyrl copies SkyRL 0.3.0 (JSON alone,
    /// failures are 400, polls held for 300 s, no order); skyrl-main its main branch, with protobuf too; tuft copies TuFT 0.2.2
    /// (protobuf passes alone, the fields of SDK 0.25 alone, failures are 422, a key is needed)
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        default_value = "tinker",
        hide_possible_values = true
    )]
    dialect: DialectName,
    /// How long a poll is held, in seconds [default: 30, with skyrl and skyrl-main 300]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    long_poll: Option<Duration>,
    /// When a result goes, after which a poll for it is 404: once, with its first delivery, or so many seconds after it was there
    /// [default: after five minutes once fetched, else after an hour, and then 410]
    #[arg(long, value_name = "WHEN")]
    forget_results: Option<Forget>,
}

/// A server that can be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum DialectName {
    // Plain comments, since help for a value turns the whole of --help into its long form.
    // The official service.
    #[default]
    Tinker,
    // No server that is known, the strictest of all.
    JsonStrict,
    // SkyRL 0.3.0.
    #[value(name = "skyrl")]
    SkyRl,
    // SkyRL's main branch.
    #[value(name = "skyrl-main")]
    SkyRlMain,
    // TuFT 0.2.2.
    #[value(name = "tuft")]
    TuFt,
}

/// When a result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forget(Expiry);

impl FromStr for Forget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "once" => Ok(Self(Expiry::OnceFetched)),
            text => seconds(text)
                .map(|length| Self(Expiry::After(length)))
                .map_err(|_| "expected once, or a number of seconds such as 60".to_owned()),
        }
    }
}

impl DialectArgs {
    /// Makes the server what was asked for.
    pub(crate) fn apply(&self, config: &mut LocalConfig) {
        config.dialect = match self.dialect {
            DialectName::Tinker => Dialect::tinker(),
            DialectName::JsonStrict => Dialect::json_strict(),
            DialectName::SkyRl => Dialect::skyrl(),
            DialectName::SkyRlMain => Dialect::skyrl_main(),
            DialectName::TuFt => Dialect::tuft(),
        };
        if let Some(length) = self.long_poll {
            config.long_poll = length;
            config.dialect.long_poll = None;
        }
        if let Some(Forget(expiry)) = self.forget_results {
            config.dialect.expiry = expiry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command, parse};
    use super::*;

    fn config(line: &str) -> Result<LocalConfig, clap::Error> {
        let line = format!("tinkers serve {line}");
        let Cli { command, .. } = parse(line.split_whitespace())?;
        let Command::Serve(args) = command else {
            unreachable!("asked for serve")
        };
        let mut config = LocalConfig::default();
        args.dialect.apply(&mut config);
        Ok(config)
    }

    #[test]
    fn each_name_is_a_dialect() {
        for (line, expected) in [
            ("", Dialect::tinker()),
            ("--dialect tinker", Dialect::tinker()),
            ("--dialect json-strict", Dialect::json_strict()),
            ("--dialect skyrl", Dialect::skyrl()),
            ("--dialect skyrl-main", Dialect::skyrl_main()),
            ("--dialect tuft", Dialect::tuft()),
        ] {
            assert_eq!(config(line).unwrap().dialect, expected, "{line}");
        }
        let error = config("--dialect other").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("skyrl-main"), "{error}");
    }

    #[test]
    fn polls_and_results_go_with_any() {
        let shorter = config("--dialect skyrl --long-poll 2.5 --forget-results once").unwrap();
        assert_eq!(shorter.long_poll, Duration::from_millis(2500));
        assert_eq!(shorter.dialect.long_poll, None);
        assert_eq!(shorter.dialect.expiry, Expiry::OnceFetched);
        let later = config("--forget-results 60").unwrap().dialect.expiry;
        assert_eq!(later, Expiry::After(Duration::from_secs(60)));
        for bad in [
            "--long-poll 0",
            "--forget-results never",
            "--forget-results -1",
        ] {
            assert_eq!(config(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
