//! Whether every document of one schema is also one of another: proved word by word, and where it cannot be proved, why. It never says
//! yes to what is not so; it may say no to what is so.

use std::rc::Rc;

use serde_json::Value;

use super::Kind;
use super::facts::{Facts, Types, prefix, rest};
use super::limits::{Gap, count, gap, joined, limit, numbers, texts, values};
use super::node::{Both, Node};
use super::same;
use crate::expression::number::compare_text;

/// How many pairs of places are looked at.
const STEPS_MAX: usize = 200_000;
/// How many alternatives are told apart on one way.
const SPLITS_MAX: usize = 6;

/// A proof under way.
pub(super) struct Prover<'b, 's> {
    both: &'b Both<'s>,
    /// Pairs of places that are being proved, with how deep in the document they stand.
    open: Vec<((Vec<usize>, u8), usize, usize)>,
    depth: usize,
    splits: usize,
    steps: usize,
}

impl<'b, 's> Prover<'b, 's> {
    pub(super) fn new(both: &'b Both<'s>) -> Prover<'b, 's> {
        Prover {
            both,
            open: Vec::new(),
            depth: 0,
            splits: 0,
            steps: 0,
        }
    }

    /// Why documents with these facts may not keep to the schema; nothing if they surely do.
    pub(super) fn prove(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str) -> Vec<Gap> {
        self.steps += 1;
        if sub.is_never() || wide.value == &Value::Bool(true) {
            return Vec::new();
        }
        let gap = |kind| vec![gap(sub, path, kind, wide.site.clone())];
        if wide.value == &Value::Bool(false) {
            return gap(Kind::Never);
        }
        if self.steps > STEPS_MAX {
            return gap(Kind::Unclear("schema"));
        }
        if sub
            .parts
            .iter()
            .any(|part| same::schemas(self.both, part, wide))
        {
            return Vec::new();
        }
        let key = (sub.key(), wide.id());
        if let Some((_, _, depth)) = self
            .open
            .iter()
            .find(|(a, b, _)| (a, *b) == (&key.0, key.1))
        {
            // Further down in the document the claim may be used: documents end somewhere.
            return if *depth < self.depth {
                Vec::new()
            } else {
                gap(Kind::Unclear("$ref"))
            };
        }
        self.open.push((key.0, key.1, self.depth));
        let gaps = self.told_apart(sub, wide, path);
        self.open.pop();
        gaps
    }

    /// Alternatives of the narrow schema are looked at one by one.
    fn told_apart(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str) -> Vec<Gap> {
        self.steps += 1;
        if self.splits < SPLITS_MAX
            && self.steps < STEPS_MAX
            && let Some(cases) = sub.cases(self.both)
        {
            self.splits += 1;
            let mut gaps: Vec<Gap> = Vec::new();
            for case in cases {
                for gap in self.told_apart(&case, wide, path) {
                    if !gaps
                        .iter()
                        .any(|known| known.path == gap.path && known.kind == gap.kind)
                    {
                        gaps.push(gap);
                    }
                }
            }
            self.splits -= 1;
            return gaps;
        }
        if sub.is_never() {
            return Vec::new();
        }
        self.words(sub, wide, path)
    }

    fn words(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str) -> Vec<Gap> {
        let mut gaps = Vec::new();
        if wide.get("$ref").is_some() {
            match self.both.follow(wide) {
                Some(target) => gaps.extend(self.prove(sub, &target, path)),
                None => gaps.push(gap(sub, path, Kind::Unclear("$ref"), wide.word("$ref"))),
            }
        }
        if wide.get("$dynamicRef").is_some() {
            let site = wide.word("$dynamicRef");
            gaps.push(gap(sub, path, Kind::Unclear("$dynamicRef"), site));
        }
        for part in wide.listed("allOf") {
            gaps.extend(self.prove(sub, &part, path));
        }
        let sub = &self.types(sub, wide, path, &mut gaps);
        values(sub, wide, path, &mut gaps);
        if sub.types.has(Types::NUMBER) {
            numbers(sub, wide, path, &mut gaps);
        }
        if sub.types.has(Types::STRING) {
            self.texts(sub, wide, path, &mut gaps);
        }
        if sub.types.has(Types::ARRAY) {
            self.arrays(sub, wide, path, &mut gaps);
        }
        if sub.types.has(Types::OBJECT) {
            self.objects(sub, wide, path, &mut gaps);
        }
        if !sub.is_never() {
            self.alternatives(sub, wide, path, &mut gaps);
            self.conditions(sub, wide, path, &mut gaps);
        }
        gaps
    }

    /// Types that the wide schema does not take; gives what is left.
    fn types(
        &self,
        sub: &Facts<'s>,
        wide: &Node<'s>,
        path: &str,
        gaps: &mut Vec<Gap>,
    ) -> Facts<'s> {
        let Some(word) = wide.get("type") else {
            return sub.clone();
        };
        let allowed = Types::of_word(word);
        let lost = sub.types.without(allowed);
        if !lost.is_empty() {
            gaps.push(gap(sub, path, Kind::Type(lost), wide.word("type")));
        }
        sub.only(allowed)
    }

    fn texts(&self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        let values = sub.values.as_ref();
        let all = |holds: &dyn Fn(&str) -> bool| {
            values.is_some_and(|values| values.iter().filter_map(|v| v.as_str()).all(holds))
        };
        let length = |text: &str| text.chars().count() as u64;
        if let Some(least) = count(wide, "minLength")
            && sub.least("minLength").unwrap_or(0) < least
            && !all(&|text| length(text) >= least)
        {
            limit(sub, wide, path, "minLength", gaps);
        }
        if let Some(most) = count(wide, "maxLength")
            && sub.most("maxLength").is_none_or(|known| known > most)
            && !all(&|text| length(text) <= most)
        {
            limit(sub, wide, path, "maxLength", gaps);
        }
        if let Some(Value::String(pattern)) = wide.get("pattern") {
            let known = sub.says("pattern", &Value::String(pattern.clone()));
            if !known && !all(&|text| self.both.matches(pattern, text) == Some(true)) {
                limit(sub, wide, path, "pattern", gaps);
            }
        }
        for word in ["format", "contentEncoding", "contentMediaType"] {
            if let Some(value) = wide.get(word)
                && !sub.says(word, value)
                && (word == "format" || wide.is_draft7())
            {
                limit(sub, wide, path, word, gaps);
            }
        }
    }

    fn arrays(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        if let Some(least) = count(wide, "minItems")
            && sub.least("minItems").unwrap_or(0) < least
        {
            limit(sub, wide, path, "minItems", gaps);
        }
        if let Some(most) = count(wide, "maxItems")
            && sub.most("maxItems").is_none_or(|known| known > most)
        {
            limit(sub, wide, path, "maxItems", gaps);
        }
        let few = sub.most("maxItems").is_some_and(|most| most <= 1);
        if wide.get("uniqueItems") == Some(&Value::Bool(true))
            && !few
            && !sub.says("uniqueItems", &Value::Bool(true))
        {
            limit(sub, wide, path, "uniqueItems", gaps);
        }
        self.alike(
            sub,
            wide,
            path,
            &["contains", "minContains", "maxContains"],
            gaps,
        );
        self.alike(sub, wide, path, &["unevaluatedItems"], gaps);
        self.items(sub, wide, path, gaps);
    }

    fn items(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        let (first, behind) = (prefix(wide), rest(wide));
        let inside = format!("{path}[]");
        let most = sub.most("maxItems").unwrap_or(u64::MAX);
        self.depth += 1;
        let known = sub.prefix_count().max(first.len());
        for at in 0..known {
            let Some(node) = first.get(at).or(behind.as_ref()) else {
                break;
            };
            if (at as u64) < most {
                let item = sub.item(self.both, at);
                gaps.extend(self.prove(&item, node, &inside));
            }
        }
        if let Some(node) = &behind
            && (known as u64) < most
        {
            let item = sub.further_items(self.both);
            gaps.extend(self.prove(&item, node, &inside));
        }
        self.depth -= 1;
    }

    fn objects(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        for (at, name) in wide.texts("required").enumerate() {
            if !sub.requires(name) {
                let mut site = (*wide.word("required")).clone();
                site.pointer.push_str(&format!("/{at}"));
                let described = sub.fields().into_iter().find(|(known, _)| *known == name);
                let mut gap = gap(sub, path, Kind::Required(name.to_owned()), Rc::new(site));
                gap.narrow = described.map(|(_, node)| node.site).or(gap.narrow);
                gaps.push(gap);
            }
        }
        self.depth += 1;
        let described = wide.named("properties");
        for (name, node) in &described {
            let value = sub.field(self.both, name);
            let free = value.is_free();
            let found = self.prove(&value, node, &joined(path, name));
            if free && !found.is_empty() {
                let kind = Kind::Free((*name).to_owned());
                gaps.push(gap(sub, path, kind, node.site.clone()));
            } else {
                gaps.extend(found);
            }
        }
        for (pattern, node) in wide.named("patternProperties") {
            self.fields_like(sub, &described, (pattern, &node), path, gaps);
        }
        if let Some(node) = wide.child("additionalProperties") {
            let patterns: Vec<&str> = wide
                .members("patternProperties")
                .map(|(pattern, _)| pattern.as_str())
                .collect();
            let names: Vec<&str> = described.iter().map(|(name, _)| *name).collect();
            self.others(sub, &node, (&names, &patterns), path, gaps);
        }
        if wide.get("unevaluatedProperties").is_some() {
            self.unevaluated(sub, wide, path, gaps);
        }
        self.depth -= 1;
        self.field_counts(sub, wide, path, gaps);
        self.dependents(sub, wide, path, gaps);
    }

    /// Fields whose names match a pattern of the wide schema.
    fn fields_like(
        &mut self,
        sub: &Facts<'s>,
        described: &[(&'s str, Node<'s>)],
        (pattern, node): (&str, &Node<'s>),
        path: &str,
        gaps: &mut Vec<Gap>,
    ) {
        for (name, _) in sub.fields() {
            if described.iter().any(|(known, _)| *known == name) {
                continue;
            }
            if self.both.matches(pattern, name) != Some(false) {
                let value = sub.field(self.both, name);
                gaps.extend(self.prove(&value, node, &joined(path, name)));
            }
        }
        let own = sub.name_patterns();
        let mut classes: Vec<Facts<'s>> = Vec::new();
        if own.contains(&pattern) {
            classes.push(sub.fields_like(self.both, pattern));
        } else {
            classes.extend(own.iter().map(|own| sub.fields_like(self.both, own)));
            classes.push(sub.further_fields(self.both));
        }
        for class in classes {
            gaps.extend(self.prove(&class, node, &joined(path, "*")));
        }
    }

    /// Fields that the wide schema neither names nor has a pattern for.
    fn others(
        &mut self,
        sub: &Facts<'s>,
        node: &Node<'s>,
        (names, patterns): (&[&str], &[&str]),
        path: &str,
        gaps: &mut Vec<Gap>,
    ) {
        for (name, place) in sub.fields() {
            let covered = names.contains(&name)
                || patterns
                    .iter()
                    .any(|pattern| self.both.matches(pattern, name) == Some(true));
            if covered {
                continue;
            }
            let value = sub.field(self.both, name);
            if node.value == &Value::Bool(false) && !value.is_never() {
                let mut gap = gap(sub, path, Kind::Field(name.to_owned()), node.site.clone());
                gap.narrow = Some(place.site);
                gaps.push(gap);
            } else {
                gaps.extend(self.prove(&value, node, &joined(path, name)));
            }
        }
        for pattern in sub.name_patterns() {
            if !patterns.contains(&pattern) {
                let value = sub.fields_like(self.both, pattern);
                gaps.extend(self.prove(&value, node, &joined(path, "*")));
            }
        }
        let further = sub.further_fields(self.both);
        if further.is_never() {
            return;
        }
        if node.value == &Value::Bool(false) {
            gaps.push(gap(sub, path, Kind::Closed, node.site.clone()));
        } else {
            gaps.extend(self.prove(&further, node, &joined(path, "*")));
        }
    }

    /// `unevaluatedProperties`: what the words beside it surely describe, and no more.
    fn unevaluated(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        let inside = Facts::of(self.both, vec![wide.clone()]);
        let open = |node: &Node<'s>| node.get("additionalProperties").is_some();
        let Some(node) = wide.child("unevaluatedProperties") else {
            return;
        };
        if inside.parts.iter().any(open) {
            return;
        }
        let fields = inside.fields();
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        self.others(sub, &node, (&names, &inside.name_patterns()), path, gaps);
    }

    fn field_counts(&self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        if let Some(least) = count(wide, "minProperties") {
            let known = sub.least("minProperties").unwrap_or(0);
            if known.max(sub.required_count() as u64) < least {
                limit(sub, wide, path, "minProperties", gaps);
            }
        }
        if let Some(most) = count(wide, "maxProperties") {
            let shut = sub.further_fields(self.both).is_never() && sub.name_patterns().is_empty();
            let few = shut && sub.fields().len() as u64 <= most;
            if !few && sub.most("maxProperties").is_none_or(|known| known > most) {
                limit(sub, wide, path, "maxProperties", gaps);
            }
        }
    }

    fn dependents(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        self.alike(sub, wide, path, &["propertyNames"], gaps);
        self.alike(sub, wide, path, &["dependencies"], gaps);
        for (name, needed) in wide.members("dependentRequired") {
            let known = sub.parts.iter().any(|part| {
                let own = part.members("dependentRequired");
                own.into_iter().any(|(own, names)| {
                    own == name && texts(needed).all(|one| texts(names).any(|known| known == one))
                })
            });
            let met = texts(needed).all(|one| sub.requires(one));
            if !known && !met && !sub.field(self.both, name).is_never() {
                let site = wide.word("dependentRequired");
                gaps.push(gap(sub, path, Kind::Unclear("dependentRequired"), site));
            }
        }
        for (name, node) in wide.named("dependentSchemas") {
            let known = sub.parts.iter().any(|part| {
                part.one("dependentSchemas", name)
                    .is_some_and(|own| same::schemas(self.both, &own, &node))
            });
            if !known && !sub.field(self.both, name).is_never() {
                gaps.extend(self.prove(sub, &node, path));
            }
        }
    }

    /// Words that are only compared: a part of the narrow schema must say the same with all of them.
    fn alike(
        &self,
        sub: &Facts<'s>,
        wide: &Node<'s>,
        path: &str,
        words: &[&'static str],
        gaps: &mut Vec<Gap>,
    ) {
        if wide.get(words[0]).is_none() {
            return;
        }
        let known = sub.parts.iter().any(|part| {
            words
                .iter()
                .all(|word| same::words(self.both, part, wide, word))
        });
        if !known {
            gaps.push(gap(sub, path, Kind::Unclear(words[0]), wide.word(words[0])));
        }
    }

    fn alternatives(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        for word in ["anyOf", "oneOf"] {
            let branches = wide.listed(word);
            let known = sub
                .parts
                .iter()
                .any(|part| part.get(word).is_some() && same::words(self.both, part, wide, word));
            if branches.is_empty() || known {
                continue;
            }
            gaps.extend(self.fits_one(sub, wide, &branches, word, path));
        }
    }

    fn fits_one(
        &mut self,
        sub: &Facts<'s>,
        wide: &Node<'s>,
        branches: &[Node<'s>],
        word: &'static str,
        path: &str,
    ) -> Vec<Gap> {
        let mut nearest: Option<(bool, Vec<Gap>)> = None;
        for (at, branch) in branches.iter().enumerate() {
            let found = self.prove(sub, branch, path);
            if found.is_empty() {
                let mut others = branches
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != at);
                if word == "anyOf" || others.all(|(_, other)| self.apart(sub, other, 0)) {
                    return Vec::new();
                }
                nearest = Some((
                    false,
                    vec![gap(sub, path, Kind::Unclear("oneOf"), wide.word(word))],
                ));
                continue;
            }
            let stranger = found
                .iter()
                .any(|gap| gap.path == path && matches!(gap.kind, Kind::Type(_) | Kind::Value(_)));
            let better = nearest
                .as_ref()
                .is_none_or(|(other, known)| (stranger, found.len()) < (*other, known.len()));
            if better {
                nearest = Some((stranger, found));
            }
        }
        if let Some(values) = sub.values.as_ref().filter(|values| values.len() > 1) {
            let each = values.iter();
            return each
                .flat_map(|one| self.fits_one(&sub.single(one), wide, branches, word, path))
                .collect();
        }
        let several = Types::EACH
            .iter()
            .filter(|one| sub.types.has(**one))
            .count()
            > 1;
        if several && sub.values.is_none() {
            let each = Types::EACH.iter().filter(|one| sub.types.has(**one));
            return each
                .flat_map(|one| self.fits_one(&sub.only(*one), wide, branches, word, path))
                .collect();
        }
        match nearest {
            Some((false, gaps)) => gaps,
            _ => vec![gap(sub, path, Kind::Alternatives, wide.word(word))],
        }
    }

    /// `not`, and `if` with `then` and `else`.
    fn conditions(&mut self, sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
        if let Some(node) = wide.child("not") {
            let known = sub
                .parts
                .iter()
                .any(|part| part.get("not").is_some() && same::words(self.both, part, wide, "not"));
            if !known && !self.apart(sub, &node, 0) {
                gaps.push(gap(sub, path, Kind::Unclear("not"), wide.word("not")));
            }
        }
        let Some(condition) = wide.child("if") else {
            return;
        };
        let (mut met, mut unmet) = (sub.with(self.both, condition.clone()), sub.clone());
        for part in &sub.parts {
            let Some(own) = part.child("if") else {
                continue;
            };
            if same::schemas(self.both, &own, &condition) {
                if let Some(then) = part.child("then") {
                    met = met.with(self.both, then);
                }
                if let Some(otherwise) = part.child("else") {
                    unmet = unmet.with(self.both, otherwise);
                }
            }
        }
        if let Some(then) = wide.child("then")
            && !self.apart(sub, &condition, 0)
        {
            gaps.extend(self.prove(&met, &then, path));
        }
        if let Some(otherwise) = wide.child("else")
            && !self.prove(sub, &condition, path).is_empty()
        {
            gaps.extend(self.prove(&unmet, &otherwise, path));
        }
    }

    /// Whether surely no document with these facts keeps to the schema.
    fn apart(&self, sub: &Facts<'s>, other: &Node<'s>, depth: usize) -> bool {
        let met = sub.with(self.both, other.clone());
        if met.is_never() {
            return true;
        }
        if depth > 4 {
            return false;
        }
        let other = Facts::of(self.both, vec![other.clone()]);
        let ruled_out = other.parts.iter().any(|part| {
            ["anyOf", "oneOf"].iter().any(|word| {
                let branches = part.listed(word);
                let mut each = branches.iter();
                !branches.is_empty() && each.all(|branch| self.apart(sub, branch, depth + 1))
            })
        });
        if ruled_out {
            return true;
        }
        if met.types == Types::OBJECT {
            return met
                .parts
                .iter()
                .flat_map(|part| part.texts("required"))
                .any(|name| met.field(self.both, name).is_never());
        }
        if !met.types.without(Types::NUMBER).is_empty() {
            return false;
        }
        match (met.low(), met.high()) {
            (Some(low), Some(high)) => {
                let order = compare_text(&low.number, &high.number);
                order.is_gt() || (order.is_eq() && !(low.included && high.included))
            }
            _ => false,
        }
    }
}
