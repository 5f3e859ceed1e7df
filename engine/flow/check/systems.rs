//! Systems: each file becomes a system that flows can name.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use super::Source;
use super::words::Words;
use crate::diagnostic::{Findings, Span};
use crate::expression::Tables;
use crate::system::System;
use crate::system::broker::Broker;
use crate::system::database::Database;

/// A system's file, read.
pub(crate) struct Read {
    /// The system, if it is sound and reached over HTTP.
    pub(crate) system: Option<System>,
    /// The system, if it is sound and a database.
    pub(crate) database: Option<Database>,
    /// The system, if it is sound and a message broker.
    pub(crate) broker: Option<Broker>,
    /// The places of secrets.
    pub(crate) secrets: Vec<Span>,
}

/// Reads a system.
pub(crate) fn read(source: &Source, root: &Path, findings: &mut Findings) -> Read {
    let secrets = RefCell::new(Vec::new());
    let (keys, tables) = (BTreeSet::new(), Tables::default());
    let words = Words {
        variables: None,
        keys: &keys,
        tables: &tables,
        missing: &source.missing,
        secrets: &secrets,
    };
    let mut found = Findings::new();
    let (file, node) = (&source.file, &source.node);
    let (mut system, mut database, mut broker) = (None, None, None);
    if node.get("sql").is_some() {
        database = Database::parse(file, node, root, &words, &mut found);
    } else if node.get("amqp").is_some() {
        broker = Broker::parse(file, node, &words, &mut found);
    } else {
        system = System::parse(file, node, &words, &mut found);
    }
    for finding in found.iter() {
        if !source.missing.contains(&finding.place.span) {
            findings.push(finding.clone());
        }
    }
    Read {
        system: system.filter(|_| source.missing.is_empty()),
        database: database.filter(|_| source.missing.is_empty()),
        broker: broker.filter(|_| source.missing.is_empty()),
        secrets: secrets.into_inner(),
    }
}
