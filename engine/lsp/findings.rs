//! Findings as editors show them: at their places, with related places, and the slips that can be put right at once.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::position;
use crate::diagnostic::{Diagnostic, File, Severity, Span};
use crate::flow::workspace::View;

/// How many findings of one file are shown.
const SHOWN_MAX: usize = 500;

/// The findings of each file, by its path.
pub(super) fn by_file(view: &View, root: &Path) -> BTreeMap<String, Vec<Value>> {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for finding in view.findings.sorted() {
        let path = match finding.place.file.path.as_str() {
            // What is wrong with the folder itself is shown where its settings are, or would be.
            "." => "crossdock.yaml",
            path => path,
        };
        let list = all.entry(path.to_owned()).or_default();
        if list.len() < SHOWN_MAX {
            list.push(shown(finding, root));
        }
    }
    all
}

fn shown(finding: &Diagnostic, root: &Path) -> Value {
    let message = if finding.help.is_empty() {
        finding.message.clone()
    } else {
        format!("{}\n{}", finding.message, finding.help)
    };
    let severity = match finding.severity {
        Severity::Error => 1,
        Severity::Warning => 2,
    };
    let related: Vec<Value> = finding
        .related
        .iter()
        .map(|(place, words)| json!({ "location": position::location(root, place), "message": words }))
        .collect();
    json!({
        "range": position::range(&finding.place.file, finding.place.span),
        "severity": severity,
        "code": finding.code.name,
        "source": "crossdock",
        "message": message,
        "relatedInformation": related,
    })
}

/// The slips in a range of a file that can be put right at once, as edits.
pub(super) fn fixes(view: &View, root: &Path, file: &File, uri: &str, range: &Value) -> Vec<Value> {
    let start = position::offset(file, &range["start"]);
    let end = position::offset(file, &range["end"]);
    let here = |finding: &&&Diagnostic| {
        let Span {
            start: from,
            end: to,
        } = finding.place.span;
        // A finding about a text that has changed since has its place elsewhere.
        finding.place.file.path == file.path
            && finding.place.file.text == file.text
            && from <= end
            && start <= to
    };
    let all = view.findings.sorted();
    let fixes = all.iter().filter(here).filter_map(|finding| {
        let (span, right) = fix(finding)?;
        let wrong = file.text.get(span.start..span.end)?;
        let edit = json!({ "range": position::range(file, span), "newText": right });
        Some(json!({
            "title": format!("Change `{wrong}` to `{right}`"),
            "kind": "quickfix",
            "isPreferred": true,
            "diagnostics": [shown(finding, root)],
            "edit": { "changes": { uri: [edit] } },
        }))
    });
    fixes.collect()
}

/// The word that is wrong and the one that was meant, where a finding asks `did you mean`.
fn fix(finding: &Diagnostic) -> Option<(Span, String)> {
    let right = |text: &str| {
        let (_, behind) = text.split_once("did you mean `")?;
        Some(behind.split_once('`')?.0.to_owned())
    };
    let right = right(&finding.help).or_else(|| right(&finding.message))?;
    let Span { start, end } = finding.place.span;
    let text = finding.place.file.text.get(start..end)?;
    let quoted = finding.message.split('`').skip(1).step_by(2);
    let mut wrong: Vec<&str> = quoted.filter(|word| *word != right).collect();
    // Where the message shows the word as it is meant, the place itself is the word.
    wrong.push(text.trim_matches(['"', '\'']));
    wrong.into_iter().find_map(|word| {
        let at = start + text.find(word).filter(|_| !word.is_empty())?;
        Some((Span::new(at, at + word.len()), right.clone()))
    })
}
