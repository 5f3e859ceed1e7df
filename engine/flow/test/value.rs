//! Values in tests: YAML as JSON with its numbers as they are written, and the matchers that stand in for a value. Nothing is compared here.

use crate::body::{Body, Item, Kind, write_string};
use crate::yaml::{Data, Node};

/// What stands in for a value, as the one key of a mapping or as several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matcher {
    /// `$exact`: this value, with nothing more in its objects.
    Exact,
    /// `$where`: an expression over the value that must be true.
    Where,
    /// `$schema`: the value keeps to this schema of the project.
    Schema,
    /// `$matches`: a text that this regular expression matches as a whole.
    Matches,
    /// `$contains`: a text with this in it, or a list with an item like this.
    Contains,
    /// `$file`: exactly the JSON of this file, beside the test.
    File,
    /// `$absent: true`: the field is not there.
    Absent,
    /// `$any: true`: the field is there, whatever it is.
    Any,
}

/// The matchers in the words of the reference.
pub(crate) const MEANINGS: &[(&str, &str)] = &[
    ("$exact", "this value, with nothing more in its objects"),
    (
        "$file",
        "exactly the JSON of this file, beside the test; equal numbers may be written in another way",
    ),
    (
        "$schema",
        "a value that keeps to this schema of the project",
    ),
    (
        "$where",
        "a value of which this JMESPath expression is true",
    ),
    (
        "$matches",
        "a text that this regular expression matches as a whole",
    ),
    (
        "$contains",
        "a text with this in it, or a list with an item like this",
    ),
    (
        "$any",
        "with `true`: any value, as long as the field is there",
    ),
    ("$absent", "with `true`: a field that is not there"),
];

impl Matcher {
    /// All of them, with the key that they are written as.
    pub(crate) const ALL: [(&'static str, Matcher); 8] = [
        ("$exact", Matcher::Exact),
        ("$where", Matcher::Where),
        ("$schema", Matcher::Schema),
        ("$matches", Matcher::Matches),
        ("$contains", Matcher::Contains),
        ("$file", Matcher::File),
        ("$absent", Matcher::Absent),
        ("$any", Matcher::Any),
    ];
}

/// The matcher with this key.
pub(crate) fn matcher_of(key: &str) -> Option<Matcher> {
    let found = Matcher::ALL.iter().find(|(name, _)| *name == key);
    found.map(|(_, matcher)| *matcher)
}

/// A YAML value as JSON. A number stays as it is written, if JSON can write it so.
pub(crate) fn json_of(node: &Node) -> Vec<u8> {
    let mut out = Vec::new();
    write(node, &mut out);
    out
}

fn write(node: &Node, out: &mut Vec<u8>) {
    match &node.data {
        Data::Null => out.extend_from_slice(b"null"),
        Data::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Data::Number(text) if serde_json::from_str::<serde_json::Number>(text).is_ok() => {
            out.extend_from_slice(text.as_bytes());
        }
        Data::Number(_) => out.extend_from_slice(node.to_json().to_string().as_bytes()),
        Data::Text(text) => write_string(out, &text.value),
        Data::List(items) => {
            out.push(b'[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Data::Map(entries) => {
            out.push(b'{');
            for (nth, (key, value)) in entries.iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write_string(out, &key.text);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
    }
}

/// A body as a JSON value for the result of a test: JSON where it is JSON, else its text.
pub(crate) fn of_body(body: &Body) -> serde_json::Value {
    match body.document() {
        Ok(item) => serde_json::from_str(item.json())
            .unwrap_or_else(|_| String::from_utf8_lossy(body.bytes()).into()),
        Err(_) if body.is_empty() => serde_json::Value::Null,
        Err(_) => String::from_utf8_lossy(body.bytes()).into(),
    }
}

/// A document with some of its fields changed: by their path (`customer.code`, `lines[0].sku`), to a value; `{ $absent: true }` leaves a
/// field out. Else why that cannot be.
pub(crate) fn changed(document: &Body, changes: &[(String, &Node)]) -> Result<Vec<u8>, String> {
    let root = document
        .document()
        .map_err(|failure| format!("only JSON can be changed: {}", failure.message))?;
    let mut parsed = Vec::new();
    for (path, node) in changes {
        parsed.push((parts(path)?, *node));
    }
    let mut out = Vec::new();
    let open: Vec<(&[Part], &Node)> = parsed
        .iter()
        .map(|(path, node)| (&path[..], *node))
        .collect();
    put(Some(root), &open, &mut out)?;
    Ok(out)
}

/// The rest of a path, and what is put there.
type Change<'c> = (&'c [Part], &'c Node);

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Field(String),
    Nth(usize),
}

fn parts(path: &str) -> Result<Vec<Part>, String> {
    let wrong = || format!("`{path}` is no path; write it like `customer.code` or `lines[0].sku`");
    let mut parts = Vec::new();
    for piece in path.split('.') {
        let mut pieces = piece.split('[');
        let name = pieces.next().unwrap_or_default();
        if !name.is_empty() {
            parts.push(Part::Field(name.to_owned()));
        } else if !piece.starts_with('[') {
            return Err(wrong());
        }
        for index in pieces {
            let index = index.strip_suffix(']').ok_or_else(wrong)?;
            parts.push(Part::Nth(index.parse().map_err(|_| wrong())?));
        }
    }
    match parts.is_empty() {
        true => Err(wrong()),
        false => Ok(parts),
    }
}

/// Whether a field is to be left out.
fn leaves_out(node: &Node) -> bool {
    node.get("$absent")
        .is_some_and(|node| matches!(node.data, Data::Bool(true)))
}

fn put(
    item: Option<Item<'_>>,
    changes: &[(&[Part], &Node)],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if let Some((_, node)) = changes.iter().find(|(path, _)| path.is_empty()) {
        out.extend(json_of(node));
        return Ok(());
    }
    let Some(first) = changes.first() else {
        out.extend_from_slice(item.map_or(&b"null"[..], |item| item.json_bytes()));
        return Ok(());
    };
    let inside = |part: &Part| -> Vec<(&[Part], &Node)> {
        let through = changes.iter().filter(|(path, _)| path[0] == *part);
        through.map(|(path, node)| (&path[1..], *node)).collect()
    };
    match (&first.0[0], item.map(|item| (item, item.kind()))) {
        (Part::Nth(_), Some((list, Kind::List))) => {
            out.push(b'[');
            for (nth, inner) in list.items().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                put(Some(inner), &inside(&Part::Nth(nth)), out)?;
            }
            out.push(b']');
            let beyond = changes
                .iter()
                .find(|(path, _)| !matches!(path[0], Part::Nth(nth) if nth < list.len()));
            match beyond {
                Some((path, _)) => Err(format!("there is no item {:?}", path[0])),
                None => Ok(()),
            }
        }
        (Part::Field(_), Some((object, Kind::Object))) => {
            fields(Some(object), changes, &inside, out)
        }
        // A field of something that is not there yet.
        (Part::Field(_), None) => fields(None, changes, &inside, out),
        (part, _) => Err(format!("there is no place for {part:?}")),
    }
}

fn fields<'c>(
    object: Option<Item<'_>>,
    changes: &[Change<'c>],
    inside: &dyn Fn(&Part) -> Vec<Change<'c>>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    out.push(b'{');
    let begin = out.len();
    let mut known = Vec::new();
    let one = |name: &str, item: Option<Item<'_>>, out: &mut Vec<u8>| {
        let within = inside(&Part::Field(name.to_owned()));
        let out_of = |(path, node): &(&[Part], &Node)| path.is_empty() && leaves_out(node);
        if within.iter().any(out_of) {
            return Ok(());
        }
        if out.len() > begin {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        put(item, &within, out)
    };
    for (key, inner) in object.iter().flat_map(|object| object.entries()) {
        let name = key.as_str().unwrap_or_default().into_owned();
        one(&name, Some(inner), out)?;
        known.push(name);
    }
    for (path, _) in changes {
        if let Part::Field(name) = &path[0]
            && !known.contains(name)
        {
            one(name, None, out)?;
            known.push(name.clone());
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{File, Findings};
    use crate::yaml;

    #[test]
    fn fields_are_changed_by_path_and_the_rest_stays_as_it_is_written() {
        let file = File::new(
            "x.yaml",
            "a.b: 2\nl[1].q: 1.50\nnew.deep: x\ngone: { $absent: true }\n",
        );
        let node = yaml::parse(&file, &mut Findings::new()).unwrap();
        let changes: Vec<(String, &Node)> = node
            .entries()
            .iter()
            .map(|(key, node)| (key.text.clone(), node))
            .collect();
        let body = Body::new(r#"{"a":{"b":1,"c":1e400},"l":[{"q":9.10},{"q":1}],"gone":1}"#);
        let text = String::from_utf8(changed(&body, &changes).unwrap()).unwrap();
        assert_eq!(
            text,
            r#"{"a":{"b":2,"c":1e400},"l":[{"q":9.10},{"q":1.50}],"new":{"deep":"x"}}"#
        );
        let beyond = [("l[7].q".to_owned(), &node)];
        assert!(changed(&body, &beyond).unwrap_err().contains("no item"));
    }
    #[test]
    fn yaml_is_json_with_its_numbers_as_they_are_written() {
        let file = File::new(
            "x.yaml",
            "{a: 12.50, b: [1e3, 0x10, null, true], c: 'x\"y'}",
        );
        let node = yaml::parse(&file, &mut Findings::new()).unwrap();
        let text = String::from_utf8(json_of(&node)).unwrap();
        assert_eq!(text, r#"{"a":12.50,"b":[1e3,16,null,true],"c":"x\"y"}"#);
    }
}
