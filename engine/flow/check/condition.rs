//! Conditions: `when`, `filter`, `applied`. They must be able to give true or false.

use super::Cx;
use crate::diagnostic::Diagnostic;
use crate::expression::Expression;
use crate::flow::codes;
use crate::yaml::Node;

/// Compiles a condition; `None` if it is broken, with findings.
pub(crate) fn condition(cx: &mut Cx<'_>, node: &Node) -> Option<Expression> {
    let expression = cx.expression(node)?;
    decides(cx, node, &expression).then_some(expression)
}

/// Whether an expression can be a condition; else a finding at the part that cannot.
pub(crate) fn decides(cx: &mut Cx<'_>, node: &Node, expression: &Expression) -> bool {
    let Some(fault) = expression.never_decides() else {
        return true;
    };
    let span = node.span_within(&cx.file, fault.start, fault.end);
    let place = cx.place(span);
    cx.report(Diagnostic::error(codes::NOT_BOOLEAN, place, fault.message).help(fault.help));
    false
}
