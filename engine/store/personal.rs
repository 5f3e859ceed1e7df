//! What is personal in the messages of each flow, as far as revisions have ever said it, and the mask over what is shown of runs and exceptions.
//! Bodies are masked when they are read for people; what is told of exceptions is masked before it is written, because it also goes into lists,
//! notices and logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::failure::Failure;
use crate::message::Names;
use crate::personal::{MASK, Mask, Path, Rules};

use super::chains::Ahead;
use super::commit::{NewException, RunId};
use super::database::{Connection, Optional, Sql, params};
use super::effects::EffectRow;
use super::exceptions::{ExceptionDetail, ExceptionRow};
use super::journeys;
use super::reader::Reader;
use super::replays::ReplayRow;
use super::runs::{RunDetail, RunRow};
use super::writer::Writing;

/// - `personal` is only added to: runs of older revisions hold what was personal then. `kind` is `path` or `key`
/// - `runs.erased_at` says since when what was personal of a run is gone; null where it was not erased
pub(super) const TABLE: &str = "
CREATE TABLE personal (
  flow TEXT NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL, PRIMARY KEY (flow, kind, what)
) STRICT, WITHOUT ROWID;
ALTER TABLE runs ADD COLUMN erased_at INTEGER;
";

/// How many runs of one accepted message are looked at for its values; of a message with more, all that could hold one is masked.
const RUNS_MAX: usize = 50;
/// What of a timeline is no text about the message.
pub(super) const PLAIN: [&str; 3] = ["done", "milestone", "undone"];

/// What is hidden from whoever looks.
#[derive(Clone, Debug, Default)]
pub struct Veil {
    flows: BTreeMap<String, Rules>,
}

impl Veil {
    /// Whether nothing is hidden.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// The personal business keys of all flows, by name.
    pub fn has_key(&self, name: &str) -> bool {
        self.flows.values().any(|rules| rules.keys.contains(name))
    }

    /// Whether a business key of a flow is personal.
    pub fn is_key(&self, flow: &str, name: &str) -> bool {
        let rules = self.flows.get(flow);
        rules.is_some_and(|rules| rules.keys.contains(name))
    }

    /// Whether all that is personal of a flow comes from flows before it, or is named by `**`: its bodies may hold it in any shape.
    fn is_only_anywhere(&self, flow: &str) -> bool {
        let rules = self.flows.get(flow);
        rules.is_none_or(|rules| rules.paths.iter().all(Path::is_anywhere))
    }

    /// Whether each of its paths is the place of something in the bodies that the flow accepts.
    fn has_only_places(&self, flow: &str) -> bool {
        let rules = self.flows.get(flow);
        rules.is_some_and(|rules| {
            !rules.paths.is_empty() && !rules.paths.iter().any(Path::is_anywhere)
        })
    }

    /// Masks the business key by which a list of runs was chosen.
    pub fn list(&self, row: &mut ReplayRow) {
        row.filter = self.filter(&row.filter);
    }

    /// The words of such a choice, `flow orders, key customer=..`, without what is personal.
    pub fn filter(&self, words: &str) -> String {
        if self.is_empty() {
            return words.to_owned();
        }
        let parts = words.split(", ").map(|part| {
            let Some(key) = part.strip_prefix("key ") else {
                return part.to_owned();
            };
            match key.split_once('=') {
                Some((name, _)) if !self.has_key(name) => part.to_owned(),
                Some((name, _)) => format!("key {name}={MASK}"),
                // Of any name: also of a personal one.
                None => format!("key {MASK}"),
            }
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl Reader {
    /// What is hidden.
    pub async fn veil(&self) -> Result<Veil, Failure> {
        self.read(veil).await
    }

    /// The mask of a run of this flow; `None` if nothing of it is personal.
    pub async fn mask(&self, veil: &Veil, flow: &str, run: RunId) -> Result<Option<Mask>, Failure> {
        if veil.is_empty() {
            return Ok(None);
        }
        let (veil, flow) = (veil.clone(), flow.to_owned());
        self.read(move |connection| mask_of(connection, &veil, &flow, run))
            .await
    }

    /// Masks the business keys of runs in a list: those that are personal by name, and those that hold a value that is.
    pub async fn cover_rows(&self, veil: &Veil, rows: &mut [RunRow]) -> Result<(), Failure> {
        for row in rows {
            if veil.flows.contains_key(&*row.flow)
                && let Some(mask) = self.mask(veil, &row.flow, row.run).await?
            {
                row_keys(&mask, veil, row);
            }
        }
        Ok(())
    }

    /// Masks what is personal of a run.
    pub async fn cover_run(&self, veil: &Veil, detail: &mut RunDetail) -> Result<(), Failure> {
        let row = &detail.row;
        if let Some(mask) = self.mask(veil, &row.flow, row.run).await? {
            run(&mask, veil, detail);
        }
        Ok(())
    }

    /// Masks what is personal of an exception.
    pub async fn cover_exception(
        &self,
        veil: &Veil,
        detail: &mut ExceptionDetail,
    ) -> Result<(), Failure> {
        let row = &detail.row;
        if let Some(mut mask) = self.mask(veil, &row.flow, row.run).await? {
            learn(&mut mask, detail.body.as_ref());
            exception(&mask, veil, detail);
        }
        Ok(())
    }
}

/// From now on what is deleted is overwritten on the disk, where a store in a file holds personal data.
pub(super) fn wipe(connection: &Connection) -> Sql<()> {
    if let Connection::Sqlite(connection) = connection {
        connection.pragma_update(None, "secure_delete", true)?;
    }
    Ok(())
}

/// The same at the start of an engine.
pub(super) fn begin(connection: &Connection) -> Sql<()> {
    let any: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM personal)")?
        .query_row((), |row| row.get(0))?;
    match any {
        true => wipe(connection),
        false => Ok(()),
    }
}

/// Notes what revisions say.
pub(super) fn note(writing: &Writing<'_>, personal: &BTreeMap<Arc<str>, Rules>) -> Sql<()> {
    if personal.values().any(|rules| !rules.is_empty()) {
        wipe(writing.connection)?;
    }
    for (flow, rules) in personal {
        let paths = rules.paths.iter().map(|path| ("path", path.to_string()));
        let keys = rules.keys.iter().map(|name| ("key", name.clone()));
        for (kind, what) in paths.chain(keys) {
            writing.put(
                "INSERT INTO personal (flow, kind, what) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![flow, kind, what],
            )?;
        }
    }
    Ok(())
}

/// What is hidden.
pub(super) fn veil(connection: &Connection) -> Sql<Veil> {
    let mut veil = Veil::default();
    let mut statement = connection.prepare_cached("SELECT flow, kind, what FROM personal")?;
    statement.each((), |row| {
        let (flow, kind, what) = (row.get(0)?, row.text(1)?, row.get::<String>(2)?);
        let rules: &mut Rules = veil.flows.entry(flow).or_default();
        match &*kind {
            "key" => drop(rules.keys.insert(what)),
            _ => rules.paths.extend(Path::parse(&what)),
        }
        Ok(())
    })?;
    Ok(veil)
}

/// A run that comes from the same accepted message.
struct Related {
    flow: String,
    keys: Names,
    body: Option<Bytes>,
}

/// The mask of a run: the values are those of all runs that come from the same accepted message.
pub(super) fn mask_of(
    connection: &Connection,
    veil: &Veil,
    flow: &str,
    run: RunId,
) -> Sql<Option<Mask>> {
    let own = veil.flows.get(flow).cloned();
    let root: Option<[u8; 16]> = connection
        .prepare_cached("SELECT root FROM runs WHERE id = ?1")?
        .query_row([run.0], |row| row.get(0))
        .optional()?;
    let Some(root) = root else {
        return Ok(own.map(|own| {
            let mut mask = Mask::new(own);
            mask.blind();
            mask
        }));
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT runs.flow, runs.keys, bodies.body FROM runs LEFT JOIN bodies ON bodies.run = runs.id WHERE runs.root = ?1 ORDER BY runs.id LIMIT {}",
        RUNS_MAX + 1
    ))?;
    let related = statement.query_map(params![&root[..]], |row| {
        Ok(Related {
            flow: row.get(0)?,
            keys: journeys::keys_from(&row.text(1)?),
            body: row.get::<Option<Vec<u8>>>(2)?.map(Bytes::from),
        })
    })?;
    let concerned = |one: &Related| veil.flows.contains_key(&one.flow);
    if own.is_none() && !related.iter().any(concerned) {
        return Ok(None);
    }
    let mut mask = Mask::new(own.unwrap_or_default());
    for one in &related {
        if let Some(rules) = veil.flows.get(&one.flow) {
            mask.add(rules);
        }
    }
    if related.len() > RUNS_MAX {
        mask.blind();
    }
    for one in &related {
        let rules = veil.flows.get(&one.flow);
        let values = one
            .keys
            .iter()
            .filter(|(name, _)| rules.is_some_and(|rules| rules.keys.contains(&***name)));
        for (_, value) in values {
            mask.learn_value(value);
        }
        match (&one.body, rules) {
            (Some(body), rules) => mask.learn(body, rules.is_some()),
            (None, Some(_)) => mask.blind(),
            (None, None) => {}
        }
    }
    Ok(Some(mask))
}

/// An exception as it is written down: nothing personal is in what is told of it.
pub(super) fn covered(
    writing: &Writing<'_>,
    flow: &str,
    run: RunId,
    new: &NewException,
) -> Sql<Option<NewException>> {
    let veil = veil(writing.connection)?;
    if veil.is_empty() {
        return Ok(None);
    }
    let Some(mut mask) = mask_of(writing.connection, &veil, flow, run)? else {
        return Ok(None);
    };
    for bytes in [&new.body, &new.request, &new.answer] {
        learn(&mut mask, bytes.as_ref());
    }
    Ok(Some(NewException {
        message: mask.text(&new.message),
        detail: new.detail.as_deref().map(|detail| mask.text(detail)),
        ..new.clone()
    }))
}

fn learn(mask: &mut Mask, bytes: Option<&Bytes>) {
    if let Some(bytes) = bytes {
        mask.learn(bytes, false);
    }
}

/// The business keys of a run in the words of the store, masked.
pub(super) fn covered_keys(
    connection: &Connection,
    veil: &Veil,
    (flow, run): (&str, RunId),
    text: &str,
) -> Sql<Option<String>> {
    let mask = match veil.is_empty() {
        true => None,
        false => mask_of(connection, veil, flow, run)?,
    };
    let Some(mask) = mask else {
        return Ok(Some(text.to_owned()));
    };
    let mut names = journeys::keys_from(text);
    match mask.is_blind() && veil.is_only_anywhere(flow) {
        true => hide(&mut names),
        false => keys(&mask, &mut names),
    }
    Ok(Some(journeys::keys_text(&names)))
}

/// The keys in the row of a run. Where nobody knows the values, those of a flow that has inherited all its rules may be any of them; of what was
/// erased nothing personal is left.
fn row_keys(mask: &Mask, veil: &Veil, row: &mut RunRow) {
    let unknown = mask.is_blind() && veil.is_only_anywhere(&row.flow);
    if unknown && row.erased_at_ms.is_none() {
        hide(&mut row.keys);
    }
    keys(mask, &mut row.keys);
    ahead(mask, row.waits_for.as_mut());
}

fn hide(keys: &mut Names) {
    for (_, value) in keys.iter_mut() {
        MASK.clone_into(value);
    }
}

/// A body that the flow has accepted, masked. Where the values are not known, only places tell what is personal in it.
fn accepted(mask: &Mask, veil: &Veil, flow: &str, body: &Bytes) -> Bytes {
    match veil.flows.contains_key(flow) {
        true if mask.is_blind() && !veil.has_only_places(flow) => mask.other(body),
        true => mask.accepted(body),
        false => mask.other(body),
    }
}

fn keys(mask: &Mask, keys: &mut Names) {
    for (name, value) in keys.iter_mut() {
        *value = mask.key(name, value);
    }
}

fn ahead(mask: &Mask, ahead: Option<&mut Ahead>) {
    if let Some(ahead) = ahead
        && let Some((name, value)) = ahead.key.split_once('=')
    {
        ahead.key = format!("{name}={}", mask.key(name, value));
    }
}

fn run(mask: &Mask, veil: &Veil, detail: &mut RunDetail) {
    row_keys(mask, veil, &mut detail.row);
    let body = detail.body.as_ref();
    detail.body = body.map(|body| accepted(mask, veil, &detail.row.flow, body));
    detail.envelope = None;
    for line in &mut detail.trail {
        let plain = mask.is_blind() && PLAIN.contains(&line.what.as_str());
        if !plain {
            text(mask, &mut line.detail);
        }
    }
    for effect in &mut detail.effects {
        one_effect(mask, effect);
    }
    for row in &mut detail.exceptions {
        told(mask, row);
    }
    for hop in &mut detail.hops {
        text(mask, &mut hop.last_failure);
    }
}

fn exception(mask: &Mask, veil: &Veil, detail: &mut ExceptionDetail) {
    let flow = detail.row.flow.clone();
    told(mask, &mut detail.row);
    match mask.is_blind() && veil.is_only_anywhere(&flow) {
        true => hide(&mut detail.keys),
        false => keys(mask, &mut detail.keys),
    }
    let whole = |bytes: &Bytes| accepted(mask, veil, &flow, bytes);
    let other = |bytes: &Bytes| mask.other(bytes);
    detail.accepted = detail.accepted.as_ref().map(whole);
    detail.body = match detail.runs_body {
        true => detail.body.as_ref().map(whole),
        false => detail.body.as_ref().map(other),
    };
    detail.envelope = None;
    detail.request = detail.request.as_ref().map(other);
    detail.answer = detail.answer.as_ref().map(other);
    for effect in &mut detail.effects {
        one_effect(mask, effect);
    }
    for line in &mut detail.history {
        text(mask, &mut line.why);
        line.body = line.body.as_ref().map(other);
    }
}

fn one_effect(mask: &Mask, effect: &mut EffectRow) {
    effect.request = mask.other(&effect.request);
    effect.answer = effect.answer.as_ref().map(|answer| mask.other(answer));
    text(mask, &mut effect.idempotency_key);
    if !effect.item.is_empty() {
        effect.item = Arc::from(mask.text(&effect.item));
    }
}

/// What is told of an exception was masked when it was written, unless it is older than what is said to be personal.
fn told(mask: &Mask, row: &mut ExceptionRow) {
    if !mask.is_blind() {
        row.message = mask.text(&row.message);
        text(mask, &mut row.detail);
    }
}

fn text(mask: &Mask, text: &mut Option<String>) {
    *text = text.as_deref().map(|text| mask.text(text));
}
