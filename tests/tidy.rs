//! Rules about the code that the compiler does not know: floors, first lines, lengths, words, links. It reads files and runs nothing.
#![allow(
    clippy::disallowed_methods,
    reason = "reads the repository's own files"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the lowest. A module uses its own floor and those below it.
const FLOORS: &[&[&str]] = &[
    &["message", "body", "diagnostic", "failure"],
    &[
        "yaml",
        "expression",
        "mapping",
        "schema",
        "template",
        "format",
        "personal",
    ],
    &["world", "net"],
    &[
        "component",
        "source",
        "step",
        "sink",
        "system",
        "store",
        "handoff",
    ],
    &["flow"],
    &["run"],
    &["admin", "cli", "lsp", "demo"],
];

/// Words that are no names for our concepts.
const BANNED: &[&str] = &[
    "pipeline",
    "processor",
    "transform",
    "input",
    "output",
    "event",
    "record",
    "job",
    "task",
    "manager",
    "service",
    "helper",
    "util",
    "handler",
];

/// How many lines a file may have.
const FILE_LINES_MAX: usize = 700;
/// How many lines a function may have.
const FUNCTION_LINES_MAX: usize = 70;
/// Functions that may be longer, as `file: name`. Empty, and meant to stay so.
const LONG_FUNCTIONS: &[&str] = &[];
/// Files that may re-export.
const RE_EXPORTS: &[&str] = &["engine/lib.rs", "engine/body.rs"];

/// A source file: its path below the repository, its text, and the text with comments and literals blanked.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The lines of code outside of the unit tests, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("tests.rs")
    }

    /// The code before the unit tests.
    fn without_tests(&self) -> &str {
        let end = self.code.find("#[cfg(test)]\nmod tests");
        &self.code[..end.unwrap_or(self.code.len())]
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|known| known == extension) {
            found.push(path);
        }
    }
    found.sort();
}

fn below_root(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap()
        .to_string_lossy()
        .replace('\\', "/")
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        files(&root().join(folder), "rs", &mut paths);
    }
    assert!(!paths.is_empty(), "no sources below {folders:?}");
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            Source {
                path: below_root(path),
                code: blanked(&text),
                text,
            }
        })
        .collect()
}

/// Fails with all problems at once.
fn expect_none(problems: &[String], rule: &str) {
    assert!(problems.is_empty(), "{rule}\n{}\n", problems.join("\n"));
}

#[test]
fn modules_use_their_own_floor_and_those_below() {
    let mut problems = Vec::new();
    let floor_of = |module: &str| FLOORS.iter().position(|floor| floor.contains(&module));
    for source in sources(&["engine"]) {
        let inside = source.path.strip_prefix("engine/").unwrap();
        let module = inside
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let Some(own) = floor_of(&module) else {
            problems.push(format!("{}: `{module}` stands on no floor", source.path));
            continue;
        };
        for (line, name) in uses(&source.code) {
            match floor_of(&name) {
                Some(floor) if floor > own => problems.push(format!(
                    "{}:{line}: `{module}` (floor {}) uses `{name}` (floor {})",
                    source.path,
                    own + 1,
                    floor + 1
                )),
                _ => {}
            }
        }
    }
    expect_none(&problems, "dependencies point down the floors");
}

/// The modules that `crate::x` and `crate::{x, y::z}` name, with their lines.
fn uses(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut begins = true;
            for (at, character) in group.char_indices() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begins = true,
                    c if c.is_whitespace() => {}
                    _ if begins => {
                        begins = false;
                        found.push((line + group[..at].matches('\n').count(), word(&group[at..])));
                    }
                    _ => {}
                }
            }
        } else {
            found.push((line, word(rest)));
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn upward_uses_are_seen_in_every_form() {
    let code = "use crate::{body::Item, run::{a, b},\n  flow};\nfn f() { crate::cli::x(); }";
    let names: Vec<_> = uses(code);
    assert_eq!(
        names,
        [
            (1, "body".to_owned()),
            (1, "run".to_owned()),
            (2, "flow".to_owned()),
            (3, "cli".to_owned())
        ]
    );
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    let mut problems = Vec::new();
    for source in sources(&["engine", "tests", "benches"]) {
        if !source.text.starts_with("//! ") {
            problems.push(format!("{}:1: begin with `//!`", source.path));
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            problems.push(format!(
                "{}: {lines} lines, at most {FILE_LINES_MAX}: split it along a noun",
                source.path
            ));
        }
    }
    expect_none(&problems, "a file begins with what it is, and is short");
}

#[test]
fn functions_stay_short() {
    let mut problems = Vec::new();
    for source in sources(&["engine"]) {
        if source.is_test() {
            continue;
        }
        for (line, name, length) in functions(source.without_tests()) {
            let known = LONG_FUNCTIONS.contains(&format!("{}: {name}", source.path).as_str());
            if length > FUNCTION_LINES_MAX && !known {
                problems.push(format!(
                    "{}:{line}: `{name}` has {length} lines, at most {FUNCTION_LINES_MAX}",
                    source.path
                ));
            }
        }
    }
    expect_none(&problems, "a function is short");
}

/// The functions of some code: line, name, and how many lines each has.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name = word(&code[at + 3..]);
        if name.is_empty() {
            continue;
        }
        // A body, or the `;` of a declaration, whichever comes first; a `;` within brackets belongs to a type.
        let mut brackets = 0;
        let body = code[at..].char_indices().find(|(_, character)| {
            match character {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                _ => {}
            }
            *character == '{' || (*character == ';' && brackets == 0)
        });
        let Some((begin, '{')) = body else {
            continue;
        };
        let mut depth = 0;
        let end = code[at + begin..].char_indices().find(|(_, character)| {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let end = at + begin + end.map_or(0, |(end, _)| end);
        let line = code[..at].matches('\n').count() + 1;
        found.push((line, name, code[at..end].matches('\n').count() + 1));
    }
    found
}

#[test]
fn function_lengths_are_counted() {
    let code = "fn a(x: [u8; 2]) -> u8 {\n  1\n}\ntrait T { fn b(); }\nfn c() { fn d() {\n} }";
    let found = functions(code);
    let expect = [(1, "a", 3), (5, "c", 2), (5, "d", 2)];
    let expect: Vec<_> = expect
        .iter()
        .map(|(line, name, length)| (*line, (*name).to_owned(), *length))
        .collect();
    assert_eq!(found, expect);
}

#[test]
fn names_keep_to_the_glossary() {
    let mut problems = Vec::new();
    for source in sources(&["engine"]) {
        for (line, code) in source.lines() {
            for kind in ["struct ", "enum ", "trait ", "mod ", "type ", "union "] {
                let Some(name) = declared(code, kind) else {
                    continue;
                };
                for word in words(&name) {
                    let singular = word.strip_suffix('s').unwrap_or(&word);
                    if BANNED.contains(&word.as_str()) || BANNED.contains(&singular) {
                        problems.push(format!(
                            "{}:{line}: `{name}`: the word `{word}` is not in the glossary",
                            source.path
                        ));
                    }
                }
            }
        }
    }
    expect_none(&problems, "one concept, one name");
}

/// The name that a line declares with a keyword. An associated type belongs to its trait, whose words are not ours.
fn declared(line: &str, keyword: &str) -> Option<String> {
    let line = line.trim_start();
    let associated = keyword == "type " && line.contains("Self::");
    let line = line.strip_prefix("pub").map_or(line, |rest| {
        let rest = rest.trim_start();
        match rest.strip_prefix('(') {
            Some(inside) => inside
                .split_once(')')
                .map_or("", |(_, rest)| rest.trim_start()),
            None => rest,
        }
    });
    let name = word(line.strip_prefix(keyword)?.trim_start());
    let foreign = keyword == "type " && matches!(name.as_str(), "Output" | "Item" | "Error");
    (!name.is_empty() && !associated && !foreign).then_some(name)
}

/// The words of a name in camel or snake case, in lowercase.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for character in name.chars() {
        if character == '_' || character.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| character != '_') {
            word.extend(character.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn banned_words_are_seen_in_names() {
    assert_eq!(words("JobHandler_x"), ["job", "handler", "x"]);
    assert_eq!(
        declared("  pub(crate) struct Task<T>", "struct "),
        Some("Task".into())
    );
    assert_eq!(declared("pub mod events;", "mod "), Some("events".into()));
    assert_eq!(declared("type Output = u8;", "type "), None);
    assert_eq!(declared("constructor x", "struct "), None);
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    let mut problems = Vec::new();
    for source in sources(&["engine", "tests", "benches"]) {
        for (line, code) in source.lines() {
            for word in [
                "#[ignore",
                "#[should_panic",
                "todo!",
                "unimplemented!",
                "dbg!",
            ] {
                if code.contains(word) {
                    problems.push(format!("{}:{line}: {word}", source.path));
                }
            }
            let exports = code.trim_start().starts_with("pub use ");
            if exports && !RE_EXPORTS.contains(&source.path.as_str()) {
                problems.push(format!(
                    "{}:{line}: `pub use` outside of lib.rs",
                    source.path
                ));
            }
        }
    }
    expect_none(&problems, "no stubs, no skipped tests, no second names");
}

#[test]
fn no_test_file_is_forgotten() {
    let main = fs::read_to_string(root().join("tests/main.rs")).unwrap();
    let mut problems = Vec::new();
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let is_module = path.extension().is_some_and(|extension| extension == "rs")
            || path.join("mod.rs").exists();
        if is_module && name != "main" && !main.contains(&format!("mod {name};")) {
            problems.push(format!("tests/main.rs does not have `mod {name};`"));
        }
    }
    expect_none(&problems, "every test file runs");
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), "md", &mut pages);
    let mut problems = Vec::new();
    for page in pages.iter().filter(|page| page.exists()) {
        let text = fs::read_to_string(page).unwrap();
        for (line, target) in links(&text) {
            let outside = ["http://", "https://", "mailto:"];
            if outside.iter().any(|scheme| target.starts_with(scheme)) {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let place = format!("{}:{line}: {target}", below_root(page));
            let file = if path.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(path)
            };
            if !file.exists() {
                problems.push(format!("{place}: there is no such file"));
            } else if !anchor.is_empty() && file.extension().is_some_and(|kind| kind == "md") {
                let text = fs::read_to_string(&file).unwrap();
                if !anchors(&text).contains(anchor) {
                    problems.push(format!("{place}: there is no such heading"));
                }
            }
        }
    }
    expect_none(&problems, "links lead somewhere");
}

/// The targets of links in Markdown, outside of code.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // What stands between backticks is code.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for part in plain.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                let target = target.split_whitespace().next().unwrap_or_default();
                found.push((at + 1, target.trim_matches(['<', '>']).to_owned()));
            }
        }
    }
    found
}

/// The anchors that headings get on a page.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn links_are_found_outside_of_code() {
    let text = "[a](b.md#c) `[d](e)` [f](<g h>)\n```\n[i](j)\n```\n![k](l.png \"m\")";
    let targets: Vec<_> = links(text).into_iter().map(|(_, target)| target).collect();
    assert_eq!(targets, ["b.md#c", "g", "l.png"]);
    assert!(anchors("## A `b`, c!\n").contains("a-b-c"));
}

/// The text with comments, strings and characters blanked, so that only code is left; lines stay where they are.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => text[at..].find('\n').map_or(text.len(), |end| at + end),
            [b'/', b'*', ..] => text[at..].find("*/").map_or(text.len(), |end| at + end + 2),
            [b'"', ..] => string_end(bytes, at),
            [b'r', b'"' | b'#', ..] if !is_word(bytes, at) => raw_end(text, at),
            [b'b', b'r', b'"' | b'#', ..] if !is_word(bytes, at) => raw_end(text, at + 1),
            [b'\'', ..] => character_end(text, at),
            _ => at,
        };
        if end == at {
            let character = text[at..].chars().next().unwrap();
            out.push(character);
            at += character.len_utf8();
            continue;
        }
        out.extend(
            text[at..end]
                .chars()
                .map(|character| if character == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    out
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of a raw string that begins with `r` at `start`; `start` itself if there is none (a raw identifier).
fn raw_end(text: &str, start: usize) -> usize {
    let hashes = text[start + 1..].chars().take_while(|c| *c == '#').count();
    let open = start + 1 + hashes;
    if text.as_bytes().get(open) != Some(&b'"') {
        return start;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    text[open + 1..]
        .find(&close)
        .map_or(text.len(), |end| open + 1 + end + close.len())
}

/// The end of a character literal; `start` itself for a lifetime.
fn character_end(text: &str, start: usize) -> usize {
    let mut rest = text[start + 1..].char_indices();
    match rest.next() {
        Some((_, '\\')) => text[start + 3..]
            .find('\'')
            .map_or(text.len(), |end| start + 3 + end + 1),
        Some((_, _)) => match rest.next() {
            Some((at, '\'')) => start + 1 + at + 1,
            _ => start,
        },
        None => start,
    }
}

#[test]
fn literals_and_comments_are_no_code() {
    let text =
        "a \"todo! \\\" x\" b // todo!\n'\"' c 'x 'static r#\"todo!\"# d '\\'' e '\\u{41}' r#type";
    let code = blanked(text);
    let words: Vec<_> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "b", "c", "'x", "'static", "d", "e", "r#type"]);
    assert_eq!(code.lines().count(), 2);
}
