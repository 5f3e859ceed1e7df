//! A syntax mistake in words: where it most likely is, what is wrong, what to do; and which lines to skip to find the next one.

use std::sync::Arc;

use super::build::Stop;
use super::{DEPTH_MAX, codes};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span};

/// What to pass over so that the rest can be read.
pub(super) enum Skip {
    /// A value on one line.
    Value(Span),
    /// Whole lines; empty if there are none.
    Entry(Span),
}

/// Reports why the scanner stopped. The answer is what to skip: not again one of `tried`.
pub(super) fn report(
    file: &Arc<File>,
    text: &str,
    stop: &Stop,
    tried: &[Span],
    findings: &mut Findings,
) -> Skip {
    let fault = explain(text, stop);
    let place = Place {
        file: file.clone(),
        span: borders(&file.text, fault.span),
    };
    findings.push(Diagnostic::error(fault.code, place, fault.message).help(fault.help));
    let value = text
        .get(fault.span.start..fault.span.end)
        .unwrap_or_default();
    if fault.code == codes::QUOTE && !value.is_empty() && !value.contains('\n') {
        return Skip::Value(fault.span);
    }
    let at = fault.span.start.min(stop.at);
    match item(text, at).filter(|item| {
        let near = |tried: &Span| tried.start < item.end && item.start <= tried.end;
        stop.at <= item.end && !tried.iter().any(near)
    }) {
        Some(item) => Skip::Entry(item),
        None => Skip::Entry(entry(text, at)),
    }
}

/// The same text with a value's characters as letters, so that all places stay.
pub(super) fn fill(text: &str, value: Span) -> String {
    let letters = "x".repeat(value.end - value.start);
    format!("{}{letters}{}", &text[..value.start], &text[value.end..])
}

/// The lines of the innermost list item at a place, if it is one of several lines or begins on its own.
fn item(text: &str, at: usize) -> Option<Span> {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut start = line_start(text, text.floor_char_boundary(at));
    let mut most = indent(&text[start..line_end(text, start)]);
    loop {
        let line = &text[start..line_end(text, start)];
        let own = indent(line);
        if line.trim().is_empty() || own > most {
            // A blank line, or one that belongs to something deeper.
        } else if line[own..].starts_with("- ") {
            let end = text[start..]
                .split_inclusive('\n')
                .skip(1)
                .take_while(|line| line.trim().is_empty() || indent(line) > own)
                .map(str::len)
                .sum::<usize>();
            let first = line_end(text, start) + usize::from(line_end(text, start) < text.len());
            return (own > 0).then(|| Span::new(start, first + end));
        } else if own == 0 {
            return None;
        } else {
            most = own;
        }
        start = line_start(text, start.checked_sub(1)?);
    }
}

/// The same text with the entry's characters as blanks, so that all places stay.
pub(super) fn blank(text: &str, entry: Span) -> String {
    let blanked = text[entry.start..entry.end].chars().flat_map(|character| {
        let (fill, count) = match character {
            '\n' | '\r' => (character, 1),
            other => (' ', other.len_utf8()),
        };
        std::iter::repeat_n(fill, count)
    });
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..entry.start]);
    out.extend(blanked);
    out.push_str(&text[entry.end..]);
    out
}

/// The lines of the outermost entry at a place: from a line without indentation to before the next such line.
fn entry(text: &str, at: usize) -> Span {
    let mut from = None;
    let mut start = if text.starts_with('\u{feff}') { 3 } else { 0 };
    for line in text[start..].split_inclusive('\n') {
        let begins = line.starts_with(|c: char| !c.is_whitespace() && !"#]})".contains(c));
        if begins {
            if start > at {
                return from.map_or(Span::default(), |from| Span::new(from, start));
            }
            from = Some(start);
        }
        start += line.len();
    }
    from.map_or(Span::default(), |from| Span::new(from, text.len()))
}

/// The same stretch, widened to whole characters. What was skipped has a blank for each byte, so that a border there may be none here.
pub(super) fn borders(text: &str, span: Span) -> Span {
    let end = span.end.min(text.len());
    let start = (0..=span.start.min(end))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let end = (end..=text.len()).find(|at| text.is_char_boundary(*at));
    Span::new(start.unwrap_or(0), end.unwrap_or(text.len()))
}

struct Fault {
    code: Code,
    span: Span,
    message: String,
    help: String,
}

fn explain(text: &str, stop: &Stop) -> Fault {
    let at = stop.at.min(text.len());
    let fault = |code, start: usize, end: usize, message: &str, help: &str| Fault {
        code,
        span: Span::new(start, end.max(start)),
        message: message.to_owned(),
        help: help.to_owned(),
    };
    if let Some(tab) = tab(text, at, stop.info.contains("tab")) {
        return fault(
            codes::TAB,
            tab,
            tab + 1,
            "this line is indented with a tab",
            "indent with spaces; YAML does not take tabs",
        );
    }
    if stop.info.contains("recursion limit") {
        let message = format!("lists and mappings nest deeper than {DEPTH_MAX} levels");
        return fault(codes::LIMIT, at, at + 1, &message, "");
    }
    if stop.info.contains("unknown escape") {
        return fault(
            codes::SYNTAX,
            at,
            at + 1,
            "a `\\` in double quotes begins an escape that YAML does not know",
            "use single quotes, or write `\\\\` for a backslash",
        );
    }
    if let Some((open, quote)) = unclosed_quote(text, at, &stop.info) {
        return fault(
            codes::SYNTAX,
            open,
            open + 1,
            &format!("the text that begins here with `{quote}` is not closed"),
            &format!("add the closing `{quote}`"),
        );
    }
    let start = line_start(text, at);
    if let Some(fault) = needs_quotes(text, start, line_end(text, at)) {
        return fault;
    }
    if let Some((open, bracket)) = unclosed_bracket(text, at) {
        let close = if bracket == '[' { ']' } else { '}' };
        return fault(
            codes::SYNTAX,
            open,
            open + 1,
            &format!(
                "the {} that begins here with `{bracket}` is not closed",
                if bracket == '[' { "list" } else { "mapping" }
            ),
            &format!("add the closing `{close}`"),
        );
    }
    if let Some(colon) = glued_key(text, at).filter(|_| stop.info.contains("mapping values")) {
        return fault(
            codes::SYNTAX,
            colon,
            colon + 1,
            "a space is missing behind this `:`",
            "write `key: value`",
        );
    }
    let (message, help) = words(&stop.info);
    let place = place(text, at, &stop.info);
    fault(codes::SYNTAX, place.start, place.end, message, help)
}

/// The scanner notices a key without `:` only on a later line; the finding belongs to the line before.
fn place(text: &str, at: usize, info: &str) -> Span {
    let at = if info == "simple key expect ':'" || info == "simple key expected" && at == text.len()
    {
        let before = text[..line_start(text, at)].trim_end();
        let line = line_start(before, before.len());
        line + before[line..].len() - before[line..].trim_start().len()
    } else {
        at
    };
    let end = line_end(text, at);
    let word = text[at..end].trim_end().len();
    Span::new(at, at + word.max(usize::from(at < end)))
}

/// A part of the scanner's words, what it means, and what to do.
const WORDS: &[(&str, &str, &str)] = &[
    (
        "mapping values are not allowed",
        "a `:` is not expected here",
        "check the indentation of this line, or quote the value if the `:` belongs to it",
    ),
    (
        "illegal placement of ':'",
        "a `:` is not expected here",
        "check that brackets above are closed, or quote the value if the `:` belongs to it",
    ),
    (
        "simple key",
        "expected `key: value`",
        "write a space after the `:`, and check the indentation of this line",
    ),
    (
        "expected key",
        "this line does not fit into the mapping above",
        "check its indentation, and that the value above it is complete",
    ),
    (
        "block sequence entries are not allowed",
        "a list item is not expected here",
        "begin the list on its own line, below its key",
    ),
    (
        "did not find expected '-'",
        "this line does not fit into the list above",
        "check its indentation, and that it begins with `- `",
    ),
    (
        "invalid indentation",
        "this line is not indented enough",
        "indent it deeper than the line that it belongs to",
    ),
    (
        "wrongly indented line in block",
        "this line of the block is not indented like the first one",
        "indent it like the block's first line",
    ),
    (
        "comment or line break",
        "nothing may follow on the line that begins a block",
        "write the text on the next line, indented, or quote the value",
    ),
    (
        "comment intercepting",
        "a comment stands in the middle of a text of several lines",
        "quote the text, or move the comment",
    ),
    (
        "expected ',' or ']'",
        "expected `,` or `]` in the list",
        "add what is missing, or quote the item",
    ),
    (
        "expected ',' or '}'",
        "expected `,` or `}` in the mapping",
        "add what is missing, or quote the value",
    ),
    (
        "misplaced bracket",
        "a bracket is closed here that is not open",
        "remove it, or quote the whole value",
    ),
    (
        "trailing content",
        "text follows behind the closing quote",
        "put the whole value in quotes",
    ),
    (
        "unprintable",
        "this character is not allowed in YAML",
        "remove it",
    ),
    (
        "byte order mark",
        "a byte order mark stands in the middle of the file",
        "remove it",
    ),
    (
        "document",
        "text follows the end of the document",
        "remove it; a file holds one document",
    ),
    (
        "directive",
        "this line begins with `%`, which YAML takes for a directive",
        "quote the value, or remove the line",
    ),
    (
        "hexadecimal",
        "an escape in double quotes needs more hexadecimal digits",
        "use single quotes, or write `\\\\` for a backslash",
    ),
    (
        "Unicode character",
        "an escape in double quotes is no character",
        "use single quotes, or write `\\\\` for a backslash",
    ),
    (
        "whitespace",
        "expected a space here",
        "write a space after `:`, `-` and `,`",
    ),
];

fn words(info: &str) -> (&'static str, &'static str) {
    WORDS.iter().find(|(part, ..)| info.contains(part)).map_or(
        (
            "this cannot be read as YAML",
            "check the indentation, and quote values with special characters",
        ),
        |(_, message, help)| (message, help),
    )
}

/// The first tab in the indentation of the line, of the line before, or (if the scanner says that it met one) of a line behind.
fn tab(text: &str, at: usize, met: bool) -> Option<usize> {
    let start = line_start(text, at);
    let previous = line_start(text, start.saturating_sub(1));
    let behind = text[start..]
        .match_indices('\n')
        .map(|(at, _)| start + at + 1)
        .take_while(|_| met);
    [start, previous]
        .into_iter()
        .chain(behind)
        .find_map(|start| {
            let line = &text[start..line_end(text, start)];
            let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
            let tab = line[..indent].find('\t')?;
            (!line.trim().is_empty()).then_some(start + tab)
        })
}

/// A key of the line before whose `:` has no space behind it (`a:1`), which YAML takes for a text.
fn glued_key(text: &str, at: usize) -> Option<usize> {
    let before = text[..line_start(text, at)].trim_end();
    let start = line_start(before, before.len());
    let line = before[start..].trim_start();
    let key = line.split(':').next().unwrap_or_default();
    let word = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_');
    let glued = word && key.len() + 1 < line.len() && !line.contains(": ");
    glued.then(|| before.len() - line.len() + key.len())
}

/// A value on the line that begins with a character that means something in YAML, or goes on behind its closing quote or bracket.
fn needs_quotes(text: &str, start: usize, end: usize) -> Option<Fault> {
    let line = &text[start..end];
    let at = value_start(line)?;
    let value = line[at..].trim_end();
    let first = value.chars().next()?;
    let rest = &value[first.len_utf8()..];
    let message = match first {
        '*' => format!(
            "`{}` is an alias, and nothing is named so with `&`",
            word(value)
        ),
        '&' => format!("`{}` names a value for an alias", word(value)),
        '!' => format!(
            "`{}` is a YAML tag, and tags are not used here",
            word(value)
        ),
        '@' | '`' | '%' => format!("a value must not begin with `{first}`"),
        '|' | '>' if !block_header(rest) => {
            format!("`{first}` begins a block of text, and nothing may follow it on its line")
        }
        '\'' | '"' if goes_on(value, first) => "text follows behind the closing quote".to_owned(),
        '{' if value.starts_with("{{") => "a value that begins with `{` is a mapping".to_owned(),
        '[' if bracket_goes_on(value) => "text follows behind the closing bracket".to_owned(),
        _ if value.contains(": ") && !value.starts_with(['[', '{', '\'', '"']) => {
            "a value without quotes must not contain `: `".to_owned()
        }
        _ => return None,
    };
    Some(Fault {
        code: codes::QUOTE,
        span: Span::new(start + at, start + at + value.len()),
        message,
        help: quote_it(value),
    })
}

/// Why a template needs quotes.
pub(super) const TEMPLATE: &str = "a value that begins with `{{` is read as a mapping";

/// The help that shows a value in quotes.
pub(super) fn quote_it(value: &str) -> String {
    let quoted = if value.contains('\'') && !value.contains(['"', '\\']) {
        format!("\"{value}\"")
    } else {
        format!("'{}'", value.replace('\'', "''"))
    };
    format!("quote the whole value: {quoted}")
}

/// Where the value on a line begins: behind list dashes and `key: `.
fn value_start(line: &str) -> Option<usize> {
    let mut at = line.len() - line.trim_start().len();
    while line[at..].starts_with("- ") {
        at += 2;
        at += line[at..].len() - line[at..].trim_start().len();
    }
    let rest = &line[at..];
    let key = rest.find(": ").filter(|&colon| {
        rest[..colon]
            .chars()
            .all(|c| c.is_alphanumeric() || "_-.$/ '\"".contains(c))
    });
    if let Some(colon) = key {
        at += colon + 2;
        at += line[at..].len() - line[at..].trim_start().len();
    }
    (at < line.len()).then_some(at)
}

fn word(value: &str) -> &str {
    value.split_whitespace().next().unwrap_or_default()
}

/// Whether what follows `|` or `>` may stand there: indentation, chomping, a comment.
fn block_header(rest: &str) -> bool {
    let rest = rest.trim_start_matches(['+', '-', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
    rest.trim().is_empty() || rest.starts_with(" #")
}

/// Whether text follows behind the quote that closes the value.
fn goes_on(value: &str, quote: char) -> bool {
    let mut rest = &value[1..];
    while let Some(at) = rest.find(quote) {
        let behind = &rest[at + 1..];
        if quote == '\'' && behind.starts_with('\'') {
            rest = &behind[1..];
            continue;
        }
        if quote == '"' && rest[..at].ends_with('\\') {
            rest = behind;
            continue;
        }
        let behind = behind.trim();
        return !behind.is_empty() && !behind.starts_with(['#', ':', ',', ']', '}']);
    }
    false
}

/// Whether text follows behind the bracket that closes the value's first one.
fn bracket_goes_on(value: &str) -> bool {
    let mut depth = 0_usize;
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    let behind = value[at + 1..].trim();
                    return !behind.is_empty() && !behind.starts_with(['#', ',', '}', ':']);
                }
            }
            _ => {}
        }
    }
    false
}

/// The quote that is open where the scanner gave up.
fn unclosed_quote(text: &str, at: usize, info: &str) -> Option<(usize, char)> {
    let quote = text[at..].chars().next()?;
    let stopped = [
        "end of stream",
        "document indicator",
        "indentation in quoted",
    ];
    (matches!(quote, '\'' | '"') && stopped.iter().any(|part| info.contains(part)))
        .then_some((at, quote))
}

/// The innermost `[` or `{` that is open where the scanner gave up, in the entry there or in the one before.
fn unclosed_bracket(text: &str, at: usize) -> Option<(usize, char)> {
    let here = entry(text, at).start;
    let before = entry(text, here.saturating_sub(1)).start;
    [here, before]
        .into_iter()
        .find_map(|from| open_bracket(text, from, at))
}

fn open_bracket(text: &str, from: usize, at: usize) -> Option<(usize, char)> {
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut quote = None;
    let mut before = ' ';
    let mut comment = false;
    for (offset, character) in text.get(from..at)?.char_indices() {
        match (quote, character) {
            (_, '\n') => comment = false,
            _ if comment => {}
            (Some(quoted), _) if quoted == character => quote = None,
            (Some(_), _) => {}
            (None, '#') if before.is_whitespace() => comment = true,
            (None, '\'' | '"') if " [{,\n".contains(before) => quote = Some(character),
            (None, '[' | '{') if !open.is_empty() || before.is_whitespace() => {
                open.push((from + offset, character));
            }
            (None, ']' | '}') => {
                open.pop();
            }
            _ => {}
        }
        before = character;
    }
    let (open, bracket) = open.pop()?;
    (text[open..at].contains('\n') || at == text.len()).then_some((open, bracket))
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |at| at + 1)
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end)
}
