//! How a system is: the words for it, what a call says about it, and that a person has stopped it.

use crate::failure::{Class, Failure};

/// How a system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It takes calls.
    Up,
    /// Its circuit is open, or being tried: messages wait.
    Down,
    /// It refuses the credentials: messages wait, and it is tried now and then.
    Refused,
    /// It is being maintained, as its file says: messages wait.
    Maintenance,
    /// A person has stopped it: messages wait.
    Paused,
}

impl Health {
    /// All of them.
    pub const ALL: [Health; 5] = [
        Health::Up,
        Health::Down,
        Health::Refused,
        Health::Maintenance,
        Health::Paused,
    ];

    /// The word in the store and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Health::Up => "up",
            Health::Down => "down",
            Health::Refused => "credentials refused",
            Health::Maintenance => "maintenance",
            Health::Paused => "paused",
        }
    }
}

/// How a system is, since when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// How it is.
    pub health: Health,
    /// Since when, in milliseconds since 1970; 0 for one that was never anything but up.
    pub since_ms: i64,
    /// Until when nothing is sent; `None` if it is up, or being tried.
    pub until_ms: Option<i64>,
    /// Why; empty if it is up.
    pub reason: String,
    /// How often the circuit has opened in this outage.
    pub times: u32,
}

impl Told {
    /// Up since this time.
    pub fn up(since_ms: i64) -> Told {
        Told {
            health: Health::Up,
            since_ms,
            until_ms: None,
            reason: String::new(),
            times: 0,
        }
    }
}

/// What a call says about its system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works: it answered, be it with a no.
    Good,
    /// It could not be reached, did not answer in time, or failed itself.
    Failed(String),
    /// It refused the credentials.
    Refused(String),
    /// Nothing: the call was not made, or it was our own fault.
    Nothing,
}

impl Verdict {
    /// What this failure of a call says about the system that was called.
    pub fn of(failure: &Failure) -> Verdict {
        match failure.class {
            Class::Timeout | Class::Unavailable | Class::Ambiguous => {
                Verdict::Failed(failure.to_string())
            }
            Class::Auth => Verdict::Refused(failure.message.clone()),
            Class::Validation
            | Class::UnknownReference
            | Class::Duplicate
            | Class::Conflict
            | Class::NotFound
            | Class::Forbidden
            | Class::Throttled
            | Class::TooLarge
            | Class::Parse => Verdict::Good,
            Class::Mapping | Class::Config | Class::Internal => Verdict::Nothing,
        }
    }
}

/// That a person has stopped a system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// Until when; `None`: until somebody lets it go on.
    pub until_ms: Option<i64>,
    /// Who has stopped it, and why.
    pub reason: String,
}
