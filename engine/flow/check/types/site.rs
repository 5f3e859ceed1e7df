//! One expression of a flow: what it reads must be there, and what it gives must be what its place asks for. Expressions of mappings stand beside.

use std::rc::Rc;

use super::super::Cx;
use super::trial::{self, Focus, Trail};
use super::{State, around, asked, told};
use crate::diagnostic::{Diagnostic, Severity};
use crate::expression::{Expression, FaultKind, Tables, Value};
use crate::flow::codes;
use crate::schema::infer::node::Infer;
use crate::schema::infer::note::{About, Note};
use crate::schema::infer::{Kinds, Origin, Type};
use crate::yaml::Node;

/// What the place of an expression asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Any,
    /// True or false, of a filter or a `when`.
    Condition,
    /// True or false, of an arm.
    Route,
    /// A text or a number.
    Key,
    /// A text or a number, or null.
    TextOrNull,
    List,
}

impl Need {
    /// The kinds that it takes.
    fn kinds(self) -> Kinds {
        let text = Kinds::STRING.or(Kinds::NUMBER);
        match self {
            Need::Any => Kinds::ALL,
            Need::Condition | Need::Route => Kinds::BOOLEAN,
            Need::Key => text,
            Need::TextOrNull => text.or(Kinds::NOTHING),
            Need::List => Kinds::LIST,
        }
    }

    /// Whether a value is what it takes.
    fn takes(self, value: &Value<'_>) -> bool {
        match self {
            Need::Any => true,
            Need::Condition | Need::Route => value.as_bool().is_some(),
            Need::Key => value.to_text().is_some_and(|text| !text.is_empty()),
            Need::TextOrNull => value.is_null() || value.to_text().is_some(),
            Need::List => value.type_name() == "array",
        }
    }
}

/// The type of an expression.
pub(super) fn type_of<'s>(cx: &Cx<'s>, state: &State<'s>, expression: &Expression) -> Type<'s> {
    let tables = &cx.known.library.tables;
    let mut infer = Infer::new(expression.text(), &state.variables, tables);
    infer.node(expression.root(), &state.body)
}

/// Checks the expression in a node; gives it if it can be read.
pub(super) fn check<'s>(
    cx: &mut Cx<'s>,
    state: &State<'s>,
    node: &Node,
    need: Need,
) -> Option<Rc<Expression>> {
    let text = node.as_text().filter(|_| !cx.holds_missing(node.span))?;
    let expression = Rc::new(Expression::compile(text).ok()?);
    asked::look(cx, state, node, &expression);
    let tables = &cx.known.library.tables;
    let mut infer = Infer::new(expression.text(), &state.variables, tables);
    let is = infer.node(expression.root(), &state.body);
    let mut focus = Focus {
        pairs: true,
        ..Focus::default()
    };
    focus.add(&infer.reads, &infer.hints, &expression);
    let mut site = Site {
        expression: &expression,
        notes: infer.notes,
        need,
        unfit: unfit(&is, need),
        never: never_true(&is, need) && !infer.reads.is_empty(),
        is,
        shown: Vec::new(),
        unfit_shown: None,
        any: None,
        passed: false,
        reached: 0,
    };
    if site.notes.is_empty() && site.unfit == Kinds::NONE && !site.never {
        return Some(expression);
    }
    site.shown = vec![None; site.notes.len()];
    site.search(&state.trail, &around(cx), &focus);
    let found = site.told(cx, node, &infer.reads, state);
    for finding in found {
        cx.report(finding);
    }
    drop(site);
    Some(expression)
}

/// The kinds that come and are not what is asked for.
fn unfit(is: &Type<'_>, need: Need) -> Kinds {
    if is.open && !is.kinds.within(Kinds::NOTHING) {
        return Kinds::NONE;
    }
    is.kinds.without(need.kinds())
}

/// Whether a condition can be decided and is never true.
fn never_true(is: &Type<'_>, need: Need) -> bool {
    matches!(need, Need::Condition | Need::Route)
        && is.kinds.has(Kinds::FALSE)
        && is.kinds.within(Kinds::FALSE.or(Kinds::NOTHING))
}

struct Site<'e, 's> {
    expression: &'e Expression,
    notes: Vec<Note<'s>>,
    need: Need,
    is: Type<'s>,
    unfit: Kinds,
    never: bool,
    /// For each note a body that shows it.
    shown: Vec<Option<String>>,
    unfit_shown: Option<String>,
    /// Any body that got here and with which there is a result.
    any: Option<String>,
    /// Whether it is true with a body that got here.
    passed: bool,
    reached: usize,
}

impl<'s> Site<'_, 's> {
    /// Tries what is suspected. A body with which the condition is true disproves that it never is.
    fn search(&mut self, trail: &Trail<'_>, around: &trial::Around<'_>, focus: &Focus) {
        let (expression, need, notes, unfit) =
            (self.expression, self.need, &self.notes, self.unfit);
        let never = self.never;
        let mut passed = false;
        let (shown, unfit_shown, any) = (&mut self.shown, &mut self.unfit_shown, &mut self.any);
        let tables: &Tables = around.tables;
        let bound = is_bound(expression, trail);
        self.reached = trail.search(around, focus, &mut |tried| {
            let Some(scope) = trial::scope(tried.message, tables) else {
                return false;
            };
            let came = expression.evaluate(&scope);
            if let Ok(value) = &came {
                passed |= value.as_bool() == Some(true);
                any.get_or_insert_with(|| tried.arrived.to_owned());
            }
            for (note, shown) in notes.iter().zip(shown.iter_mut()) {
                let shows = match (&note.about, &came) {
                    (About::Argument { .. }, Err(fault)) => {
                        bound && fault.kind == FaultKind::InvalidType && fault.start == note.start
                    }
                    (About::Argument { .. }, Ok(_)) => false,
                    (_, came) => came.is_ok(),
                };
                if shows && shown.is_none() {
                    *shown = Some(tried.arrived.to_owned());
                }
            }
            if let Ok(value) = &came
                && unfit != Kinds::NONE
                && !need.takes(value)
                && unfit_shown.is_none()
            {
                *unfit_shown = Some(tried.arrived.to_owned());
            }
            shown.iter().all(Option::is_some)
                && (unfit == Kinds::NONE || unfit_shown.is_some())
                && (!never || passed)
        });
        self.never &= !passed;
        self.passed = passed;
    }

    /// Whether a body has shown that the note does not hold: the whole expression is said never to be true, and is.
    fn is_disproved(&self, note: &Note<'_>) -> bool {
        let root = self.expression.root();
        let whole = (note.start, note.end) == (root.start, root.end);
        self.passed && whole && matches!(note.about, About::NeverEqual { negated: false, .. })
    }

    fn told(
        &self,
        cx: &Cx<'_>,
        node: &Node,
        reads: &[Rc<Origin>],
        state: &State<'_>,
    ) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for (note, shown) in self.notes.iter().zip(&self.shown) {
            if self.is_disproved(note) {
                continue;
            }
            let span = node.span_within(&cx.file, note.start, note.end);
            let told = told::note(note, cx.place(span), shown.as_deref(), None, self.reached);
            found.extend(told);
        }
        let proven = |finding: &Diagnostic| finding.severity == Severity::Error;
        if !found.is_empty() && (!self.never || found.iter().any(proven)) {
            return found;
        }
        if self.never {
            return vec![self.never_told(cx, node)];
        }
        if self.unfit != Kinds::NONE
            && let Some(told) = self.unfit_told(cx, node, reads, state)
        {
            found.push(told);
        }
        found
    }

    fn unfit_told(
        &self,
        cx: &Cx<'_>,
        node: &Node,
        reads: &[Rc<Origin>],
        state: &State<'_>,
    ) -> Option<Diagnostic> {
        let null_only = self.unfit.within(Kinds::NOTHING);
        let sure = self.unfit == self.is.kinds;
        let because = told::because(reads, &state.trail);
        let (code, wants, help) = match (self.need, null_only) {
            (Need::Condition | Need::Route, true) => (
                codes::NULL_CONDITION,
                "true or false",
                "say what holds then: `not_null(x, `false`)`, or ask first: `x != `null` && x > ..`",
            ),
            (Need::Condition | Need::Route, false) => (
                codes::NOT_BOOLEAN,
                "true or false",
                "compare it with something, such as == or >",
            ),
            (Need::List, _) => (
                codes::WRONG_SHAPE,
                "a list",
                "give a list in every case: `not_null(a, `[]`)`",
            ),
            (_, true) => (
                codes::NULL_KEY,
                "a text or a number",
                "use a field that is always there, or require it in the schema",
            ),
            _ => (
                codes::KEY_TYPE,
                "a text or a number",
                "use a field within it",
            ),
        };
        let may = if sure { "gives" } else { "may give" };
        let message = format!(
            "`{}` {may} {}, and {wants} is needed here{because}",
            crate::expression::shortened(self.expression.text()),
            self.unfit.words()
        );
        let place = node.place(&cx.file);
        match &self.unfit_shown {
            Some(body) => Some(
                Diagnostic::error(code, place, message)
                    .help(help)
                    .witness(body),
            ),
            None if self.reached == 0 || sure => {
                Some(Diagnostic::warning(code, place, message).help(help))
            }
            None => None,
        }
    }

    fn never_told(&self, cx: &Cx<'_>, node: &Node) -> Diagnostic {
        let code = match self.need {
            Need::Route => codes::UNREACHABLE_ROUTE,
            _ => codes::NEVER_PASSES,
        };
        let message = match self.need {
            Need::Route => {
                "no message gets here: the condition is never true for what the schema allows"
            }
            _ => "nothing passes: the condition is never true for what the schema allows",
        };
        let place = node.place(&cx.file);
        let help = "compare with a value that can come, or remove it";
        match &self.any {
            Some(body) => Diagnostic::error(code, place, message)
                .help(help)
                .witness(body),
            None => Diagnostic::warning(code, place, message).help(help),
        }
    }
}

/// Whether all variables of the expression are made up in a trial.
fn is_bound(expression: &Expression, trail: &Trail<'_>) -> bool {
    let made = |name: &String| trail.variables.contains_key(name) || trail.makes(name);
    expression
        .free_variables()
        .iter()
        .all(|(name, ..)| made(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{File, Findings};
    use crate::flow::check::types::trial::Around;
    use crate::schema::Schemas;

    const SCHEMA: &str = r#"{"type": "object", "required": ["status"], "properties": {"status": {"enum": ["open", "closed"]}}}"#;

    /// Tries a condition of which types say, rightly or not, that it is never true: whether that stands, and whether a body shows it.
    fn tried(condition: &str) -> (bool, bool) {
        let files = [("a".to_owned(), File::new("schemas/a.json", SCHEMA))];
        let schemas = Schemas::load(&files, &mut Findings::new());
        let state = State::of(&schemas, "a").unwrap();
        let tables = Tables::new();
        let expression = Expression::compile(condition).unwrap();
        let mut infer = Infer::new(expression.text(), &state.variables, &tables);
        infer.node(expression.root(), &state.body);
        let mut focus = Focus::default();
        focus.add(&infer.reads, &infer.hints, &expression);
        let mut site = Site {
            expression: &expression,
            notes: Vec::new(),
            need: Need::Condition,
            is: Type::of(Kinds::FALSE),
            unfit: Kinds::NONE,
            never: true,
            shown: Vec::new(),
            unfit_shown: None,
            any: None,
            passed: false,
            reached: 0,
        };
        let around = Around {
            tables: &tables,
            keys: Vec::new(),
        };
        site.search(&state.trail, &around, &focus);
        (site.never, site.any.is_some())
    }

    #[test]
    fn a_body_with_which_a_condition_is_true_disproves_that_it_never_is() {
        assert_eq!(tried("status == 'closed'"), (false, true));
        assert_eq!(tried("status == 'gone'"), (true, true));
        // It fails with every body: nothing is shown.
        assert_eq!(tried("abs(status) == `1`"), (true, false));
    }
}
