//! Whether an expression can be a condition, as far as its text tells. It guesses nothing: a path may hold anything.

use super::ast::{Node, Step, Tree};
use super::functions::Types;
use super::{Expression, Fault, FaultKind};
use crate::body::Kind;

impl Expression {
    /// The part of the expression, if there is one, whose value is the result at times and can never be true or false.
    pub fn never_decides(&self) -> Option<Fault> {
        never(&self.root)
    }

    /// Plain words in double quotes on the right of a comparison: names of fields, where most people mean a string.
    pub fn quoted_names(&self) -> Vec<Fault> {
        let mut found = Vec::new();
        self.root.walk(&mut |node| {
            let Tree::Compare(_, _, right) = &node.tree else {
                return;
            };
            let Tree::Path { of: None, steps } = &right.tree else {
                return;
            };
            if let ([Step::Field(name)], Some(written)) =
                (steps.as_slice(), self.text().get(right.start..right.end))
                && written.starts_with('"')
                && name.chars().all(|c| c.is_alphanumeric() || c == '_')
            {
                let message =
                    format!("\"{name}\" in double quotes is the field `{name}`, not a string");
                let fault = Fault::new(FaultKind::InvalidValue, message);
                let help = format!("write '{name}' for the string, or {name} for the field");
                found.push(fault.at(right.start, right.end).with_help(help));
            }
        });
        found
    }

    /// The text that the expression always gives, if it is nothing but that.
    pub fn literal_text(&self) -> Option<String> {
        self.root.literal_text()
    }

    /// The boolean that the expression always gives, if it is nothing but that.
    pub fn always(&self) -> Option<bool> {
        match &self.root.tree {
            Tree::Literal(tape) => tape.root().as_bool(),
            _ => None,
        }
    }
}

fn never(node: &Node) -> Option<Fault> {
    let (gives, help) = match &node.tree {
        Tree::Pipe(_, last) | Tree::Let(_, last) | Tree::And(_, last) => return never(last),
        Tree::Or(left, right) => return never(left).or_else(|| never(right)),
        Tree::Text(text) => (
            format!("the string '{text}'"),
            "compare it with something: field == 'text'".to_owned(),
        ),
        Tree::Literal(tape) => match tape.root().kind() {
            Kind::Bool => return None,
            Kind::Null => ("null".to_owned(), "compare it: field == `null`".to_owned()),
            Kind::Number => ("a number".to_owned(), "compare it: field == `1`".to_owned()),
            Kind::String => (
                "a string".to_owned(),
                "compare it with something: field == 'text'".to_owned(),
            ),
            Kind::List | Kind::Object => return fault(node, "a literal".to_owned(), String::new()),
        },
        Tree::Project { .. } | Tree::List(_) => (
            "a list".to_owned(),
            "ask how long it is: length(list) > `0`".to_owned(),
        ),
        Tree::Object(_) => ("an object".to_owned(), String::new()),
        Tree::Call(call) => {
            let types = call.function?.gives;
            if types.takes_any_of(Types::BOOLEAN) {
                return None;
            }
            (
                format!("{}, the result of {}()", types.words(), call.name),
                "compare it with something, such as == or >".to_owned(),
            )
        }
        _ => return None,
    };
    fault(node, gives, help)
}

fn fault(node: &Node, gives: String, help: String) -> Option<Fault> {
    Some(
        Fault::new(
            FaultKind::InvalidType,
            format!("a condition must be true or false; this gives {gives}"),
        )
        .at(node.start, node.end)
        .with_help(help),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        let expression = Expression::compile(text).unwrap();
        let part = expression
            .never_decides()
            .map(|fault| &text[fault.start..fault.end]);
        assert_eq!(part, expect, "{text}");
    }

    #[test]
    fn what_is_never_true_or_false_is_found() {
        check("a", None);
        check("a == 'x' && contains(b, 'y')", None);
        check("a || `true`", None);
        check("not_null(a, `false`)", None);
        check("!a", None);
        check("a == 'x' || 'y'", Some("'y'"));
        check("'yes'", Some("'yes'"));
        check("length(a)", Some("length(a)"));
        check("a[?b]", Some("a[?b]"));
        check("a | length(@)", Some("length(@)"));
        check("let $x = a in `1`", Some("`1`"));
        let quoted = |text| Expression::compile(text).unwrap().quoted_names().len();
        assert_eq!(quoted("a == \"open\" && b != \"x\""), 2);
        assert_eq!(quoted("a == \"an id\" || \"a\" == 'b' || a == 'c'"), 0);
        assert_eq!(Expression::compile("`true`").unwrap().always(), Some(true));
        assert_eq!(Expression::compile("a").unwrap().always(), None);
        let text = |text| Expression::compile(text).unwrap().literal_text();
        assert_eq!(text("'a'"), Some("a".to_owned()));
        assert_eq!(text("`\"a\"`"), Some("a".to_owned()));
        assert_eq!(text("a"), None);
    }
}
