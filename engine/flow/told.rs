//! One finding for one mistake: where a slip in YAML makes an expression broken, only the slip is told. It finds nothing by itself.

use crate::diagnostic::{Diagnostic, Findings, Severity};
use crate::expression::codes::EXPRESSION_SYNTAX;
use crate::yaml::codes::{BOOLEAN, COMMENT_CUT};
use crate::yaml::shape::codes::{MISSING_FIELD, UNKNOWN_FIELD};

/// The findings, without those that follow from others.
pub(super) fn once(all: Findings) -> Findings {
    let cut: Vec<Diagnostic> = all
        .iter()
        .filter(|finding| finding.code == COMMENT_CUT)
        .cloned()
        .collect();
    let split: Vec<Diagnostic> = all
        .iter()
        .filter(|finding| is_split(finding))
        .cloned()
        .collect();
    let mut kept = Findings::new();
    for finding in all.iter() {
        if is_severity(finding) {
            continue;
        }
        let named = name_of(finding);
        if named.is_some() && all.iter().any(|other| is_name_key(other, finding)) {
            continue;
        }
        if cut.iter().any(|cut| within(finding, cut))
            || split.iter().any(|split| is_rest(finding, split))
        {
            continue;
        }
        let mut finding = finding.clone();
        if finding.code == COMMENT_CUT && all.iter().any(|other| within(other, &finding)) {
            finding.severity = Severity::Error;
        }
        if let Some(key) = all
            .iter()
            .filter(|other| is_name_key(&finding, other))
            .find_map(name_of)
        {
            finding.help = format!("the name stands behind `{key}`: write `{key}: ..`");
        }
        if is_split(&finding) {
            finding.help =
                "between `{` and `}` a comma ends the value: quote the whole expression".to_owned();
        }
        kept.push(finding);
    }
    kept
}

/// `off` behind `severity` is a word of the language, and no slip.
fn is_severity(finding: &Diagnostic) -> bool {
    let place = &finding.place;
    let before = place.file.text.get(..place.span.start).unwrap_or_default();
    finding.code == BOOLEAN && before.trim_end().ends_with("severity:")
}

/// The key for the name of what a file declares, if the finding is that it is missing.
fn name_of(finding: &Diagnostic) -> Option<&'static str> {
    let keys = ["flow", "fragment", "mapping", "system"];
    keys.into_iter().find(|key| {
        finding.code == MISSING_FIELD
            && finding.place.line_column().1 == 1
            && (finding.message == format!("the field `{key}` is missing")
                || finding.message == format!("a {key} needs `{key}`"))
    })
}

/// Whether the name is there, behind `name`.
fn is_name_key(finding: &Diagnostic, missing: &Diagnostic) -> bool {
    let (place, file) = (&finding.place, &missing.place.file);
    finding.code == UNKNOWN_FIELD
        && name_of(missing).is_some()
        && place.file.path == file.path
        && place.line_column().1 == 1
        && place.file.text.get(place.span.start..place.span.end) == Some("name")
}

/// Whether something is broken because its value is cut off by ` #`.
fn within(finding: &Diagnostic, cut: &Diagnostic) -> bool {
    let (place, whole) = (&finding.place, &cut.place);
    finding.code != cut.code
        && finding.severity == Severity::Error
        && place.file.path == whole.file.path
        && whole.span.start <= place.span.start
        && place.span.end <= whole.span.end
}

/// Whether an expression ends too early, at a comma between braces: `{ total: add(a, b) }`.
fn is_split(finding: &Diagnostic) -> bool {
    let place = &finding.place;
    let behind = place.file.text.get(place.span.end..).unwrap_or_default();
    let text = place.file.text.get(..place.span.end).unwrap_or_default();
    let line = text.rsplit('\n').next().unwrap_or_default();
    finding.code == EXPRESSION_SYNTAX
        && place.file.path.ends_with(".yaml")
        && behind.starts_with(',')
        && line.contains(['{', '['])
        && count(line, '(') > count(line, ')')
}

/// Whether a finding is about what stands behind such a comma, up to the closing parenthesis.
fn is_rest(finding: &Diagnostic, split: &Diagnostic) -> bool {
    let (place, first) = (&finding.place, &split.place);
    if place.file.path != first.file.path || place.span.start <= first.span.end {
        return false;
    }
    let between = place
        .file
        .text
        .get(first.span.end..place.span.start)
        .unwrap_or_default();
    !between.contains(['\n', ')', '}'])
}

fn count(text: &str, character: char) -> usize {
    text.matches(character).count()
}
