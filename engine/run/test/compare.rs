//! A value that is expected against one that is there, path by path. It knows no tests.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::str::FromStr as _;

use rust_decimal::Decimal;

use crate::body::{Body, Item, Kind};
use crate::expression::{Expression, Scope, Tables};
use crate::flow::test::TestFile;
use crate::flow::test::value::{Matcher, json_of, matcher_of};
use crate::message::{Message, MessageId};
use crate::schema::Schemas;
use crate::yaml::{Data, Node};

/// How long a value is shown at most, in characters.
const SHOWN_MAX: usize = 160;

/// Something that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// Where in the value: `lines[0].amount`; empty for the whole.
    pub(super) path: String,
    /// What is not so.
    pub(super) words: String,
    /// The line of the file in which it is expected.
    pub(super) line: usize,
}

/// What a comparison may look at.
pub(super) struct Comparing<'a> {
    pub(super) file: &'a TestFile,
    pub(super) schemas: &'a Schemas,
    /// The paths that were looked at, with `[]` for every item of a list.
    pub(super) looked_at: &'a RefCell<BTreeSet<String>>,
}

impl Comparing<'_> {
    /// What of a body is not as expected.
    pub(super) fn body(&self, expected: &Node, body: &Body) -> Vec<Difference> {
        let mut found = Vec::new();
        match body.document() {
            Ok(item) => self.value(expected, item, "", false, &mut found),
            Err(_) => {
                // What is no JSON is a text.
                let mut text = Vec::new();
                crate::body::write_string(&mut text, &String::from_utf8_lossy(body.bytes()));
                let text = Body::new(text);
                if let Ok(item) = text.document() {
                    self.value(expected, item, "", false, &mut found);
                }
            }
        }
        found
    }

    fn value(
        &self,
        expected: &Node,
        item: Item<'_>,
        path: &str,
        exact: bool,
        found: &mut Vec<Difference>,
    ) {
        match &expected.data {
            Data::Map(entries) => {
                let mut plain = Vec::new();
                let mut matched = false;
                for (key, node) in entries {
                    match matcher_of(&key.text).filter(|_| !exact) {
                        Some(matcher) => {
                            matched = true;
                            self.matcher(matcher, node, item, path, found);
                        }
                        None => plain.push((key.text.as_str(), node)),
                    }
                }
                if !matched || !plain.is_empty() {
                    self.object(&plain, expected, item, path, exact, found);
                }
            }
            Data::List(items) => self.list(items, expected, item, path, exact, found),
            _ => {
                self.looked_at.borrow_mut().insert(normal(path));
                if !same(expected, item) {
                    self.differs(expected, path, &shown(&json_text(expected)), item, found);
                }
            }
        }
    }

    fn object(
        &self,
        entries: &[(&str, &Node)],
        expected: &Node,
        item: Item<'_>,
        path: &str,
        exact: bool,
        found: &mut Vec<Difference>,
    ) {
        if item.kind() != Kind::Object {
            return self.differs(expected, path, "an object", item, found);
        }
        for (key, node) in entries {
            let path = joined(path, key);
            let absent = node
                .get("$absent")
                .is_some_and(|node| matches!(node.data, Data::Bool(true)));
            match item.get(key) {
                Some(_) if absent => {
                    self.says(node, &path, "is there, and must not be", found);
                }
                Some(inner) => self.value(node, inner, &path, exact, found),
                None if absent => {}
                None => {
                    self.looked_at.borrow_mut().insert(normal(&path));
                    let words = format!("expected {}, is not there", shown(&json_text(node)));
                    self.says(node, &path, &words, found);
                }
            }
        }
        if !exact {
            return;
        }
        for (key, inner) in item.entries() {
            let key = key.as_str().unwrap_or_default();
            if entries.iter().all(|(known, _)| *known != key) {
                let words = format!("is {}, and not expected", shown(inner.json()));
                self.says(expected, &joined(path, &key), &words, found);
            }
        }
    }

    fn list(
        &self,
        items: &[Node],
        expected: &Node,
        item: Item<'_>,
        path: &str,
        exact: bool,
        found: &mut Vec<Difference>,
    ) {
        if item.kind() != Kind::List {
            return self.differs(expected, path, "a list", item, found);
        }
        if items.len() != item.len() {
            let words = format!("expected {} items, has {}", items.len(), item.len());
            self.says(expected, path, &words, found);
        }
        for (nth, (node, inner)) in items.iter().zip(item.items()).enumerate() {
            self.value(node, inner, &format!("{path}[{nth}]"), exact, found);
        }
    }

    fn matcher(
        &self,
        matcher: Matcher,
        node: &Node,
        item: Item<'_>,
        path: &str,
        found: &mut Vec<Difference>,
    ) {
        let text = node.as_text().unwrap_or_default();
        match matcher {
            Matcher::Exact => {
                self.look_at_all(item, path);
                self.value(node, item, path, true, found);
            }
            Matcher::File => {
                self.look_at_all(item, path);
                self.equals_file(node, text, item, path, found);
            }
            Matcher::Where => {
                let message =
                    Message::new(MessageId::default(), 0, Body::new(item.json().to_owned()));
                let tables = Tables::default();
                let holds = Expression::compile(text).ok().is_some_and(|expression| {
                    Scope::of(&message, &tables)
                        .is_ok_and(|scope| expression.decide(&scope).unwrap_or(false))
                });
                if !holds {
                    let words = format!("`{text}` is not true of {}", shown(item.json()));
                    self.says(node, path, &words, found);
                }
            }
            Matcher::Schema => {
                let Some(schema) = self.schemas.get(text) else {
                    return self.says(node, path, &format!("there is no schema `{text}`"), found);
                };
                for breach in schema.validate(item).err().into_iter().flatten() {
                    self.says(node, path, &format!("breaks {text}: {breach}"), found);
                }
            }
            Matcher::Matches => {
                self.looked_at.borrow_mut().insert(normal(path));
                let whole = regex::Regex::new(&format!("^(?:{text})$"));
                let value = item.as_str();
                let fits =
                    whole.is_ok_and(|whole| value.is_some_and(|value| whole.is_match(&value)));
                if !fits {
                    self.differs(node, path, &format!("a text like `{text}`"), item, found);
                }
            }
            Matcher::Contains => self.contains(node, item, path, found),
            Matcher::Any => {
                self.looked_at.borrow_mut().insert(normal(path));
            }
            Matcher::Absent => {
                if matches!(node.data, Data::Bool(true)) {
                    self.says(node, path, "is there, and must not be", found);
                }
            }
        }
    }

    fn contains(&self, node: &Node, item: Item<'_>, path: &str, found: &mut Vec<Difference>) {
        let there = match item.kind() {
            Kind::List => item.items().any(|inner| {
                let mut inside = Vec::new();
                self.value(node, inner, path, false, &mut inside);
                inside.is_empty()
            }),
            _ => item
                .as_str()
                .zip(node.as_text())
                .is_some_and(|(value, part)| value.contains(part)),
        };
        if !there {
            let words = format!("something with {}", shown(&json_text(node)));
            self.differs(node, path, &words, item, found);
        }
    }

    fn equals_file(
        &self,
        node: &Node,
        name: &str,
        item: Item<'_>,
        path: &str,
        found: &mut Vec<Difference>,
    ) {
        let bytes = match self.file.fixture(name) {
            Ok(bytes) => bytes,
            Err(failure) => return self.says(node, path, &failure.message, found),
        };
        let expected = Body::new(bytes);
        let Ok(expected) = expected.document() else {
            return self.says(node, path, &format!("{name} is no JSON"), found);
        };
        self.equal(node, expected, item, path, found);
    }

    /// Two documents that must be the same; equal numbers may be written in another way.
    pub(super) fn equal(
        &self,
        at: &Node,
        expected: Item<'_>,
        item: Item<'_>,
        path: &str,
        found: &mut Vec<Difference>,
    ) {
        match (expected.kind(), item.kind()) {
            (Kind::Object, Kind::Object) => {
                for (key, inner) in expected.entries() {
                    let key = key.as_str().unwrap_or_default();
                    let path = joined(path, &key);
                    match item.get(&key) {
                        Some(other) => self.equal(at, inner, other, &path, found),
                        None => {
                            let words = format!("expected {}, is not there", shown(inner.json()));
                            self.says(at, &path, &words, found);
                        }
                    }
                }
                for (key, inner) in item.entries() {
                    let key = key.as_str().unwrap_or_default();
                    if expected.get(&key).is_none() {
                        let words = format!("is {}, and not expected", shown(inner.json()));
                        self.says(at, &joined(path, &key), &words, found);
                    }
                }
            }
            (Kind::List, Kind::List) => {
                if expected.len() != item.len() {
                    let words = format!("expected {} items, has {}", expected.len(), item.len());
                    self.says(at, path, &words, found);
                }
                for (nth, (inner, other)) in expected.items().zip(item.items()).enumerate() {
                    self.equal(at, inner, other, &format!("{path}[{nth}]"), found);
                }
            }
            _ if expected.json() == item.json() || same_number(expected, item) => {}
            _ => self.differs(at, path, &shown(expected.json()), item, found),
        }
    }

    /// All that is there is looked at.
    fn look_at_all(&self, item: Item<'_>, path: &str) {
        match item.kind() {
            Kind::Object => {
                for (key, inner) in item.entries() {
                    self.look_at_all(inner, &joined(path, &key.as_str().unwrap_or_default()));
                }
            }
            Kind::List => {
                for inner in item.items() {
                    self.look_at_all(inner, &format!("{path}[]"));
                }
            }
            _ => {
                self.looked_at.borrow_mut().insert(normal(path));
            }
        }
    }

    fn differs(
        &self,
        at: &Node,
        path: &str,
        expected: &str,
        item: Item<'_>,
        found: &mut Vec<Difference>,
    ) {
        let words = format!("expected {expected}, is {}", shown(item.json()));
        self.says(at, path, &words, found);
    }

    fn says(&self, at: &Node, path: &str, words: &str, found: &mut Vec<Difference>) {
        found.push(Difference {
            path: path.to_owned(),
            words: words.to_owned(),
            line: at.place(&self.file.file).line_column().0,
        });
    }
}

/// A difference, as people read it.
pub(super) fn told(difference: &Difference) -> String {
    let path = match difference.path.as_str() {
        "" => "the whole",
        path => path,
    };
    format!("{path}: {} (line {})", difference.words, difference.line)
}

fn joined(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// A path without the numbers of items.
fn normal(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => {
                inside = true;
                normal.push(c);
            }
            ']' => {
                inside = false;
                normal.push(c);
            }
            _ if inside => {}
            _ => normal.push(c),
        }
    }
    normal
}

fn same(expected: &Node, item: Item<'_>) -> bool {
    match &expected.data {
        Data::Null => item.is_null(),
        Data::Bool(value) => item.as_bool() == Some(*value),
        Data::Text(text) => item.as_str().is_some_and(|value| value == text.value),
        Data::Number(_) => {
            let text = json_text(expected);
            item.as_number()
                .is_some_and(|number| number == text || decimals(number, &text))
        }
        Data::List(_) | Data::Map(_) => false,
    }
}

fn same_number(expected: Item<'_>, item: Item<'_>) -> bool {
    expected
        .as_number()
        .zip(item.as_number())
        .is_some_and(|(one, other)| decimals(one, other))
}

/// Whether two numbers are the same, however they are written.
fn decimals(one: &str, other: &str) -> bool {
    let parse = |text: &str| {
        Decimal::from_str(text)
            .or_else(|_| Decimal::from_scientific(text))
            .ok()
    };
    parse(one).is_some_and(|one| Some(one) == parse(other))
}

fn json_text(node: &Node) -> String {
    String::from_utf8_lossy(&json_of(node)).into_owned()
}

fn shown(json: &str) -> String {
    match json.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}.. ({} bytes)", &json[..at], json.len()),
        None => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::diagnostic::{File, Findings};
    use crate::flow::test::Tests;
    use crate::yaml;

    /// What differs between a value in YAML and one in JSON, as `path: words`.
    fn check(expected: &str, json: &str, differences: &[&str]) {
        let file = File::new("x.test.yaml", expected);
        let node = yaml::parse(&file, &mut Findings::new()).unwrap();
        let of = TestFile {
            file,
            node: node.clone(),
            tests: Tests::default(),
            folder: PathBuf::new(),
            sound: true,
        };
        let looked_at = RefCell::default();
        let schemas = Schemas::default();
        let comparing = Comparing {
            file: &of,
            schemas: &schemas,
            looked_at: &looked_at,
        };
        let found = comparing.body(&node, &Body::new(json.to_owned()));
        let found: Vec<String> = found
            .iter()
            .map(|one| format!("{}: {}", one.path, one.words))
            .collect();
        assert_eq!(found, differences, "{expected} against {json}");
    }

    #[test]
    fn objects_are_compared_in_part_and_lists_as_a_whole() {
        check("{a: 1}", r#"{"a": 1, "b": 2}"#, &[]);
        check("{a: {b: x}}", r#"{"a": {"b": "x", "c": 1}}"#, &[]);
        check(
            "{a: 1, c: 2}",
            r#"{"a": 2}"#,
            &["a: expected 1, is 2", "c: expected 2, is not there"],
        );
        check("[1, 2]", "[1]", &[": expected 2 items, has 1"]);
        check(
            "{l: [{q: 1}, {q: 2}]}",
            r#"{"l": [{"q": 1}, {"q": 3}]}"#,
            &["l[1].q: expected 2, is 3"],
        );
        check("plain text", "plain text", &[]);
    }

    #[test]
    fn numbers_are_the_same_however_they_are_written() {
        check("{a: 19.90}", r#"{"a": 19.9}"#, &[]);
        check("{a: 1e2}", r#"{"a": 100}"#, &[]);
        check("{a: '1'}", r#"{"a": 1}"#, &[r#"a: expected "1", is 1"#]);
        check(
            "{a: 0.1}",
            r#"{"a": 0.10000000000000001}"#,
            &["a: expected 0.1, is 0.10000000000000001"],
        );
    }

    #[test]
    fn matchers_stand_in_for_values() {
        check("{a: {$any: true}}", r#"{"a": null}"#, &[]);
        check("{a: {$absent: true}}", "{}", &[]);
        check(
            "{a: {$absent: true}}",
            r#"{"a": 1}"#,
            &["a: is there, and must not be"],
        );
        check("{a: {$matches: 'SO-[0-9]+'}}", r#"{"a": "SO-12"}"#, &[]);
        check(
            "{a: {$matches: 'SO-[0-9]+'}}",
            r#"{"a": "xSO-12"}"#,
            &[r#"a: expected a text like `SO-[0-9]+`, is "xSO-12""#],
        );
        check("{a: {$contains: 'b'}}", r#"{"a": "abc"}"#, &[]);
        check(
            "{a: {$contains: {q: 2}}}",
            r#"{"a": [{"q": 1}, {"q": 2, "z": 1}]}"#,
            &[],
        );
        check("{$where: 'a > `1`', b: 1}", r#"{"a": 2, "b": 1}"#, &[]);
        check(
            "{a: {$where: '@ > `1`'}}",
            r#"{"a": 1}"#,
            &["a: `@ > `1`` is not true of 1"],
        );
        check(
            "{$exact: {a: 1}}",
            r#"{"a": 1, "b": 2}"#,
            &["b: is 2, and not expected"],
        );
    }
}
