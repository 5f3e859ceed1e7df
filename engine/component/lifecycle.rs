//! What a file says about itself over time: its version, how much it matters, and that it is to be given up. It judges nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A version: a text or a number.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Version {
    /// Such as `2026-11`.
    Text(String),
    /// Such as `3`.
    Number(f64),
}

/// How much it matters when it stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Criticality {
    /// It can wait for days.
    Low,
    /// It can wait for hours.
    Normal,
    /// People notice within minutes.
    High,
    /// The business stands still.
    Critical,
}

/// That something is to be given up, and what takes its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Deprecation {
    /// The day from which nothing new should use it, such as `2026-11-01`.
    #[schemars(regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub since: Option<String>,
    /// The day from which it may be gone.
    #[schemars(regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub sunset: Option<String>,
    /// What to use instead.
    pub instead: Option<String>,
    /// Why, in a sentence.
    pub reason: Option<String>,
}

impl Deprecation {
    /// What it says, in a few words: `since 2026-11-01, gone from 2027-03-31; use x.v2 instead: prices have a currency there`.
    pub fn words(&self) -> String {
        let mut words = String::from("deprecated");
        if let Some(since) = &self.since {
            words.push_str(&format!(" since {since}"));
        }
        if let Some(sunset) = &self.sunset {
            words.push_str(&format!(", gone from {sunset} on"));
        }
        if let Some(instead) = &self.instead {
            words.push_str(&format!("; use `{instead}` instead"));
        }
        if let Some(reason) = &self.reason {
            words.push_str(&format!(" ({reason})"));
        }
        words
    }

    /// Whether its last day is past.
    pub fn is_over(&self, today: &str) -> bool {
        self.sunset.as_deref().is_some_and(|sunset| sunset <= today)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_says_when_and_what_instead() {
        let all = Deprecation {
            since: Some("2026-11-01".to_owned()),
            sunset: Some("2027-03-31".to_owned()),
            instead: Some("a.v2".to_owned()),
            reason: Some("no currency".to_owned()),
        };
        assert_eq!(
            all.words(),
            "deprecated since 2026-11-01, gone from 2027-03-31 on; use `a.v2` instead (no currency)"
        );
        assert!(!all.is_over("2027-03-30") && all.is_over("2027-03-31"));
        assert_eq!(Deprecation::default().words(), "deprecated");
    }
}
