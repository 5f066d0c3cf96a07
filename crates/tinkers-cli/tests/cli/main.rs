//! The program as its users have it: started, read from, asked to end.

mod bench;
mod doctor;
mod environment;
mod faults;
mod help;
mod program;
mod quickstart;
mod refused;
mod remote;
mod saves;
mod serve;
