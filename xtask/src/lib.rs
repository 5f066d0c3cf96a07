//! The commands of `cargo xtask`, which are the maintenance tasks of the workspace.

mod bench;
mod ci;
mod environment;
mod interop;
mod loom;
mod metadata;
mod mutants;
mod nightly;
mod out;
mod peers;
mod pretrain;
mod program;
mod semver;
mod tidy;
mod tools;
mod venv;

use std::process::ExitCode;

/// A command of `cargo xtask`, with its help text.
struct Command {
    name: &'static str,
    about: &'static str,
    run: Run,
}

/// The action of a command of `cargo xtask`.
enum Run {
    /// The command calls a function of this package.
    Task(fn(&[String]) -> Result<(), String>),
    /// The command runs the program of the package with this name in release mode, and exits with
    /// the exit code of this program.
    Program(&'static str),
}

const COMMANDS: &[Command] = &[
    Command {
        name: "tidy",
        about: "check the crate graph, the style rules and the documents",
        run: Run::Task(tidy::run),
    },
    Command {
        name: "ci",
        about: "run all checks that a change must pass: format, lints, tests, docs, features",
        run: Run::Task(ci::run),
    },
    Command {
        name: "interop",
        about: "test `tinkers serve` with two releases of the official Python SDK",
        run: Run::Task(interop::run),
    },
    Command {
        name: "peers",
        about: "run the conformance suite or a command against another open-source server: tuft|skyrl|local [--keep] [--port P] [--sdk RELEASE | -- COMMAND...]; downloads about 1 GB, not part of CI",
        run: Run::Task(peers::run),
    },
    Command {
        name: "loom",
        about: "run the loom models of all crates, or of the given ones: [CRATE...]",
        run: Run::Task(loom::run),
    },
    Command {
        name: "mutants",
        about: "run mutation tests of the core crates: [CRATE...] [--shard k/n] [--changed]; takes hours, not part of CI",
        run: Run::Task(mutants::run),
    },
    Command {
        name: "stress",
        about: "stress the limits and the registry, or whole clients, with real threads: [--secs N] [--seed S] [--only CASE | --profile P [--clients N] [--tasks N] [--report FILE]] [--json]",
        run: Run::Program("tinkers-stress"),
    },
    Command {
        name: "sim",
        about: "simulate whole clients in virtual time with seeded faults: [--engine scripted|real] [--seeds N] [--seed S] [--hours H] [--case C] [--control C]",
        run: Run::Program("tinkers-sim"),
    },
    Command {
        name: "fuzz",
        about: "fuzz all parsers of untrusted input: [TARGET] [--secs N] [--seed S] [--input FILE]",
        run: Run::Program("tinkers-fuzz"),
    },
    Command {
        name: "conformance",
        about: "check the conformance of any Tinker server: --base-url URL --model NAME [--api-key KEY] [--profile core|full|rest] [--project ID] [--only CHECK] [--json]",
        run: Run::Program("tinkers-conformance"),
    },
    Command {
        name: "bench",
        about: "benchmark the cost of the limits (`bench limits`) and the client (`bench client`), and the client's goodput (`bench goodput`)",
        run: Run::Task(bench::run),
    },
    Command {
        name: "nightly",
        about: "run the long proofs: loom, stress with every profile, simulation, fuzzing, interop, mutation tests; takes hours",
        run: Run::Task(nightly::run),
    },
    Command {
        name: "semver",
        about: "compare the public API of all crates with the last release by cargo-semver-checks",
        run: Run::Task(semver::run),
    },
    Command {
        name: "pretrain",
        about: "retrain the built-in base model; arguments are passed to the example of tinkers-engine",
        run: Run::Task(pretrain::run),
    },
];

/// Runs the `cargo xtask` command that the first argument names, with the remaining arguments.
/// Without arguments, prints the list of commands.
///
/// The exit code is 0 on success, 1 if the command fails, and 2 if the command does not exist.
/// Programs of the workspace define their own exit codes.
pub fn run(arguments: &[String]) -> ExitCode {
    ExitCode::from(run_command(arguments))
}

/// Runs the command like [`run`], and returns the exit code as a number.
fn run_command(arguments: &[String]) -> u8 {
    let Some((name, rest)) = arguments.split_first() else {
        out::line(&usage());
        return 0;
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        out::error(&format!("unknown command `{name}`\n{}", usage()));
        return 2;
    };
    let result = match command.run {
        Run::Task(task) => task(rest).map(|()| 0),
        Run::Program(name) => program::exit_code(name, name, rest),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            out::error(&message);
            1
        }
    }
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask <command>\n");
    for command in COMMANDS {
        text.push_str(&format!("\n  {:<12} {}", command.name, command.about));
    }
    text
}

/// Checks that `arguments` is empty, for the commands that take no arguments.
fn no_arguments(arguments: &[String]) -> Result<(), String> {
    match arguments.first() {
        None => Ok(()),
        Some(extra) => Err(format!("this command takes no arguments, found `{extra}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(arguments: &[&str]) -> u8 {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        run_command(&arguments)
    }

    #[test]
    fn unknown_command_exits_with_status_2() {
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&["unknown"]), 2);
        assert_eq!(code(&["tidy", "extra"]), 1);
    }

    #[test]
    fn usage_text_lists_every_command() {
        for command in COMMANDS {
            assert!(
                usage().contains(command.name),
                "{} is not listed",
                command.name
            );
        }
    }
}
