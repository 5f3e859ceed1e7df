//! Pieces and a message -> text. Values are read from the tape as they are; nothing is converted.

use std::borrow::Cow;

use super::{Escape, Expr, Loop, NamedPath, OUTPUT_BYTES_MAX, Piece, Root, Template, escape};
use crate::body::{Item, Kind};
use crate::failure::{Class, Failure};
use crate::message::Message;

pub(super) fn text(
    template: &Template,
    message: &Message,
    escape: Escape,
) -> Result<String, Failure> {
    let mut render = Render {
        paths: &template.paths,
        message,
        escape,
        turns: Vec::new(),
        out: String::new(),
        in_query: false,
    };
    render.pieces(&template.pieces)?;
    Ok(render.out)
}

/// A value while a template is rendered.
#[derive(Clone)]
enum Value<'a> {
    Missing,
    Null,
    Bool(bool),
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    /// A list or an object.
    Many(Item<'a>),
}

impl<'a> From<Item<'a>> for Value<'a> {
    fn from(item: Item<'a>) -> Value<'a> {
        match item.kind() {
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(item.as_bool() == Some(true)),
            Kind::Number => Value::Number(Cow::Borrowed(item.raw())),
            Kind::String => Value::Text(item.as_str().unwrap_or_default()),
            Kind::List | Kind::Object => Value::Many(item),
        }
    }
}

impl Value<'_> {
    fn holds(&self) -> bool {
        match self {
            Value::Missing | Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(text) => text.parse::<f64>().is_ok_and(|number| number != 0.0),
            Value::Text(text) => !text.is_empty(),
            Value::Many(item) => !item.is_empty(),
        }
    }
}

/// The turn of an `each`, or the inside of a `with`.
#[derive(Clone)]
struct Turn<'a> {
    item: Item<'a>,
    /// The turn's number and the number of turns; nothing in a `with`.
    count: Option<(usize, usize)>,
    key: Option<Cow<'a, str>>,
}

struct Render<'a> {
    paths: &'a [NamedPath],
    message: &'a Message,
    escape: Escape,
    turns: Vec<Turn<'a>>,
    out: String,
    /// A `?` has been written: what follows is the query of the address.
    in_query: bool,
}

impl<'a> Render<'a> {
    fn pieces(&mut self, pieces: &[Piece]) -> Result<(), Failure> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => {
                    self.in_query |= text.contains('?');
                    self.out.push_str(text);
                }
                Piece::Value { expr, raw } => self.write(expr, *raw)?,
                Piece::If {
                    expr,
                    then,
                    otherwise,
                } => {
                    let branch = if self.eval(expr)?.holds() {
                        then
                    } else {
                        otherwise
                    };
                    self.pieces(branch)?;
                }
                Piece::Each {
                    list,
                    body,
                    otherwise,
                } => self.each(list, body, otherwise.as_deref())?,
                Piece::With {
                    value,
                    body,
                    otherwise,
                } => self.with(value, body, otherwise.as_deref())?,
            }
            if self.out.len() > OUTPUT_BYTES_MAX {
                let message = format!("the rendered text has more than {OUTPUT_BYTES_MAX} bytes");
                return Err(Failure::new(Class::TooLarge, message));
            }
        }
        Ok(())
    }

    fn each(
        &mut self,
        list: &Expr,
        body: &[Piece],
        otherwise: Option<&[Piece]>,
    ) -> Result<(), Failure> {
        let value = self.eval(list)?;
        let item = match (&value, otherwise) {
            (Value::Many(item), None) => *item,
            (Value::Many(item), Some(_)) if !item.is_empty() => *item,
            (_, Some(otherwise)) => return self.pieces(otherwise),
            (Value::Missing, None) => return Err(self.missing(list)),
            (Value::Null, None) => return Ok(()),
            (_, None) => {
                return Err(self.cannot(list, "is no list, and `each` needs one"));
            }
        };
        let count = item.len();
        let keyed = item.kind() == Kind::Object;
        let keys: Vec<_> = item.entries().map(|(key, _)| key.as_str()).collect();
        for (at, part) in item.items().enumerate() {
            self.turns.push(Turn {
                item: part,
                count: Some((at, count)),
                key: if keyed { keys[at].clone() } else { None },
            });
            let done = self.pieces(body);
            self.turns.pop();
            done?;
        }
        Ok(())
    }

    fn with(
        &mut self,
        value: &Expr,
        body: &[Piece],
        otherwise: Option<&[Piece]>,
    ) -> Result<(), Failure> {
        match (self.eval(value)?, otherwise) {
            (Value::Many(item), _) => {
                self.turns.push(Turn {
                    item,
                    count: None,
                    key: None,
                });
                let done = self.pieces(body);
                self.turns.pop();
                done
            }
            (_, Some(otherwise)) => self.pieces(otherwise),
            (Value::Missing, None) => Err(self.missing(value)),
            (_, None) => Err(self.cannot(value, "is no object, and `with` needs one")),
        }
    }

    fn write(&mut self, expr: &Expr, raw: bool) -> Result<(), Failure> {
        let value = self.eval(expr)?;
        let in_address = matches!(
            self.escape,
            Escape::UrlPath | Escape::UrlQuery | Escape::FileName
        );
        let text: Cow<'_, str> = match value {
            Value::Missing => return Err(self.missing(expr)),
            Value::Null if in_address => {
                return Err(
                    self.cannot(expr, "is null, and an address or a file name needs a text")
                );
            }
            Value::Null => Cow::Borrowed(""),
            Value::Bool(value) => Cow::Borrowed(if value { "true" } else { "false" }),
            Value::Number(text) | Value::Text(text) => text,
            Value::Many(_) if in_address => {
                return Err(self.cannot(expr, "is a list or an object, and a text is needed"));
            }
            Value::Many(item) => Cow::Borrowed(item.json()),
        };
        if self.out.len() + text.len() > OUTPUT_BYTES_MAX {
            let message = format!("the rendered text has more than {OUTPUT_BYTES_MAX} bytes");
            return Err(Failure::new(Class::TooLarge, message));
        }
        let escape = match self.escape {
            _ if raw => Escape::None,
            Escape::UrlPath if self.in_query => Escape::UrlQuery,
            escape => escape,
        };
        escape::write(&mut self.out, &text, escape).map_err(|why| self.cannot(expr, why))
    }

    fn eval(&self, expr: &Expr) -> Result<Value<'a>, Failure> {
        Ok(match expr {
            Expr::Path(at) => self.path(&self.paths[*at])?,
            Expr::Text(text) => Value::Text(Cow::Owned(text.clone())),
            Expr::Number(text) => Value::Number(Cow::Owned(text.clone())),
            Expr::Bool(value) => Value::Bool(*value),
            Expr::Null => Value::Null,
            Expr::Not(value) => Value::Bool(!self.eval(value)?.holds()),
            Expr::And(values) => {
                for value in values {
                    if !self.eval(value)?.holds() {
                        return Ok(Value::Bool(false));
                    }
                }
                Value::Bool(true)
            }
            Expr::Or(values) => {
                for value in values {
                    if self.eval(value)?.holds() {
                        return Ok(Value::Bool(true));
                    }
                }
                Value::Bool(false)
            }
            Expr::Equal(a, b) => Value::Bool(equal(&self.eval(a)?, &self.eval(b)?)),
            Expr::Length(value) => {
                let length = match self.eval(value)? {
                    Value::Many(item) => item.len(),
                    Value::Text(text) => text.chars().count(),
                    _ => 0,
                };
                Value::Number(Cow::Owned(length.to_string()))
            }
        })
    }

    fn path(&self, path: &'a NamedPath) -> Result<Value<'a>, Failure> {
        let message = self.message;
        let turn = |up: usize| self.turns.iter().rev().nth(up);
        let looped = self.turns.iter().rev().find(|turn| turn.count.is_some());
        let (number, count) = looped.and_then(|turn| turn.count).unwrap_or_default();
        let name = path.segments.first().map_or("", String::as_str);
        Ok(match &path.root {
            Root::Body => walk(message.body.document()?, &path.segments),
            Root::Item => turn(0).map_or(Value::Missing, |turn| walk(turn.item, &path.segments)),
            Root::Outer(up) => {
                turn(*up).map_or(Value::Missing, |turn| walk(turn.item, &path.segments))
            }
            Root::Variable(name) => match message.variables.get(name.as_str()) {
                Some(body) => walk(body.document()?, &path.segments),
                None => Value::Missing,
            },
            Root::Header => named(message.headers.get(name.to_ascii_lowercase().as_str())),
            Root::Key => named(message.keys.get(name)),
            Root::MessageId => Value::Text(Cow::Owned(message.id.to_string())),
            Root::SplitKey => Value::Text(Cow::Borrowed(&message.item)),
            Root::Today => Value::Text(Cow::Owned(self.received_at()?.strftime("%F").to_string())),
            Root::ReceivedAt => Value::Text(Cow::Owned(self.received_at()?.to_string())),
            Root::Loop(Loop::Index) => Value::Number(Cow::Owned(number.to_string())),
            Root::Loop(Loop::First) => Value::Bool(number == 0),
            Root::Loop(Loop::Last) => Value::Bool(number + 1 == count),
            Root::Loop(Loop::Key) => match looped.and_then(|turn| turn.key.clone()) {
                Some(key) => Value::Text(key),
                None => Value::Missing,
            },
        })
    }

    fn received_at(&self) -> Result<jiff::Timestamp, Failure> {
        let milliseconds = self.message.received_at_ms;
        jiff::Timestamp::from_millisecond(milliseconds)
            .map_err(|_| Failure::internal(format!("{milliseconds} is no time")))
    }

    fn missing(&self, expr: &Expr) -> Failure {
        self.cannot(expr, "leads nowhere in this message")
    }

    fn cannot(&self, expr: &Expr, why: &str) -> Failure {
        let what = match expr {
            Expr::Path(at) => format!("`{{{{{}}}}}`", self.paths[*at].text),
            _ => "a value".to_owned(),
        };
        Failure::mapping(format!("template: {what} {why}"))
    }
}

fn named(value: Option<&String>) -> Value<'_> {
    value.map_or(Value::Missing, |value| Value::Text(Cow::Borrowed(value)))
}

fn walk<'a>(item: Item<'a>, segments: &[String]) -> Value<'a> {
    let found = segments.iter().try_fold(item, |item, segment| {
        item.get(segment)
            .or_else(|| segment.parse().ok().and_then(|index| item.at(index)))
    });
    found.map_or(Value::Missing, Value::from)
}

/// Numbers are equal by value, texts by their characters; a number never equals a text.
fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Missing | Value::Null, Value::Missing | Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Number(a), Value::Number(b)) => {
            let exact = |text: &str| {
                rust_decimal::Decimal::from_str_exact(text)
                    .or_else(|_| rust_decimal::Decimal::from_scientific(text))
            };
            match (exact(a), exact(b)) {
                (Ok(a), Ok(b)) => a == b,
                _ => a == b,
            }
        }
        _ => false,
    }
}
