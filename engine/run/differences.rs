//! What differs between two documents, field by field. Bytes that are no JSON are compared whole.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::accept::hash;
use crate::body::{Body, Item, Kind};

/// How long a value is shown at most, in characters.
const SHOWN_MAX: usize = 200;

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where: `body.lines[0].quantity`; empty for the whole.
    pub path: String,
    /// What it was, as JSON; `None` if it was not there.
    pub was: Option<String>,
    /// What it would be.
    pub is: Option<String>,
}

/// The fields in which two documents differ, by path. Equal numbers in another writing are a difference: the target may care.
pub fn between(was: &Bytes, is: &Bytes) -> Vec<Difference> {
    if was == is {
        return Vec::new();
    }
    of_fields(&fields(was), &fields(is))
}

/// The same of documents that are fields already.
pub(super) fn of_fields(
    was: &BTreeMap<String, String>,
    is: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    for (path, value) in was {
        if is.get(path) != Some(value) {
            found.push(Difference {
                path: path.clone(),
                was: Some(shown(value)),
                is: is.get(path).map(|value| shown(value)),
            });
        }
    }
    for (path, value) in is {
        if !was.contains_key(path) {
            found.push(Difference {
                path: path.clone(),
                was: None,
                is: Some(shown(value)),
            });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Every leaf of a document, by its path, as JSON.
pub(super) fn fields(bytes: &Bytes) -> BTreeMap<String, String> {
    let body = Body::new(bytes.clone());
    let mut found = BTreeMap::new();
    match body.document() {
        Ok(item) => collect(item, String::new(), &mut found),
        Err(_) => {
            found.insert(String::new(), text_of(bytes));
        }
    }
    found
}

fn collect(item: Item<'_>, path: String, found: &mut BTreeMap<String, String>) {
    match item.kind() {
        Kind::Object if !item.is_empty() => {
            for (key, inner) in item.entries() {
                let key = key.as_str().unwrap_or_default();
                let key = named(&key);
                let path = match path.is_empty() {
                    true => key.into_owned(),
                    false => format!("{path}.{key}"),
                };
                collect(inner, path, found);
            }
        }
        Kind::List if !item.is_empty() => {
            for (nth, inner) in item.items().enumerate() {
                collect(inner, format!("{path}[{nth}]"), found);
            }
        }
        _ => {
            found.insert(path, item.json().to_owned());
        }
    }
}

/// A key in a path. One that a path could not be read back from is quoted, so that different fields have different paths.
pub(super) fn named(key: &str) -> Cow<'_, str> {
    match key.is_empty() || key.contains(['.', '[', ']', '"']) {
        true => Cow::Owned(json!(key).to_string()),
        false => Cow::Borrowed(key),
    }
}

/// Bytes that are no JSON. What is no text looks alike when it is shown: a hash tells it apart.
fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hash = u128::from_be_bytes(hash(bytes));
            let text = String::from_utf8_lossy(bytes);
            format!("({} bytes, hash {hash:032x}) {text}", bytes.len())
        }
    }
}

/// A value as it is shown: not all of a long one.
fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}..({} bytes)", &value[..at], value.len()),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(was: &str, is: &str, expect: &[(&str, &str, &str)]) {
        let found = between(
            &Bytes::copy_from_slice(was.as_bytes()),
            &Bytes::copy_from_slice(is.as_bytes()),
        );
        let found: Vec<_> = found
            .iter()
            .map(|one| {
                let text = |value: &Option<String>| value.clone().unwrap_or("-".to_owned());
                (one.path.clone(), text(&one.was), text(&one.is))
            })
            .collect();
        let expect: Vec<_> = expect
            .iter()
            .map(|(path, was, is)| (path.to_string(), was.to_string(), is.to_string()))
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn differences_are_fields() {
        check(r#"{"a":1}"#, r#"{"a":1}"#, &[]);
        check(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, &[]);
        check(
            r#"{"a":19.90,"l":[{"q":1},{"q":2}],"x":null}"#,
            r#"{"a":19.9,"l":[{"q":1}],"y":"z"}"#,
            &[
                ("a", "19.90", "19.9"),
                ("l[1].q", "2", "-"),
                ("x", "null", "-"),
                ("y", "-", "\"z\""),
            ],
        );
        check("a,b", "a,c", &[("", "a,b", "a,c")]);
    }

    #[test]
    fn different_fields_have_different_paths() {
        check(
            r#"{"a.b":1,"":{"c[0]":1}}"#,
            r#"{"a":{"b":1},"c":[1]}"#,
            &[
                (r#"""."c[0]""#, "1", "-"),
                (r#""a.b""#, "1", "-"),
                ("a.b", "-", "1"),
                ("c[0]", "-", "1"),
            ],
        );
    }

    #[test]
    fn bytes_that_are_no_text_differ_though_they_look_alike() {
        let found = between(&Bytes::from_static(b"a\xff"), &Bytes::from_static(b"a\xfe"));
        assert_eq!(found.len(), 1);
        let was = found[0].was.as_deref().unwrap();
        assert!(was.starts_with("(2 bytes, hash "), "{was}");
        assert_ne!(found[0].was, found[0].is);
    }

    #[test]
    fn long_values_that_differ_behind_what_is_shown_differ() {
        let long = |end: &str| format!(r#"{{"note":"{}{end}"}}"#, "x".repeat(300));
        let (was, is) = (Bytes::from(long("a")), Bytes::from(long("b")));
        let found = between(&was, &is);
        assert_eq!(found.len(), 1);
        assert!(found[0].was.as_deref().unwrap().ends_with("..(303 bytes)"));
    }
}
