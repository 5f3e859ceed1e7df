//! What a system's file says about admission: circuit, credentials, retry budget, maintenance, limits. Not for one kind of system only.

use super::Report;
use crate::component::codes as common;
use crate::component::words::Duration;
use crate::diagnostic::Diagnostic;
use crate::system::admission::Rules;
use crate::system::circuit::Rule;
use crate::system::file::{CircuitChoice, CircuitRule, SystemFile};
use crate::system::maintenance::Maintenance;
use crate::system::{CONCURRENCY, RETRY_AUTH, RETRY_BUDGET};

/// The rules of a file; what is wrong is reported at its place.
pub(super) fn rules(config: &SystemFile, report: &mut Report<'_>) -> Option<Rules> {
    let circuit = match &config.circuit {
        None => Some(Some(Rule::DEFAULT)),
        Some(CircuitChoice::Never(_)) => Some(None),
        Some(CircuitChoice::Rule(rule)) => circuit(rule, report).map(Some),
    };
    let retry_auth = config.retry_auth.unwrap_or(RETRY_AUTH);
    if retry_auth.ms < 1_000 {
        let message = "a system that refuses the credentials would be asked all the time";
        report.error(&["retry_auth"], message, "write at least 1s");
    }
    if config.timeout.is_some_and(|timeout| timeout.ms == 0) {
        let message = "the timeout leaves no time";
        report.error(&["timeout"], message, "write at least 1ms");
    }
    let maintenance = maintenance(config, report);
    let limits = &config.limits;
    let rate = limits.rate.map(|rate| {
        let second = u64::from(rate.count) * 1_000 / rate.per_ms.max(1);
        let burst = limits.burst.map_or(second, u64::from);
        (rate, u32::try_from(burst).unwrap_or(u32::MAX).max(1))
    });
    Some(Rules {
        circuit: circuit?,
        retry_auth_ms: retry_auth.ms,
        retry_percent: config.retry_budget.unwrap_or(RETRY_BUDGET).of_100,
        maintenance,
        concurrency: limits.concurrency.unwrap_or(CONCURRENCY).max(1) as usize,
        rate,
    })
}

/// Reports what only systems of other kinds have: this one is of `kind`, in words `what`.
pub(super) fn only(kind: &str, what: &str, config: &SystemFile, report: &mut Report<'_>) {
    for (name, given) in [
        ("http", config.http.is_some()),
        ("sql", config.sql.is_some()),
        ("amqp", config.amqp.is_some()),
        ("failures", !config.failures.is_empty()),
    ] {
        if given && name != kind {
            let message = format!("`{name}` has no meaning here: this system is {what}");
            report.conflict(&[name], &message, "remove it");
        }
    }
    if config.limits.answer.is_some() {
        let message = format!("`answer` is about HTTP, and this system is {what}");
        report.conflict(&["limits", "answer"], &message, "remove it");
    }
}

fn circuit(given: &CircuitRule, report: &mut Report<'_>) -> Option<Rule> {
    let ms = |given: Option<Duration>, default: u64| given.map_or(default, |given| given.ms);
    let rule = Rule {
        window_ms: ms(given.window, Rule::DEFAULT.window_ms),
        least: given.least.unwrap_or(Rule::DEFAULT.least).max(1),
        failures_percent: given
            .failures
            .map_or(Rule::DEFAULT.failures_percent, |share| share.of_100),
        open_ms: ms(given.open, Rule::DEFAULT.open_ms),
        most_ms: ms(given.most, Rule::DEFAULT.most_ms),
    };
    let before = report.errors;
    if rule.window_ms < 1_000 {
        let message = "the window is too short to count calls in";
        report.error(&["circuit", "window"], message, "write at least 1s");
    }
    if rule.open_ms < 100 {
        let message = "a system that is down would be tried all the time";
        report.error(&["circuit", "open"], message, "write at least 100ms");
    }
    if rule.most_ms < rule.open_ms {
        let message = format!(
            "the longest time without a try, {}, is shorter than the first, {}",
            Duration { ms: rule.most_ms },
            Duration { ms: rule.open_ms }
        );
        let at = if given.most.is_some() { "most" } else { "open" };
        let help = "write a `most` that is at least as long as `open`";
        report.error(&["circuit", at], message, help);
    }
    (report.errors == before).then_some(rule)
}

fn maintenance(config: &SystemFile, report: &mut Report<'_>) -> Vec<Maintenance> {
    let mut windows = Vec::with_capacity(config.maintenance.len());
    for (nth, text) in config.maintenance.iter().enumerate() {
        match Maintenance::parse(text) {
            Ok(window) => windows.push(window),
            Err(fault) => {
                let list = report.at(&["maintenance"]);
                let place = list.items().get(nth).unwrap_or(list).place(report.file);
                let (message, help) = fault.split_once("; ").unwrap_or((&fault, ""));
                let finding = Diagnostic::error(common::BAD_VALUE, place, message);
                report.errors += 1;
                report.findings.push(finding.help(help));
            }
        }
    }
    windows
}
