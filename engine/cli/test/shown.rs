//! What tests came to, for people and for programs: text, TAP, JSON, JUnit.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::{Value, json};

use super::Results;
use crate::cli::{Terminal, written};
use crate::component::words::Duration;
use crate::failure::Failure;
use crate::flow::test::mutants::Mutant;
use crate::run::test::coverage::Covered;
use crate::run::test::mutate::Mutated;
use crate::run::test::sweep::Swept;
use crate::run::test::{Case, Report};

/// How many differences of one kind are shown.
const DIFFERENCES_MAX: usize = 20;

/// For people.
pub(super) fn text(
    cases: &[Case<'_>],
    results: &Results,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let mut out = String::new();
    let mut file = "";
    for (nth, (case, report)) in cases.iter().zip(&results.reports).enumerate() {
        if case.file.file.path != file {
            file = &case.file.file.path;
            put(&mut out, format_args!("{file}\n"));
        }
        let passed = Duration {
            ms: u64::try_from(report.passed_ms).unwrap_or(0),
        };
        let word = match report.passed() {
            true => "ok  ",
            false => "FAIL",
        };
        let updated = match report.updated {
            true => ", snapshot written",
            false => "",
        };
        put(
            &mut out,
            format_args!(
                "  {word} {} ({passed}, {} commits{updated})\n",
                case.name(),
                report.commits
            ),
        );
        for line in complaints(report) {
            put(&mut out, format_args!("       {line}\n"));
        }
        if let Some(Some(swept)) = results.swept.get(nth) {
            for line in swept_lines(swept) {
                put(&mut out, format_args!("       {line}\n"));
            }
        }
    }
    let failed = results.reports.iter().filter(|report| !report.passed());
    let failed = failed.count();
    put(
        &mut out,
        format_args!("\n{} passed, {failed} failed\n", cases.len() - failed),
    );
    if !results.swept.is_empty() {
        let all = results.swept.iter().flatten();
        let (crashes, different) = all.fold((0, 0), |(crashes, different), swept| match swept {
            Ok(swept) => (crashes + swept.crashes, different + swept.different.len()),
            Err(_) => (crashes, different + 1),
        });
        put(
            &mut out,
            format_args!("crash sweep: {crashes} crashes, {different} made a difference\n"),
        );
    }
    if let Some(covered) = &results.covered {
        coverage_text(covered, &mut out);
    }
    if let Some(mutated) = &results.mutated {
        mutated_text(mutated, &mut out);
    }
    written(terminal.out.write_all(out.as_bytes()))
}

/// What is not as it should be, line by line.
fn complaints(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> = report.broken.iter().cloned().collect();
    for miss in &report.misses {
        let (line, column) = miss.place.line_column();
        lines.push(format!(
            "{}:{line}:{column}: {}",
            miss.place.file.path, miss.message
        ));
        let more = miss.differences.len().saturating_sub(DIFFERENCES_MAX);
        let shown = miss.differences.iter().take(DIFFERENCES_MAX);
        lines.extend(shown.map(|difference| format!("  {difference}")));
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
    }
    lines
}

fn swept_lines(swept: &Result<Swept, String>) -> Vec<String> {
    let swept = match swept {
        Ok(swept) => swept,
        Err(why) => return vec![format!("it could not be swept: {why}")],
    };
    let mut lines = Vec::new();
    for one in &swept.different {
        lines.push(format!("a crash {} makes a difference:", one.moment));
        let shown = one.what.iter().take(DIFFERENCES_MAX);
        lines.extend(shown.map(|what| format!("  {what}")));
    }
    lines
}

fn coverage_text(covered: &[Covered], out: &mut String) {
    put(out, format_args!("\ncoverage\n"));
    for flow in covered {
        let kinds: Vec<String> = flow
            .kinds
            .iter()
            .map(|kind| {
                format!(
                    "{} {}/{}",
                    kind.name,
                    kind.all - kind.missing.len(),
                    kind.all
                )
            })
            .collect();
        put(out, format_args!("  {}: {}\n", flow.flow, kinds.join(", ")));
        for kind in &flow.kinds {
            for missing in &kind.missing {
                put(
                    out,
                    format_args!("    not gone through: {} `{missing}`\n", kind.name),
                );
            }
        }
    }
    put(out, format_args!("  all: {}%\n", percent_covered(covered)));
}

fn mutated_text(mutated: &Mutated, out: &mut String) {
    put(out, format_args!("\n"));
    let list = |out: &mut String, mutants: &[Mutant], what: &str| {
        for mutant in mutants {
            let (line, column) = mutant.place.line_column();
            put(
                out,
                format_args!(
                    "  {what}: {}:{line}:{column}: {}\n",
                    mutant.place.file.path, mutant.words
                ),
            );
        }
    };
    list(out, &mutated.survived, "survived");
    list(out, &mutated.untested, "untested");
    put(
        out,
        format_args!(
            "mutants {} killed {} ({} by check) survived {} untested {}: {}%\n",
            mutated.mutants,
            mutated.killed,
            mutated.by_check,
            mutated.survived.len(),
            mutated.untested.len(),
            percent_killed(mutated)
        ),
    );
}

/// How many percent of all that there is the tests go through.
pub(super) fn percent_covered(covered: &[Covered]) -> u64 {
    let (all, missing) = covered
        .iter()
        .map(Covered::sum)
        .fold((0, 0), |(all, missing), (more, less)| {
            (all + more, missing + less)
        });
    percent(all - missing, all)
}

/// How many percent of the mistakes were noticed.
pub(super) fn percent_killed(mutated: &Mutated) -> u64 {
    percent(mutated.killed, mutated.mutants)
}

fn percent(part: usize, all: usize) -> u64 {
    match all {
        0 => 100,
        all => (part * 100 / all) as u64,
    }
}

/// Test Anything Protocol.
pub(super) fn tap(
    cases: &[Case<'_>],
    results: &Results,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let mut out = format!("TAP version 14\n1..{}\n", cases.len());
    for (nth, (case, report)) in cases.iter().zip(&results.reports).enumerate() {
        let swept = results.swept.get(nth).and_then(Option::as_ref);
        let swept = swept.map(swept_lines).unwrap_or_default();
        let good = report.passed() && swept.is_empty();
        let word = if good { "ok" } else { "not ok" };
        // A `#` would begin a directive.
        let name = format!("{}: {}", case.file.file.path, case.name()).replace('#', "\\#");
        put(&mut out, format_args!("{word} {} - {name}\n", nth + 1));
        for line in complaints(report).into_iter().chain(swept) {
            put(&mut out, format_args!("# {line}\n"));
        }
    }
    written(terminal.out.write_all(out.as_bytes()))
}

/// One JSON object.
pub(super) fn json(
    cases: &[Case<'_>],
    results: &Results,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let mut tests = Vec::new();
    for (nth, (case, report)) in cases.iter().zip(&results.reports).enumerate() {
        let misses: Vec<Value> = report
            .misses
            .iter()
            .map(|miss| {
                let (line, column) = miss.place.line_column();
                json!({
                    "file": miss.place.file.path, "line": line, "column": column, "message": miss.message, "differences": miss.differences,
                })
            })
            .collect();
        let mut test = json!({
            "file": case.file.file.path, "test": case.name(), "passed": report.passed(), "broken": report.broken,
            "misses": misses, "commits": report.commits, "passed_ms": report.passed_ms, "outcome": report.outcome,
        });
        if let Some(Some(swept)) = results.swept.get(nth) {
            test["crash_sweep"] = match swept {
                Ok(swept) => json!({
                    "crashes": swept.crashes,
                    "different": swept.different.iter().map(|one| json!({ "moment": one.moment, "what": one.what })).collect::<Vec<_>>(),
                }),
                Err(why) => json!({ "broken": why }),
            };
        }
        tests.push(test);
    }
    let mut all = json!({ "tests": tests });
    if let Some(covered) = &results.covered {
        all["coverage"] = covered.iter().map(covered_json).collect();
        all["coverage_percent"] = percent_covered(covered).into();
    }
    if let Some(mutated) = &results.mutated {
        let list = |mutants: &[Mutant]| mutants.iter().map(mutant_json).collect::<Vec<_>>();
        all["mutants"] = json!({
            "all": mutated.mutants, "killed": mutated.killed, "by_check": mutated.by_check,
            "survived": list(&mutated.survived), "untested": list(&mutated.untested),
        });
    }
    written(writeln!(terminal.out, "{all}"))
}

fn covered_json(covered: &Covered) -> Value {
    let kinds: Vec<Value> = covered
        .kinds
        .iter()
        .map(|kind| json!({ "kind": kind.name, "all": kind.all, "missing": kind.missing }))
        .collect();
    json!({ "flow": covered.flow, "kinds": kinds })
}

fn mutant_json(mutant: &Mutant) -> Value {
    let (line, column) = mutant.place.line_column();
    json!({ "file": mutant.place.file.path, "line": line, "column": column, "mistake": mutant.words })
}

/// A JUnit report, as CI systems read it.
pub(super) fn junit(cases: &[Case<'_>], results: &Results) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let failed = results.reports.iter().filter(|report| !report.passed());
    put(
        &mut out,
        format_args!(
            "<testsuites tests=\"{}\" failures=\"{}\">\n",
            cases.len(),
            failed.count()
        ),
    );
    let mut files: Vec<&str> = cases
        .iter()
        .map(|case| case.file.file.path.as_str())
        .collect();
    files.dedup();
    for file in files {
        let of_file: Vec<_> = cases
            .iter()
            .zip(&results.reports)
            .enumerate()
            .filter(|(_, (case, _))| case.file.file.path == file)
            .collect();
        put(
            &mut out,
            format_args!(
                "  <testsuite name=\"{}\" tests=\"{}\">\n",
                escaped(file),
                of_file.len()
            ),
        );
        for (nth, (case, report)) in of_file {
            let swept = results.swept.get(nth).and_then(Option::as_ref);
            let mut lines = complaints(report);
            lines.extend(swept.map(swept_lines).unwrap_or_default());
            put(
                &mut out,
                format_args!(
                    "    <testcase classname=\"{}\" name=\"{}\"",
                    escaped(case.file.flow()),
                    escaped(case.name())
                ),
            );
            match lines.first() {
                None => put(&mut out, format_args!("/>\n")),
                Some(first) => put(
                    &mut out,
                    format_args!(
                        ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>\n",
                        escaped(first),
                        escaped(&lines.join("\n"))
                    ),
                ),
            }
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            // XML has no way to write them.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a text takes any text");
}
