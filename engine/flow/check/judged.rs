//! `check` in `crossdock.yaml`: findings that a project raises, lowers or does not want to be told, each with a reason. What keeps a project from running
//! stays an error.

use std::collections::BTreeMap;

use super::Source;
use crate::component::codes as part_codes;
use crate::diagnostic::{Diagnostic, Findings, Place, Severity, closest};
use crate::flow::codes::TYPED;
use crate::flow::reference::all_codes;
use crate::flow::settings::{Judgement, Settings};
use crate::yaml::Node;

/// How bad findings are in a project, by code.
#[derive(Default)]
pub(crate) struct Judgements {
    by_code: BTreeMap<String, Judgement>,
}

impl Judgements {
    pub(crate) fn of(settings: &Settings) -> Judgements {
        let judged = settings.check.iter();
        Judgements {
            by_code: judged
                .map(|(code, judged)| (code.clone(), judged.severity))
                .collect(),
        }
    }

    /// The finding as this project sees it; nothing if it does not want to be told.
    pub(crate) fn apply(&self, mut finding: Diagnostic) -> Option<Diagnostic> {
        let Some(judged) = self.by_code.get(finding.code.name) else {
            return Some(finding);
        };
        let typed = TYPED.contains(&finding.code);
        match judged {
            Judgement::Error => finding.severity = Severity::Error,
            Judgement::Warning if typed => finding.severity = Severity::Warning,
            Judgement::Off if typed || finding.severity == Severity::Warning => return None,
            Judgement::Warning | Judgement::Off => {}
        }
        Some(finding)
    }

    /// All findings as this project sees them.
    pub(crate) fn all(&self, findings: Findings) -> Findings {
        if self.by_code.is_empty() {
            return findings;
        }
        let mut seen = Findings::new();
        for finding in findings.iter() {
            if let Some(finding) = self.apply(finding.clone()) {
                seen.push(finding);
            }
        }
        seen
    }
}

/// Checks that the codes exist, and that each has a reason.
pub(crate) fn check(source: &Source, node: &Node, findings: &mut Findings) {
    let place = |span| Place {
        file: source.file.clone(),
        span,
    };
    let all = all_codes();
    for (key, rule) in node.get("check").map_or(&[][..], Node::entries) {
        if !all.iter().any(|code| code.name == key.text) {
            let help = match closest(&key.text, all.iter().map(|code| code.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`crossdock explain` lists all codes".to_owned(),
            };
            let message = format!("there is no finding `{}`", key.text);
            findings.push(
                Diagnostic::error(part_codes::BAD_VALUE, place(key.span), message).help(help),
            );
        }
        let lowered = rule
            .get("severity")
            .filter(|at| at.as_text() == Some("warning"));
        if let Some(at) = lowered
            && all
                .iter()
                .any(|code| code.name == key.text && !TYPED.contains(code))
        {
            let message = format!(
                "`{}` cannot be made a warning: what it says keeps a project from running, or is one",
                key.text
            );
            let help = "only what types find can be lowered; `off` silences warnings";
            findings
                .push(Diagnostic::error(part_codes::BAD_VALUE, place(at.span), message).help(help));
        }
        if let Some(reason) = rule.get("reason")
            && reason.as_text().is_some_and(|text| text.trim().is_empty())
        {
            let message = format!("`{}` is judged without a reason", key.text);
            findings.push(
                Diagnostic::error(part_codes::BAD_VALUE, place(reason.span), message)
                    .help("say why, for whoever reads this later"),
            );
        }
    }
}
