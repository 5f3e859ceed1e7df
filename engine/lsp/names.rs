//! Which values of a project file are names, and of what. It knows the places, not what is declared.

use super::cursor::Part;
use super::keys::Kind;
use crate::flow::workspace::Noun;

/// What a value names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Something that a file of the project declares.
    Declared(Noun),
    /// A sink of the same flow.
    Sink,
    /// A key of the same flow.
    Key,
}

/// What the value at the end of this way names.
pub(super) fn at(kind: Kind, path: &[Part]) -> Option<Names> {
    let keys: Vec<&str> = path
        .iter()
        .filter_map(|part| match part {
            Part::Key(key) => Some(key.as_str()),
            Part::Item(_) => None,
        })
        .collect();
    let (last, before) = keys.split_last()?;
    let parent = before.last().copied();
    match kind {
        Kind::Mapping => (before.is_empty() && matches!(*last, "from" | "to"))
            .then_some(Names::Declared(Noun::Schema)),
        Kind::Flow | Kind::Fragment => in_flow(&keys, last, parent),
        Kind::Test => in_test(&keys, last, parent),
        Kind::System | Kind::Project => None,
    }
}

fn in_test(keys: &[&str], last: &str, parent: Option<&str>) -> Option<Names> {
    let noun = match (last, parent) {
        ("$schema", _) => Noun::Schema,
        // What comes in and what is answered can have any fields.
        _ if keys[..keys.len() - 1]
            .iter()
            .any(|key| matches!(*key, "body" | "change" | "headers")) =>
        {
            return None;
        }
        ("flow" | "with", None | Some("tests")) => Noun::Flow,
        ("flow", Some("exceptions" | "runs")) | ("to", Some("send")) => Noun::Flow,
        _ => return None,
    };
    Some(Names::Declared(noun))
}

fn in_flow(keys: &[&str], last: &str, parent: Option<&str>) -> Option<Names> {
    let within = |key: &str| keys[..keys.len() - 1].contains(&key);
    let noun = match last {
        // A variable or a header can have any name.
        _ if within("set") || within("headers") || within("with") => return None,
        "accepts" | "validate" | "answer" | "schema" => Noun::Schema,
        "map" => Noun::Mapping,
        "system" => Noun::System,
        "use" => Noun::Fragment,
        "table" => Noun::Table,
        "emit" => Noun::Flow,
        "flow" if parent.is_some() => Noun::Flow,
        "from" if parent == Some("await") => Noun::Flow,
        "to" | "otherwise" if within("routes") || within("on_failure") => return Some(Names::Sink),
        "order_by" => return Some(Names::Key),
        "key" if matches!(parent, Some("once" | "order_by")) => return Some(Names::Key),
        _ => return None,
    };
    Some(Names::Declared(noun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_names_are_known_by_their_place() {
        let check = |kind, path: &str, expect: Option<Names>| {
            let parts: Vec<Part> = path
                .split('/')
                .map(|part| match part.parse() {
                    Ok(at) => Part::Item(at),
                    Err(_) => Part::Key(part.to_owned()),
                })
                .collect();
            assert_eq!(at(kind, &parts), expect, "{path}");
        };
        let declared = |noun| Some(Names::Declared(noun));
        check(Kind::Flow, "accepts", declared(Noun::Schema));
        check(Kind::Flow, "steps/0/map", declared(Noun::Mapping));
        check(Kind::Flow, "steps/0/call/system", declared(Noun::System));
        check(Kind::Flow, "sinks/a/flow", declared(Noun::Flow));
        check(Kind::Flow, "flow", None);
        check(Kind::Flow, "routes/first/0/to/1", Some(Names::Sink));
        check(Kind::Flow, "once/key", Some(Names::Key));
        check(Kind::Flow, "steps/0/set/map", None);
        check(Kind::Mapping, "to", declared(Noun::Schema));
        check(Kind::Mapping, "fields/to", None);
        check(Kind::Test, "flow", declared(Noun::Flow));
        check(Kind::Test, "tests/0/with/1", declared(Noun::Flow));
        check(Kind::Test, "tests/0/send/0/to", declared(Noun::Flow));
        check(Kind::Test, "tests/0/send/0/body/to", None);
    }
}
