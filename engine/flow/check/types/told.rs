//! What is told about a mistake in types: in which words, with which help, and how bad it is.

use std::rc::Rc;

use super::trial::Trail;
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::flow::codes;
use crate::mapping::typed::TypedLeaf;
use crate::schema::fit::{Misfit, What};
use crate::schema::infer::note::{About, Note};
use crate::schema::infer::{Hop, Kinds, Origin, Type};
use crate::schema::witness;

/// How many reasons are told.
const REASONS_MAX: usize = 2;

/// The finding about a note; nothing if it is not worth one. `missing` is a body that leaves out what the target requires there.
pub(super) fn note(
    note: &Note<'_>,
    place: Place,
    shown: Option<&str>,
    missing: Option<&str>,
    reached: usize,
) -> Option<Diagnostic> {
    match &note.about {
        About::NoField {
            name,
            of,
            near,
            known,
            shut: true,
        } => Some(no_field(name, of, near.as_deref(), known, place, shown)),
        About::NoField { name, of, near, .. } => {
            undeclared(name, of, near.as_deref(), place, missing)
        }
        About::WrongKind { asked, of, is } => {
            let whole = match of.is_empty() {
                true => "this".to_owned(),
                false => format!("`{of}`"),
            };
            let kinds = is.without(Kinds::NOTHING);
            let help = match kinds.has(Kinds::LIST) {
                true => format!("go over the items: `{of}[].field`, or take one: `{of}[0].field`"),
                false => "look at the schema for what stands there".to_owned(),
            };
            let message = format!(
                "{whole} is {}: asking it for {asked} always gives null",
                kinds.words()
            );
            Some(proven(codes::WRONG_SHAPE, place, message, shown).help(help))
        }
        About::NeverEqual {
            left,
            right,
            near,
            negated,
        } => Some(never_equal(
            left,
            right,
            near.as_deref(),
            *negated,
            place,
            shown,
        )),
        About::NeverOrdered { is } => {
            let message = format!(
                "only numbers have an order, and this is {}: the comparison gives null",
                is.words()
            );
            let help = "compare amounts with decimal(x), times with before(a, b) and after(a, b)";
            Some(proven(codes::NEVER_ORDERED, place, message, shown).help(help))
        }
        About::Argument { .. } => argument(&note.about, place, shown, reached),
    }
}

/// The finding about an argument; nothing where trials did not show it.
fn argument(
    about: &About<'_>,
    place: Place,
    shown: Option<&str>,
    reached: usize,
) -> Option<Diagnostic> {
    let About::Argument {
        function,
        parameter,
        takes,
        is,
        null_only,
        sure,
        items,
        of,
    } = about
    else {
        return None;
    };
    if shown.is_none() && reached > 0 && !sure {
        return None;
    }
    let code = if *null_only {
        codes::NULL_ARGUMENT
    } else {
        codes::ARGUMENT_TYPE
    };
    let what = match (of.is_empty(), items) {
        (true, false) => "this".to_owned(),
        (true, true) => "an item of this".to_owned(),
        (false, false) => format!("`{of}`"),
        (false, true) => format!("an item of `{of}`"),
    };
    let may = if *sure { "is" } else { "may be" };
    let message = format!(
        "{function}() takes {takes} as `{parameter}`, and {what} {may} {}",
        is.words()
    );
    let help = match null_only {
        true => "give a value for that case with not_null(x, ..), or ask first: `x && f(x)`",
        false => "convert it first, with decimal(x), to_string(x) or to_array(x)",
    };
    Some(proven(code, place, message, shown).help(help))
}

/// An error with a body that shows it, or a warning.
fn proven(code: Code, place: Place, message: String, shown: Option<&str>) -> Diagnostic {
    match shown {
        Some(body) => Diagnostic::error(code, place, message).witness(body),
        None => Diagnostic::warning(code, place, message),
    }
}

fn owner(of: &str) -> String {
    if of.is_empty() {
        "the body".to_owned()
    } else {
        format!("`{of}`")
    }
}

fn no_field(
    name: &str,
    of: &str,
    near: Option<&str>,
    known: &[String],
    place: Place,
    shown: Option<&str>,
) -> Diagnostic {
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "look at the schema for the fields there".to_owned(),
        None => format!("the fields there are: {}", known.join(", ")),
    };
    let message = format!("{} has no field `{name}`: it is always null", owner(of));
    proven(codes::UNKNOWN_SOURCE_FIELD, place, message, shown).help(help)
}

/// A field that an open schema does not speak of is a slip if it is almost one that it declares; it is worth a word if the target requires it.
fn undeclared(
    name: &str,
    of: &str,
    near: Option<&str>,
    place: Place,
    missing: Option<&str>,
) -> Option<Diagnostic> {
    let message = format!(
        "the schema of {} does not declare a field `{name}`",
        owner(of)
    );
    match near {
        Some(near) => Some(
            proven(codes::UNDECLARED_FIELD, place, message, missing)
                .help(format!("did you mean `{near}`?")),
        ),
        None => missing.map(|_| {
            Diagnostic::warning(codes::UNDECLARED_FIELD, place, message)
                .help("declare it in the schema, and require it there: the target needs it")
        }),
    }
}

fn never_equal(
    left: &Type<'_>,
    right: &Type<'_>,
    near: Option<&str>,
    negated: bool,
    place: Place,
    shown: Option<&str>,
) -> Diagnostic {
    let result = if negated { "always true" } else { "never true" };
    let message = format!(
        "{} is compared with {}: that is {result}",
        left.words(),
        right.words()
    );
    let kinds = |is: &Type<'_>| is.kinds.without(Kinds::NOTHING);
    let apart = kinds(left).and(kinds(right)) == Kinds::NONE;
    let help = match near {
        Some(near) => format!("did you mean '{near}'?"),
        None if apart => "compare values of one kind: '5' is a string, `5` a number".to_owned(),
        None => "compare with a value that can come".to_owned(),
    };
    // A value that cannot come and is like none that can may be there for what comes later.
    let sure = near.is_some() || apart;
    proven(codes::NEVER_EQUAL, place, message, shown.filter(|_| sure)).help(help)
}

/// Why something may be null: what it reads that need not be there.
pub(super) fn because(reads: &[Rc<Origin>], trail: &Trail<'_>) -> String {
    let mut reasons = Vec::new();
    for read in reads {
        let root = match &read.variable {
            None => Some(&trail.body.is),
            Some(name) => trail.variables.get(name).map(|start| &start.is),
        };
        let Some(root) = root else { continue };
        for length in 1..=read.hops.len() {
            let is = witness::at(root.is(), &read.hops[..length]);
            let way = Origin {
                variable: read.variable.clone(),
                hops: read.hops[..length].to_vec(),
            };
            let reason = if is.kinds.has(Kinds::ABSENT) {
                format!("`{}` need not be there", way.words())
            } else if is.kinds.has(Kinds::NULL) && !is.open {
                format!("`{}` may be null", way.words())
            } else {
                continue;
            };
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
            break;
        }
    }
    reasons.truncate(REASONS_MAX);
    if reasons.is_empty() {
        return String::new();
    }
    format!(" ({})", reasons.join(", "))
}

/// The finding about a value that may not fit; nothing if it is not worth one.
pub(super) fn misfit(
    misfit: &Misfit,
    leaf: &TypedLeaf<'_, '_>,
    target: &str,
    because: &str,
    shown: Option<&str>,
    reached: usize,
) -> Option<Diagnostic> {
    let code = code_of(&misfit.what);
    let words = misfit_words(misfit, &leaf.way);
    let missing = matches!(misfit.what, What::Missing { .. });
    let because = if missing { because } else { "" };
    let message = format!("{words} in `{target}`{because}");
    let help = help_of(&misfit.what);
    let place = leaf.whole();
    if !misfit.declared {
        // Nothing is declared that could be broken: it is only not sure.
        return (is_worth(misfit) && shown.is_some()).then(|| {
            let message = format!("{message}; the source does not say that it always fits");
            Diagnostic::warning(codes::UNCHECKED_VALUE, place, message).help(help)
        });
    }
    match shown {
        Some(body) => Some(
            Diagnostic::error(code, place, message)
                .help(help)
                .witness(body),
        ),
        None if reached == 0 || misfit.sure => {
            Some(Diagnostic::warning(code, place, message).help(help))
        }
        None => None,
    }
}

/// Whether it is worth trying and telling.
pub(super) fn is_worth(misfit: &Misfit) -> bool {
    misfit.declared
        || !matches!(
            misfit.what,
            What::Missing { .. } | What::Kind { .. } | What::Count { .. } | What::Extra { .. }
        )
}

/// The finding about an `each` over something that may be no list.
pub(super) fn not_list(
    kinds: Kinds,
    leaf: &TypedLeaf<'_, '_>,
    shown: Option<&str>,
) -> Option<Diagnostic> {
    let message = format!("`each` goes over a list, and this may be {}", kinds.words());
    let help = "the values of an object are a.*; one value as a list is to_array(a)";
    shown.map(|body| {
        Diagnostic::error(codes::WRONG_SHAPE, leaf.whole(), message)
            .help(help)
            .witness(body)
    })
}

fn code_of(what: &What) -> Code {
    match what {
        What::Missing { .. } => codes::NULL_FOR_REQUIRED,
        What::Kind { .. } => codes::TYPE_MISMATCH,
        What::Values { .. } | What::AnyValue { .. } => codes::VALUE_MISMATCH,
        What::Long { .. } | What::Short { .. } => codes::LENGTH_MISMATCH,
        What::Pattern { .. } | What::Format { .. } => codes::PATTERN_MISMATCH,
        What::Fraction => codes::FRACTION_FOR_INTEGER,
        What::OutOfRange { .. } => codes::RANGE_MISMATCH,
        What::Count { .. } => codes::COUNT_MISMATCH,
        What::Extra { .. } => codes::EXTRA_FIELD,
    }
}

/// What does not fit, in words.
pub(super) fn misfit_words(misfit: &Misfit, way: &[Hop]) -> String {
    let hops: Vec<Hop> = way.iter().chain(&misfit.path).cloned().collect();
    let path = Origin {
        variable: None,
        hops,
    };
    let at = match path.words() {
        words if words.is_empty() => "the body".to_owned(),
        words => format!("`{words}`"),
    };
    match &misfit.what {
        What::Missing { null: false } if misfit.sure => {
            format!("{at} is required and always missing")
        }
        What::Missing { null: false } => format!("{at} is required and may be missing"),
        What::Missing { null: true } => format!("{at} may be null, which is not allowed"),
        What::Kind { is, wants } => {
            let may = if misfit.sure { "is" } else { "may be" };
            format!("{at} must be {} and {may} {}", wants.words(), is.words())
        }
        What::Values { bad, wants } => {
            let list: Vec<&str> = bad.iter().take(6).map(String::as_str).collect();
            format!("{at} must be {wants} and may be {}", list.join(", "))
        }
        What::AnyValue { wants } => format!("{at} must be {wants} and may be anything else"),
        What::Long { is: Some(is), most } => {
            format!("{at} takes {most} characters and may have {is}")
        }
        What::Long { is: None, most } => format!("{at} takes {most} characters and may have more"),
        What::Short { is, least } => {
            format!("{at} needs {least} characters and may have {is}")
        }
        What::Pattern { wants } => format!("{at} need not match the pattern {wants}"),
        What::Format { is, wants } if is.is_empty() => format!("{at} need not be a {wants}"),
        What::Format { is, wants } => format!("{at} must be a {wants} and is a {is}"),
        What::Fraction => format!("{at} must be a whole number and may have a fraction"),
        What::OutOfRange { is, wants } => format!("{at} must be {wants} and is {is}"),
        What::Count { is, wants } => format!("{at} takes {wants} and may have {is}"),
        What::Extra { name } => format!("{at} must not have the field `{name}`"),
    }
}

fn help_of(what: &What) -> &'static str {
    match what {
        What::Missing { .. } => {
            "give a value for that case with not_null(x, ..), or require the field in the source's schema"
        }
        What::Kind { .. } => {
            "convert it: decimal(x), to_string(x), timestamp(x), lookup('table', x)"
        }
        What::Values { .. } | What::AnyValue { .. } => {
            "translate it with lookup('table', x), or with if(x == 'a', 'b', 'c')"
        }
        What::Long { .. } => {
            "cut it with truncate(x, length), or allow more in the target's schema"
        }
        What::Short { .. } => {
            "fill it with pad_left(x, width, fill), or allow less in the target's schema"
        }
        What::Pattern { .. } | What::Format { .. } => {
            "bring it into that form, or change one of the two schemas"
        }
        What::Fraction => {
            "round it: round(x), floor(x) or ceil(x); money in cents is minor_units(x)"
        }
        What::OutOfRange { .. } => "leave such values out before, or change one of the two schemas",
        What::Count { .. } => "filter before, or change one of the two schemas",
        What::Extra { .. } => "name the fields that are wanted: {a: a, b: b}, or pick(x, 'a', 'b')",
    }
}
