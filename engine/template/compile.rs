//! handlebars' syntax tree -> pieces. What has no meaning here (partials, decorators, unknown words) is a fault with its place.

use handlebars::template::{HelperTemplate, Parameter, Template as Parsed, TemplateElement};
use handlebars::{Path, TemplateErrorReason};

use super::{Expr, Loop, NamedPath, Piece, Root, TEMPLATE_BYTES_MAX, Template, TemplateFault};

/// How deep blocks may nest.
const BLOCKS_DEEP_MAX: usize = 16;
/// How deep brackets may nest within one pair of braces.
const BRACKETS_DEEP_MAX: usize = 8;
/// The words that work on values.
const WORDS: &str = "eq, ne, and, or, not, len";

pub(super) fn template(text: &str) -> Result<Template, TemplateFault> {
    refuse_hostile(text)?;
    let parsed = Parsed::compile(text).map_err(|error| syntax_fault(text, &error))?;
    let mut compiler = Compiler {
        text,
        at: 0,
        blocks: Vec::new(),
        paths: Vec::new(),
        optional: false,
    };
    let pieces = compiler.pieces(&parsed)?;
    Ok(Template {
        pieces,
        paths: compiler.paths,
    })
}

/// The parser is recursive; what would be too deep for it is refused before.
fn refuse_hostile(text: &str) -> Result<(), TemplateFault> {
    if text.len() > TEMPLATE_BYTES_MAX {
        let message = format!(
            "the template has {} bytes, the limit is {TEMPLATE_BYTES_MAX}",
            text.len()
        );
        return Err(fault(message, 0, 0));
    }
    let bytes = text.as_bytes();
    let (mut blocks, mut brackets, mut inside) = (0_usize, 0_usize, false);
    for at in 0..bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"{{") {
            inside = true;
            brackets = 0;
            let sign = rest[2..].iter().take(8).find(|byte| !b"{~ ".contains(byte));
            match sign {
                Some(b'#' | b'^') => blocks += 1,
                Some(b'/') => blocks = blocks.saturating_sub(1),
                _ => {}
            }
        } else if rest.starts_with(b"}}") {
            inside = false;
        } else if inside && b"([".contains(&bytes[at]) {
            brackets += 1;
        } else if inside && b")]".contains(&bytes[at]) {
            brackets = brackets.saturating_sub(1);
        }
        if blocks > BLOCKS_DEEP_MAX {
            let message = format!("blocks nest deeper than {BLOCKS_DEEP_MAX} levels");
            return Err(fault(message, at, at + 2));
        }
        if brackets > BRACKETS_DEEP_MAX {
            let message = format!("brackets nest deeper than {BRACKETS_DEEP_MAX} levels");
            return Err(fault(message, at, at + 1));
        }
    }
    Ok(())
}

fn syntax_fault(text: &str, error: &handlebars::TemplateError) -> TemplateFault {
    if let Some(open) = unclosed(text) {
        return fault("`{{` is not closed with `}}`", open, text.len());
    }
    let at = error.pos().map_or(0, |(line, column)| {
        offset(text, line, column.saturating_sub(1))
    });
    let at = text[..at].rfind("{{").unwrap_or(at);
    let end = text[at..].find("}}").map_or(text.len(), |end| at + end + 2);
    let message = match error.reason() {
        TemplateErrorReason::MismatchingClosedHelper(opened, closed) => {
            format!("`{{{{#{opened}}}}}` is closed by `{{{{/{closed}}}}}`")
        }
        _ if text[at..].starts_with("{{#") || text[at..].starts_with("{{/") => {
            "a block is opened and not closed, or closed and not opened".to_owned()
        }
        _ => "this is no handlebars expression".to_owned(),
    };
    fault(message, at, end)
}

fn unclosed(text: &str) -> Option<usize> {
    let open = text.rfind("{{")?;
    (!text[open..].contains("}}")).then_some(open)
}

/// The byte of a line (from 1) and a column (from 0, in characters).
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = text.get(start..).unwrap_or_default();
    start
        + rest
            .char_indices()
            .nth(column)
            .map_or(rest.len(), |(at, _)| at)
}

fn fault(message: impl Into<String>, start: usize, end: usize) -> TemplateFault {
    TemplateFault {
        message: message.into(),
        start,
        end,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Each,
    With,
}

struct Compiler<'a> {
    text: &'a str,
    /// How far the template's text has been gone through; paths are found from here on.
    at: usize,
    blocks: Vec<Block>,
    paths: Vec<NamedPath>,
    /// Whether the next paths may lead nowhere, as in `if`.
    optional: bool,
}

impl Compiler<'_> {
    fn pieces(&mut self, parsed: &Parsed) -> Result<Vec<Piece>, TemplateFault> {
        let mut pieces = Vec::with_capacity(parsed.elements.len());
        for element in &parsed.elements {
            match element {
                TemplateElement::RawString(text) => pieces.push(Piece::Text(text.clone())),
                TemplateElement::Comment(_) => self.past("}}"),
                TemplateElement::Expression(value) => pieces.push(self.value(value, false)?),
                TemplateElement::HtmlExpression(value) => pieces.push(self.value(value, true)?),
                TemplateElement::HelperBlock(block) => pieces.push(self.block(block)?),
                TemplateElement::PartialExpression(_) | TemplateElement::PartialBlock(_) => {
                    return Err(self.here("partials (`{{> name}}`) are not supported"));
                }
                _ => return Err(self.here("decorators (`{{* name}}`) are not supported")),
            }
        }
        Ok(pieces)
    }

    fn value(&mut self, value: &HelperTemplate, raw: bool) -> Result<Piece, TemplateFault> {
        let expr = self.call(value)?;
        self.past("}}");
        Ok(Piece::Value { expr, raw })
    }

    fn block(&mut self, block: &HelperTemplate) -> Result<Piece, TemplateFault> {
        let name = block.name.as_name().unwrap_or_default();
        if block.block_param.is_some() {
            return Err(self.here("names for items (`as |x|`) are not supported; use `this`"));
        }
        let around = match name {
            "each" => Some(Block::Each),
            "with" => Some(Block::With),
            "if" | "unless" => None,
            _ => {
                let message =
                    format!("there is no block `#{name}`; there are if, unless, each, with");
                return Err(self.here(&message));
            }
        };
        let [param] = block.params.as_slice() else {
            return Err(self.here(&format!("`#{name}` takes one value")));
        };
        let optional = matches!(name, "if" | "unless") || block.inverse.is_some();
        let expr = self.optionally(optional, |compiler| compiler.param(param))?;
        self.past("}}");
        self.blocks.extend(around);
        let body = self.branch(block.template.as_ref())?;
        if around.is_some() {
            self.blocks.pop();
        }
        let otherwise = match &block.inverse {
            Some(inverse) => Some(self.pieces(inverse)?),
            None => None,
        };
        self.past("}}");
        Ok(match name {
            "each" => Piece::Each {
                list: expr,
                body,
                otherwise,
            },
            "with" => Piece::With {
                value: expr,
                body,
                otherwise,
            },
            "if" => Piece::If {
                expr,
                then: body,
                otherwise: otherwise.unwrap_or_default(),
            },
            _ => Piece::If {
                expr,
                then: otherwise.unwrap_or_default(),
                otherwise: body,
            },
        })
    }

    fn branch(&mut self, template: Option<&Parsed>) -> Result<Vec<Piece>, TemplateFault> {
        template.map_or(Ok(Vec::new()), |template| self.pieces(template))
    }

    fn optionally<T>(&mut self, optional: bool, f: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.optional;
        self.optional |= optional;
        let result = f(self);
        self.optional = before;
        result
    }

    fn param(&mut self, param: &Parameter) -> Result<Expr, TemplateFault> {
        match param {
            Parameter::Name(name) => self.path(name),
            Parameter::Path(Path::Relative((_, raw)) | Path::Local((_, _, raw))) => self.path(raw),
            Parameter::Subexpression(inner) => match inner.as_element() {
                TemplateElement::Expression(call) => self.call(call),
                _ => Err(self.here("this cannot stand in parentheses")),
            },
            Parameter::Literal(value) => Ok(match value {
                serde_json::Value::Null => Expr::Null,
                serde_json::Value::Bool(value) => Expr::Bool(*value),
                serde_json::Value::Number(number) => Expr::Number(number.to_string()),
                serde_json::Value::String(text) => Expr::Text(text.clone()),
                _ => return Err(self.here("lists and objects cannot be written here")),
            }),
            _ => Err(self.here("this cannot stand here")),
        }
    }

    /// A path alone, or a word with values: `(eq status "open")`.
    fn call(&mut self, call: &HelperTemplate) -> Result<Expr, TemplateFault> {
        if !call.hash.is_empty() {
            return Err(self.here("named values (`name=value`) are not supported"));
        }
        if call.params.is_empty() {
            return self.param(&call.name);
        }
        let name = call.name.as_name().unwrap_or_default();
        let mut values = self.optionally(true, |compiler| {
            call.params
                .iter()
                .map(|param| compiler.param(param))
                .collect::<Result<Vec<_>, _>>()
        })?;
        let count = values.len();
        Ok(match (name, count) {
            ("and", 2..) => Expr::And(values),
            ("or", 2..) => Expr::Or(values),
            ("not" | "len", 1) => {
                let value = Box::new(values.remove(0));
                if name == "not" {
                    Expr::Not(value)
                } else {
                    Expr::Length(value)
                }
            }
            ("eq" | "ne", 2) => {
                let second = Box::new(values.remove(1));
                let equal = Expr::Equal(Box::new(values.remove(0)), second);
                if name == "eq" {
                    equal
                } else {
                    Expr::Not(Box::new(equal))
                }
            }
            ("and" | "or" | "not" | "len" | "eq" | "ne", _) => {
                return Err(self.here(&format!("`{name}` takes another number of values")));
            }
            _ => {
                let message = format!("there is no word `{name}`; there are {WORDS}");
                return Err(self.here(&message));
            }
        })
    }

    fn path(&mut self, raw: &str) -> Result<Expr, TemplateFault> {
        let start = self.text[self.at..]
            .find(raw)
            .map_or(self.at, |found| self.at + found);
        let end = (start + raw.len()).min(self.text.len());
        let (root, segments) = self.root(raw, start, end)?;
        self.at = end;
        self.paths.push(NamedPath {
            root,
            segments,
            text: raw.to_owned(),
            start,
            end,
            required: !self.optional,
        });
        Ok(Expr::Path(self.paths.len() - 1))
    }

    fn root(
        &self,
        raw: &str,
        start: usize,
        end: usize,
    ) -> Result<(Root, Vec<String>), TemplateFault> {
        let (mut rest, mut up) = (raw, 0);
        if let Some(at_root) = rest.strip_prefix("@root") {
            return Ok((Root::Body, segments(at_root)));
        }
        let local = rest.starts_with('@');
        rest = rest.strip_prefix('@').unwrap_or(rest);
        rest = rest.strip_prefix("./").unwrap_or(rest);
        while let Some(outer) = rest.strip_prefix("../") {
            rest = outer;
            up += 1;
        }
        let mut parts = segments(rest);
        if local {
            let name = if parts.is_empty() {
                String::new()
            } else {
                parts.remove(0)
            };
            return Ok((self.context(&name, &parts, start, end)?, parts));
        }
        if parts.first().is_some_and(|part| part == "this") {
            parts.remove(0);
        }
        if let Some(name) = raw.strip_prefix('$') {
            let message = format!("a variable is written `{{{{@{name}}}}}` in a template");
            return Err(fault(message, start, end));
        }
        let root = match (self.blocks.len(), up) {
            (depth, up) if up > depth => {
                return Err(fault("`../` leads out of the template", start, end));
            }
            (depth, up) if up == depth => Root::Body,
            (_, 0) => Root::Item,
            (_, up) => Root::Outer(up),
        };
        Ok((root, parts))
    }

    fn context(
        &self,
        name: &str,
        parts: &[String],
        start: usize,
        end: usize,
    ) -> Result<Root, TemplateFault> {
        let looped = self.blocks.contains(&Block::Each) && parts.is_empty();
        let root = match name {
            "index" if looped => return Ok(Root::Loop(Loop::Index)),
            "first" if looped => return Ok(Root::Loop(Loop::First)),
            "last" if looped => return Ok(Root::Loop(Loop::Last)),
            "key" if looped => return Ok(Root::Loop(Loop::Key)),
            "today" => Root::Today,
            "received_at" => Root::ReceivedAt,
            "message_id" => Root::MessageId,
            "item" => Root::SplitKey,
            "header" | "key" if parts.len() != 1 => {
                let message = format!("name one: `{{{{@{name}.order}}}}`");
                return Err(fault(message, start, end));
            }
            "header" => Root::Header,
            "key" => Root::Key,
            _ => return Ok(Root::Variable(name.to_owned())),
        };
        let simple = !matches!(root, Root::Header | Root::Key);
        if simple && !parts.is_empty() {
            return Err(fault(format!("`@{name}` has no fields"), start, end));
        }
        Ok(root)
    }

    /// Goes on behind the next `sign`.
    fn past(&mut self, sign: &str) {
        if let Some(found) = self.text[self.at..].find(sign) {
            self.at += found + sign.len();
        }
    }

    /// A fault at the next pair of braces.
    fn here(&self, message: &str) -> TemplateFault {
        // Where a path of it has been read already, the braces begin before.
        let rest = &self.text[self.at..];
        let within = rest.find("}}") < rest.find("{{") || !rest.contains("{{");
        let start = if within {
            self.text[..self.at].rfind("{{").unwrap_or(self.at)
        } else {
            self.at + rest.find("{{").unwrap_or(0)
        };
        let end = self.text[start..]
            .find("}}")
            .map_or(self.text.len(), |found| start + found + 2);
        fault(message, start, end)
    }
}

/// The keys of a path: `a.b/c.[d e]`.
fn segments(path: &str) -> Vec<String> {
    let mut segments = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let close = inside.find(']').unwrap_or(inside.len());
            segments.push(inside[..close].to_owned());
            rest = inside.get(close + 1..).unwrap_or_default();
        } else {
            let end = rest.find(['.', '/', '[']).unwrap_or(rest.len());
            if end > 0 {
                segments.push(rest[..end].to_owned());
                rest = &rest[end..];
            } else {
                rest = &rest[1..];
            }
        }
    }
    segments
}
