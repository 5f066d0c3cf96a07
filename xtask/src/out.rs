//! The output of the tasks. No other module prints.

/// Prints a line on stdout.
#[expect(clippy::print_stdout, reason = "tasks report their results on stdout")]
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints an error message on stderr.
#[expect(clippy::print_stderr, reason = "tasks report errors on stderr")]
pub(crate) fn error(text: &str) {
    eprintln!("error: {text}");
}
