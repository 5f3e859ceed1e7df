//! Sinks: where messages go. The contract and the registry.

use std::sync::Arc;

use crate::component::{Append, Effect, components};
use crate::failure::Failure;
use crate::message::Message;
use crate::world::Pending;

pub mod amqp;
pub mod discard;
pub mod file;
pub mod flow;
pub mod http;
pub mod sql;
pub mod stdout;

/// A sink, ready to run.
pub enum Ready {
    /// Another flow: a hand-off in the same commit.
    Flow(Arc<str>),
    /// Nowhere: counted as delivered.
    Discard,
    /// The outside, one message at a time, with intent and result.
    Effect(Arc<dyn Effect>),
    /// Files that grow.
    Append(Arc<dyn Append>),
    /// A stream of text that nobody can ask again: written before the commit, at least once.
    Stream(Arc<dyn Stream>),
}

/// A sink without memory, such as standard output.
pub trait Stream: Send + Sync {
    /// Writes these messages, in order.
    fn write<'a>(&'a self, messages: &'a [Message]) -> Pending<'a, Result<(), Failure>>;
}

components! {
    /// The kinds of sinks.
    SinkKind -> Ready {
        http: http::Http,
        amqp: amqp::Amqp,
        sql: sql::Sql,
        file: file::File,
        flow: flow::Flow,
        stdout: stdout::Stdout,
        discard: discard::Discard,
    }
}
