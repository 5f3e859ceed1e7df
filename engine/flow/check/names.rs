//! Names: what they may look like, and that no two are the same.

use std::collections::BTreeMap;

use super::Cx;
use crate::diagnostic::{Code, Diagnostic, Findings, Place};
use crate::flow::codes;
use crate::yaml::Node;

/// How many characters a name may have.
pub(crate) const LENGTH_MAX: usize = 64;

/// What is wrong with a name of a flow, step, sink or key; nothing if it can be used.
pub(crate) fn fault(name: &str) -> Option<&'static str> {
    let mut characters = name.chars();
    let first = characters.next()?;
    if !first.is_ascii_alphanumeric() {
        return Some("a name begins with a letter or a digit");
    }
    if !characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return Some("a name has letters, digits, `-` and `_` only");
    }
    (name.len() > LENGTH_MAX).then_some("a name has at most 64 characters")
}

/// What is wrong with the name of a variable.
pub(crate) fn variable_fault(name: &str) -> Option<&'static str> {
    let mut characters = name.chars();
    let first = characters.next().unwrap_or('$');
    if first == '$' {
        return Some("write the name without `$`");
    }
    if !(first.is_ascii_alphabetic() || first == '_')
        || !characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Some(
            "a variable has letters, digits and `_` only, and does not begin with a digit",
        );
    }
    (name.len() > LENGTH_MAX).then_some("a name has at most 64 characters")
}

/// A name with its place, if it can be used; else a finding.
pub(crate) fn usable<'n>(cx: &mut Cx<'_>, noun: &str, node: &'n Node) -> Option<&'n str> {
    let name = node.as_text()?;
    if name.is_empty() {
        cx.error(
            codes::BAD_NAME,
            node.span,
            format!("the name of the {noun} is empty"),
            "give it a name",
        );
        return None;
    }
    match fault(name) {
        Some(fault) => {
            let message = format!("`{name}` cannot be the name of a {noun}");
            cx.error(codes::BAD_NAME, node.span, message, fault);
            None
        }
        None => Some(name),
    }
}

/// Finds names that are declared twice: the second place is the finding, the first is related to it.
pub(crate) struct Declared {
    nouns: &'static str,
    code: Code,
    places: BTreeMap<String, Place>,
}

impl Declared {
    /// Nothing declared yet.
    pub(crate) fn new(nouns: &'static str, code: Code) -> Declared {
        Declared {
            nouns,
            code,
            places: BTreeMap::new(),
        }
    }

    /// Declares a name; a second declaration is a finding and gives false.
    pub(crate) fn declare(&mut self, name: &str, place: Place, findings: &mut Findings) -> bool {
        if let Some(first) = self.places.get_mut(name) {
            let mut place = place;
            // A file that has the name of what it declares is in its right.
            if in_its_file(name, &place) && !in_its_file(name, first) {
                std::mem::swap(&mut place, first);
            }
            let (line, _) = first.line_column();
            let message = format!("there are two {} with the name `{name}`", self.nouns);
            let help = format!(
                "rename one of them; the other is in {}:{line}",
                first.file.path
            );
            findings.push(
                Diagnostic::error(self.code, place, message)
                    .help(help)
                    .related(first.clone(), "the first one"),
            );
            return false;
        }
        self.places.insert(name.to_owned(), place);
        true
    }
}

/// Whether the file has the name of what it declares.
fn in_its_file(name: &str, place: &Place) -> bool {
    let file = place.file.path.rsplit('/').next().unwrap_or_default();
    file.rsplit_once('.').is_some_and(|(stem, _)| stem == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["a", "order-booking", "SO_1", "3pl"] {
            assert_eq!(fault(good), None, "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["-a", "a b", "ä", "a/b", "a.b", long.as_str()] {
            assert!(fault(bad).is_some(), "{bad}");
        }
        for bad in ["$a", "1a", "a-b", ""] {
            assert!(variable_fault(bad).is_some(), "{bad}");
        }
        assert_eq!(variable_fault("customer_record"), None);
    }
}
