//! The user of a credential, for `tinkers auth whoami`.

use anyhow::Result;
use serde_json::Value;

use super::connection::now;
use super::table::{Table, field};
use crate::args::OutputFormat;

const IDENTITY: Table = Table {
    list: "users",
    noun: "users",
    fields: &[field("user_urn"), field("org_urn"), field("email")],
    columns: &[],
};

/// Prints the user of a credential as CSV.
pub(crate) fn print_identity_as_csv(user: &Value) -> Result<()> {
    IDENTITY.print_one(user, OutputFormat::Csv, now())
}
