//! How expressions ask the scope: variables, headers, keys, tables. Nothing here reads a clock or a file.

use std::borrow::Cow;

use super::Value;
use super::{Fault, FaultKind, Scope, Tables};
use crate::diagnostic::closest;
use crate::message::Message;

impl<'a> Scope<'a> {
    pub(crate) fn variable(&self, name: &str) -> Result<Value<'a>, Fault> {
        if let Some((_, value)) = self.bindings.iter().rev().find(|(known, _)| known == name) {
            return Ok(value.clone());
        }
        let bodies = self.message.map(|message| &*message.variables);
        if let Some(body) = bodies.and_then(|bodies| bodies.get(name)) {
            return match body.document() {
                Ok(item) => Ok(Value::Item(item)),
                Err(failure) => Err(Fault::new(
                    FaultKind::InvalidValue,
                    format!("the variable ${name} holds no JSON: {}", failure.message),
                )),
            };
        }
        let known = self.bindings.iter().map(|(known, _)| known.as_ref());
        let outer = bodies.into_iter().flat_map(|bodies| bodies.keys());
        let near = closest(name, known.chain(outer.map(|known| known.as_ref())));
        let help = match near {
            Some(near) => format!("did you mean ${near}?"),
            None => format!(
                "bind it with let ${name} = .. in .., or with into: {name} in a step before"
            ),
        };
        Err(Fault::new(
            FaultKind::UndefinedVariable,
            format!("nothing has bound the variable ${name}"),
        )
        .with_help(help))
    }

    pub(crate) fn message(&self, function: &str) -> Result<&'a Message, Fault> {
        self.message.ok_or_else(|| {
            Fault::new(
                FaultKind::InvalidValue,
                format!("{function}() needs a message, and there is none here"),
            )
        })
    }

    pub(crate) fn tables(&self) -> &'a Tables {
        self.tables
    }

    pub(crate) fn site(&self) -> &str {
        &self.site
    }

    pub(crate) fn set_site(&mut self, site: Cow<'a, str>) {
        self.site = site;
    }
}
