//! The step `set`: headers, variables and a new body, from expressions.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::words::ExpressionText;
use crate::component::{Build, Context, Outcome, Part, Pure, codes};
use crate::expression::Expression;
use crate::failure::Failure;
use crate::message::Message;

/// Sets headers, variables and the body. All expressions see the message as it was before the step.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Headers by name; a null takes the header away.
    #[serde(default)]
    pub headers: BTreeMap<String, ExpressionText>,
    /// Variables by name without `$`; later expressions see them as `$name`.
    #[serde(default)]
    pub variables: BTreeMap<String, ExpressionText>,
    /// The new body.
    pub body: Option<ExpressionText>,
}

impl Part for Set {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: remember
  set:
    headers: { x-order: orderNumber }
    variables: { warehouse: \"not_null(warehouse, 'MAIN')\" }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        if self.headers.is_empty() && self.variables.is_empty() && self.body.is_none() {
            let help = "give `headers`, `variables` or `body`";
            cx.error(codes::BAD_VALUE, &[], "nothing is set", help);
            return None;
        }
        let mut headers = Some(Vec::new());
        for (name, text) in &self.headers {
            let path = &["headers", name.as_str()];
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                let message = format!("`{name}` is no header name");
                cx.error(
                    codes::BAD_VALUE,
                    path,
                    message,
                    "use letters, digits and hyphens",
                );
            }
            let value = cx.expression(path, &text.0);
            collect(&mut headers, Arc::from(name.to_ascii_lowercase()), value);
        }
        let mut variables = Some(Vec::new());
        for (name, text) in &self.variables {
            let path = &["variables", name.as_str()];
            if !is_name(name) {
                let message = format!("`{name}` cannot be the name of a variable");
                let help = "begin with a letter, then letters, digits and `_`";
                cx.error(codes::BAD_VALUE, path, message, help);
            }
            let value = cx.expression(path, &text.0);
            collect(&mut variables, Arc::from(name.as_str()), value);
        }
        let body = match &self.body {
            Some(text) => Some(cx.expression(&["body"], &text.0)?),
            None => None,
        };
        cx.variables.extend(self.variables.keys().cloned());
        Some(Ready::Pure(Box::new(Setting {
            headers: headers?,
            variables: variables?,
            body,
        })))
    }
}

type Named = (Arc<str>, Expression);

fn collect(all: &mut Option<Vec<Named>>, name: Arc<str>, value: Option<Expression>) {
    match value {
        Some(value) => {
            if let Some(all) = all {
                all.push((name, value));
            }
        }
        None => *all = None,
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

struct Setting {
    headers: Vec<Named>,
    variables: Vec<Named>,
    body: Option<Expression>,
}

impl Pure for Setting {
    fn apply(&self, message: Message, cx: &Context<'_>) -> Result<Outcome, Failure> {
        let mut next = message.clone();
        for (name, expression) in &self.headers {
            let scope = cx.scope(&message, expression)?;
            let value = expression.evaluate(&scope)?;
            if value.is_null() {
                Arc::make_mut(&mut next.headers).remove(name);
                continue;
            }
            let text = value.to_text();
            let Some(text) = text.filter(|text| HeaderValue::from_str(text).is_ok()) else {
                let message = format!(
                    "the header {name} takes text without line breaks, not {}",
                    value.type_name()
                );
                return Err(Failure::mapping(message));
            };
            next.set_header(name, text);
        }
        for (name, expression) in &self.variables {
            let scope = cx.scope(&message, expression)?;
            next.bind(name.clone(), expression.evaluate(&scope)?.to_body());
        }
        if let Some(expression) = &self.body {
            let scope = cx.scope(&message, expression)?;
            next.body = expression.evaluate(&scope)?.to_body();
        }
        Ok(Outcome::Goes(next))
    }
}

#[cfg(test)]
mod tests {
    use crate::failure::Class;
    use crate::step::bench::Bench;

    #[test]
    fn headers_variables_and_body_are_set_at_once() {
        let bench = Bench::new();
        let mut message = bench.message(r#"{"n": 1.50, "old": "x"}"#);
        message.set_header("x-gone", "1");
        let step = "set:\n  headers: { X-N: n, x-gone: missing }\n  variables: { a: n, b: old }\n  body: '{m: n}'\n";
        let next = bench.goes(step, message);
        assert_eq!(next.body.bytes(), &r#"{"m":1.50}"#);
        assert_eq!(next.headers.get("x-n").unwrap(), "1.50");
        assert!(!next.headers.contains_key("x-gone"));
        assert_eq!(next.variables.get("a").unwrap().bytes(), &"1.50");
        assert_eq!(next.variables.get("b").unwrap().bytes(), &"\"x\"");
    }

    #[test]
    fn what_no_header_can_carry_fails() {
        let failure = Bench::new().fails("set: { headers: { a: n } }", r#"{"n": [1]}"#);
        assert_eq!(failure.class, Class::Mapping);
    }

    #[test]
    fn mistakes_are_found() {
        let bench = Bench::new();
        bench.finds("set: {}", &["bad-value:1:6"]);
        bench.finds("set: { variables: { 1x: a } }", &["bad-value:1:25"]);
        bench.finds("set: { variables: { a: $b } }", &["unknown-variable:1:24"]);
    }
}
