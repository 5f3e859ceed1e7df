//! From a place in a text's value to a place in the file, past quotes, escapes and indentation. It does not parse YAML: the scanner has.

use super::{Style, Text};
use crate::diagnostic::Span;

/// Where `start..end` of the value stands in the file; the whole scalar where the two cannot be aligned.
pub(super) fn span(file: &str, scalar: Span, text: &Text, start: usize, end: usize) -> Span {
    let mut walk = Walk {
        file,
        at: scalar.start,
        end: scalar.end.min(file.len()),
        value: &text.value,
        read: 0,
        style: text.style,
        quote: None,
        indent: 0,
    };
    walk.begin();
    let (start, end) = (start.min(text.value.len()), end.min(text.value.len()));
    let Some(from) = walk.reach(start) else {
        return scalar;
    };
    let from = walk.settle().unwrap_or(from);
    let Some(to) = walk.reach(end.max(start)) else {
        return scalar;
    };
    Span::new(from, to)
}

/// Two fingers: one in the file, one in the value.
struct Walk<'a> {
    file: &'a str,
    at: usize,
    end: usize,
    value: &'a str,
    read: usize,
    style: Style,
    quote: Option<u8>,
    indent: usize,
}

impl Walk<'_> {
    fn begin(&mut self) {
        match self.style {
            Style::Plain | Style::Variable | Style::Parameter => {}
            Style::Quoted => {
                self.quote = self.file.as_bytes().get(self.at).copied();
                self.at += 1;
                self.end = self.end.saturating_sub(1).max(self.at);
            }
            Style::Block => {
                let line = self.file[..self.at].rfind('\n').map_or(0, |at| at + 1);
                self.indent = self.at - line;
                let breaks = self.value.bytes().take_while(|&byte| byte == b'\n').count();
                self.read = breaks;
            }
        }
    }

    /// Moves both fingers until `target` bytes of the value are read; says where the file's finger then is.
    fn reach(&mut self, target: usize) -> Option<usize> {
        while self.read < target {
            let wanted = self.value[self.read..].chars().next()?;
            let Some(found) = self.file.get(self.at..self.end)?.chars().next() else {
                // Only the line break that a block's last line is given may have no counterpart.
                return (wanted == '\n').then_some(self.end);
            };
            match (self.quote, found) {
                (Some(b'"'), '\\') => self.escape(wanted),
                (Some(b'\''), '\'') => {
                    self.at += 2;
                    self.read += 1;
                }
                _ if self.style == Style::Block && wanted == '\n' => self.line_break()?,
                _ if found == wanted && (found != '\n' || self.style == Style::Block) => {
                    self.at += found.len_utf8();
                    self.read += wanted.len_utf8();
                }
                _ if found.is_ascii_whitespace() => self.fold(wanted),
                _ => return None,
            }
        }
        Some(self.at.min(self.end))
    }

    /// Past what stands in the file before the next character of the value: escaped line breaks, folded lines.
    fn settle(&mut self) -> Option<usize> {
        let wanted = self.value[self.read..].chars().next()?;
        if !wanted.is_whitespace() {
            let rest = self.file.get(self.at..self.end)?;
            if rest.starts_with(|c: char| c.is_ascii_whitespace()) {
                self.skip(|byte| byte.is_ascii_whitespace());
                return Some(self.at);
            }
        }
        self.past_continuation()
    }

    /// Past a line break that is escaped in double quotes and so adds nothing to the value.
    fn past_continuation(&mut self) -> Option<usize> {
        let rest = self.file.get(self.at..self.end)?;
        if self.quote != Some(b'"') || !(rest.starts_with("\\\n") || rest.starts_with("\\\r")) {
            return None;
        }
        self.at += 1;
        self.skip(|byte| byte.is_ascii_whitespace());
        Some(self.at)
    }

    fn escape(&mut self, wanted: char) {
        if self.past_continuation().is_some() {
            return;
        }
        let length = match self.file.as_bytes().get(self.at + 1) {
            Some(b'x') => 4,
            Some(b'u') => 6,
            Some(b'U') => 10,
            _ => 2,
        };
        self.at += length;
        self.read += wanted.len_utf8();
    }

    /// A line break of a block: the next line begins after the indentation.
    fn line_break(&mut self) -> Option<()> {
        self.skip(|byte| byte == b' ' || byte == b'\t' || byte == b'\r');
        if self.file.as_bytes().get(self.at) != Some(&b'\n') {
            return None;
        }
        self.at += 1;
        self.read += 1;
        self.skip_indent();
        Some(())
    }

    fn skip_indent(&mut self) {
        for _ in 0..self.indent {
            if self.at < self.end && self.file.as_bytes()[self.at] == b' ' {
                self.at += 1;
            }
        }
    }

    /// Lines joined by a space, or by fewer line breaks than the file has.
    fn fold(&mut self, wanted: char) {
        self.skip(|byte| byte.is_ascii_whitespace());
        match wanted {
            ' ' => self.read += 1,
            '\n' => {
                let rest = &self.value.as_bytes()[self.read..];
                self.read += rest.iter().take_while(|&&byte| byte == b'\n').count();
            }
            _ => {}
        }
    }

    fn skip(&mut self, of: impl Fn(u8) -> bool) {
        while self.at < self.end && of(self.file.as_bytes()[self.at]) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnostic::{File, Findings};
    use crate::yaml;

    /// Finds `part` in the value of `a` and expects it at the same text in the file.
    fn check(text: &str, part: &str, expect: &str) {
        let file = File::new("a.yaml", text);
        let mut findings = Findings::new();
        let node = yaml::parse(&file, &mut findings).unwrap();
        let node = node.get("a").unwrap();
        let start = node.as_text().unwrap().find(part).unwrap();
        let span = node.span_within(&file, start, start + part.len());
        let (before, after) = (&text[..span.start], &text[span.start..span.end]);
        assert_eq!(after, expect, "of {text:?} after {before:?}");
    }

    #[test]
    fn parts_of_a_value_are_found_in_the_file() {
        check("a: one two three\n", "two", "two");
        check("ä: ö\na: éé two\n", "two", "two");
        check("a: &x one two\nb: *x\n", "two", "two");
        check("a: one\n   two\n\n   three\n", "three", "three");
        check("a: \"one two\"\n", "two", "two");
        check("a: 'it''s two'\n", "two", "two");
        check("a: 'it''s two'\n", "it's", "it''s");
        check("a: \"x\\n\\\\ \\u00e9 two\"\n", "two", "two");
        check("a: \"one\n  two\"\n", "two", "two");
        check("a: \"one\\\n  two\"\n", "two", "two");
        check("a: |\n  one\n    two\n\n  three\n", "two", "two");
        check("a: |\n  one\n    two\n\n  three\n", "three", "three");
        check("a: |\r\n  one\r\n  two\r\n", "two", "two");
        check("a: |2\n    one\n  two\n", "two", "two");
        check("a: |\n\n  one\n  two\n", "two", "two");
        check("a: |\n  one\n  two", "two\n", "two");
        check("a: >\n  one\n  two\n\n  three\n", "three", "three");
    }

    #[test]
    fn a_part_past_the_end_is_the_end() {
        let file = File::new("a.yaml", "a: 'x'\n");
        let node = yaml::parse(&file, &mut Findings::new()).unwrap();
        let span = node.get("a").unwrap().span_within(&file, 50, 60);
        assert_eq!((span.start, span.end), (5, 5));
    }
}
