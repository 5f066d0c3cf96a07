//! A few hundred seeds, that a seed replays, and that the controls are found.

mod controls;
mod real;
mod regressions;
mod replay;
mod usual;
