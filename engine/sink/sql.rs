//! The sink `sql`: writes messages to a database, each with the row of a ledger that says so, in one transaction.

mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Ready;
use crate::body::{Body, Item, Kind, write_string};
use crate::component::words::{Duration, ExpressionText};
use crate::component::{
    Answer, Attempt, Build, Context, Effect, Part, Probed, Promises, Request, codes,
};
use crate::expression::Expression;
use crate::failure::{Class, Failure};
use crate::message::Message;
use crate::net::sql::{Deed, Done, Field, Once};
use crate::system::TIMEOUT;
use crate::system::admission::Admission;
use crate::system::database::{Database, Ended};
use crate::world::Pending;
use crate::world::clock::{Clock, SystemClock};

/// The ledger's table where nobody says so.
const LEDGER: &str = "crossdock_effects";
/// How long the ledger's rows are kept where nobody says so.
const KEEP: Duration = Duration {
    ms: 30 * 24 * 3_600_000,
};
/// How often old rows of the ledger are removed.
const SWEEP_EVERY_MS: i64 = 600_000;

/// Writes messages to a database: a row of a table (`insert`, `upsert`), or what a `statement` says. Values go through parameters, and the
/// database makes of each what its column is.
///
/// With a `ledger` the row that says "done" is committed in the same transaction as the data. A message is then in the database exactly once,
/// whatever dies in between: a repeat finds the row and changes nothing. The ledger is a table of the database, made if it is not there.
/// An `upsert` needs none.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// The database: a system with `sql`.
    pub system: String,
    /// The table that takes a new row: `orders`, or with its schema `sales.orders`.
    pub insert: Option<String>,
    /// The table of which a row is made or replaced. Needs `key`.
    pub upsert: Option<String>,
    /// The columns by which `upsert` knows a row; the table must have a unique index of them.
    #[serde(default)]
    pub key: Vec<String>,
    /// The columns of the row, each with the expression that gives its value.
    #[serde(default)]
    pub columns: BTreeMap<String, ExpressionText>,
    /// One statement, with parameters such as `:sku`, instead of a table.
    pub statement: Option<String>,
    /// The parameters of `statement`, each with the expression that gives its value.
    #[serde(default)]
    pub values: BTreeMap<String, ExpressionText>,
    /// How many rows the statement must meet; with fewer nothing is changed, and the failure is `not_found`. Default 0.
    pub least: Option<u32>,
    /// The table that says what was done, or `false` for none. Default `crossdock_effects`, for `upsert` none.
    pub ledger: Option<Ledger>,
    /// How long the ledger knows what was done. Default 30d.
    pub keep: Option<Duration>,
}

/// The table that says what was done.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Ledger {
    /// `false`: none. `true`: `crossdock_effects`.
    Whether(bool),
    /// This one.
    Table(String),
}

impl Part for Sql {
    type Ready = Ready;
    const EXAMPLE: &'static str = "bookings:
  sql: { system: warehouse-db, insert: bookings, columns: { number: orderNumber, total: total }, keep: 90d }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let database = cx.database(&["system"], &self.system);
        let form = self.form(cx);
        let fields = self.fields(cx);
        let ledger = self.ledger(cx);
        let (database, form, fields, ledger) = (database?, form?, fields?, ledger?);
        let (text, values) = self.statement(cx, &database, form, fields)?;
        let timeout = cx
            .common
            .timeout
            .or(database.timeout())
            .or(cx.library.timeout)
            .unwrap_or(TIMEOUT);
        Some(Ready::Effect(Arc::new(Writing {
            safe: self.upsert.is_some(),
            least: u64::from(self.least.unwrap_or(0)),
            flow: Arc::from(cx.flow),
            keep: self.keep.unwrap_or(KEEP),
            high: cx.high,
            swept_at_ms: AtomicI64::new(0),
            database,
            text,
            values,
            ledger,
            timeout,
        })))
    }
}

/// What a message does.
enum Form<'a> {
    Insert(String),
    Upsert(String, Vec<String>),
    Statement(&'a str),
}

/// Values by the name of their column or parameter.
type Fields = Vec<(String, Expression)>;

impl Sql {
    fn form(&self, cx: &mut Build<'_>) -> Option<Form<'_>> {
        let help = "give exactly one of `insert`, `upsert` and `statement`";
        let form = match (&self.insert, &self.upsert, &self.statement) {
            (Some(table), None, None) => Form::Insert(name(cx, &["insert"], table, true)?),
            (None, Some(table), None) => {
                let table = name(cx, &["upsert"], table, true);
                if self.key.is_empty() {
                    let message = "`upsert` needs the columns by which it knows a row";
                    let help = "add `key: [column]`";
                    cx.error(codes::CONFLICTING_SETTINGS, &["upsert"], message, help);
                    return None;
                }
                if let Some(strange) = self.key.iter().find(|key| !self.columns.contains_key(*key))
                {
                    let message = format!("the key `{strange}` is no column of the row");
                    let help = "add it to `columns`";
                    cx.error(codes::CONFLICTING_SETTINGS, &["key"], message, help);
                    return None;
                }
                let key = self.key.iter().map(|key| name(cx, &["key"], key, false));
                Form::Upsert(table?, key.collect::<Option<_>>()?)
            }
            (None, None, Some(statement)) => Form::Statement(statement),
            (None, None, None) => {
                let message = "nothing says what is written";
                cx.error(codes::CONFLICTING_SETTINGS, &[], message, help);
                return None;
            }
            _ => {
                let second = if self.upsert.is_some() && self.insert.is_some() {
                    "upsert"
                } else {
                    "statement"
                };
                let message = "two things cannot be written at once";
                cx.error(codes::CONFLICTING_SETTINGS, &[second], message, help);
                return None;
            }
        };
        self.strangers(cx, &form).then_some(form)
    }

    /// Whether every setting has a meaning for the form.
    fn strangers(&self, cx: &mut Build<'_>, form: &Form<'_>) -> bool {
        let (table, upsert) = match form {
            Form::Insert(_) => (true, false),
            Form::Upsert(..) => (true, true),
            Form::Statement(_) => (false, false),
        };
        let mut sound = true;
        for (field, given, means) in [
            ("key", !self.key.is_empty(), upsert),
            ("columns", !self.columns.is_empty(), table),
            ("values", !self.values.is_empty(), !table),
            ("least", self.least.is_some(), !table),
        ] {
            if given && !means {
                let message = format!("`{field}` has no meaning here");
                let help = "`columns` belong to a table, `values` and `least` to a statement, `key` to `upsert`";
                cx.error(codes::CONFLICTING_SETTINGS, &[field], message, help);
                sound = false;
            }
        }
        if table && self.columns.is_empty() {
            let message = "the row has no columns";
            let help = "add `columns: { name: expression }`";
            cx.error(codes::CONFLICTING_SETTINGS, &[], message, help);
            sound = false;
        }
        sound
    }

    fn fields(&self, cx: &mut Build<'_>) -> Option<Fields> {
        let mut fields = Some(Vec::new());
        for (of, given) in [("columns", &self.columns), ("values", &self.values)] {
            for (name, expression) in given {
                match (cx.expression(&[of, name], &expression.0), &mut fields) {
                    (Some(expression), Some(fields)) => fields.push((name.clone(), expression)),
                    _ => fields = None,
                }
            }
        }
        fields
    }

    /// The ledger's table, quoted; the outer nothing is a finding.
    fn ledger(&self, cx: &mut Build<'_>) -> Option<Option<String>> {
        let table = match (&self.ledger, &self.upsert) {
            (Some(Ledger::Table(table)), _) => name(cx, &["ledger"], table, true).map(Some),
            (Some(Ledger::Whether(false)), _) | (None, Some(_)) => Some(None),
            (Some(Ledger::Whether(true)) | None, _) => Some(text::quoted(LEDGER, true)),
        };
        if table == Some(None) && self.keep.is_some() {
            let message = "`keep` is about the ledger, and there is none";
            let help = "leave it out, or add `ledger: true`";
            cx.error(codes::CONFLICTING_SETTINGS, &["keep"], message, help);
            return None;
        }
        if self.keep.is_some_and(|keep| keep.ms < 60_000) {
            let message = "a ledger that forgets so soon knows no repeat";
            cx.error(codes::BAD_VALUE, &["keep"], message, "keep at least 1m");
            return None;
        }
        table
    }

    /// The statement's text, and its values in the order of the parameters.
    fn statement(
        &self,
        cx: &mut Build<'_>,
        database: &Database,
        form: Form<'_>,
        mut fields: Fields,
    ) -> Option<(String, Vec<Expression>)> {
        let dialect = database.dialect();
        let (table, key) = match &form {
            Form::Insert(table) => (table, None),
            Form::Upsert(table, key) => (table, Some(key.as_slice())),
            Form::Statement(statement) => {
                let parsed = match text::parse(dialect, statement) {
                    Ok(parsed) => parsed,
                    Err(why) => {
                        let help = "write one statement, with parameters such as `:sku`";
                        cx.error(codes::BAD_VALUE, &["statement"], why, help);
                        return None;
                    }
                };
                if let Some((strange, _)) =
                    fields.iter().find(|(name, _)| !parsed.names.contains(name))
                {
                    let message = format!("the statement has no parameter `:{strange}`");
                    let path = &["values", strange.as_str()];
                    cx.error(codes::CONFLICTING_SETTINGS, path, message, "remove it");
                    return None;
                }
                let mut values = Vec::with_capacity(parsed.names.len());
                for name in parsed.names {
                    let Some(at) = fields.iter().position(|(known, _)| *known == name) else {
                        let message = format!("nothing gives the parameter `:{name}`");
                        let help = format!("add `values: {{ {name}: .. }}`");
                        cx.error(codes::CONFLICTING_SETTINGS, &["statement"], message, help);
                        return None;
                    };
                    values.push(fields.swap_remove(at).1);
                }
                return Some((parsed.text, values));
            }
        };
        let names = self
            .columns
            .keys()
            .map(|column| name(cx, &["columns", column], column, false));
        let names: Vec<String> = names.collect::<Option<_>>()?;
        let text = text::insert(dialect, table, &names, key);
        Some((text, fields.into_iter().map(|(_, value)| value).collect()))
    }
}

/// A table's or a column's name, quoted.
fn name(cx: &mut Build<'_>, path: &[&str], name: &str, dots: bool) -> Option<String> {
    let quoted = text::quoted(name, dots);
    if quoted.is_none() {
        let what = if dots { "table" } else { "column" };
        let message = format!("`{name}` cannot be the name of a {what}");
        let help = "write it as the database has it: letters, digits and `_`";
        cx.error(codes::BAD_VALUE, path, message, help);
    }
    quoted
}

/// What messages write, ready.
struct Writing {
    database: Arc<Database>,
    text: String,
    values: Vec<Expression>,
    least: u64,
    ledger: Option<String>,
    keep: Duration,
    safe: bool,
    timeout: Duration,
    flow: Arc<str>,
    high: bool,
    swept_at_ms: AtomicI64,
}

impl Writing {
    /// What the request is in the ledger: the effect's id, which no revision and no restart changes.
    fn effect(&self, message: &Message, cx: &Context<'_>) -> String {
        let digest = Sha256::digest(format!(
            "{}\n{}\n{}\n{}",
            message.id, self.flow, cx.step, message.generation
        ));
        hex(&digest[..16])
    }

    async fn sweep(&self) {
        let Some(ledger) = &self.ledger else { return };
        let now_ms = SystemClock.now_ms();
        let last_ms = self.swept_at_ms.load(Ordering::Relaxed);
        let due = now_ms - last_ms >= SWEEP_EVERY_MS;
        let mine = || {
            let taken = self.swept_at_ms.compare_exchange(
                last_ms,
                now_ms,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            taken.is_ok()
        };
        if due && mine() {
            self.database.sweep(ledger, self.keep.std()).await;
        }
    }
}

impl Effect for Writing {
    fn promises(&self) -> Promises {
        Promises {
            safe: self.safe && self.ledger.is_none(),
            kept_ms: self.ledger.as_ref().map(|_| self.keep.ms),
            probe_settle_ms: None,
            // Waiting for a place may take as long again.
            timeout_ms: self.timeout.ms.saturating_mul(2).saturating_add(1_000),
            concurrency: self.database.concurrency(),
        }
    }

    fn admission(&self) -> Option<&Arc<Admission>> {
        Some(self.database.admission())
    }

    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<Request, Failure> {
        let mut out = b"{\"statement\":".to_vec();
        write_string(&mut out, &self.text);
        out.extend_from_slice(b",\"values\":[");
        for (at, expression) in self.values.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let scope = cx.scope(message, expression)?;
            expression.evaluate(&scope)?.write_json(&mut out);
        }
        out.extend_from_slice(b"]");
        if self.least > 0 {
            out.extend_from_slice(format!(",\"least\":{}", self.least).as_bytes());
        }
        if let Some(ledger) = &self.ledger {
            out.extend_from_slice(b",\"ledger\":");
            write_string(&mut out, ledger);
        }
        out.push(b'}');
        Ok(Request {
            bytes: Bytes::from(out),
            idempotency_key: self.ledger.as_ref().map(|_| self.effect(message, cx)),
        })
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let deed = match deed(request) {
                Ok(deed) => deed,
                Err(failure) => return Attempt::NotApplied(failure),
            };
            let ended = self
                .database
                .attempt(&deed, self.timeout.std(), self.high)
                .await;
            match ended {
                Ended::Done(done) => {
                    self.sweep().await;
                    Attempt::Applied(answer(done))
                }
                Ended::NotDone(failure) => Attempt::NotApplied(failure),
                Ended::Unknown(failure) if self.promises().safe => Attempt::NotApplied(Failure {
                    class: Class::Unavailable,
                    ..failure
                }),
                Ended::Unknown(failure) => Attempt::Unknown(failure),
                Ended::Held(failure) => Attempt::Held(failure),
            }
        })
    }

    fn probe<'a>(&'a self, _: &'a Message, _: &'a Request) -> Pending<'a, Probed> {
        let message = format!("nothing says how to ask {}", self.database.name());
        Box::pin(std::future::ready(Probed::Failed(Failure::internal(
            message,
        ))))
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

/// What a stored request does.
fn deed(request: &Request) -> Result<Deed, Failure> {
    let document = Body::new(request.bytes.clone());
    let root = document.document()?;
    let text = |name: &str| Some(root.get(name)?.as_str()?.into_owned());
    let statement =
        text("statement").ok_or_else(|| Failure::internal("a stored request has no statement"))?;
    let values = root.get("values").map(Item::items);
    let once = text("ledger").zip(request.idempotency_key.clone());
    Ok(Deed {
        statement,
        values: values.into_iter().flatten().map(field).collect(),
        least: root
            .get("least")
            .and_then(|least| least.as_number()?.parse().ok())
            .unwrap_or(0),
        once: once.map(|(ledger, effect)| Once {
            ledger,
            effect,
            request: hex(&Sha256::digest(&request.bytes)[..16]),
        }),
    })
}

fn field(value: Item<'_>) -> Field {
    match value.kind() {
        Kind::Null => Field::Null,
        Kind::Bool => Field::Bool(value.as_bool().unwrap_or(false)),
        Kind::Number => Field::Number(value.as_number().unwrap_or_default().to_owned()),
        Kind::String => Field::Text(value.as_str().unwrap_or_default().into_owned()),
        Kind::List | Kind::Object => Field::Text(value.json().to_owned()),
    }
}

fn answer(done: Done) -> Answer {
    let bytes = match done {
        Done::Now(rows) => format!("{{\"rows\":{rows}}}"),
        Done::Before => "{\"done_before\":true}".to_owned(),
    };
    Answer {
        bytes: Bytes::from(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
