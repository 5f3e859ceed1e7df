//! Trying what types suspect: bodies are made up that the contract allows, brought through the steps before, and handed to the place in question. What
//! nobody can show on a body is no error; what a body disproves is not told.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use crate::body::Body;
use crate::expression::{Expression, Scope, Tables};
use crate::mapping::Mapping;
use crate::message::{Message, MessageId};
use crate::schema::Schema;
use crate::schema::infer::hint::Hint;
use crate::schema::infer::{Hop, Origin, Type};
use crate::schema::witness::{self, Grown, Mode, Want, Wish};

/// How many bodies are made up for one place.
const TRIED_MAX: usize = 600;
/// How many ways of getting to a place are varied.
const BASES_MAX: usize = 3;
/// How many forms of alternatives are tried.
const FORMS_MAX: usize = 3;
/// When a made-up message came, in milliseconds since 1970.
const RECEIVED_AT_MS: i64 = 1_767_323_045_000;

/// What happens to a message on its way to a place.
#[derive(Clone)]
pub(super) enum Move {
    /// It gets on only if the condition gives this.
    Holds(Rc<Expression>, bool),
    /// A mapping makes its body.
    Map(Arc<Mapping>),
    /// An expression makes its body.
    Body(Rc<Expression>),
    /// An expression makes a variable.
    Variable(String, Rc<Expression>),
    /// It is one of the items of a list.
    Part(Rc<Expression>),
    /// It keeps to a schema, or gets no further.
    Valid(Arc<Schema>),
}

/// What a body, or a variable, begins with: a schema that it surely keeps to.
#[derive(Clone)]
pub(super) struct Start<'s> {
    pub(super) schema: Arc<Schema>,
    pub(super) is: Rc<Grown<'s>>,
}

/// The way to a place.
#[derive(Clone)]
pub(super) struct Trail<'s> {
    pub(super) body: Start<'s>,
    pub(super) variables: BTreeMap<String, Start<'s>>,
    pub(super) moves: Vec<Move>,
    /// What its conditions and mappings read.
    pub(super) reads: Vec<Rc<Origin>>,
    pub(super) hints: Vec<(Rc<Origin>, Hint)>,
    /// Values that its conditions compare with.
    pub(super) constants: Vec<Value>,
}

/// What is to be varied.
#[derive(Default)]
pub(super) struct Focus {
    pub(super) reads: Vec<Rc<Origin>>,
    pub(super) hints: Vec<(Rc<Origin>, Hint)>,
    pub(super) constants: Vec<Value>,
    /// Whether it is worth varying two things at once.
    pub(super) pairs: bool,
}

impl Focus {
    pub(super) fn add(
        &mut self,
        reads: &[Rc<Origin>],
        hints: &[(Rc<Origin>, Hint)],
        expression: &Expression,
    ) {
        for read in reads {
            if !self.reads.contains(read) {
                self.reads.push(read.clone());
            }
        }
        self.hints.extend(hints.iter().cloned());
        constants(expression, &mut self.constants);
    }
}

/// A made-up message that got to the place.
pub(super) struct Tried<'t> {
    pub(super) message: &'t Message,
    /// What arrived, as JSON.
    pub(super) arrived: &'t str,
}

/// How a message is made up.
#[derive(Clone)]
struct Recipe {
    mode: Mode,
    form: usize,
    wants: Vec<(Option<String>, Vec<Hop>, Want)>,
}

/// What surrounds all trials.
pub(super) struct Around<'a> {
    pub(super) tables: &'a Tables,
    pub(super) keys: Vec<Arc<str>>,
}

impl Trail<'_> {
    /// Whether a move makes this variable, so that what it began with is not what it is.
    pub(super) fn makes(&self, variable: &str) -> bool {
        let makes =
            |step: &Move| matches!(step, Move::Variable(name, _) if name.as_str() == variable);
        self.moves.iter().any(makes)
    }

    /// Makes up messages until `test` has seen enough. Says how many got to the place.
    pub(super) fn search(
        &self,
        around: &Around<'_>,
        focus: &Focus,
        test: &mut dyn FnMut(&Tried<'_>) -> bool,
    ) -> usize {
        let mut search = Search {
            trail: self,
            around,
            hints: self.hints.iter().chain(&focus.hints).cloned().collect(),
            left: TRIED_MAX,
            reached: 0,
            enough: false,
            test,
        };
        let bases = search.bases(focus);
        search.vary(&bases, focus);
        search.reached
    }
}

struct Search<'t, 's> {
    trail: &'t Trail<'s>,
    around: &'t Around<'t>,
    hints: Vec<(Rc<Origin>, Hint)>,
    left: usize,
    reached: usize,
    enough: bool,
    test: &'t mut dyn FnMut(&Tried<'_>) -> bool,
}

impl Search<'_, '_> {
    /// Ways of getting to the place at all.
    fn bases(&mut self, focus: &Focus) -> Vec<Recipe> {
        let mut bases = Vec::new();
        let mut first = Vec::new();
        for form in 0..FORMS_MAX {
            for mode in [Mode::Bare, Mode::Full, Mode::Null] {
                let recipe = Recipe {
                    mode,
                    form,
                    wants: Vec::new(),
                };
                if self.attempt(&recipe) && bases.len() < BASES_MAX {
                    bases.push(recipe.clone());
                }
                first.push(recipe);
            }
        }
        if !bases.is_empty() || self.trail.moves.is_empty() {
            return bases;
        }
        // Conditions stand in the way: what they read is varied, one by one, then by pairs.
        let wants = self.wants(
            &self.trail.reads,
            &[&self.trail.constants, &focus.constants],
        );
        for base in first.iter().take(2) {
            for want in &wants {
                self.also(base, &[want], &mut bases);
            }
        }
        for (at, one) in wants.iter().enumerate() {
            for other in wants.iter().skip(at + 1) {
                self.also(&first[1], &[one, other], &mut bases);
            }
        }
        bases
    }

    fn also(
        &mut self,
        base: &Recipe,
        wants: &[&(Option<String>, Vec<Hop>, Want)],
        bases: &mut Vec<Recipe>,
    ) {
        if bases.len() >= BASES_MAX || self.left < TRIED_MAX / 2 {
            return;
        }
        let mut recipe = base.clone();
        recipe
            .wants
            .extend(wants.iter().map(|want| (*want).clone()));
        if self.attempt(&recipe) {
            bases.push(recipe);
        }
    }

    fn vary(&mut self, bases: &[Recipe], focus: &Focus) {
        let constants: [&[Value]; 2] = [&focus.constants, &self.trail.constants];
        let wants = self.wants(&focus.reads, &constants);
        for base in bases {
            for want in &wants {
                let mut recipe = base.clone();
                recipe.wants.push(want.clone());
                self.attempt(&recipe);
            }
        }
        // What hangs on two values at once.
        let Some(base) = bases.first().filter(|_| focus.pairs) else {
            return;
        };
        for (at, one) in wants.iter().enumerate() {
            for other in wants.iter().skip(at + 1) {
                if self.enough || self.left == 0 || one.1 == other.1 {
                    continue;
                }
                let mut recipe = base.clone();
                recipe.wants.extend([one.clone(), other.clone()]);
                self.attempt(&recipe);
            }
        }
    }

    fn wants(
        &self,
        reads: &[Rc<Origin>],
        constants: &[&[Value]],
    ) -> Vec<(Option<String>, Vec<Hop>, Want)> {
        let constants: Vec<Value> = constants.concat();
        let mut all = Vec::new();
        for read in reads {
            let Some(root) = self.root(read.variable.as_deref()) else {
                continue;
            };
            let hint = self.hints.iter().find(|(origin, _)| origin == read);
            let hint = hint.map(|(_, hint)| hint);
            let found = witness::wants(root, &read.hops, hint, &constants);
            let named = found
                .into_iter()
                .map(|(hops, want)| (read.variable.clone(), hops, want));
            all.extend(named);
        }
        all
    }

    fn root(&self, variable: Option<&str>) -> Option<&Type<'_>> {
        match variable {
            None => Some(self.trail.body.is.is()),
            Some(name) => self.trail.variables.get(name).map(|start| start.is.is()),
        }
    }

    /// Makes up a message and brings it to the place. Whether it got there.
    fn attempt(&mut self, recipe: &Recipe) -> bool {
        if self.enough || self.left == 0 {
            return false;
        }
        self.left -= 1;
        let Some((message, arrived)) = self.made(recipe) else {
            return false;
        };
        self.reached += 1;
        self.enough = (self.test)(&Tried {
            message: &message,
            arrived: &arrived,
        });
        true
    }

    fn made(&self, recipe: &Recipe) -> Option<(Message, String)> {
        let trail = self.trail;
        let (body, arrived) = self.document(recipe, None, &trail.body)?;
        let mut message = Message::new(MessageId(1), RECEIVED_AT_MS, body);
        let key = |name: &Arc<str>| (name.clone(), "1".to_owned());
        message.keys = Arc::new(self.around.keys.iter().map(key).collect());
        for (name, start) in &trail.variables {
            let (body, _) = self.document(recipe, Some(name), start)?;
            message.bind(Arc::from(name.as_str()), body);
        }
        for step in &trail.moves {
            message = moved(message, step, self.around.tables)?;
        }
        Some((message, arrived))
    }

    fn document(
        &self,
        recipe: &Recipe,
        variable: Option<&str>,
        start: &Start<'_>,
    ) -> Option<(Body, String)> {
        let ours = |name: &Option<String>| name.as_deref() == variable;
        let wants = recipe.wants.iter().filter(|(name, ..)| ours(name));
        let wish = Wish {
            mode: recipe.mode,
            form: recipe.form,
            wants: wants
                .map(|(_, hops, want)| (hops.clone(), want.clone()))
                .collect(),
        };
        let hints: Vec<(Vec<Hop>, Hint)> = self
            .hints
            .iter()
            .filter(|(origin, _)| ours(&origin.variable))
            .map(|(origin, hint)| (origin.hops.clone(), hint.clone()))
            .collect();
        let value = witness::body(&start.is, &wish, &hints)?;
        let text = value.to_string();
        let body = Body::new(text.clone());
        start
            .schema
            .is_valid(body.document().ok()?)
            .then_some((body, text))
    }
}

/// What becomes of a message; nothing if it does not get on.
fn moved(message: Message, step: &Move, tables: &Tables) -> Option<Message> {
    match step {
        Move::Holds(condition, truth) => {
            let decided = condition.decide(&scope(&message, tables)?).ok()?;
            (decided == *truth).then_some(message)
        }
        Move::Map(mapping) => {
            let body = mapping.apply_scope(scope(&message, tables)?).ok()?;
            Some(message.with_body(body))
        }
        Move::Body(expression) => {
            let body = expression
                .evaluate(&scope(&message, tables)?)
                .ok()?
                .to_body();
            Some(message.with_body(body))
        }
        Move::Variable(name, expression) => {
            let body = expression
                .evaluate(&scope(&message, tables)?)
                .ok()?
                .to_body();
            let mut message = message;
            message.bind(Arc::from(name.as_str()), body);
            Some(message)
        }
        Move::Part(items) => {
            let body = {
                let value = items.evaluate(&scope(&message, tables)?).ok()?;
                value.into_items()?.next()?.to_body()
            };
            Some(message.with_body(body))
        }
        Move::Valid(schema) => {
            let valid = schema.is_valid(message.body.document().ok()?);
            valid.then_some(message)
        }
    }
}

pub(super) fn scope<'m>(message: &'m Message, tables: &'m Tables) -> Option<Scope<'m>> {
    Scope::of(message, tables).ok()
}

/// The values that an expression compares with, and what lies beside its numbers.
pub(super) fn constants(expression: &Expression, all: &mut Vec<Value>) {
    let mut push = |value: Value| {
        if !all.contains(&value) {
            all.push(value);
        }
    };
    for value in expression.constants() {
        if let Some(number) = value.as_i64() {
            push(Value::from(number.saturating_add(1)));
            push(Value::from(number.saturating_sub(1)));
            push(Value::from(number.saturating_add(1).to_string()));
            push(Value::from(number.to_string()));
        }
        push(value);
    }
}
