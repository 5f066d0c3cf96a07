//! `tinkers auth`: stores an API key, removes it, and shows who its user is.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, Result, bail};
use console::Term;
use tinkers::auth::{Credential, CredentialStore, StoredKey, StoredKeyKind};
use tinkers::{BaseUrl, Environment, ErrorKind, ServiceClient, ServiceClientBuilder};

use crate::args::{AuthArgs, AuthCommand, OutputFormat};
use crate::blocking::run_blocking;
use crate::exit::{ExitCode, Failed};
use crate::manage;
use crate::output;
use crate::signals::{Interrupted, Signals};

/// The page on which users of the hosted service manage their API keys.
const CONSOLE: &str = "https://tinker.thinkingmachines.ai";

/// The maximum length of a line from stdin, in bytes.
const MAX_LINE: u64 = 64 << 10;

pub(crate) async fn run(args: &AuthArgs, signals: &mut Signals) -> Result<()> {
    let work = async {
        match &args.command {
            AuthCommand::Login => login(args).await,
            AuthCommand::Logout => logout(args).await,
            AuthCommand::Status => status(args).await,
            AuthCommand::Whoami { format, .. } => {
                whoami(args, format.unwrap_or(OutputFormat::Table)).await
            }
        }
    };
    tokio::select! {
        biased;
        () = signals.next() => Err(Interrupted.into()),
        outcome = work => outcome,
    }
}

/// Returns the builder of a client for the server of the arguments.
fn builder(args: &AuthArgs) -> ServiceClientBuilder {
    let builder = ServiceClient::builder();
    match args.base_url() {
        Some(url) => builder.base_url(url),
        None => builder,
    }
}

/// Returns the base URL of the server of the arguments, or `None` for the hosted service.
fn own_server(args: &AuthArgs) -> Option<String> {
    let environment = Environment::read();
    let url = args.base_url().or(environment.base_url())?;
    // The client reports an invalid URL.
    let is_hosted = BaseUrl::parse(url).is_ok_and(|address| address.is_hosted_service());
    (!is_hosted).then(|| url.to_owned())
}

fn store() -> Result<CredentialStore> {
    let store = Environment::read().credential_store();
    store.context("cannot find the home directory; set HOME")
}

async fn login(args: &AuthArgs) -> Result<()> {
    let store = store()?;
    let mut stored = store.load()?;
    if let Some((id, _)) = stored.default_key() {
        bail!("already logged in with key {id}; log out first with `tinkers auth logout`");
    }
    let server = own_server(args);
    let is_hosted = server.is_none();
    let key = run_blocking(move || read_key(is_hosted)).await??;
    let client = builder(args).credential(key.clone()).rest_client()?;
    let info = client
        .get_api_key()
        .await
        .context("the server does not accept the API key")?;
    let mut entry = StoredKey::manual(&key, info.name);
    entry.note = info.note;
    entry.details = info.details;
    entry.base_url = server;
    stored.add_default(info.key_id.to_string(), entry);
    store.save(&stored)?;
    output::print_line(format_args!(
        "logged in; the API key is stored in {}",
        store.path().display()
    ))?;
    Ok(())
}

/// Reads an API key: hidden from the terminal, or a line from stdin if stdin is not a terminal.
fn read_key(is_hosted: bool) -> Result<Credential> {
    let key = if io::stdin().is_terminal() {
        let terminal = Term::stderr();
        if is_hosted {
            terminal.write_line(&format!(
                "Create an API key at {CONSOLE}, and paste it here."
            ))?;
        }
        terminal.write_str("API key: ")?;
        terminal.read_secure_line()
    } else {
        let mut line = String::new();
        io::Read::take(io::stdin().lock(), MAX_LINE)
            .read_line(&mut line)
            .map(|_| line)
    };
    // The text moves into the credential, which overwrites it.
    let key = Credential::api_key(key.context("cannot read the API key from stdin")?);
    if key.is_blank() {
        let message = "no API key; pass it on stdin, such as `tinkers auth login < key.txt`";
        return Err(Failed::new(ExitCode::Usage, message).into());
    }
    Ok(key)
}

async fn logout(args: &AuthArgs) -> Result<()> {
    let store = store()?;
    let mut stored = store.load()?;
    let Some((id, key)) = stored.remove_default() else {
        bail!("not logged in: there is no stored API key");
    };
    // The local copy is removed first, whether or not the server can be reached.
    store.save(&stored)?;
    output::print_line(format_args!("removed the stored API key {id}"))?;
    if key.kind != StoredKeyKind::Generated {
        output::print_line(match key.base_url {
            None => format!("the key stays valid; revoke it at {CONSOLE}"),
            Some(_) => "the key stays valid on its server".to_owned(),
        })?;
        return Ok(());
    }
    let mut builder = builder(args);
    if let Some(url) = &key.base_url {
        builder = builder.base_url(url);
    }
    let client = builder.credential(key.credential()).rest_client()?;
    let revoked = client.revoke_api_key().await;
    revoked.context("cannot revoke the key on the server; revoke it in the console")?;
    output::print_line("revoked the key on the server")?;
    Ok(())
}

async fn status(args: &AuthArgs) -> Result<()> {
    let client = match builder(args).rest_client() {
        Ok(client) => client,
        Err(error) if error.kind() == ErrorKind::Authentication => {
            output::print_line("Credentials available: no")?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    output::print_line(match client.has_credential() {
        true => "Credentials available: yes",
        false => "Credentials available: no",
    })?;
    let access = client.check_access().await;
    output::print_line(match access {
        Ok(()) => "Tinker accessible: yes",
        Err(_) => "Tinker accessible: no",
    })?;
    access.context("the server is not accessible")
}

async fn whoami(args: &AuthArgs, format: OutputFormat) -> Result<()> {
    let user = builder(args).rest_client()?.whoami().await?;
    if format != OutputFormat::Table {
        let user = serde_json::json!({
            "user_urn": user.user_urn,
            "org_urn": user.org_urn,
            "email": user.email,
        });
        return match format {
            OutputFormat::Csv => manage::print_identity_as_csv(&user),
            OutputFormat::Json | OutputFormat::Table => output::json(&user),
        };
    }
    output::print_line(format_args!(
        "Email: {}",
        user.email.as_deref().unwrap_or("N/A")
    ))?;
    output::print_line(format_args!("User: {}", user.user_urn))?;
    output::print_line(format_args!("Organization: {}", user.org_urn))?;
    Ok(())
}
