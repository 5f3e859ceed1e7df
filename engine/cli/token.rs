//! `crossdock token`: tokens for the admin API. Made beside the running engine or on its store, shown once, revoked at once.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::office::{Actor, Office};
use super::{GOOD, ProjectArguments, Terminal, reader, table, wait_for, written};
use crate::admin::api::MakeToken;
use crate::admin::rights::Role;
use crate::component::words::Duration;
use crate::failure::Failure;
use crate::store::tokens::TokenRow;
use crate::world::clock::{Clock, SystemClock};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock token create --name dashboard --role viewer
  crossdock token create --name night-shift --role operator --flows 'orders-*' --expires 30d
  crossdock token list
  crossdock token revoke dashboard

A token is shown once, when it is made: keep it where secrets are kept. The store has only its hash.
Roles: viewer, business, operator, engineer, approver, auditor, privacy, admin; see docs/operating/admin-api.md")]
pub(super) struct Token {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Make a token, and show it this once
    Create(Create),
    /// List the tokens, with roles, end and last use
    List(List),
    /// Let a token be valid no longer, on all engines of the store
    Revoke(Revoke),
}

#[derive(Args)]
struct Create {
    /// Its name, for people and for the audit log
    #[arg(id = "token", long = "name", value_name = "NAME")]
    token: String,
    /// What it may do; several with commas
    #[arg(long, value_name = "ROLE", required = true, value_delimiter = ',', value_parser = role)]
    role: Vec<Role>,
    /// Only for these flows: names, with `*` for any letters; several with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    flows: Vec<String>,
    /// For how long it is valid
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = Duration::parse)]
    expires: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    actor: Actor,
}

#[derive(Args)]
struct List {
    /// Print JSON, one token a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

#[derive(Args)]
struct Revoke {
    /// The token's name
    #[arg(id = "token", value_name = "NAME")]
    token: String,
    #[command(flatten)]
    project: ProjectArguments,
    #[command(flatten)]
    actor: Actor,
}

fn role(name: &str) -> Result<Role, String> {
    Role::from_name(name).ok_or_else(|| format!("one of: {}", Role::ALL.map(Role::name).join(", ")))
}

impl Token {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        match &self.act {
            Act::Create(create) => create.run(terminal),
            Act::List(list) => list.run(terminal),
            Act::Revoke(revoke) => revoke.run(terminal),
        }
    }
}

impl Create {
    fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let who = self.actor.name(&self.project.world()?);
        let wish = MakeToken {
            name: self.token.clone(),
            roles: self
                .role
                .iter()
                .map(|role| role.name().to_owned())
                .collect(),
            flows: self.flows.clone(),
            valid_seconds: self.expires.ms / 1_000,
        };
        let made = wait_for(async {
            let mut office = Office::open(&self.project).await?;
            let made = office.make_token(&wish, &who).await;
            office.close().await;
            made
        })?;
        if self.json {
            let shown = serde_json::to_string(&made).unwrap_or_default();
            written(writeln!(terminal.out, "{shown}"))?;
            return Ok(GOOD);
        }
        written(writeln!(terminal.out, "{}", made.token))?;
        writeln!(
            terminal.err,
            "crossdock: token `{}`, valid until {} UTC; it is shown this once",
            made.name,
            table::time(made.expires_at_ms)
        )
        .ok();
        Ok(GOOD)
    }
}

const COLUMNS: [&str; 6] = ["name", "roles", "flows", "state", "ends (UTC)", "last used"];

impl List {
    fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let tokens = wait_for(reader(&self.project)?.tokens())?;
        let now_ms = SystemClock.now_ms();
        if self.json {
            for token in &tokens {
                let shown = json!({
                    "name": token.name, "roles": token.roles, "flows": token.flows, "state": state(token, now_ms),
                    "created_at_ms": token.created_at_ms, "created_by": token.created_by, "expires_at_ms": token.expires_at_ms,
                    "revoked_at_ms": token.revoked_at_ms, "used_at_ms": token.used_at_ms,
                });
                written(writeln!(terminal.out, "{shown}"))?;
            }
            return Ok(GOOD);
        }
        if tokens.is_empty() {
            written(writeln!(terminal.out, "no tokens"))?;
            return Ok(GOOD);
        }
        let rows: Vec<_> = tokens
            .iter()
            .map(|token| {
                vec![
                    token.name.clone(),
                    token.roles.join(","),
                    token.flows.join(","),
                    state(token, now_ms).to_owned(),
                    table::time(token.expires_at_ms),
                    token.used_at_ms.map_or_else(
                        || "never".to_owned(),
                        |at_ms| table::age((now_ms - at_ms).max(0)),
                    ),
                ]
            })
            .collect();
        written(table::columns(&mut terminal.out, &COLUMNS, &rows))?;
        Ok(GOOD)
    }
}

fn state(token: &TokenRow, now_ms: i64) -> &'static str {
    match (token.revoked_at_ms, token.is_valid(now_ms)) {
        (Some(_), _) => "revoked",
        (None, true) => "valid",
        (None, false) => "expired",
    }
}

impl Revoke {
    fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let who = self.actor.name(&self.project.world()?);
        wait_for(async {
            let mut office = Office::open(&self.project).await?;
            let done = office.revoke_token(&self.token, &who).await;
            office.close().await;
            done
        })?;
        written(writeln!(terminal.out, "`{}` is revoked", self.token))?;
        Ok(GOOD)
    }
}
