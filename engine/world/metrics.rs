//! What an engine counts: how much of everything, never what. Counted where it happens by who holds the number; read at a scrape. It knows
//! labels, not flows or systems.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

pub mod table;
pub mod text;
pub mod words;

use table::Table;
use words::{Kind, Word};

/// The numbers of one engine. A clone counts the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

/// Writes the struct of all tables, and what is done with each.
macro_rules! tables {
    ($($name:ident: $kind:ident = $word:ident;)*) => {
        struct Inner { $($name: Table<$kind>,)* }

        impl Default for Metrics {
            fn default() -> Metrics {
                Metrics(Arc::new(Inner { $($name: Table::new(&words::$word, <$kind as Made>::made),)* }))
            }
        }

        impl Metrics {
            fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
                $(self.0.$name.encode(encoder)?;)*
                Ok(())
            }

            /// Forgets what was counted for values of this label that are not to be kept. Who holds such a number counts for nobody from now on.
            fn keep(&self, label: &str, keep: &dyn Fn(&str) -> bool) {
                $(self.0.$name.keep(label, keep);)*
            }
        }
    };
}

tables! {
    reloads: Counter = RELOADS;
    reloaded: Gauge = RELOADED;
    received: Counter = RECEIVED;
    refused: Counter = REFUSED;
    duplicates: Counter = DUPLICATES;
    completed: Counter = COMPLETED;
    run_seconds: Histogram = RUN_SECONDS;
    attempts: Counter = ATTEMPTS;
    step_seconds: Histogram = STEP_SECONDS;
    commit_seconds: Histogram = COMMIT_SECONDS;
    transaction_commits: Histogram = TRANSACTION_COMMITS;
    sync_seconds: Histogram = SYNC_SECONDS;
    sync_errors: Counter = SYNC_ERRORS;
    disk_free: Gauge = DISK_FREE;
    disk_least: Gauge = DISK_LEAST;
    amqp_connected: Gauge = AMQP_CONNECTED;
    amqp_reconnects: Counter = AMQP_RECONNECTS;
    amqp_confirms: Counter = AMQP_CONFIRMS;
    amqp_unconfirmed: Gauge = AMQP_UNCONFIRMED;
    amqp_blocked: Gauge = AMQP_BLOCKED;
    system_requests: Counter = SYSTEM_REQUESTS;
    system_seconds: Histogram = SYSTEM_SECONDS;
    ambiguous: Counter = AMBIGUOUS;
    opened: Counter = OPENED;
    resolved: Counter = RESOLVED;
    replayed: Counter = REPLAYED;
    http_requests: Counter = HTTP_REQUESTS;
    http_seconds: Histogram = HTTP_SECONDS;
    otlp_exported: Counter = OTLP_EXPORTED;
    otlp_dropped: Counter = OTLP_DROPPED;
    otlp_metrics: Counter = OTLP_METRICS;
}

/// How a number begins.
trait Made {
    fn made(word: &'static Word) -> Self;
}

impl Made for Counter {
    fn made(_: &'static Word) -> Counter {
        Counter::default()
    }
}

impl Made for Gauge {
    fn made(_: &'static Word) -> Gauge {
        Gauge::default()
    }
}

impl Made for Histogram {
    fn made(word: &'static Word) -> Histogram {
        let Kind::Histogram(buckets) = word.kind else {
            unreachable!("{} is no histogram", word.name);
        };
        Histogram::new(buckets.iter().copied())
    }
}

impl Metrics {
    /// What is counted of a flow, whichever revision it has.
    pub fn flow(&self, flow: &str) -> FlowMeter {
        let inner = &self.0;
        let completed = |outcome| inner.completed.of(&[flow, outcome]);
        FlowMeter {
            received: inner.received.of(&[flow]),
            refused: inner.refused.of(&[flow]),
            duplicates: inner.duplicates.of(&[flow]),
            completed: COMPLETED_AS.map(|outcome| (outcome, completed(outcome))),
            run_seconds: inner.run_seconds.of(&[flow]),
            opened: inner.opened.of(&[flow]),
        }
    }

    /// What is counted of a step.
    pub fn step(&self, flow: &str, step: &str) -> StepMeter {
        StepMeter {
            metrics: self.clone(),
            done: self.0.attempts.of(&[flow, step, "done", ""]),
            seconds: self.0.step_seconds.of(&[flow, step]),
            opened: self.0.opened.of(&[flow]),
            flow: Arc::from(flow),
            step: Arc::from(step),
        }
    }

    /// What is counted of the store.
    pub fn store(&self) -> StoreMeter {
        StoreMeter {
            commit_seconds: self.0.commit_seconds.of(&[]),
            transaction_commits: self.0.transaction_commits.of(&[]),
            sync_seconds: self.0.sync_seconds.of(&[]),
            sync_errors: self.0.sync_errors.of(&[]),
        }
    }

    /// What is counted of a system.
    pub fn system(&self, system: &str) -> SystemMeter {
        SystemMeter {
            metrics: self.clone(),
            answered: self.0.system_requests.of(&[system, "answered", ""]),
            ambiguous: self.0.ambiguous.of(&[system]),
            seconds: self.0.system_seconds.of(&[system]),
            system: Arc::from(system),
        }
    }

    /// What is counted of a connection to a broker.
    pub fn amqp(&self, purpose: &str) -> AmqpMeter {
        let confirms = |result| self.0.amqp_confirms.of(&[purpose, result]);
        AmqpMeter {
            connected: self.0.amqp_connected.of(&[purpose]),
            reconnects: self.0.amqp_reconnects.of(&[purpose]),
            stored: confirms("stored"),
            refused: confirms("refused"),
            unknown: confirms("unknown"),
            unconfirmed: self.0.amqp_unconfirmed.of(&[purpose]),
            blocked: self.0.amqp_blocked.of(&[purpose]),
        }
    }

    /// What is counted of a path of a listener. It is the path as it was registered, never one that a peer has made up.
    pub fn route(&self, listener: &'static str, route: &str) -> RouteMeter {
        RouteMeter {
            metrics: self.clone(),
            listener,
            seconds: self.0.http_seconds.of(&[listener, route]),
            route: Arc::from(route),
        }
    }

    /// What is counted of spans.
    pub fn otlp(&self) -> OtlpMeter {
        OtlpMeter {
            exported: self.0.otlp_exported.of(&[]),
            dropped: self.0.otlp_dropped.of(&[]),
        }
    }

    /// All numbers were sent to a collector, or not.
    pub fn pushed(&self, sent: bool) {
        let result = if sent { "sent" } else { "failed" };
        self.0.otlp_metrics.of(&[result]).inc();
    }

    /// A reload has ended so; `at_ms` is its time if another revision runs since.
    pub fn reloaded(&self, result: &str, at_ms: Option<i64>) {
        self.0.reloads.of(&[result]).inc();
        if let Some(at_ms) = at_ms {
            self.0.reloaded.of(&[]).set(at_ms / 1_000);
        }
    }

    /// The engine has started with a project at this time.
    pub fn loaded(&self, at_ms: i64) {
        // What is there from the beginning shows its first change.
        for result in RELOADS_AS {
            self.0.reloads.of(&[result]);
        }
        self.0.reloaded.of(&[]).set(at_ms / 1_000);
    }

    /// The disk of the store has so much free, and must have so much.
    pub fn disk(&self, free: u64, least: u64) {
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.disk_free.of(&[]).set(whole(free));
        self.0.disk_least.of(&[]).set(whole(least));
    }

    /// A person has settled an exception.
    pub fn resolved(&self, how: &str) {
        self.0.resolved.of(&[how]).inc();
    }

    /// A run of a list was taken to be done again, or that was refused.
    pub fn replayed(&self, outcome: &str) {
        self.0.replayed.of(&[outcome]).inc();
    }

    /// The flows of which something was counted.
    pub fn flows(&self) -> BTreeSet<Arc<str>> {
        self.0.received.values("flow")
    }

    /// Forgets all flows but these.
    pub fn keep_flows(&self, flows: &BTreeSet<Arc<str>>) {
        self.keep("flow", &|flow| flows.contains(flow));
    }
}

/// How reloads end.
const RELOADS_AS: [&str; 5] = ["switched", "same", "withdrawn", "refused", "failed"];
/// How runs end.
const COMPLETED_AS: [&str; 4] = ["delivered", "filtered", "discarded", "compensated"];

/// What is counted of a flow.
#[derive(Clone)]
pub struct FlowMeter {
    /// Messages that came.
    pub received: Counter,
    /// Of these: turned away.
    pub refused: Counter,
    /// Of these: known already.
    pub duplicates: Counter,
    /// Messages that have become exceptions.
    pub opened: Counter,
    completed: [(&'static str, Counter); 4],
    run_seconds: Histogram,
}

impl FlowMeter {
    /// A run has ended as this.
    pub fn completed(&self, outcome: &str) {
        if let Some((_, counter)) = self.completed.iter().find(|(known, _)| *known == outcome) {
            counter.inc();
        }
    }

    /// A run that has ended took so long.
    pub fn lasted(&self, ms: i64) {
        self.run_seconds.observe(ms.max(0) as f64 / 1_000.0);
    }
}

/// What is counted of a step.
#[derive(Clone)]
pub struct StepMeter {
    metrics: Metrics,
    flow: Arc<str>,
    step: Arc<str>,
    /// Attempts that did what they should.
    pub done: Counter,
    opened: Counter,
    seconds: Histogram,
}

impl StepMeter {
    /// An attempt took so long.
    pub fn took(&self, duration: Duration) {
        self.seconds.observe(duration.as_secs_f64());
    }

    /// An attempt failed with this class; another one follows.
    pub fn retried(&self, class: &str) {
        let labels = [&*self.flow, &*self.step, "retried", class];
        self.metrics.0.attempts.of(&labels).inc();
    }

    /// A message failed at this step, which may be one of those that run together with ours.
    pub fn failed(&self, step: &str, class: &str) {
        let labels = [&*self.flow, step, "failed", class];
        self.metrics.0.attempts.of(&labels).inc();
        self.opened.inc();
    }
}

/// What is counted of the store.
#[derive(Clone)]
pub struct StoreMeter {
    commit_seconds: Histogram,
    transaction_commits: Histogram,
    sync_seconds: Histogram,
    /// Syncs that failed.
    pub sync_errors: Counter,
}

impl StoreMeter {
    /// Somebody has waited so long for a commit.
    pub fn committed(&self, duration: Duration) {
        self.commit_seconds.observe(duration.as_secs_f64());
    }

    /// So many commits shared a transaction.
    pub fn transaction(&self, commits: u64) {
        self.transaction_commits.observe(commits as f64);
    }

    /// A sync took so long.
    pub fn synced(&self, duration: Duration) {
        self.sync_seconds.observe(duration.as_secs_f64());
    }
}

/// What is counted of a system.
#[derive(Clone)]
pub struct SystemMeter {
    metrics: Metrics,
    system: Arc<str>,
    answered: Counter,
    ambiguous: Counter,
    seconds: Histogram,
}

impl SystemMeter {
    /// It has answered, be it with a no that says nothing against it.
    pub fn answered(&self, duration: Duration) {
        self.answered.inc();
        self.seconds.observe(duration.as_secs_f64());
    }

    /// A call failed with this class; with `ambiguous` nobody knows whether it took effect.
    pub fn failed(&self, class: &str, ambiguous: bool, duration: Duration) {
        let requests = &self.metrics.0.system_requests;
        requests.of(&[&self.system, "failed", class]).inc();
        self.seconds.observe(duration.as_secs_f64());
        if ambiguous {
            self.ambiguous.inc();
        }
    }

    /// Who made the call has gone away.
    pub fn broken_off(&self) {
        let requests = &self.metrics.0.system_requests;
        requests.of(&[&self.system, "broken_off", ""]).inc();
    }
}

/// What is counted of a connection to a broker.
#[derive(Clone)]
pub struct AmqpMeter {
    /// 1 while there is a connection.
    pub connected: Gauge,
    /// Connections after the first one.
    pub reconnects: Counter,
    /// Letters that the broker has.
    pub stored: Counter,
    /// Letters that it turned down.
    pub refused: Counter,
    /// Letters of which nobody knows.
    pub unknown: Counter,
    /// Letters on their way.
    pub unconfirmed: Gauge,
    /// 1 while the broker takes nothing.
    pub blocked: Gauge,
}

/// What is counted of spans.
#[derive(Clone)]
pub struct OtlpMeter {
    /// The collector has them.
    pub exported: Counter,
    /// Nobody will ever see them.
    pub dropped: Counter,
}

/// What is counted of a path of a listener.
#[derive(Clone)]
pub struct RouteMeter {
    metrics: Metrics,
    listener: &'static str,
    route: Arc<str>,
    seconds: Histogram,
}

impl RouteMeter {
    /// A request was answered with this status.
    pub fn answered(&self, method: &str, status: &str, duration: Duration) {
        let labels = [self.listener, &*self.route, method, status];
        self.metrics.0.http_requests.of(&labels).inc();
        self.seconds.observe(duration.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// What it costs to count one hop of a message: printed with `--nocapture`, and never more than a thousandth of what a hop takes.
    #[test]
    fn counting_costs_next_to_nothing() {
        let metrics = Metrics::default();
        let (flow, step) = (metrics.flow("orders"), metrics.step("orders", "erp"));
        let rounds = 100_000;
        let began = Instant::now();
        for _ in 0..rounds {
            let hop = Instant::now();
            flow.received.inc();
            step.done.inc();
            step.took(hop.elapsed());
            flow.completed("delivered");
            flow.lasted(7);
        }
        let each = began.elapsed() / rounds;
        println!("one hop is counted in {each:?}");
        assert!(each < Duration::from_micros(20), "{each:?}");
    }
}
