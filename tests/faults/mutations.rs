//! The tests are tested: with each deliberate mistake in the engine, the oracle must object. Without it the same scenarios are good, as the
//! list of `tests/faults.rs` shows.

use crossdock::world::mutation;

use super::{Backend, Scale, Setting, asked_for, scenario};

/// Each mistake, and the scenario of the list that must object to it.
const MUTATIONS: &[(&str, &str)] = &[
    ("early-ack", "kills"),
    ("ledger-ignored", "failpoints_neither"),
    ("blind-resend", "erp_dropped"),
    ("unfenced-end", "stray_copies"),
    ("no-fsync", "power_loss_store"),
];

/// Plays the scenario with the mistake; gives a line, and whether the mistake was caught.
fn hunt(mistake: &'static str, name: &str, setting: &Setting) -> (String, bool) {
    let setting = Setting {
        mutation: Some(mistake),
        ..*setting
    };
    let played = (scenario(name).run)(&setting);
    // Only an oracle that has counted can have caught anything.
    match played {
        Ok(line) if line.lost + line.doubled > 0 || !line.wrong.is_empty() => {
            (format!("{mistake} caught"), true)
        }
        Ok(line) => (format!("{mistake} MISSED\n  {name} {line}"), false),
        Err(error) => (format!("{mistake} MISSED\n  {name}: {error}"), false),
    }
}

/// All of them when `make faults-mutations` asks, at small scale in every other run of the tests.
#[test]
fn the_oracle_objects_to_every_mistake() {
    let setting = asked_for().map_or(
        Setting {
            scale: Scale::Small,
            seed: 7,
            mutation: None,
            backend: Backend::Embedded,
        },
        |(setting, _)| setting,
    );
    let mut missed = Vec::new();
    for (mistake, name) in MUTATIONS {
        let (text, caught) = hunt(mistake, name, &setting);
        println!("{text}");
        if !caught {
            missed.push(*mistake);
        }
    }
    assert!(missed.is_empty(), "MISSED: {}", missed.join(", "));
}

#[test]
fn every_mistake_is_made_in_one_place_and_hunted() {
    let mut made = super::works::calls_in_source("mutation::", &["is"]);
    made.sort();
    let mut listed: Vec<&str> = mutation::ALL.to_vec();
    listed.sort_unstable();
    assert_eq!(made, listed, "the calls in engine/ and `mutation::ALL`");
    let mut hunted: Vec<&str> = MUTATIONS.iter().map(|(name, _)| *name).collect();
    hunted.sort_unstable();
    assert_eq!(
        hunted, listed,
        "the list of tests/faults/mutations.rs and `mutation::ALL`"
    );
}
