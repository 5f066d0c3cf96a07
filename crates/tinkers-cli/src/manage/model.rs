//! `tinkers model`: the base models of a server.

use anyhow::Result;
use tinkers::{Error, ErrorKind, Sent};

use super::cells;
use super::connection::{client, now};
use super::table::{List, Table, column, field};
use crate::args::{ModelArgs, ModelCommand};

const MODELS: Table = Table {
    list: "models",
    noun: "models",
    fields: &[
        field("model_name"),
        field("max_context_length"),
        field("trainable"),
        field("sampleable"),
    ],
    columns: &[
        column("model", "Model", |row| cells::text(row, "model_name")).whole(),
        column("context", "Max Context", |row| {
            cells::text(row, "max_context_length")
        }),
        column("trainable", "Trainable", |row| {
            cells::yes_no(row, "trainable")
        }),
        column("sampleable", "Sampleable", |row| {
            cells::yes_no(row, "sampleable")
        }),
    ],
};

pub(super) async fn execute(args: &ModelArgs) -> Result<()> {
    let ModelCommand::List { name, list } = &args.command;
    let capabilities = client(&args.manage)?.get_server_capabilities().await?;
    let mut models = capabilities.supported_models;
    if let Some(part) = name {
        let part = part.to_lowercase();
        models.retain(|model| {
            let name = model.model_name.as_deref().unwrap_or_default();
            name.to_lowercase().contains(&part)
        });
        if models.is_empty() {
            let message = format!(
                "{} has no model whose name contains {part:?}; `tinkers model list` lists them all",
                args.manage.server_name()
            );
            return Err(Error::new(ErrorKind::NotFound, Sent::Answered, message).into());
        }
    }
    let mut models = List::new(models, false)?;
    let format = args.manage.format();
    models.cut(list.limit_of_whole(format));
    MODELS.print(&models, format, None, now())
}
