//! From a failure to what is stored of it: exceptions with their full context, fingerprints, and the wait before the next attempt.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::component::common::RetryRule;
use crate::failure::Failure;
use crate::message::Message;
use crate::schema::Breach;
use crate::store::commit::NewException;
use crate::store::envelope::Envelope;
use crate::world::random::Random;

/// The version of the fingerprint's rule: part of it, so that a new rule never merges with an old one.
const FINGERPRINT_VERSION: &str = "1";

/// The failure of a body that breaks a schema.
pub(super) fn breach(schema: &str, breaches: &[Breach]) -> Failure {
    let lines: Vec<String> = breaches
        .iter()
        .map(|breach| {
            let path = if breach.path.is_empty() {
                "/"
            } else {
                &breach.path
            };
            format!("{path}: {}", breach.message)
        })
        .collect();
    let first = lines.first().cloned().unwrap_or_default();
    let more = if lines.len() > 1 {
        format!(" (and {} more)", lines.len() - 1)
    } else {
        String::new()
    };
    Failure::validation(format!("the body breaks `{schema}` at {first}{more}"))
        .with_detail(lines.join("\n"))
}

/// An exception at a step, without request and answer.
pub(super) fn exception(
    flow: &str,
    step: &Arc<str>,
    message: &Message,
    runs_body: bool,
    failure: &Failure,
    attempts: u32,
) -> NewException {
    NewException {
        step: step.clone(),
        class: failure.class,
        message: failure.message.clone(),
        detail: failure.detail.clone(),
        fingerprint: fingerprint(flow, step, failure),
        attempts,
        at: message.id,
        body: (!runs_body).then(|| message.body.bytes().clone()),
        envelope: (!runs_body).then(|| Envelope::write(message)),
        request: None,
        answer: None,
    }
}

/// The same exception with what was sent and what came back.
pub(super) fn with_exchange(
    mut exception: NewException,
    request: Option<Bytes>,
    answer: Option<Bytes>,
) -> NewException {
    exception.request = request;
    exception.answer = answer;
    exception
}

/// Equal for failures with the same cause: flow, step, class and the sentence without numbers, ids and quoted values.
pub(super) fn fingerprint(flow: &str, step: &str, failure: &Failure) -> String {
    let text = format!(
        "{FINGERPRINT_VERSION}\n{flow}\n{step}\n{}\n{}",
        failure.class,
        normalised(&failure.message)
    );
    let digest = Sha256::digest(text);
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// How long to wait before attempt `next`: full jitter below the rule's wait, and never before the target allows it.
pub(super) fn wait_ms(rule: &RetryRule, next: u32, failure: &Failure, random: &dyn Random) -> u64 {
    let jittered = random.below(rule.wait_ms(next).saturating_add(1));
    match failure.retry_after_ms {
        Some(floor) => floor
            .saturating_add(random.below(1 + floor / 10))
            .max(jittered),
        None => jittered,
    }
}

fn normalised(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut quote = None;
    for word in message.split_inclusive(|c: char| c.is_whitespace()) {
        let mut kept = String::new();
        for c in word.chars() {
            match quote {
                Some(open) if c == open => quote = None,
                Some(_) => {}
                None if matches!(c, '`' | '"') => {
                    quote = Some(c);
                    kept.push('*');
                }
                None => kept.push(c),
            }
        }
        if kept.chars().any(|c| c.is_ascii_digit()) {
            out.push_str("# ");
        } else {
            out.push_str(&kept);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;
    use crate::world::random::SeededRandom;

    fn print(message: &str) -> String {
        fingerprint("orders", "erp", &Failure::new(Class::Conflict, message))
    }

    #[test]
    fn a_fingerprint_ignores_numbers_ids_and_quoted_values() {
        assert_eq!(
            print("order 1001 is locked by `anna b`"),
            print("order 77 is locked by `bert`")
        );
        assert_ne!(print("order 1001 is locked"), print("order 1001 is closed"));
    }

    #[test]
    fn a_wait_is_never_shorter_than_the_target_asks() {
        let rule = RetryRule {
            attempts: 3,
            first_ms: 100,
            factor: 2.0,
            most_ms: 1_000,
        };
        let random = SeededRandom::new(1);
        let patient = Failure::new(Class::Throttled, "slow down").with_retry_after_ms(5_000);
        for next in 2..20 {
            assert!(wait_ms(&rule, next, &patient, &random) >= 5_000);
            assert!(wait_ms(&rule, next, &Failure::new(Class::Timeout, "late"), &random) <= 1_000);
        }
    }
}
