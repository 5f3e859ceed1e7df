//! Trying a mapping on a body that was made up: everything that fails is noted, and the rest is made. Messages in flight stop at the first failure.

use std::borrow::Cow;

use super::Mapping;
use super::write::{Failed, Writer};
use crate::body::Body;
use crate::expression::evaluate::Budget;
use crate::expression::{Scope, Value};
use crate::failure::Failure;

/// What came of a trial.
pub(crate) struct Trial {
    /// What was made, without what failed.
    pub(crate) body: Body,
    /// What failed.
    pub(crate) failed: Vec<Failed>,
    /// Whether a `let` failed, so that what hangs on it means nothing.
    pub(crate) unsure: bool,
}

impl Mapping {
    /// Makes what can be made in a scope.
    pub(crate) fn trial<'a>(&'a self, mut scope: Scope<'a>) -> Result<Trial, Failure> {
        let mut budget = Budget::FULL;
        let current = scope.body().clone();
        let mut faults = Vec::new();
        for (name, leaf) in &self.lets {
            scope.set_site(Cow::Borrowed(&leaf.path));
            let value = leaf
                .expression
                .evaluate_within(&scope, &current, &mut budget)
                .unwrap_or_else(|fault| {
                    faults.push(Failed {
                        path: leaf.path.clone(),
                        fault,
                    });
                    Value::Null
                });
            scope.bind(name.as_str(), value);
        }
        let unsure = !faults.is_empty();
        let mut out = Vec::new();
        let failed = Writer {
            mapping: self,
            scope,
            budget,
            places: Vec::new(),
            start: 0,
            faults: Some(faults),
            out: &mut out,
        }
        .whole(&self.body, &current)?;
        Ok(Trial {
            body: Body::new(out),
            failed,
            unsure,
        })
    }
}
