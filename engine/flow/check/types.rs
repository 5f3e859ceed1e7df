//! Types carried through a flow: from what it accepts over steps, branches and routes to its sinks. Each expression and mapping on the way is held against
//! what really gets there; where nothing is certain, nothing is said.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Cx;
use super::entry::Entry;
use crate::component::common::OnFailure;
use crate::expression::Expression;
use crate::mapping::Mapping;
use crate::schema::Schemas;
use crate::schema::infer::narrow::{self, Fact, Root};
use crate::schema::infer::node::Infer;
use crate::schema::infer::{Text, Type, rows, source};
use crate::schema::place::At;
use crate::schema::witness::Grown;
use crate::yaml::{Data, Node};

pub(crate) mod asked;
mod handed;
pub(crate) mod mapping;
mod site;
mod told;
mod trial;

use site::Need;
use trial::{Around, Move, Start, Trail};

/// What is known about messages at one place.
#[derive(Clone)]
pub(crate) struct State<'s> {
    body: Type<'s>,
    variables: BTreeMap<String, Type<'s>>,
    /// How messages get here.
    trail: Trail<'s>,
    /// How often the body was made anew.
    bodies: usize,
    /// The schema that the mapping which made the body was held against.
    target: Option<String>,
}

/// What the types of a flow are at the entry at hand.
#[derive(Default)]
pub(crate) struct Track<'s> {
    /// Nothing where nobody knows the body.
    pub(super) state: Option<State<'s>>,
    /// What gets to each sink; several ways may lead there.
    sinks: Option<BTreeMap<String, Vec<State<'s>>>>,
    /// The schema that the next step validates.
    pub(super) next: Option<String>,
    /// Mappings that were looked at.
    pub(super) mappings: std::collections::BTreeSet<String>,
}

impl<'s> State<'s> {
    /// A body that keeps to a schema, and nothing more.
    pub(super) fn of_schema(cx: &Cx<'s>, name: &str) -> Option<State<'s>> {
        let typed = cx.known.typed;
        typed
            .then(|| State::of(&cx.known.library.schemas, name))
            .flatten()
    }

    fn of(schemas: &'s Schemas, name: &str) -> Option<State<'s>> {
        let schema = schemas.get(name)?;
        let body = source::body(At::named(schemas, name)?, None);
        Some(State {
            body: body.clone(),
            variables: BTreeMap::new(),
            trail: Trail {
                body: Start {
                    schema,
                    is: Grown::of(body),
                },
                variables: BTreeMap::new(),
                moves: Vec::new(),
                reads: Vec::new(),
                hints: Vec::new(),
                constants: Vec::new(),
            },
            bodies: 0,
            target: None,
        })
    }

    /// What is known where the condition holds, or where it does not.
    fn holding(mut self, cx: &Cx<'s>, condition: &Rc<Expression>, truth: bool) -> State<'s> {
        let tables = &cx.known.library.tables;
        let mut infer = Infer::new(condition.text(), &self.variables, tables);
        infer.node(condition.root(), &self.body);
        let facts = infer.facts(condition.root(), &self.body, truth);
        let (reads, hints) = (infer.reads, infer.hints);
        self.knows(&facts);
        self.trail.reads.extend(reads);
        self.trail.hints.extend(hints);
        trial::constants(condition, &mut self.trail.constants);
        self.trail.moves.push(Move::Holds(condition.clone(), truth));
        self
    }

    fn knows(&mut self, facts: &[Fact<'s>]) {
        self.body = narrow::narrowed(self.body.clone(), facts);
        if self.bodies == 0 {
            self.trail.body.is = Grown::of(self.body.clone());
        }
        for (name, is) in &mut self.variables {
            let root = Root::Free(name.clone());
            *is = narrow::about(is.clone(), facts, &root);
            let remade = self.trail.makes(name);
            if let Some(start) = self.trail.variables.get_mut(name).filter(|_| !remade) {
                start.is = Grown::of(is.clone());
            }
        }
    }

    /// The body is made anew.
    fn with_body(&mut self, body: Type<'s>, step: Move) {
        self.body = body;
        self.bodies += 1;
        self.target = None;
        self.trail.moves.push(step);
    }

    /// A variable is made anew, or nothing is known of it any more.
    fn bind(&mut self, name: &str, is: Option<(Type<'s>, Move)>) {
        match is {
            Some((is, step)) => {
                self.variables.insert(name.to_owned(), is);
                // What it began with stays: the moves until then, and this one, may need it.
                self.trail.moves.push(step);
            }
            None => {
                self.variables.remove(name);
                self.trail.variables.remove(name);
            }
        }
    }
}

/// What surrounds the trials of a flow.
fn around<'c>(cx: &'c Cx<'_>) -> Around<'c> {
    Around {
        tables: &cx.known.library.tables,
        keys: cx
            .keys
            .iter()
            .map(|name| Arc::from(name.as_str()))
            .collect(),
    }
}

/// Begins a flow: what it accepts, its keys.
pub(crate) fn begin(cx: &mut Cx<'_>, node: &Node) {
    let contract = cx.contract.as_deref();
    cx.typed.state = contract.and_then(|name| State::of_schema(cx, name));
    let Some(state) = cx.typed.state.clone() else {
        return;
    };
    let needed = |name: &str| {
        let once = node.find(&["once", "key"]);
        let order = node
            .find(&["order_by", "key"])
            .or_else(|| node.get("order_by"));
        [once, order]
            .iter()
            .any(|at| at.and_then(|at| at.as_text()) == Some(name))
    };
    for (key, value) in node.get("keys").map_or(&[][..], Node::entries) {
        let need = if needed(&key.text) {
            Need::Key
        } else {
            Need::TextOrNull
        };
        site::check(cx, &state, value, need);
    }
    if let Some(version) = node.find(&["once", "version"]) {
        site::check(cx, &state, version, Need::Key);
    }
    for path in node.get("personal").map_or(&[][..], Node::items) {
        // Anywhere is nowhere in this schema.
        if path.as_text().is_some_and(|text| !text.starts_with("**")) {
            site::check(cx, &state, path, Need::Any);
        }
    }
}

/// Remembers what the next step validates: the mapping of this one is made for it.
pub(crate) fn look_ahead(cx: &mut Cx<'_>, next: Option<&Node>) {
    let plain = next.filter(|next| next.get("when").is_none() && next.get("on_failure").is_none());
    let name = plain.and_then(|next| next.get("validate")?.as_text());
    cx.typed.next = name.map(str::to_owned);
}

/// A condition beside a structure.
pub(crate) fn condition(cx: &mut Cx<'_>, when: Option<&Node>) {
    if let Some((state, when)) = cx.typed.state.clone().zip(when) {
        site::check(cx, &state, when, Need::Condition);
    }
}

/// A step: its expressions are checked where it stands, then the types behind it hold.
pub(crate) fn step(cx: &mut Cx<'_>, entry: &Entry<'_>) {
    let Some(before) = cx.typed.state.take() else {
        cx.typed.state = restart(cx, entry);
        if let Some(name) = entry.config.as_text().filter(|_| entry.kind == "map") {
            cx.typed.state = mapping::unknown_body(cx, name, entry);
        }
        return;
    };
    let guarded = guarded(cx, entry, &before);
    if guarded.body.is_never() {
        cx.typed.state = Some(before);
        return;
    }
    let after = within(cx, entry, guarded);
    let passed_over = entry.common.when.is_some() || goes_on(entry);
    cx.typed.state = match after {
        // A condition of the step is no condition of what comes behind it.
        Some(after) if passed_over => {
            (after.bodies == before.bodies).then(|| without_new(before, &after))
        }
        after => after,
    };
}

/// Where nothing is known of the body, a schema that it is held against begins anew.
fn restart<'s>(cx: &Cx<'s>, entry: &Entry<'_>) -> Option<State<'s>> {
    let passed_over = entry.common.when.is_some() || goes_on(entry);
    let name = entry.config.as_text()?;
    (entry.kind == "validate" && !passed_over).then(|| State::of_schema(cx, name))?
}

/// Whether a failure of the step lets the message go on as if the step had not been there.
fn goes_on(entry: &Entry<'_>) -> bool {
    let choices = entry
        .common
        .on_failure
        .iter()
        .flat_map(|choices| choices.values());
    choices
        .into_iter()
        .any(|choice| matches!(choice, OnFailure::Continue))
}

/// What was known before; of variables that the step may have bound nothing is.
fn without_new<'s>(mut before: State<'s>, after: &State<'s>) -> State<'s> {
    let changed = |name: &String| {
        let moves = &after.trail.moves[before.trail.moves.len().min(after.trail.moves.len())..];
        !after.variables.contains_key(name)
            || moves
                .iter()
                .any(|step| matches!(step, Move::Variable(bound, _) if bound == name))
    };
    let lost: Vec<String> = before
        .variables
        .keys()
        .filter(|name| changed(name))
        .cloned()
        .collect();
    for name in lost {
        before.bind(&name, None);
    }
    before
}

/// What is known within the step's condition.
fn guarded<'s>(cx: &mut Cx<'s>, entry: &Entry<'_>, before: &State<'s>) -> State<'s> {
    let Some((_, when)) = entry.beside("when") else {
        return before.clone();
    };
    match site::check(cx, before, when, Need::Condition) {
        Some(condition) => before.clone().holding(cx, &condition, true),
        None => before.clone(),
    }
}

/// The step itself; nothing if nobody knows what it makes of the body.
fn within<'s>(cx: &mut Cx<'s>, entry: &Entry<'_>, mut state: State<'s>) -> Option<State<'s>> {
    let config = entry.config;
    match entry.kind {
        "map" => return mapping::step(cx, config, state),
        "validate" => return handed::validate(cx, config, state),
        "filter" => {
            if let Some(condition) = site::check(cx, &state, config, Need::Condition) {
                state = state.holding(cx, &condition, true);
            }
        }
        "set" => return set(cx, config, state),
        "split" => return split(cx, config, state),
        "call" | "http" => {
            requests(cx, entry, &state);
            answer(cx, entry, &mut state);
        }
        "lookup" => {
            if let Some(key) = config.get("key") {
                site::check(cx, &state, key, Need::Any);
            }
            lookup(cx, entry, &mut state);
        }
        "emit" => handed::to_flow(cx, entry, &state),
        "log" | "delay" | "throttle" | "dedupe" | "newest" | "resequence" | "await" => {
            for (field, need) in [
                ("key", Need::Key),
                ("version", Need::Key),
                ("by", Need::Any),
                ("number", Need::Key),
                ("until", Need::Any),
            ] {
                let listed = entry.kind == "newest" && field == "key" || entry.kind == "await";
                if let Some(node) = config.get(field).filter(|_| !listed) {
                    site::check(cx, &state, node, need);
                }
            }
            unbind(entry, &mut state);
        }
        "template" | "decode" | "encode" if entry.common.into.is_some() => {
            unbind(entry, &mut state);
        }
        _ => return None,
    }
    Some(state)
}

fn unbind(entry: &Entry<'_>, state: &mut State<'_>) {
    if let Some(name) = &entry.common.into {
        state.bind(name.trim_start_matches('$'), None);
    }
}

/// The expressions and the mapping of a request.
fn requests<'s>(cx: &mut Cx<'s>, entry: &Entry<'_>, state: &State<'s>) {
    if let Some(key) = entry.config.get("idempotency_key") {
        site::check(cx, state, key, Need::Key);
    }
    if let Some(body) = entry.config.get("body") {
        site::check(cx, state, body, Need::Any);
    }
    if let Some(map) = entry.config.get("map") {
        mapping::used(cx, map, state);
    }
}

/// The variable that an answer becomes: what its schema says, if it must have been there.
fn answer<'s>(cx: &Cx<'s>, entry: &Entry<'_>, state: &mut State<'s>) {
    unbind(entry, state);
    let (Some(into), Some(name)) = (
        &entry.common.into,
        entry.config.get("answer").and_then(Node::as_text),
    ) else {
        return;
    };
    let into = into.trim_start_matches('$');
    let schemas = &cx.known.library.schemas;
    let fallback = entry.config.get("fallback").is_some();
    // A trial has answers before it makes a move: of a variable that was made before nothing is certain.
    if state.trail.makes(into) {
        return;
    }
    if let (Some(schema), Some(at), false) = (
        schemas.get(name),
        At::named(schemas, name),
        entry.common.when.is_some() || fallback || goes_on(entry),
    ) {
        let is = source::body(at, Some(into));
        state.variables.insert(into.to_owned(), is.clone());
        state.trail.variables.insert(
            into.to_owned(),
            Start {
                schema,
                is: Grown::of(is),
            },
        );
    }
}

fn lookup<'s>(cx: &Cx<'s>, entry: &Entry<'_>, state: &mut State<'s>) {
    unbind(entry, state);
    let config = entry.config;
    let text = |field: &str| config.get(field).and_then(Node::as_text);
    let (Some(into), Some(table), Some(column), None) = (
        &entry.common.into,
        text("table"),
        text("column"),
        config.get("missing"),
    ) else {
        return;
    };
    let cells = cx
        .known
        .library
        .tables
        .get(table)
        .and_then(|table| table.cells(column));
    let Some(cells) = cells else { return };
    let mut is = Type::texts(Text::one_of(cells));
    if let Some(default) = text("default") {
        is = is.union(Type::texts(Text::exactly(default)));
    }
    // Its value is made up by no trial: nothing that hangs on it is shown.
    state
        .variables
        .insert(into.trim_start_matches('$').to_owned(), is.or_null());
}

fn set<'s>(cx: &mut Cx<'s>, config: &Node, mut state: State<'s>) -> Option<State<'s>> {
    let before = state.clone();
    for (_, header) in config.get("headers").map_or(&[][..], Node::entries) {
        site::check(cx, &before, header, Need::TextOrNull);
    }
    for (key, value) in config.get("variables").map_or(&[][..], Node::entries) {
        let bound = site::check(cx, &before, value, Need::Any);
        let bound = bound.map(|expression| {
            let is = site::type_of(cx, &before, &expression).in_place();
            (is, Move::Variable(key.text.clone(), expression))
        });
        state.bind(&key.text, bound);
    }
    if let Some(body) = config.get("body") {
        let made = site::check(cx, &before, body, Need::Any)?;
        let is = site::type_of(cx, &before, &made).in_place();
        state.with_body(is, Move::Body(made));
    }
    Some(state)
}

fn split<'s>(cx: &mut Cx<'s>, config: &Node, mut state: State<'s>) -> Option<State<'s>> {
    let items = site::check(cx, &state, config.get("items")?, Need::List)?;
    let list = site::type_of(cx, &state, &items);
    let item = rows::item(&list);
    state.with_body(item, Move::Part(items));
    if let Some(key) = config.get("key") {
        site::check(cx, &state, key, Need::Key);
    }
    Some(state)
}

/// The types of the arms of a branch, one after the other: an arm gets what no arm before it took.
pub(crate) fn arms<'s>(cx: &mut Cx<'s>, arms: &Node, first: bool) -> Vec<Option<State<'s>>> {
    let mut left = cx.typed.state.clone();
    let mut all = Vec::new();
    for arm in arms.items() {
        let Some(state) = left.clone() else {
            all.push(None);
            continue;
        };
        let Some(when) = arm.get("when") else {
            all.push(Some(state));
            continue;
        };
        match site::check(cx, &state, when, Need::Route) {
            Some(condition) => {
                if first {
                    left = Some(state.clone().holding(cx, &condition, false));
                }
                all.push(Some(state.holding(cx, &condition, true)));
            }
            None => all.push(None),
        }
    }
    all
}

/// What holds behind a branch: what held before it, unless an arm made something of the body or of a variable.
pub(crate) fn join<'s>(cx: &mut Cx<'s>, before: Option<State<'s>>, ends: &[Option<State<'s>>]) {
    let mut joined = before;
    for end in ends {
        joined = match (joined, end) {
            (Some(before), Some(end)) if end.bodies == before.bodies => {
                Some(without_new(before, end))
            }
            _ => None,
        };
    }
    cx.typed.state = joined;
}

/// What gets to which sink, by the routes of a flow.
pub(crate) fn routes(cx: &mut Cx<'_>, routes: Option<&Node>) {
    let mut ways: BTreeMap<String, Vec<State<'_>>> = BTreeMap::new();
    if let Some(routes) = routes
        && let Some((list, style)) = super::routes::arms_of(routes)
        && matches!(list.data, Data::List(_))
    {
        let states = arms(cx, list, !super::routes::takes_all(style));
        for (arm, state) in list.items().iter().zip(states) {
            let Some(state) = state else { continue };
            for (name, _) in super::routes::targets(arm) {
                ways.entry(name.to_owned()).or_default().push(state.clone());
            }
        }
        cx.typed.sinks = Some(ways);
    }
}

/// A sink: what gets there is held against its mapping, its expressions and the flow behind it.
pub(crate) fn sink(cx: &mut Cx<'_>, entry: &Entry<'_>, name: &str) {
    let states = match &cx.typed.sinks {
        Some(ways) => ways.get(name).cloned().unwrap_or_default(),
        None => cx.typed.state.clone().into_iter().collect(),
    };
    if states.is_empty()
        && let Some(map) = entry.config.get("map")
        && let Some(name) = map.as_text()
    {
        mapping::unknown_body(cx, name, entry);
    }
    let before = cx.findings.errors();
    for state in states {
        let state = guarded(cx, entry, &state);
        // What is wrong on one way need not be told of the others.
        if state.body.is_never() || cx.findings.errors() > before {
            continue;
        }
        match entry.kind {
            "http" => requests(cx, entry, &state),
            "flow" => handed::to_flow(cx, entry, &state),
            _ => {
                if let Some(map) = entry.config.get("map") {
                    mapping::used(cx, map, &state);
                }
                for group in ["columns", "values"] {
                    let cells = entry.config.get(group).map_or(&[][..], Node::entries);
                    for (_, cell) in cells {
                        site::check(cx, &state, cell, Need::Any);
                    }
                }
            }
        }
    }
}

/// The mapping with this name.
fn mapping_named(cx: &Cx<'_>, name: &str) -> Option<Arc<Mapping>> {
    cx.known.library.mappings.get(name).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{File, Findings};
    use crate::expression::Tables;

    const SCHEMA: &str = r#"{"type": "object", "required": ["code"], "properties": {"code": {"type": "string", "minLength": 1}}}"#;

    /// How many made-up messages get to a place, and that the variable is a text there.
    fn arriving_texts(state: &State<'_>, tables: &Tables) -> usize {
        let around = Around {
            tables,
            keys: Vec::new(),
        };
        let customer = Expression::compile("$customer").unwrap();
        let focus = trial::Focus::default();
        state.trail.search(&around, &focus, &mut |tried| {
            let scope = trial::scope(tried.message, tables).unwrap();
            let value = customer.evaluate(&scope).unwrap();
            assert_eq!(value.type_name(), "string");
            false
        })
    }

    #[test]
    fn a_variable_may_be_made_of_what_it_was_before() {
        let files = [("a".to_owned(), File::new("schemas/a.json", SCHEMA))];
        let schemas = Schemas::load(&files, &mut Findings::new());
        let tables = Tables::new();
        let mut state = State::of(&schemas, "a").unwrap();
        // As an answer that is called `customer` leaves it.
        let answer = source::body(At::named(&schemas, "a").unwrap(), Some("customer"));
        state
            .variables
            .insert("customer".to_owned(), answer.clone());
        let start = Start {
            schema: schemas.get("a").unwrap(),
            is: Grown::of(answer),
        };
        state.trail.variables.insert("customer".to_owned(), start);
        let code = Rc::new(Expression::compile("$customer.code").unwrap());
        let is = {
            let mut infer = Infer::new(code.text(), &state.variables, &tables);
            infer.node(code.root(), &state.body)
        };
        let step = Move::Variable("customer".to_owned(), code);
        state.bind("customer", Some((is, step)));
        assert!(arriving_texts(&state, &tables) > 0);
        // What a later condition says of it is said of what it is then.
        let condition = Expression::compile("$customer != `null`").unwrap();
        let facts = {
            let mut infer = Infer::new(condition.text(), &state.variables, &tables);
            infer.node(condition.root(), &state.body);
            infer.facts(condition.root(), &state.body, true)
        };
        assert!(!facts.is_empty());
        state.knows(&facts);
        assert!(arriving_texts(&state, &tables) > 0);
    }
}
