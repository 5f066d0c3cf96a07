//! The limits and the registry under real threads: what is planned, what is counted, and what must hold at the end.
//!
//! A case plans every choice from a seed, lets it happen, on threads or step by step, and hands what was seen to checks
//! that know nothing of the limiter. The same checks are shown, in the tests of this package, to find the faults of
//! limiters that are made wrong on purpose.
//!
//! [`clients`] is the same for whole clients: on sockets, against a server in a process of its own.

pub mod case;
pub mod check;
pub mod churn;
pub mod clients;
pub mod crowd;
pub mod fair;
pub mod limited;
pub mod log;
pub mod pauses;
pub mod plan;
pub mod polling;
pub mod steps;
pub mod storm;
pub mod subject;
pub mod threads;
pub mod watch;
