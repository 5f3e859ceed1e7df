//! Findings for people and machines: text with carets, JSON, SARIF 2.1.0 and GitHub annotations. It writes and decides nothing.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::{Code, Diagnostic, File, Findings, Place, Severity, Span};

/// How many lines of one place are shown.
const LINES_MAX: usize = 6;
/// How far apart two places of one file may be to share one excerpt.
const SHARED_LINES_MAX: usize = 2_000;
/// How wide an excerpt is, in characters.
const WIDTH: usize = 140;
/// How many bytes of a line are looked at.
const LINE_BYTES_MAX: usize = 4_096;

/// Writes findings for a person: the line, a caret, one line of help, and a summary. Nothing if there are none.
pub fn text(findings: &Findings, out: &mut (impl Write + ?Sized), color: bool) -> io::Result<()> {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let renderer = renderer.term_width(WIDTH).decor_style(DecorStyle::Ascii);
    for finding in findings.sorted() {
        writeln!(out, "{}\n", renderer.render(&[group(finding)]))?;
    }
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", summary(findings))
}

/// The last line: `3 errors, 1 warning in 2 files`.
pub fn summary(findings: &Findings) -> String {
    let files: BTreeSet<&str> = findings
        .iter()
        .map(|finding| finding.place.file.path.as_str())
        .collect();
    let counted = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    let mut parts = Vec::new();
    if findings.errors() > 0 {
        parts.push(counted(findings.errors(), "error"));
    }
    if findings.warnings() > 0 {
        parts.push(counted(findings.warnings(), "warning"));
    }
    if parts.is_empty() {
        return "no errors, no warnings".to_owned();
    }
    format!("{} in {}", parts.join(", "), counted(files.len(), "file"))
}

/// Writes findings as one JSON array, one object a line.
pub fn json(findings: &Findings, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let sorted = findings.sorted();
    write!(out, "[")?;
    for (at, finding) in sorted.iter().enumerate() {
        let (end_line, end_column) = end(&finding.place);
        let (line, column) = finding.place.line_column();
        let mut value = json!({
            "code": finding.code.name,
            "severity": finding.severity.name(),
            "file": finding.place.file.path,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
            "message": finding.message,
            "help": finding.help,
        });
        if !finding.witness.is_empty() {
            value["witness"] = json!(finding.witness);
        }
        if !finding.related.is_empty() {
            value["related"] = finding.related.iter().map(related_json).collect();
        }
        let comma = if at == 0 { "" } else { "," };
        write!(out, "{comma}\n  {value}")?;
    }
    writeln!(out, "{}]", if sorted.is_empty() { "" } else { "\n" })
}

/// Writes findings as a SARIF 2.1.0 log.
pub fn sarif(findings: &Findings, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let codes: BTreeSet<Code> = findings.iter().map(|finding| finding.code).collect();
    let rules: Vec<Value> = codes
        .iter()
        .map(|code| {
            json!({
                "id": code.name,
                "shortDescription": { "text": code.meaning },
            })
        })
        .collect();
    let results: Vec<Value> = findings
        .sorted()
        .into_iter()
        .map(|finding| sarif_result(finding, &codes))
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "crossdock",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &log)?;
    writeln!(out)
}

/// Writes findings as workflow commands, which GitHub shows beside the changed lines.
pub fn github(findings: &Findings, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
    for finding in findings.sorted() {
        let (line, column) = finding.place.line_column();
        let (end_line, end_column) = end(&finding.place);
        let mut message = finding.message.clone();
        if !finding.help.is_empty() {
            message.push_str("\nhelp: ");
            message.push_str(&finding.help);
        }
        // GitHub takes an end column only on the line where the finding begins.
        let end = if end_line == line {
            format!(",endColumn={end_column}")
        } else {
            String::new()
        };
        writeln!(
            out,
            "::{} file={},line={line},endLine={end_line},col={column}{end},title={}::{}",
            finding.severity.name(),
            property(&finding.place.file.path),
            property(finding.code.name),
            command(&message),
        )?;
    }
    Ok(())
}

/// Line and column after the last byte.
fn end(place: &Place) -> (usize, usize) {
    place.file.line_column(place.span.end)
}

fn related_json((place, words): &(Place, String)) -> Value {
    let (line, column) = place.line_column();
    json!({ "file": place.file.path, "line": line, "column": column, "message": words })
}

fn sarif_result(finding: &Diagnostic, codes: &BTreeSet<Code>) -> Value {
    let message = if finding.help.is_empty() {
        finding.message.clone()
    } else {
        format!("{}\n{}", finding.message, finding.help)
    };
    let related: Vec<Value> = finding
        .related
        .iter()
        .map(|(place, words)| {
            let mut location = sarif_location(place);
            location["message"] = json!({ "text": words });
            location
        })
        .collect();
    let mut result = json!({
        "ruleId": finding.code.name,
        "ruleIndex": codes.iter().position(|code| *code == finding.code),
        "level": finding.severity.name(),
        "message": { "text": message },
        "locations": [sarif_location(&finding.place)],
    });
    if !related.is_empty() {
        result["relatedLocations"] = Value::Array(related);
    }
    result
}

fn sarif_location(place: &Place) -> Value {
    let (line, column) = place.line_column();
    let (end_line, end_column) = end(place);
    json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri(&place.file.path) },
            "region": {
                "startLine": line,
                "startColumn": column,
                "endLine": end_line,
                "endColumn": end_column,
            },
        },
    })
}

/// A relative path as a URI reference.
fn uri(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn command(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    command(text).replace(':', "%3A").replace(',', "%2C")
}

fn group(finding: &Diagnostic) -> Group<'_> {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&*finding.message).id(finding.code.name);
    let here = &finding.place;
    let near: Vec<&(Place, String)> = finding
        .related
        .iter()
        .filter(|(place, _)| shares(here, place))
        .collect();
    let spans: Vec<(Span, AnnotationKind, &str)> =
        std::iter::once((here.span, AnnotationKind::Primary, ""))
            .chain(
                near.iter()
                    .map(|(place, words)| (place.span, AnnotationKind::Context, words.as_str())),
            )
            .collect();
    let mut group = Group::with_title(title).element(snippet(&here.file, &spans));
    for (place, words) in &finding.related {
        if !shares(here, place) {
            let span = [(place.span, AnnotationKind::Context, words.as_str())];
            group = group.element(snippet(&place.file, &span));
        }
    }
    if !finding.help.is_empty() {
        group = group.element(Level::HELP.message(&*finding.help));
    }
    group
}

/// Whether two places can stand in one excerpt.
fn shares(a: &Place, b: &Place) -> bool {
    let lines = |place: &Place| place.line_column().0;
    a.file.path == b.file.path && lines(a).abs_diff(lines(b)) <= SHARED_LINES_MAX
}

/// The lines of some places, with their marks. Only these lines are handed on, so that a large file costs no more than a small one.
fn snippet<'a>(
    file: &'a Arc<File>,
    spans: &[(Span, AnnotationKind, &'a str)],
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let lines: Vec<usize> = spans
        .iter()
        .map(|(span, ..)| file.line_column(span.start).0)
        .collect();
    let first = lines.iter().copied().min().unwrap_or(1);
    let from = file.line_start(first);
    let ends: Vec<usize> = spans
        .iter()
        .zip(&lines)
        .map(|((span, ..), line)| {
            let most = line_end(file, line + LINES_MAX - 1);
            span.end.clamp(span.start, most.max(span.start))
        })
        .collect();
    let last = ends.iter().copied().max().unwrap_or(from);
    let to = line_end(file, file.line_column(last).0);
    // A file may be one very long line: what is far behind the last mark is not looked at.
    let to = character_border(&file.text, to.min(last + LINE_BYTES_MAX));
    let mut snippet = Snippet::source(&file.text[from..to])
        .path(&*file.path)
        .line_start(first)
        .fold(true);
    for ((span, kind, words), end) in spans.iter().zip(&ends) {
        let border = |at: usize| character_border(&file.text, at.clamp(from, to));
        let (start, end) = (border(span.start), border(*end));
        let mark = kind.span(start - from..end - from);
        snippet = snippet.annotation(if words.is_empty() {
            mark
        } else {
            mark.label(*words)
        });
    }
    snippet
}

/// The end of a line, without its line break.
fn line_end(file: &File, line: usize) -> usize {
    let (start, next) = (file.line_start(line), file.line_start(line + 1));
    start + file.text[start..next].trim_end_matches(['\n', '\r']).len()
}

/// The next border between characters.
fn character_border(text: &str, at: usize) -> usize {
    (at..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Code = Code {
        name: "bad-thing",
        meaning: "A thing is bad",
    };
    const ODD: Code = Code {
        name: "odd-thing",
        meaning: "A thing is odd",
    };

    fn place(file: &Arc<File>, part: &str) -> Place {
        let start = file.text.find(part).unwrap();
        Place {
            file: file.clone(),
            span: Span::new(start, start + part.len()),
        }
    }

    fn findings() -> Findings {
        let flow = File::new("flows/ä, b.yaml", "flow: x\nö: zwei\n\n\n\n\nname: x\n");
        let other = File::new("flows/a.yaml", "one: 1\r\ntwo: |\r\n  a\r\n  b\r\n");
        let mut findings = Findings::new();
        findings.push(
            Diagnostic::error(BAD, place(&flow, "zwei"), "100% bad:\nthis, that")
                .help("write `two`")
                .related(place(&flow, "name"), "named here")
                .related(place(&other, "one"), "used from here"),
        );
        findings.push(Diagnostic::warning(ODD, place(&other, "a\r\n  b"), "odd"));
        findings
    }

    fn shown(write: impl Fn(&Findings, &mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&findings(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_has_the_line_a_caret_help_and_a_summary() {
        let expect = "\
warning[odd-thing]: odd
 --> flows/a.yaml:3:3
  |
3 | /   a
4 | |   b
  | |___^

error[bad-thing]: 100% bad:
                  this, that
 --> flows/ä, b.yaml:2:4
  |
2 | ö: zwei
  |    ^^^^
...
7 | name: x
  | ---- named here
  |
 ::: flows/a.yaml:1:1
  |
1 | one: 1
  | --- used from here
  |
  = help: write `two`

1 error, 1 warning in 2 files
";
        assert_eq!(shown(|findings, out| text(findings, out, false)), expect);
        assert!(shown(|findings, out| text(findings, out, true)).contains("\u{1b}["));
    }

    #[test]
    fn nothing_is_written_for_no_findings() {
        let mut out = Vec::new();
        text(&Findings::new(), &mut out, false).unwrap();
        assert!(out.is_empty());
        json(&Findings::new(), &mut out).unwrap();
        assert_eq!(out, b"[]\n");
    }

    #[test]
    fn json_has_the_promised_members() {
        let value: Value = serde_json::from_str(&shown(json)).unwrap();
        let expect = json!([
            { "code": "odd-thing", "severity": "warning", "file": "flows/a.yaml", "line": 3, "column": 3, "end_line": 4,
              "end_column": 4, "message": "odd", "help": "" },
            { "code": "bad-thing", "severity": "error", "file": "flows/ä, b.yaml", "line": 2, "column": 4, "end_line": 2,
              "end_column": 8, "message": "100% bad:\nthis, that", "help": "write `two`", "related": [
                { "file": "flows/ä, b.yaml", "line": 7, "column": 1, "message": "named here" },
                { "file": "flows/a.yaml", "line": 1, "column": 1, "message": "used from here" } ] },
        ]);
        assert_eq!(value, expect);
    }

    #[test]
    fn sarif_has_rules_results_and_regions() {
        let value: Value = serde_json::from_str(&shown(sarif)).unwrap();
        assert_eq!(value["version"], "2.1.0");
        let run = &value["runs"][0];
        assert_eq!(run["tool"]["driver"]["name"], "crossdock");
        assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "bad-thing");
        let result = &run["results"][1];
        assert_eq!(result["ruleId"], "bad-thing");
        assert_eq!(result["ruleIndex"], 0);
        assert_eq!(result["level"], "error");
        let location = &result["locations"][0]["physicalLocation"];
        assert_eq!(
            location["artifactLocation"]["uri"],
            "flows/%C3%A4%2C%20b.yaml"
        );
        assert_eq!(
            location["region"],
            json!({ "startLine": 2, "startColumn": 4, "endLine": 2, "endColumn": 8 })
        );
        assert_eq!(
            result["relatedLocations"][0]["message"]["text"],
            "named here"
        );
    }

    #[test]
    fn github_commands_are_escaped() {
        assert_eq!(
            shown(github),
            "::warning file=flows/a.yaml,line=3,endLine=4,col=3,title=odd-thing::odd\n\
             ::error file=flows/ä%2C b.yaml,line=2,endLine=2,col=4,endColumn=8,title=bad-thing::100%25 bad:%0Athis, that%0Ahelp: write `two`\n"
        );
    }

    #[test]
    fn long_lines_and_odd_places_are_shown_in_part() {
        let long = File::new(
            "long",
            format!("{}here{}", "é".repeat(500_000), "ü".repeat(500_000)),
        );
        let empty = File::new("empty", "");
        let mut findings = Findings::new();
        findings.push(Diagnostic::error(BAD, place(&long, "here"), "m"));
        findings.push(Diagnostic::error(BAD, place(&empty, ""), "m"));
        let past = Place {
            file: empty.clone(),
            span: Span::new(5, 9),
        };
        findings.push(Diagnostic::error(BAD, past, "past the end"));
        let many = File::new("many", "line\n".repeat(100_000));
        findings.push(Diagnostic::error(
            BAD,
            place(&many, &many.text),
            "all of it",
        ));
        let started = std::time::Instant::now();
        let mut out = Vec::new();
        text(&findings, &mut out, false).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(shown.len() < 5_000 && shown.contains("here"), "{shown}");
        assert!(started.elapsed().as_secs() < 5);
    }
}
