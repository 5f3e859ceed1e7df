//! Expression text -> tokens with their bytes. It knows nothing of the grammar above them.

use bytes::Bytes;

use super::{Fault, FaultKind};
use crate::body::{Limits, Tape};

#[derive(Debug)]
pub(crate) enum Token {
    Name(String),
    Quoted(String),
    Variable(String),
    Number(i64),
    Literal(Tape),
    Text(String),
    Dot,
    Star,
    Comma,
    Colon,
    At,
    And,
    Or,
    Pipe,
    Not,
    Reference,
    Assign,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    OpenParenthesis,
    CloseParenthesis,
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    /// `[]`
    Flatten,
    /// `[?`
    Filter,
    End,
}

#[derive(Debug)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// All tokens of the text, the last one being `End`.
pub(crate) fn tokens(text: &str) -> Result<Vec<Lexeme>, Fault> {
    let mut lexer = Lexer { text, at: 0 };
    let mut all = Vec::with_capacity(text.len() / 3 + 2);
    loop {
        lexer.space();
        let start = lexer.at;
        let token = lexer.token()?;
        let done = matches!(token, Token::End);
        all.push(Lexeme {
            token,
            start,
            end: lexer.at,
        });
        if done {
            return Ok(all);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn token(&mut self) -> Result<Token, Fault> {
        let Some(byte) = self.peek(0) else {
            return Ok(Token::End);
        };
        let next = self.peek(1);
        let (token, length) = match (byte, next) {
            (b'.', _) => (Token::Dot, 1),
            (b'*', _) => (Token::Star, 1),
            (b',', _) => (Token::Comma, 1),
            (b':', _) => (Token::Colon, 1),
            (b'@', _) => (Token::At, 1),
            (b'(', _) => (Token::OpenParenthesis, 1),
            (b')', _) => (Token::CloseParenthesis, 1),
            (b'{', _) => (Token::OpenBrace, 1),
            (b'}', _) => (Token::CloseBrace, 1),
            (b']', _) => (Token::CloseBracket, 1),
            (b'[', Some(b']')) => (Token::Flatten, 2),
            (b'[', Some(b'?')) => (Token::Filter, 2),
            (b'[', _) => (Token::OpenBracket, 1),
            (b'&', Some(b'&')) => (Token::And, 2),
            (b'&', _) => (Token::Reference, 1),
            (b'|', Some(b'|')) => (Token::Or, 2),
            (b'|', _) => (Token::Pipe, 1),
            (b'=', Some(b'=')) => (Token::Equal, 2),
            (b'=', _) => (Token::Assign, 1),
            (b'!', Some(b'=')) => (Token::NotEqual, 2),
            (b'!', _) => (Token::Not, 1),
            (b'<', Some(b'=')) => (Token::LessOrEqual, 2),
            (b'<', _) => (Token::Less, 1),
            (b'>', Some(b'=')) => (Token::GreaterOrEqual, 2),
            (b'>', _) => (Token::Greater, 1),
            (b'"', _) => return self.quoted(),
            (b'\'', _) => return self.raw_text(),
            (b'`', _) => return self.literal(),
            (b'$', _) => return self.variable(),
            (b'-' | b'0'..=b'9', _) => return self.number(),
            (b'a'..=b'z' | b'A'..=b'Z' | b'_', _) => return Ok(Token::Name(self.name())),
            _ => return Err(self.unknown_character()),
        };
        self.at += length;
        Ok(token)
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while matches!(
            self.peek(0),
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_')
        ) {
            self.at += 1;
        }
        self.text[start..self.at].to_owned()
    }

    fn variable(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        self.at += 1;
        let name = self.name();
        if name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
            return Err(
                fault(start, self.at.max(start + 1), "a name is missing after `$`")
                    .with_help("write a variable as $name, with a letter or _ first"),
            );
        }
        Ok(Token::Variable(name))
    }

    fn number(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        if self.peek(0) == Some(b'-') {
            self.at += 1;
        }
        let digits = self.at;
        while matches!(self.peek(0), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == digits {
            return Err(fault(start, self.at, "a digit is missing after `-`")
                .with_help("subtract with subtract(a, b); a negative number is a literal: `-1`"));
        }
        let text = &self.text[start..self.at];
        let far = if text.starts_with('-') {
            i64::MIN
        } else {
            i64::MAX
        };
        Ok(Token::Number(text.parse().unwrap_or(far)))
    }

    /// The inside of a quoted stretch, without its quotes; a backslash takes the next character with it.
    fn until(&mut self, quote: u8, what: &str) -> Result<&str, Fault> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek(0) {
                None => {
                    self.at = self.text.len();
                    return Err(fault(start, self.at, format!("{what} is not closed"))
                        .with_help(format!("add the closing {}", quote as char)));
                }
                Some(b'\\') => self.at += 2,
                Some(byte) if byte == quote => {
                    self.at += 1;
                    return Ok(&self.text[start + 1..self.at - 1]);
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn quoted(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        self.until(b'"', "a quoted name")?;
        let json = &self.text[start..self.at];
        let name = parse_json(json, start, self.at, "a quoted name")?;
        let text = name.root().as_str().map(|text| text.into_owned());
        Ok(Token::Quoted(text.unwrap_or_default()))
    }

    fn raw_text(&mut self) -> Result<Token, Fault> {
        let inside = self.until(b'\'', "a string")?;
        if !inside.contains('\\') {
            return Ok(Token::Text(inside.to_owned()));
        }
        Ok(Token::Text(without_escaped(inside, '\'')))
    }

    fn literal(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        let inside = self.until(b'`', "a literal")?;
        let json = if inside.contains('\\') {
            without_escaped(inside, '`')
        } else {
            inside.to_owned()
        };
        Ok(Token::Literal(parse_json(
            &json,
            start,
            self.at,
            "a literal",
        )?))
    }

    fn unknown_character(&self) -> Fault {
        let character = self.text[self.at..].chars().next().unwrap_or(' ');
        let known = match character {
            '+' => "add with add(a, b); join texts with join or concat",
            '/' => "divide with divide(a, b, scale)",
            '%' => "use remainder(a, b)",
            '#' => "expressions have no comments",
            '~' | '^' => "to match text use contains, starts_with or matches",
            '?' => "a filter begins with [? and no space; choose with if(condition, a, b)",
            _ => "put names with other characters in double quotes, text in single quotes",
        };
        fault(
            self.at,
            self.at + character.len_utf8(),
            format!("`{character}` is not part of the language"),
        )
        .with_help(known)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(0), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }
}

/// Resolves the escapes of one quote; every other backslash stays, with the character that follows it.
fn without_escaped(inside: &str, quote: char) -> String {
    let mut out = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some(escaped) if escaped == quote => out.push(quote),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out
}

fn parse_json(json: &str, start: usize, end: usize, what: &str) -> Result<Tape, Fault> {
    let limits = Limits {
        depth_max: 64,
        ..Limits::DEFAULT
    };
    Tape::parse(Bytes::copy_from_slice(json.as_bytes()), limits).map_err(|failure| {
        let reason = failure
            .message
            .rsplit_once(": ")
            .map_or(failure.message.as_str(), |(_, reason)| reason)
            .replace("the body", what);
        let fault = fault(start, end, format!("{what} is not JSON: {reason}"));
        if json.starts_with('"') {
            fault.with_help("escape as in JSON: \\\" \\\\ \\n \\u20ac")
        } else {
            fault.with_help(
                "text is written in single quotes: 'text'; between backticks stands JSON",
            )
        }
    })
}

fn fault(start: usize, end: usize, message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Syntax, message).at(start, end)
}
