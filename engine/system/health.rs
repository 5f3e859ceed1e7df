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
                Verdict::Failed(without_places(&failure.to_string()))
            }
            Class::Auth => Verdict::Refused(without_places(&failure.message)),
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

/// What is said of a system is said of no message: paths and queries hold values of the one that was sent, so `/orders/17?who=x` is `/..` here.
fn without_places(text: &str) -> String {
    let word = |word: &str| {
        let Some(begin) = word.find('/') else {
            return word
                .split_once('?')
                .map_or(word, |(before, _)| before)
                .to_owned();
        };
        let bare = word.trim_end_matches([',', ';', ':']);
        // Of a URL the host is no value of a message.
        let begin = match word.split_once("://") {
            Some((scheme, rest)) => scheme.len() + 3 + rest.find('/').unwrap_or(rest.len()),
            None => begin,
        };
        match begin < bare.len() {
            true => format!("{}/..{}", &word[..begin], &word[bare.len()..]),
            false => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_system_holds_no_value_of_a_message() {
        let told = Failure::new(
            Class::Unavailable,
            "erp answered 503 to GET /customers/anna?mail=anna%40x; see http://erp:80/a?b=anna",
        );
        let Verdict::Failed(reason) = Verdict::of(&told) else {
            panic!("it says nothing");
        };
        assert!(
            reason.ends_with("erp answered 503 to GET /..; see http://erp:80/.."),
            "{reason}"
        );
        let auth = Failure::new(
            Class::Auth,
            "erp answered 401 to GET /c/anna; check the system's auth",
        );
        let expected = "erp answered 401 to GET /..; check the system's auth";
        assert_eq!(Verdict::of(&auth), Verdict::Refused(expected.to_owned()));
    }
}
