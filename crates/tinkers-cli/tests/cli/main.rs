//! Tests that run the `tinkers` program.

mod auth;
mod bench;
mod doctor;
mod environment;
mod errors;
mod faults;
mod help;
mod keys;
mod manage;
mod program;
mod quickstart;
mod raw_http;
mod remote;
mod saves;
mod serve;
