//! The step `log`: a line in the engine's log. It changes nothing.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::component::words::TemplateText;
use crate::component::{Build, Context, Outcome, Part, Pure};
use crate::failure::Failure;
use crate::message::Message;
use crate::personal::Mask;
use crate::template::{Escape, Template};

/// Writes a line to the engine's log: `log: text`, or `log: { level: warn, message: text }`. The text is a template; line breaks in
/// values do not break the line, and what the flow names under `personal` is masked.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Log {
    /// The text, at level `info`.
    Text(TemplateText),
    /// The text and its level.
    Line(LogLine),
}

/// The text and its level.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// How much it matters. Default `info`.
    #[serde(default)]
    pub level: Level,
    /// The text.
    pub message: TemplateText,
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For finding mistakes; not shown by default.
    Debug,
    /// Worth knowing.
    #[default]
    Info,
    /// Worth a look.
    Warn,
    /// Somebody must look.
    Error,
}

impl Part for Log {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: seen
  log: { level: info, message: \"order {{orderNumber}} of {{customer.code}}\" }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let (template, level) = match self {
            Log::Text(text) => (cx.template(&[], &text.0)?, Level::Info),
            Log::Line(line) => (cx.template(&["message"], &line.message.0)?, line.level),
        };
        let flow = cx.flow.to_owned();
        Some(Ready::Pure(Box::new(Logging {
            template,
            level,
            flow,
        })))
    }
}

struct Logging {
    template: Template,
    level: Level,
    flow: String,
}

impl Pure for Logging {
    fn apply(&self, message: Message, cx: &Context<'_>) -> Result<Outcome, Failure> {
        let text = self.template.render(&message, Escape::None)?;
        let text = one_line(&masked(text, &message, cx));
        let (flow, step, id) = (&*self.flow, cx.step, message.id);
        match self.level {
            Level::Debug => tracing::debug!(flow, step, message_id = %id, "{text}"),
            Level::Info => tracing::info!(flow, step, message_id = %id, "{text}"),
            Level::Warn => tracing::warn!(flow, step, message_id = %id, "{text}"),
            Level::Error => tracing::error!(flow, step, message_id = %id, "{text}"),
        }
        Ok(Outcome::Goes(message))
    }
}

/// What the flow says is personal does not stand in a log: nobody knows who reads it, and nothing is ever erased there.
fn masked(text: String, message: &Message, cx: &Context<'_>) -> String {
    if cx.personal.is_empty() {
        return text;
    }
    let mut mask = Mask::new(cx.personal.clone());
    let body = message.body.bytes();
    if message.body.document().is_ok() {
        mask.learn(body, true);
        mask.learn(body, false);
    }
    for variable in message.variables.values() {
        mask.learn(variable.bytes(), false);
    }
    mask.text(&text)
}

/// The text without anything that could pass for another line or steer a terminal.
fn one_line(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;
    use crate::step::bench::Bench;

    #[test]
    fn the_message_goes_on_as_it_is() {
        let bench = Bench::new();
        bench.check("log: 'order {{n}}'", r#"{"n": 1}"#, r#"{"n": 1}"#);
        bench.check(
            "log: { level: warn, message: 'order {{n}}' }",
            r#"{"n": 1}"#,
            r#"{"n": 1}"#,
        );
        assert_eq!(
            bench.fails("log: 'order {{n}}'", "{}").class,
            Class::Mapping
        );
        assert_eq!(one_line("a\nERROR b\u{1b}[2J"), "a ERROR b [2J");
    }
}
