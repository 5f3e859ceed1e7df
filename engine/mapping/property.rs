//! A mapping tried on bodies made up of its source's schema: it never fails, what it makes keeps to the target's schema, and sums are kept. What
//! breaks that is made as small as it can be.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Mapping;
use crate::body::Body;
use crate::expression::lexer::{self, Token};
use crate::expression::{Expression, Scope, Tables};
use crate::failure::Failure;
use crate::message::{Message, MessageId, Names};
use crate::schema::generate::{self, Choices};
use crate::schema::place::At;
use crate::schema::{Schema, Schemas};

/// How many bodies may be made in vain for one that keeps to the schema.
const TRIES_MAX: u64 = 50;
/// How often a body that breaks something is made smaller.
const SHRINKS_MAX: usize = 4_000;

/// Two values that must be equal: one of what comes in, one of what goes out.
#[derive(Debug)]
pub struct Keeps {
    text: String,
    of_source: Expression,
    of_target: Expression,
}

impl Keeps {
    /// From `sum(lines[].price) == sum(items[].unitPrice)`: left of `==` over the source, right over the target.
    pub fn parse(text: &str) -> Result<Keeps, Failure> {
        let wrong = |why: &str| Failure::config(format!("`{text}` {why}"));
        let tokens = lexer::tokens(text)
            .map_err(|fault| wrong(&format!("is no expression: {}", fault.message)))?;
        let mut depth = 0i32;
        let mut at = None;
        for token in &tokens {
            match token.token {
                Token::OpenParenthesis | Token::OpenBrace | Token::OpenBracket | Token::Filter => {
                    depth += 1;
                }
                Token::CloseParenthesis | Token::CloseBrace | Token::CloseBracket => depth -= 1,
                Token::Equal if depth == 0 => at = at.or(Some((token.start, token.end))),
                _ => {}
            }
        }
        let (start, end) = at.ok_or_else(|| {
            wrong("has no `==`: write an expression over the source, `==`, one over the target")
        })?;
        let compile = |part: &str| {
            Expression::compile(part).map_err(|faults| {
                let why = faults.first().map_or("", |fault| &fault.message);
                wrong(&format!("is no expression: {why}"))
            })
        };
        Ok(Keeps {
            text: text.to_owned(),
            of_source: compile(&text[..start])?,
            of_target: compile(&text[end..])?,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// What a mapping is tried with.
pub struct Trial<'a> {
    /// The mapping.
    pub mapping: &'a Mapping,
    /// The project's schemas.
    pub schemas: &'a Schemas,
    /// The project's tables.
    pub tables: &'a Tables,
    /// What must be kept.
    pub keeps: &'a [Keeps],
    /// The time at which the made-up messages come in, in milliseconds since 1970.
    pub now_ms: i64,
}

/// What breaks.
#[derive(Clone, Debug)]
pub enum Broken {
    /// The mapping fails.
    Fails(Failure),
    /// What it makes breaks the target's schema.
    Breaches(Vec<String>),
    /// Two values are not equal.
    Differs {
        /// What was to be kept.
        keeps: String,
        /// The value of the source, as JSON.
        source: String,
        /// The value of the target, as JSON.
        target: String,
    },
}

impl Broken {
    /// Whether both break in the same way, whatever the values.
    fn is_like(&self, other: &Broken) -> bool {
        match (self, other) {
            (Broken::Fails(a), Broken::Fails(b)) => a.class == b.class,
            (Broken::Breaches(_), Broken::Breaches(_)) => true,
            (Broken::Differs { keeps: a, .. }, Broken::Differs { keeps: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// A body for which something breaks, as small as was found.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// Which of the bodies it was, from 1.
    pub number: u64,
    /// The body.
    pub body: Body,
    /// What the mapping makes of it, if anything.
    pub made: Option<Body>,
    /// What breaks.
    pub broken: Broken,
}

impl Trial<'_> {
    /// Tries so many bodies. `Ok(None)` if all is well.
    ///
    /// Fails with class `config` if the mapping names no source, or no bodies can be made of it.
    pub fn run(&self, count: u64, seed: u64) -> Result<Option<Counterexample>, Failure> {
        let name = self.mapping.name();
        let (from, _) = self.mapping.from().ok_or_else(|| {
            Failure::config(format!(
                "the mapping `{name}` has no `from`: no bodies can be made for it"
            ))
        })?;
        let source = self.schemas.get(from);
        let (Some(at), Some(source)) = (At::named(self.schemas, from), source) else {
            return Err(Failure::config(format!("there is no schema `{from}`")));
        };
        if let Some((variable, _)) = self.mapping.free_variables().first() {
            return Err(Failure::config(format!(
                "the mapping `{name}` needs `${variable}`, which no schema describes"
            )));
        }
        let mut in_vain = 0;
        let mut next = seed;
        for number in 1..=count {
            let (tape, body) = loop {
                let mut choices = Choices::seeded(next);
                next = next.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let body = Body::new(generate::body(at, &mut choices).to_string());
                if source.is_valid(body.document()?) {
                    break (choices.into_tape(), body);
                }
                in_vain += 1;
                if in_vain > TRIES_MAX * (number + 1) {
                    return Err(unmakable(from, &source, &body));
                }
            };
            if let Some(broken) = self.breaks(&body) {
                let (body, broken) = self.shrunk(at, &source, tape, body, broken);
                let made = self.made(&body).ok();
                return Ok(Some(Counterexample {
                    number,
                    body,
                    made,
                    broken,
                }));
            }
        }
        Ok(None)
    }

    fn message(&self, body: &Body) -> Message {
        let mut message = Message::new(MessageId::default(), self.now_ms, body.clone());
        let keys = self.mapping.keys().iter();
        let keys: BTreeMap<Arc<str>, String> = keys
            .map(|(name, _)| (Arc::from(name.as_str()), format!("{name}-1")))
            .collect();
        message.keys = Arc::new(Names::from(keys));
        message
    }

    fn made(&self, body: &Body) -> Result<Body, Failure> {
        self.mapping.apply(&self.message(body), self.tables)
    }

    /// What breaks for a body.
    fn breaks(&self, body: &Body) -> Option<Broken> {
        let made = match self.made(body) {
            Ok(made) => made,
            Err(failure) => return Some(Broken::Fails(failure)),
        };
        let target = self.mapping.to().and_then(|(to, _)| self.schemas.get(to));
        let item = match made.document() {
            Ok(item) => item,
            Err(failure) => return Some(Broken::Fails(failure)),
        };
        if let Some(Err(breaches)) = target.map(|target| target.validate(item)) {
            let words = breaches.iter().map(ToString::to_string).collect();
            return Some(Broken::Breaches(words));
        }
        self.keeps
            .iter()
            .find_map(|keeps| self.differs(keeps, body, &made))
    }

    fn differs(&self, keeps: &Keeps, body: &Body, made: &Body) -> Option<Broken> {
        let value = |expression: &Expression, body: &Body| -> Result<Body, Failure> {
            let message = self.message(body);
            let scope = Scope::of(&message, self.tables)?;
            Ok(expression.evaluate(&scope)?.to_body())
        };
        let (source, target) = match (value(&keeps.of_source, body), value(&keeps.of_target, made))
        {
            (Ok(source), Ok(target)) => (source, target),
            (Err(failure), _) | (_, Err(failure)) => return Some(Broken::Fails(failure)),
        };
        let text = |body: &Body| String::from_utf8_lossy(body.bytes()).into_owned();
        let (source, target) = (text(&source), text(&target));
        (!equal(&source, &target)).then(|| Broken::Differs {
            keeps: keeps.text.clone(),
            source,
            target,
        })
    }

    /// The smallest body that was found to break in the same way: fewer choices, and smaller ones.
    fn shrunk(
        &self,
        at: At<'_>,
        source: &Schema,
        mut tape: Vec<u64>,
        mut body: Body,
        mut broken: Broken,
    ) -> (Body, Broken) {
        let mut left = SHRINKS_MAX;
        let mut smaller = true;
        while smaller && left > 0 {
            smaller = false;
            for candidate in candidates(&tape) {
                if left == 0 {
                    break;
                }
                left -= 1;
                let mut choices = Choices::again(candidate);
                let made = Body::new(generate::body(at, &mut choices).to_string());
                let candidate = choices.into_tape();
                if !is_simpler(&candidate, &tape)
                    || !made.document().is_ok_and(|item| source.is_valid(item))
                {
                    continue;
                }
                if let Some(now) = self.breaks(&made).filter(|now| now.is_like(&broken)) {
                    (tape, body, broken) = (candidate, made, now);
                    smaller = true;
                    break;
                }
            }
        }
        (body, broken)
    }
}

/// Fewer choices are simpler; of as many, those with the smaller first.
fn is_simpler(a: &[u64], b: &[u64]) -> bool {
    (a.len(), a) < (b.len(), b)
}

/// Tapes that may make a simpler body: without a stretch, with a choice that is simpler.
fn candidates(tape: &[u64]) -> impl Iterator<Item = Vec<u64>> + use<> {
    let tape = tape.to_vec();
    let length = tape.len();
    let mut widths = Vec::new();
    let mut width = length;
    while width > 0 {
        widths.push(width);
        width /= 2;
    }
    let whole = tape.clone();
    let without = widths.into_iter().flat_map(move |width| {
        let whole = whole.clone();
        (0..length.div_ceil(width)).rev().map(move |nth| {
            let mut shorter = whole.clone();
            shorter.drain(nth * width..((nth + 1) * width).min(length));
            shorter
        })
    });
    let lower = (0..length).flat_map(move |at| {
        let tape = tape.clone();
        let now = tape[at];
        [0, now / 2, now.saturating_sub(1)]
            .into_iter()
            .filter(move |less| *less < now)
            .map(move |less| {
                let mut lower = tape.clone();
                lower[at] = less;
                lower
            })
    });
    without.chain(lower)
}

/// Whether two JSON values are equal as the language compares: numbers by what they are, not by how they are written.
fn equal(a: &str, b: &str) -> bool {
    let body = Body::new(format!(r#"{{"a":{a},"b":{b}}}"#));
    let message = Message::new(MessageId::default(), 0, body);
    let tables = Tables::default();
    let same = Expression::compile("a == b").ok().and_then(|same| {
        let scope = Scope::of(&message, &tables).ok()?;
        same.evaluate(&scope).ok()?.as_bool()
    });
    same.unwrap_or(false)
}

fn unmakable(name: &str, schema: &Schema, body: &Body) -> Failure {
    let why = body
        .document()
        .ok()
        .and_then(|item| {
            schema
                .validate(item)
                .err()?
                .first()
                .map(ToString::to_string)
        })
        .unwrap_or_default();
    Failure::config(format!(
        "no bodies can be made up that keep to `{name}`; the last one was wrong here: {why}"
    ))
}
