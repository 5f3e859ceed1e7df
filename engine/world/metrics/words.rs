//! Every metric of the engine: its name, kind, labels, whose number it is, and what it means. The reference page is made from this list.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows, until the engine is started anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many were at most so large: seconds, or a number of things.
    Histogram(&'static [f64]),
}

/// Whose number it is: it says how several engines are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Of this engine: engines that share a store are summed.
    Engine,
    /// Of the store: every engine that shares it says the same, so the largest is taken, not the sum.
    Store,
    /// Of this process, by the operating system's count.
    Process,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// The name without `_total`, which counters get.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// Its labels, in their order.
    pub labels: &'static [&'static str],
    /// Whose number.
    pub of: Of,
    /// What it says, in one sentence without a full stop.
    pub help: &'static str,
}

impl Word {
    /// The name under which Prometheus finds its values; of a histogram `_bucket`, `_sum` and `_count` are added.
    pub fn full_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge | Kind::Histogram(_) => self.name.to_owned(),
        }
    }
}

/// From a quarter of a millisecond to a minute.
const SHORT: &[f64] = &[
    0.000_25, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// From 50 ms to an hour.
const LONG: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0,
];
/// Numbers of things.
const MANY: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Writes the list: a constant for each metric, and `ALL`.
macro_rules! words {
    ($($name:ident $kind:expr, $of:ident, $text:literal [$($label:literal)*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $name: Word = Word {
                name: $text, kind: $kind, labels: &[$($label),*], of: Of::$of, help: $help,
            };
        )*
        /// All of them, in the order of the reference.
        pub const ALL: &[Word] = &[$($name),*];
    };
}

use Kind::{Counter, Gauge, Histogram};

words! {
    BUILD Gauge, Engine, "crossdock_build_info" ["version"] "Always 1; the version of the program";
    REVISION Gauge, Engine, "crossdock_revision_info" ["revision"] "Always 1; the project revision that runs";
    READY Gauge, Engine, "crossdock_ready" [] "1 while the engine may accept messages, as /healthz/ready says";
    RELOADS Counter, Engine, "crossdock_reloads" ["result"] "Reloads and rollbacks: switched, same, withdrawn, refused, failed";
    RELOADED Gauge, Engine, "crossdock_last_reload_success_timestamp_seconds" [] "When the project that runs was loaded, in seconds since 1970";

    RECEIVED Counter, Engine, "crossdock_messages_received" ["flow"] "Messages that sources and other flows brought";
    REFUSED Counter, Engine, "crossdock_messages_refused" ["flow"] "Messages that were turned away: they break the contract, or their signature is wrong";
    DUPLICATES Counter, Engine, "crossdock_messages_duplicate" ["flow"] "Messages that were known already";
    COMPLETED Counter, Engine, "crossdock_runs_completed" ["flow" "outcome"] "Runs that ended: delivered, filtered, discarded, compensated";
    RUN_SECONDS Histogram(LONG), Engine, "crossdock_run_duration_seconds" ["flow"] "From the acceptance of a message to the end of its run, waits included";
    ATTEMPTS Counter, Engine, "crossdock_step_attempts" ["flow" "step" "outcome" "error_class"] "Attempts of steps: done, retried (another one follows), failed. Pure steps that run together count once, under the first of them; a failure counts at the step that failed";
    STEP_SECONDS Histogram(SHORT), Engine, "crossdock_step_duration_seconds" ["flow" "step"] "How long an attempt took; of pure steps that run together, all of them, under the first";
    PANICS Counter, Process, "crossdock_panics" [] "Defects of the engine that were caught: the message is kept as an exception";

    IN_FLIGHT Gauge, Store, "crossdock_runs_in_flight" ["flow"] "Runs that are worked on, or wait for an attempt";
    RETRY_WAITING Gauge, Store, "crossdock_retry_waiting" ["flow"] "Messages that wait for another attempt after a failure";
    RETRY_AGE Gauge, Store, "crossdock_retry_oldest_age_seconds" ["flow"] "Since when the oldest message that waits for another attempt is in the engine";
    DEPTH Gauge, Store, "crossdock_handoff_depth" ["flow" "step" "state"] "Messages before a step: ready, waiting (for a time), held (for their turn)";
    DEPTH_AGE Gauge, Store, "crossdock_handoff_oldest_age_seconds" ["flow" "step"] "Since when the oldest message that is ready before a step is in the engine";

    COMMIT_SECONDS Histogram(SHORT), Engine, "crossdock_store_commit_duration_seconds" [] "From asking the store for a commit to its answer: queue, transaction and sync";
    TRANSACTION_COMMITS Histogram(MANY), Engine, "crossdock_store_transaction_commits" [] "How many commits shared a transaction";
    SYNC_SECONDS Histogram(SHORT), Engine, "crossdock_store_sync_duration_seconds" [] "How long the disk took to make the log durable (SQLite)";
    SYNC_ERRORS Counter, Engine, "crossdock_store_sync_errors" [] "Syncs that failed: the store is broken and the engine ends";
    DISK_FREE Gauge, Engine, "crossdock_disk_free_bytes" [] "Free space on the disk of the store; absent where the store is on a server";
    DISK_LEAST Gauge, Engine, "crossdock_disk_free_least_bytes" [] "With less than this nothing is accepted (`limits.disk_free`)";
    STORE_READ Gauge, Engine, "crossdock_store_read" [] "1 if the numbers of the store in this answer are of this moment, 0 if the store could not say them in time";
    STORE_AGE Gauge, Engine, "crossdock_store_read_age_seconds" [] "How old the numbers of the store in this answer are";

    AMQP_CONNECTED Gauge, Engine, "crossdock_amqp_connected" ["purpose"] "1 while there is a connection to the broker for this purpose";
    AMQP_RECONNECTS Counter, Engine, "crossdock_amqp_reconnects" ["purpose"] "Connections that were made after the first one";
    AMQP_CONFIRMS Counter, Engine, "crossdock_amqp_confirms" ["purpose" "result"] "What became of what was published: stored, refused, unknown";
    AMQP_UNCONFIRMED Gauge, Engine, "crossdock_amqp_unconfirmed" ["purpose"] "Published and not yet confirmed";
    AMQP_BLOCKED Gauge, Engine, "crossdock_amqp_blocked" ["purpose"] "1 while the broker takes nothing, because of its alarm for memory or disk";

    SYSTEM_REQUESTS Counter, Engine, "crossdock_system_requests" ["system" "outcome" "error_class"] "Calls of systems: answered, failed, broken_off";
    SYSTEM_SECONDS Histogram(SHORT), Engine, "crossdock_system_request_duration_seconds" ["system"] "How long a call took, without the wait for the system's limits";
    AMBIGUOUS Counter, Engine, "crossdock_system_ambiguous" ["system"] "Calls of which nobody knows whether they took effect";
    SYSTEM_STATE Gauge, Engine, "crossdock_system_state" ["system" "state"] "1 for the state in which the system is: up, down (its circuit is open), refused (the credentials), maintenance";

    OPENED Counter, Engine, "crossdock_exceptions_opened" ["flow"] "Exceptions: messages that a person must look at";
    RESOLVED Counter, Engine, "crossdock_exceptions_resolved" ["how"] "Exceptions that people settled: retried, discarded, by_hand";
    OPEN Gauge, Store, "crossdock_exceptions_open" ["flow" "error_class"] "Exceptions that wait for a person";
    ISSUES Gauge, Store, "crossdock_issues_open" ["flow"] "Different causes of the exceptions that wait";
    REPLAYED Counter, Engine, "crossdock_replay_items" ["outcome"] "Runs of lists of replays: taken, and of these refused";

    BOOKS_RECEIVED Counter, Store, "crossdock_books_received" ["flow"] "The books: messages that came";
    BOOKS_ACCEPTED Counter, Store, "crossdock_books_accepted" ["flow"] "The books: messages that became runs";
    BOOKS_DUPLICATES Counter, Store, "crossdock_books_duplicates" ["flow"] "The books: messages that were known";
    BOOKS_REFUSED Counter, Store, "crossdock_books_refused" ["flow"] "The books: messages that were turned away";
    BOOKS_RUNS Gauge, Store, "crossdock_books_runs" ["flow" "state"] "The books: accepted messages by where they are: delivered, filtered, discarded, compensated, in_flight, in_exceptions";
    BOOKS_IMBALANCE Gauge, Store, "crossdock_books_imbalance" ["flow"] "By how many messages the books do not balance: 0, or the engine has a defect";

    STOPPED Gauge, Store, "crossdock_stopped_since_timestamp_seconds" ["target" "state"] "Since when a flow, a step (flow/step) or a system (system:name) is paused, disabled or draining, in seconds since 1970; absent for what goes on";
    CANARY_SHARE Gauge, Store, "crossdock_canary_share_ratio" ["revision"] "Which share of the keys the canary that runs takes, from 0 to 1; absent where an expression decides";
    CANARY_TAKEN Counter, Store, "crossdock_canary_messages" ["flow" "side"] "Messages that came in since the canary that runs began: of the candidate, and of the base";
    CANARY_EXCEPTED Counter, Store, "crossdock_canary_exceptions" ["flow" "side"] "How many of these ended in an exception";

    HTTP_REQUESTS Counter, Engine, "crossdock_http_requests" ["listener" "route" "method" "status"] "Requests, by the path as it was registered";
    HTTP_SECONDS Histogram(SHORT), Engine, "crossdock_http_request_duration_seconds" ["listener" "route"] "From a request's head to its answer";
    OTLP_EXPORTED Counter, Engine, "crossdock_otlp_spans_exported" [] "Spans that the collector of traces has taken";
    OTLP_DROPPED Counter, Engine, "crossdock_otlp_spans_dropped" [] "Spans that were dropped: too many waited, or the collector did not take them";
    OTLP_METRICS Counter, Engine, "crossdock_otlp_metrics_sent" ["result"] "How often these numbers were sent to the collector: sent, failed";
    LOG_LINES Counter, Process, "crossdock_log_lines" ["level"] "Lines of the log, those that were summarised included";

    WORKERS Gauge, Process, "crossdock_runtime_workers" [] "Threads that work on messages";
    WORKERS_BUSY Counter, Process, "crossdock_runtime_busy_seconds" [] "How long they have worked, together";
    ALIVE Gauge, Process, "crossdock_runtime_alive" [] "Activities that have begun and not ended";
    QUEUED Gauge, Process, "crossdock_runtime_queued" [] "Activities that wait for a thread, in the queue that threads share";
    CPU Counter, Process, "process_cpu_seconds" [] "Time of processors that this process has used";
    RESIDENT Gauge, Process, "process_resident_memory_bytes" [] "Memory of this process";
    VIRTUAL Gauge, Process, "process_virtual_memory_bytes" [] "Address space of this process";
    FILES_OPEN Gauge, Process, "process_open_fds" [] "Open files and sockets";
    FILES_MAX Gauge, Process, "process_max_fds" [] "How many files and sockets may be open";
    THREADS Gauge, Process, "process_threads" [] "Threads of this process";
    STARTED Gauge, Process, "process_start_time_seconds" [] "When this process was started, in seconds since 1970";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_keep_the_rules_of_prometheus() {
        let mut seen = BTreeSet::new();
        for word in ALL {
            let good = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(word.name.chars().all(good), "{}", word.name);
            let prefixed = ["crossdock_", "process_"].map(|prefix| word.name.starts_with(prefix));
            assert!(prefixed.contains(&true), "{}", word.name);
            assert!(!word.name.ends_with("_total"), "{}", word.name);
            assert!(seen.insert(word.name), "{} is there twice", word.name);
            assert!(!word.help.ends_with('.'), "{}", word.help);
            assert!(word.labels.len() <= 4, "{}", word.name);
        }
    }
}
