//! The chores of the workspace: which commands there are, and which one an argument means.

mod bench;
mod ci;
mod interop;
mod loom;
mod machine;
mod metadata;
mod mutants;
mod out;
mod peers;
mod pretrain;
mod release;
mod tidy;
mod venv;

use std::process::ExitCode;

/// One command: its name, what the list says of it, and what it runs.
struct Command {
    name: &'static str,
    about: &'static str,
    run: Run,
}

/// What a command runs.
enum Run {
    /// A chore of this package.
    Chore(fn(&[String]) -> Result<(), String>),
    /// A program of this name in the package of the same name, built in release; its exit status is the command's.
    Program(&'static str),
}

const COMMANDS: &[Command] = &[
    Command {
        name: "tidy",
        about: "hold the crate graph, the house style and the drawing in docs/ARCHITECTURE.md",
        run: Run::Chore(tidy::run),
    },
    Command {
        name: "ci",
        about: "everything that must hold before a change is taken: format, lints, tests, docs, features",
        run: Run::Chore(ci::run),
    },
    Command {
        name: "interop",
        about: "drive `tinkers serve` with two releases of the official Python SDK",
        run: Run::Chore(interop::run),
    },
    Command {
        name: "peers",
        about: "run a command, by default the conformance suite, against another open server: tuft|skyrl|local [--keep] [--port P] [--sdk RELEASE | -- COMMAND...]; needs a network and a gigabyte, and is no part of CI",
        run: Run::Chore(peers::run),
    },
    Command {
        name: "loom",
        about: "run the models of every crate that has some, or of the crates that are named",
        run: Run::Chore(loom::run),
    },
    Command {
        name: "mutants",
        about: "put small faults into the core crates and count those that tests and models find: [CRATE...] [--shard k/n] [--changed]; takes hours, and is no part of CI",
        run: Run::Chore(mutants::run),
    },
    Command {
        name: "stress",
        about: "the limits and the registry under real threads, or whole clients: [--secs N] [--seed S] [--only CASE | --profile P [--clients N] [--tasks N] [--report FILE]] [--json]",
        run: Run::Program("tinkers-stress"),
    },
    Command {
        name: "sim",
        about: "whole clients in virtual time under seeded faults: [--engine scripted|real] [--seeds N] [--seed S] [--hours H] [--case C] [--control C]",
        run: Run::Program("tinkers-sim"),
    },
    Command {
        name: "fuzz",
        about: "foreign bytes for everything that reads them: [TARGET] [--secs N] [--seed S] [--input FILE]",
        run: Run::Program("tinkers-fuzz"),
    },
    Command {
        name: "conformance",
        about: "what any Tinker server does and does not: --base-url URL --model NAME [--api-key KEY] [--profile core|full] [--only CHECK] [--json]",
        run: Run::Program("tinkers-conformance"),
    },
    Command {
        name: "bench",
        about: "what the limits (`bench limits`) and the client (`bench client`) cost; how close it comes to a server's window (`bench goodput`)",
        run: Run::Chore(bench::run),
    },
    Command {
        name: "pretrain",
        about: "train the built-in base model anew; arguments go to the example of tinkers-engine",
        run: Run::Chore(pretrain::run),
    },
];

/// Runs the command that the first argument names, with the rest as its arguments.
///
/// The exit code is 0 for success and for the list of commands, 1 for a command that failed and 2 for a command that
/// does not exist. A program of the workspace has exit codes of its own.
pub fn run(arguments: &[String]) -> ExitCode {
    let Some((name, rest)) = arguments.split_first() else {
        out::line(&usage());
        return ExitCode::SUCCESS;
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        out::error(&format!("no command `{name}`\n{}", usage()));
        return ExitCode::from(2);
    };
    let ran = match command.run {
        Run::Chore(chore) => chore(rest).map(|()| 0),
        Run::Program(name) => release::status(name, name, rest),
    };
    match ran {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            out::error(&why);
            ExitCode::FAILURE
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

/// An error where a command that takes no arguments was given some.
fn no_arguments(arguments: &[String]) -> Result<(), String> {
    match arguments.first() {
        None => Ok(()),
        Some(extra) => Err(format!("this command takes no arguments, found `{extra}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        format!("{:?}", run(&arguments))
    }

    #[test]
    fn no_command_lists_them_and_an_unknown_one_exits_with_two() {
        assert_eq!(code(&[]), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(&["dance"]), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(&["tidy", "extra"]), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn the_list_names_every_command() {
        for command in COMMANDS {
            assert!(
                usage().contains(command.name),
                "{} is not listed",
                command.name
            );
        }
    }
}
