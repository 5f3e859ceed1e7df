//! The scanner's parts, put together: nodes with byte places, budgets, and what YAML allows but a project file does not. No recovery here.

use std::borrow::Cow;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::fault;
use super::{ALIASES_MAX, DEPTH_MAX, Data, FINDINGS_MAX, Key, NODES_MAX, Node, Style, Text, codes};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span};

/// Where the scanner gave up, and its words.
pub(super) struct Stop {
    /// The byte in the file.
    pub(super) at: usize,
    /// The scanner's own words.
    pub(super) info: String,
}

/// Builds the tree of `text`, which is the file's text with entries that could not be read blanked out. Nothing, without an error,
/// where a finding says why.
pub(super) fn tree(
    file: &Arc<File>,
    text: &str,
    again: bool,
    findings: &mut Findings,
) -> Result<Option<Node>, Stop> {
    let bom = if text.starts_with('\u{feff}') { 3 } else { 0 };
    let mut builder = Builder {
        file,
        text,
        findings,
        places: Places::of(&text[bom..], bom),
        open: Vec::new(),
        anchors: FxHashMap::default(),
        nodes: 0,
        aliases: 0,
        documents: 0,
        root: None,
        over: false,
        told: 0,
    };
    let mut parser = Parser::new_from_str(&text[bom..]);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let at = builder.places.byte(error.marker());
                return Err(Stop {
                    at,
                    info: error.info().to_owned(),
                });
            }
        }
        if builder.over {
            return Ok(None);
        }
    }
    Ok(builder.finish(again))
}

/// From the scanner's places, which count characters, to bytes of the file.
struct Places {
    bom: usize,
    /// The byte of each character; empty if every character is one byte.
    bytes: Vec<u32>,
    length: usize,
}

impl Places {
    fn of(text: &str, bom: usize) -> Places {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(at, _)| at as u32).collect()
        };
        Places {
            bom,
            bytes,
            length: text.len(),
        }
    }

    fn byte(&self, marker: &Marker) -> usize {
        let at = if self.bytes.is_empty() {
            marker.index().min(self.length)
        } else {
            self.bytes
                .get(marker.index())
                .map_or(self.length, |&byte| byte as usize)
        };
        at + self.bom
    }
}

/// A list or a mapping that is not closed yet.
struct Open {
    start: usize,
    /// Written with brackets.
    flow: bool,
    anchor: usize,
    /// Values within, counted for the alias budget.
    nodes_before: usize,
    depth: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>, Next, FxHashMap<String, Span>),
}

/// What a mapping expects next.
enum Next {
    Key,
    Value(Key),
    /// The value of a key that was refused.
    Nothing,
}

struct Anchored {
    node: Node,
    nodes: usize,
    depth: usize,
    used: bool,
}

struct Builder<'a> {
    file: &'a Arc<File>,
    /// The file's text, with what was skipped blanked out.
    text: &'a str,
    findings: &'a mut Findings,
    places: Places,
    open: Vec<Open>,
    anchors: FxHashMap<usize, Anchored>,
    nodes: usize,
    aliases: usize,
    documents: usize,
    root: Option<Node>,
    over: bool,
    told: usize,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: saphyr_parser::Span) {
        let start = self.places.byte(&span.start);
        let end = self.places.byte(&span.end).max(start);
        let span = Span::new(start, end);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.stop(
                        codes::DOCUMENT,
                        span,
                        "a second document begins here; a file holds one",
                        "remove the `---`, or move what follows into a file of its own",
                    );
                }
            }
            Event::Scalar(value, style, anchor, tag) => {
                match self.refuse_tag(tag.as_deref(), span) {
                    Some(word) if value.is_empty() && style == ScalarStyle::Plain => {
                        let style = ScalarStyle::SingleQuoted;
                        self.scalar(Cow::Owned(word), style, anchor, span);
                    }
                    _ => self.scalar(value, style, anchor, span),
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.begin(span, anchor, Inside::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.begin(
                    span,
                    anchor,
                    Inside::Map(Vec::new(), Next::Key, FxHashMap::default()),
                );
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }

    fn finish(mut self, again: bool) -> Option<Node> {
        let mut unused: Vec<_> = self
            .anchors
            .values()
            .filter(|anchored| {
                !anchored.used && !matches!(anchored.node.data, Data::Map(_) | Data::List(_))
            })
            .map(|anchored| anchored.node.span)
            .collect();
        unused.sort_by_key(|span| span.start);
        for span in unused {
            let sign = self.text[..span.start].rfind('&').unwrap_or(span.start);
            self.warn(
                codes::QUOTE,
                Span::new(sign, span.end.max(sign + 1)),
                "`&` names this value for an alias, and no alias uses the name",
                "quote the whole value if the `&` belongs to it",
            );
        }
        let empty = match &self.root {
            None => true,
            Some(root) => matches!(root.data, Data::Null) && root.span.start == root.span.end,
        };
        if empty {
            let help = "write what it is for, or remove it";
            if !again {
                self.stop(codes::DOCUMENT, Span::new(0, 0), "the file is empty", help);
            }
            return None;
        }
        self.root
    }

    fn scalar(&mut self, value: Cow<'_, str>, style: ScalarStyle, anchor: usize, span: Span) {
        let style = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
            ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
        };
        let span = self.scalar_span(&value, style, span);
        let is_key = matches!(
            self.open.last().map(|open| &open.inside),
            Some(Inside::Map(_, Next::Key, _))
        );
        let data = if is_key || style != Style::Plain {
            Data::Text(Text {
                value: value.into_owned(),
                style,
            })
        } else {
            self.plain(value, span)
        };
        let node = Node { span, data };
        if !self.count(1, span) {
            return;
        }
        self.remember(anchor, &node, 1, 0);
        self.put(node, style);
    }

    /// The place of the value alone: past an anchor and a tag, and for an empty value right behind what it belongs to.
    fn scalar_span(&self, value: &str, style: Style, span: Span) -> Span {
        let text = self.text;
        if style == Style::Plain && value.is_empty() {
            let behind = match self.open.last().map(|open| &open.inside) {
                Some(Inside::Map(_, Next::Value(key), _)) => {
                    let end = key.span.end;
                    end + text[end..].find(':').map_or(0, |colon| colon + 1)
                }
                Some(Inside::List(_)) => {
                    let before = text.get(..span.start).unwrap_or_default();
                    before.rfind('-').map_or(span.start, |dash| dash + 1)
                }
                _ => span.start,
            };
            let signs = text.get(span.start..span.end).unwrap_or_default();
            if signs.starts_with(['&', '!']) {
                return Span::new(span.end, span.end);
            }
            return Span::new(behind.min(text.len()), behind.min(text.len()));
        }
        let mut start = span.start;
        if style != Style::Block || value.is_empty() {
            while text[start..span.end].starts_with(['&', '!']) {
                let rest = &text[start..span.end];
                let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let space = rest[word..].len() - rest[word..].trim_start().len();
                start += word + space;
            }
        } else if text[start..span.end].starts_with(['&', '!']) {
            // The scanner begins a block with an anchor at the anchor, one without at its first character.
            let header = text[start..span.end].find('\n').map_or(0, |at| at + 1);
            start += header;
            start += text[start..span.end].len() - text[start..span.end].trim_start().len();
        }
        let end = match style {
            Style::Block => start + text[start..span.end].trim_end().len(),
            _ => span.end,
        };
        Span::new(start, end)
    }

    fn plain(&mut self, value: Cow<'_, str>, span: Span) -> Data {
        self.warn_cut(&value, span);
        match &*value {
            "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
            "true" | "True" | "TRUE" => return Data::Bool(true),
            "false" | "False" | "FALSE" => return Data::Bool(false),
            _ => {}
        }
        if is_number(&value) {
            return Data::Number(value.into_owned());
        }
        let lower = value.to_ascii_lowercase();
        let unsigned = lower.trim_start_matches(['+', '-']);
        if unsigned == ".inf" || lower == ".nan" {
            self.error(
                codes::NUMBER,
                span,
                format!("`{value}` is no number that can be sent"),
                "quote it if a text is meant",
            );
        } else if matches!(&*lower, "yes" | "no" | "on" | "off") {
            let boolean = matches!(&*lower, "yes" | "on");
            self.warn(
                codes::BOOLEAN,
                span,
                format!("`{value}` is a text, not a boolean"),
                format!("write `{boolean}`, or quote it: \"{value}\""),
            );
        }
        Data::Text(Text {
            value: value.into_owned(),
            style: Style::Plain,
        })
    }

    fn warn_cut(&mut self, value: &str, span: Span) {
        let rest = &self.text[span.end..];
        let comment = rest.trim_start_matches([' ', '\t']);
        if comment.len() == rest.len() || !comment.starts_with('#') {
            return;
        }
        let comment = comment.lines().next().unwrap_or_default();
        let glued = comment[1..].starts_with(|c: char| c.is_alphanumeric() || "'\"{".contains(c));
        let expression = value.contains(['[', '(', '|', '{', '=', '<', '>']);
        let digit = comment[1..].starts_with(|c: char| c.is_ascii_digit());
        if is_cut(value) || (glued && (expression || digit)) {
            self.warn(
                codes::COMMENT_CUT,
                span,
                "the value ends here, because ` #` begins a comment",
                "quote the whole value, or leave a space after the `#` of a comment",
            );
        }
    }

    fn begin(&mut self, span: Span, anchor: usize, inside: Inside) {
        if self.open.len() >= DEPTH_MAX {
            let message = format!("lists and mappings nest deeper than {DEPTH_MAX} levels");
            self.stop(codes::LIMIT, span, message, "");
            return;
        }
        let nodes_before = self.nodes;
        if !self.count(1, span) {
            return;
        }
        let mut start = span.start;
        let text = self.text;
        while text[start..].starts_with(['&', '!']) {
            let rest = &text[start..];
            let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
            start += word + rest[word..].len() - rest[word..].trim_start().len();
        }
        let flow = text[start..].starts_with(['[', '{']);
        self.open.push(Open {
            start,
            flow,
            anchor,
            nodes_before,
            depth: 1,
            inside,
        });
    }

    fn end(&mut self, span: Span) {
        let Some(open) = self.open.pop() else {
            return;
        };
        let (data, last) = match open.inside {
            Inside::List(items) => {
                let last = items.last().map_or(open.start, |item| item.span.end);
                (Data::List(items), last)
            }
            Inside::Map(entries, ..) => {
                let last = entries
                    .last()
                    .map_or(open.start, |(key, node)| node.span.end.max(key.span.end));
                (Data::Map(entries), last)
            }
        };
        // A mapping in block style may begin with a key in brackets, and is none in brackets itself.
        let closed = open.flow && self.text[span.start..].starts_with([']', '}']);
        let end = if closed { span.start + 1 } else { last };
        let node = Node {
            span: Span::new(open.start, end),
            data,
        };
        let nodes = self.nodes - open.nodes_before;
        if let Some(outer) = self.open.last_mut() {
            outer.depth = outer.depth.max(open.depth + 1);
        }
        self.remember(open.anchor, &node, nodes, open.depth);
        self.put(node, Style::Plain);
    }

    fn alias(&mut self, anchor: usize, span: Span) {
        self.aliases += 1;
        if self.aliases > ALIASES_MAX {
            let message = format!("the file uses more than {ALIASES_MAX} aliases");
            self.stop(codes::LIMIT, span, message, "");
            return;
        }
        let depth = self.open.len();
        let Some(known) = self.anchors.get_mut(&anchor) else {
            self.error(
                codes::SYNTAX,
                span,
                "the alias stands inside the value that it names",
                "write the value out",
            );
            self.put(null(span), Style::Plain);
            return;
        };
        known.used = true;
        if depth + known.depth > DEPTH_MAX {
            let message =
                format!("with its aliases, the file nests deeper than {DEPTH_MAX} levels");
            self.stop(codes::LIMIT, span, message, "");
            return;
        }
        let (nodes, inner) = (known.nodes, known.depth);
        if !self.count(nodes, span) {
            return;
        }
        let node = self.anchors[&anchor].node.clone();
        if let Some(outer) = self.open.last_mut() {
            outer.depth = outer.depth.max(inner + 1);
        }
        self.put(node, Style::Plain);
    }

    /// Adds to the budget of values; false when it is spent.
    fn count(&mut self, nodes: usize, span: Span) -> bool {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            let message =
                format!("the file has more than {NODES_MAX} values, with its aliases written out");
            self.stop(codes::LIMIT, span, message, "split it into several files");
            return false;
        }
        true
    }

    fn remember(&mut self, anchor: usize, node: &Node, nodes: usize, depth: usize) {
        if anchor > 0 {
            let node = node.clone();
            self.anchors.insert(
                anchor,
                Anchored {
                    node,
                    nodes,
                    depth,
                    used: false,
                },
            );
        }
    }

    /// A finished value goes where it belongs: into the list, as key or value into the mapping, or to the top.
    fn put(&mut self, node: Node, style: Style) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.inside {
            Inside::List(items) => items.push(node),
            Inside::Map(entries, next, _) => match std::mem::replace(next, Next::Key) {
                Next::Nothing => {}
                Next::Value(key) => entries.push((key, node)),
                Next::Key => self.key(node, style),
            },
        }
    }

    fn key(&mut self, node: Node, style: Style) {
        let (span, data) = (node.span, node.data);
        let refused = match &data {
            Data::Text(text) if text.value == "<<" && style == Style::Plain => Some((
                "`<<` merges mappings in older versions of YAML, not in this one",
                "write the entries out, or use a fragment",
            )),
            Data::Text(text) if text.value.is_empty() && style == Style::Plain => {
                Some(("expected a key before the `:`", "write `key: value`"))
            }
            Data::Text(_) => None,
            _ => Some(("a key must be a text", "quote the key if it is one")),
        };
        let next = match (refused, data) {
            (None, Data::Text(text)) => self.known(Key {
                text: text.value,
                span,
            }),
            // A template in a template's place was told when its inside was read.
            (Some(_), Data::Map(_)) if self.text[span.start..].starts_with("{{") => Next::Nothing,
            (Some((message, help)), _) => {
                if let Some((span, help)) = self.template(span) {
                    self.error(codes::QUOTE, span, fault::TEMPLATE, help);
                } else {
                    self.error(codes::KEY, span, message, help);
                }
                Next::Nothing
            }
            (None, _) => Next::Nothing,
        };
        if let Some(Open {
            inside: Inside::Map(_, slot, _),
            ..
        }) = self.open.last_mut()
        {
            *slot = next;
        }
    }

    /// If a key in braces stands in braces itself, it is a template without quotes: the whole of it, and what to do.
    fn template(&self, key: Span) -> Option<(Span, String)> {
        let text = self.text;
        let start = text[..key.start]
            .ends_with('{')
            .then_some(key.start.wrapping_sub(1))?;
        let value = text[start..].lines().next()?.trim_end();
        value.starts_with("{{").then(|| {
            (
                Span::new(start, start + value.len()),
                fault::quote_it(value),
            )
        })
    }

    /// Refuses a key that stands in the mapping already.
    fn known(&mut self, key: Key) -> Next {
        let Some(Open {
            inside: Inside::Map(_, _, seen),
            ..
        }) = self.open.last_mut()
        else {
            return Next::Nothing;
        };
        let Some(first) = seen.get(&key.text).copied() else {
            seen.insert(key.text.clone(), key.span);
            return Next::Value(key);
        };
        let first = self.place(first);
        let diagnostic = Diagnostic::error(
            codes::DUPLICATE_KEY,
            self.place(key.span),
            format!("the key `{}` stands twice in this mapping", key.text),
        );
        self.push(
            diagnostic
                .help("keep one of the two")
                .related(first, "the first one"),
        );
        Next::Nothing
    }

    /// Reports a tag. The answer is the word, if it may have been meant as a text, such as `!open`.
    fn refuse_tag(&mut self, tag: Option<&Tag>, span: Span) -> Option<String> {
        tag?;
        let rest = &self.text[span.start..];
        let at = span.start + rest.find('!').unwrap_or(0);
        let line = self.text[at..].lines().next().unwrap_or_default();
        let word = line.split_whitespace().next().unwrap_or_default();
        let help = if word.starts_with("!!") {
            "remove it; to get a text, quote the value".to_owned()
        } else {
            format!(
                "quote the whole value if the `!` belongs to it: '{}'",
                line.trim().replace('\'', "''")
            )
        };
        self.error(
            codes::TAG,
            Span::new(at, at + word.len()),
            format!("`{word}` is a YAML tag, and tags are not used here"),
            help,
        );
        (!word.starts_with("!!")).then(|| word.trim_end_matches([',', ']', '}']).to_owned())
    }

    fn place(&self, span: Span) -> Place {
        Place {
            file: self.file.clone(),
            span: fault::borders(&self.file.text, span),
        }
    }

    fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.place(span);
        self.push(Diagnostic::error(code, place, message).help(help));
    }

    fn warn(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.place(span);
        self.push(Diagnostic::warning(code, place, message).help(help));
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        self.told += 1;
        if self.told < FINDINGS_MAX {
            self.findings.push(diagnostic);
        } else if !self.over {
            self.over = true;
            let message =
                format!("the file has {FINDINGS_MAX} mistakes or more; the rest is not read");
            self.findings
                .push(Diagnostic::error(codes::LIMIT, diagnostic.place, message));
        }
    }

    /// An error after which nothing more is read.
    fn stop(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.error(code, span, message, help);
        self.over = true;
    }
}

fn null(span: Span) -> Node {
    Node {
        span,
        data: Data::Null,
    }
}

/// Whether the core schema takes the text for a number.
fn is_number(text: &str) -> bool {
    if let Some(digits) = text.strip_prefix("0x") {
        return !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !unsigned.is_empty() && digits(unsigned)
    });
    (!whole.is_empty() || !fraction.is_empty())
        && digits(whole)
        && digits(fraction)
        && exponent_fits
}

/// Whether a value that ends before ` #` seems to go on behind it: open brackets or quotes, or an operator at its end.
fn is_cut(value: &str) -> bool {
    let mut open = 0_i32;
    let mut quote = None;
    for character in value.chars() {
        match (quote, character) {
            (Some(quoted), _) if quoted == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(character),
            (None, '[' | '(' | '{') => open += 1,
            (None, ']' | ')' | '}') => open -= 1,
            _ => {}
        }
    }
    // An apostrophe within a word (`it's`) is no quote.
    let quoted = quote.is_some_and(|quote| {
        value.contains(&format!(" {quote}")) || value.contains(&format!("({quote}"))
    });
    let operator = ["==", "!=", "&&", "||", "<", ">", "|", "(", "[", ","]
        .iter()
        .any(|operator| value.ends_with(operator));
    open > 0 || quoted || operator
}
