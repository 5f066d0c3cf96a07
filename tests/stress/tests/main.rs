//! Each case once, small; and the checks themselves, shown to find what is made wrong on purpose.

mod cases;
mod clients;
mod controls;
