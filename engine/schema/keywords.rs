//! Words in a schema that JSON Schema does not know and that look like one that it knows: a rule that is misspelt checks nothing.

use crate::body::{Item, Kind};
use crate::diagnostic::closest;

/// The words of the drafts 2020-12 and 7 that decide which documents are valid.
pub(super) const DECIDING: &[&str] = &[
    "$dynamicRef",
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "if",
    "items",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "required",
    "then",
    "type",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// Their other words: names, and what is told to people.
const TELLING: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$id",
    "$schema",
    "$vocabulary",
    "contentSchema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

fn words() -> impl Iterator<Item = &'static str> {
    DECIDING.iter().chain(TELLING).copied()
}

/// Calls `f` with each word that is not known and is like one that is, and with that one.
pub(super) fn misspelt<'a>(schema: Item<'a>, f: &mut dyn FnMut(Item<'a>, &'static str)) {
    for (key, value) in schema.entries() {
        let Some(word) = key.as_str() else { continue };
        match &*word {
            "additionalItems"
            | "additionalProperties"
            | "contains"
            | "contentSchema"
            | "else"
            | "if"
            | "items"
            | "not"
            | "propertyNames"
            | "then"
            | "unevaluatedItems"
            | "unevaluatedProperties"
            | "allOf"
            | "anyOf"
            | "oneOf"
            | "prefixItems" => {
                one_or_many(value, f);
            }
            "$defs" | "definitions" | "dependencies" | "dependentSchemas" | "patternProperties"
            | "properties" => {
                for (_, value) in value.entries() {
                    one_or_many(value, f);
                }
            }
            // What begins so is meant for others than the validator.
            word if words().any(|known| known == word) || word.starts_with("x-") => {}
            word => {
                if let Some(near) = closest(word, words()) {
                    f(key, near);
                }
            }
        }
    }
}

fn one_or_many<'a>(value: Item<'a>, f: &mut dyn FnMut(Item<'a>, &'static str)) {
    match value.kind() {
        Kind::Object => misspelt(value, f),
        Kind::List => value.items().for_each(|item| one_or_many(item, f)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;

    fn check(schema: &str, expect: &[&str]) {
        let body = Body::new(schema.to_owned());
        let mut found = Vec::new();
        misspelt(body.document().unwrap(), &mut |key, near| {
            found.push(format!("{} {near}", key.as_str().unwrap()));
        });
        assert_eq!(found, expect, "{schema}");
    }

    #[test]
    fn a_misspelt_word_is_found_where_a_schema_stands_and_nowhere_else() {
        check(
            r#"{"requierd": ["a"], "type": "object"}"#,
            &["requierd required"],
        );
        check(
            r#"{"properties": {"tpye": {"maxLenght": 3}, "items": {"enmu": [1]}}}"#,
            &["maxLenght maxLength", "enmu enum"],
        );
        check(
            r#"{"allOf": [{"minimun": 1}], "items": [{"patern": "a"}]}"#,
            &["minimun minimum", "patern pattern"],
        );
        check(r#"{"const": {"tpye": 1}, "examples": [{"tpye": 1}]}"#, &[]);
        check(
            r#"{"x-owner": "sales", "x-deprecated": {}, "markdownDescription": "a"}"#,
            &[],
        );
    }
}
