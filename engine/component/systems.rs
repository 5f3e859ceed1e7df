//! Systems that parts name, by their kind: reached over HTTP, a database, a message broker. It opens nothing.

use std::sync::Arc;

use super::{Build, codes};
use crate::system::System;
use crate::system::broker::Broker;
use crate::system::database::Database;

/// The kinds of outside systems.
#[derive(Clone, Copy)]
enum Systems {
    Http,
    Sql,
    Amqp,
}

impl Systems {
    fn is(self) -> &'static str {
        match self {
            Systems::Http => "is reached over HTTP",
            Systems::Sql => "is a database",
            Systems::Amqp => "is a message broker",
        }
    }

    fn wants(self) -> &'static str {
        match self {
            Systems::Http => "asks over HTTP",
            Systems::Sql => "writes to a database",
            Systems::Amqp => "needs a message broker",
        }
    }

    fn help(self) -> &'static str {
        match self {
            Systems::Http => {
                "name a system with `http`; the sink `sql` writes to databases, source and sink `amqp` are for brokers"
            }
            Systems::Sql => "name a system with `sql: { url: .. }`",
            Systems::Amqp => "name a system with `amqp: { urls: [..] }`",
        }
    }
}

impl Build<'_> {
    /// The system that is named at a part of the config.
    pub fn system(&mut self, path: &[&str], name: &str) -> Option<Arc<System>> {
        let found = self.library.systems.get(name).cloned();
        self.of_kind(path, name, found, "system", Systems::Http)
    }

    /// The database that is named at a part of the config.
    pub fn database(&mut self, path: &[&str], name: &str) -> Option<Arc<Database>> {
        let found = self.library.databases.get(name).cloned();
        self.of_kind(path, name, found, "database", Systems::Sql)
    }

    /// The message broker that is named at a part of the config.
    pub fn broker(&mut self, path: &[&str], name: &str) -> Option<Arc<Broker>> {
        let found = self.library.brokers.get(name).cloned();
        self.of_kind(path, name, found, "broker", Systems::Amqp)
    }

    /// What was found, or why it is nothing: a system of another kind, or none at all.
    fn of_kind<T>(
        &mut self,
        path: &[&str],
        name: &str,
        found: Option<T>,
        noun: &str,
        wanted: Systems,
    ) -> Option<T> {
        if found.is_some() || self.library.broken.systems.contains(name) {
            return found;
        }
        let library = self.library;
        let names = |kind: Systems| -> Vec<String> {
            match kind {
                Systems::Http => library.systems.keys().cloned().collect(),
                Systems::Sql => library.databases.keys().cloned().collect(),
                Systems::Amqp => library.brokers.keys().cloned().collect(),
            }
        };
        for kind in [Systems::Http, Systems::Sql, Systems::Amqp] {
            if names(kind).iter().any(|known| known == name) {
                let message = format!("`{name}` {}, and this {}", kind.is(), wanted.wants());
                self.error(codes::CONFLICTING_SETTINGS, path, message, wanted.help());
                return None;
            }
        }
        let code = codes::UNKNOWN_SYSTEM;
        self.unknown(code, path, noun, name, &names(wanted), "systems/");
        None
    }
}
