//! Whole clients in virtual time, on one thread, under seeded faults, with exact counts.
//!
//! A seed makes a [`plan`]: how many clients there are, what their programs do, what goes wrong and when. The [`world`] runs
//! it on an [`executor`] that picks at random which task goes next and moves the clock when none can. Everything random comes
//! from the seed, so a seed replays the same run, and its [`trace`] has the same hash, in another process too.
//! What must hold of every run is in [`check`].

mod answers;
pub mod book;
pub mod caller;
pub mod chance;
pub mod check;
pub mod control;
pub mod cover;
mod departures;
mod draw;
pub mod executor;
pub mod fault;
mod foreign;
pub mod layer;
pub mod ledger;
pub mod listen;
pub mod misfortune;
pub mod network;
pub mod old_limiter;
mod old_polls;
pub mod old_turns;
pub mod op;
pub mod plan;
pub mod real;
mod results;
pub mod seeds;
mod session;
pub mod shared_polls;
pub mod shrink;
mod spells;
pub mod stage;
mod together;
pub mod trace;
pub mod turns;
pub mod waits;
pub mod watch;
pub mod world;
