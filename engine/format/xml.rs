//! XML <-> JSON by one convention. No DOCTYPE, no entities but the five of XML and characters by number, nothing fetched.
//!
//! The document is an object with one field, the root element. An element is an object: attributes are fields `@name`, child elements fields
//! by name, in a list where a name repeats (or where `lists` says so), text beside them is `#text`. An element with text alone is that text,
//! one with nothing at all is null. Namespace prefixes stay part of the names, unless `drop_prefixes` is set. Comments are dropped.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Broken, Document, Position, Whole, broken_file, text};
use crate::body::{Body, Item, Kind, write_string};
use crate::failure::{Class, Failure};

/// How deep elements may nest.
const DEPTH_MAX: usize = 100;
/// How many elements and attributes a document may have.
const NODES_MAX: usize = 500_000;

/// One XML document.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Xml {
    /// Paths of elements that are lists even if there is one: `order.lines.line`.
    pub lists: Vec<String>,
    /// Whether `ns:name` becomes `name`.
    pub drop_prefixes: bool,
    /// The element around what is written, where the document has no single field of its own.
    pub root: Option<String>,
    /// How many bytes a file may have.
    #[schemars(range(min = 1))]
    pub bytes_max: usize,
}

impl Default for Xml {
    fn default() -> Xml {
        Xml {
            lists: Vec::new(),
            drop_prefixes: false,
            root: None,
            bytes_max: 16 << 20,
        }
    }
}

/// Reads an XML file.
#[derive(Debug)]
pub struct Decoder {
    config: Xml,
    pub(super) whole: Whole,
    pub(super) position: Position,
    done: bool,
}

impl Decoder {
    pub(super) fn new(config: Xml, position: Position) -> Decoder {
        Decoder {
            whole: Whole::new(config.bytes_max),
            done: position.number > 0,
            config,
            position,
        }
    }

    pub(super) fn next(&mut self) -> Option<Result<Document, Box<Broken>>> {
        if self.done {
            return None;
        }
        let taken = self.whole.take()?;
        self.done = true;
        let result = taken
            .map_err(|failure| broken_file(failure, b""))
            .and_then(|bytes| {
                let json =
                    decode(&self.config, &bytes).map_err(|failure| broken_file(failure, &bytes))?;
                self.position.offset = bytes.len() as u64;
                self.position.number = 1;
                Ok(Document {
                    body: Body::new(json),
                    number: 1,
                    line: 1,
                    offset: 0,
                })
            });
        Some(result)
    }
}

/// An element while it is read.
#[derive(Default)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    /// Child elements by name, in the order in which the names first came.
    children: Vec<(String, Vec<Element>)>,
    /// Where each name stands among the children, once there are many.
    index: FxHashMap<String, usize>,
    text: String,
}

impl Element {
    fn push(&mut self, child: Element) {
        const INDEXED_FROM: usize = 16;
        let at = if self.children.len() < INDEXED_FROM {
            self.children
                .iter()
                .position(|(name, _)| *name == child.name)
        } else {
            self.index.get(&child.name).copied()
        };
        if let Some(at) = at {
            self.children[at].1.push(child);
            return;
        }
        self.children.push((child.name.clone(), vec![child]));
        if self.children.len() == INDEXED_FROM {
            self.index = self
                .children
                .iter()
                .enumerate()
                .map(|(at, (name, _))| (name.clone(), at))
                .collect();
        } else if self.children.len() > INDEXED_FROM {
            let at = self.children.len() - 1;
            self.index.insert(self.children[at].0.clone(), at);
        }
    }
}

fn decode(config: &Xml, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let (encoding, skip) = match text::marked(bytes) {
        Some(marked) => marked,
        None => (declared(bytes)?, 0),
    };
    let Some(source) = text::decode(encoding, &bytes[skip..]) else {
        return Err(Failure::parse(format!("not text in {}", encoding.name())));
    };
    let mut reader = Reader::from_str(&source);
    let mut parse = Parse {
        config,
        open: Vec::new(),
        root: None,
        nodes: 0,
    };
    loop {
        let event = reader.read_event();
        let step = match event {
            Ok(Event::Eof) => break,
            Ok(event) => parse.take(event),
            Err(error) => Err(Failure::parse(format!("not XML: {error}"))),
        };
        if let Err(mut failure) = step {
            let at =
                usize::try_from(reader.error_position().max(reader.buffer_position())).unwrap_or(0);
            let before = &source.as_bytes()[..at.min(source.len())];
            let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            failure.message = format!("line {line}: {}", failure.message);
            return Err(failure);
        }
    }
    if let Some(open) = parse.open.last() {
        return Err(Failure::parse(format!(
            "not XML: <{}> is not closed",
            cut(&open.name)
        )));
    }
    let Some(root) = parse.root else {
        return Err(Failure::parse("not XML: there is no element"));
    };
    let mut out = Vec::with_capacity(bytes.len());
    out.push(b'{');
    write_string(&mut out, &root.name);
    out.push(b':');
    let mut path = root.name.clone();
    write_element(config, &root, &mut path, &mut out);
    out.push(b'}');
    Ok(out)
}

/// The encoding that the XML declaration names.
fn declared(bytes: &[u8]) -> Result<&'static encoding_rs::Encoding, Failure> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    let name = head
        .strip_prefix("<?xml")
        .and_then(|head| head.split("?>").next())
        .and_then(|declaration| declaration.split_once("encoding"))
        .and_then(|(_, rest)| {
            let rest = rest.trim_start().strip_prefix('=')?.trim_start();
            let quote = rest
                .chars()
                .next()
                .filter(|quote| matches!(quote, '"' | '\''))?;
            rest[1..].split(quote).next().map(str::to_owned)
        });
    match name {
        None => Ok(encoding_rs::UTF_8),
        Some(name) => text::named(&name)
            .ok_or_else(|| Failure::parse(format!("the encoding `{}` is not known", cut(&name)))),
    }
}

struct Parse<'a> {
    config: &'a Xml,
    open: Vec<Element>,
    root: Option<Element>,
    nodes: usize,
}

impl Parse<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<(), Failure> {
        match event {
            Event::Start(start) => {
                let element = self.element(&start)?;
                if self.open.len() >= DEPTH_MAX {
                    return Err(Failure::parse(format!(
                        "elements nest deeper than {DEPTH_MAX} levels"
                    )));
                }
                self.open.push(element);
            }
            Event::Empty(start) => {
                let element = self.element(&start)?;
                self.close(element)?;
            }
            Event::End(_) => match self.open.pop() {
                Some(element) => self.close(element)?,
                None => {
                    return Err(Failure::parse(
                        "not XML: an element is closed that is not open",
                    ));
                }
            },
            Event::Text(text) => self.text(&text.xml10_content())?,
            Event::CData(text) => self.text(&text.xml10_content())?,
            Event::GeneralRef(reference) => {
                let character = reference
                    .resolve_char_ref()
                    .map_err(|error| Failure::parse(format!("not XML: {error}")))?;
                match character {
                    Some(character) => self.text(character.encode_utf8(&mut [0; 4]))?,
                    None => match quick_xml::escape::resolve_xml_entity(&reference) {
                        Some(text) => self.text(text)?,
                        None => {
                            return Err(Failure::parse(format!(
                                "the entity &{}; is not known",
                                cut(&reference)
                            )));
                        }
                    },
                }
            }
            Event::DocType(_) => {
                return Err(Failure::parse("a DOCTYPE is not allowed"));
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Eof => {}
        }
        Ok(())
    }

    fn element(&mut self, start: &BytesStart<'_>) -> Result<Element, Failure> {
        let mut element = Element {
            name: self.name(start.name().as_ref()),
            ..Element::default()
        };
        self.count()?;
        for attribute in start.attributes() {
            let attribute =
                attribute.map_err(|error| Failure::parse(format!("not XML: {error}")))?;
            let key = attribute.key.as_ref();
            if self.config.drop_prefixes && (key == "xmlns" || key.starts_with("xmlns:")) {
                continue;
            }
            self.count()?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| Failure::parse(format!("not XML: {error}")))?;
            refuse_control(&value)?;
            let name = self.name(key);
            if element.attributes.iter().any(|(known, _)| *known == name) {
                return Err(Failure::parse(format!(
                    "the attribute `{}` stands twice",
                    cut(&name)
                )));
            }
            element.attributes.push((name, value.into_owned()));
        }
        Ok(element)
    }

    fn name(&self, name: &str) -> String {
        match name.split_once(':') {
            Some((_, local)) if self.config.drop_prefixes => local.to_owned(),
            _ => name.to_owned(),
        }
    }

    fn count(&mut self) -> Result<(), Failure> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let message = format!("the document has more than {NODES_MAX} elements and attributes");
            return Err(Failure::new(Class::TooLarge, message));
        }
        Ok(())
    }

    fn close(&mut self, element: Element) -> Result<(), Failure> {
        match self.open.last_mut() {
            Some(parent) => parent.push(element),
            None if self.root.is_none() => self.root = Some(element),
            None => {
                return Err(Failure::parse(
                    "not XML: there is more than one root element",
                ));
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        refuse_control(text)?;
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => {
                return Err(Failure::parse(
                    "not XML: text stands outside of the root element",
                ));
            }
        }
        Ok(())
    }
}

fn refuse_control(text: &str) -> Result<(), Failure> {
    let control = text.chars().find(|c| {
        (*c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{FFFE}' | '\u{FFFF}')
    });
    match control {
        Some(control) => Err(Failure::parse(format!(
            "the character U+{:04X} is not allowed in XML",
            control as u32
        ))),
        None => Ok(()),
    }
}

fn write_element(config: &Xml, element: &Element, path: &mut String, out: &mut Vec<u8>) {
    let text = if element.children.is_empty() {
        element.text.as_str()
    } else {
        element.text.trim()
    };
    if element.attributes.is_empty() && element.children.is_empty() {
        if text.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            write_string(out, text);
        }
        return;
    }
    out.push(b'{');
    let begin = out.len();
    let comma = |out: &mut Vec<u8>| {
        if out.len() > begin {
            out.push(b',');
        }
    };
    for (name, value) in &element.attributes {
        comma(out);
        write_string(out, &format!("@{name}"));
        out.push(b':');
        write_string(out, value);
    }
    for (name, children) in &element.children {
        comma(out);
        write_string(out, name);
        out.push(b':');
        let length = path.len();
        path.push('.');
        path.push_str(name);
        let list = children.len() > 1 || config.lists.iter().any(|list| list == path);
        if list {
            out.push(b'[');
        }
        for (at, child) in children.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_element(config, child, path, out);
        }
        if list {
            out.push(b']');
        }
        path.truncate(length);
    }
    let meant = !element.children.is_empty() || !text.trim().is_empty();
    if meant && !text.is_empty() {
        comma(out);
        write_string(out, "#text");
        out.push(b':');
        write_string(out, text);
    }
    out.push(b'}');
}

impl Xml {
    /// Writes a document: an object with one field, or anything below `root`.
    pub(super) fn encode(&self, document: Item<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
        out.extend_from_slice(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        if let Some(root) = &self.root {
            return write_node(root, document, out);
        }
        let mut entries = document.entries();
        match (entries.next(), entries.next()) {
            (Some((name, value)), None) if value.kind() != Kind::List => {
                write_node(&name.as_str().unwrap_or_default(), value, out)
            }
            _ => Err(Failure::mapping(
                "XML needs an object with one field, the root element, or the setting `root`",
            )),
        }
    }
}

fn write_node(name: &str, value: Item<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
    if value.kind() == Kind::List {
        return value
            .items()
            .try_for_each(|item| write_node(name, item, out));
    }
    check_name(name)?;
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    let mut text: Option<Item<'_>> = None;
    let mut children = Vec::new();
    if value.kind() == Kind::Object {
        for (key, field) in value.entries() {
            let key = key.as_str().unwrap_or_default();
            if let Some(attribute) = key.strip_prefix('@') {
                check_name(attribute)?;
                if matches!(field.kind(), Kind::List | Kind::Object) {
                    let message =
                        format!("the attribute `{}` needs a single value", cut(attribute));
                    return Err(Failure::mapping(message));
                }
                if !field.is_null() {
                    out.push(b' ');
                    out.extend_from_slice(attribute.as_bytes());
                    out.extend_from_slice(b"=\"");
                    write_text(field, out)?;
                    out.push(b'"');
                }
            } else if key == "#text" {
                text = Some(field);
            } else {
                children.push((key, field));
            }
        }
    } else if !value.is_null() {
        text = Some(value);
    }
    if text.is_none() && children.is_empty() {
        out.extend_from_slice(b"/>");
        return Ok(());
    }
    out.push(b'>');
    if let Some(text) = text {
        write_text(text, out)?;
    }
    for (key, field) in children {
        write_node(&key, field, out)?;
    }
    out.extend_from_slice(format!("</{name}>").as_bytes());
    Ok(())
}

fn write_text(value: Item<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
    match value.kind() {
        Kind::Null => {}
        Kind::String => {
            let text = value.as_str().unwrap_or_default();
            refuse_control(&text).map_err(|failure| Failure::mapping(failure.message))?;
            for character in text.chars() {
                match character {
                    '<' => out.extend_from_slice(b"&lt;"),
                    '>' => out.extend_from_slice(b"&gt;"),
                    '&' => out.extend_from_slice(b"&amp;"),
                    '"' => out.extend_from_slice(b"&quot;"),
                    // A reader would make these spaces or line feeds.
                    '\r' | '\n' | '\t' => {
                        out.extend_from_slice(format!("&#{};", character as u32).as_bytes());
                    }
                    other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        Kind::Bool | Kind::Number => out.extend_from_slice(value.raw().as_bytes()),
        Kind::List | Kind::Object => {
            return Err(Failure::mapping("`#text` needs a single value"));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Failure> {
    let fits = |c: char, first: bool| {
        c.is_alphabetic() || c == '_' || (!first && (c.is_numeric() || "-.:".contains(c)))
    };
    let good = name.chars().enumerate().all(|(at, c)| fits(c, at == 0)) && !name.is_empty();
    if good {
        Ok(())
    } else {
        Err(Failure::mapping(format!(
            "`{}` is no name for an XML element or attribute",
            cut(name)
        )))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}
