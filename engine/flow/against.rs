//! Two states of a project against each other: which schemas changed so that bodies or readers no longer fit, judged by who reads and who
//! writes them, and what that breaks. It compares what the files say; it runs nothing and asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span};
use crate::flow::codes;
use crate::flow::governance::reads::{self, Touched};
use crate::flow::governance::{Entry, Kind, Register, Survey, Thing, version_of};
use crate::schema::compatible::{self, Change, Comparison, Direction, Fit};

/// How many places of one finding are shown.
const PLACES_MAX: usize = 12;
/// How much of a body that shows a break is told.
const WITNESS_MAX: usize = 200;

/// What became of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else than before.
    Changed,
}

impl Became {
    /// The word on the screen and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Became::Added => "added",
            Became::Removed => "removed",
            Became::Changed => "changed",
        }
    }
}

/// Who reads and who writes the bodies of a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Others write them, flows take them: from a source, or as an answer.
    pub taken: bool,
    /// Flows write them, others read them.
    pub sent: bool,
    /// Flows write and read them; those in flight, and those that are replayed, were written before.
    pub kept: bool,
}

impl Roles {
    fn or(self, other: Roles) -> Roles {
        Roles {
            taken: self.taken || other.taken,
            sent: self.sent || other.sent,
            kept: self.kept || other.kept,
        }
    }

    /// The words on the screen and in JSON.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            (self.taken, "taken"),
            (self.sent, "sent"),
            (self.kept, "kept"),
        ];
        let named = all.into_iter().filter(|(holds, _)| *holds);
        named.map(|(_, name)| name).collect()
    }
}

/// A place that a change breaks or concerns.
#[derive(Clone, Debug)]
pub struct Affected {
    /// The mapping or flow.
    pub by: Thing,
    /// Where.
    pub place: Place,
    /// What it does there: `reads total`, `never sets currency`.
    pub does: String,
    /// The flows that depend on it.
    pub flows: Vec<String>,
}

/// What became of one schema, and whom it concerns.
#[derive(Clone, Debug)]
pub struct SchemaChange {
    /// The schema's name.
    pub name: String,
    /// What became of it.
    pub became: Became,
    /// The version before it, if it is a new version of another schema; it is compared with that one.
    pub version_of: Option<String>,
    /// How it differs, if there is something to compare it with.
    pub comparison: Option<Comparison>,
    /// Who reads and who writes it.
    pub roles: Roles,
    /// What its changes break or concern.
    pub affected: Vec<Affected>,
    /// Who should be told.
    pub owners: Vec<String>,
}

impl SchemaChange {
    /// How much it breaks: `breaks 3 mappings in 2 flows`; empty if nothing.
    pub fn breaks(&self) -> String {
        let of = |kind: Kind| {
            let of_kind = self.affected.iter().filter(|one| one.by.kind == kind);
            of_kind.map(|one| &one.by).collect::<BTreeSet<_>>().len()
        };
        let flows: BTreeSet<&String> = self.affected.iter().flat_map(|one| &one.flows).collect();
        let mappings = of(Kind::Mapping);
        match (mappings, flows.len()) {
            (0, 0) => String::new(),
            (0, flows) => counted(flows, "flow"),
            (mappings, flows) => {
                format!(
                    "{} in {}",
                    counted(mappings, "mapping"),
                    counted(flows, "flow")
                )
            }
        }
    }
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// What two states of a project make of each other.
#[derive(Debug, Default)]
pub struct Against {
    /// What must not be, or may not be.
    pub findings: Findings,
    /// What became of the schemas that are not as they were, by name.
    pub schemas: Vec<SchemaChange>,
}

/// Compares the new state of a project with an old one.
pub fn compare(old: &Survey, new: &Survey) -> Against {
    let mut against = Against::default();
    let names: BTreeSet<&str> = old.schemas.names().chain(new.schemas.names()).collect();
    let mut comparisons: BTreeMap<&str, Comparison> = BTreeMap::new();
    for name in &names {
        let differ = old.schemas.raw(name) != new.schemas.raw(name)
            || refers_to_changed(old, new, name, &mut Vec::new());
        if differ
            && let Some(found) = compatible::compare((&old.schemas, name), (&new.schemas, name))
            && found.word() != "full"
        {
            comparisons.insert(name, found);
        }
    }
    for (name, found) in &comparisons {
        let change = changed(old, new, name, found);
        judge(new, &change, found, &comparisons, &mut against.findings);
        against.schemas.push(change);
    }
    for name in &names {
        match (old.schemas.get(name), new.schemas.get(name)) {
            (None, Some(_)) => against.schemas.push(added(old, new, name)),
            (Some(_), None) => {
                let change = removed(old, name);
                gone(old, &change, &new.today, &mut against.findings);
                against.schemas.push(change);
            }
            _ => {}
        }
    }
    against.schemas.sort_by(|a, b| a.name.cmp(&b.name));
    flows(old, new, &mut against.findings);
    against
}

/// Whether a schema leads by references to one that is not as it was.
fn refers_to_changed<'s>(
    old: &Survey,
    new: &'s Survey,
    name: &'s str,
    seen: &mut Vec<&'s str>,
) -> bool {
    if seen.contains(&name) {
        return false;
    }
    seen.push(name);
    let Some(entry) = new.register.get(Kind::Schema, name) else {
        return false;
    };
    entry.uses.iter().any(|used| {
        let other = used.thing.name.as_str();
        old.schemas.raw(other) != new.schemas.raw(other) || refers_to_changed(old, new, other, seen)
    })
}

/// Who reads and who writes a schema.
fn roles(register: &Register, name: &str, seen: &mut BTreeSet<String>) -> Roles {
    let mut roles = Roles::default();
    if !seen.insert(name.to_owned()) {
        return roles;
    }
    for (user, used) in register.users(&Thing::new(Kind::Schema, name)) {
        match (user.thing.kind, used.by.as_str()) {
            (Kind::Flow, "accepts") => {
                let inner = matches!(user.source.as_deref(), Some("flow"));
                roles.taken |= !inner;
                roles.kept |= inner;
            }
            (_, "answer") => roles.taken = true,
            (Kind::Mapping, "to") => {
                let users = register.users(&user.thing);
                let sends = users
                    .iter()
                    .any(|(user, used)| used.by == "sends" || user.sends_whole);
                roles.sent |= sends;
                roles.kept |= !sends && !users.is_empty();
            }
            (Kind::Schema, _) => roles = roles.or(self::roles(register, &user.thing.name, seen)),
            (Kind::Mapping, _) => roles.kept |= !register.users(&user.thing).is_empty(),
            _ => roles.kept = true,
        }
    }
    roles
}

fn changed(old: &Survey, new: &Survey, name: &str, found: &Comparison) -> SchemaChange {
    let thing = Thing::new(Kind::Schema, name);
    let before = roles(&old.register, name, &mut BTreeSet::new());
    let mut owners: BTreeSet<&str> = new.register.owners_of(&thing);
    owners.extend(old.register.owners_of(&thing));
    SchemaChange {
        name: name.to_owned(),
        became: Became::Changed,
        version_of: None,
        comparison: Some(found.clone()),
        roles: roles(&new.register, name, &mut BTreeSet::new()).or(before),
        affected: affected(new, name, found),
        owners: owners.into_iter().map(str::to_owned).collect(),
    }
}

/// A new schema; if it is a new version of one that there is, what those would meet who move to it.
fn added(old: &Survey, new: &Survey, name: &str) -> SchemaChange {
    let before = version_of(name).and_then(|(stem, version)| {
        let versions = (0..version)
            .rev()
            .map(|version| format!("{stem}.v{version}"));
        versions
            .into_iter()
            .find(|name| new.schemas.get(name).is_some() || old.schemas.get(name).is_some())
    });
    let from = before.as_deref().map(|before| {
        if new.schemas.get(before).is_some() {
            (new, before)
        } else {
            (old, before)
        }
    });
    let comparison = from.and_then(|(state, before)| {
        compatible::compare((&state.schemas, before), (&new.schemas, name))
    });
    let (mut affected_by, mut owners) = (Vec::new(), BTreeSet::new());
    if let (Some((state, before)), Some(found)) = (from, &comparison) {
        affected_by = affected(state, before, found);
        let thing = Thing::new(Kind::Schema, before);
        owners = state.register.owners_of(&thing);
    }
    SchemaChange {
        name: name.to_owned(),
        became: Became::Added,
        roles: roles(&new.register, name, &mut BTreeSet::new()),
        comparison,
        affected: affected_by,
        owners: owners.into_iter().map(str::to_owned).collect(),
        version_of: before,
    }
}

fn removed(old: &Survey, name: &str) -> SchemaChange {
    let owners = old.register.owners_of(&Thing::new(Kind::Schema, name));
    SchemaChange {
        name: name.to_owned(),
        became: Became::Removed,
        version_of: None,
        comparison: None,
        roles: roles(&old.register, name, &mut BTreeSet::new()),
        affected: Vec::new(),
        owners: owners.into_iter().map(str::to_owned).collect(),
    }
}

/// The mappings and keys that read or set what changed.
fn affected(state: &Survey, name: &str, found: &Comparison) -> Vec<Affected> {
    let mut all = Vec::new();
    let both = || found.backward.iter().chain(&found.forward);
    for (user, used) in state.register.users(&Thing::new(Kind::Schema, name)) {
        let by = &user.thing;
        let flows: Vec<String> = match by.kind {
            Kind::Flow => vec![by.name.clone()],
            _ => state
                .register
                .flows_of(by)
                .iter()
                .map(|flow| (*flow).to_owned())
                .collect(),
        };
        let mut note = |span: Span, does: String| {
            let place = Place {
                file: user.place.file.clone(),
                span,
            };
            let one = Affected {
                by: by.clone(),
                place,
                does,
                flows: flows.clone(),
            };
            let known = all.iter().any(|known: &Affected| {
                known.by == one.by && known.place.span == one.place.span && known.does == one.does
            });
            if !known {
                all.push(one);
            }
        };
        match (by.kind, used.by.as_str()) {
            (Kind::Mapping, "from") => {
                let Some(source) = state.mappings.get(&by.name) else {
                    continue;
                };
                let read = reads::mapping(&source.node).read;
                touched(both(), &read, "reads", &mut note);
            }
            (Kind::Mapping, "to") => {
                let Some(source) = state.mappings.get(&by.name) else {
                    continue;
                };
                let set = reads::mapping(&source.node).set;
                let whole = |change: &&Change| {
                    let path = reads::plain(&change.whole_path());
                    change.required && !set.iter().any(|one| reads::meet(&one.path, &path))
                };
                for change in found.backward.iter().filter(whole) {
                    let does = format!("never sets `{}`", change.whole_path());
                    note(used.place.span, does);
                }
                let others = found.backward.iter().filter(|change| !change.required);
                touched(others, &set, "sets", &mut note);
            }
            _ => {}
        }
    }
    all
}

fn touched<'c>(
    changes: impl Iterator<Item = &'c Change>,
    fields: &[Touched],
    does: &str,
    note: &mut dyn FnMut(Span, String),
) {
    for change in changes {
        let path = change.whole_path();
        let plain = reads::plain(&path);
        if plain.is_empty() {
            continue;
        }
        for one in fields {
            // Who reads the whole body reads this too, and need not mind.
            if !one.path.is_empty() && reads::meet(&one.path, &plain) {
                note(one.span, format!("{does} `{path}`"));
            }
        }
    }
}

/// What a change in place means for those who read and write the schema.
fn judge(
    new: &Survey,
    change: &SchemaChange,
    found: &Comparison,
    all: &BTreeMap<&str, Comparison>,
    findings: &mut Findings,
) {
    let wanted = new
        .schemas
        .raw(&change.name)
        .and_then(|raw| raw.get("x-compatibility")?.as_str());
    let (backward, forward) = match wanted {
        Some("none") => (false, false),
        Some("backward") => (true, false),
        Some("forward") => (false, true),
        Some("full") => (true, true),
        _ => (change.roles.taken || change.roles.kept, change.roles.sent),
    };
    for (holds, direction) in [
        (backward, Direction::Backward),
        (forward, Direction::Forward),
    ] {
        if !holds || found.fit(direction) == Fit::Proved {
            continue;
        }
        for one in found.changes(direction) {
            // A change in a schema that this one refers to is told there.
            if one.place.0 != change.name && all.contains_key(one.place.0.as_str()) {
                continue;
            }
            findings.push(finding(new, change, one, direction));
        }
    }
}

fn finding(new: &Survey, change: &SchemaChange, one: &Change, direction: Direction) -> Diagnostic {
    let at = if one.path.is_empty() {
        String::new()
    } else {
        format!("`{}`: ", one.path)
    };
    let who = match direction {
        Direction::Backward if change.roles.taken => "senders still write what it refuses now",
        Direction::Backward => "messages in flight and replays still hold what it refuses now",
        Direction::Forward => "receivers get what they were told would not come",
    };
    let place = place(new, &one.place);
    let mut help = hint(&change.name, new);
    let breaks = change.breaks();
    if !breaks.is_empty() {
        help.push_str(&format!("; it concerns {breaks}"));
    }
    if !change.owners.is_empty() {
        help.push_str(&format!("; tell {}", change.owners.join(", ")));
    }
    let name = &change.name;
    let finding = match &one.witness {
        Some(witness) => {
            help.push_str(&format!("; a body that shows it: {}", cut(witness)));
            let message = format!("`{name}` breaks: {at}{}; {who}", one.reason);
            Diagnostic::error(codes::BREAKING_CHANGE, place, message)
        }
        None => {
            let message = format!("`{name}` may break: {at}{}", one.reason);
            Diagnostic::warning(codes::UNCLEAR_CHANGE, place, message)
        }
    };
    let mut finding = finding.help(help);
    let path = one.whole_path();
    for affected in &change.affected {
        if finding.related.len() < PLACES_MAX && affected.does.ends_with(&format!("`{path}`")) {
            let flows = affected.flows.join(", ");
            let words = if flows.is_empty() {
                format!("{} {}", affected.by, affected.does)
            } else {
                format!("{} {} (in {flows})", affected.by, affected.does)
            };
            finding = finding.related(affected.place.clone(), words);
        }
    }
    finding
}

/// What to do about a change in place.
fn hint(name: &str, new: &Survey) -> String {
    match version_of(name) {
        Some((stem, version)) => {
            let next = format!("{stem}.v{}", version + 1);
            if new.schemas.get(&next).is_some() {
                format!("leave `{name}` as it was: there is `{next}`")
            } else {
                format!("leave `{name}` as it was, make `{next}`, and move to it one by one")
            }
        }
        None => format!("leave it as it was and make a version of it, such as `{name}.v2`"),
    }
}

fn place(new: &Survey, (name, pointer): &(String, String)) -> Place {
    match new.files.get(name) {
        Some(file) => {
            let (start, end) = compatible::span_of(&file.text, pointer).unwrap_or_default();
            Place {
                file: file.clone(),
                span: Span::new(start, end),
            }
        }
        None => nowhere(format!("schemas/{name}.json")),
    }
}

/// The beginning of a file that is not there.
fn nowhere(path: String) -> Place {
    Place {
        file: File::new(path, ""),
        span: Span::default(),
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= WITNESS_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(WITNESS_MAX).collect();
    format!("{start}…")
}

/// A schema that is gone.
fn gone(old: &Survey, change: &SchemaChange, today: &str, findings: &mut Findings) {
    if !(change.roles.taken || change.roles.sent) {
        return;
    }
    let entry = old.register.get(Kind::Schema, &change.name);
    let place = nowhere(format!("schemas/{}.json", change.name));
    let who = if change.roles.taken {
        "others still write it"
    } else {
        "others still read it"
    };
    let message = format!("the schema `{}` is gone, and {who}", change.name);
    announced(
        entry,
        today,
        (codes::SCHEMA_GONE, place, message),
        &change.owners,
        findings,
    );
}

/// Reports what is gone, unless its last day was announced and is past.
fn announced(
    entry: Option<&Entry>,
    today: &str,
    (code, place, message): (Code, Place, String),
    owners: &[String],
    findings: &mut Findings,
) {
    let deprecated = entry.and_then(|entry| entry.deprecated.as_ref());
    if deprecated.is_some_and(|deprecated| deprecated.is_over(today)) {
        return;
    }
    let mut help = match deprecated.and_then(|deprecated| deprecated.sunset.as_ref()) {
        Some(sunset) => format!("keep it until {sunset}, as was announced"),
        None => "keep it, and announce its last day with `deprecated: { sunset: .. }` (`x-deprecated` in a schema)".to_owned(),
    };
    if !owners.is_empty() {
        help.push_str(&format!("; tell {}", owners.join(", ")));
    }
    findings.push(Diagnostic::error(code, place, message).help(help));
}

/// Flows that no longer take what they took.
fn flows(old: &Survey, new: &Survey, findings: &mut Findings) {
    let heard: BTreeSet<&str> = new
        .register
        .of(Kind::Flow)
        .filter_map(|flow| flow.listens.as_deref())
        .collect();
    for flow in old.register.of(Kind::Flow) {
        let now = new.register.get(Kind::Flow, &flow.thing.name);
        if let Some(listens) = flow.listens.as_deref().filter(|at| !heard.contains(at)) {
            let path = flow.place.file.path.clone();
            let place = now.map_or_else(|| nowhere(path), |now| now.place.clone());
            let message = format!(
                "nothing listens at `{listens}` any more, where `{}` did",
                flow.thing.name
            );
            let owners: Vec<String> = flow.owner.iter().cloned().collect();
            announced(
                Some(flow),
                &new.today,
                (codes::FLOW_GONE, place, message),
                &owners,
                findings,
            );
        }
        if let Some(now) = now
            && flow.source.as_deref() != Some("flow")
        {
            contract(old, new, (flow, now), findings);
        }
    }
}

/// A flow that takes another schema than it did: what came until now must still be taken.
fn contract(old: &Survey, new: &Survey, (was, now): (&Entry, &Entry), findings: &mut Findings) {
    let accepts = |entry: &'_ Entry| {
        let mut uses = entry.uses.iter();
        uses.find(|used| used.by == "accepts").cloned()
    };
    let Some(after) = accepts(now) else { return };
    let Some(before) = accepts(was) else { return };
    if before.thing == after.thing {
        return;
    }
    let (from, to) = (&before.thing.name, &after.thing.name);
    let Some(found) = compatible::compare((&old.schemas, from), (&new.schemas, to)) else {
        return;
    };
    let Some(first) = found
        .backward
        .iter()
        .max_by_key(|one| one.witness.is_some())
    else {
        return;
    };
    let at = first.whole_path();
    let flow = &now.thing.name;
    let help = format!(
        "let a flow of its own take `{to}` beside this one until nobody sends `{from}`, or map the one to the other"
    );
    let finding = match &first.witness {
        Some(witness) => {
            let message = format!(
                "the flow `{flow}` takes `{to}` now and took `{from}`: `{at}`: {}",
                first.reason
            );
            let help = format!("{help}; a body that shows it: {}", cut(witness));
            Diagnostic::error(codes::BREAKING_CHANGE, after.place.clone(), message).help(help)
        }
        None => {
            let message = format!(
                "the flow `{flow}` takes `{to}` now and took `{from}`, and may refuse what it took: `{at}`: {}",
                first.reason
            );
            Diagnostic::warning(codes::UNCLEAR_CHANGE, after.place.clone(), message).help(help)
        }
    };
    findings.push(finding);
}
