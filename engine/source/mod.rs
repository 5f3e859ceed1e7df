//! Sources: where messages come from. The contract and the registry; they do not know flows.

use std::sync::Arc;

use crate::component::{Source, components};

pub mod amqp;
pub mod api;
mod away;
pub mod clients;
pub mod file;
pub mod flow;
pub mod generate;
mod literal;
mod offer;
pub mod poll;
pub mod schedule;
pub mod stdin;
pub mod verify;
pub mod webhook;

#[cfg(test)]
#[path = "../../tests/support/fake.rs"]
pub mod fake;

/// A source, ready to run.
pub enum Ready {
    /// Runs by itself and brings messages in.
    Runs(Arc<dyn Source>),
    /// Waits for what other flows hand over.
    Flow,
}

components! {
    /// The kinds of sources.
    SourceKind -> Ready {
        webhook: webhook::Webhook,
        api: api::Api,
        file: file::Folder,
        amqp: amqp::Amqp,
        poll: poll::Poll,
        schedule: schedule::Schedule,
        stdin: stdin::Stdin,
        generate: generate::Generate,
        flow: flow::Flow,
    }
}

/// The codes of findings that only sources make.
pub mod codes {
    use crate::diagnostic::Code;

    /// Anybody may post to a webhook.
    pub const UNVERIFIED_WEBHOOK: Code = Code {
        name: "unverified-webhook",
        meaning: "A webhook does not say how its sender is verified: anybody who finds the path can post to it.",
    };

    /// An API names a client that there is not.
    pub const UNKNOWN_CLIENT: Code = Code {
        name: "unknown-client",
        meaning: "An API names a client that is not one of `apis.clients` in `crossdock.yaml`.",
    };
    /// An API takes anything.
    pub const API_WITHOUT_CONTRACT: Code = Code {
        name: "api-without-contract",
        meaning: "An API does not say with `accepts` which bodies it takes, so that no caller can know.",
    };

    /// All of them, for the reference.
    pub const ALL: &[Code] = &[UNVERIFIED_WEBHOOK, UNKNOWN_CLIENT, API_WITHOUT_CONTRACT];
}
