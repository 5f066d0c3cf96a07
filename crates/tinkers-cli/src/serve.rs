//! Stub.
use crate::args::ServeArgs;
use crate::signals::Signals;
use anyhow::Result;
pub(crate) async fn run(_args: &ServeArgs, signals: &mut Signals) -> Result<()> {
    signals.next().await;
    Ok(())
}
