//! The options of `serve` that imitate other servers.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tinkers_local::{Dialect, Expiry, LocalConfig, Quirk};

use super::numbers::seconds;

/// The options that make the embedded server imitate another server.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Tests")]
pub(crate) struct DialectArgs {
    /// The server to imitate. tinker: the official service. json-strict: accepts only JSON and only the fields of the Python SDK
    /// 0.25, responds only in protobuf, has no OpenAPI document. skyrl: SkyRL 0.3.0 (only JSON, polls for failed operations return
    /// 400, long polls of 300 s, requests are not ordered). skyrl-main: SkyRL's main branch, which also accepts protobuf. tuft:
    /// TuFT 0.2.2 (forward_backward only in protobuf, only the fields of SDK 0.25, polls for failed operations return 422, requires
    /// an API key). hatchery: hatchery-core 0.3.0 (only JSON, creating a sampler returns a request id, requires an API key). twinkle:
    /// Twinkle 0.5.1 (only JSON, no client configuration, requires the header X-Request-Id)
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        default_value = "tinker",
        hide_possible_values = true
    )]
    dialect: DialectName,
    /// Duration of a long poll, in seconds [default: 30; 300 with skyrl and skyrl-main]
    #[arg(long, value_name = "SECS", allow_hyphen_values = true, value_parser = seconds)]
    long_poll: Option<Duration>,
    /// When to delete a result, after which polls for it return 404: `once` for after its first delivery, or a number of seconds
    /// after its completion [default: 5 minutes after the first delivery, or 1 hour after completion, and then 410]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    forget_results: Option<Forget>,
    /// Imitate a single difference of another server from the official service, such as no-config or protobuf-500. An unknown name
    /// prints all names
    #[arg(long = "quirk", value_name = "NAME", value_delimiter = ',')]
    quirks: Vec<Quirk>,
}

/// The name of a server whose behaviour the embedded server can imitate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum DialectName {
    // Plain comments, since doc comments on values would switch --help to its long form.
    // The official service.
    #[default]
    Tinker,
    // A synthetic server, stricter than any known one.
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
    // hatchery-core 0.3.0.
    Hatchery,
    // Twinkle 0.5.1.
    Twinkle,
}

/// The value of `--forget-results`, which determines when the embedded server deletes the result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forget(Expiry);

impl FromStr for Forget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "once" => Ok(Self(Expiry::OnceFetched)),
            text => seconds(text)
                .map(|length| Self(Expiry::After(length)))
                .map_err(|_| "expected `once` or a number of seconds such as 60".to_owned()),
        }
    }
}

impl DialectArgs {
    /// Changes the configuration of the embedded server so that the server imitates the chosen one.
    pub(crate) fn apply(&self, config: &mut LocalConfig) {
        match self.dialect {
            DialectName::Tinker => config.dialect = Dialect::tinker(),
            DialectName::JsonStrict => config.dialect = Dialect::json_strict(),
            DialectName::SkyRl => config.dialect = Dialect::skyrl(),
            DialectName::SkyRlMain => config.dialect = Dialect::skyrl_main(),
            DialectName::TuFt => config.dialect = Dialect::tuft(),
            DialectName::Hatchery => config.set_hatchery(),
            DialectName::Twinkle => config.set_twinkle(),
        }
        if let Some(length) = self.long_poll {
            config.long_poll = length;
            config.dialect.long_poll = None;
        }
        if let Some(Forget(expiry)) = self.forget_results {
            config.dialect.expiry = expiry;
        }
        config.quirks.extend(&self.quirks);
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
            unreachable!("the command is serve")
        };
        let mut config = LocalConfig::default();
        args.dialect.apply(&mut config);
        Ok(config)
    }

    #[test]
    fn each_dialect_name_selects_its_dialect() {
        for (line, expected) in [
            ("", Dialect::tinker()),
            ("--dialect tinker", Dialect::tinker()),
            ("--dialect json-strict", Dialect::json_strict()),
            ("--dialect skyrl", Dialect::skyrl()),
            ("--dialect skyrl-main", Dialect::skyrl_main()),
            ("--dialect tuft", Dialect::tuft()),
            ("--dialect hatchery", Dialect::hatchery()),
            ("--dialect twinkle", Dialect::twinkle()),
        ] {
            assert_eq!(config(line).unwrap().dialect, expected, "{line}");
        }
        let error = config("--dialect other").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("skyrl-main"), "{error}");
    }

    #[test]
    fn quirk_option_takes_several_names_and_lists_the_known_ones() {
        let config_with = |line| config(line).unwrap().quirks;
        assert!(config_with("").is_empty());
        assert!(config_with("--dialect twinkle").contains(&Quirk::NoConfig));
        let expected = [Quirk::NoConfig, Quirk::Protobuf415, Quirk::PathFile];
        let line = "--quirk protobuf-415,no_config --quirk path-file";
        assert_eq!(config_with(line), expected.into());
        let error = config("--quirk no-such").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("no-config, "), "{error}");
    }

    #[test]
    fn long_poll_and_expiry_options_override_the_dialect() {
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
