//! The suite over the embedded server: in this process, and over loopback.

mod in_process;
mod loopback;
