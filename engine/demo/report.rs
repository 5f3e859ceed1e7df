//! What the demo prints: progress while it runs, the books when it is over, and whether they are good.

use std::collections::BTreeSet;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::books::Tally;
use super::engine::Kills;
use super::recount::{Recount, Times};

/// How many order numbers of a kind are printed.
const NUMBERS_SHOWN: usize = 10;

/// Two bars: what the storefront has got accepted, and what the ERP has booked.
pub(crate) struct Bars {
    bars: MultiProgress,
    accepted: ProgressBar,
    booked: ProgressBar,
}

impl Bars {
    /// Bars on standard error; nothing is drawn where that is not a terminal.
    pub(crate) fn new(deliveries: u64, sales: u64) -> Bars {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:>9} {bar:40} {pos}/{len} {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |name: &'static str, length| {
            bars.add(
                ProgressBar::new(length)
                    .with_style(style.clone())
                    .with_prefix(name),
            )
        };
        let (accepted, booked) = (bar("answered", deliveries), bar("booked", sales));
        Bars {
            bars,
            accepted,
            booked,
        }
    }

    /// Whether somebody sees the bars.
    pub(crate) fn are_shown(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// Moves the bars.
    pub(crate) fn set(&self, answered: u64, booked: u64) {
        self.accepted.set_position(answered);
        self.booked.set_position(booked);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // A terminal that is gone needs no clearing.
        drop(self.bars.clear());
    }
}

/// All that the demo has found out.
pub(crate) struct Findings {
    /// From the journals.
    pub(crate) recount: Recount,
    /// From the engine's store.
    pub(crate) tally: Tally,
    /// How often the engine was to be killed.
    pub(crate) kills_wanted: u64,
    /// How often it was.
    pub(crate) kills: Kills,
    /// Hops that restarted engines took over.
    pub(crate) recovered: u64,
    /// Requests that the storefront sent again.
    pub(crate) resent: u64,
    /// Whether the engine came to rest.
    pub(crate) quiet: bool,
    /// How many engines there were.
    pub(crate) engines: u8,
}

impl Findings {
    /// Everything that is not as it must be; empty if the demo is a success.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut unless = |good: bool, fault: &str| {
            if !good {
                faults.push(fault.to_owned());
            }
        };
        let recount = &self.recount;
        unless(
            recount.sent > 0 && recount.acknowledged > 0,
            "no order was sent and acknowledged",
        );
        unless(
            recount.given_up == 0,
            "some deliveries were not answered in time",
        );
        unless(
            recount.refused == 0,
            "the engine turned orders away for good",
        );
        unless(recount.lost.is_empty(), "orders were lost");
        unless(recount.doubled.is_empty(), "orders were doubled");
        unless(
            recount.mismatched.is_empty(),
            "orders were changed on the way",
        );
        unless(self.quiet, "the engine did not come to rest");
        unless(self.tally.balances(), "the engine's books do not balance");
        unless(
            self.tally.sum(|counts| counts.received) > 0,
            "the engine's books are empty",
        );
        if self.engines > 1 {
            unless(
                recount.booked_by.len() == usize::from(self.engines),
                "not every engine took part in the work",
            );
        }
        if self.kills_wanted > 0 {
            unless(
                self.kills.done == self.kills_wanted,
                "the engine was killed less often than asked",
            );
            unless(
                self.kills.with_work > 0,
                "no kill had work in flight, so the kills prove nothing",
            );
            unless(
                self.recovered > 0,
                "no restart took over unfinished work, so the kills prove nothing",
            );
        }
        faults
    }

    /// The books, the rates and the latencies as text.
    pub(crate) fn text(&self) -> String {
        let mut text = books_table(&self.tally);
        let recount = &self.recount;
        let mut row = |name: &str, count: u64, note: &str| {
            text.push_str(format!("{name:<18}{count:>9}  {note}").trim_end());
            text.push('\n');
        };
        row(
            "sent",
            recount.sent,
            &format!(
                "orders, {} of them to be booked; {} second deliveries acknowledged",
                recount.good, recount.duplicates
            ),
        );
        row(
            "booked",
            recount.booked,
            &format!(
                "sales orders in the ERP, with {} requests, {} of them known by their key",
                recount.booking_requests, recount.repeated
            ),
        );
        row(
            "waiting",
            recount.waiting,
            &format!(
                "orders in exceptions, {} of them to be booked",
                recount.waiting_good
            ),
        );
        row("reviewed", recount.reviewed, "orders on the review list");
        for (name, requests, share) in recount.shares() {
            let note = format!("requests to book, {share} % of all");
            row(&format!("engine {name}"), requests, &note);
        }
        if self.kills_wanted > 0 {
            row(
                "kills",
                self.kills.done,
                &format!("kill -9, {} with work in flight", self.kills.with_work),
            );
            row(
                "redelivered",
                self.recovered,
                &format!(
                    "hops taken over after restarts; {} webhooks sent again",
                    self.resent
                ),
            );
        }
        row(
            "changed",
            recount.mismatched.len() as u64,
            &some(&recount.mismatched),
        );
        row("lost", recount.lost.len() as u64, &some(&recount.lost));
        row(
            "doubled",
            recount.doubled.len() as u64,
            &some(&recount.doubled),
        );
        text.push_str(&speed(recount));
        text.push_str(&format!(
            "\nlost {}, doubled {}\n",
            recount.lost.len(),
            recount.doubled.len()
        ));
        text
    }
}

fn speed(recount: &Recount) -> String {
    let seconds = recount.span_us as f64 / 1e6;
    let rate = if seconds > 0.0 {
        recount.booked as f64 / seconds
    } else {
        0.0
    };
    format!(
        "\n{:<18}{rate:>9.0}  orders/s from the first webhook to the last sales order\n{:<18}{}\n{:<18}{}\n",
        "rate",
        "accept",
        percentiles(&recount.accept),
        "end to end",
        percentiles(&recount.end_to_end),
    )
}

fn books_table(tally: &Tally) -> String {
    let mut text = format!("{:<18}", "the engine's books");
    for name in [
        "received",
        "accepted",
        "duplicates",
        "refused",
        "delivered",
        "filtered",
        "discarded",
        "in flight",
        "in exceptions",
    ] {
        text.push_str(&format!(" {name:>w$}", w = name.len().max(8)));
    }
    text.push('\n');
    for flow in &tally.flows {
        let (flow, counts) = (&flow.flow, &flow.counts);
        text.push_str(&format!(
            "{flow:<18} {:>8} {:>8} {:>10} {:>8} {:>9} {:>8} {:>9} {:>9} {:>13}\n",
            counts.received,
            counts.accepted,
            counts.duplicates,
            counts.refused,
            counts.delivered,
            counts.filtered,
            counts.discarded,
            counts.in_flight,
            counts.in_exceptions,
        ));
    }
    text.push_str("\nthe stand-ins' journals\n");
    text
}

fn percentiles(times: &Times) -> String {
    let shown = |percent| {
        times
            .percentile(percent)
            .map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3))
    };
    format!("{:>9}  p50, {} p99", shown(50), shown(99))
}

fn some(numbers: &[String]) -> String {
    let distinct: BTreeSet<&str> = numbers.iter().map(String::as_str).collect();
    let mut text = distinct
        .iter()
        .take(NUMBERS_SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if distinct.len() > NUMBERS_SHOWN {
        text.push_str(", ..");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::store::books::{Books, Counts};

    use super::*;

    fn good() -> Findings {
        let recount = Recount {
            sent: 1,
            acknowledged: 1,
            ..Recount::default()
        };
        let counts = Counts {
            received: 1,
            accepted: 1,
            delivered: 1,
            ..Counts::default()
        };
        let tally = Tally {
            flows: vec![Books {
                flow: Arc::from("a"),
                counts,
            }],
            hops: 0,
        };
        Findings {
            recount,
            tally,
            kills_wanted: 0,
            kills: Kills::default(),
            recovered: 0,
            resent: 0,
            quiet: true,
            engines: 1,
        }
    }

    fn check(change: impl FnOnce(&mut Findings), expect: &str) {
        let mut findings = good();
        change(&mut findings);
        assert_eq!(findings.faults().join("; "), expect);
    }

    #[test]
    fn only_good_books_are_a_success() {
        check(|_| {}, "");
        check(
            |findings| findings.recount.lost.push("#1".into()),
            "orders were lost",
        );
        check(
            |findings| findings.recount.doubled.push("#1".into()),
            "orders were doubled",
        );
        check(
            |findings| findings.recount.mismatched.push("#1".into()),
            "orders were changed on the way",
        );
        check(
            |findings| findings.recount.given_up = 1,
            "some deliveries were not answered in time",
        );
        check(
            |findings| findings.recount.refused = 1,
            "the engine turned orders away for good",
        );
        check(
            |findings| findings.recount.sent = 0,
            "no order was sent and acknowledged",
        );
        check(
            |findings| findings.tally.flows[0].counts.delivered = 2,
            "the engine's books do not balance",
        );
        check(
            |findings| findings.tally = Tally::default(),
            "the engine's books are empty",
        );
        check(
            |findings| findings.quiet = false,
            "the engine did not come to rest",
        );
    }

    #[test]
    fn kills_that_prove_nothing_are_no_success() {
        let killed = |findings: &mut Findings| {
            findings.kills_wanted = 2;
            findings.kills = Kills {
                done: 2,
                with_work: 1,
            };
            findings.recovered = 1;
        };
        check(killed, "");
        check(
            |findings| (killed(findings), findings.kills.with_work = 0).1,
            "no kill had work in flight, so the kills prove nothing",
        );
        check(
            |findings| (killed(findings), findings.recovered = 0).1,
            "no restart took over unfinished work, so the kills prove nothing",
        );
        check(
            |findings| (killed(findings), findings.kills.done = 1).1,
            "the engine was killed less often than asked",
        );
    }

    #[test]
    fn the_text_names_lost_and_doubled() {
        let mut findings = good();
        findings.recount.lost = vec!["#7".into()];
        let text = findings.text();
        let line = |name: &str| {
            text.lines()
                .find(|line| line.trim_start().starts_with(name))
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            line("lost").split_whitespace().collect::<Vec<_>>(),
            ["lost", "1", "#7"]
        );
        assert!(text.ends_with("\nlost 1, doubled 0\n"), "{text}");
        assert_eq!(
            line("doubled").split_whitespace().collect::<Vec<_>>(),
            ["doubled", "0"]
        );
    }
}
