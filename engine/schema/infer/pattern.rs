//! What the texts that match a pattern look like, as far as its form tells: whether they are numbers, how long they are, an example. It matches nothing.

use std::cell::RefCell;
use std::rc::Rc;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};
use rustc_hash::FxHashMap;

use super::Range;

/// How many characters an example may have.
const EXAMPLE_MAX: usize = 2_000;

/// A pattern that could be read.
pub(crate) struct Pattern {
    hir: Hir,
}

/// How many patterns are remembered.
const KNOWN_MAX: usize = 1_000;

thread_local! {
    /// The patterns that this thread has read: the same few are asked for again and again.
    static KNOWN: RefCell<FxHashMap<String, Option<Rc<Pattern>>>> = RefCell::default();
}

/// Reads a pattern of a schema; nothing for what goes beyond regular expressions.
pub(crate) fn read(text: &str) -> Option<Rc<Pattern>> {
    KNOWN.with_borrow_mut(|known| {
        if let Some(pattern) = known.get(text) {
            return pattern.clone();
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let pattern = parsed(text).map(Rc::new);
        known.insert(text.to_owned(), pattern.clone());
        pattern
    })
}

fn parsed(text: &str) -> Option<Pattern> {
    let parse = |unicode| {
        let mut builder = ParserBuilder::new();
        // `\d` of a schema means the ten digits.
        builder.unicode(unicode).utf8(false);
        builder.build().parse(text).ok()
    };
    let hir = parse(false).or_else(|| parse(true))?;
    Some(Pattern { hir })
}

impl Pattern {
    /// Which numbers the texts are, as far as they are numbers: they have digits, points and signs only. Not every one need be a number:
    /// `[0-9-]+` takes a date too, and `007` is none as JSON writes them.
    pub(crate) fn number(&self) -> Option<Range> {
        if !self.is_anchored() {
            return None;
        }
        let mut seen = Seen::default();
        seen.visit(&self.hir);
        let digits = seen.digit && !seen.other && self.hir.properties().minimum_len()? > 0;
        digits.then(|| Range {
            whole: !seen.point,
            ..Range::default()
        })
    }

    /// Whether the pattern covers the whole text.
    fn is_anchored(&self) -> bool {
        let properties = self.hir.properties();
        properties.look_set_prefix().contains(Look::Start)
            && properties.look_set_suffix().contains(Look::End)
    }

    /// A text that matches, as short as the pattern's form makes it; the longest that it easily makes where that is asked.
    pub(crate) fn example(&self, long: bool) -> Option<String> {
        let mut text = String::new();
        write(&self.hir, long, &mut text)?;
        Some(text)
    }

    /// Texts that match, taken from the alternatives within the pattern; few.
    pub(crate) fn examples(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for long in [false, true] {
            all.extend(self.example(long));
        }
        all.dedup();
        all
    }
}

/// Which characters a pattern has.
#[derive(Default)]
struct Seen {
    digit: bool,
    point: bool,
    other: bool,
}

impl Seen {
    fn visit(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => literal.0.iter().for_each(|byte| self.byte(*byte)),
            HirKind::Class(class) => self.class(class),
            HirKind::Repetition(repetition) => self.visit(&repetition.sub),
            HirKind::Capture(capture) => self.visit(&capture.sub),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().for_each(|part| self.visit(part));
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        match byte {
            b'0'..=b'9' => self.digit = true,
            b'.' => self.point = true,
            b'-' | b'+' => {}
            _ => self.other = true,
        }
    }

    fn class(&mut self, class: &Class) {
        let ranges: Vec<(u32, u32)> = match class {
            Class::Unicode(class) => class
                .iter()
                .map(|range| (range.start() as u32, range.end() as u32))
                .collect(),
            Class::Bytes(class) => class
                .iter()
                .map(|range| (u32::from(range.start()), u32::from(range.end())))
                .collect(),
        };
        for (start, end) in ranges {
            if end > 127 || end - start > 16 {
                self.other = true;
                continue;
            }
            for byte in start..=end {
                self.byte(u8::try_from(byte).unwrap_or(b'x'));
            }
        }
    }
}

fn write(hir: &Hir, long: bool, text: &mut String) -> Option<()> {
    if text.len() > EXAMPLE_MAX {
        return None;
    }
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Look(look) => {
            if !matches!(look, Look::Start | Look::End | Look::StartLF | Look::EndLF) {
                return None;
            }
        }
        HirKind::Literal(literal) => text.push_str(std::str::from_utf8(&literal.0).ok()?),
        HirKind::Class(class) => text.push(character(class)?),
        HirKind::Repetition(repetition) => {
            let times = match (long, repetition.max) {
                (false, _) => repetition.min,
                (true, Some(most)) => most.min(repetition.min + 60),
                (true, None) => repetition.min + 3,
            };
            for _ in 0..times {
                write(&repetition.sub, long, text)?;
            }
        }
        HirKind::Capture(capture) => write(&capture.sub, long, text)?,
        HirKind::Concat(parts) => {
            for part in parts {
                write(part, long, text)?;
            }
        }
        HirKind::Alternation(parts) => {
            let chosen = if long { parts.last() } else { parts.first() };
            write(chosen?, long, text)?;
        }
    }
    Some(())
}

/// A plain character of a class.
fn character(class: &Class) -> Option<char> {
    let has = |wanted: char| match class {
        Class::Unicode(class) => class
            .iter()
            .any(|range| range.start() <= wanted && wanted <= range.end()),
        Class::Bytes(class) => u8::try_from(wanted).is_ok_and(|byte| {
            class
                .iter()
                .any(|range| range.start() <= byte && byte <= range.end())
        }),
    };
    let plain = ['1', 'A', 'a', 'x', '-', ' ', '.', '0', 'Z', 'z'];
    plain
        .into_iter()
        .find(|wanted| has(*wanted))
        .or(match class {
            Class::Unicode(class) => class.iter().next().map(|range| range.start()),
            Class::Bytes(class) => class.iter().next().map(|range| char::from(range.start())),
        })
}
