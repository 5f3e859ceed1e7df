//! What a project requires of itself beyond what must be right: owners, guarded effects, TLS, no credentials in files, nothing deprecated.

use std::collections::BTreeSet;

use regex::Regex;

use super::Source;
use crate::diagnostic::{Diagnostic, Findings, Place, Severity, Span};
use crate::flow::codes;
use crate::flow::governance::{Kind, Register};
use crate::flow::settings::{Level, Policies, Policy};
use crate::system::codes as system_codes;
use crate::yaml::{Data, Node, Style};

/// What the policies of a project are held against.
pub(crate) struct Project<'p> {
    /// What the project declares.
    pub(crate) register: &'p Register,
    /// All files that may hold credentials.
    pub(crate) sources: Vec<&'p Source>,
    /// `crossdock.yaml`.
    pub(crate) settings: Option<&'p Source>,
    /// The day, such as `2026-11-21`.
    pub(crate) today: String,
}

/// Holds a project against its policies: adds what they forbid, and gives what was found before the weight that they say.
pub(crate) fn check(policies: &Policies, project: &Project<'_>, findings: &mut Findings) {
    let mut excused: BTreeSet<(&'static str, String)> = BTreeSet::new();
    let found = std::mem::take(findings);
    for finding in found.iter() {
        findings.extend(weighed(policies, project, finding, &mut excused));
    }
    let mut more: Vec<(&'static str, Vec<String>, Diagnostic)> = Vec::new();
    if policies.owner.is_some() {
        more.extend(unowned(project));
    }
    if policies.contracts.is_some() {
        more.extend(without_contract(project));
    }
    if policies.deprecated.is_some() {
        more.extend(deprecated(project));
    }
    if policies.secrets.is_some() {
        more.extend(credentials(project));
    }
    for (name, subjects, finding) in more {
        let Some(policy) = policies.named(name) else {
            continue;
        };
        match excuse(policy, &subjects) {
            Some(subject) => {
                excused.insert((name, subject));
            }
            None => findings.push(with_level(finding, policy.level())),
        }
    }
    unused(policies, project, &excused, findings);
}

fn with_level(mut finding: Diagnostic, level: Level) -> Diagnostic {
    finding.severity = match level {
        Level::Error => Severity::Error,
        Level::Warning => Severity::Warning,
    };
    finding
}

/// The first of the subjects that the policy makes an exception for.
fn excuse(policy: &Policy, subjects: &[String]) -> Option<String> {
    let exceptions = policy.exceptions();
    let named = |subject: &&String| exceptions.iter().any(|one| one.name == **subject);
    subjects.iter().find(named).cloned()
}

/// A finding of another pass, if a policy speaks of it: heavier, or excused.
fn weighed(
    policies: &Policies,
    project: &Project<'_>,
    finding: &Diagnostic,
    excused: &mut BTreeSet<(&'static str, String)>,
) -> Findings {
    let mut findings = Findings::new();
    let name = match finding.code {
        codes::UNGUARDED_EFFECT => "effects",
        system_codes::PLAIN_HTTP => "plain_http",
        _ => "",
    };
    let Some(policy) = policies.named(name) else {
        findings.push(finding.clone());
        return findings;
    };
    let places = finding.related.iter().map(|(place, _)| place);
    let subjects: Vec<String> = std::iter::once(&finding.place)
        .chain(places)
        .filter_map(|place| subject(project, place))
        .collect();
    match excuse(policy, &subjects) {
        Some(subject) => {
            excused.insert((name, subject));
        }
        None => findings.push(with_level(finding.clone(), policy.level())),
    }
    findings
}

/// What the file of a place declares.
fn subject(project: &Project<'_>, place: &Place) -> Option<String> {
    let all = project.register.entries.values();
    let entry = all
        .filter(|entry| matches!(entry.thing.kind, Kind::Flow | Kind::Fragment | Kind::System))
        .find(|entry| entry.place.file.path == place.file.path)?;
    Some(entry.thing.name.clone())
}

/// Flows and systems for which nobody answers.
fn unowned(project: &Project<'_>) -> Vec<(&'static str, Vec<String>, Diagnostic)> {
    let kinds = [Kind::Flow, Kind::System];
    let all = kinds.iter().flat_map(|kind| project.register.of(*kind));
    all.filter(|entry| entry.owner.is_none())
        .map(|entry| {
            let message = format!("nobody answers for the {}", entry.thing.kind.name())
                + &format!(" `{}`", entry.thing.name);
            let finding = Diagnostic::error(codes::UNOWNED, entry.place.clone(), message)
                .help("add `owner:` with a team or a person; the project requires it");
            ("owner", vec![entry.thing.name.clone()], finding)
        })
        .collect()
}

/// Flows that take bodies from outside and do not say which.
fn without_contract(project: &Project<'_>) -> Vec<(&'static str, Vec<String>, Diagnostic)> {
    let inner = ["flow", "schedule", "generate"];
    let flows = project.register.of(Kind::Flow);
    flows
        .filter(|flow| {
            let outside = flow
                .source
                .as_deref()
                .is_some_and(|kind| !inner.contains(&kind));
            outside && !flow.uses.iter().any(|used| used.by == "accepts")
        })
        .map(|flow| {
            let message = format!("the flow `{}` takes any body from outside", flow.thing.name);
            let finding = Diagnostic::error(codes::NO_CONTRACT, flow.place.clone(), message)
                .help("add `accepts:` with a schema; the project requires it");
            ("contracts", vec![flow.thing.name.clone()], finding)
        })
        .collect()
}

/// Uses of what is to be given up.
fn deprecated(project: &Project<'_>) -> Vec<(&'static str, Vec<String>, Diagnostic)> {
    let mut all = Vec::new();
    for entry in project.register.entries.values() {
        // What is given up itself may use what is given up.
        if entry.deprecated.is_some() {
            continue;
        }
        for used in &entry.uses {
            let target = project.register.entries.get(&used.thing);
            let Some((target, details)) =
                target.and_then(|target| Some((target, target.deprecated.as_ref()?)))
            else {
                continue;
            };
            let over = if details.is_over(&project.today) {
                ", and its last day is past"
            } else {
                ""
            };
            let message = format!("the {} is deprecated{over}", used.thing);
            let help = match &details.instead {
                Some(instead) => format!("use `{instead}` instead: {}", details.words()),
                None => details.words(),
            };
            let finding = Diagnostic::error(codes::DEPRECATED_USE, used.place.clone(), message)
                .help(help)
                .related(target.place.clone(), "declared here");
            let subjects = vec![used.thing.name.clone(), entry.thing.name.clone()];
            all.push(("deprecated", subjects, finding));
        }
    }
    all
}

/// Texts that look like credentials, in fields that are not known to be secret.
fn credentials(project: &Project<'_>) -> Vec<(&'static str, Vec<String>, Diagnostic)> {
    let shapes = Regex::new(concat!(
        r"AKIA[0-9A-Z]{16}|\bsk_live_[0-9A-Za-z]{10,}|\bgh[pousr]_[0-9A-Za-z]{20,}|\bxox[abpr]-[0-9A-Za-z-]{10,}",
        r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\beyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.|\bshp(at|ss)_[0-9a-f]{20,}",
        r"|(?i:\b(bearer|basic) [0-9A-Za-z+/._=-]{12,})|(?i:[?&](api_?key|token|secret|password)=[^&{$]{6,})",
    ))
    .expect("the pattern of credentials is a pattern");
    let mut all = Vec::new();
    for source in &project.sources {
        let place = |span: Span| Place {
            file: source.file.clone(),
            span,
        };
        let mut found = Vec::new();
        texts(&source.node, "", &mut |key, node| {
            if is_credential(key, node, &shapes) {
                found.push((key.to_owned(), node.span));
            }
        });
        for (key, span) in found {
            let message = format!("`{key}` looks like a credential in the open");
            let finding = Diagnostic::error(codes::LITERAL_CREDENTIAL, place(span), message)
                .help("write `${env:NAME}` or `${file:/run/secrets/name}` and keep it outside of the project");
            let subjects = subject(project, &place(span)).into_iter().collect();
            all.push(("secrets", subjects, finding));
        }
    }
    all
}

fn texts<'n>(node: &'n Node, key: &'n str, f: &mut dyn FnMut(&'n str, &'n Node)) {
    match &node.data {
        Data::Map(entries) => {
            for (key, node) in entries {
                texts(node, &key.text, f);
            }
        }
        Data::List(items) => items.iter().for_each(|item| texts(item, key, f)),
        Data::Text(_) => f(key, node),
        _ => {}
    }
}

fn is_credential(key: &str, node: &Node, shapes: &Regex) -> bool {
    let Data::Text(text) = &node.data else {
        return false;
    };
    // Put together outside of the project, or from the message.
    if matches!(text.style, Style::Variable | Style::Parameter) || text.value.contains("{{") {
        return false;
    }
    let name = key.to_lowercase().replace(['-', '.'], "_");
    let named = [
        "password",
        "passwd",
        "api_key",
        "apikey",
        "access_token",
        "client_secret",
    ]
    .iter()
    .any(|word| name.ends_with(word));
    // An expression reads its value; only a literal in quotes holds one.
    let literal = text.value.len() >= 6 && !text.value.contains(['(', '$', ' ']);
    let looks = literal && text.value.chars().any(|c| c.is_ascii_digit());
    (named && looks) || shapes.is_match(&text.value)
}

/// Exceptions that excuse nothing: what they were made for is gone.
fn unused(
    policies: &Policies,
    project: &Project<'_>,
    excused: &BTreeSet<(&'static str, String)>,
    findings: &mut Findings,
) {
    let Some(source) = project.settings else {
        return;
    };
    for name in Policies::NAMES {
        let Some(policy) = policies.named(name) else {
            continue;
        };
        for (at, exception) in policy.exceptions().iter().enumerate() {
            if excused.contains(&(name, exception.name.clone())) {
                continue;
            }
            let index = at.to_string();
            let path = ["policies", name, "except", &index, "name"];
            let Some(node) = source.node.find(&path) else {
                continue;
            };
            let message = format!("the exception for `{}` excuses nothing", exception.name);
            findings.push(
                Diagnostic::warning(codes::UNUSED_EXCEPTION, node.place(&source.file), message)
                    .help("remove it, or name the flow or system that it is for"),
            );
        }
    }
}
