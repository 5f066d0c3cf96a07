//! Each management command: its output in three formats, and its errors with their exit codes.

use std::collections::BTreeSet;

use super::cases::{Case, cases};
use super::responder::{DENIED, Responder};
use super::{manage, with_key};
use crate::program::{Program, run};

/// The commands that other modules test.
pub(super) const OTHER_COMMANDS: [&str; 11] = [
    "quickstart",
    "serve",
    "bench sample",
    "bench train",
    "doctor",
    "auth login",
    "auth logout",
    "auth status",
    "auth whoami",
    "completions",
    "version",
];

/// Runs the test for each command, with an empty home directory.
fn for_each(test: impl Fn(&std::path::Path, &Case)) {
    let home = tempfile::tempdir().unwrap();
    for case in cases() {
        test(home.path(), &case);
    }
}

/// A base URL at which no server listens: the port is reserved.
const CLOSED: &str = "http://127.0.0.1:9";

fn arguments<'a>(case: &'a Case, rest: &[&'a str]) -> Vec<&'a str> {
    [case.command, case.arguments, rest].concat()
}

/// Returns the commands without subcommands, such as `run list`, from the help of the program.
pub(super) fn commands(home: &std::path::Path, parents: &[&str]) -> BTreeSet<String> {
    let help = run(home, &[parents, &["--help"]].concat());
    let help = help.succeeded().stdout.clone();
    let Some((_, list)) = help.split_once("Commands:\n") else {
        return BTreeSet::from([parents.join(" ")]);
    };
    let names = list.lines().take_while(|line| !line.is_empty());
    // The descriptions of commands may be wrapped.
    let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> = names
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let below = names.iter().filter(|name| **name != "help");
    below
        .flat_map(|name| commands(home, &[parents, &[*name]].concat()))
        .collect()
}

#[test]
fn every_command_of_the_program_has_a_test_row() {
    let home = tempfile::tempdir().unwrap();
    let mut tested: BTreeSet<String> = cases().iter().map(|case| case.command.join(" ")).collect();
    tested.extend(OTHER_COMMANDS.map(str::to_owned));
    assert_eq!(commands(home.path(), &[]), tested);
}

#[test]
fn commands_print_exact_tables_json_and_csv() {
    for_each(|home, case| {
        for (format, expected) in [
            ("table", case.table),
            ("json", case.json),
            ("csv", case.csv),
        ] {
            let server = Responder::start(case.answers.clone());
            let outcome = manage(home, &server.url, &arguments(case, &["--format", format]));
            let outcome = outcome.succeeded();
            assert_eq!(outcome.stdout, expected, "{:?} {format}", case.command);
            assert_eq!(outcome.stderr, "", "{:?} {format}", case.command);
            assert_eq!(server.requests(), case.requests, "{:?}", case.command);
        }
    });
}

#[test]
fn format_is_accepted_before_the_command_and_as_json_flag() {
    for_each(|home, case| {
        let server = Responder::start(case.answers.clone());
        let json = manage(home, &server.url, &arguments(case, &["--json"]));
        assert_eq!(json.succeeded().stdout, case.json, "{:?}", case.command);
        let before = [&["-f", "csv"], &*arguments(case, &[])].concat();
        let csv = manage(home, &server.url, &before);
        assert_eq!(csv.succeeded().stdout, case.csv, "{:?}", case.command);
        let both = arguments(case, &["--json", "--format", "csv"]);
        manage(home, &server.url, &both).failed(2, &["--json", "--format"]);
    });
}

#[test]
fn wrong_argument_exits_with_2_before_anything_is_sent() {
    for_each(|home, case| {
        let server = Responder::start(case.answers.clone());
        let (wrong, part) = case.wrong;
        let outcome = manage(home, &server.url, &[case.command, wrong].concat());
        outcome.failed(2, &[part]);
        assert_eq!(server.requests(), [""; 0], "{:?}", case.command);
        let unknown = manage(home, &server.url, &arguments(case, &["--unknown"]));
        unknown.failed(2, &["--unknown", "Usage: tinkers"]);
    });
}

#[test]
fn unreachable_server_exits_with_5_and_names_the_address() {
    for_each(|home, case| {
        let outcome = manage(home, CLOSED, &arguments(case, &[]));
        outcome.failed(5, &["127.0.0.1:9", "next step:", "tinkers serve"]);
    });
}

#[test]
fn missing_or_unknown_key_exits_with_4_and_names_the_login() {
    for_each(|home, case| {
        let server = Responder::start(case.answers.clone());
        let arguments = arguments(case, &["--base-url", &server.url]);
        let without = Program::start(home, &arguments).finish();
        without.failed(4, &["tinkers auth login", "TINKER_API_KEY"]);
        let unknown = with_key(home, "tml-hush-unknown", &arguments);
        unknown.failed(4, &["401", "tinkers auth login"]);
    });
}

#[test]
fn key_without_permission_exits_with_4() {
    for_each(|home, case| {
        let server = Responder::start(case.answers.clone());
        let arguments = arguments(case, &["--base-url", &server.url]);
        let outcome = with_key(home, DENIED, &arguments);
        outcome.failed(4, &["no permission", "tinkers auth whoami"]);
    });
}

#[test]
fn server_without_the_route_exits_with_5() {
    for_each(|home, case| {
        let server = Responder::start(Vec::new());
        let outcome = manage(home, &server.url, &arguments(case, &[]));
        outcome.failed(5, &["no route", "tinkers doctor"]);
    });
}

#[test]
fn commands_that_read_use_the_server_of_the_environment() {
    for_each(|home, case| {
        let server = Responder::start(case.answers.clone());
        let variables = [
            ("TINKER_BASE_URL", server.url.as_str()),
            ("TINKER_API_KEY", super::KEY),
        ];
        let outcome = Program::start_with(home, &arguments(case, &[]), &variables).finish();
        if case.changes {
            outcome.failed(2, &["--base-url URL, --hosted or --local"]);
            assert_eq!(server.requests(), [""; 0], "{:?}", case.command);
        } else {
            assert_eq!(outcome.succeeded().stdout, case.table);
        }
    });
}

#[test]
fn only_one_server_can_be_named() {
    for_each(|home, case| {
        let (noun, rest) = case.command.split_first().unwrap();
        for servers in [["--hosted", "--local"], ["--base-url=http://h", "--hosted"]] {
            let outcome = run(home, &arguments(case, &servers));
            outcome.failed(2, &[&servers[1][..7]]);
            // The same options before and after the name of the subcommand.
            if !rest.is_empty() && *noun != "billing" {
                let split = [&[*noun, servers[0]], rest, case.arguments, &servers[1..]].concat();
                run(home, &split).failed(2, &["only one of"]);
            }
        }
    });
}

#[test]
fn hosted_service_without_a_key_exits_with_4() {
    for_each(|home, case| {
        let variables = [("TINKER_BASE_URL", CLOSED)];
        let hosted = arguments(case, &["--hosted"]);
        let outcome = Program::start_with(home, &hosted, &variables).finish();
        outcome.failed(4, &["the hosted service", "tinkers auth login"]);
    });
}
