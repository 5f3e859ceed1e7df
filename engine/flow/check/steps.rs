//! `steps`: a list of entries, with branches and fragments, becomes nodes in a row that join again behind each branch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entry::{self, Entry};
use super::names::Declared;
use super::parts::{self, LateTo};
use super::{Cx, condition, fragments, names, sagas, types};
use crate::component::common::RetryRule;
use crate::component::waiting::Waiting;
use crate::diagnostic::Place;
use crate::flow::codes;
use crate::flow::plan::{Action, Node as PlanNode, Route, Saga};
use crate::flow::shapes::{self, Role};
use crate::step::Ready;
use crate::step::StepKind;
use crate::yaml::shape;
use crate::yaml::{Data, Node};

/// How deep branches may nest.
pub(crate) const BRANCHES_MAX: usize = 16;

/// A key by which messages of another flow are awaited.
pub(crate) struct AwaitedKey {
    /// The other flow.
    pub(crate) flow: String,
    /// The key.
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) place: Place,
}

/// A plan's nodes, while they are collected.
pub(crate) struct Draft {
    /// The nodes so far.
    pub(crate) nodes: Vec<PlanNode>,
    /// Nodes whose next one is not known yet: whatever comes next.
    pub(crate) open: Vec<usize>,
    /// The ids so far.
    pub(crate) ids: Declared,
    /// Failure routes whose sink is not known yet.
    pub(crate) late: Vec<LateTo>,
    /// The longest that the retries of one effect may take, and where it stands.
    pub(crate) window: Option<(u64, Place)>,
    /// The flows that it hands over to, each with the place that says so.
    pub(crate) hands_over: Vec<(String, Place)>,
    /// The keys by which messages of other flows are awaited.
    pub(crate) awaits: Vec<AwaitedKey>,
    /// Arms of branches without steps of their own: node and arm.
    empty_arms: Vec<(usize, usize)>,
    /// How many entries of each kind there were, for default ids.
    counts: BTreeMap<String, usize>,
    /// Ids that somebody has chosen: no default takes them.
    chosen: BTreeSet<String>,
    /// The saga whose steps are looked at.
    pub(crate) saga: Option<sagas::Open>,
    /// The sagas so far.
    pub(crate) sagas: Vec<Saga>,
    /// What stands before the ids of a fragment's steps.
    prefix: String,
    /// How deep the branch at hand is nested.
    depth: usize,
}

impl Draft {
    /// Nothing yet; these ids are chosen in the file.
    pub(crate) fn new(chosen: BTreeSet<String>) -> Draft {
        Draft {
            nodes: Vec::new(),
            open: Vec::new(),
            ids: Declared::new("steps or sinks", codes::DUPLICATE_ID),
            late: Vec::new(),
            window: None,
            hands_over: Vec::new(),
            awaits: Vec::new(),
            empty_arms: Vec::new(),
            counts: BTreeMap::new(),
            chosen,
            saga: None,
            sagas: Vec::new(),
            prefix: String::new(),
            depth: 0,
        }
    }

    /// Adds a node behind all that is open.
    pub(crate) fn push(&mut self, node: PlanNode) -> usize {
        let at = self.nodes.len();
        for open in self.open.drain(..) {
            self.nodes[open].next = Some(at);
        }
        self.nodes.push(node);
        self.open.push(at);
        at
    }

    /// Remembers the flow that a sink `flow` or a step `emit` names: as a text, or in its field `flow` or `to`.
    pub(crate) fn note_hand_over(&mut self, cx: &Cx<'_>, entry: &Entry<'_>) {
        if let Some((name, node)) = handed_to(entry) {
            self.hands_over.push((name.to_owned(), cx.place(node.span)));
        }
    }

    /// Remembers the key and the flow that a step `await` names.
    fn note_await(&mut self, cx: &Cx<'_>, entry: &Entry<'_>) {
        let text = |field| {
            Some((
                entry.config.get(field)?.as_text()?,
                entry.config.get(field)?,
            ))
        };
        if let ("await", Some((flow, _)), Some((key, at))) = (entry.kind, text("from"), text("key"))
            && cx.keys.contains(key)
        {
            self.awaits.push(AwaitedKey {
                flow: flow.to_owned(),
                key: key.to_owned(),
                place: cx.place(at.span),
            });
        }
    }

    /// Remembers the longest retry.
    pub(crate) fn note_window(&mut self, window_ms: u64, place: Place) {
        if self
            .window
            .as_ref()
            .is_none_or(|(longest, _)| *longest < window_ms)
        {
            self.window = Some((window_ms, place));
        }
    }

    /// Lets the arms without steps lead to where their branch joins.
    pub(crate) fn close_arms(&mut self) {
        for (node, arm) in std::mem::take(&mut self.empty_arms) {
            let join = self.nodes[node].next;
            if let Action::Route(route) = &mut self.nodes[node].action {
                route.arms[arm].1.extend(join);
            }
        }
    }

    /// An id that nobody has chosen: the kind, or the kind and a number.
    fn default_id(&mut self, kind: &str) -> String {
        let base = format!("{}{kind}", self.prefix);
        let count = self.counts.entry(base.clone()).or_default();
        loop {
            *count += 1;
            let id = match *count {
                1 => base.clone(),
                count => format!("{base}-{count}"),
            };
            if !self.chosen.contains(&id) {
                return id;
            }
        }
    }
}

/// The flow that a sink `flow` or a step `emit` names: as a text, or in its field `flow` or `to`.
fn handed_to<'n>(entry: &Entry<'n>) -> Option<(&'n str, &'n Node)> {
    if !["flow", "emit"].contains(&entry.kind) {
        return None;
    }
    let config = entry.config;
    [Some(config), config.get("flow"), config.get("to")]
        .into_iter()
        .flatten()
        .find_map(|node| node.as_text().map(|name| (name, node)))
}

/// Checks a list of steps and adds them to the draft.
pub(crate) fn sequence(cx: &mut Cx<'_>, draft: &mut Draft, list: &Node) {
    match &list.data {
        Data::List(items) => {
            for (at, item) in items.iter().enumerate() {
                types::look_ahead(cx, items.get(at + 1));
                step(cx, draft, item);
            }
        }
        Data::Null => {}
        _ => {
            let span = entry::first_line(cx, list);
            let message = "`steps` is a list";
            let help = "begin each step with `- `";
            cx.error(shape::codes::WRONG_TYPE, span, message, help);
            cx.variables_uncertain = true;
        }
    }
}

fn step(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node) {
    if node.get("use").is_some() {
        return fragments::used_step(cx, draft, node);
    }
    if node.get("branch").is_some() {
        return branch(cx, draft, node);
    }
    if node.get("saga").is_some() {
        return sagas::saga(cx, draft, node);
    }
    let without_undo = sagas::without_undo(node);
    let whole = node;
    let node = without_undo.as_ref().unwrap_or(whole);
    let Some(entry) = entry::read(cx, Role::Step, node, node.span) else {
        // What it might have bound or made of the body nobody knows.
        cx.variables_uncertain = true;
        cx.contract = None;
        cx.typed.state = None;
        return;
    };
    draft.note_hand_over(cx, &entry);
    draft.note_await(cx, &entry);
    types::step(cx, &entry);
    super::contract::step(cx, &entry);
    let id = id(cx, draft, entry.kind, entry.common.id.as_deref(), node);
    let when = parts::when(cx, &entry);
    let known_before = cx.variables.clone();
    let Some(ready) = parts::ready::<StepKind>(cx, &entry) else {
        broken(cx, &entry);
        parts::broken(cx, &entry, draft, None);
        sagas::step(cx, draft, &entry, whole, None);
        return;
    };
    let action = match ready {
        Ready::Pure(pure) => {
            let why = "it has no effect outside, so repeating it gives the same";
            parts::meaningless(cx, &entry, &["retry", "timeout", "probe"], why);
            pure_into(cx, &entry, &known_before);
            filter_decides(cx, &entry);
            Action::Pure(pure)
        }
        Ready::Claim(claim) => {
            let why = "it asks the engine's own store, which needs none of that";
            parts::meaningless(cx, &entry, &["retry", "timeout", "probe", "into"], why);
            Action::Claim(claim)
        }
        Ready::Wait(waiting) => {
            let why = "it waits in the engine's own store, which needs none of that";
            parts::meaningless(cx, &entry, &["retry", "timeout", "probe"], why);
            match waiting {
                Waiting::Answer(_) | Waiting::Group(_) => parts::bind(cx, &entry),
                Waiting::Time(_) | Waiting::Pace(_) | Waiting::Turn(_) => {
                    parts::meaningless(cx, &entry, &["into"], "there is no answer to bind");
                }
            }
            field_decides(cx, &entry, "await", "match");
            field_decides(cx, &entry, "collect", "complete");
            Action::Wait(Arc::new(waiting))
        }
        Ready::Effect(effect) => {
            parts::guard(cx, &entry, &id, &effect);
            parts::bind(cx, &entry);
            Action::Effect(effect)
        }
    };
    let at = add(cx, draft, &entry, id, when, action, false);
    sagas::step(cx, draft, &entry, whole, Some(at));
}

/// Adds a node for an entry.
pub(crate) fn add(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    entry: &Entry<'_>,
    id: String,
    when: Option<crate::expression::Expression>,
    action: Action,
    sink: bool,
) -> usize {
    let retry = parts::retry(cx, entry);
    if let Action::Effect(effect) = &action {
        let promises = effect.promises();
        let window = parts::window_ms(retry, promises.timeout_ms);
        draft.note_window(window, cx.place(entry.key.span));
    }
    let at = draft.nodes.len();
    let of = sink.then_some(id.as_str());
    let on_failure = parts::on_failure(cx, entry, Some(at), of, &mut draft.late);
    let node = PlanNode {
        id: Arc::from(id),
        kind: entry.kind,
        when,
        action,
        next: None,
        retry,
        on_failure,
        milestone: entry.common.milestone.as_deref().map(Arc::from),
        sink,
        system: entry
            .config
            .get("system")
            .and_then(Node::as_text)
            .map(Arc::from),
        hands_to: handed_to(entry).map(|(name, _)| Arc::from(name)),
        keeps: cx.contract.as_deref().map(Arc::from),
    };
    if sink {
        draft.nodes.push(node);
        at
    } else {
        draft.push(node)
    }
}

/// The id of a step: as given, else from its kind; told if it stands twice or cannot be a name.
pub(super) fn id(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    kind: &str,
    given: Option<&str>,
    node: &Node,
) -> String {
    let Some((given, at)) = given.zip(node.get("id")) else {
        return draft.default_id(kind);
    };
    names::usable(cx, "step", at);
    let id = format!("{}{given}", draft.prefix);
    let place = cx.place(at.span);
    let mut findings = crate::diagnostic::Findings::new();
    draft.ids.declare(&id, place, &mut findings);
    for finding in findings.iter() {
        cx.report(finding.clone());
    }
    id
}

/// What a broken step might have bound.
fn broken(cx: &mut Cx<'_>, entry: &Entry<'_>) {
    parts::bind(cx, entry);
    // What `set` binds can be read even if its expressions are broken.
    let bound = entry.config.get("variables").map_or(&[][..], Node::entries);
    cx.variables
        .extend(bound.iter().map(|(key, _)| key.text.clone()));
}

/// `into` beside a step that binds nothing.
fn pure_into(cx: &mut Cx<'_>, entry: &Entry<'_>, before: &BTreeSet<String>) {
    let Some(name) = &entry.common.into else {
        return;
    };
    if cx.variables.contains(name) && !before.contains(name) {
        if let (Some(fault), Some((_, node))) = (names::variable_fault(name), entry.beside("into"))
        {
            let message = format!("`{name}` cannot be the name of a variable");
            cx.error(codes::BAD_NAME, node.span, message, fault);
        }
        return;
    }
    if !before.contains(name) {
        let why = "it makes a new body and gives no answer; `set` binds variables";
        parts::meaningless(cx, entry, &["into"], why);
        cx.variables.insert(name.clone());
    }
}

/// The expression of a `filter` is compiled by the part; here only what it can give is looked at.
fn filter_decides(cx: &mut Cx<'_>, entry: &Entry<'_>) {
    if entry.kind == "filter"
        && let Some(Ok(expression)) = entry
            .config
            .as_text()
            .map(crate::expression::Expression::compile)
    {
        condition::decides(cx, entry.config, &expression);
    }
}

/// The same for an expression in a field of a kind.
fn field_decides(cx: &mut Cx<'_>, entry: &Entry<'_>, kind: &str, field: &str) {
    if entry.kind == kind
        && let Some(node) = entry.config.get(field)
        && let Some(Ok(expression)) = node.as_text().map(crate::expression::Expression::compile)
    {
        condition::decides(cx, node, &expression);
    }
}

/// A node that only decides where messages go.
pub(crate) fn route_node(id: &str, kind: &'static str, route: Route, rule: RetryRule) -> PlanNode {
    PlanNode {
        id: Arc::from(id),
        kind,
        when: None,
        action: Action::Route(route),
        next: None,
        retry: rule,
        on_failure: Vec::new(),
        milestone: None,
        sink: false,
        system: None,
        hands_to: None,
        keeps: None,
    }
}

/// Reports what stands beside a structure and has no meaning there.
pub(super) fn beside(cx: &mut Cx<'_>, node: &Node, structure: &str, known: &[&str]) {
    for (key, _) in node.entries() {
        let name = key.text.as_str();
        if known.contains(&name) {
            continue;
        }
        if shapes::common_keys().contains(&name) {
            let message =
                format!("`{name}` has no effect on `{structure}`: its steps have their own");
            let help = format!("move it to a step of the {structure}");
            cx.error(codes::MEANINGLESS_KEY, key.span, message, help);
        } else {
            let message = format!("unknown key `{name}` beside `{structure}`");
            let help = format!("beside `{structure}` there may be: {}", known.join(", "));
            cx.error(shape::codes::UNKNOWN_FIELD, key.span, message, help);
        }
    }
}

/// `branch`: the arms' steps, each a row of its own, joining behind.
fn branch(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node) {
    beside(cx, node, "branch", &["id", "when", "branch", "milestone"]);
    let given = node.get("id").and_then(Node::as_text);
    let id = id(cx, draft, "branch", given, node);
    let when = node
        .get("when")
        .and_then(|when| condition::condition(cx, when));
    types::condition(cx, node.get("when"));
    let Some(arms) = node.get("branch") else {
        return;
    };
    let findings = entry::check(cx, shapes::branch(), arms);
    let sound = !findings.has_errors();
    for finding in findings.iter() {
        cx.report(finding.clone());
    }
    draft.depth += 1;
    if draft.depth > BRANCHES_MAX {
        let message = format!("branches are nested deeper than {BRANCHES_MAX}");
        let span = entry::first_line(cx, arms);
        cx.error(
            crate::component::codes::BAD_VALUE,
            span,
            message,
            "move the inner steps to a flow of their own",
        );
    } else {
        arms_of(cx, draft, &id, when, arms, sound);
    }
    draft.depth -= 1;
}

fn arms_of(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    id: &str,
    when: Option<crate::expression::Expression>,
    arms: &Node,
    sound: bool,
) {
    let route = Route {
        all: false,
        arms: Vec::new(),
        otherwise: Some(Vec::new()),
    };
    let mut node = route_node(id, "branch", route, cx.known.retry);
    node.when = when;
    let at = draft.push(node);
    draft.open.clear();
    let mut ends = vec![at];
    let before = cx.variables.clone();
    let mut after = before.clone();
    let contract = cx.contract.clone();
    let mut kept = true;
    let typed = cx.typed.state.clone();
    let mut states = types::arms(cx, arms, true).into_iter();
    let mut ended = Vec::new();
    let heads = super::routes::arms(cx, arms, &super::routes::BRANCH, sound);
    for (arm, head) in arms.items().iter().zip(heads) {
        let steps = arm
            .find(&["otherwise", "steps"])
            .or_else(|| arm.get("steps"));
        cx.variables.clone_from(&before);
        cx.contract.clone_from(&contract);
        cx.typed.state = states.next().flatten();
        draft.open.clear();
        let first = draft.nodes.len();
        if let Some(steps) = steps {
            sequence(cx, draft, steps);
        }
        let targets = if draft.nodes.len() > first {
            vec![first]
        } else {
            Vec::new()
        };
        let empty = targets.is_empty();
        kept &= cx.contract == contract;
        ended.push(cx.typed.state.take());
        ends.append(&mut draft.open);
        after.append(&mut cx.variables);
        if let Action::Route(route) = &mut draft.nodes[at].action {
            match head {
                super::routes::Head::When(expression) => {
                    route.arms.push((expression, targets));
                    if empty {
                        draft.empty_arms.push((at, route.arms.len() - 1));
                    }
                }
                super::routes::Head::Otherwise => route.otherwise = Some(targets),
                super::routes::Head::Broken => {}
            }
        }
    }
    cx.variables = after;
    types::join(cx, typed, &ended);
    cx.contract = contract.filter(|_| kept);
    draft.open = ends;
}

/// Lets `work` add steps whose ids begin with this prefix.
pub(crate) fn with_prefix(draft: &mut Draft, prefix: &str, work: impl FnOnce(&mut Draft)) {
    let before = std::mem::take(&mut draft.prefix);
    draft.prefix = format!("{before}{prefix}.");
    work(draft);
    draft.prefix = before;
}

/// Lets `work` add steps that are only run where the condition is true.
pub(crate) fn guarded(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    id: &str,
    condition: crate::expression::Expression,
    work: impl FnOnce(&mut Cx<'_>, &mut Draft),
) {
    let route = Route {
        all: false,
        arms: Vec::new(),
        otherwise: Some(Vec::new()),
    };
    let at = draft.push(route_node(id, "use", route, cx.known.retry));
    draft.open.clear();
    let first = draft.nodes.len();
    work(cx, draft);
    let targets = if draft.nodes.len() > first {
        vec![first]
    } else {
        Vec::new()
    };
    let empty = targets.is_empty();
    if let Action::Route(route) = &mut draft.nodes[at].action {
        route.arms.push((condition, targets));
    }
    if empty {
        draft.empty_arms.push((at, 0));
    }
    draft.open.push(at);
}
