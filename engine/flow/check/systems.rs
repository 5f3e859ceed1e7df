//! Systems: each file becomes a system that flows can name.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::Source;
use super::words::Words;
use crate::diagnostic::{Findings, Span};
use crate::expression::Tables;
use crate::system::System;

/// A system's file, read.
pub(crate) struct Read {
    /// The system, if it is sound.
    pub(crate) system: Option<System>,
    /// The places of secrets.
    pub(crate) secrets: Vec<Span>,
}

/// Reads a system.
pub(crate) fn read(source: &Source, findings: &mut Findings) -> Read {
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
    let system = System::parse(&source.file, &source.node, &words, &mut found);
    for finding in found.iter() {
        if !source.missing.contains(&finding.place.span) {
            findings.push(finding.clone());
        }
    }
    Read {
        system: system.filter(|_| source.missing.is_empty()),
        secrets: secrets.into_inner(),
    }
}
