//! Answers that come in pages: where the next page is. It asks for nothing itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::component::words::ExpressionText;
use crate::component::{Build, codes};
use crate::expression::{Expression, Scope, Tables};
use crate::failure::{Class, Failure};
use crate::system::System;
use crate::system::request::Answered;

/// How an answer that comes in pages goes on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Paging {
    /// Pages have numbers.
    Page(Numbers),
    /// An answer holds the token of the next page.
    Cursor(Token),
    /// An answer's `Link` header leads to the next page.
    Link(Link),
}

/// Pages with numbers. A page that is not full, or empty where no size is known, is the last one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    /// The query parameter that takes the page's number.
    pub param: String,
    /// The query parameter that takes the size.
    pub size_param: Option<String>,
    /// How many items a full page has.
    #[schemars(range(min = 1))]
    pub size: Option<u32>,
    /// The number of the first page. Default 1.
    pub first: Option<u64>,
}

/// An answer holds the token of the next page.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The token in an answer, such as `meta.next_cursor`; null or empty after the last page.
    pub next: ExpressionText,
    /// The query parameter that takes it.
    pub param: String,
}

/// The `Link` header with `rel="next"` leads to the next page, on the same system.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {}

/// Where the next page is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Next {
    /// At this number.
    Page(u64),
    /// Behind this token.
    Token(String),
    /// At this path.
    Path(String),
}

/// Paging that is ready.
pub(super) enum Pages {
    One,
    Numbers(Numbers),
    Token {
        next: Box<Expression>,
        param: String,
    },
    Link,
}

impl Pages {
    pub(super) fn build(paging: Option<&Paging>, cx: &mut Build<'_>) -> Option<Pages> {
        Some(match paging {
            None => Pages::One,
            Some(Paging::Link(_)) => Pages::Link,
            Some(Paging::Page(numbers)) => {
                if numbers.size_param.is_some() && numbers.size.is_none() {
                    cx.error(
                        codes::CONFLICTING_SETTINGS,
                        &["paging", "page", "size_param"],
                        "`size_param` needs a `size`",
                        "add `size: 100`, or remove `size_param`",
                    );
                }
                Pages::Numbers(numbers.clone())
            }
            Some(Paging::Cursor(token)) => Pages::Token {
                next: Box::new(cx.expression(&["paging", "cursor", "next"], &token.next.0)?),
                param: token.param.clone(),
            },
        })
    }

    /// The path of a page; the first one without `next`.
    pub(super) fn path(&self, first: &str, next: Option<&Next>) -> String {
        if let Some(Next::Path(path)) = next {
            return path.clone();
        }
        match self {
            Pages::One | Pages::Link => first.to_owned(),
            Pages::Numbers(numbers) => {
                let page = match next {
                    Some(Next::Page(page)) => *page,
                    _ => numbers.first.unwrap_or(1),
                };
                let path = with_parameter(first, &numbers.param, &page.to_string());
                match (&numbers.size_param, numbers.size) {
                    (Some(param), Some(size)) => with_parameter(&path, param, &size.to_string()),
                    _ => path,
                }
            }
            Pages::Token { param, .. } => match next {
                Some(Next::Token(token)) => with_parameter(first, param, token),
                _ => first.to_owned(),
            },
        }
    }

    /// Where the page after this one is, if there is one.
    pub(super) fn next(
        &self,
        system: &System,
        path: &str,
        answered: &Answered,
        items: usize,
        now: Option<&Next>,
    ) -> Result<Option<Next>, Failure> {
        match self {
            Pages::One => Ok(None),
            Pages::Numbers(numbers) => {
                let page = match now {
                    Some(Next::Page(page)) => *page,
                    _ => numbers.first.unwrap_or(1),
                };
                let full = numbers.size.map_or(1, |size| size as usize);
                Ok((items >= full).then_some(Next::Page(page + 1)))
            }
            Pages::Token { next, .. } => {
                let tables = Tables::default();
                let token = next
                    .evaluate(&Scope::bare(answered.body.document()?, &tables))?
                    .to_text();
                let token = token.filter(|token| !token.is_empty()).map(Next::Token);
                if token.is_some() && token.as_ref() == now {
                    return Err(Failure::new(
                        Class::Config,
                        format!(
                            "{} gives the token of the same page again at {path}",
                            system.name()
                        ),
                    ));
                }
                Ok(token)
            }
            Pages::Link => {
                let link = answered
                    .headers
                    .iter()
                    .filter(|(name, _)| name == "link")
                    .find_map(|(_, value)| next_link(value));
                let Some(link) = link else { return Ok(None) };
                let to = below(system, path, link).ok_or_else(|| {
                    Failure::new(
                        Class::Config,
                        format!(
                            "{} has its next page elsewhere, at {link}; that is not followed",
                            system.name()
                        ),
                    )
                })?;
                Ok(Some(Next::Path(to)))
            }
        }
    }
}

fn with_parameter(path: &str, name: &str, value: &str) -> String {
    let sign = if path.contains('?') { '&' } else { '?' };
    format!("{path}{sign}{}={}", escaped(name), escaped(value))
}

/// Percent-encoded for a query: all but letters, digits and `-._~`.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// The target of `rel="next"` in a `Link` header.
fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, begun)) = rest.split_once('<') {
        let (target, after) = begun.split_once('>')?;
        let (parameters, behind) = after.split_at(unquoted(after, ',').unwrap_or(after.len()));
        if is_next(parameters) {
            return Some(target);
        }
        rest = behind;
    }
    None
}

/// Whether the parameters of a link say that it is the next page.
fn is_next(parameters: &str) -> bool {
    let mut rest = parameters;
    loop {
        let (parameter, behind) = rest.split_at(unquoted(rest, ';').unwrap_or(rest.len()));
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let mut words = value.trim().trim_matches('"').split(' ');
        if name.trim().eq_ignore_ascii_case("rel")
            && words.any(|word| word.eq_ignore_ascii_case("next"))
        {
            return true;
        }
        match behind.get(1..) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
}

/// Where a sign first stands outside of quotes.
fn unquoted(text: &str, sign: char) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(at, letter)| {
        quoted ^= letter == '"';
        (letter == sign && !quoted).then_some(at)
    })
}

/// The path below the system's base URL that a link leads to; links may be relative.
fn below(system: &System, path: &str, link: &str) -> Option<String> {
    if link.starts_with("http://") || link.starts_with("https://") {
        return system.path_of(link);
    }
    if link.starts_with('?') {
        return Some(format!("{}{link}", path.split('?').next().unwrap_or(path)));
    }
    let base = system.base_url();
    let host_end = base
        .find("://")
        .map(|at| at + 3)
        .and_then(|from| base[from..].find('/').map(|at| from + at));
    let origin = &base[..host_end.unwrap_or(base.len())];
    (link.starts_with('/') && !link.starts_with("//"))
        .then(|| system.path_of(&format!("{origin}{link}")))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_headers_are_read() {
        for (header, expect) in [
            (
                "<https://a/x?page=2>; rel=\"next\"",
                Some("https://a/x?page=2"),
            ),
            (
                "<https://a/1>; rel=\"prev\", <https://a/3,4>; rel=\"next\"",
                Some("https://a/3,4"),
            ),
            ("</x>; title=\"a, <b>\"; rel=next", Some("/x")),
            ("<a>; rel=\"last next\"", Some("a")),
            ("<a>; rel=\"first\",<b>; rel=\"last\"", None),
            ("nonsense", None),
        ] {
            assert_eq!(next_link(header), expect, "{header}");
        }
    }

    #[test]
    fn parameters_are_escaped() {
        assert_eq!(
            with_parameter("/a?b=1", "cursor", "x&y=1 z"),
            "/a?b=1&cursor=x%26y%3D1%20z"
        );
        assert_eq!(with_parameter("/a", "page", "2"), "/a?page=2");
    }
}
