//! The text of a statement: names that are checked and quoted, and parameters that are written `:name`. Nothing of a message ever becomes part of it.

use crate::net::sql::Dialect;

/// How long a name may be.
const NAME_BYTES_MAX: usize = 63;
/// What a statement may begin with: one that changes rows, and nothing that would end the transaction around it.
const BEGINNINGS: &[&str] = &[
    "insert", "update", "delete", "merge", "replace", "with", "select",
];

/// A table or a column as it stands in a statement, quoted; `None` if it is no name. With `dots` a schema may stand before it.
pub(super) fn quoted(name: &str, dots: bool) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let sound = |part: &&str| {
        let mut letters = part.chars();
        letters
            .next()
            .is_some_and(|first| first.is_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_alphanumeric() || letter == '_' || letter == '$')
            && part.len() <= NAME_BYTES_MAX
    };
    let few = parts.len() <= if dots { 2 } else { 1 };
    (few && parts.iter().all(sound)).then(|| {
        let parts: Vec<String> = parts.iter().map(|part| format!("\"{part}\"")).collect();
        parts.join(".")
    })
}

/// `INSERT`, or with a key `INSERT .. ON CONFLICT .. DO UPDATE`. All names are quoted.
pub(super) fn insert(
    dialect: Dialect,
    table: &str,
    columns: &[String],
    key: Option<&[String]>,
) -> String {
    let values: Vec<String> = (1..=columns.len())
        .map(|number| dialect.parameter(number))
        .collect();
    let mut text = format!(
        "INSERT INTO {table} ({}) VALUES ({})",
        columns.join(", "),
        values.join(", ")
    );
    if let Some(key) = key {
        let set: Vec<String> = columns
            .iter()
            .filter(|column| !key.contains(column))
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        let what = match set.is_empty() {
            true => "NOTHING".to_owned(),
            false => format!("UPDATE SET {}", set.join(", ")),
        };
        text.push_str(&format!(" ON CONFLICT ({}) DO {what}", key.join(", ")));
    }
    text
}

/// A statement with the names of its parameters, in the order of their first use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) text: String,
    pub(super) names: Vec<String>,
}

/// Finds the `:name` parameters of one statement; what is quoted, commented out or cast with `::` is left alone.
pub(super) fn parse(dialect: Dialect, given: &str) -> Result<Parsed, String> {
    let given = given.trim().trim_end_matches(';').trim_end();
    let first: String = given
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect::<String>()
        .to_ascii_lowercase();
    if !BEGINNINGS.contains(&first.as_str()) {
        return Err(format!(
            "a statement begins with one of: {}",
            BEGINNINGS.join(", ")
        ));
    }
    if given.contains("{{") {
        return Err("values go through parameters such as `:sku`, never into the text".to_owned());
    }
    let mut parsed = Parsed {
        text: String::with_capacity(given.len()),
        names: Vec::new(),
    };
    let mut rest = given;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '\'' | '"' => until(rest, 1, &next.to_string())?,
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => until(rest, 2, "*/")?,
            '$' if dollar(rest).is_some() => {
                let tag = dollar(rest).unwrap_or("$$");
                until(rest, tag.len(), tag)?
            }
            ';' => return Err("there is more than one statement".to_owned()),
            '?' => return Err("parameters are written `:name`".to_owned()),
            ':' if rest.starts_with("::") => 2,
            ':' => {
                let name = word(&rest[1..]);
                if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
                    1
                } else {
                    let number = parsed.number(name);
                    parsed.text.push_str(&dialect.parameter(number));
                    rest = &rest[1 + name.len()..];
                    continue;
                }
            }
            _ => next.len_utf8(),
        };
        parsed.text.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Ok(parsed)
}

impl Parsed {
    fn number(&mut self, name: &str) -> usize {
        match self.names.iter().position(|known| known == name) {
            Some(at) => at + 1,
            None => {
                self.names.push(name.to_owned());
                self.names.len()
            }
        }
    }
}

/// Up to and with the end of something that begins here.
fn until(rest: &str, from: usize, end: &str) -> Result<usize, String> {
    match rest[from..].find(end) {
        Some(at) => Ok(from + at + end.len()),
        None => Err(format!("`{}` is not closed", &rest[..from])),
    }
}

/// `$tag$`, if a text begins with it.
fn dollar(rest: &str) -> Option<&str> {
    let tag = word(&rest[1..]);
    let numbered = tag.starts_with(|first: char| first.is_ascii_digit());
    let end = 1 + tag.len();
    (!numbered && rest[end..].starts_with('$')).then(|| &rest[..=end])
}

fn word(text: &str) -> &str {
    let end = text
        .find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_quoted() {
        for (name, expect) in [
            ("stock", Some("\"stock\"")),
            ("wms.Stock_1", Some("\"wms\".\"Stock_1\"")),
            ("größe", Some("\"größe\"")),
            ("a.b.c", None),
            ("", None),
            ("1st", None),
            ("stock;", None),
            ("stock\" (x", None),
            ("a b", None),
            (".a", None),
        ] {
            assert_eq!(quoted(name, true).as_deref(), expect, "{name}");
        }
        assert_eq!(quoted("wms.stock", false), None);
    }

    #[test]
    fn a_table_and_its_columns_become_a_statement() {
        let names = |names: &[&str]| -> Vec<String> {
            let quoted = names.iter().map(|name| quoted(name, false).unwrap());
            quoted.collect()
        };
        let columns = names(&["on_hand", "sku"]);
        let plain = insert(Dialect::Postgres, "\"stock\"", &columns, None);
        assert_eq!(
            plain,
            r#"INSERT INTO "stock" ("on_hand", "sku") VALUES ($1, $2)"#
        );
        let upsert = insert(
            Dialect::Sqlite,
            "\"stock\"",
            &columns,
            Some(&names(&["sku"])),
        );
        assert_eq!(
            upsert,
            r#"INSERT INTO "stock" ("on_hand", "sku") VALUES (?1, ?2) ON CONFLICT ("sku") DO UPDATE SET "on_hand" = excluded."on_hand""#
        );
        let only_key = insert(Dialect::Sqlite, "t", &names(&["a"]), Some(&names(&["a"])));
        assert!(only_key.ends_with("DO NOTHING"), "{only_key}");
    }

    fn parsed(text: &str) -> Result<(String, Vec<String>), String> {
        parse(Dialect::Postgres, text).map(|parsed| (parsed.text, parsed.names))
    }

    #[test]
    fn parameters_are_found_where_they_are_parameters() {
        let check = |text: &str, expect: &str, names: &[&str]| {
            let (text, found) = parsed(text).unwrap();
            assert_eq!(
                (text.as_str(), found),
                (
                    expect,
                    names.iter().map(|name| (*name).to_owned()).collect()
                )
            );
        };
        check(
            "UPDATE stock SET n = n - :n WHERE sku = :sku AND n >= :n;",
            "UPDATE stock SET n = n - $1 WHERE sku = $2 AND n >= $1",
            &["n", "sku"],
        );
        check(
            "update t set a = ':no', \"b:c\" = :b::numeric -- :no\n, d = $$ :no $$ /* :no */",
            "update t set a = ':no', \"b:c\" = $1::numeric -- :no\n, d = $$ :no $$ /* :no */",
            &["b"],
        );
        check("select f('it''s', :a)", "select f('it''s', $1)", &["a"]);
        check(
            "select $q$ :x; $q$, a[1:2], : b",
            "select $q$ :x; $q$, a[1:2], : b",
            &[],
        );
    }

    #[test]
    fn what_is_no_single_statement_is_refused() {
        for (text, part) in [
            ("DROP TABLE stock", "begins with"),
            ("COMMIT", "begins with"),
            ("update t set a = 1; delete from t", "more than one"),
            ("update t set a = '{{sku}}'", "parameters"),
            ("update t set a = ?", "written `:name`"),
            ("update t set a = 'x", "not closed"),
        ] {
            let told = parsed(text).unwrap_err();
            assert!(told.contains(part), "{text}: {told}");
        }
    }
}
