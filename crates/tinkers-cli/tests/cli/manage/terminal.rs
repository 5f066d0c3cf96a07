//! Runs the program on a pseudo terminal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Runs the program on a new terminal, on which `input` is typed. Returns the exit code, and all that the terminal shows.
pub(crate) fn on_a_terminal(home: &Path, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let name = std::ffi::OsStr::from_bytes(name.as_bytes());
    let open = || OpenOptions::new().read(true).write(true).open(name);
    let stream = || Stdio::from(open().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tinkers"));
    let mut child = crate::program::with_clean_environment(&mut command, home)
        .args(arguments)
        .env("TINKER_API_KEY", super::KEY)
        .env("TERM", "xterm")
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    // The command holds the streams of the terminal open as well.
    drop(command);
    let mut terminal = File::from(terminal);
    terminal.write_all(input.as_bytes()).unwrap();
    let mut shown = Vec::new();
    // Reading fails when the program, which has the other end, has ended.
    let _ = terminal.read_to_end(&mut shown);
    let status = child.wait().unwrap();
    let shown = String::from_utf8_lossy(&shown).replace('\r', "");
    assert!(!shown.contains("hush"), "{shown}");
    (status.code(), shown)
}
