//! Personal data in bodies and texts: where it stands, which values it is, and a mask in their place. It knows no flow and no store, and it does
//! not recognise personal data by itself: what nobody has named is not masked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

use crate::body::{Body, Item, Kind, write_string};

/// What stands where personal data stood: the same for every value, whatever its length.
pub const MASK: &str = "[personal]";

/// How many values of one message are known; of a message with more, all that could hold one is masked.
const VALUES_MAX: usize = 1_000;
/// How long a value must be to be looked for outside of its place; shorter ones are everywhere.
const VALUE_LEAST: usize = 3;
/// How long it must be if it is a number.
const DIGITS_LEAST: usize = 5;
/// How many words a value may have that are looked for one by one.
const WORDS_MAX: usize = 4;
/// How long a word of a value must be to be looked for by itself.
const WORD_LEAST: usize = 4;
/// What stands before the name of a property that is personal wherever it stands.
const ANYWHERE: &str = "**.";
/// Under this name a stored request has a body that is no text.
const OPAQUE: &str = "base64";

/// Where personal data stands in a body: `customer.email`, `lines[].note`, or `**.email` for a property wherever it is. Lists leave no trace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    names: Vec<String>,
    anywhere: bool,
}

impl Path {
    /// The path that is written so; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Path, String> {
        let (anywhere, rest) = match text.strip_prefix(ANYWHERE) {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let mut names = Vec::new();
        for part in parts(rest)? {
            names.extend(part);
        }
        match names.len() {
            0 => Err("a path names a property: `customer.email`".to_owned()),
            2.. if anywhere => Err(format!(
                "behind `{ANYWHERE}` stands the name of one property: `**.email`"
            )),
            _ => Ok(Path { names, anywhere }),
        }
    }

    /// Whether it is the name of a property, wherever that is.
    pub fn is_anywhere(&self) -> bool {
        self.anywhere
    }

    /// The same property, wherever it is.
    pub fn everywhere(&self) -> Path {
        Path {
            names: self.names[self.names.len() - 1..].to_vec(),
            anywhere: true,
        }
    }

    /// Whether what stands at this path, written without lists, holds it or belongs to it.
    pub fn meets(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('.').filter(|name| !name.is_empty()).collect();
        match self.anywhere {
            true => names.iter().any(|name| words(name) == words(self.last())),
            false => self.names.iter().zip(&names).all(|(a, b)| a == b),
        }
    }

    fn last(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    /// Whether the property at the end of this trail of the accepted body is meant.
    fn is_at(&self, trail: &[String]) -> bool {
        match self.anywhere {
            true => self.is_named(trail),
            false => self.names == trail,
        }
    }

    /// Whether the property at the end of this trail of another body has its name.
    fn is_named(&self, trail: &[String]) -> bool {
        let Some(name) = trail.last() else {
            return false;
        };
        let (name, last) = (words(name), words(self.last()));
        if name == last || (self.anywhere && name.ends_with(&last)) {
            return true;
        }
        let [.., parent, _] = &self.names[..] else {
            return false;
        };
        let mut both = words(parent);
        both.extend(last);
        name.ends_with(&both)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |name: &str| {
            let mut letters = name.chars();
            letters
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        if self.anywhere {
            f.write_str(ANYWHERE)?;
        }
        for (nth, name) in self.names.iter().enumerate() {
            let dot = if nth > 0 { "." } else { "" };
            match bare(name) {
                true => write!(f, "{dot}{name}")?,
                false => write!(f, "{dot}\"{name}\"")?,
            }
        }
        Ok(())
    }
}

/// The names of a path between its dots; `None` where only a list is taken apart.
fn parts(text: &str) -> Result<Vec<Option<String>>, String> {
    let wrong = |why: &str| {
        format!("`{text}` is no path: {why}; write it like `customer.email` or `lines[].note`")
    };
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let name = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted
                    .find('"')
                    .ok_or_else(|| wrong("a quote is not closed"))?;
                rest = &quoted[end + 1..];
                quoted[..end].to_owned()
            }
            None => {
                let end = rest.find(['.', '[', '"']).unwrap_or(rest.len());
                let (name, behind) = rest.split_at(end);
                rest = behind;
                name.trim().to_owned()
            }
        };
        let bare = |letter: char| letter.is_alphanumeric() || "_- ".contains(letter);
        if !name.chars().all(bare) {
            return Err(wrong("it is no expression, only names"));
        }
        let mut lists = 0;
        while let Some(behind) = rest.strip_prefix("[]") {
            (rest, lists) = (behind, lists + 1);
        }
        if name.is_empty() && lists == 0 {
            return Err(wrong("a name is missing"));
        }
        parts.push((!name.is_empty()).then_some(name));
        match rest.strip_prefix('.') {
            Some(behind) => rest = behind,
            None if rest.is_empty() => return Ok(parts),
            None => {
                return Err(wrong(
                    "between two names stands a dot, and behind a list `[]`",
                ));
            }
        }
    }
}

/// The words of a name, in small letters: `shipTo`, `ship_to` and `ship-to` are the same.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut fresh = true;
    let mut small = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() {
            fresh = true;
            continue;
        }
        fresh |= small && letter.is_uppercase();
        small = !letter.is_uppercase();
        if fresh || words.is_empty() {
            words.push(String::new());
        }
        fresh = false;
        if let Some(word) = words.last_mut() {
            word.extend(letter.to_lowercase());
        }
    }
    words
}

/// What is personal in the messages of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Where it stands in their bodies.
    pub paths: BTreeSet<Path>,
    /// The business keys that are.
    pub keys: BTreeSet<String>,
}

impl Rules {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.keys.is_empty()
    }

    fn is_personal(&self, trail: &[String], accepted: bool) -> bool {
        self.paths.iter().any(|path| match accepted {
            true => path.is_at(trail),
            false => path.is_named(trail),
        })
    }
}

/// The rules of a flow that names nothing.
pub static NOTHING_PERSONAL: Rules = Rules {
    paths: BTreeSet::new(),
    keys: BTreeSet::new(),
};

/// Masks what is personal about one message: in its accepted body what stands at the paths, in every other body the properties of these names,
/// and everywhere the values that were found so.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    rules: Rules,
    values: BTreeSet<String>,
    /// What to look for, by its first byte, the longest first.
    needles: BTreeMap<u8, Vec<Needle>>,
    blind: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Needle {
    text: String,
    /// No letter or digit may stand beside it.
    alone: bool,
}

impl Mask {
    /// The mask of a message, of which no values are known.
    pub fn new(rules: Rules) -> Mask {
        Mask {
            rules,
            ..Mask::default()
        }
    }

    /// Rules of another flow through which the message came count too.
    pub fn add(&mut self, rules: &Rules) {
        self.rules.paths.extend(rules.paths.iter().cloned());
        self.rules.keys.extend(rules.keys.iter().cloned());
    }

    /// The values cannot be known any more: all that could hold one is masked.
    pub fn blind(&mut self) {
        self.blind = true;
    }

    /// The values that are known.
    pub fn values(&self) -> &BTreeSet<String> {
        &self.values
    }

    /// Whether the values cannot be known.
    pub fn is_blind(&self) -> bool {
        self.blind
    }

    /// The personal values of a body are looked for from now on.
    pub fn learn(&mut self, bytes: &Bytes, accepted: bool) {
        let body = Body::new(bytes.clone());
        let mut found = Vec::new();
        match body.document() {
            Ok(root) => gather(
                root,
                &self.rules,
                accepted,
                &mut Vec::new(),
                false,
                &mut found,
            ),
            // Nobody knows where anything stands in it.
            Err(_) if accepted && !bytes.is_empty() => self.blind = true,
            Err(_) => {}
        }
        for value in found {
            self.learn_value(&value);
        }
    }

    /// A value is looked for from now on.
    pub fn learn_value(&mut self, value: &str) {
        let value = value.trim();
        if self.values.len() >= VALUES_MAX {
            self.blind = true;
            return;
        }
        if !self.values.insert(value.to_owned()) {
            return;
        }
        let least = match value.bytes().all(|byte| byte.is_ascii_digit()) {
            true => DIGITS_LEAST,
            false => VALUE_LEAST,
        };
        if value.chars().count() < least {
            return;
        }
        let (upper, lower) = (value.to_uppercase(), value.to_lowercase());
        for form in [value, &upper, &lower] {
            self.look_for(form);
            self.look_for(&in_xml(form));
        }
        self.look_for(&percent(value));
        self.look_for(&percent(value).replace("%20", "+"));
        let mut json = Vec::new();
        write_string(&mut json, value);
        let json = String::from_utf8_lossy(&json).into_owned();
        self.look_for(json.trim_matches('"'));
        // Free text is made of words that everybody uses.
        let name = value.split_whitespace().count() <= WORDS_MAX;
        let inner = value.split_whitespace().filter(|_| name);
        let inner = inner.chain(value.split_once('@').map(|(name, _)| name));
        for word in inner {
            let word = word.trim_matches(|letter: char| !letter.is_alphanumeric());
            let digits = word.bytes().all(|byte| byte.is_ascii_digit());
            if word.chars().count() >= WORD_LEAST && !digits {
                self.look_for(word);
            }
        }
    }

    fn look_for(&mut self, text: &str) {
        let needle = Needle {
            text: text.to_ascii_lowercase(),
            alone: true,
        };
        let Some(first) = needle.text.bytes().next() else {
            return;
        };
        let bucket = self.needles.entry(first).or_default();
        if !bucket.contains(&needle) {
            bucket.push(needle);
            bucket.sort_by_key(|needle| std::cmp::Reverse(needle.text.len()));
        }
    }

    /// The accepted body, masked.
    pub fn accepted(&self, bytes: &Bytes) -> Bytes {
        self.body(bytes, true)
    }

    /// Any other body, request or answer, masked.
    pub fn other(&self, bytes: &Bytes) -> Bytes {
        match self.blind {
            true => Bytes::from_static(MASK.as_bytes()),
            false => self.body(bytes, false),
        }
    }

    /// A body of which nobody knows whether it is the accepted one, masked as both.
    pub fn any(&self, bytes: &Bytes) -> Bytes {
        match Body::new(bytes.clone()).document() {
            Ok(_) => self.other(&self.accepted(bytes)),
            Err(_) => self.other(bytes),
        }
    }

    fn body(&self, bytes: &Bytes, accepted: bool) -> Bytes {
        let body = Body::new(bytes.clone());
        let masked = match body.document() {
            Ok(root) => {
                let mut out = Vec::with_capacity(bytes.len());
                self.write(root, accepted, &mut Vec::new(), &mut out);
                out
            }
            Err(_) => match std::str::from_utf8(bytes) {
                Ok(text) if !accepted => self.text(text).into_bytes(),
                _ => MASK.as_bytes().to_vec(),
            },
        };
        Bytes::from(masked)
    }

    /// A text about the message, masked.
    pub fn text(&self, text: &str) -> String {
        match self.blind {
            true => MASK.to_owned(),
            false => self.without_known(text),
        }
    }

    /// A text without the values that are known.
    fn without_known(&self, text: &str) -> String {
        if self.needles.is_empty() {
            return text.to_owned();
        }
        let bytes = text.as_bytes();
        let (mut out, mut kept, mut at) = (String::with_capacity(text.len()), 0, 0);
        while at < bytes.len() {
            match self.found(bytes, at) {
                Some(length) => {
                    out.push_str(&text[kept..at]);
                    out.push_str(MASK);
                    at += length;
                    kept = at;
                }
                None => at += 1,
            }
        }
        out.push_str(&text[kept..]);
        // How many words it had is nobody's business either.
        let twice = format!("{MASK} {MASK}");
        while out.contains(&twice) {
            out = out.replace(&twice, MASK);
        }
        out
    }

    /// The value of a business key, masked if the key is personal or its value is.
    pub fn key(&self, name: &str, value: &str) -> String {
        match self.rules.keys.contains(name) {
            true => MASK.to_owned(),
            false => self.without_known(value),
        }
    }

    /// A value that stands at this path of a body other than the accepted one, masked.
    pub fn at(&self, path: &str, value: &str) -> String {
        let names = path.split(['.', '[']).filter(|name| !name.ends_with(']'));
        let trail: Vec<String> = names.map(str::to_owned).collect();
        let below = (1..=trail.len()).any(|end| self.rules.is_personal(&trail[..end], false));
        match below {
            true => MASK.to_owned(),
            false => self.text(value),
        }
    }

    fn found(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let needles = self.needles.get(&bytes[at].to_ascii_lowercase())?;
        let beside = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
        needles.iter().find_map(|needle| {
            let end = at + needle.text.len();
            let there = bytes.get(at..end)?;
            let same = there.eq_ignore_ascii_case(needle.text.as_bytes());
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            let free = !needle.alone || (!beside(before) && !beside(bytes.get(end)));
            (same && free).then_some(needle.text.len())
        })
    }

    fn write(&self, item: Item<'_>, accepted: bool, trail: &mut Vec<String>, out: &mut Vec<u8>) {
        let opaque = !accepted && trail.len() == 1 && trail[0] == OPAQUE;
        if !item.is_null() && (opaque || self.rules.is_personal(trail, accepted)) {
            return write_string(out, MASK);
        }
        match item.kind() {
            Kind::Null | Kind::Bool => out.extend_from_slice(item.json_bytes()),
            Kind::Number => {
                match self.values.contains(item.raw()) && item.raw().len() >= DIGITS_LEAST {
                    true => write_string(out, MASK),
                    false => out.extend_from_slice(item.json_bytes()),
                }
            }
            Kind::String => {
                let text = item.as_str().unwrap_or_default();
                let inside = text.trim_start().starts_with(['{', '[']);
                let inner = inside.then(|| Body::new(text.clone().into_owned().into_bytes()));
                match inner.as_ref().map(Body::document) {
                    Some(Ok(root)) => {
                        let mut inner = Vec::with_capacity(text.len());
                        self.write(root, false, &mut Vec::new(), &mut inner);
                        write_string(out, &String::from_utf8_lossy(&inner));
                    }
                    _ => write_string(out, &self.text_within(&text)),
                }
            }
            Kind::List => {
                out.push(b'[');
                for (nth, item) in item.items().enumerate() {
                    if nth > 0 {
                        out.push(b',');
                    }
                    self.write(item, accepted, trail, out);
                }
                out.push(b']');
            }
            Kind::Object => {
                out.push(b'{');
                for (nth, (key, value)) in item.entries().enumerate() {
                    if nth > 0 {
                        out.push(b',');
                    }
                    let key = key.as_str().unwrap_or_default();
                    write_string(out, &self.text_within(&key));
                    out.push(b':');
                    trail.push(key.into_owned());
                    self.write(value, accepted, trail, out);
                    trail.pop();
                }
                out.push(b'}');
            }
        }
    }

    /// A text within a body: where it stands is known there, so that blindness is no reason to hide it.
    fn text_within(&self, text: &str) -> String {
        self.without_known(text)
    }
}

/// Finds the values below personal places.
fn gather(
    item: Item<'_>,
    rules: &Rules,
    accepted: bool,
    trail: &mut Vec<String>,
    within: bool,
    found: &mut Vec<String>,
) {
    if found.len() > VALUES_MAX {
        return;
    }
    let within = within || rules.is_personal(trail, accepted);
    match item.kind() {
        Kind::String if within => found.extend(item.as_str().map(|text| text.into_owned())),
        Kind::Number if within => found.push(item.raw().to_owned()),
        Kind::List => {
            for item in item.items() {
                gather(item, rules, accepted, trail, within, found);
            }
        }
        Kind::Object => {
            for (key, value) in item.entries() {
                trail.push(key.as_str().unwrap_or_default().into_owned());
                gather(value, rules, accepted, trail, within, found);
                trail.pop();
            }
        }
        _ => {}
    }
}

/// A text as it stands in XML.
fn in_xml(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let text = text.replace('>', "&gt;").replace('"', "&quot;");
    text.replace('\'', "&apos;")
}

/// A text as it stands in a URL.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(paths: &[&str]) -> Rules {
        Rules {
            paths: paths
                .iter()
                .map(|path| Path::parse(path).unwrap())
                .collect(),
            keys: BTreeSet::from(["customer".to_owned()]),
        }
    }

    const ORDER: &str = r#"{"id":"SO-1","customer":{"email":"anna@example.org","tier":"gold"},"ship_to":{"name":"Anna Example","city":"Ulm"},"lines":[{"sku":"A1","note":"for Anna's door"},{"sku":"B2","note":null}],"phone":4915112345}"#;

    fn mask() -> Mask {
        let mut mask = Mask::new(rules(&[
            "customer.email",
            "ship_to.name",
            "lines[].note",
            "**.phone",
        ]));
        mask.learn(&Bytes::from_static(ORDER.as_bytes()), true);
        mask
    }

    fn check(mask: &Mask, body: &str, expected: &str) {
        let masked = mask.other(&Bytes::copy_from_slice(body.as_bytes()));
        assert_eq!(String::from_utf8_lossy(&masked), expected, "{body}");
    }

    #[test]
    fn in_the_accepted_body_what_stands_at_the_paths_is_masked_and_the_rest_stays() {
        let masked = mask().accepted(&Bytes::from_static(ORDER.as_bytes()));
        assert_eq!(
            String::from_utf8_lossy(&masked),
            r#"{"id":"SO-1","customer":{"email":"[personal]","tier":"gold"},"ship_to":{"name":"[personal]","city":"Ulm"},"lines":[{"sku":"A1","note":"[personal]"},{"sku":"B2","note":null}],"phone":"[personal]"}"#
        );
    }

    #[test]
    fn elsewhere_it_is_known_by_its_name_and_by_its_value() {
        let mask = mask();
        check(
            &mask,
            r#"{"customerEmail":"x","email":"y","emails":"z"}"#,
            r#"{"customerEmail":"[personal]","email":"[personal]","emails":"z"}"#,
        );
        check(
            &mask,
            r#"{"contact":"ANNA@example.org","to":"Example, Anna"}"#,
            r#"{"contact":"[personal]","to":"[personal], [personal]"}"#,
        );
        check(
            &mask,
            r#"{"path":"/c?mail=anna%40example.org","n":4915112345,"m":5}"#,
            r#"{"path":"/c?mail=[personal]","n":"[personal]","m":5}"#,
        );
        check(
            &mask,
            r#"{"text":"{\"email\":\"q\"}"}"#,
            r#"{"text":"{\"email\":\"[personal]\"}"}"#,
        );
        check(
            &mask,
            r#"{"base64":"YW5uYQ==","anna@example.org":1}"#,
            r#"{"base64":"[personal]","[personal]":1}"#,
        );
        check(
            &mask,
            "<to>Anna Example</to><city>Ulm</city>",
            "<to>[personal]</to><city>Ulm</city>",
        );
        assert_eq!(
            mask.text("no customer \"anna@example.org\" here"),
            "no customer \"[personal]\" here"
        );
        let mut other = mask.clone();
        other.learn_value("Jürgen Öhl & Söhne");
        for text in ["JÜRGEN ÖHL & SÖHNE", "jürgen öhl &amp; söhne"] {
            assert_eq!(other.text(text), MASK);
        }
        assert_eq!(mask.text("Annabel stays"), "Annabel stays");
        assert_eq!(mask.key("customer", "7"), MASK);
        assert_eq!(mask.key("order", "SO-1"), "SO-1");
    }

    #[test]
    fn what_cannot_be_known_is_masked_whole() {
        let mut mask = mask();
        mask.blind();
        check(&mask, r#"{"a":1}"#, MASK);
        assert_eq!(mask.text("anything"), MASK);
        let mut many = Mask::new(rules(&["list"]));
        let body = serde_json::json!({ "list": (0..2_000).map(|n| format!("value {n}")).collect::<Vec<_>>() });
        many.learn(&Bytes::from(body.to_string()), true);
        assert!(many.is_blind());
        let mut csv = Mask::new(rules(&["email"]));
        csv.learn(&Bytes::from_static(b"email\nanna@example.org"), true);
        check(&csv, r#"{"a":1}"#, MASK);
        assert_eq!(csv.accepted(&Bytes::from_static(b"email\nanna")), MASK);
    }

    #[test]
    fn a_path_is_names_and_nothing_else() {
        for (text, canonical) in [
            ("customer.email", "customer.email"),
            ("lines[].note", "lines.note"),
            ("[].x", "x"),
            ("\"ship-to\".name", "\"ship-to\".name"),
            ("**.email", "**.email"),
        ] {
            assert_eq!(Path::parse(text).unwrap().to_string(), canonical);
            assert_eq!(Path::parse(canonical).unwrap().to_string(), canonical);
        }
        for text in [
            "", "a..b", "a[0].b", "lower(a)", "a.*", "**.a.b", "\"a", "a[", "[]",
        ] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
        let path = Path::parse("customer.email").unwrap();
        assert!(path.meets("customer.email") && path.meets("customer") && path.meets(""));
        assert!(!path.meets("customer.code") && path.everywhere().meets("buyer.email"));
    }
}
