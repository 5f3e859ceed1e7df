//! Where in a YAML text a cursor stands: the keys that lead there, and what is being written. It reads texts that are not whole yet, which a
//! parser would refuse; it finds no mistakes.

/// A step down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Into the value of a key.
    Key(String),
    /// Into an item of a list.
    Item(usize),
}

impl Part {
    /// As a path of `Node::find` has it.
    pub(super) fn text(&self) -> String {
        match self {
            Part::Key(key) => key.clone(),
            Part::Item(at) => at.to_string(),
        }
    }
}

/// What is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A key, or a scalar that could become one.
    Key,
    /// The value of a key.
    Value,
}

/// Where the cursor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The way to what is being written.
    pub(super) path: Vec<Part>,
    /// What is being written.
    pub(super) what: What,
    /// Where it begins, behind its quote.
    pub(super) start: usize,
    /// The quote before it.
    pub(super) quote: Option<char>,
}

struct Level {
    indent: usize,
    part: Part,
}

/// What goes on over several lines.
enum Open {
    /// Nothing.
    No,
    /// A block scalar, deeper than this.
    Block { deeper_than: usize, start: usize },
    /// A collection in brackets, from this byte on.
    Flow { start: usize },
    /// A quoted scalar, from this byte on.
    Quoted { start: usize, quote: char },
    /// A plain scalar, deeper than this, from this byte on.
    Plain { deeper_than: usize, start: usize },
}

/// Where the cursor stands in a text.
pub(super) fn at(text: &str, offset: usize) -> Cursor {
    let text = text.get(..offset).unwrap_or(text);
    let mut scan = Scan {
        text,
        levels: Vec::new(),
        open: Open::No,
    };
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        let whole = line.ends_with('\n');
        if whole {
            scan.line(start, line.trim_end_matches(['\n', '\r']));
        }
        start = if whole { end } else { start };
    }
    scan.last(start)
}

struct Scan<'t> {
    text: &'t str,
    levels: Vec<Level>,
    open: Open,
}

impl Scan<'_> {
    /// A line before the cursor's.
    fn line(&mut self, start: usize, line: &str) {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        if self.goes_on(start + line.len(), indent, body) {
            return;
        }
        if body.is_empty() || body.starts_with('#') {
            return;
        }
        self.open = Open::No;
        let (at, column) = self.enter(start + indent, indent, body);
        let rest = &line[at - start..];
        if let Some((key, value)) = key_of(rest) {
            self.levels.push(Level {
                indent: column,
                part: Part::Key(key),
            });
            self.begin(at + value, column, &rest[value..]);
        } else if rest.starts_with(['{', '[']) {
            self.begin(at, column, rest);
        }
    }

    /// Whether what a line above has opened goes on to the end of this line.
    fn goes_on(&mut self, end: usize, indent: usize, body: &str) -> bool {
        match self.open {
            Open::No => false,
            Open::Block { deeper_than, .. } => body.is_empty() || indent > deeper_than,
            Open::Plain { deeper_than, .. } => {
                !body.is_empty()
                    && indent > deeper_than
                    && key_of(body).is_none()
                    && !body.starts_with("- ")
            }
            Open::Flow { start } => {
                if !flow(&self.text[start..end], start).2 {
                    self.open = Open::No;
                }
                true
            }
            Open::Quoted { start, quote } => {
                if closed(&self.text[start..end], quote) {
                    self.open = Open::No;
                }
                true
            }
        }
    }

    /// Goes to the level of an indent, and into the items that begin here; gives where the rest begins, and its column.
    fn enter(&mut self, mut at: usize, mut column: usize, body: &str) -> (usize, usize) {
        let mut rest = body;
        loop {
            let dash = rest == "-" || rest.starts_with("- ");
            let mut number = 0;
            while let Some(level) = self.levels.last() {
                let item = matches!(level.part, Part::Item(_));
                if level.indent < column || (level.indent == column && dash && !item) {
                    break;
                }
                if let (true, Part::Item(last)) = (level.indent == column && dash, &level.part) {
                    number = last + 1;
                }
                self.levels.pop();
            }
            if !dash {
                return (at, column);
            }
            self.levels.push(Level {
                indent: column,
                part: Part::Item(number),
            });
            let behind = rest[1..].trim_start();
            let width = rest.len() - behind.len();
            at += width;
            column += width;
            rest = behind;
        }
    }

    /// A value begins.
    fn begin(&mut self, at: usize, column: usize, value: &str) {
        let body = value.trim_start();
        let start = at + (value.len() - body.len());
        self.open = match body.chars().next() {
            None | Some('#') => Open::No,
            Some('|' | '>') => Open::Block {
                deeper_than: column,
                start: start + body.len(),
            },
            Some('{' | '[') => {
                let open = flow(&self.text[start..start + body.len()], start).2;
                if open { Open::Flow { start } } else { Open::No }
            }
            Some(quote @ ('"' | '\'')) => {
                let start = start + 1;
                if closed(&body[1..], quote) {
                    Open::No
                } else {
                    Open::Quoted { start, quote }
                }
            }
            Some(_) => Open::Plain {
                deeper_than: column,
                start,
            },
        };
    }

    /// The line of the cursor, up to it.
    fn last(mut self, start: usize) -> Cursor {
        let line = &self.text[start..];
        let body = line.trim_start();
        let indent = line.len() - body.len();
        match self.open {
            Open::Flow { start } => return self.in_flow(start),
            Open::Quoted { start, quote } => return self.value(start, Some(quote)),
            Open::Block { deeper_than, start } if body.is_empty() || indent > deeper_than => {
                return self.value(start, None);
            }
            Open::Plain { deeper_than, start }
                if !body.is_empty()
                    && indent > deeper_than
                    && key_of(body).is_none()
                    && !body.starts_with('-') =>
            {
                return self.value(start, None);
            }
            _ => {}
        }
        let (at, column) = self.enter(start + indent, indent, body);
        let rest = &self.text[at..];
        if let Some((key, value)) = key_of(rest) {
            self.levels.push(Level {
                indent: column,
                part: Part::Key(key),
            });
            let value = &rest[value..];
            let begins = self.text.len() - value.trim_start().len();
            return self.scalar_or_flow(begins, What::Value);
        }
        self.scalar_or_flow(at, What::Key)
    }

    fn scalar_or_flow(self, start: usize, what: What) -> Cursor {
        let rest = &self.text[start..];
        match rest.chars().next() {
            Some('{' | '[') => self.in_flow(start),
            Some(quote @ ('"' | '\'')) => Cursor {
                path: self.path(),
                what,
                start: start + 1,
                quote: Some(quote),
            },
            _ => Cursor {
                path: self.path(),
                what,
                start,
                quote: None,
            },
        }
    }

    fn in_flow(self, start: usize) -> Cursor {
        let (inner, mut cursor, _) = flow(&self.text[start..], start);
        let mut path = self.path();
        path.extend(inner);
        cursor.path = path;
        cursor
    }

    fn value(self, start: usize, quote: Option<char>) -> Cursor {
        Cursor {
            path: self.path(),
            what: What::Value,
            start,
            quote,
        }
    }

    fn path(&self) -> Vec<Part> {
        self.levels.iter().map(|level| level.part.clone()).collect()
    }
}

/// The key with which a text begins, and where what stands behind its colon begins.
fn key_of(text: &str) -> Option<(String, usize)> {
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        let end = text[1..].find(quote)? + 1;
        let behind = text[end + 1..].trim_start();
        let at = text.len() - behind.len();
        let rest = behind.strip_prefix(':')?;
        return (rest.is_empty() || rest.starts_with(' '))
            .then(|| (text[1..end].to_owned(), at + 1));
    }
    if text.starts_with(['{', '[', '#', '|', '>', '&', '*', '!']) {
        return None;
    }
    let at = match text.find(": ") {
        Some(at) => at,
        None => text.len() - text.strip_suffix(':').map(|_| 1)?,
    };
    Some((text[..at].trim_end().to_owned(), at + 1))
}

/// Whether a quoted text ends, behind its first quote.
fn closed(text: &str, quote: char) -> bool {
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\\' && quote == '"' {
            characters.next();
        } else if character == quote && characters.next_if_eq(&quote).is_none() {
            return true;
        }
    }
    false
}

enum Frame {
    Map(Option<String>),
    List(usize),
}

/// A scan of a collection in brackets.
struct Flow<'t> {
    text: &'t str,
    frames: Vec<Frame>,
    /// Where the scalar at hand begins.
    start: usize,
    /// Its quote.
    quote: Option<char>,
    /// How many brackets of an expression are open in it.
    inside: usize,
}

/// A collection in brackets up to the cursor: the way in, the cursor within (without its path), and whether it is still open.
fn flow(text: &str, base: usize) -> (Vec<Part>, Cursor, bool) {
    let mut scan = Flow {
        text,
        frames: Vec::new(),
        start: 0,
        quote: None,
        inside: 0,
    };
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if let Some(open) = scan.quote {
            if character == '\\' && open == '"' {
                characters.next();
            } else if character == open && characters.next_if(|(_, next)| *next == open).is_none() {
                scan.quote = None;
            }
        } else if scan.take(at, character) {
            break;
        }
    }
    let (path, what) = scan.way();
    let behind = &text[scan.start..];
    let blanks = if scan.quote.is_some() {
        0
    } else {
        behind.len() - behind.trim_start().len()
    };
    let cursor = Cursor {
        path: Vec::new(),
        what,
        start: base + scan.start + blanks,
        quote: scan.quote,
    };
    (path, cursor, !scan.frames.is_empty())
}

impl Flow<'_> {
    /// Takes a character outside of quotes. True if it ends the collection.
    fn take(&mut self, at: usize, character: char) -> bool {
        let behind = at + character.len_utf8();
        let blank = self.text[self.start..at].trim().is_empty();
        match character {
            '"' | '\'' if blank => self.quote = Some(character),
            '{' if blank => self.frames.push(Frame::Map(None)),
            '[' if blank => self.frames.push(Frame::List(0)),
            '{' | '[' | '(' => {
                self.inside += 1;
                return false;
            }
            ']' | ')' | '}' if self.inside > 0 => {
                self.inside -= 1;
                return false;
            }
            '}' | ']' => {
                self.frames.pop();
                if self.frames.is_empty() {
                    return true;
                }
            }
            ',' if self.inside == 0 => match self.frames.last_mut() {
                Some(Frame::Map(key)) => *key = None,
                Some(Frame::List(number)) => *number += 1,
                None => {}
            },
            ':' if self.text[behind..]
                .chars()
                .next()
                .is_none_or(|next| next == ' ') =>
            {
                let Some(Frame::Map(key @ None)) = self.frames.last_mut() else {
                    return false;
                };
                let name = self.text[self.start..at].trim();
                *key = Some(name.trim_matches(['"', '\'']).to_owned());
            }
            _ => return false,
        }
        self.start = behind;
        false
    }

    fn way(&self) -> (Vec<Part>, What) {
        let mut path = Vec::new();
        let mut what = What::Key;
        for frame in &self.frames {
            match frame {
                Frame::Map(Some(key)) => {
                    path.push(Part::Key(key.clone()));
                    what = What::Value;
                }
                Frame::Map(None) => what = What::Key,
                Frame::List(number) => {
                    path.push(Part::Item(*number));
                    what = What::Value;
                }
            }
        }
        (path, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way to `|` in a text, what is there, and what stands before it.
    fn check(marked: &str, expect: &str) {
        let offset = marked.find('¦').unwrap();
        let text = marked.replacen('¦', "", 1);
        let found = at(&text, offset);
        let path: Vec<String> = found.path.iter().map(Part::text).collect();
        let said = format!(
            "{} {:?} {:?}",
            path.join("/"),
            found.what,
            &text[found.start..offset]
        );
        assert_eq!(said, expect, "{marked}");
    }

    #[test]
    fn cursors_are_found_in_texts_that_are_not_whole() {
        check("¦", " Key \"\"");
        check("flow: a\nso¦", " Key \"so\"");
        check("flow: a¦", "flow Value \"a\"");
        check("flow:¦", "flow Value \"\"");
        check("steps:\n  - id: a\n    ma¦\n", "steps/0 Key \"ma\"");
        check("steps:\n  - id: a\n  - map: x¦", "steps/1/map Value \"x\"");
        check("steps:\n- id: a\n- ¦", "steps/1 Key \"\"");
        check(
            "steps:\n  - id: a\n    call: { system: e¦",
            "steps/0/call/system Value \"e\"",
        );
        check(
            "steps:\n  - call: { system: erp, po¦ }",
            "steps/0/call Key \"po\"",
        );
        check(
            "steps:\n  - call:\n      { system: erp,\n        get: \"/x¦",
            "steps/0/call/get Value \"/x\"",
        );
        check(
            "routes:\n  first:\n    - when: a\n      to: [x, y¦",
            "routes/first/0/to/1 Value \"y\"",
        );
        check(
            "sinks:\n  erp:\n    http: { map: a }\n    ¦",
            "sinks/erp Key \"\"",
        );
        check(
            "fields:\n  a: lines[?x == 'a: b'].¦",
            "fields/a Value \"lines[?x == 'a: b'].\"",
        );
        check("fields:\n  a: \"x: {y}.¦", "fields/a Value \"x: {y}.\"");
        check(
            "fields:\n  a: |\n    one\n    tw¦",
            "fields/a Value \"\\n    one\\n    tw\"",
        );
        check(
            "fields:\n  a: one\n    || tw¦",
            "fields/a Value \"one\\n    || tw\"",
        );
        check(
            "fields:\n  l:\n    - each: a\n      fields:\n        b: c¦\n",
            "fields/l/0/fields/b Value \"c\"",
        );
        check("a: {x: lines[0].y, z: w¦", "a/z Value \"w\"");
        check("# a: b\n\na:\n  # c\n  b¦", "a Key \"b\"");
        check("a: 'x\n  y'\nb: ¦", "b Value \"\"");
        check("\"409\": con¦", "409 Value \"con\"");
        check("- - a\n  - b¦", "0/1 Key \"b\"");
    }

    #[test]
    fn no_text_is_too_strange() {
        let text = "a: {b: [c, 'd', \"e\"\n- |\n ü: }]x\n\t: >\n'q\n- - -\n:::\n{,,[]:";
        for offset in 0..=text.len() {
            if text.is_char_boundary(offset) {
                let found = at(text, offset);
                assert!(found.start <= offset, "{offset}");
            }
        }
    }
}
