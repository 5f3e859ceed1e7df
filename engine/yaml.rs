//! YAML text -> a tree that keeps places. Duplicate keys, tags and bombs are findings. It knows nothing of what the tree means.

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, File, Findings, Place, Span};

mod build;
mod fault;
pub mod shape;
mod within;

/// The kinds of mistakes in YAML itself.
pub mod codes {
    use crate::diagnostic::Code;

    /// The text is not YAML.
    pub const SYNTAX: Code = Code {
        name: "yaml-syntax",
        meaning: "The text is not YAML",
    };
    /// A key stands twice in one mapping.
    pub const DUPLICATE_KEY: Code = Code {
        name: "duplicate-key",
        meaning: "A key stands twice in one mapping",
    };
    /// A tag such as `!name`.
    pub const TAG: Code = Code {
        name: "yaml-tag",
        meaning: "A YAML tag stands before a value; tags have no meaning here",
    };
    /// The file is larger than a file of a project may be.
    pub const LIMIT: Code = Code {
        name: "yaml-limit",
        meaning: "A YAML file is larger, deeper or more entangled than the limits allow",
    };
    /// No document, or more than one.
    pub const DOCUMENT: Code = Code {
        name: "yaml-document",
        meaning: "A file holds no document, or more than one",
    };
    /// A tab in the indentation.
    pub const TAB: Code = Code {
        name: "yaml-tab",
        meaning: "A line is indented with a tab; YAML indents with spaces only",
    };
    /// A word that is a boolean in other versions of YAML.
    pub const BOOLEAN: Code = Code {
        name: "yaml-boolean",
        meaning: "A word such as `yes` or `off` stands without quotes; it is a text here, not a boolean",
    };
    /// A value that needs quotes.
    pub const QUOTE: Code = Code {
        name: "yaml-quote",
        meaning: "A value begins with a character that means something else in YAML and needs quotes",
    };
    /// A value that ends where ` #` begins a comment.
    pub const COMMENT_CUT: Code = Code {
        name: "yaml-comment-cut",
        meaning: "A value seems to be cut off by ` #`, which begins a comment",
    };
    /// A key that is not a text.
    pub const KEY: Code = Code {
        name: "yaml-key",
        meaning: "A key of a mapping is not a text",
    };
    /// A number that is none.
    pub const NUMBER: Code = Code {
        name: "yaml-number",
        meaning: "Infinity and not-a-number are no values here",
    };

    /// All of them, for the reference.
    pub const ALL: &[Code] = &[
        SYNTAX,
        DUPLICATE_KEY,
        TAG,
        LIMIT,
        DOCUMENT,
        TAB,
        BOOLEAN,
        QUOTE,
        COMMENT_CUT,
        KEY,
        NUMBER,
    ];
}

/// How many bytes a file may have.
pub const BYTES_MAX: usize = 1 << 20;
/// How many values a file may have, with every alias counted as what it stands for.
pub const NODES_MAX: usize = 100_000;
/// How deep lists and mappings may nest.
pub const DEPTH_MAX: usize = 64;
/// How many aliases a file may use.
pub const ALIASES_MAX: usize = 1_000;
/// How many mistakes of one reading of a file are reported.
const FINDINGS_MAX: usize = 200;
/// How many syntax mistakes of one file are reported.
const SYNTAX_MAX: usize = 10;

/// A value in a YAML file, with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it stands; of a quoted text with its quotes.
    pub span: Span,
    /// What it is.
    pub data: Data,
}

/// What a YAML value is, by the core schema of YAML 1.2 (only `true` and `false` are booleans).
#[derive(Clone, Debug)]
pub enum Data {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A text.
    Text(Text),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in its order.
    Map(Vec<(Key, Node)>),
}

/// A text and how its characters lie in the file.
#[derive(Clone, Debug)]
pub struct Text {
    /// The text itself.
    pub value: String,
    /// How it is written.
    pub style: Style,
}

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// In single or double quotes.
    Quoted,
    /// As a block, after `|` or `>`.
    Block,
    /// Not in this file: put in for a `${env:..}` or `${file:..}`.
    Variable,
    /// Not in this file: put in for a `${param:..}` of a fragment.
    Parameter,
}

/// A key of a mapping, with its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key's text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// Parses one document. What is wrong becomes findings. The tree is there if the text is YAML within the limits, even if it has other
/// findings, such as a duplicate key (the first one counts). After a syntax mistake the entry is skipped, so that the next one is found too.
pub fn parse(file: &Arc<File>, findings: &mut Findings) -> Option<Node> {
    let read = read(file, findings);
    read.node
        .filter(|_| read.unread.is_empty() && read.dubious.is_empty())
}

/// What could be read of a file, past its syntax mistakes.
#[derive(Default)]
pub struct Read {
    /// The tree, without the entries that could not be read.
    pub node: Option<Node>,
    /// Entries of the tree that could not be read and are left out.
    pub unread: Vec<Span>,
    /// Values that stand in the tree with something else for them, because they need quotes.
    pub dubious: Vec<Span>,
}

/// As `parse`, for checks that go on past syntax mistakes.
pub fn read(file: &Arc<File>, findings: &mut Findings) -> Read {
    let mut read = Read::default();
    if file.text.len() > BYTES_MAX {
        let message = format!(
            "the file has {} bytes, the limit is {BYTES_MAX}",
            file.text.len()
        );
        let place = Place {
            file: file.clone(),
            span: Span::new(0, 0),
        };
        findings.push(
            Diagnostic::error(codes::LIMIT, place, message).help("split it into several files"),
        );
        return read;
    }
    let mut text = file.text.clone();
    for _ in 0..SYNTAX_MAX {
        let again = !read.unread.is_empty() || !read.dubious.is_empty();
        match build::tree(file, &text, again, findings) {
            Ok(tree) => {
                read.node = tree;
                return read;
            }
            Err(stop) => match fault::report(file, &text, &stop, &read.unread, findings) {
                fault::Skip::Value(value) if !read.dubious.contains(&value) => {
                    text = fault::fill(&text, value);
                    read.dubious.push(value);
                }
                fault::Skip::Entry(entry)
                    if entry.start < entry.end && !read.unread.contains(&entry) =>
                {
                    text = fault::blank(&text, entry);
                    read.unread.push(entry);
                }
                _ => return read,
            },
        }
    }
    read
}

impl Node {
    /// The entry with this key, of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// The key and the entry with this key, of a mapping.
    pub fn entry(&self, key: &str) -> Option<(&Key, &Node)> {
        match &self.data {
            Data::Map(entries) => entries
                .iter()
                .find(|(name, _)| name.text == key)
                .map(|(name, node)| (name, node)),
            _ => None,
        }
    }

    /// The entries of a mapping; none for all else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for all else.
    pub fn items(&self) -> &[Node] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The text, of a text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(&text.value),
            _ => None,
        }
    }

    /// The node at a path of keys and list indexes ("retry", "0"), as far as it exists.
    pub fn find(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, part| match &node.data {
            Data::List(items) => part.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => node.get(part),
        })
    }

    /// The value as JSON, for configs that serde reads. A number that fits no integer becomes a float.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(text) => number_to_json(text),
            Data::Text(text) => Value::String(text.value.clone()),
            Data::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.text.clone(), node.to_json()))
                    .collect(),
            ),
        }
    }

    /// Where the bytes `start..end` of a text's value stand in the file. Exact for values on one line and for literal blocks;
    /// where lines are folded, as near as can be; the whole value if it is no text.
    pub fn span_within(&self, file: &File, start: usize, end: usize) -> Span {
        match &self.data {
            Data::Text(text) if matches!(text.style, Style::Variable | Style::Parameter) => {
                self.span
            }
            Data::Text(text) => within::span(&file.text, self.span, text, start, end),
            Data::Number(text) => {
                let inside = |at: usize| self.span.start + at.min(text.len());
                Span::new(inside(start), inside(end))
            }
            _ => self.span,
        }
    }

    /// Where it stands.
    pub fn place(&self, file: &Arc<File>) -> Place {
        Place {
            file: file.clone(),
            span: self.span,
        }
    }
}

fn number_to_json(text: &str) -> serde_json::Value {
    let plain = text.strip_prefix('+').unwrap_or(text);
    if let Some(digits) = plain.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).map_or_else(|_| text.into(), Into::into);
    }
    if let Some(digits) = plain.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).map_or_else(|_| text.into(), Into::into);
    }
    if let Ok(number) = plain.parse::<i64>() {
        return number.into();
    }
    if let Ok(number) = plain.parse::<u64>() {
        return number.into();
    }
    match plain.parse::<f64>() {
        Ok(number) if number.is_finite() => number.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses and lists the findings as `code line:column`.
    fn parsed(text: &str) -> (Option<Node>, String) {
        let file = File::new("a.yaml", text);
        let mut findings = Findings::new();
        let node = parse(&file, &mut findings);
        let list: Vec<_> = findings
            .iter()
            .map(|finding| {
                let (line, column) = finding.place.line_column();
                format!("{} {line}:{column}", finding.code)
            })
            .collect();
        (node, list.join(", "))
    }

    fn check(text: &str, expect: &str) {
        assert_eq!(parsed(text).1, expect, "{text:?}");
    }

    fn json(text: &str) -> String {
        let (node, findings) = parsed(text);
        assert_eq!(findings, "", "{text:?}");
        node.unwrap().to_json().to_string()
    }

    #[test]
    fn values_follow_the_core_schema() {
        let text = "a: [1, -2, 1.50, 0x1F, 0o17, 1e3, ~, null, true, False, '1', 12:30, 2026-01-02, 007, x]";
        assert_eq!(
            json(text),
            r#"{"a":[1,-2,1.5,31,15,1000.0,null,null,true,false,"1","12:30","2026-01-02",7,"x"]}"#
        );
        let (node, _) = parsed("a: 19.90");
        assert!(
            matches!(&node.unwrap().get("a").unwrap().data, Data::Number(text) if text == "19.90")
        );
    }

    #[test]
    fn integers_to_64_bits_stay_integers() {
        assert_eq!(
            json("[9007199254740993, 18446744073709551615]"),
            "[9007199254740993,18446744073709551615]"
        );
    }

    #[test]
    fn aliases_are_written_out() {
        assert_eq!(json("a: &x {b: 1}\nc: *x"), r#"{"a":{"b":1},"c":{"b":1}}"#);
    }

    #[test]
    fn byte_order_marks_and_line_ends_do_not_matter() {
        assert_eq!(
            json("\u{feff}a: 1\r\nb: |\r\n  x\r\n  y\r\n"),
            r#"{"a":1,"b":"x\ny\n"}"#
        );
        let (node, _) = parsed("\u{feff}ä: 1\r\nb: two\r\n");
        let node = node.unwrap();
        let span = node.get("b").unwrap().span;
        assert_eq!((span.start, span.end), (13, 16));
    }

    #[test]
    fn places_are_bytes_and_end_with_the_value() {
        let text = "ä:\n  - ü: [1, {b: 2}] # c\n    d: 'é'\n\nz: |\n  x\n\ny:\n";
        let (node, findings) = parsed(text);
        assert_eq!(findings, "");
        let node = node.unwrap();
        let at = |path: &[&str]| {
            let span = node.find(path).unwrap().span;
            &text[span.start..span.end]
        };
        assert_eq!(at(&["ä", "0", "ü"]), "[1, {b: 2}]");
        assert_eq!(at(&["ä", "0", "ü", "1"]), "{b: 2}");
        assert_eq!(at(&["ä", "0", "d"]), "'é'");
        assert_eq!(at(&["ä", "0"]), "ü: [1, {b: 2}] # c\n    d: 'é'");
        assert_eq!(at(&["z"]), "x");
        assert_eq!(node.get("y").unwrap().span.start, text.len() - 1);
    }

    #[test]
    fn what_yaml_allows_and_a_project_does_not_is_found() {
        check(
            "a: 1\nb: {c: 1, c: 2}\na: 2\n",
            "duplicate-key 2:11, duplicate-key 3:1",
        );
        check("a: !x y\n", "yaml-tag 1:4");
        check("a: !!str 1\n", "yaml-tag 1:4");
        let (node, _) = parsed("a: !open\nb: [!c, d]\n");
        assert_eq!(
            node.unwrap().to_json().to_string(),
            r#"{"a":"!open","b":["!c","d"]}"#
        );
        check(
            "a: no\nb: [ON]\nyes: 'no'\n",
            "yaml-boolean 1:4, yaml-boolean 2:5",
        );
        check(
            "a: .inf\nb: -.INF\nc: .nan",
            "yaml-number 1:4, yaml-number 2:4, yaml-number 3:4",
        );
        check(
            "[a]: 1\n{{b}}: 2\n<<: 3\n",
            "yaml-key 1:1, yaml-quote 2:1, yaml-key 3:1",
        );
        check("a: &x y\n", "yaml-quote 1:4");
        check("a: &x [*x]\n", "yaml-syntax 1:8");
        check("", "yaml-document 1:1");
        check("# nothing\n", "yaml-document 1:1");
        check("a: 1\n---\nb: 2\n", "yaml-document 2:1");
    }

    #[test]
    fn a_cut_value_is_told_from_a_comment() {
        check("a: x[?y == 'z #1']\n", "yaml-comment-cut 1:4");
        check("a: x || #1\n", "yaml-comment-cut 1:4");
        check("a: order #12\n", "yaml-comment-cut 1:4");
        check("a: x[0] # first\nb: it's # fine\nc: 1 #two\nd: x #c\n", "");
    }

    #[test]
    fn syntax_mistakes_have_a_place_and_several_are_found() {
        check("a: 1\nfoo\nb: 2\n", "yaml-syntax 2:1");
        check("a: 1\n b: 2\n", "yaml-syntax 2:3");
        check("a: [1, 2\nb: 3\n", "yaml-syntax 1:4");
        check("a: {x: 1\nb: 3\n", "yaml-syntax 1:4");
        check("a: \"x\nb: 1\n", "yaml-syntax 1:4");
        check("a: 'x", "yaml-syntax 1:4");
        check("a: \"\\d\"\n", "yaml-syntax 1:4");
        check("a: ]\n", "yaml-syntax 1:4");
        check("a:1\nb: 2\n", "yaml-syntax 1:2");
        check("a:\n\tb: 1\n", "yaml-tab 2:1");
        check("a:\n  b: 1\n\tc: 2\n", "yaml-tab 3:1");
        check("a: - x\n", "yaml-syntax 1:4");
        check(
            "ä: @x\nb:\n  - [1,\n  - c\nd: 'x' == y\ne: 1\ne: 2\n",
            "yaml-quote 1:4, yaml-syntax 3:5, yaml-quote 5:4, duplicate-key 7:1",
        );
    }

    #[test]
    fn values_that_need_quotes_are_told() {
        for value in [
            "@x",
            "`x`",
            "*x",
            "%x",
            "|x",
            "> 5",
            "b: c",
            "'x' == y",
            "\"x\" == y",
            "[x][0]",
        ] {
            check(&format!("k: 1\na: {value}\n"), "yaml-quote 2:4");
            if value != "b: c" {
                check(&format!("k: 1\na:\n  - {value}\n"), "yaml-quote 3:5");
            }
        }
        check("a: {{x}}\n", "yaml-quote 1:4");
    }

    #[test]
    fn bombs_fail_at_once() {
        let started = std::time::Instant::now();
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for n in 1..30 {
            let before = n - 1;
            laughs += &format!(
                "a{n}: &a{n} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n"
            );
        }
        assert!(parsed(&laughs).1.starts_with("yaml-limit"));
        let mut chain = String::from("a0: &a0 [x]\n");
        for n in 1..100 {
            chain += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
        }
        check(&chain, "yaml-limit 64:12");
        let many = format!("a: &a 1\nb: [{}*a]\n", "*a, ".repeat(1000));
        assert!(parsed(&many).1.starts_with("yaml-limit 2:"));
        check(&"[".repeat(1_000_000), "yaml-limit 1:256");
        check(&"- ".repeat(500_000), "yaml-limit 1:129");
        assert!(
            parsed(&"{a: ".repeat(200_000))
                .1
                .starts_with("yaml-limit 1:")
        );
        check(
            &format!("a: [{}]", "1,".repeat(200_000)),
            "yaml-limit 1:199999",
        );
        check(&"x".repeat(2 << 20), "yaml-limit 1:1");
        for hostile in [
            "a: ",
            "? ",
            "\"",
            "'",
            "- a\n",
            "&a ",
            "*a ",
            "a:\n",
            "#",
            "\t",
            "a,",
            "!",
            "%",
            "|\n",
            "\r",
            "{}",
            "é: 'ü\n",
            "\u{0}",
        ] {
            let count = (1 << 20) / hostile.len();
            let (_, findings) = parsed(&hostile.repeat(count));
            assert!(findings.len() < 5_000, "{hostile:?}");
        }
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
