//! Servers that have options of their own: the hosted service, and the server of this machine.

use clap::Args;

/// The address at which `tinkers serve` listens by default.
const LOCAL: &str = "http://127.0.0.1:8000";

/// The options in place of `--base-url`. Commands that flatten them have the argument `base_url`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub(crate) struct KnownServer {
    /// Use the hosted service, also if TINKER_BASE_URL is set
    #[arg(long, global = true, conflicts_with_all = ["local", "base_url"], help_heading = "Server")]
    hosted: bool,
    /// Use the server that `tinkers serve` starts by default, http://127.0.0.1:8000
    #[arg(
        long,
        global = true,
        conflicts_with = "base_url",
        help_heading = "Server"
    )]
    local: bool,
}

impl KnownServer {
    /// Returns the URL of the server that an option names, if there is one.
    pub(super) fn url(self) -> Option<&'static str> {
        match (self.hosted, self.local) {
            (true, _) => Some(tinkers::HOSTED_SERVICE),
            (false, true) => Some(LOCAL),
            (false, false) => None,
        }
    }

    /// Returns an error message if more than one option names a server. Options before and after the name of a subcommand do not
    /// conflict for the parser.
    pub(super) fn check(self, base_url: Option<&str>) -> Result<(), &'static str> {
        let named = [base_url.is_some(), self.hosted, self.local];
        match named.iter().filter(|is_named| **is_named).count() {
            0 | 1 => Ok(()),
            _ => Err("only one of --base-url, --hosted and --local can be used"),
        }
    }
}
