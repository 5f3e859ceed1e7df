//! What the check of shapes promises, on a config as schemars describes it.

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
        &["wrong-type 2:7 `basic` needs fields of its own (write it as a mapping: { basic: .. })"],
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

#[test]
fn a_kind_without_its_settings_is_told_how_to_have_none() {
    expect(
        "path: a\nformat: { csv: }\n",
        &[
            "wrong-type 2:11 expected a mapping, found nothing (write `{}` to take it without settings)",
        ],
    );
}

#[test]
fn a_list_of_words_names_each_once() {
    assert_eq!(listed(&["json", "csv", "json"]), "json, csv");
}
