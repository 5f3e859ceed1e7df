//! What is sent of a message: the whole body, a mapping of it, or an expression over it; with its media type. It sends nothing.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::component::words::ExpressionText;
use crate::component::{Build, Context, codes};
use crate::expression::{Expression, Scope};
use crate::failure::Failure;
use crate::mapping::Mapping;
use crate::message::Message;

/// What the config says.
pub(crate) struct Given<'c> {
    /// The mapping that makes the body.
    pub(crate) map: Option<&'c str>,
    /// The body, as an expression.
    pub(crate) body: Option<&'c ExpressionText>,
    /// The media type.
    pub(crate) content_type: Option<&'c str>,
}

/// What is sent.
pub(crate) enum Content {
    /// Nothing.
    Nothing,
    /// The body as it is.
    Whole(String),
    /// What a mapping makes of it.
    Mapped(Arc<Mapping>, String),
    /// What an expression gives.
    Value(Expression, String),
}

impl Given<'_> {
    /// Checks what the config says. `bare`: where nothing is said nothing is sent.
    pub(crate) fn build(&self, cx: &mut Build<'_>, bare: bool) -> Option<Content> {
        let media_type = self.content_type.unwrap_or("application/json").to_owned();
        if HeaderValue::from_str(&media_type).is_err() {
            let help = "write it like `application/json`";
            let message = "a header cannot carry this media type";
            cx.error(codes::BAD_VALUE, &["content_type"], message, help);
        }
        match (self.map, self.body) {
            (Some(_), Some(_)) => {
                let message = "`map` and `body` are two bodies";
                cx.error(
                    codes::CONFLICTING_SETTINGS,
                    &["body"],
                    message,
                    "keep one of them",
                );
                None
            }
            (Some(map), None) => {
                let mapping = cx.mapping_here(&["map"], map)?;
                Some(Content::Mapped(mapping, media_type))
            }
            (None, Some(body)) => {
                let expression = cx.expression(&["body"], &body.0)?;
                Some(Content::Value(expression, media_type))
            }
            (None, None) if bare => Some(Content::Nothing),
            (None, None) => Some(Content::Whole(media_type)),
        }
    }
}

impl Content {
    /// The bytes for a message, and their media type.
    pub(crate) fn render(
        &self,
        message: &Message,
        cx: &Context<'_>,
    ) -> Result<Option<(Bytes, &str)>, Failure> {
        Ok(match self {
            Content::Nothing => None,
            Content::Whole(media_type) => Some((message.body.bytes().clone(), media_type)),
            Content::Mapped(mapping, media_type) => {
                let scope = Scope::of(message, cx.tables)?.with_site(cx.step);
                let body = mapping.apply_scope(scope)?;
                Some((body.bytes().clone(), media_type))
            }
            Content::Value(expression, media_type) => {
                let scope = cx.scope(message, expression)?;
                let body = expression.evaluate(&scope)?.to_body();
                Some((body.bytes().clone(), media_type))
            }
        })
    }
}
