//! The only place of this crate that prints.

/// One line on standard output.
#[expect(clippy::print_stdout, reason = "printing is what a chore is for")]
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// One message on standard error.
#[expect(clippy::print_stderr, reason = "printing is what a chore is for")]
pub(crate) fn error(text: &str) {
    eprintln!("error: {text}");
}
