//! Revisions: a hash of what a flow's behaviour depends on, and of nothing else. Comments, layout and secrets change nothing.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::diagnostic::Span;
use crate::yaml::{Data, Node};

/// The hash of something, as bytes.
pub(crate) type Hash = [u8; 32];

/// How many hexadecimal digits of a hash name a revision.
const DIGITS: usize = 32;

/// The hash of a tree, without the values at these places.
pub(crate) fn of_tree(node: &Node, secrets: &[Span]) -> Hash {
    let mut hash = Sha256::new();
    write(&mut hash, node, secrets);
    hash.finalize().into()
}

/// The hash of bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The hash of parts with these names and hashes.
pub(crate) fn hash_of(parts: &BTreeMap<String, Hash>) -> Hash {
    let mut hash = Sha256::new();
    for (name, part) in parts {
        text(&mut hash, b'n', name);
        hash.update(part);
    }
    hash.finalize().into()
}

/// The revision that parts with these names and hashes make.
pub(crate) fn of_parts(parts: &BTreeMap<String, Hash>) -> String {
    hash_of(parts)
        .iter()
        .take(DIGITS / 2)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Visits every text in a tree.
pub(crate) fn texts<'n>(node: &'n Node, visit: &mut dyn FnMut(&'n str)) {
    match &node.data {
        Data::Text(text) => visit(&text.value),
        Data::List(items) => items.iter().for_each(|item| texts(item, visit)),
        Data::Map(entries) => entries.iter().for_each(|(_, value)| texts(value, visit)),
        Data::Null | Data::Bool(_) | Data::Number(_) => {}
    }
}

fn write(hash: &mut Sha256, node: &Node, secrets: &[Span]) {
    if secrets.contains(&node.span) {
        return hash.update(b"s");
    }
    match &node.data {
        Data::Null => hash.update(b"0"),
        Data::Bool(value) => hash.update(if *value { b"t" } else { b"f" }),
        Data::Number(number) => text(hash, b'#', number),
        Data::Text(value) => text(hash, b'"', &value.value),
        Data::List(items) => {
            length(hash, b'[', items.len());
            items.iter().for_each(|item| write(hash, item, secrets));
        }
        Data::Map(entries) => {
            length(hash, b'{', entries.len());
            for (key, value) in entries {
                text(hash, b':', &key.text);
                write(hash, value, secrets);
            }
        }
    }
}

fn text(hash: &mut Sha256, mark: u8, text: &str) {
    length(hash, mark, text.len());
    hash.update(text.as_bytes());
}

fn length(hash: &mut Sha256, mark: u8, length: usize) {
    hash.update([mark]);
    hash.update((length as u64).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{File, Findings};

    fn hash(text: &str, secret: Option<&str>) -> Hash {
        let file = File::new("a.yaml", text);
        let node = crate::yaml::parse(&file, &mut Findings::new()).unwrap();
        let secrets: Vec<Span> = secret
            .map(|key| node.get(key).unwrap().span)
            .into_iter()
            .collect();
        of_tree(&node, &secrets)
    }

    #[test]
    fn comments_and_layout_change_nothing_and_values_do() {
        assert_eq!(
            hash("a: 1 # x\nb: [c]\n", None),
            hash("a:   1\nb:\n  - c\n", None)
        );
        assert_ne!(hash("a: 1\n", None), hash("a: '1'\n", None));
        assert_ne!(hash("a: [b, c]\n", None), hash("a: [bc]\n", None));
        assert_eq!(
            hash("a: x\ns: one\n", Some("s")),
            hash("a: x\ns: two\n", Some("s"))
        );
    }
}
