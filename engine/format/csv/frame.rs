//! Where a row ends: line ends within quotes belong to cells. It looks at bytes (or pairs of bytes, in UTF-16) and decodes nothing.

/// How the bytes of a file are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    pub(super) delimiter: u8,
    pub(super) quote: Option<u8>,
    pub(super) comment: Option<u8>,
    /// Characters are units of two bytes; whether the larger byte comes first.
    pub(super) wide: Option<bool>,
}

impl Signs {
    pub(super) fn width(self) -> usize {
        if self.wide.is_some() { 2 } else { 1 }
    }

    /// The character at a place, if it is a plain one; a NUL for all others.
    fn at(self, bytes: &[u8], at: usize) -> u8 {
        match self.wide {
            None => bytes[at],
            Some(big) => {
                let (high, low) = if big {
                    (bytes[at], bytes[at + 1])
                } else {
                    (bytes[at + 1], bytes[at])
                };
                if high == 0 { low } else { 0xFF }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RowStart,
    CellStart,
    Cell,
    Quoted,
    /// Behind a quote within quotes: the end of the cell, or the first of two.
    QuoteSeen,
    Comment,
}

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// How many bytes it has, without its end.
    pub(super) length: usize,
    /// How many bytes it has with its end.
    pub(super) taken: usize,
    /// How many line ends it has, its own among them.
    pub(super) lines: u64,
    /// A comment or nothing.
    pub(super) is_blank: bool,
    /// The file ended within quotes.
    pub(super) is_open: bool,
}

/// Looks for the end of one row, across as many pieces as it takes.
#[derive(Debug)]
pub(super) struct Frame {
    state: State,
    at: usize,
    lines: u64,
}

impl Frame {
    pub(super) fn new() -> Frame {
        Frame {
            state: State::RowStart,
            at: 0,
            lines: 0,
        }
    }

    /// Whether the row is within quotes as far as it was seen.
    pub(super) fn is_quoted(&self) -> bool {
        self.state == State::Quoted
    }

    /// The row at the start of `bytes`, if it ends there. Called again with more bytes, it goes on where it stopped.
    pub(super) fn find(&mut self, bytes: &[u8], signs: Signs, finished: bool) -> Option<Row> {
        let width = signs.width();
        while self.at + width <= bytes.len() {
            let character = signs.at(bytes, self.at);
            if matches!(character, b'\n' | b'\r') {
                // A carriage return may be followed by the line feed of the same line end.
                let next = self.at + width;
                let pair = if character == b'\n' {
                    false
                } else if next + width <= bytes.len() {
                    signs.at(bytes, next) == b'\n'
                } else if finished {
                    false
                } else {
                    return None;
                };
                let end = if pair { next + width } else { next };
                self.lines += 1;
                if self.state != State::Quoted {
                    return Some(self.row(end, false));
                }
                self.at = end;
                continue;
            }
            self.state = self.after(character, signs);
            self.at += width;
        }
        if !finished || bytes.is_empty() {
            return None;
        }
        // The last row has no line end; half a character may be left behind it.
        self.lines += 1;
        let open = self.state == State::Quoted;
        self.at = bytes.len();
        Some(self.row(bytes.len(), open))
    }

    fn after(&self, character: u8, signs: Signs) -> State {
        let is_quote = signs.quote == Some(character);
        match self.state {
            State::Comment => State::Comment,
            State::RowStart if signs.comment == Some(character) => State::Comment,
            State::RowStart | State::CellStart if is_quote => State::Quoted,
            State::Quoted if is_quote => State::QuoteSeen,
            State::QuoteSeen if is_quote => State::Quoted,
            State::Quoted => State::Quoted,
            _ if character == signs.delimiter => State::CellStart,
            _ => State::Cell,
        }
    }

    fn row(&mut self, taken: usize, is_open: bool) -> Row {
        let row = Row {
            length: self.at,
            taken,
            lines: self.lines,
            is_blank: self.at == 0 || self.state == State::Comment,
            is_open,
        };
        *self = Frame::new();
        row
    }
}
