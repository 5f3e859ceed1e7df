//! The oracle: what was lost, doubled or changed on the way, counted from the stand-ins' two journals. It does not ask the engine; what waits for a person is handed in, and only explains why an order is not booked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use rust_decimal::Decimal;
use serde_json::Value;

use super::journal::read_lines;
use super::orders::Kind;

/// Why an order that was acknowledged is not in the ERP, by order number.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// Orders that wait as exceptions.
    pub waiting: HashSet<String>,
    /// Orders on the review list, as often as they are on it.
    pub reviewed: HashMap<String, u64>,
}

/// Times, in microseconds, sorted.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<u64>);

impl Times {
    /// The time that `percent` of all stay within; `None` when there is none.
    pub fn percentile(&self, percent: usize) -> Option<u64> {
        let last = self.0.len().checked_sub(1)?;
        Some(self.0[(last * percent).div_ceil(100)])
    }

    fn sorted(mut times: Vec<u64>) -> Times {
        times.sort_unstable();
        Times(times)
    }
}

/// What the journals say.
#[derive(Clone, Debug, Default)]
pub struct Recount {
    /// Orders sent, each counted once.
    pub sent: u64,
    /// Of those, the ones that must be booked.
    pub good: u64,
    /// Orders that were acknowledged, each counted once.
    pub acknowledged: u64,
    /// Acknowledged deliveries beyond the first of their order.
    pub duplicates: u64,
    /// Orders that were refused for good.
    pub refused: u64,
    /// Deliveries that nobody answered in time.
    pub given_up: u64,
    /// Sales orders in the ERP.
    pub booked: u64,
    /// Requests to book; more than `booked` when some were tried again.
    pub booking_requests: u64,
    /// Requests to book an order that had been asked for before.
    pub asked_again: u64,
    /// Requests to book, by the name of the engine that sent them, where it has given one.
    pub booked_by: BTreeMap<String, u64>,
    /// Requests that the ERP answered from their idempotency key.
    pub repeated: u64,
    /// How often the ERP misbehaved on purpose, by fault.
    pub faults: BTreeMap<String, u64>,
    /// Acknowledged orders that wait for a person.
    pub waiting: u64,
    /// Of those, the ones that must be booked.
    pub waiting_good: u64,
    /// Orders that are booked, and wait for a person all the same: nobody knew that they were booked.
    pub waiting_booked: u64,
    /// Acknowledged orders on the review list.
    pub reviewed: u64,
    /// Acknowledged orders of which nothing is left.
    pub lost: Vec<String>,
    /// Orders that were booked, or put on the review list, more than once.
    pub doubled: Vec<String>,
    /// Orders that were booked otherwise than sent, and why.
    pub mismatched: Vec<String>,
    /// From the request of a delivery to its acknowledgement.
    pub accept: Times,
    /// From the first request of an order to its sales order.
    pub end_to_end: Times,
    /// From the first request of all to the last sales order, in microseconds.
    pub span_us: u64,
}

impl Recount {
    /// The engines that booked, by name: their requests, and how many in a hundred of all these are.
    pub fn shares(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let all = self.booking_requests.max(1);
        let engines = self.booked_by.iter();
        engines.map(move |(name, requests)| {
            let share = (requests * 100 + all / 2) / all;
            (name.as_str(), *requests, share)
        })
    }

    /// Whether orders were sent, and all of them arrived once and unchanged.
    pub fn is_good(&self) -> bool {
        self.sent > 0
            && self.acknowledged > 0
            && self.given_up == 0
            && self.lost.is_empty()
            && self.doubled.is_empty()
            && self.mismatched.is_empty()
    }
}

/// Counts from the two journals.
pub fn recount(sent: &Path, erp: &Path, explained: &Explained) -> Result<Recount, String> {
    let sent_lines = read_lines(sent)?;
    let erp_lines = if erp.exists() {
        read_lines(erp)?
    } else {
        Vec::new()
    };
    Ok(count(&sent_lines, &erp_lines, explained))
}

/// One order, as the storefront's journal tells it.
#[derive(Default)]
struct Sent {
    kind: Option<Kind>,
    customer: String,
    total: String,
    lines: u64,
    acknowledged: u64,
    refused: u64,
    first_sent_us: Option<u64>,
}

/// One sales order, as the ERP's journal tells it.
struct Booked {
    at_us: u64,
    customer: String,
    total: String,
    lines: u64,
}

fn count(sent_lines: &[Value], erp_lines: &[Value], explained: &Explained) -> Recount {
    let mut counts = Recount::default();
    let sent = read_sent(sent_lines, &mut counts);
    let booked = read_booked(erp_lines, &mut counts);
    let mut end_to_end = Vec::new();
    for (number, order) in &sent {
        let sales = booked.get(number).map_or(&[][..], Vec::as_slice);
        judge(number, order, sales, explained, &mut counts);
        if let (Some(start), Some(end)) = (
            order.first_sent_us,
            sales.iter().map(|sale| sale.at_us).min(),
        ) {
            end_to_end.push(end.saturating_sub(start));
        }
    }
    for number in booked.keys().filter(|number| !sent.contains_key(*number)) {
        counts
            .mismatched
            .push(format!("{number}: booked, but never sent"));
    }
    let start = sent.values().filter_map(|order| order.first_sent_us).min();
    let end = booked.values().flatten().map(|sale| sale.at_us).max();
    counts.span_us = end
        .zip(start)
        .map_or(0, |(end, start)| end.saturating_sub(start));
    counts.end_to_end = Times::sorted(end_to_end);
    for list in [
        &mut counts.lost,
        &mut counts.doubled,
        &mut counts.mismatched,
    ] {
        list.sort_unstable();
    }
    counts
}

fn judge(
    number: &str,
    order: &Sent,
    sales: &[Booked],
    explained: &Explained,
    counts: &mut Recount,
) {
    counts.sent += 1;
    let good = order.kind == Some(Kind::Good);
    counts.good += u64::from(good);
    counts.acknowledged += u64::from(order.acknowledged > 0);
    counts.duplicates += order.acknowledged.saturating_sub(1);
    counts.refused += u64::from(order.acknowledged == 0 && order.refused > 0);
    if sales.len() > 1 {
        counts.doubled.push(number.to_owned());
    }
    match (sales.first(), order.kind) {
        (Some(_), Some(kind)) if kind != Kind::Good => counts
            .mismatched
            .push(format!("{number}: booked, though it is {}", kind.name())),
        (Some(sale), _) => counts.mismatched.extend(difference(number, order, sale)),
        (None, _) => {}
    }
    let listed = explained.reviewed.get(number).copied().unwrap_or(0);
    if listed > 1 {
        counts
            .doubled
            .push(format!("{number} (on the review list)"));
    }
    if order.acknowledged == 0 {
        return;
    }
    let waiting = explained.waiting.contains(number);
    counts.waiting += u64::from(waiting && sales.is_empty());
    counts.waiting_good += u64::from(waiting && good && sales.is_empty());
    counts.waiting_booked += u64::from(waiting && !sales.is_empty());
    counts.reviewed += u64::from(listed > 0);
    let found = match order.kind {
        Some(Kind::Good) => !sales.is_empty() || waiting,
        Some(Kind::BreaksContract | Kind::UnknownCustomer) | None => waiting,
        Some(Kind::OnHold | Kind::OverLimit) => listed > 0 || waiting,
        Some(Kind::Test) => true,
    };
    if !found {
        counts.lost.push(number.to_owned());
    }
}

fn difference(number: &str, order: &Sent, sale: &Booked) -> Option<String> {
    let same_total = match (
        order.total.parse::<Decimal>(),
        sale.total.parse::<Decimal>(),
    ) {
        (Ok(sent), Ok(booked)) => sent == booked,
        _ => false,
    };
    if !same_total {
        return Some(format!(
            "{number}: sent {}, booked {}",
            order.total, sale.total
        ));
    }
    if order.lines != sale.lines {
        return Some(format!(
            "{number}: sent {} lines, booked {}",
            order.lines, sale.lines
        ));
    }
    (order.customer != sale.customer).then(|| {
        format!(
            "{number}: sent for {}, booked for {}",
            order.customer, sale.customer
        )
    })
}

fn read_sent(lines: &[Value], counts: &mut Recount) -> HashMap<String, Sent> {
    let mut sent: HashMap<String, Sent> = HashMap::new();
    let mut accept = Vec::new();
    for line in lines {
        let (order, answer) = (&line["order"], &line["answer"]);
        if let Some(number) = order["number"].as_str() {
            let known = sent.entry(number.to_owned()).or_default();
            known.kind = order["kind"].as_str().and_then(Kind::from_name);
            known.customer = text(&order["customer"]);
            known.total = text(&order["total"]);
            known.lines = order["lines"].as_u64().unwrap_or(0);
        } else if let Some(number) = answer["number"].as_str() {
            let known = sent.entry(number.to_owned()).or_default();
            if answer["status"]
                .as_u64()
                .is_some_and(|status| (200..300).contains(&status))
            {
                known.acknowledged += 1;
                accept.extend(answer["latency_us"].as_u64());
            } else {
                known.refused += 1;
            }
            let first = answer["first_sent_us"].as_u64();
            known.first_sent_us = match (known.first_sent_us, first) {
                (Some(known), Some(first)) => Some(known.min(first)),
                (known, first) => known.or(first),
            };
        } else if line["gave_up"].is_object() {
            counts.given_up += 1;
        }
    }
    counts.accept = Times::sorted(accept);
    sent
}

fn read_booked(lines: &[Value], counts: &mut Recount) -> HashMap<String, Vec<Booked>> {
    let mut booked: HashMap<String, Vec<Booked>> = HashMap::new();
    let mut asked = HashSet::new();
    for line in lines {
        let (request, applied) = (&line["request"], &line["applied"]);
        if request["method"] == "POST" {
            counts.booking_requests += 1;
            if let Some(name) = request["by"].as_str() {
                *counts.booked_by.entry(name.to_owned()).or_default() += 1;
            }
            counts.asked_again += u64::from(!asked.insert(text(&request["order_number"])));
        }
        if let Some(fault) = line["fault"].as_str() {
            *counts.faults.entry(fault.to_owned()).or_default() += 1;
        }
        counts.repeated += u64::from(line["repeated"].is_object());
        if let Some(number) = applied["order_number"].as_str() {
            counts.booked += 1;
            booked.entry(number.to_owned()).or_default().push(Booked {
                at_us: line["at_us"].as_u64().unwrap_or(0),
                customer: text(&applied["customer_number"]),
                total: text(&applied["total"]),
                lines: applied["lines"].as_u64().unwrap_or(0),
            });
        }
    }
    booked
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order(number: &str, kind: &str) -> Value {
        json!({"at_us": 1, "order": {"number": number, "kind": kind, "customer": "C-1", "total": "12.50", "lines": 2}})
    }

    fn answer(number: &str, status: u16) -> Value {
        json!({"at_us": 30, "answer": {"number": number, "delivery": 1, "status": status, "attempts": 1, "first_sent_us": 10, "latency_us": 20}})
    }

    fn applied(number: &str, total: &str, lines: u64) -> Value {
        json!({"seq": 1, "at_us": 110, "applied": {"number": "SO-1", "order_number": number, "customer_number": "C-1", "total": total, "lines": lines}})
    }

    fn explained(waiting: &[&str], reviewed: &[&str]) -> Explained {
        let mut explained = Explained::default();
        explained
            .waiting
            .extend(waiting.iter().map(|each| (*each).to_owned()));
        for each in reviewed {
            *explained.reviewed.entry((*each).to_owned()).or_default() += 1;
        }
        explained
    }

    /// Recounts, and compares what is lost, doubled and mismatched.
    fn check(
        sent: &[Value],
        erp: &[Value],
        explained: &Explained,
        expect: [&[&str]; 3],
    ) -> Recount {
        let counts = count(sent, erp, explained);
        assert_eq!(counts.lost, expect[0], "lost");
        assert_eq!(counts.doubled, expect[1], "doubled");
        assert_eq!(counts.mismatched, expect[2], "mismatched");
        counts
    }

    #[test]
    fn an_order_that_is_booked_once_is_good() {
        let counts = check(
            &[order("#1", "good"), answer("#1", 200)],
            &[applied("#1", "12.5", 2)],
            &Explained::default(),
            [&[], &[], &[]],
        );
        assert!(counts.is_good());
        assert_eq!(
            (counts.sent, counts.good, counts.acknowledged, counts.booked),
            (1, 1, 1, 1)
        );
        assert_eq!(counts.accept.percentile(50), Some(20));
        assert_eq!(counts.end_to_end.percentile(99), Some(100));
        assert_eq!(counts.span_us, 100);
    }

    #[test]
    fn zero_orders_are_no_success() {
        assert!(!check(&[], &[], &Explained::default(), [&[], &[], &[]]).is_good());
        assert!(
            !check(
                &[order("#1", "good")],
                &[],
                &Explained::default(),
                [&[], &[], &[]]
            )
            .is_good()
        );
    }

    #[test]
    fn an_acknowledged_order_that_nobody_has_is_lost() {
        let counts = check(
            &[order("#1", "good"), answer("#1", 202)],
            &[],
            &Explained::default(),
            [&["#1"], &[], &[]],
        );
        assert!(!counts.is_good());
    }

    #[test]
    fn an_order_that_nobody_acknowledged_is_not_lost() {
        check(
            &[order("#1", "good"), answer("#1", 401)],
            &[],
            &Explained::default(),
            [&[], &[], &[]],
        );
    }

    #[test]
    fn an_order_that_waits_is_not_lost() {
        let sent = [order("#1", "good"), answer("#1", 200)];
        let counts = check(&sent, &[], &explained(&["#1"], &[]), [&[], &[], &[]]);
        assert_eq!((counts.waiting, counts.waiting_good), (1, 1));
    }

    #[test]
    fn an_order_that_is_booked_twice_is_doubled_even_while_it_waits() {
        let sent = [order("#1", "good"), answer("#1", 200)];
        let erp = [applied("#1", "12.50", 2), applied("#1", "12.50", 2)];
        assert!(!check(&sent, &erp, &explained(&["#1"], &[]), [&[], &["#1"], &[]]).is_good());
    }

    #[test]
    fn a_booking_with_another_content_is_a_mismatch() {
        let sent = [order("#1", "good"), answer("#1", 200)];
        let counts = check(
            &sent,
            &[applied("#1", "12.51", 2)],
            &Explained::default(),
            [&[], &[], &["#1: sent 12.50, booked 12.51"]],
        );
        assert!(!counts.is_good());
        check(
            &sent,
            &[applied("#1", "12.50", 1)],
            &Explained::default(),
            [&[], &[], &["#1: sent 2 lines, booked 1"]],
        );
        check(
            &sent,
            &[applied("#1", "many", 2)],
            &Explained::default(),
            [&[], &[], &["#1: sent 12.50, booked many"]],
        );
    }

    #[test]
    fn what_must_not_be_booked_is_a_mismatch_when_it_is() {
        for kind in [
            "breaks-contract",
            "unknown-customer",
            "on-hold",
            "over-limit",
            "test",
        ] {
            let sent = [order("#1", kind), answer("#1", 200)];
            let message = format!("#1: booked, though it is {kind}");
            check(
                &sent,
                &[applied("#1", "12.50", 2)],
                &explained(&["#1"], &["#1"]),
                [&[], &[], &[&message]],
            );
        }
        check(
            &[],
            &[applied("#9", "1", 1)],
            &Explained::default(),
            [&[], &[], &["#9: booked, but never sent"]],
        );
    }

    #[test]
    fn orders_for_people_must_be_where_people_look() {
        for (kind, waits) in [
            ("breaks-contract", true),
            ("unknown-customer", true),
            ("on-hold", false),
            ("over-limit", false),
        ] {
            let sent = [order("#1", kind), answer("#1", 200)];
            check(&sent, &[], &Explained::default(), [&["#1"], &[], &[]]);
            let found = if waits {
                explained(&["#1"], &[])
            } else {
                explained(&[], &["#1"])
            };
            check(&sent, &[], &found, [&[], &[], &[]]);
        }
        let sent = [order("#1", "on-hold"), answer("#1", 200)];
        check(
            &sent,
            &[],
            &explained(&[], &["#1", "#1"]),
            [&[], &["#1 (on the review list)"], &[]],
        );
        check(
            &[order("#1", "test"), answer("#1", 200)],
            &[],
            &Explained::default(),
            [&[], &[], &[]],
        );
    }

    #[test]
    fn duplicates_and_tries_are_counted() {
        let sent = [order("#1", "good"), answer("#1", 200), answer("#1", 200)];
        let post =
            json!({"seq": 1, "at_us": 1, "request": {"method": "POST", "path": "/sales-orders"}});
        let repeated =
            json!({"seq": 2, "at_us": 1, "repeated": {"number": "SO-1", "order_number": "#1"}});
        let counts = check(
            &sent,
            &[post.clone(), applied("#1", "12.50", 2), post, repeated],
            &Explained::default(),
            [&[], &[], &[]],
        );
        assert_eq!(
            (
                counts.acknowledged,
                counts.duplicates,
                counts.booking_requests,
                counts.asked_again,
                counts.repeated
            ),
            (1, 1, 2, 1, 1)
        );
    }

    #[test]
    fn faults_are_counted_by_name() {
        let fault = |name: &str| json!({"seq": 1, "at_us": 1, "fault": name});
        let counts = check(
            &[order("#1", "good"), answer("#1", 200)],
            &[
                fault("fail"),
                fault("slow"),
                fault("fail"),
                applied("#1", "12.50", 2),
            ],
            &explained(&["#1"], &[]),
            [&[], &[], &[]],
        );
        assert_eq!((counts.faults["fail"], counts.faults["slow"]), (2, 1));
        assert_eq!((counts.waiting, counts.waiting_booked), (0, 1));
    }

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = Times::sorted((1..=100).rev().collect());
        assert_eq!(times.percentile(0), Some(1));
        assert_eq!(times.percentile(50), Some(51));
        assert_eq!(times.percentile(99), Some(100));
        assert_eq!(Times::default().percentile(50), None);
    }
}
