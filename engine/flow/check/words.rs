//! The small words within configs: durations, sizes, rates, expressions, templates, secrets. Each is checked where its schema says so,
//! also in entries that are broken elsewhere.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::component::codes as part_codes;
use crate::component::words::{Duration, Percent, Rate, Size};
use crate::diagnostic::{Diagnostic, File, Findings, Place, Span};
use crate::expression::Tables;
use crate::flow::codes;
use crate::template::Template;
use crate::yaml::shape::Formats;
use crate::yaml::{Data, Node, Style};

/// Checks words by the `format` of their schema.
pub(crate) struct Words<'a> {
    /// What `$name` may be; `None` if nobody knows here.
    pub(crate) variables: Option<&'a BTreeSet<String>>,
    /// What `key('..')` may be.
    pub(crate) keys: &'a BTreeSet<String>,
    /// The tables.
    pub(crate) tables: &'a Tables,
    /// Values whose variable is missing: they are told already.
    pub(crate) missing: &'a [Span],
    /// Takes the places of secrets.
    pub(crate) secrets: &'a RefCell<Vec<Span>>,
}

impl Formats for Words<'_> {
    fn check(&self, format: &str, node: &Node, file: &Arc<File>, findings: &mut Findings) {
        let Data::Text(text) = &node.data else { return };
        if format == "secret" {
            self.secrets.borrow_mut().push(node.span);
        }
        if self.missing.contains(&node.span) {
            return;
        }
        let value = text.value.as_str();
        let wrong = match format {
            "duration-text" => Duration::parse(value).err(),
            "size" => Size::parse(value).err(),
            "rate" => Rate::parse(value).err(),
            "percent" => Percent::parse(value).err(),
            "secret" => return secret(node, text.style, file, findings),
            "jmespath" => return self.expression(node, value, file, findings),
            "template" => return template(node, value, file, findings),
            _ => None,
        };
        if let Some(wrong) = wrong {
            // What stands before the semicolon is what is wrong, what stands behind it is what to do.
            let (message, help) = wrong.split_once("; ").unwrap_or((&wrong, ""));
            findings.push(
                Diagnostic::error(part_codes::BAD_VALUE, node.place(file), message).help(help),
            );
        }
    }
}

impl Words<'_> {
    fn expression(&self, node: &Node, text: &str, file: &Arc<File>, findings: &mut Findings) {
        let place = |start, end| Place {
            file: file.clone(),
            span: node.span_within(file, start, end),
        };
        let nothing = BTreeSet::new();
        let variables = self.variables.unwrap_or(&nothing);
        let (_, found) = part_codes::expression(text, &place, variables, self.keys, self.tables);
        for finding in found {
            let unknown = finding.code == crate::expression::codes::UNKNOWN_VARIABLE;
            if !unknown || self.variables.is_some() {
                findings.push(finding);
            }
        }
    }
}

fn secret(node: &Node, style: Style, file: &Arc<File>, findings: &mut Findings) {
    if style == Style::Variable {
        return;
    }
    let message = "a secret stands here in the open";
    let help = "write `${env:NAME}` or `${file:/run/secrets/name}` and keep the secret outside of the project";
    findings.push(Diagnostic::error(codes::LITERAL_SECRET, node.place(file), message).help(help));
}

fn template(node: &Node, text: &str, file: &Arc<File>, findings: &mut Findings) {
    if let Err(fault) = Template::compile(text) {
        findings.push(part_codes::template(&fault, node, file));
    }
}
