//! Tests of mappings: from the text of a file to the bytes of a body.

use serde_json::json;

use super::*;
use crate::expression::Table;
use crate::failure::Class;
use crate::message::MessageId;
use crate::yaml;

fn compiled(text: &str) -> (Option<Mapping>, Vec<String>) {
    let file = File::new("mappings/test.yaml", text);
    let mut findings = Findings::new();
    let node = yaml::parse(&file, &mut findings).expect("YAML");
    let mapping = compile(&file, &node, &mut findings);
    let list = findings
        .sorted()
        .iter()
        .map(|finding| {
            let (line, column) = finding.place.line_column();
            format!("{line}:{column} {} {}", finding.code, finding.message)
        })
        .collect();
    (mapping, list)
}

fn mapping(text: &str) -> Mapping {
    let (mapping, findings) = compiled(text);
    assert!(findings.is_empty(), "{findings:?}");
    mapping.unwrap()
}

fn message(body: &str) -> Message {
    Message::new(MessageId(7), 0, Body::new(body.to_owned()))
}

fn applied(mapping: &Mapping, body: &str) -> Result<String, Failure> {
    let mut tables = Tables::new();
    let cells = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
    let rows = vec![cells(["7", "C-7"])];
    tables.insert(Table::new("customers", cells(["id", "code"]), rows).unwrap());
    let body = mapping.apply(&message(body), &tables)?;
    Ok(String::from_utf8(body.bytes().to_vec()).unwrap())
}

fn check(fields: &str, body: &str, expect: &str) {
    let mapping = mapping(&format!("mapping: test\n{fields}"));
    assert_eq!(applied(&mapping, body).unwrap(), expect, "{fields}");
}

#[test]
fn the_example_of_the_language_works() {
    let mapping = mapping(
        r#"
mapping: storefront-order
description: An order.
from: storefront/order.v1
to: canonical/order.v1
let:
  discounts: discount_codes[].decimal(amount)
fields:
  order_number: name
  channel: "'storefront'"
  ordered_at: timestamp(created_at)
  customer:
    code: lookup('customers', customer.id)
    email: lower(customer.email)
  lines:
    - each: line_items[?quantity > `0`]
      fields:
        sku: sku
        quantity: quantity
        unit_price: decimal(price)
        amount: multiply(decimal(price), quantity)
  discount: sum($discounts)
  total: decimal(total_price)
"#,
    );
    let body = r##"{"name": "#1001", "created_at": "2026-11-02T09:30:00+01:00", "customer": {"id": 7, "email": "Ann@X.example"},
        "line_items": [{"sku": "A", "quantity": 3, "price": "19.99"}, {"sku": "B", "quantity": 0, "price": "1"}],
        "discount_codes": [{"amount": "0.10"}, {"amount": "0.20"}], "total_price": "59.67"}"##;
    assert_eq!(
        applied(&mapping, body).unwrap(),
        r##"{"order_number":"#1001","channel":"storefront","ordered_at":"2026-11-02T08:30:00Z","customer":{"code":"C-7","email":"ann@x.example"},"lines":[{"sku":"A","quantity":3,"unit_price":19.99,"amount":59.97}],"discount":0.30,"total":59.67}"##
    );
    assert_eq!(mapping.name(), "storefront-order");
    assert_eq!(mapping.to().unwrap().0, "canonical/order.v1");
    assert_eq!(mapping.tables()[0].table, "customers");
}

#[test]
fn literals_keep_their_text_and_null_leaves_a_field_out() {
    check(
        "fields: { a: 19.90, b: true, c: missing, d: keep_null(missing), e: { f: missing }, g: 9007199254740993 }",
        "{}",
        r#"{"a":19.90,"b":true,"d":null,"e":{},"g":9007199254740993}"#,
    );
}

#[test]
fn numbers_pass_unchanged() {
    check(
        "fields: { a: a, b: b, c: '@' }",
        r#"{"a": 9007199254740993, "b": 1.2300, "x": [1e400, 0.10]}"#,
        r#"{"a":9007199254740993,"b":1.2300,"c":{"a":9007199254740993,"b":1.2300,"x":[1e400,0.10]}}"#,
    );
}

#[test]
fn list_items_are_expressions_literals_or_objects() {
    check(
        "fields:\n  a:\n    - x\n    - missing\n    - 5\n    - fields: { n: x }\n    - each: list\n      value: '@'\n    - each: missing\n      fields: { y: y }\n    - each: list\n      value: { v: '@' }",
        r#"{"x": "X", "list": [1, null, 2]}"#,
        r#"{"a":["X",5,{"n":"X"},1,2,{"v":1},{},{"v":2}]}"#,
    );
}

#[test]
fn objects_that_an_expression_builds_leave_nulls_out_as_well() {
    check(
        "fields: { a: \"{x: x, y: y, z: keep_null(y)}\", b: o }",
        r#"{"x": 1, "o": {"n": null}}"#,
        r#"{"a":{"x":1,"z":null},"b":{"n":null}}"#,
    );
}

#[test]
fn inner_lists_see_outer_values_through_let() {
    check(
        "let: { order: '@', number: $order.number }\nfields:\n  lines:\n    - each: lines\n      fields: { order: $number, sku: sku }",
        r#"{"number": 7, "lines": [{"sku": "A"}, {"sku": "B"}]}"#,
        r#"{"lines":[{"order":7,"sku":"A"},{"order":7,"sku":"B"}]}"#,
    );
}

#[test]
fn ids_differ_from_line_to_line_and_stay_the_same_between_runs() {
    let mapping =
        mapping("mapping: t\nfields:\n  a:\n    - each: '@'\n      value: uuid()\n  b: uuid()");
    let once = applied(&mapping, "[1, 2]").unwrap();
    assert_eq!(once, applied(&mapping, "[1, 2]").unwrap());
    let value: serde_json::Value = serde_json::from_str(&once).unwrap();
    assert_ne!(value["a"][0], value["a"][1]);
    assert_ne!(value["a"][0], value["b"]);
}

#[test]
fn decimals_are_written_as_the_target_asks() {
    let mut mapping = mapping(
        "mapping: t\nfields:\n  amount: decimal(amount)\n  money: { value: decimal(amount), count: count }\n  lines:\n    - each: lines\n      fields: { price: price }\n  fixed: 5\n  whole: '{price: `1.50`, n: `2`}'",
    );
    mapping.with_target(&json!({
        "$defs": { "line": { "type": "object", "properties": { "price": { "$ref": "#/$defs/amount" }, "n": { "type": "number" } } }, "amount": { "type": "string", "pattern": "^[0-9.]+$" } },
        "properties": {
            "amount": { "type": "number" },
            "money": { "properties": { "value": { "$ref": "#/$defs/amount" }, "count": { "type": ["integer", "null"] } } },
            "lines": { "items": { "$ref": "#/$defs/line" } },
            "fixed": { "type": ["string", "null"] },
            "whole": { "allOf": [{ "$ref": "#/$defs/line" }] }
        }
    }));
    assert_eq!(
        applied(
            &mapping,
            r#"{"amount": "19.90", "count": 3, "lines": [{"price": 1.10}]}"#
        )
        .unwrap(),
        r#"{"amount":19.90,"money":{"value":"19.90","count":3},"lines":[{"price":"1.10"}],"fixed":"5","whole":{"price":"1.50","n":2}}"#
    );
}

#[test]
fn a_failure_names_mapping_field_and_expression() {
    let mapping = mapping(
        "mapping: t\nfields:\n  lines:\n    - each: lines\n      fields: { price: decimal(price) }",
    );
    let failure = applied(
        &mapping,
        r#"{"lines": [{"price": "1"}, {"price": "1,50"}]}"#,
    )
    .unwrap_err();
    assert_eq!(failure.class, Class::Mapping);
    assert!(
        failure.message.starts_with(
            "mapping t, field lines[1].price: decimal() found no number in the text `1,50`"
        ),
        "{}",
        failure.message
    );
    let failure = applied(&mapping, r#"{"lines": {}}"#).unwrap_err();
    assert!(
        failure.message.contains("`each` goes over a list"),
        "{}",
        failure.message
    );
}

#[test]
fn an_unknown_reference_has_its_own_class() {
    let mapping = mapping("mapping: t\nfields: { code: \"lookup('customers', id)\" }");
    let failure = applied(&mapping, r#"{"id": "8"}"#).unwrap_err();
    assert_eq!(failure.class, Class::UnknownReference);
}

#[test]
fn every_mistake_is_found_at_once_at_its_place() {
    let (mapping, findings) = compiled(
        "mappin: t\nlet:\n  a: $b\n  b: foo(x)\n  9c: x\nfields:\n  one: lower(name, 'x')\n  two: \"sum('a')\"\n  three:\n    - sku: sku\n    - each: x\n  four: a..b\n  five: a < 'x'\n  six:\n  seven: 0x10\n",
    );
    assert!(mapping.is_none());
    assert_eq!(
        findings,
        [
            "1:1 unknown-field a mapping file has no field `mappin`",
            "3:6 unknown-variable $b is bound further down",
            "4:6 unknown-function there is no function foo()",
            "5:3 mapping-shape `9c` cannot be the name of a variable",
            "7:8 wrong-arity lower() takes 1 argument, 2 given",
            "8:13 wrong-argument-type sum() takes array of numbers as `list`, not string",
            "10:7 mapping-shape an object in a list stands under `fields`",
            "11:7 missing-field `each` needs `fields` or `value`",
            "12:11 expression-syntax expected a name, `*`, `[` or `{`, found `.`",
            "13:13 string-ordering only numbers have an order: a comparison with a string gives null",
            "14:3 mapping-shape an expression is missing here",
            "15:10 bad-value the number `0x10` has no form in JSON",
        ]
    );
}

#[test]
fn a_file_can_be_a_single_expression() {
    let file = File::new("mappings/total.jmespath", "sum(lines[].\n  amount)\n");
    let mut findings = Findings::new();
    let mapping = compile_expression("total", &file, &mut findings).unwrap();
    assert_eq!(
        applied(&mapping, r#"{"lines": [{"amount": 0.1}, {"amount": 0.2}]}"#).unwrap(),
        "0.3"
    );
    let broken = File::new("mappings/total.jmespath", "sum(lines[].\n  amount(1))\n");
    assert!(compile_expression("total", &broken, &mut findings).is_none());
    assert_eq!(findings.sorted()[0].place.line_column(), (2, 10));
}
