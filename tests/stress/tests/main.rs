//! Tests of the stress cases, of the client profiles, and of the checks themselves.

mod cases;
mod clients;
mod controls;
