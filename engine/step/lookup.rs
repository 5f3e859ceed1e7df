//! The step `lookup`: a row of a cross-reference table becomes a variable.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use crate::body::{Body, write_string};
use crate::component::words::ExpressionText;
use crate::component::{Build, Context, Outcome, Part, Pure, codes};
use crate::diagnostic::closest;
use crate::expression::Expression;
use crate::failure::{Class, Failure};
use crate::message::Message;

/// Looks a value up in a table of the project. `into` beside the step binds what is found: a cell if there is `column`, else the whole
/// row as an object. Cells are texts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// The table: its file below `tables/`, without `.csv`.
    pub table: String,
    /// What is looked up in the table's first column.
    pub key: ExpressionText,
    /// The column whose cell is bound.
    pub column: Option<String>,
    /// What is bound instead of a cell where there is no row. Needs `column`.
    pub default: Option<String>,
    /// What happens where there is no row, nor a default. Default `fail`.
    #[serde(default)]
    pub missing: Missing,
}

/// What happens where there is no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The message fails with class `unknown_reference`.
    #[default]
    Fail,
    /// The variable is null.
    Null,
}

impl Part for Lookup {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: country
  lookup: { table: countries, key: shippingAddress.country, column: code }
  into: country_code
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let key = cx.expression(&["key"], &self.key.0);
        let tables = &cx.library.tables;
        let Some(table) = tables.get(&self.table) else {
            let known: Vec<String> = tables.names().map(str::to_owned).collect();
            cx.unknown(
                codes::UNKNOWN_TABLE,
                &["table"],
                "table",
                &self.table,
                &known,
                "tables/",
            );
            return None;
        };
        let columns: Vec<Arc<str>> = table
            .columns()
            .iter()
            .map(|name| Arc::from(name.as_str()))
            .collect();
        let column = match &self.column {
            None => None,
            Some(name) => match columns.iter().position(|known| **known == **name) {
                Some(at) => Some(at),
                None => {
                    let help = match closest(name, columns.iter().map(|known| &**known)) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the table has: {}", columns.join(", ")),
                    };
                    let message = format!("the table `{}` has no column `{name}`", self.table);
                    cx.error(codes::BAD_VALUE, &["column"], message, help);
                    return None;
                }
            },
        };
        if self.default.is_some() && (self.column.is_none() || self.missing == Missing::Null) {
            let message = "`default` stands for a cell that is missing";
            let help = "use it with `column` and without `missing: null`";
            cx.error(codes::CONFLICTING_SETTINGS, &["default"], message, help);
            return None;
        }
        let Some(into) = cx.common.into.clone() else {
            let message = "what is found goes nowhere";
            let help = "bind it with `into: name` beside `lookup`";
            cx.error(codes::CONFLICTING_SETTINGS, &[], message, help);
            return None;
        };
        let into = into.trim_start_matches('$').to_owned();
        cx.variables.insert(into.clone());
        Some(Ready::Pure(Box::new(Looking {
            table: self.table.clone(),
            columns,
            key: key?,
            column,
            default: self.default.clone(),
            missing: self.missing,
            into: Arc::from(into),
        })))
    }
}

struct Looking {
    table: String,
    columns: Vec<Arc<str>>,
    key: Expression,
    column: Option<usize>,
    default: Option<String>,
    missing: Missing,
    into: Arc<str>,
}

impl Pure for Looking {
    fn apply(&self, mut message: Message, cx: &Context<'_>) -> Result<Outcome, Failure> {
        let value = self.key.evaluate(&cx.scope(&message, &self.key)?)?;
        if !value.is_null() && value.to_text().is_none() {
            let message = format!(
                "the key `{}` must be a text or a number, it is {}",
                self.key.text(),
                value.type_name()
            );
            return Err(Failure::mapping(message));
        }
        let key = value.to_text();
        drop(value);
        let row = key
            .as_deref()
            .and_then(|key| cx.tables.get(&self.table)?.row(key));
        let found = match (row, &self.default, self.missing) {
            (Some(row), _, _) => self.found(row),
            (None, Some(default), _) => text(default),
            (None, None, Missing::Null) => Body::null(),
            (None, None, Missing::Fail) => {
                let shown = key.as_deref().unwrap_or("null");
                let message = format!(
                    "the table {} has no row for `{shown}`; add it, or say what holds with `default` or `missing: null`",
                    self.table
                );
                return Err(Failure::new(Class::UnknownReference, message));
            }
        };
        message.bind(self.into.clone(), found);
        Ok(Outcome::Goes(message))
    }
}

impl Looking {
    fn found(&self, row: &[String]) -> Body {
        if let Some(at) = self.column {
            return row.get(at).map_or_else(Body::null, |cell| text(cell));
        }
        let mut out = vec![b'{'];
        for (at, (name, cell)) in self.columns.iter().zip(row).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_string(&mut out, name);
            out.push(b':');
            write_string(&mut out, cell);
        }
        out.push(b'}');
        Body::new(out)
    }
}

/// A text as a JSON document.
pub(super) fn text(text: &str) -> Body {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    Body::new(out)
}

#[cfg(test)]
mod tests {
    use crate::failure::Class;
    use crate::step::bench::Bench;

    fn bench() -> Bench {
        Bench::new().table(
            "countries",
            &["name", "code", "zone"],
            &[&["Germany", "DE", "EU"], &["7", "X", "Y"]],
        )
    }

    fn check(entry: &str, body: &str, expect: &str) {
        let bench = bench();
        let next = bench.goes(&format!("{entry}\ninto: found\n"), bench.message(body));
        assert_eq!(
            next.variables.get("found").unwrap().bytes(),
            &expect.to_owned()
        );
    }

    #[test]
    fn what_is_found_is_bound() {
        let cell = "lookup: { table: countries, key: c, column: code }";
        check(cell, r#"{"c": "Germany"}"#, r#""DE""#);
        check(cell, r#"{"c": 7}"#, r#""X""#);
        let row = "lookup: { table: countries, key: c }";
        check(
            row,
            r#"{"c": "Germany"}"#,
            r#"{"name":"Germany","code":"DE","zone":"EU"}"#,
        );
        let default = "lookup: { table: countries, key: c, column: code, default: ZZ }";
        check(default, r#"{"c": "Atlantis"}"#, r#""ZZ""#);
        let null = "lookup: { table: countries, key: c, missing: 'null' }";
        check(null, r#"{"c": "Atlantis"}"#, "null");
        check(null, "{}", "null");
    }

    #[test]
    fn what_is_missing_fails() {
        let entry = "lookup: { table: countries, key: c }\ninto: found\n";
        let failure = bench().fails(entry, r#"{"c": "Atlantis"}"#);
        assert_eq!(failure.class, Class::UnknownReference);
        assert!(failure.message.contains("Atlantis"));
        assert_eq!(bench().fails(entry, r#"{"c": []}"#).class, Class::Mapping);
    }

    #[test]
    fn mistakes_are_found() {
        let bench = bench();
        bench.finds(
            "lookup: { table: country, key: c }\ninto: x\n",
            &["unknown-table:1:18"],
        );
        bench.finds(
            "lookup: { table: countries, key: c, column: cod }\ninto: x\n",
            &["bad-value:1:45"],
        );
        bench.finds(
            "lookup: { table: countries, key: c }\n",
            &["conflicting-settings:1:9"],
        );
    }
}
