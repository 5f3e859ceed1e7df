//! A run of a store as a test: what came in, what the systems answered, what was sent. Secrets are left out, and what is masked says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;

use crate::body::{Body, Item, Kind, write_string};
use crate::failure::{Class, Failure};
use crate::flow::plan::{Action, Plan, Project};
use crate::personal::Mask;
use crate::store::effects::{EffectRow, EffectStanding};
use crate::store::envelope::Envelope;
use crate::store::reader::Reader;
use crate::store::runs::RunDetail;

/// Parts of names of headers and fields that hold secrets.
const SECRET: &[&str] = &[
    "authorization",
    "cookie",
    "password",
    "secret",
    "token",
    "signature",
    "hmac",
    "api-key",
    "api_key",
    "apikey",
];
/// Values that are shorter stand in too many places to be looked for in paths.
const SOUGHT_MIN: usize = 3;

/// The text of a test file that does once more what the run did. `mask` names fields of the accepted body; their values are replaced
/// wherever they stand.
///
/// Fails with class `not_found` if there is no such run, and if retention has removed what it needs.
pub async fn keep(
    reader: &Reader,
    project: &Project,
    run: &str,
    mask: &[String],
) -> Result<String, Failure> {
    let detail = reader.run(run).await?;
    let detail = detail.ok_or_else(|| {
        let message = format!("there is no run `{run}`; `crossdock runs` lists them");
        Failure::new(Class::NotFound, message)
    })?;
    let gone = || {
        let message = format!("retention has removed the body of run {run}");
        Failure::new(Class::NotFound, message)
    };
    let accepted = detail.body.clone().ok_or_else(gone)?;
    let plan = project
        .plans
        .get(&detail.row.flow)
        .ok_or_else(|| Failure::config(format!("the project has no flow `{}`", detail.row.flow)))?;
    let masked = Masked::of(&accepted, mask, personal(plan, &accepted)?)?;
    let handed = handed(reader, &detail, plan).await?;
    let mut text = String::new();
    let put = &mut text;
    line(put, 0, format_args!("flow: {}", detail.row.flow));
    line(put, 0, format_args!("tests:"));
    line(
        put,
        1,
        format_args!("- test: run {}, as it was", detail.row.run.0),
    );
    let clock = jiff::Timestamp::from_millisecond(detail.row.received_at_ms).unwrap_or_default();
    line(put, 2, format_args!("clock: {clock}"));
    let effects = effects(&detail);
    systems(put, &effects, plan, &masked);
    line(put, 2, format_args!("send:"));
    let shown = masked.document(&accepted);
    let (key, value) = match shown {
        Some(json) => ("body", json),
        None => ("text", masked.quoted(&String::from_utf8_lossy(&accepted))),
    };
    line(put, 3, format_args!("- {key}: {value}"));
    headers(put, &detail, &masked)?;
    line(put, 2, format_args!("expect:"));
    calls(put, &effects, plan, &masked);
    outputs(put, &handed, plan, &masked);
    exceptions(put, &detail);
    let keys = detail.row.keys.iter();
    let keys: Vec<String> = keys
        .map(|(name, value)| format!("{name}: {}", masked.quoted(value)))
        .collect();
    line(
        put,
        3,
        format_args!(
            "runs: [{{ state: {}, keys: {{ {} }} }}]",
            detail.row.state.name(),
            keys.join(", ")
        ),
    );
    Ok(text)
}

/// The values that the flow says are personal: a file in a project is no place for them.
fn personal(plan: &Plan, accepted: &Bytes) -> Result<BTreeSet<String>, Failure> {
    let mut mask = Mask::new((*plan.personal).clone());
    if !plan.personal.is_empty() {
        mask.learn(accepted, true);
    }
    match mask.is_blind() {
        true => Err(Failure::config(
            "what is personal in this message cannot be told: its body is no JSON, or has too much of it",
        )),
        false => Ok(mask.values().clone()),
    }
}

fn line(out: &mut String, depth: usize, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{:width$}{text}", "", width = depth * 2).expect("a text takes any text");
}

/// What it did outside, in the order in which it began.
fn effects(detail: &RunDetail) -> Vec<&EffectRow> {
    let mut all: Vec<&EffectRow> = detail.effects.iter().collect();
    all.sort_by_key(|effect| (effect.first_at_ms, effect.last_at_ms));
    all
}

/// The system, method and path of an effect; `None` for what is no request over HTTP.
fn request<'p>(
    effect: &EffectRow,
    plan: &'p Plan,
    masked: &Masked,
) -> Option<(&'p str, String, Body)> {
    let node = &plan.nodes[plan.node(&effect.step)?];
    let system = node.system.as_deref()?;
    let document = Body::new(effect.request.clone());
    let root = document.document().ok()?;
    let word = |name: &str| Some(root.get(name)?.as_str()?.into_owned());
    let on = format!("{} {}", word("method")?, masked.within(&word("path")?));
    Some((system, on, document))
}

fn systems(out: &mut String, effects: &[&EffectRow], plan: &Plan, masked: &Masked) {
    let mut rules: BTreeMap<&str, Vec<(String, Vec<String>)>> = BTreeMap::new();
    for effect in effects {
        let Some((system, on, _)) = request(effect, plan, masked) else {
            continue;
        };
        let answer = answer(effect, masked);
        let list = rules.entry(system).or_default();
        match list.iter_mut().find(|(known, _)| *known == on) {
            Some((_, answers)) => answers.push(answer),
            None => list.push((on, vec![answer])),
        }
    }
    if rules.is_empty() {
        return;
    }
    line(out, 2, format_args!("systems:"));
    for (system, list) in rules {
        line(out, 3, format_args!("{system}:"));
        for (on, answers) in list {
            line(out, 4, format_args!("- on: {}", masked.quoted(&on)));
            line(out, 5, format_args!("answers:"));
            for answer in answers {
                line(out, 6, format_args!("- {answer}"));
            }
        }
    }
}

/// The last answer of an effect; what came before it is not kept.
fn answer(effect: &EffectRow, masked: &Masked) -> String {
    let Some(answer) = &effect.answer else {
        return match effect.standing {
            EffectStanding::NotApplied => "{ fails: unreachable }".to_owned(),
            _ => "{ fails: lost }".to_owned(),
        };
    };
    let document = Body::new(answer.clone());
    let root = document.document().ok();
    let status = root.and_then(|root| root.get("status")?.as_number());
    let status = status.unwrap_or("200");
    let body = root
        .and_then(|root| root.get("body"))
        .and_then(|body| masked.document(&body.to_bytes()));
    match body {
        Some(body) => format!("{{ status: {status}, body: {body} }}"),
        None => status.to_owned(),
    }
}

fn headers(out: &mut String, detail: &RunDetail, masked: &Masked) -> Result<(), Failure> {
    let envelope = detail.envelope.as_ref().map(Envelope::read).transpose()?;
    let headers = envelope.unwrap_or_default().headers;
    let kept: Vec<String> = headers
        .iter()
        .filter(|(name, _)| !is_secret(name))
        .map(|(name, value)| format!("{}: {}", masked.quoted(name), masked.quoted(value)))
        .collect();
    if !kept.is_empty() {
        line(out, 4, format_args!("headers: {{ {} }}", kept.join(", ")));
    }
    Ok(())
}

fn calls(out: &mut String, effects: &[&EffectRow], plan: &Plan, masked: &Masked) {
    let mut by_system: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for effect in effects {
        let Some((system, on, document)) = request(effect, plan, masked) else {
            continue;
        };
        let body = document.document().ok().and_then(|root| root.get("body"));
        let body = body.and_then(|body| masked.document(&body.to_bytes()));
        let body = body.map_or(String::new(), |body| {
            format!(", body: {{ $exact: {body} }}")
        });
        by_system.entry(system).or_default().push(format!(
            "{{ on: {}, step: {}{body} }}",
            masked.quoted(&on),
            effect.step
        ));
    }
    if by_system.is_empty() {
        return;
    }
    line(out, 3, format_args!("calls:"));
    for (system, calls) in by_system {
        line(out, 4, format_args!("{system}:"));
        line(out, 5, format_args!("include:"));
        for call in calls {
            line(out, 6, format_args!("- {call}"));
        }
    }
}

/// What it handed to other flows: by the sink that leads there.
async fn handed(
    reader: &Reader,
    detail: &RunDetail,
    plan: &Plan,
) -> Result<BTreeMap<String, Vec<Bytes>>, Failure> {
    let mut handed: BTreeMap<String, Vec<Bytes>> = BTreeMap::new();
    let (_, family) = reader.effects_of_root(detail.row.root).await?;
    for one in family {
        if one.message == detail.row.message {
            continue;
        }
        let sink = plan
            .nodes
            .iter()
            .find(|node| matches!(&node.action, Action::Flow(flow) if *flow == one.flow));
        let Some(sink) = sink else { continue };
        let Some(other) = reader.run(&one.run.0.to_string()).await? else {
            continue;
        };
        if let Some(body) = other.body {
            handed.entry(sink.id.to_string()).or_default().push(body);
        }
    }
    Ok(handed)
}

fn outputs(out: &mut String, handed: &BTreeMap<String, Vec<Bytes>>, plan: &Plan, masked: &Masked) {
    let sinks: Vec<&str> = plan
        .nodes
        .iter()
        .filter(|node| matches!(node.action, Action::Flow(_)))
        .map(|node| &*node.id)
        .collect();
    if sinks.is_empty() {
        return;
    }
    line(out, 3, format_args!("outputs:"));
    for sink in sinks {
        let Some(bodies) = handed.get(sink) else {
            line(out, 4, format_args!("{sink}: none"));
            continue;
        };
        line(out, 4, format_args!("{sink}:"));
        for body in bodies {
            if let Some(json) = masked.document(body) {
                line(out, 5, format_args!("- {{ $exact: {json} }}"));
            }
        }
    }
}

fn exceptions(out: &mut String, detail: &RunDetail) {
    if detail.exceptions.is_empty() {
        return;
    }
    line(out, 3, format_args!("exceptions:"));
    for row in &detail.exceptions {
        let text = format_args!(
            "- {{ step: \"{}\", class: {} }}",
            row.step,
            row.class.name()
        );
        line(out, 4, text);
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part))
}

/// What must not be seen, and what stands in its place: the same for the same value.
struct Masked(BTreeMap<String, String>);

impl Masked {
    fn of(
        accepted: &Bytes,
        paths: &[String],
        mut found: BTreeSet<String>,
    ) -> Result<Masked, Failure> {
        let body = Body::new(accepted.clone());
        for path in paths {
            let root = body.document()?;
            let before = found.len();
            collect(root, &parts(path), &mut found);
            if found.len() == before {
                return Err(Failure::config(format!(
                    "the message has nothing at `{path}` that could be masked"
                )));
            }
        }
        let numbered = found.into_iter().enumerate();
        Ok(Masked(
            numbered
                .map(|(nth, value)| (value, format!("masked-{}", nth + 1)))
                .collect(),
        ))
    }

    /// A text in which whatever is masked is replaced.
    fn within(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, instead) in &self.0 {
            if value.len() >= SOUGHT_MIN {
                text = text.replace(value.as_str(), instead);
            }
        }
        text
    }

    fn quoted(&self, text: &str) -> String {
        let mut out = Vec::new();
        write_string(&mut out, &self.text(text));
        String::from_utf8_lossy(&out).into_owned()
    }

    fn text(&self, text: &str) -> String {
        match self.0.get(text) {
            Some(instead) => instead.clone(),
            None => self.within(text),
        }
    }

    /// A document in which whatever is masked or secret is replaced; `None` if it is no JSON.
    fn document(&self, bytes: &Bytes) -> Option<String> {
        let body = Body::new(bytes.clone());
        let mut out = Vec::new();
        self.write(body.document().ok()?, &mut out);
        String::from_utf8(out).ok()
    }

    fn write(&self, item: Item<'_>, out: &mut Vec<u8>) {
        match item.kind() {
            Kind::Object => {
                out.push(b'{');
                for (nth, (key, inner)) in item.entries().enumerate() {
                    if nth > 0 {
                        out.extend_from_slice(b", ");
                    }
                    let key = key.as_str().unwrap_or_default();
                    write_string(out, &key);
                    out.extend_from_slice(b": ");
                    match is_secret(&key) && !matches!(inner.kind(), Kind::Object | Kind::List) {
                        true => write_string(out, "masked"),
                        false => self.write(inner, out),
                    }
                }
                out.push(b'}');
            }
            Kind::List => {
                out.push(b'[');
                for (nth, inner) in item.items().enumerate() {
                    if nth > 0 {
                        out.extend_from_slice(b", ");
                    }
                    self.write(inner, out);
                }
                out.push(b']');
            }
            _ => match item.as_str() {
                Some(text) => write_string(out, &self.text(&text)),
                None if self.0.contains_key(item.json()) => out.push(b'0'),
                None => out.extend_from_slice(item.json_bytes()),
            },
        }
    }
}

/// The parts of a path: `lines[].name` is `lines`, `[]`, `name`.
fn parts(path: &str) -> Vec<String> {
    let spread = path.replace("[]", ".[]");
    let parts = spread.split('.').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn collect(item: Item<'_>, path: &[String], found: &mut BTreeSet<String>) {
    let Some((first, rest)) = path.split_first() else {
        let value = item.as_str().map(std::borrow::Cow::into_owned);
        let value = value.or_else(|| item.as_number().map(str::to_owned));
        found.extend(value.filter(|value| !value.is_empty()));
        return;
    };
    if first == "[]" {
        for inner in item.items() {
            collect(inner, rest, found);
        }
    } else if let Some(inner) = item.get(first) {
        collect(inner, rest, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, mask: &[&str], other: &str, expect: &str) {
        let mask: Vec<String> = mask.iter().map(|path| (*path).to_owned()).collect();
        let masked = Masked::of(
            &Bytes::copy_from_slice(body.as_bytes()),
            &mask,
            BTreeSet::new(),
        )
        .unwrap();
        let shown = masked.document(&Bytes::copy_from_slice(other.as_bytes()));
        assert_eq!(shown.unwrap(), expect);
    }

    #[test]
    fn what_is_masked_is_nowhere_and_the_same_everywhere() {
        let body = r#"{"c":{"email":"mara@example.com"},"l":[{"n":"Ann"},{"n":"Bob"}],"no":12.50}"#;
        check(
            body,
            &["c.email", "l[].n"],
            r#"{"to":"mara@example.com","text":"Dear Ann","who":"Bob","no":12.50}"#,
            r#"{"to": "masked-3", "text": "Dear masked-1", "who": "masked-2", "no": 12.50}"#,
        );
        check(body, &["no"], r#"{"a":12.50,"b":1}"#, r#"{"a": 0, "b": 1}"#);
    }

    #[test]
    fn secrets_are_left_out_without_being_asked_for() {
        check(
            "{}",
            &[],
            r#"{"access_token":"abc","x":1}"#,
            r#"{"access_token": "masked", "x": 1}"#,
        );
    }

    #[test]
    fn a_mask_that_finds_nothing_is_a_slip() {
        let body = Bytes::from_static(b"{\"a\":1}");
        let failure = Masked::of(&body, &["b".to_owned()], BTreeSet::new())
            .err()
            .unwrap();
        assert!(failure.message.contains("`b`"));
    }
}
