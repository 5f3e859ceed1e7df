//! Whether what comes fits what is asked for: one type against another, and every way in which it may not. It proves nothing: who tells it to people tries
//! it first.

use super::infer::shape::{self, Shape};
use super::infer::{Hop, Kinds, Range, Text, Type, rows};

/// How deep types are compared.
const DEPTH_MAX: usize = 12;
/// How many misfits of one comparison are told.
const MISFITS_MAX: usize = 24;

/// One way in which what comes may not fit.
#[derive(Clone, Debug)]
pub(crate) struct Misfit {
    /// Where, below what was compared.
    pub(crate) path: Vec<Hop>,
    pub(crate) what: What,
    /// The source declares that this can come; else it only does not say that it cannot.
    pub(crate) declared: bool,
    /// Nothing that comes fits.
    pub(crate) sure: bool,
}

/// What does not fit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// Nothing comes, or null, where something is required.
    Missing { null: bool },
    /// Another kind of value.
    Kind { is: Kinds, wants: Kinds },
    /// Values that are not among those that are asked for.
    Values { bad: Vec<String>, wants: String },
    /// Any text, where only some are asked for.
    AnyValue { wants: String },
    /// More characters.
    Long { is: Option<usize>, most: usize },
    /// Fewer characters.
    Short { is: usize, least: usize },
    /// A pattern that the texts need not match.
    Pattern { wants: String },
    /// Another format.
    Format { is: String, wants: String },
    /// A fraction, where whole numbers are asked for.
    Fraction,
    /// Numbers out of range.
    OutOfRange { is: String, wants: String },
    /// Fewer or more items.
    Count { is: String, wants: String },
    /// A field that must not be there.
    Extra { name: String },
}

/// What rule of a schema a breach is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Missing,
    Type,
    Values,
    Length,
    Pattern,
    Format,
    Range,
    Count,
    Extra,
    /// One of several forms.
    Choice,
    Other,
}

impl What {
    /// Whether a breach of a rule is what this says.
    pub(crate) fn shows_as(&self, rule: Rule) -> bool {
        if rule == Rule::Choice {
            return true;
        }
        match self {
            What::Missing { null: false } => rule == Rule::Missing,
            What::Missing { null: true } | What::Kind { .. } => {
                matches!(rule, Rule::Type | Rule::Values)
            }
            What::Values { .. } => matches!(
                rule,
                Rule::Values | Rule::Length | Rule::Pattern | Rule::Range | Rule::Format
            ),
            What::AnyValue { .. } => rule == Rule::Values,
            What::Long { .. } | What::Short { .. } => rule == Rule::Length,
            What::Pattern { .. } => rule == Rule::Pattern,
            What::Format { .. } => rule == Rule::Format,
            What::Fraction => matches!(rule, Rule::Type | Rule::Range),
            What::OutOfRange { .. } => rule == Rule::Range,
            What::Count { .. } => rule == Rule::Count,
            What::Extra { .. } => rule == Rule::Extra,
        }
    }
}

/// Every way in which a value of one type may not fit another. Both may be absent where something may be left out.
pub(crate) fn misfits(is: &Type<'_>, wants: &Type<'_>) -> Vec<Misfit> {
    let mut compare = Compare {
        path: Vec::new(),
        found: Vec::new(),
    };
    compare.values(is, wants);
    compare.found
}

struct Compare {
    path: Vec<Hop>,
    found: Vec<Misfit>,
}

impl Compare {
    fn push(&mut self, what: What, declared: bool, sure: bool) {
        if self.found.len() < MISFITS_MAX {
            self.found.push(Misfit {
                path: self.path.clone(),
                what,
                declared,
                sure,
            });
        }
    }

    fn values(&mut self, is: &Type<'_>, wants: &Type<'_>) {
        if self.path.len() > DEPTH_MAX || wants.is_never() {
            return;
        }
        if is.kinds.has(Kinds::ABSENT) && !wants.kinds.has(Kinds::ABSENT) {
            let never = is.kinds.within(Kinds::ABSENT);
            self.push(What::Missing { null: false }, !is.open || never, never);
        }
        if is.open {
            return;
        }
        if is.kinds.has(Kinds::NULL) && !wants.kinds.has(Kinds::NULL) {
            let only = is.kinds.within(Kinds::NOTHING);
            self.push(What::Missing { null: true }, true, only);
        }
        let come = is.kinds.without(Kinds::NOTHING);
        let wrong = come.without(wants.kinds);
        if wrong != Kinds::NONE {
            let what = What::Kind {
                is: wrong,
                wants: wants.kinds.without(Kinds::NOTHING),
            };
            self.push(what, true, wrong == come);
        }
        let both = come.and(wants.kinds);
        if both.has(Kinds::NUMBER) {
            self.numbers(&is.number, &wants.number);
        }
        if both.has(Kinds::STRING) {
            self.texts(&is.text, &wants.text);
        }
        if both.has(Kinds::LIST) {
            self.lists(is, wants);
        }
        if both.has(Kinds::OBJECT) {
            self.objects(is, wants);
        }
    }

    fn numbers(&mut self, is: &Range, wants: &Range) {
        if let Some(values) = &is.values {
            let bad: Vec<String> = values
                .iter()
                .filter(|value| !wants.holds(**value))
                .map(|value| value.to_text())
                .collect();
            if !bad.is_empty() {
                let sure = bad.len() == values.len();
                let wants = wants.words();
                self.push(What::Values { bad, wants }, true, sure);
            }
            return;
        }
        if wants.whole && !is.whole {
            self.push(What::Fraction, !is.guessed, false);
        }
        let low = is
            .least
            .zip(wants.least)
            .is_some_and(|(a, b)| a.compare(b).is_lt());
        let high = is
            .most
            .zip(wants.most)
            .is_some_and(|(a, b)| a.compare(b).is_gt());
        let apart = is
            .most
            .zip(wants.least)
            .is_some_and(|(a, b)| a.compare(b).is_lt())
            || is
                .least
                .zip(wants.most)
                .is_some_and(|(a, b)| a.compare(b).is_gt());
        if low || high || apart {
            let what = What::OutOfRange {
                is: is.words(),
                wants: wants.words(),
            };
            self.push(what, true, apart);
        } else if wants.least.is_some() && is.least.is_none()
            || wants.most.is_some() && is.most.is_none()
        {
            let what = What::OutOfRange {
                is: is.words(),
                wants: wants.words(),
            };
            self.push(what, false, false);
        } else if let Some(values) = &wants.values {
            let what = What::AnyValue {
                wants: wants.words(),
            };
            self.push(what, false, values.is_empty());
        }
    }

    fn texts(&mut self, is: &Text<'_>, wants: &Text<'_>) {
        if let (Some(come), Some(asked)) = (&is.values, &wants.values) {
            let bad: Vec<String> = come
                .iter()
                .filter(|value| !asked.contains(value))
                .map(|value| format!("'{value}'"))
                .collect();
            if !bad.is_empty() {
                let sure = bad.len() == come.len();
                let wants = wants.words();
                self.push(What::Values { bad, wants }, true, sure);
            }
            return;
        }
        if wants.values.is_some() {
            let what = What::AnyValue {
                wants: wants.words(),
            };
            self.push(what, !is.patterns.is_empty(), false);
            return;
        }
        if let Some(most) = wants.most
            && is.most.is_none_or(|long| long > most)
        {
            let what = What::Long { is: is.most, most };
            let sure = is.least > most;
            self.push(
                what,
                is.most.is_some() || !is.patterns.is_empty() || sure,
                sure,
            );
        }
        if is.least < wants.least {
            let what = What::Short {
                is: is.least,
                least: wants.least,
            };
            let sure = is.most.is_some_and(|most| most < wants.least);
            let declared = is.least > 0 || is.values.is_some() || sure;
            self.push(what, declared, sure);
        }
        for pattern in &wants.patterns {
            if !is.patterns.contains(pattern) {
                let what = What::Pattern {
                    wants: (*pattern).to_owned(),
                };
                let declared =
                    !is.patterns.is_empty() || is.values.is_some() || is.format.is_some();
                self.push(what, declared, false);
            }
        }
        if let Some(format) = wants.format
            && is.format != Some(format)
        {
            let what = What::Format {
                is: is.format.unwrap_or_default().to_owned(),
                wants: format.to_owned(),
            };
            let declared = is.format.is_some() || is.values.is_some() || !is.patterns.is_empty();
            self.push(what, declared, false);
        }
    }

    fn lists(&mut self, is: &Type<'_>, wants: &Type<'_>) {
        if is.lists.is_empty() || wants.lists.is_empty() {
            return;
        }
        let (least, most) = rows::count(is);
        let (asked, limit) = rows::count(wants);
        let words = |least: usize, most: Option<usize>| match most {
            Some(most) => format!("{least} to {most} items"),
            None => format!("{least} items or more"),
        };
        let many = most.zip(limit).is_some_and(|(most, limit)| most > limit);
        if least < asked || many {
            let what = What::Count {
                is: words(least, most),
                wants: words(asked, limit),
            };
            self.push(what, true, most.is_some_and(|most| most < asked));
        }
        let (item, asked) = (rows::item(is), rows::item(wants));
        if item.is_never() {
            return;
        }
        self.path.push(Hop::Item);
        self.values(&item, &asked);
        self.path.pop();
    }

    /// Of the objects that are asked for, the one that fits best is meant.
    fn objects(&mut self, is: &Type<'_>, wants: &Type<'_>) {
        if is.objects.is_empty() || wants.objects.is_empty() {
            return;
        }
        for shape in &is.objects {
            let mut best: Option<Vec<Misfit>> = None;
            for asked in &wants.objects {
                let mut compare = Compare {
                    path: self.path.clone(),
                    found: Vec::new(),
                };
                compare.object(shape, asked);
                if best
                    .as_ref()
                    .is_none_or(|best| compare.found.len() < best.len())
                {
                    best = Some(compare.found);
                }
            }
            self.found.extend(best.unwrap_or_default());
            self.found.truncate(MISFITS_MAX);
        }
    }

    fn object(&mut self, is: &Shape<'_>, wants: &Shape<'_>) {
        let asked = wants.names();
        for name in &asked {
            let (come, _) = is.property(name);
            let (field, standing) = wants.property(name);
            if standing != shape::Standing::Declared && !field.kinds.within(Kinds::PRESENT) {
                continue;
            }
            self.path.push(Hop::Field(name.clone()));
            self.values(&come, &field);
            self.path.pop();
        }
        if !wants.is_closed() {
            return;
        }
        for name in is.names().into_iter().filter(|name| !asked.contains(name)) {
            let (come, _) = is.property(&name);
            let (_, standing) = wants.property(&name);
            if standing == shape::Standing::Shut
                && !come.kinds.within(Kinds::NOTHING)
                && !come.is_never()
            {
                self.push(What::Extra { name }, true, false);
            }
        }
    }
}
