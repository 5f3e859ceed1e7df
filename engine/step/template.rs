//! The step `template`: a text from a template becomes the body or a variable.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use super::lookup::text;
use crate::body::Body;
use crate::component::words::TemplateText;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::failure::Failure;
use crate::message::Message;
use crate::template;

/// Makes a text by a template: the new body, or with `into` beside the step a variable.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The template: `Order {{orderNumber}} of {{customer.name}}`.
    pub text: TemplateText,
    /// What values must not break out of. Default `none`.
    #[serde(default)]
    pub escape: Escape,
}

/// What values in a text must not break out of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Escape {
    /// Plain text.
    #[default]
    None,
    /// HTML text, or an attribute in quotes.
    Html,
    /// A string in JSON.
    Json,
    /// A field of a CSV line.
    Csv,
    /// A value in the query of an address.
    Url,
}

impl Part for Template {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: note
  template: { text: \"Order {{orderNumber}} waits for its credit check\" }
  into: note
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let template = cx.template(&["text"], &self.text.0)?;
        let into = cx.common.into.as_deref();
        let into = into.map(|name| name.trim_start_matches('$').to_owned());
        cx.variables.extend(into.clone());
        Some(Ready::Pure(Box::new(Rendering {
            template,
            escape: match self.escape {
                Escape::None => template::Escape::None,
                Escape::Html => template::Escape::Html,
                Escape::Json => template::Escape::Json,
                Escape::Csv => template::Escape::Csv,
                Escape::Url => template::Escape::UrlQuery,
            },
            into: into.map(Arc::from),
        })))
    }
}

struct Rendering {
    template: template::Template,
    escape: template::Escape,
    into: Option<Arc<str>>,
}

impl Pure for Rendering {
    fn apply(&self, mut message: Message, _: &Context<'_>) -> Result<Outcome, Failure> {
        let rendered = self.template.render(&message, self.escape)?;
        match &self.into {
            Some(name) => message.bind(name.clone(), text(&rendered)),
            None => message.body = Body::new(rendered),
        }
        Ok(Outcome::Goes(message))
    }
}

#[cfg(test)]
mod tests {
    use crate::failure::Class;
    use crate::step::bench::Bench;

    #[test]
    fn a_text_becomes_the_body_or_a_variable() {
        let bench = Bench::new();
        let entry = "template: { text: 'Order {{n}} of {{@key.order}}' }";
        bench.check(entry, r#"{"n": 1.50}"#, "Order 1.50 of SO-1");
        let next = bench.goes(
            &format!("{entry}\ninto: note\n"),
            bench.message(r#"{"n": "\""}"#),
        );
        assert_eq!(
            next.variables.get("note").unwrap().bytes(),
            &r#""Order \" of SO-1""#
        );
        bench.check(
            "template: { text: '<p>{{n}}</p>', escape: html }",
            r#"{"n": "<b>"}"#,
            "<p>&lt;b&gt;</p>",
        );
        assert_eq!(bench.fails(entry, "{}").class, Class::Mapping);
    }

    #[test]
    fn names_must_be_known() {
        let bench = Bench::new();
        bench.finds(
            "template: { text: '{{@note}}' }",
            &["unknown-variable:1:22"],
        );
        bench.finds("template: { text: '{{@key.ordr}}' }", &["unknown-key:1:22"]);
        bench.finds("template: { text: '{{n' }", &["bad-template:1:20"]);
    }
}
