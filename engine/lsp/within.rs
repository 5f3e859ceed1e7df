//! Where in an expression a cursor stands, and what the schema says of the value before it. It reads expressions that are not whole yet; where
//! it does not understand one, nothing is known of the value.

use std::collections::BTreeMap;

use crate::expression::lexer::{self, Lexeme, Token};
use crate::schema::place::At;
use crate::schema::place::fields::Field;

/// What a schema says of a value: the places in schemas that it can come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Spot<'s> {
    /// The places.
    pub(super) places: Vec<At<'s>>,
    /// Whether it is a list of such values, made by a projection.
    pub(super) many: bool,
}

impl<'s> Spot<'s> {
    /// One value.
    pub(super) fn one(place: Option<At<'s>>) -> Spot<'s> {
        Spot {
            places: place.into_iter().collect(),
            many: false,
        }
    }

    /// The field of this name.
    pub(super) fn field(&self, name: &str) -> Spot<'s> {
        Spot {
            places: self.places.iter().flat_map(|at| at.field(name)).collect(),
            many: self.many,
        }
    }

    /// What its lists hold.
    fn flattened(&self) -> Spot<'s> {
        let items: Vec<At<'s>> = self.places.iter().flat_map(|at| at.each_item()).collect();
        if items.is_empty() && self.many {
            return self.clone();
        }
        Spot {
            places: items,
            many: true,
        }
    }

    /// One of its items.
    pub(super) fn item(&self) -> Spot<'s> {
        if self.many {
            return Spot {
                places: self.places.clone(),
                many: false,
            };
        }
        Spot {
            many: false,
            ..self.flattened()
        }
    }

    /// Its fields.
    pub(super) fn fields(&self) -> Vec<Field<'s>> {
        let mut all: Vec<Field<'s>> = Vec::new();
        for field in self.places.iter().flat_map(|at| at.fields()) {
            if !all.iter().any(|known| known.name == field.name) {
                all.push(field);
            }
        }
        all
    }

    /// What it is, in words; nothing if nothing is known.
    pub(super) fn says(&self) -> Option<String> {
        let mut words: Vec<String> = self.places.iter().map(|at| at.says()).collect();
        words.dedup();
        let words = words.join(" or ");
        match (words.is_empty(), self.many) {
            (true, _) => None,
            (_, true) => Some(format!("a list, each {words}")),
            _ => Some(words),
        }
    }
}

/// What is known where an expression stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Ground<'s> {
    /// The current value.
    pub(super) here: Spot<'s>,
    /// The variables, without `$`.
    pub(super) variables: BTreeMap<String, Spot<'s>>,
}

/// What is being written.
#[derive(Debug)]
pub(super) enum Within<'s> {
    /// A name that begins an expression: a field of the current value, a function.
    Begin(Spot<'s>),
    /// A name behind a dot.
    Field(Spot<'s>),
    /// A variable.
    Variable(BTreeMap<String, Spot<'s>>),
    /// The first argument of this function, a text in quotes.
    Text(String),
    /// Nothing that a list would help with.
    Other,
}

/// What is being written at the end of a part of an expression, and how many bytes of it are there already.
pub(super) fn at_end<'s>(text: &str, ground: &Ground<'s>) -> (Within<'s>, usize) {
    if let Some(quoted) = open_text(text) {
        let before = &text[..text.len() - quoted.len() - 1];
        let function = before.trim_end().strip_suffix('(').map(last_name);
        return match function {
            Some(name) if !name.is_empty() => (Within::Text(name.to_owned()), quoted.len()),
            _ => (Within::Other, 0),
        };
    }
    let partial = last_name(text).len();
    let before = &text[..text.len() - partial];
    let variable = before.ends_with('$');
    let before = before.strip_suffix('$').unwrap_or(before);
    let Ok(tokens) = lexer::tokens(before) else {
        return (Within::Other, 0);
    };
    let walk = Walk::over(&tokens, ground);
    if variable {
        return (Within::Variable(walk.variables), partial);
    }
    let last = tokens
        .iter()
        .rev()
        .find(|one| !matches!(one.token, Token::End));
    let within = match last.map(|one| &one.token) {
        Some(Token::Dot) => Within::Field(walk.value),
        Some(
            Token::Name(_)
            | Token::Quoted(_)
            | Token::Variable(_)
            | Token::CloseBracket
            | Token::CloseParenthesis
            | Token::Text(_)
            | Token::Literal(_),
        ) => Within::Other,
        _ => Within::Begin(walk.here),
    };
    (within, partial)
}

/// The value of an expression, as far as the schema says.
pub(super) fn value<'s>(text: &str, ground: &Ground<'s>) -> Spot<'s> {
    lexer::tokens(text).map_or_else(
        |_| Spot::default(),
        |tokens| Walk::over(&tokens, ground).value,
    )
}

/// The raw text that is open at the end, if one is.
fn open_text(text: &str) -> Option<&str> {
    let mut open = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (character, open) {
            ('\\', Some(_)) => {
                characters.next();
            }
            (quote @ ('\'' | '`' | '"'), None) => open = Some((quote, at)),
            (quote, Some((of, _))) if quote == of => open = None,
            _ => {}
        }
    }
    open.filter(|(quote, _)| *quote == '\'')
        .map(|(_, at)| &text[at + 1..])
}

/// The name at the end of a text.
fn last_name(text: &str) -> &str {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let start = text.trim_end_matches(name).len();
    let word = &text[start..];
    word.trim_start_matches(|c: char| c.is_ascii_digit())
}

/// Functions that give their first argument, or one of its items.
const PASSING: &[&str] = &[
    "sort_by", "sort", "reverse", "not_null", "unique", "distinct", "filter", "default",
];
const PICKING: &[&str] = &["max_by", "min_by", "first", "last", "max", "min"];

struct Frame<'s> {
    /// The function whose arguments these are.
    function: Option<String>,
    /// The first argument.
    first: Option<Spot<'s>>,
    /// The current value outside.
    here: Spot<'s>,
    /// What the bracket gives once it is closed.
    gives: Option<Spot<'s>>,
}

/// A walk over the tokens, from the left.
struct Walk<'s> {
    here: Spot<'s>,
    value: Spot<'s>,
    variables: BTreeMap<String, Spot<'s>>,
    frames: Vec<Frame<'s>>,
    binding: Option<String>,
}

impl<'s> Walk<'s> {
    fn over(tokens: &[Lexeme], ground: &Ground<'s>) -> Walk<'s> {
        let mut walk = Walk {
            here: ground.here.clone(),
            value: Spot::default(),
            variables: ground.variables.clone(),
            frames: Vec::new(),
            binding: None,
        };
        for at in 0..tokens.len() {
            let before = at.checked_sub(1).map(|at| &tokens[at].token);
            let behind = tokens.get(at + 1).map(|next| &next.token);
            walk.take(&tokens[at].token, before, behind);
        }
        walk
    }

    fn take(&mut self, token: &Token, before: Option<&Token>, behind: Option<&Token>) {
        let dotted = matches!(before, Some(Token::Dot));
        match token {
            Token::Name(name) if matches!(behind, Some(Token::OpenParenthesis)) => {
                self.open(Some(name.clone()), self.here.clone(), None);
            }
            Token::OpenParenthesis if matches!(before, Some(Token::Name(_))) => {}
            Token::OpenParenthesis => self.open(None, self.here.clone(), None),
            Token::Name(name) if name == "in" && !dotted => self.bind(),
            Token::Name(name) | Token::Quoted(name) => {
                let from = if dotted { &self.value } else { &self.here };
                self.value = from.field(name);
            }
            Token::Variable(name) if matches!(behind, Some(Token::Assign)) => {
                self.binding = Some(name.clone());
            }
            Token::Variable(name) => {
                self.value = self.variables.get(name).cloned().unwrap_or_default();
            }
            Token::At => self.value = self.here.clone(),
            Token::Dot => {}
            Token::Star if matches!(before, Some(Token::OpenBracket)) => {}
            Token::Flatten => self.value = self.base(before).flattened(),
            Token::Filter => {
                let item = self.base(before).flattened();
                self.open(None, item.item(), Some(item));
            }
            Token::OpenBracket => self.bracket(before, behind),
            Token::OpenBrace => {
                let inside = if dotted {
                    self.value.clone()
                } else {
                    self.here.clone()
                };
                self.open(None, inside, None);
            }
            Token::CloseBracket | Token::CloseParenthesis | Token::CloseBrace => self.close(),
            Token::Comma => self.comma(),
            Token::Reference => {
                let first = self.frames.last().and_then(|frame| frame.first.clone());
                self.here = first.unwrap_or_default().item();
                self.value = Spot::default();
            }
            Token::Pipe => {
                self.here = std::mem::take(&mut self.value);
            }
            Token::End | Token::Assign => {}
            _ => self.value = Spot::default(),
        }
    }

    fn open(&mut self, function: Option<String>, inside: Spot<'s>, gives: Option<Spot<'s>>) {
        self.frames.push(Frame {
            function,
            first: None,
            here: std::mem::replace(&mut self.here, inside),
            gives,
        });
        self.value = Spot::default();
    }

    /// What a bracket is about: the value before it, or the current one.
    fn base(&self, before: Option<&Token>) -> Spot<'s> {
        match before {
            Some(
                Token::Name(_)
                | Token::Quoted(_)
                | Token::Variable(_)
                | Token::At
                | Token::Star
                | Token::Flatten
                | Token::CloseBracket
                | Token::CloseParenthesis
                | Token::CloseBrace,
            ) => self.value.clone(),
            _ => self.here.clone(),
        }
    }

    /// `[` before an index, a slice, `*`, or a list of expressions.
    fn bracket(&mut self, before: Option<&Token>, behind: Option<&Token>) {
        if matches!(before, Some(Token::Dot)) {
            return self.open(None, self.value.clone(), None);
        }
        let base = self.base(before);
        match behind {
            Some(Token::Number(_)) => {
                let item = base.item();
                self.open(None, Spot::default(), Some(item));
            }
            Some(Token::Star | Token::Colon) => {
                let items = base.flattened();
                self.open(None, Spot::default(), Some(items));
            }
            _ => self.open(None, self.here.clone(), None),
        }
    }

    fn comma(&mut self) {
        if self.binding.is_some() {
            return self.bind();
        }
        let value = std::mem::take(&mut self.value);
        if let Some(frame) = self.frames.last_mut() {
            frame.first.get_or_insert(value);
        }
    }

    fn bind(&mut self) {
        let value = std::mem::take(&mut self.value);
        if let Some(name) = self.binding.take() {
            self.variables.insert(name, value);
        }
    }

    fn close(&mut self) {
        let Some(frame) = self.frames.pop() else {
            return;
        };
        self.here = frame.here;
        let inside = std::mem::take(&mut self.value);
        let first = frame.first.unwrap_or(inside);
        self.value = match (&frame.function, frame.gives) {
            (_, Some(gives)) => gives,
            (Some(name), _) if PASSING.contains(&name.as_str()) => first,
            (Some(name), _) if PICKING.contains(&name.as_str()) => first.item(),
            (Some(_), _) => Spot::default(),
            (None, _) => first,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{File, Findings};
    use crate::schema::Schemas;

    const ORDER: &str = r##"{
        "properties": {
            "name": {"type": "string"},
            "customer": {"$ref": "#/$defs/party"},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}
        },
        "$defs": {
            "line": {"properties": {
                "sku": {"type": "string"},
                "parts": {"type": "array", "items": {"properties": {"code": {}}}}
            }},
            "party": {"anyOf": [{"type": "null"}, {"properties": {"email": {}, "code": {}}}]}
        }
    }"##;

    /// What can stand at the end of the text.
    fn check(text: &str, expect: &str) {
        let files = [("order".to_owned(), File::new("schemas/order.json", ORDER))];
        let schemas = Schemas::load(&files, &mut Findings::new());
        let ground = Ground {
            here: Spot::one(At::named(&schemas, "order")),
            variables: [("order".to_owned(), Spot::one(At::named(&schemas, "order")))].into(),
        };
        let names = |spot: &Spot<'_>| {
            let names: Vec<&str> = spot.fields().iter().map(|field| field.name).collect();
            names.join(" ")
        };
        let (within, partial) = at_end(text, &ground);
        let said = match within {
            Within::Begin(spot) => format!("begin {}", names(&spot)),
            Within::Field(spot) => format!("field {}", names(&spot)),
            Within::Variable(all) => {
                format!(
                    "variable {}",
                    all.keys().cloned().collect::<Vec<_>>().join(" ")
                )
            }
            Within::Text(function) => format!("text of {function}"),
            Within::Other => "other".to_owned(),
        };
        assert_eq!(format!("{said} ({partial})"), expect, "{text}");
    }

    #[test]
    fn fields_follow_the_schema_through_an_expression() {
        check("", "begin name customer lines (0)");
        check("na", "begin name customer lines (2)");
        check("customer.", "field email code (0)");
        check("customer.em", "field email code (2)");
        check("lines[0].s", "field sku parts (1)");
        check("lines[].", "field sku parts (0)");
        check("lines[].parts[].", "field code (0)");
        check("lines[*].parts[*].c", "field code (1)");
        check("lines[?sku == 'a'].", "field sku parts (0)");
        check("lines[?sk", "begin sku parts (2)");
        check("lines[?parts[?co", "begin code (2)");
        check("lines[?sku == 'a'] | [0].", "field sku parts (0)");
        check("sort_by(lines, &sk", "begin sku parts (2)");
        check("sort_by(lines, &sku)[0].", "field sku parts (0)");
        check("length(lin", "begin name customer lines (3)");
        check("name == 'x' && cust", "begin name customer lines (4)");
        check("(customer || name).", "field  (0)");
        check("{a: customer.em", "field email code (2)");
        check("customer.{a: em", "begin email code (2)");
        check("let $l = lines in $l[].", "field sku parts (0)");
        check("let $l = lines in $", "variable l order (0)");
        check("$order.customer.e", "field email code (1)");
        check("lookup('car", "text of lookup (3)");
        check("name == 'car", "other (0)");
        check("name ", "other (0)");
        check("#", "other (0)");
    }
}
