//! What went wrong with one message: a class from a closed list, a sentence, and detail. Not for findings about files: those are diagnostics.

use std::fmt;

/// The closed list of failure classes. The part that knows gives the class; nothing downstream guesses it from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The body breaks a schema or a rule.
    Validation,
    /// An expression or a template could not be evaluated on this body.
    Mapping,
    /// A cross-reference table or a system does not know the value.
    UnknownReference,
    /// The same key was accepted before, with other content.
    Duplicate,
    /// The target says that its state contradicts the request.
    Conflict,
    /// The target does not know what was asked for.
    NotFound,
    /// The target refuses the credentials.
    Auth,
    /// The target refuses the action for these credentials.
    Forbidden,
    /// The target asks for fewer requests.
    Throttled,
    /// No answer in time, and the request surely took no effect or is safe to repeat.
    Timeout,
    /// The target cannot be reached or says that it cannot serve, without effect.
    Unavailable,
    /// A body, an answer or a batch is larger than its limit.
    TooLarge,
    /// Bytes are not what their format says.
    Parse,
    /// The request was sent, and nobody knows whether it took effect.
    Ambiguous,
    /// The project does not fit the message: a missing step, flow or setting.
    Config,
    /// A defect of the engine.
    Internal,
}

impl Class {
    /// Every class, in the order of the documentation.
    pub const ALL: [Class; 16] = [
        Class::Validation,
        Class::Mapping,
        Class::UnknownReference,
        Class::Duplicate,
        Class::Conflict,
        Class::NotFound,
        Class::Auth,
        Class::Forbidden,
        Class::Throttled,
        Class::Timeout,
        Class::Unavailable,
        Class::TooLarge,
        Class::Parse,
        Class::Ambiguous,
        Class::Config,
        Class::Internal,
    ];

    /// The name in YAML, in the store and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Class::Validation => "validation",
            Class::Mapping => "mapping",
            Class::UnknownReference => "unknown_reference",
            Class::Duplicate => "duplicate",
            Class::Conflict => "conflict",
            Class::NotFound => "not_found",
            Class::Auth => "auth",
            Class::Forbidden => "forbidden",
            Class::Throttled => "throttled",
            Class::Timeout => "timeout",
            Class::Unavailable => "unavailable",
            Class::TooLarge => "too_large",
            Class::Parse => "parse",
            Class::Ambiguous => "ambiguous",
            Class::Config => "config",
            Class::Internal => "internal",
        }
    }

    /// The class with this name.
    pub fn from_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Whether a failure of this class is retried when nothing else is said.
    pub fn retried_by_default(self) -> bool {
        matches!(self, Class::Throttled | Class::Timeout | Class::Unavailable)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why one message cannot go on, or must wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class decides on retry, circuit and routing.
    pub class: Class,
    /// One sentence: what, where, and what to do; no full stop, no secret.
    pub message: String,
    /// More lines for the person who repairs it: schema findings, the target's answer.
    pub detail: Option<String>,
    /// The target's wish: not before this many milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure with a class and a sentence.
    pub fn new(class: Class, message: impl Into<String>) -> Failure {
        Failure {
            class,
            message: message.into(),
            detail: None,
            retry_after_ms: None,
        }
    }

    /// The same failure with detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Failure {
        self.detail = Some(detail.into());
        self
    }

    /// The same failure with the target's wish to wait.
    #[must_use]
    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Failure {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// A failure of class `parse`.
    pub fn parse(message: impl Into<String>) -> Failure {
        Failure::new(Class::Parse, message)
    }

    /// A failure of class `mapping`.
    pub fn mapping(message: impl Into<String>) -> Failure {
        Failure::new(Class::Mapping, message)
    }

    /// A failure of class `validation`.
    pub fn validation(message: impl Into<String>) -> Failure {
        Failure::new(Class::Validation, message)
    }

    /// A failure of class `config`.
    pub fn config(message: impl Into<String>) -> Failure {
        Failure::new(Class::Config, message)
    }

    /// A failure of class `internal`: a defect of the engine.
    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(Class::Internal, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_round_trip() {
        for class in Class::ALL {
            assert_eq!(Class::from_name(class.name()), Some(class));
        }
        assert_eq!(Class::from_name("nonsense"), None);
    }

    #[test]
    fn only_three_classes_are_retried_by_default() {
        let retried: Vec<_> = Class::ALL
            .into_iter()
            .filter(|class| class.retried_by_default())
            .collect();
        assert_eq!(
            retried,
            [Class::Throttled, Class::Timeout, Class::Unavailable]
        );
    }
}
