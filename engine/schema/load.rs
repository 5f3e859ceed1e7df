//! Schema files -> compiled schemas, with every mistake at its place. References stay within the project: nothing is fetched.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jsonschema::{Draft, PatternOptions, Retrieve, Uri, ValidationError, Validator};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use super::tape::TapeJson;
use super::{Schema, Schemas, codes, keywords, words};
use crate::body::{Item, Kind, Limits, Tape};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span, closest};

/// How far a pattern may backtrack on one text.
const BACKTRACK_MAX: usize = 100_000;
/// The types that JSON Schema knows.
const TYPES: [&str; 7] = [
    "array", "boolean", "integer", "null", "number", "object", "string",
];
/// How many mistakes of one schema are told.
const FINDINGS_MAX: usize = 50;

/// Compiles all files.
pub(super) fn schemas(files: &[(String, Arc<File>)], findings: &mut Findings) -> Schemas {
    let mut sources: Vec<Source> = Vec::new();
    let mut by_name: BTreeMap<String, Arc<Schema>> = BTreeMap::new();
    for (name, file) in files {
        match Source::read(name, file, findings) {
            Some(source) => sources.push(source),
            None => {
                by_name.insert(name.clone(), broken(name, Value::Bool(true)));
            }
        }
    }
    let known = Arc::new(Known::of(&sources, findings));
    for source in &sources {
        let before = findings.errors();
        source.check_rules(findings);
        source.check_references(&known, findings);
        source.check_words(findings);
        let schema = if findings.errors() == before {
            source.compile(&known, findings)
        } else {
            broken(&source.name, source.value.clone())
        };
        by_name.insert(source.name.clone(), schema);
    }
    Schemas { by_name }
}

fn broken(name: &str, raw: Value) -> Arc<Schema> {
    Arc::new(Schema {
        name: name.to_owned(),
        raw: Arc::new(raw),
        validator: None,
    })
}

/// The address by which a schema of the project is known to the others.
pub(super) fn address(name: &str) -> String {
    let mut out = String::from("crossdock:///");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out.push_str(".json");
    out
}

/// The name in an address of the project: `crossdock:canonical/money.v1`, `crossdock:///canonical/money.v1.json`.
pub(super) fn name_in(address: &str) -> Option<String> {
    let path = address.strip_prefix("crossdock:")?.trim_start_matches('/');
    let path = path.strip_suffix(".json").unwrap_or(path);
    Some(percent_decoded(path))
}

pub(super) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The part of an address before `#`, and the part behind it.
fn split_fragment(address: &str) -> (&str, &str) {
    address.split_once('#').unwrap_or((address, ""))
}

/// What references may lead to: files of the project and parts of them with an `$id`.
#[derive(Debug)]
struct Known {
    by_address: FxHashMap<String, Value>,
    names: Vec<String>,
}

impl Known {
    fn of(sources: &[Source], findings: &mut Findings) -> Known {
        let mut by_address = FxHashMap::default();
        let mut ids: FxHashMap<String, Place> = FxHashMap::default();
        for source in sources {
            by_address.insert(address(&source.name), source.value.clone());
        }
        for source in sources {
            source.visit(&mut |visit| {
                let Some(id) = visit.schema.get("$id") else {
                    return;
                };
                let (at, _) = split_fragment(visit.base);
                if id.as_str().is_none_or(|id| id.starts_with('#')) {
                    return;
                }
                let place = source.place(visit.item.get("$id").unwrap_or(visit.item));
                if let Some(first) = ids.get(at) {
                    findings.push(
                        Diagnostic::error(
                            codes::DUPLICATE_SCHEMA_ID,
                            place,
                            format!("another schema has the `$id` {at}"),
                        )
                        .help("give each schema an `$id` of its own, or none")
                        .related(first.clone(), "the first one"),
                    );
                } else {
                    ids.insert(at.to_owned(), place);
                    by_address.insert(at.to_owned(), Value::Object(visit.schema.clone()));
                }
            });
        }
        Known {
            by_address,
            names: sources.iter().map(|source| source.name.clone()).collect(),
        }
    }

    /// The document at an address without fragment.
    fn get(&self, at: &str) -> Option<&Value> {
        self.by_address.get(at).or_else(|| {
            let name = name_in(at)?;
            self.by_address.get(&address(&name))
        })
    }
}

/// The way in which the validator asks for documents: only what is known already.
struct Shelf(Arc<Known>);

impl Retrieve for Shelf {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let (at, _) = split_fragment(uri.as_str());
        match self.0.get(at) {
            Some(value) => Ok(value.clone()),
            None => Err(format!("{at} is not in the project").into()),
        }
    }
}

/// A schema file that is JSON.
struct Source {
    name: String,
    file: Arc<File>,
    /// The text of the file behind its byte order mark, and where it begins.
    bytes: Bytes,
    bytes_at: usize,
    tape: Tape,
    value: Value,
}

/// One subschema, on the way through a schema.
struct Visit<'a> {
    item: Item<'a>,
    schema: &'a Map<String, Value>,
    /// The address against which its references are resolved.
    base: &'a str,
}

impl Source {
    fn read(name: &str, file: &Arc<File>, findings: &mut Findings) -> Option<Source> {
        let text = file.text.trim_start_matches('\u{feff}');
        let bytes_at = file.text.len() - text.len();
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let tape = match Tape::parse(bytes.clone(), Limits::DEFAULT) {
            Ok(tape) => tape,
            Err(failure) => {
                let (span, message) = json_fault(file, &failure.message);
                let place = Place {
                    file: file.clone(),
                    span,
                };
                findings.push(
                    Diagnostic::error(codes::SCHEMA_JSON, place, message)
                        .help("a schema file holds one JSON document, without comments"),
                );
                return None;
            }
        };
        let mut source = Source {
            name: name.to_owned(),
            file: file.clone(),
            bytes,
            bytes_at,
            tape,
            value: Value::Null,
        };
        match value(source.tape.root()) {
            Ok(value) => {
                source.value = value;
                Some(source)
            }
            Err(number) => {
                let message = format!("the number {} is too large", number.raw());
                let place = source.place(number);
                findings.push(Diagnostic::error(codes::SCHEMA_JSON, place, message));
                None
            }
        }
    }

    fn place(&self, item: Item<'_>) -> Place {
        let json = item.json_bytes();
        let start = json.as_ptr() as usize - self.bytes.as_ptr() as usize + self.bytes_at;
        Place {
            file: self.file.clone(),
            span: Span::new(start, start + json.len()),
        }
    }

    /// The value at a JSON pointer, or the nearest one above it.
    fn at(&self, pointer: &str) -> Item<'_> {
        nearest(self.tape.root(), pointer)
    }

    fn error(
        &self,
        code: Code,
        item: Item<'_>,
        message: impl Into<String>,
        help: impl Into<String>,
        findings: &mut Findings,
    ) {
        findings.push(Diagnostic::error(code, self.place(item), message).help(help));
    }

    fn draft(&self) -> Option<Draft> {
        match self.value.get("$schema").and_then(Value::as_str) {
            None => Some(Draft::Draft202012),
            Some(uri) => match uri.trim_end_matches('#') {
                "https://json-schema.org/draft/2020-12/schema" => Some(Draft::Draft202012),
                "http://json-schema.org/draft-07/schema" => Some(Draft::Draft7),
                _ => None,
            },
        }
    }

    /// Checks the schema against the rules of its draft.
    fn check_rules(&self, findings: &mut Findings) {
        let Some(draft) = self.draft() else {
            let item = self.at("/$schema");
            let message = format!("the draft {} is not supported", item.json());
            let help = "use https://json-schema.org/draft/2020-12/schema or http://json-schema.org/draft-07/schema#";
            return self.error(codes::INVALID_SCHEMA, item, message, help, findings);
        };
        let rules = match draft {
            Draft::Draft7 => jsonschema::draft7::meta::validator(),
            _ => jsonschema::draft202012::meta::validator(),
        };
        for error in rules.iter_errors(&self.value).take(FINDINGS_MAX) {
            self.broken_rule(error.instance_path().as_str(), &error, findings);
        }
    }

    /// Reports the member at `path` that breaks a rule.
    fn broken_rule(&self, path: &str, error: &ValidationError<'_>, findings: &mut Findings) {
        let item = self.at(path);
        let member = path.rsplit('/').next().unwrap_or_default();
        let subject = if member.is_empty() {
            "a schema".to_owned()
        } else {
            format!("`{member}`")
        };
        let message = format!("{subject} {}", words::message(error));
        let help = item
            .as_str()
            .filter(|_| member == "type")
            .and_then(|word| closest(&word, TYPES))
            .map_or(String::new(), |near| format!("did you mean `{near}`?"));
        self.error(codes::INVALID_SCHEMA, item, message, help, findings);
    }

    /// Checks that every `$ref` leads somewhere.
    fn check_references(&self, known: &Known, findings: &mut Findings) {
        self.visit(&mut |visit| {
            for word in ["$ref", "$dynamicRef"] {
                let (Some(reference), Some(item)) = (
                    visit.schema.get(word).and_then(Value::as_str),
                    visit.item.get(word),
                ) else {
                    continue;
                };
                let help = match missing(known, visit.base, reference) {
                    Some(help) => help,
                    None => continue,
                };
                let message = format!("`{reference}` leads to no schema of the project");
                self.error(
                    codes::UNKNOWN_SCHEMA_REFERENCE,
                    item,
                    message,
                    help,
                    findings,
                );
            }
        });
    }

    /// Warns of words that are like those of JSON Schema.
    fn check_words(&self, findings: &mut Findings) {
        keywords::misspelt(self.tape.root(), &mut |key, near| {
            let word = key.as_str().unwrap_or_default();
            let message = format!("JSON Schema has no word `{word}`: it checks nothing");
            findings.push(
                Diagnostic::warning(codes::UNKNOWN_KEYWORD, self.place(key), message)
                    .help(format!("did you mean `{near}`?")),
            );
        });
    }

    fn compile(&self, known: &Arc<Known>, findings: &mut Findings) -> Arc<Schema> {
        // Patterns in linear time; backtracking only where a pattern cannot do without.
        let fancy = PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_MAX);
        let built = self
            .validator(known, PatternOptions::regex())
            .or_else(|_| self.validator(known, fancy));
        match built {
            Ok(validator) => Arc::new(Schema {
                name: self.name.clone(),
                raw: Arc::new(self.value.clone()),
                validator: Some(validator),
            }),
            Err(error) => {
                // A schema that cannot be compiled names itself as the document; else the path of the rule says where.
                let paths = [error.instance_path().as_str(), error.schema_path().as_str()];
                let path = paths.into_iter().find(|path| !path.is_empty());
                self.broken_rule(path.unwrap_or_default(), &error, findings);
                broken(&self.name, self.value.clone())
            }
        }
    }

    fn validator<E>(
        &self,
        known: &Arc<Known>,
        patterns: PatternOptions<E>,
    ) -> Result<Validator<TapeJson>, ValidationError<'static>> {
        jsonschema::options_for::<TapeJson>()
            .with_draft(self.draft().unwrap_or(Draft::Draft202012))
            .should_validate_formats(true)
            .with_base_uri(address(&self.name))
            .with_retriever(Shelf(known.clone()))
            .with_pattern_options(patterns)
            .build(&self.value)
    }

    /// Calls `f` for each subschema, outer ones first.
    fn visit<'a>(&'a self, f: &mut dyn FnMut(Visit<'_>)) {
        visit(self.tape.root(), &self.value, &address(&self.name), f);
    }
}

fn visit(item: Item<'_>, value: &Value, base: &str, f: &mut dyn FnMut(Visit<'_>)) {
    match value {
        Value::Object(schema) => {
            let own = schema
                .get("$id")
                .and_then(Value::as_str)
                .filter(|id| !id.starts_with('#'))
                .and_then(|id| resolved(base, id));
            let base = own.as_deref().unwrap_or(base);
            f(Visit { item, schema, base });
            for (key, value) in schema {
                // These hold data, not schemas.
                if matches!(key.as_str(), "const" | "enum" | "default" | "examples") {
                    continue;
                }
                if let Some(item) = item.get(key) {
                    visit(item, value, base, f);
                }
            }
        }
        Value::Array(values) => {
            for (item, value) in item.items().zip(values) {
                visit(item, value, base, f);
            }
        }
        _ => {}
    }
}

pub(super) fn resolved(base: &str, reference: &str) -> Option<String> {
    let base = jsonschema::uri::from_str(base).ok()?;
    let uri = jsonschema::uri::resolve_against(&base.borrow(), reference).ok()?;
    Some(uri.as_str().to_owned())
}

/// What to do about a reference that leads nowhere; nothing if it leads somewhere.
fn missing(known: &Known, base: &str, reference: &str) -> Option<String> {
    let Some(full) = resolved(base, reference) else {
        return Some("write a relative path, such as `../common/money.v1.json`".to_owned());
    };
    let (at, fragment) = split_fragment(&full);
    if at.starts_with("https://json-schema.org/draft/2020-12/")
        || at.starts_with("http://json-schema.org/draft-07/")
    {
        return None;
    }
    let Some(document) = known.get(at) else {
        let name = name_in(at).unwrap_or_else(|| at.to_owned());
        let tail = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        let near = closest(&name, known.names.iter().map(String::as_str)).or_else(|| {
            let tails: Vec<(String, &String)> =
                known.names.iter().map(|name| (tail(name), name)).collect();
            let near = closest(&tail(&name), tails.iter().map(|(tail, _)| tail.as_str()))?;
            let found = tails.iter().find(|(tail, _)| tail == near)?;
            Some(found.1.as_str())
        });
        return Some(match near {
            Some(near) => format!("did you mean `crossdock:{near}`?"),
            None => "nothing is fetched: put the schema into the folder schemas/".to_owned(),
        });
    };
    let fragment = percent_decoded(fragment);
    if fragment.is_empty()
        || document.pointer(&fragment).is_some()
        || has_anchor(document, &fragment)
    {
        return None;
    }
    let names: Vec<&str> = ["$defs", "definitions"]
        .iter()
        .filter_map(|word| document.get(word)?.as_object())
        .flat_map(Map::keys)
        .map(String::as_str)
        .collect();
    let last = fragment.rsplit('/').next().unwrap_or_default();
    Some(match closest(last, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => "the schema there has no definitions".to_owned(),
        None => format!("the definitions there are: {}", names.join(", ")),
    })
}

fn has_anchor(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(members) => {
            let named = |word: &str| members.get(word).and_then(Value::as_str);
            named("$anchor") == Some(name)
                || named("$dynamicAnchor") == Some(name)
                || named("$id").and_then(|id| id.strip_prefix('#')) == Some(name)
                || members.values().any(|value| has_anchor(value, name))
        }
        Value::Array(values) => values.iter().any(|value| has_anchor(value, name)),
        _ => false,
    }
}

/// The tape as a value; the number that does not fit, if there is one.
fn value(item: Item<'_>) -> Result<Value, Item<'_>> {
    Ok(match item.kind() {
        Kind::Null => Value::Null,
        Kind::Bool => Value::Bool(item.as_bool() == Some(true)),
        Kind::Number => Value::Number(item.raw().parse().map_err(|_| item)?),
        Kind::String => Value::String(item.as_str().unwrap_or_default().into_owned()),
        Kind::List => Value::Array(item.items().map(value).collect::<Result<_, _>>()?),
        Kind::Object => {
            let mut members = Map::new();
            for (key, member) in item.entries() {
                let key = key.as_str().unwrap_or_default().into_owned();
                members.insert(key, value(member)?);
            }
            Value::Object(members)
        }
    })
}

/// The place and the words in a parse failure: `not JSON at line 3, column 5: expected ..`.
fn json_fault(file: &File, message: &str) -> (Span, String) {
    let parsed = (|| {
        let rest = message.strip_prefix("not JSON at line ")?;
        let (line, rest) = rest.split_once(", column ")?;
        let (column, words) = rest.split_once(": ")?;
        Some((
            line.parse::<usize>().ok()?,
            column.parse::<usize>().ok()?,
            words,
        ))
    })();
    let Some((line, column, words)) = parsed else {
        return (Span::new(0, 0), message.to_owned());
    };
    let start = file.line_start(line);
    let rest = file.text[start..].trim_start_matches('\u{feff}');
    let start = file.text.len() - rest.len();
    let at = rest
        .char_indices()
        .nth(column - 1)
        .map_or(file.text.len(), |(at, _)| start + at);
    let width = file.text[at..].chars().next().map_or(0, char::len_utf8);
    (Span::new(at, at + width), format!("not JSON: {words}"))
}

/// Where a JSON pointer leads in a document, or the nearest value above it.
pub(super) fn nearest<'d>(mut item: Item<'d>, pointer: &str) -> Item<'d> {
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        let next = item
            .get(&part)
            .or_else(|| part.parse().ok().and_then(|index| item.at(index)));
        match next {
            Some(next) => item = next,
            None => break,
        }
    }
    item
}
