//! What a message waits for at a step that lets messages wait durably. The step says what; the store keeps the wait, the run floor acts on it.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::Context;
use crate::body::Body;
use crate::expression::Expression;
use crate::failure::{Class, Failure};
use crate::message::{KEY_BYTES_MAX, Message};

/// What the messages of a step wait for. No kind of wait holds a worker, and each outlives the engine.
pub enum Waiting {
    /// A time.
    Time(Time),
    /// Their place in a rate.
    Pace(Pace),
    /// A message of another flow.
    Answer(Awaiting),
    /// The rest of their group.
    Group(Box<Gathering>),
    /// Those before them.
    Turn(Box<Numbered>),
}

/// A wait for a time.
pub enum Time {
    /// So many milliseconds after the message has come to the step.
    For(i64),
    /// Until the time that an expression gives; a time that is past is no wait.
    Until {
        /// Gives a time with its zone.
        at: Expression,
        /// A time that is farther away than this, in milliseconds, is a mistake.
        most_ms: i64,
    },
}

impl Time {
    /// Until when the message waits, in milliseconds since 1970. Pure, but for the time that it is given.
    pub fn until_ms(
        &self,
        message: &Message,
        cx: &Context<'_>,
        now_ms: i64,
    ) -> Result<i64, Failure> {
        let (expression, most_ms) = match self {
            Time::For(ms) => return Ok(now_ms.saturating_add(*ms)),
            Time::Until { at, most_ms } => (at, *most_ms),
        };
        let scope = cx.scope(message, expression)?;
        let value = expression.evaluate(&scope)?;
        let text = value.as_str();
        let Some(at) = text
            .as_deref()
            .and_then(|text| text.parse::<Timestamp>().ok())
        else {
            let given =
                text.map_or_else(|| value.type_name().to_owned(), |text| format!("`{text}`"));
            return Err(Failure::mapping(format!(
                "`{}` must give a time with its zone, such as 2026-11-21T10:00:00Z, it gave {given}; `timestamp(..)` makes one",
                expression.text()
            )));
        };
        let at_ms = at.as_millisecond();
        if at_ms.saturating_sub(now_ms) > most_ms {
            return Err(Failure::validation(format!(
                "the message would wait until {at}, which is farther away than `most` allows"
            )));
        }
        Ok(at_ms)
    }
}

/// A wait for a place in a rate.
pub struct Pace {
    /// From one message to the next, in microseconds.
    pub interval_us: i64,
    /// How many may go on at once after a pause.
    pub burst: u32,
    /// Messages with different values have a rate of their own each; without it all share one.
    pub by: Option<Expression>,
}

/// A wait for a message of another flow.
pub struct Awaiting {
    /// The key that both have.
    pub key: Arc<str>,
    /// The flow whose message is awaited.
    pub from: Arc<str>,
    /// How long a message waits, and how much older than the wait an answer may be, in milliseconds.
    pub within_ms: i64,
    /// Takes only answers for which it is true.
    pub matches: Option<Expression>,
    /// The variable that takes the answer's body.
    pub into: Option<Arc<str>>,
}

impl Awaiting {
    /// Whether an answer with this body is one for the message. Pure.
    pub fn wants(
        &self,
        message: &Message,
        answer: Body,
        cx: &Context<'_>,
    ) -> Result<bool, Failure> {
        let Some(matches) = &self.matches else {
            return Ok(true);
        };
        let seen = message.clone().with_body(answer);
        matches.decide(&cx.scope(&seen, matches)?)
    }
}

/// A wait for the rest of a group.
pub struct Gathering {
    /// What the members have in common; `None` for groups one after another.
    pub by: Option<Expression>,
    /// A group is complete with so many members.
    pub size: Option<u32>,
    /// A group is complete when it is true of the members.
    pub complete: Option<Expression>,
    /// A group is complete after so many milliseconds without a new member.
    pub idle_ms: Option<i64>,
    /// How long a group waits after its first member, in milliseconds.
    pub within_ms: i64,
    /// Whether a group whose time is over goes on as it is.
    pub send_late: bool,
    /// What happens to a member that comes after its group.
    pub late: Late,
    /// How long late members are known, in milliseconds.
    pub keep_ms: i64,
    /// How many members a group may have.
    pub most: u32,
    /// The variable that takes what is known of the group.
    pub into: Option<Arc<str>>,
}

/// What happens to a member that comes after its group was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It fails.
    Fails,
    /// It begins a new group.
    Again,
    /// It is dropped.
    Dropped,
}

impl Gathering {
    /// Whether a group of these bodies is complete; the last is the new one. Pure.
    pub fn is_complete(
        &self,
        message: &Message,
        bodies: &[Bytes],
        cx: &Context<'_>,
    ) -> Result<bool, Failure> {
        let (Some(complete), [first, ..], [.., last]) = (&self.complete, bodies, bodies) else {
            return Ok(false);
        };
        let mut seen = format!("{{\"count\":{},\"first\":", bodies.len()).into_bytes();
        seen.extend_from_slice(first);
        seen.extend_from_slice(b",\"last\":");
        seen.extend_from_slice(last);
        seen.extend_from_slice(b",\"members\":");
        seen.extend_from_slice(&listed(bodies));
        seen.push(b'}');
        let seen = message.clone().with_body(Body::new(seen));
        complete.decide(&cx.scope(&seen, complete)?)
    }
}

/// Documents as one list.
pub fn listed(bodies: &[Bytes]) -> Vec<u8> {
    let length = bodies.iter().map(|body| body.len() + 1).sum::<usize>();
    let mut list = Vec::with_capacity(length + 2);
    list.push(b'[');
    for (at, body) in bodies.iter().enumerate() {
        if at > 0 {
            list.push(b',');
        }
        list.extend_from_slice(body);
    }
    list.push(b']');
    list
}

/// A wait for those before it.
pub struct Numbered {
    /// What has a sequence of its own.
    pub by: Expression,
    /// The message's number.
    pub number: Expression,
    /// The number with which a sequence begins.
    pub from: i64,
    /// How long a message waits, in milliseconds.
    pub within_ms: i64,
    /// Whether what is missing for too long is skipped.
    pub skip: bool,
    /// How many messages of a key may wait.
    pub most: u32,
}

impl Numbered {
    /// The key and the number of a message. Pure.
    pub fn of(&self, message: &Message, cx: &Context<'_>) -> Result<(String, i64), Failure> {
        let key = key_of(&self.by, message, cx)?;
        let scope = cx.scope(message, &self.number)?;
        let value = self.number.evaluate(&scope)?;
        let text = value.to_text();
        let number = text.as_deref().and_then(|text| text.parse().ok());
        let number = number.filter(|number| (i64::MIN / 2..i64::MAX / 2).contains(number));
        number.map(|number| (key, number)).ok_or_else(|| {
            let given =
                text.map_or_else(|| value.type_name().to_owned(), |text| format!("`{text}`"));
            Failure::mapping(format!(
                "`{}` must give a whole number, it gave {given}",
                self.number.text()
            ))
        })
    }
}

/// The text that an expression gives for a message, for telling groups of messages apart; a null is a failure.
pub fn key_of(
    expression: &Expression,
    message: &Message,
    cx: &Context<'_>,
) -> Result<String, Failure> {
    let scope = cx.scope(message, expression)?;
    let value = expression.evaluate(&scope)?;
    let key = value.to_text();
    key.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()))
        .ok_or_else(|| {
            Failure::new(
                Class::Mapping,
                format!(
                    "`{}` must give a text or a number of at most {KEY_BYTES_MAX} bytes, it gave {}",
                    expression.text(),
                    value.type_name()
                ),
            )
        })
}
