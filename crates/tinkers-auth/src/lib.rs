//! Credentials of the Tinker API, and their exchange for short-lived tokens.
#![doc = include_str!("../README.md")]

mod auth;
mod claims;
mod command;
mod credential;
mod exchange;
mod failure;
mod single_flight;
mod sources;
mod store;
mod sync;
mod token_cache;
mod transport;

pub use auth::Auth;
pub use claims::{Claims, Identity, no_user};
pub use credential::Credential;
pub use sources::{API_KEY_VARIABLE, CREDENTIAL_COMMAND_VARIABLE, Resolved, Sources};
pub use store::{CredentialStore, StoredCredentials, StoredKey, StoredKeyKind};
pub use transport::AuthTransport;
