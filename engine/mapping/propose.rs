//! A mapping proposed from two schemas: by how alike the names are, where they stand, and whether the types go together. It guesses, and says how
//! sure it is; what it found nothing for is marked.

use std::fmt::Write;

use crate::schema::Schemas;
use crate::schema::place::At;

/// How deep targets are looked into.
const DEPTH_MAX: usize = 8;
/// How many fields a source is searched for.
const FIELDS_MAX: usize = 2_000;
/// A guess that is less sure than this is no guess.
const SURE_MIN: f64 = 0.5;
/// A field of the source stands for a second one of the target only if this is sure.
const SURE_TWICE: f64 = 0.9;

/// A proposed mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The mapping's file.
    pub text: String,
    /// How many fields of the target are set.
    pub found: usize,
    /// The required fields of the target for which nothing was found, as paths.
    pub missing: Vec<String>,
}

/// Proposes a mapping from one schema to another. `None` if there is no schema of one of the names.
pub fn propose(schemas: &Schemas, name: &str, from: &str, to: &str) -> Option<Proposal> {
    let (source, target) = (At::named(schemas, from)?, At::named(schemas, to)?);
    let mut writer = Writer {
        text: format!(
            "# Proposed by `crossdock new flow`. The share behind a field is how sure the guess is: look at each, then remove the remarks.\n\
             mapping: {name}\nfrom: {from}\nto: {to}\nfields:\n"
        ),
        found: 0,
        missing: Vec::new(),
    };
    let fields = leaves(source, "");
    let lists = lists(source, "");
    writer.object(target, &Scope { fields, lists }, "", 1, 0);
    if writer.found == 0 {
        writer.text = writer.text.replacen("\nfields:\n", "\nfields: {}\n", 1);
    }
    Some(Proposal {
        text: writer.text,
        found: writer.found,
        missing: writer.missing,
    })
}

/// A field of the source, by its path from the current value.
#[derive(Clone)]
struct Leaf<'s> {
    path: String,
    at: At<'s>,
    words: Vec<String>,
    last: Vec<String>,
}

/// What can be chosen from at a place.
struct Scope<'s> {
    fields: Vec<Leaf<'s>>,
    lists: Vec<Leaf<'s>>,
}

/// A guess.
struct Guess {
    expression: String,
    sure: f64,
}

struct Writer {
    text: String,
    found: usize,
    missing: Vec<String>,
}

impl Writer {
    fn line(&mut self, indent: usize, text: std::fmt::Arguments<'_>) {
        let blanks = "  ".repeat(indent);
        writeln!(self.text, "{blanks}{text}").expect("a text takes text");
    }

    fn object(&mut self, at: At<'_>, scope: &Scope<'_>, path: &str, indent: usize, depth: usize) {
        let fields = at.fields();
        let leaves: Vec<(String, At<'_>)> = fields
            .iter()
            .map(|field| (join(path, field.name), field.at))
            .collect();
        let mut guesses = guess_all(&leaves, scope);
        for (field, guess) in fields.iter().zip(guesses.iter_mut()) {
            let path = join(path, field.name);
            let types = field.at.all_types();
            let key = quoted_key(field.name);
            if types.contains(&"object") && !field.at.fields().is_empty() && depth < DEPTH_MAX {
                let mark = (self.text.len(), self.found);
                self.line(indent, format_args!("{key}:"));
                let missing = self.missing.len();
                self.object(field.at, scope, &path, indent + 1, depth + 1);
                if self.found == mark.1 {
                    // Nothing in it was found: then it is told as a whole.
                    self.text.truncate(mark.0);
                    self.missing.truncate(missing);
                    self.nothing(field.name, field.required, &path, indent);
                }
                continue;
            }
            if types.contains(&"array")
                && self.list(field.at, field.name, scope, &path, indent, depth)
            {
                continue;
            }
            match guess.take() {
                Some(guess) => {
                    self.found += 1;
                    let value = quoted(&guess.expression);
                    self.line(
                        indent,
                        format_args!("{key}: {value} # {:.0}%", guess.sure * 100.0),
                    );
                }
                None => self.nothing(field.name, field.required, &path, indent),
            }
        }
    }

    fn nothing(&mut self, name: &str, required: bool, path: &str, indent: usize) {
        let key = quoted_key(name);
        if required {
            self.missing.push(path.to_owned());
            self.line(
                indent,
                format_args!("# {key}: required, and nothing in the source is like it"),
            );
        } else {
            self.line(indent, format_args!("# {key}:"));
        }
    }

    /// A list of objects. False if it is none, or if nothing in the source is like it.
    fn list(
        &mut self,
        at: At<'_>,
        name: &str,
        scope: &Scope<'_>,
        path: &str,
        indent: usize,
        depth: usize,
    ) -> bool {
        let Some(item) = at
            .each_item()
            .into_iter()
            .find(|item| !item.fields().is_empty())
        else {
            return false;
        };
        let words = words_of(path);
        let last = words_of(name);
        let wanted = names_in(item);
        let best = scope
            .lists
            .iter()
            .map(|list| {
                let inside = list
                    .at
                    .each_item()
                    .first()
                    .map(|at| names_in(*at))
                    .unwrap_or_default();
                let name = likeness(&last, &list.last).max(likeness(&words, &list.words));
                (0.6 * name + 0.4 * overlap(&wanted, &inside), list)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(sure, _)| *sure >= 0.4 && depth < DEPTH_MAX);
        let Some((sure, list)) = best else {
            return false;
        };
        let Some(each) = list.at.each_item().into_iter().next() else {
            return false;
        };
        let mark = (self.text.len(), self.found);
        let key = quoted_key(name);
        self.line(indent, format_args!("{key}:"));
        let value = quoted(&list.path);
        self.line(
            indent + 1,
            format_args!("- each: {value} # {:.0}%", sure.min(1.0) * 100.0),
        );
        self.line(indent + 1, format_args!("  fields:"));
        let inner = Scope {
            fields: leaves(each, ""),
            lists: lists(each, ""),
        };
        let missing = self.missing.len();
        self.object(item, &inner, &format!("{path}[]"), indent + 3, depth + 1);
        if self.found == mark.1 {
            self.text.truncate(mark.0);
            self.missing.truncate(missing);
            return false;
        }
        true
    }
}

/// The best guess for each target, the surest first; a field of the source is seldom right for two.
fn guess_all(targets: &[(String, At<'_>)], scope: &Scope<'_>) -> Vec<Option<Guess>> {
    let mut all: Vec<(f64, usize, Option<usize>, String)> = Vec::new();
    for (place, (path, at)) in targets.iter().enumerate() {
        if let Some(fixed) = fixed(*at) {
            all.push((1.0, place, None, fixed));
            continue;
        }
        let words = words_of(path);
        let last = words_of(path.rsplit('.').next().unwrap_or(path));
        for (number, leaf) in scope.fields.iter().enumerate() {
            let Some((expression, fits)) = converted(leaf, *at) else {
                continue;
            };
            let name = likeness(&last, &leaf.last);
            let whole = likeness(&words, &leaf.words);
            // What stands in an object of its own is named by its object too: `customer.code`, `customer_code`.
            let across = likeness(&last, &leaf.words).max(likeness(&words, &leaf.last));
            let sure = (0.6 * name.max(0.9 * across) + 0.4 * whole) * fits;
            if sure >= SURE_MIN {
                all.push((sure, place, Some(number), expression));
            }
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut guesses: Vec<Option<Guess>> = targets.iter().map(|_| None).collect();
    let mut used = vec![false; scope.fields.len()];
    for (sure, place, leaf, expression) in all {
        let taken = leaf.is_some_and(|leaf| used[leaf]) && sure < SURE_TWICE;
        if guesses[place].is_some() || taken {
            continue;
        }
        if let Some(leaf) = leaf {
            used[leaf] = true;
        }
        guesses[place] = Some(Guess { expression, sure });
    }
    guesses
}

/// The literal, where the target can be one value only.
fn fixed(at: At<'_>) -> Option<String> {
    let value = at.readings().into_iter().find_map(|at| {
        let one = at.raw().get("const");
        let list = at.raw().get("enum").and_then(|all| all.as_array());
        one.or_else(|| list.filter(|all| all.len() == 1)?.first())
    })?;
    Some(match value.as_str() {
        Some(text) => format!("'{}'", text.replace('\'', "\\'")),
        None => format!("`{value}`"),
    })
}

/// The expression that makes the target's type of a field, and how well the types go together; `None` if they cannot.
fn converted(leaf: &Leaf<'_>, to: At<'_>) -> Option<(String, f64)> {
    let path = leaf.path.clone();
    let known = |at: At<'_>| -> Vec<&'static str> {
        let all = ["string", "number", "integer", "boolean", "array", "object"];
        let types = at.all_types();
        all.into_iter()
            .filter(|name| types.contains(name))
            .collect()
    };
    let (has, wants) = (known(leaf.at), known(to));
    if has.is_empty() || wants.is_empty() {
        return Some((path, 0.9));
    }
    let number = |types: &[&str]| types.contains(&"number") || types.contains(&"integer");
    let time = |at: At<'_>| {
        at.readings().iter().any(|at| {
            at.raw().get("format").and_then(|format| format.as_str()) == Some("date-time")
        })
    };
    if has.contains(&"string") && wants.contains(&"string") {
        let stamp = time(to) && !time(leaf.at);
        return Some(if stamp {
            (format!("timestamp({path})"), 0.9)
        } else {
            (path, 1.0)
        });
    }
    if has.iter().any(|one| wants.contains(one)) || (number(&has) && number(&wants)) {
        return Some((path, 1.0));
    }
    if has.contains(&"string") && number(&wants) {
        return Some((format!("decimal({path})"), 0.95));
    }
    if number(&has) && wants.contains(&"string") {
        return Some((format!("to_string({path})"), 0.95));
    }
    None
}

/// The scalar fields of an object and of the objects in it.
fn leaves<'s>(at: At<'s>, path: &str) -> Vec<Leaf<'s>> {
    let mut all = Vec::new();
    collect(at, path, 0, &mut all, &|at| {
        at.fields().is_empty() && at.each_item().iter().all(|item| item.fields().is_empty())
    });
    all
}

/// The lists of objects in an object and in the objects in it.
fn lists<'s>(at: At<'s>, path: &str) -> Vec<Leaf<'s>> {
    let mut all = Vec::new();
    collect(at, path, 0, &mut all, &|at| {
        at.each_item().iter().any(|item| !item.fields().is_empty())
    });
    all
}

fn collect<'s>(
    at: At<'s>,
    path: &str,
    depth: usize,
    all: &mut Vec<Leaf<'s>>,
    wanted: &dyn Fn(At<'s>) -> bool,
) {
    for field in at.fields() {
        if all.len() == FIELDS_MAX || depth == DEPTH_MAX {
            return;
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = field
            .name
            .starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let name = if field.name.chars().all(plain) && starts {
            field.name.to_owned()
        } else {
            format!("\"{}\"", field.name.replace('"', "\\\""))
        };
        let path = join(path, &name);
        if wanted(field.at) {
            // What an amount is of says the object around it: `total.amount`.
            let holder = path
                .rsplit_once('.')
                .filter(|_| matches!(field.name, "amount" | "value"));
            let named = holder.map_or(path.as_str(), |(holder, _)| holder);
            all.push(Leaf {
                words: words_of(named),
                last: words_of(named.rsplit('.').next().unwrap_or(named)),
                path: path.clone(),
                at: field.at,
            });
        }
        collect(field.at, &path, depth + 1, all, wanted);
    }
}

/// The words of all field names in an object.
fn names_in(at: At<'_>) -> Vec<Vec<String>> {
    at.fields()
        .iter()
        .map(|field| words_of(field.name))
        .collect()
}

/// Which share of the wanted names is there.
fn overlap(wanted: &[Vec<String>], there: &[Vec<String>]) -> f64 {
    if wanted.is_empty() {
        return 0.0;
    }
    let best = |words: &Vec<String>| {
        let all = there.iter().map(|other| likeness(words, other));
        all.fold(0.0, f64::max)
    };
    wanted.iter().map(best).sum::<f64>() / wanted.len().min(there.len()).max(1) as f64
}

/// What is written short, and what it means.
const SHORT: &[(&str, &str)] = &[
    ("qty", "quantity"),
    ("quant", "quantity"),
    ("no", "number"),
    ("num", "number"),
    ("nr", "number"),
    ("nbr", "number"),
    ("addr", "address"),
    ("cust", "customer"),
    ("amt", "amount"),
    ("desc", "description"),
    ("descr", "description"),
    ("ref", "reference"),
    ("ext", "external"),
    ("uom", "unit"),
    ("curr", "currency"),
    ("ccy", "currency"),
    ("tel", "phone"),
    ("telephone", "phone"),
    ("mail", "email"),
    ("prov", "province"),
    ("ctry", "country"),
    ("addl", "additional"),
    ("acct", "account"),
    ("inv", "invoice"),
    ("whs", "warehouse"),
    ("wh", "warehouse"),
    ("del", "delivery"),
    ("dlv", "delivery"),
    ("ord", "order"),
    ("prod", "product"),
    ("doc", "document"),
    ("org", "organization"),
    ("pct", "percent"),
    ("tot", "total"),
    ("id", "number"),
    ("identifier", "number"),
    ("zip", "postcode"),
    ("zipcode", "postcode"),
    ("postal", "postcode"),
    ("article", "item"),
    ("sku", "item"),
    ("product", "item"),
    ("comment", "note"),
    ("remark", "note"),
    ("memo", "note"),
    ("lastname", "surname"),
    ("firstname", "forename"),
    ("street", "address"),
    ("shipping", "ship"),
    ("billing", "bill"),
    ("state", "region"),
    ("province", "region"),
    ("rate", "price"),
    ("cost", "price"),
    ("entity", "customer"),
    ("card", "customer"),
    ("client", "customer"),
    ("buyer", "customer"),
    ("created", "date"),
    ("at", "date"),
];

/// The words of a name: cut at case, underscores and dots, in the singular, nothing written short.
fn words_of(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut before = ' ';
    let mut characters = name.chars().peekable();
    while let Some(c) = characters.next() {
        let upper = c.is_uppercase() && (before.is_lowercase() || before.is_ascii_digit());
        // The last capital of several begins a word: `POSTCode` is `post code`.
        let next_lower = characters.peek().is_some_and(|next| next.is_lowercase());
        let after_capitals = c.is_uppercase() && before.is_uppercase() && next_lower;
        let digit = c.is_ascii_digit() != before.is_ascii_digit() && before.is_alphanumeric();
        if !c.is_alphanumeric() || upper || after_capitals || digit {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.extend((!word.is_empty()).then_some(word));
    let mut all: Vec<String> = Vec::new();
    for word in words {
        let word = meant(&word);
        // Two words that are one: `post_code` is `postcode`.
        if word == "code"
            && all
                .last()
                .is_some_and(|last| last == "post" || last == "postcode")
        {
            all.pop();
            all.push("postcode".to_owned());
        } else if !["to", "of", "or", "and", "the"].contains(&word.as_str()) {
            all.push(word);
        }
    }
    all
}

fn meant(word: &str) -> String {
    let single = match word.strip_suffix('s') {
        Some(single) if word.len() > 3 && !word.ends_with("ss") && !word.ends_with("us") => single,
        _ => word,
    };
    let single = single
        .strip_suffix("ed")
        .filter(|stem| stem.len() > 3)
        .unwrap_or(single);
    // `addresses` and `boxes`, beside `houses`.
    let single = ["sse", "xe", "che", "she"]
        .iter()
        .find(|end| single != word && single.ends_with(**end))
        .map_or(single, |_| &single[..single.len() - 1]);
    let long = SHORT
        .iter()
        .find(|(short, _)| *short == single || *short == word);
    long.map_or(single, |(_, long)| long).to_owned()
}

/// How alike two names are, from 0 to 1: the share of words that both have.
fn likeness(a: &[String], b: &[String]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut left: Vec<&String> = b.iter().collect();
    let mut both = 0;
    for word in a {
        if let Some(at) = left.iter().position(|other| *other == word) {
            left.swap_remove(at);
            both += 1;
        }
    }
    2.0 * f64::from(both) / (a.len() + b.len()) as f64
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// An expression as a YAML value.
fn quoted(expression: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '(' | ')');
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let word = reserved.contains(&expression.to_lowercase().as_str());
    if expression.chars().all(plain)
        && !word
        && !expression.starts_with(|c: char| c.is_ascii_digit())
    {
        return expression.to_owned();
    }
    format!(
        "\"{}\"",
        expression.replace('\\', "\\\\").replace('"', "\\\"")
    )
}

/// A name as a YAML key.
fn quoted_key(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    if name.chars().all(plain) && starts && !reserved.contains(&name.to_lowercase().as_str()) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_alike_by_what_they_mean() {
        let check = |a: &str, b: &str, expect: bool| {
            let like = likeness(&words_of(a), &words_of(b));
            assert_eq!(like > 0.99, expect, "{a} {b} {like}");
        };
        check("orderNumber", "order_no", true);
        check("QtyOrdered", "quantity_ordered", true);
        check("Addresses", "address", true);
        check("zip", "postcode", true);
        check("postal_code", "zipCode", true);
        check("ordered_at", "orderDate", true);
        check("ItemCode", "item_code", true);
        check("total", "subtotal", false);
        assert_eq!(words_of("HTTPStatusCode2"), ["http", "status", "code", "2"]);
    }
}
