//! Checks a YAML tree against the JSON Schema of a config type: every mistake at its place, in words. Not a general validator; that is
//! `schema`, which knows no places.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Data, Key, Node};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span, closest};

mod choice;
mod scalar;

/// The kinds of mistakes of shape.
pub mod codes {
    use crate::diagnostic::Code;

    /// A field that does not exist.
    pub const UNKNOWN_FIELD: Code = Code {
        name: "unknown-field",
        meaning: "A field does not exist at this place",
    };
    /// A field that must be there and is not.
    pub const MISSING_FIELD: Code = Code {
        name: "missing-field",
        meaning: "A field that is required is missing",
    };
    /// A text where a number is expected, and the like.
    pub const WRONG_TYPE: Code = Code {
        name: "wrong-type",
        meaning: "A value is of another type than the field expects",
    };
    /// A word that is not in a closed list.
    pub const UNKNOWN_VALUE: Code = Code {
        name: "unknown-value",
        meaning: "A word is not one of those that the field knows",
    };
    /// A value out of its bounds.
    pub const BAD_VALUE: Code = Code {
        name: "bad-value",
        meaning: "A value breaks a rule of its field: a range, a length or a form",
    };

    /// All of them, for the reference.
    pub const ALL: &[Code] = &[
        UNKNOWN_FIELD,
        MISSING_FIELD,
        WRONG_TYPE,
        UNKNOWN_VALUE,
        BAD_VALUE,
    ];
}

/// Checks values whose schema names a `format`, such as `duration` or `expression`.
pub trait Formats {
    /// Called once for each value of the right type whose schema has a format; adds what is wrong with it.
    fn check(&self, format: &str, node: &Node, file: &Arc<File>, findings: &mut Findings);
}

/// Knows no format.
struct NoFormats;

impl Formats for NoFormats {
    fn check(&self, _: &str, _: &Node, _: &Arc<File>, _: &mut Findings) {}
}

/// Checks a tree against a schema as schemars makes it; formats are not looked at.
pub fn check(schema: &Value, node: &Node, file: &Arc<File>, findings: &mut Findings) {
    check_with(schema, node, file, &NoFormats, findings);
}

/// Checks a tree against a schema as schemars makes it, and its formats with `formats`.
pub fn check_with(
    schema: &Value,
    node: &Node,
    file: &Arc<File>,
    formats: &dyn Formats,
    findings: &mut Findings,
) {
    let shape = Shape {
        root: schema,
        file,
        formats,
    };
    let first = node.entries().first().map(|(key, _)| key.span);
    let at = first.unwrap_or(Span::new(node.span.start, node.span.start));
    shape.check(schema, node, at, findings);
}

#[derive(Clone, Copy)]
struct Shape<'a> {
    root: &'a Value,
    file: &'a Arc<File>,
    formats: &'a dyn Formats,
}

impl<'a> Shape<'a> {
    /// Checks one value. `owner` is the place to name where the value has none of its own: its key.
    fn check(&self, schema: &'a Value, node: &Node, owner: Span, findings: &mut Findings) {
        let schema = match schema {
            Value::Object(schema) => schema,
            Value::Bool(false) => {
                let message = "nothing may stand here".to_owned();
                return self.error(
                    codes::BAD_VALUE,
                    node.span,
                    message,
                    String::new(),
                    findings,
                );
            }
            _ => return,
        };
        if let Some(named) = self.named(schema) {
            self.check(named, node, owner, findings);
        }
        if !self.of_type(schema, node, owner, findings) {
            return;
        }
        self.value(schema, node, findings);
        match &node.data {
            Data::Map(entries) => self.mapping(schema, entries, owner, findings),
            Data::List(items) => self.list(schema, node, items, findings),
            Data::Text(_) | Data::Number(_) => self.scalar(schema, node, findings),
            Data::Null | Data::Bool(_) => {}
        }
        for all in branches(schema, "allOf") {
            self.check(all, node, owner, findings);
        }
        for word in ["oneOf", "anyOf"] {
            let branches = branches(schema, word);
            if !branches.is_empty() {
                self.choose(schema, branches, node, owner, findings);
            }
        }
        if let Some(format) = schema.get("format").and_then(Value::as_str) {
            self.formats.check(format, node, self.file, findings);
        }
    }

    /// The schema that `$ref` names.
    fn named(&self, schema: &Map<String, Value>) -> Option<&'a Value> {
        let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
        self.root.pointer(pointer)
    }

    /// The schema itself, or the one that it refers to.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..16 {
            match schema.as_object().and_then(|object| self.named(object)) {
                Some(named) => schema = named,
                None => break,
            }
        }
        schema
    }

    fn of_type(
        &self,
        schema: &Map<String, Value>,
        node: &Node,
        owner: Span,
        findings: &mut Findings,
    ) -> bool {
        let Some(types) = schema.get("type") else {
            return true;
        };
        let types: Vec<&str> = match types {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        if types.iter().any(|name| scalar::is(node, name)) {
            return true;
        }
        self.wrong_type(schema, &types, node, owner, findings);
        false
    }

    fn wrong_type(
        &self,
        schema: &Map<String, Value>,
        types: &[&str],
        node: &Node,
        owner: Span,
        findings: &mut Findings,
    ) {
        let expected: Vec<&str> = types
            .iter()
            .filter(|name| **name != "null" || types.len() == 1)
            .map(|name| scalar::type_in_words(name))
            .collect();
        let message = format!(
            "expected {}, found {}",
            expected.join(" or "),
            scalar::in_words(node)
        );
        let help = scalar::type_help(types, node).unwrap_or_else(|| description(schema));
        let span = self.place_of(node, owner);
        self.error(codes::WRONG_TYPE, span, message, help, findings);
    }

    /// The place of a value; of nothing, the key that it belongs to.
    fn place_of(&self, node: &Node, owner: Span) -> Span {
        match node.data {
            Data::Null if node.span.start == node.span.end => owner,
            // A long value is named by its first line.
            Data::Map(_) | Data::List(_) => {
                let text = &self.file.text[node.span.start..node.span.end];
                let line = text.lines().next().map_or(0, str::len);
                Span::new(node.span.start, node.span.start + line)
            }
            _ => node.span,
        }
    }

    fn mapping(
        &self,
        schema: &'a Map<String, Value>,
        entries: &[(Key, Node)],
        owner: Span,
        findings: &mut Findings,
    ) {
        let empty = Map::new();
        let fields = schema
            .get("properties")
            .and_then(Value::as_object)
            .map(|fields| fields as &'a Map<String, Value>);
        let others = schema.get("additionalProperties");
        let mut names: Vec<&str> = fields.map_or(Vec::new(), |fields| {
            fields.keys().map(String::as_str).collect()
        });
        let closed = others == Some(&Value::Bool(false))
            || schema.get("unevaluatedProperties") == Some(&Value::Bool(false));
        if closed && others.is_none() {
            self.names_of_branches(schema, &mut names);
        }
        let mut meant: Vec<&str> = Vec::new();
        for (key, node) in entries {
            if let Some(field) = fields.and_then(|fields| fields.get(&key.text)) {
                self.check(field, node, key.span, findings);
            } else if closed && !names.contains(&key.text.as_str()) {
                let free = names
                    .iter()
                    .copied()
                    .filter(|name| entries.iter().all(|(key, _)| key.text != *name));
                let near = closest(&key.text, free);
                meant.extend(near);
                self.unknown_field(key, &names, near, findings);
            } else if let Some(others) = others {
                self.check(others, node, key.span, findings);
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            let given = entries.iter().any(|(key, _)| key.text == name);
            if !given && !meant.contains(&name) {
                let field = fields.unwrap_or(&empty).get(name);
                self.missing_field(name, field, owner, findings);
            }
        }
        self.count(
            schema,
            entries.len(),
            owner,
            ("minProperties", "maxProperties"),
            "entries",
            findings,
        );
    }

    /// Adds the fields that `oneOf`, `anyOf` and `allOf` know, for `unevaluatedProperties`.
    fn names_of_branches(&self, schema: &'a Map<String, Value>, names: &mut Vec<&'a str>) {
        for word in ["oneOf", "anyOf", "allOf"] {
            for branch in branches(schema, word) {
                let Some(branch) = self.resolved(branch).as_object() else {
                    continue;
                };
                let fields = branch.get("properties").and_then(Value::as_object);
                names.extend(fields.into_iter().flat_map(Map::keys).map(String::as_str));
                self.names_of_branches(branch, names);
            }
        }
    }

    fn unknown_field(
        &self,
        key: &Key,
        names: &[&str],
        near: Option<&str>,
        findings: &mut Findings,
    ) {
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "no field may stand here".to_owned(),
            None => format!("the fields here are: {}", listed(names)),
        };
        let message = format!("unknown field `{}`", cut(&key.text));
        self.error(codes::UNKNOWN_FIELD, key.span, message, help, findings);
    }

    fn missing_field(
        &self,
        name: &str,
        field: Option<&'a Value>,
        owner: Span,
        findings: &mut Findings,
    ) {
        let words = field
            .and_then(|field| {
                [field, self.resolved(field)]
                    .into_iter()
                    .filter_map(Value::as_object)
                    .map(description)
                    .find(|words| !words.is_empty())
            })
            .unwrap_or_default();
        let help = if words.is_empty() {
            format!("add `{name}`")
        } else {
            format!("add `{name}`: {words}")
        };
        let message = format!("the field `{name}` is missing");
        self.error(codes::MISSING_FIELD, owner, message, help, findings);
    }

    fn list(
        &self,
        schema: &'a Map<String, Value>,
        node: &Node,
        items: &[Node],
        findings: &mut Findings,
    ) {
        let first = branches(schema, "prefixItems");
        for (at, item) in items.iter().enumerate() {
            if let Some(each) = first.get(at).or_else(|| schema.get("items")) {
                self.check(each, item, item.span, findings);
            }
        }
        let span = self.place_of(node, node.span);
        self.count(
            schema,
            items.len(),
            span,
            ("minItems", "maxItems"),
            "items",
            findings,
        );
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.no_twins(items, findings);
        }
    }

    fn no_twins(&self, items: &[Node], findings: &mut Findings) {
        let values: Vec<Value> = items.iter().map(Node::to_json).collect();
        for (at, item) in items.iter().enumerate() {
            if values[..at].contains(&values[at]) {
                let message = format!("{} stands twice in this list", scalar::in_words(item));
                let help = "remove one of the two".to_owned();
                self.error(codes::BAD_VALUE, item.span, message, help, findings);
            }
        }
    }

    fn count(
        &self,
        schema: &Map<String, Value>,
        count: usize,
        span: Span,
        (least, most): (&str, &str),
        noun: &str,
        findings: &mut Findings,
    ) {
        let limit = |word: &str| schema.get(word).and_then(Value::as_u64);
        let count = count as u64;
        let message = match (limit(least), limit(most)) {
            (Some(least), _) if count < least => {
                format!("expected at least {least} {noun}, found {count}")
            }
            (_, Some(most)) if count > most => {
                format!("expected at most {most} {noun}, found {count}")
            }
            _ => return,
        };
        self.error(
            codes::BAD_VALUE,
            span,
            message,
            description(schema),
            findings,
        );
    }

    fn error(
        &self,
        code: Code,
        span: Span,
        message: String,
        help: String,
        findings: &mut Findings,
    ) {
        let place = Place {
            file: self.file.clone(),
            span,
        };
        findings.push(Diagnostic::error(code, place, message).help(help));
    }
}

fn branches<'a>(schema: &'a Map<String, Value>, word: &str) -> &'a [Value] {
    schema
        .get(word)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The first sentence of a schema's description, on one line, without a full stop.
fn description(schema: &Map<String, Value>) -> String {
    let words = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let paragraph = words.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = line.split(". ").next().unwrap_or_default();
    sentence.trim_end_matches('.').to_owned()
}

/// Names for a message: all, or the first ones and how many more.
fn listed(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 30;
    let shown: Vec<_> = names.iter().take(SHOWN_MAX).copied().collect();
    let more = names.len().saturating_sub(SHOWN_MAX);
    let tail = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{tail}", shown.join(", "))
}

/// A text for a message: at most 40 characters.
fn cut(text: &str) -> String {
    const SHOWN_MAX: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= SHOWN_MAX && line.len() == text.len() {
        return line.to_owned();
    }
    format!("{}…", line.chars().take(SHOWN_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;

    /// Settings for the test.
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Settings {
        /// Where to send it. More words.
        path: String,
        /// How many tries.
        attempts: Option<u32>,
        /// How to sign in.
        auth: Option<Auth>,
        /// How loud.
        level: Option<Level>,
        /// Fine or not.
        strict: Option<bool>,
        #[schemars(range(min = 1, max = 100))]
        share: Option<f64>,
        #[schemars(length(min = 1), regex(pattern = "^[a-z]+$"))]
        name: Option<String>,
        /// Statuses by code.
        failures: Option<BTreeMap<String, Level>>,
        #[schemars(length(max = 2))]
        tags: Option<Vec<String>>,
        to: Option<OneOrMany>,
        /// A file format.
        format: Option<Form>,
        #[schemars(extend("format" = "duration"))]
        wait: Option<String>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    #[allow(dead_code)]
    enum Auth {
        /// User and password.
        Basic(Basic),
        /// A token.
        Bearer {
            token: String,
        },
        ApiKey(String),
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Basic {
        user: String,
        password: String,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code)]
    enum Level {
        /// Little.
        Quiet,
        Loud,
        Normal,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code)]
    enum Form {
        Json,
        /// Lines.
        Csv(Csv),
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Csv {
        delimiter: Option<String>,
    }

    struct Durations;

    impl Formats for Durations {
        fn check(&self, format: &str, node: &Node, file: &Arc<File>, findings: &mut Findings) {
            if format == "duration" && node.as_text() == Some("soon") {
                findings.push(Diagnostic::error(
                    codes::BAD_VALUE,
                    node.place(file),
                    "no duration",
                ));
            }
        }
    }

    /// Each finding as `code line:column message (help)`, one a line.
    fn findings(text: &str) -> Vec<String> {
        let schema = schemars::schema_for!(Settings);
        let file = File::new("a.yaml", text);
        let mut findings = Findings::new();
        let node = crate::yaml::parse(&file, &mut findings).unwrap();
        check_with(schema.as_value(), &node, &file, &Durations, &mut findings);
        findings
            .sorted()
            .iter()
            .map(|finding| {
                let (line, column) = finding.place.line_column();
                format!(
                    "{} {line}:{column} {} ({})",
                    finding.code, finding.message, finding.help
                )
            })
            .collect()
    }

    fn expect(text: &str, expected: &[&str]) {
        assert_eq!(findings(text), expected, "{text}");
    }

    #[test]
    fn what_fits_has_no_findings() {
        for auth in [
            "{ basic: { user: a, password: b } }",
            "{ bearer: { token: x } }",
            "{ api_key: x }",
            "null",
        ] {
            expect(&format!("path: a\nauth: {auth}\n"), &[]);
        }
        for format in ["json", "{ csv: { delimiter: ';' } }", "{ csv: {} }"] {
            expect(&format!("path: a\nformat: {format}\n"), &[]);
        }
        expect(
            "path: a\nto: b\nlevel: quiet\nfailures: { '422': loud, 409: normal }\nshare: 99.5\ntags: [x]\n",
            &[],
        );
        expect(
            "path: a\nto: [b, c]\nattempts: null\nstrict: false\nname: abc\nwait: 5s\n",
            &[],
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_their_places() {
        expect(
            "attempts: three\nlevel: lowd\nstrict: yes\nshare: 200\nname: ''\ntags: [1, b, c]\nwait: soon\nsize: 3\n",
            &[
                "missing-field 1:1 the field `path` is missing (add `path`: Where to send it)",
                "wrong-type 1:11 expected a whole number, found the text `three` (How many tries)",
                "unknown-value 2:8 expected one of: loud, normal, quiet; found the text `lowd` (did you mean `loud`?)",
                "wrong-type 3:9 expected true or false, found the text `yes` (write true)",
                "yaml-boolean 3:9 `yes` is a text, not a boolean (write `true`, or quote it: \"yes\")",
                "bad-value 4:8 expected a number from 1 to 100, found `200` ()",
                "bad-value 5:7 the text must not be empty ()",
                "bad-value 6:7 expected at most 2 items, found 3 ()",
                "wrong-type 6:8 expected a text, found the number `1` (quote it: \"1\")",
                "bad-value 7:7 no duration ()",
                "unknown-field 8:1 unknown field `size` (the fields here are: path, attempts, auth, level, strict, share, name, failures, tags, to, format, wait)",
            ],
        );
    }

    #[test]
    fn a_misspelt_field_is_one_mistake() {
        expect(
            "pth: a\n",
            &["unknown-field 1:1 unknown field `pth` (did you mean `path`?)"],
        );
    }

    #[test]
    fn numbers_know_their_range_and_quotes_their_purpose() {
        expect(
            "path: 5\nattempts: '3'\n",
            &[
                "wrong-type 1:7 expected a text, found the number `5` (quote it: \"5\")",
                "wrong-type 2:11 expected a whole number, found the text `3` (remove the quotes: 3)",
            ],
        );
        expect(
            "path: a\nattempts: -1\n",
            &["bad-value 2:11 expected a number of at least 0, found `-1` (How many tries)"],
        );
        expect(
            "path: a\nattempts: 5000000000\n",
            &["bad-value 2:11 the number `5000000000` is out of range (How many tries)"],
        );
        expect(
            "path: a\nattempts: 1.5\n",
            &[
                "wrong-type 2:11 expected a whole number, found the number `1.5` (write it without a fraction)",
            ],
        );
        expect(
            "path: a\nname: A1\n",
            &["bad-value 2:7 `A1` does not match the pattern `^[a-z]+$` ()"],
        );
        expect(
            "path:\n",
            &["wrong-type 1:1 expected a text, found nothing (Where to send it)"],
        );
    }

    #[test]
    fn kinds_are_chosen_by_their_key() {
        expect(
            "path: a\nauth: { basik: { user: a } }\n",
            &[
                "unknown-field 2:9 unknown field `basik`, expected one of: basic, bearer, api_key (did you mean `basic`?)",
            ],
        );
        expect(
            "path: a\nauth: { basic: { user: a, pasword: b } }\n",
            &["unknown-field 2:27 unknown field `pasword` (did you mean `password`?)"],
        );
        expect(
            "path: a\nauth:\n  basic:\n    user: a\n",
            &["missing-field 3:3 the field `password` is missing (add `password`)"],
        );
        expect(
            "path: a\nauth: basic\n",
            &[
                "wrong-type 2:7 `basic` needs fields of its own (write it as a mapping: { basic: .. })",
            ],
        );
        expect(
            "path: a\nauth: { basic: { user: a, password: b }, bearer: { token: c } }\n",
            &[
                "bad-value 2:42 `basic` and `bearer` exclude each other (keep one of: basic, bearer, api_key)",
            ],
        );
        expect(
            "path: a\nauth: 5\n",
            &["wrong-type 2:7 expected a mapping, found the number `5` (How to sign in)"],
        );
        expect(
            "path: a\nauth: {}\n",
            &["missing-field 2:7 expected one of: basic, bearer, api_key (add one of them)"],
        );
        expect(
            "path: a\nauth: { bearer: { token: 1 } }\n",
            &["wrong-type 2:26 expected a text, found the number `1` (quote it: \"1\")"],
        );
    }

    #[test]
    fn words_and_kinds_may_be_mixed() {
        expect(
            "path: a\nformat: jsn\n",
            &[
                "unknown-value 2:9 expected one of: json, csv; found the text `jsn` (did you mean `json`?)",
            ],
        );
        expect(
            "path: a\nformat: { csv: { delimter: x } }\n",
            &["unknown-field 2:18 unknown field `delimter` (did you mean `delimiter`?)"],
        );
        expect(
            "path: a\nto: 5\n",
            &["wrong-type 2:5 expected a text or a list, found the number `5` (quote it: \"5\")"],
        );
        expect(
            "path: a\nto: [b, 5]\n",
            &["wrong-type 2:9 expected a text, found the number `5` (quote it: \"5\")"],
        );
        expect(
            "path: a\nfailures: { '422': lod }\n",
            &[
                "unknown-value 2:20 expected one of: loud, normal, quiet; found the text `lod` (did you mean `loud`?)",
            ],
        );
    }

    #[test]
    fn a_file_that_is_no_mapping_is_one_mistake() {
        expect(
            "- a\n",
            &["wrong-type 1:1 expected a mapping, found a list (Settings for the test)"],
        );
        expect(
            "a\n",
            &["wrong-type 1:1 expected a mapping, found the text `a` (Settings for the test)"],
        );
    }
}
