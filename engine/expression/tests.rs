//! What every test of expressions shares, and the tests of the specification's rules.

use bytes::Bytes;

use super::*;
use crate::body::Body;
use crate::message::MessageId;

/// A message with a header, a key and a variable, and this body.
pub(crate) fn message(body: &str) -> Message {
    let body = Body::new(Bytes::copy_from_slice(body.as_bytes()));
    // 2026-11-02T08:30:00Z
    let mut message = Message::new(MessageId::from_parts(1000, 42), 1_793_608_200_000, body);
    message.set_header("X-Channel", "web");
    message.keys = std::sync::Arc::new([("order".into(), "SO-1001".to_owned())].into());
    message.bind(
        "limit",
        Body::new(Bytes::from_static(b"{\"amount\": 100.50}")),
    );
    message
}

/// The expression gives this JSON, or the fault of this kind, on this scope.
pub(crate) fn check(expression: &str, scope: &Scope, expect: Result<&str, &str>) {
    let result = Expression::compile(expression)
        .map_err(|mut faults| faults.remove(0))
        .and_then(|compiled| compiled.evaluate(scope).map(|value| value.to_json()));
    match (&result, expect) {
        (Ok(json), Ok(expected)) => assert_eq!(json, expected, "{expression}"),
        (Err(fault), Err(kind)) => assert_eq!(fault.kind.name(), kind, "{expression}: {fault}"),
        _ => panic!("{expression}: {result:?}, expected {expect:?}"),
    }
}

/// The document and the rules of the specification, each with its cases.
const RULES: &str = include_str!("../../tests/golden/jmespath/rules.json");

fn on(expression: &str, document: &str, expect: Result<&str, &str>) {
    let tables = Tables::new();
    let message = message(document);
    let scope = Scope::of(&message, &tables).unwrap();
    check(expression, &scope, expect);
}

#[test]
fn every_rule_of_the_specification_holds() {
    let rules = Body::new(Bytes::from_static(RULES.as_bytes()));
    let rules = rules.document().unwrap();
    let tables = Tables::new();
    let scope = Scope::bare(rules.get("given").unwrap(), &tables);
    let mut wrong = Vec::new();
    let mut count = 0;
    for rule in rules.get("rules").unwrap().items() {
        for case in rule.get("cases").unwrap().items() {
            count += 1;
            let text = case.get("expression").and_then(Item::as_str).unwrap();
            let result = Expression::compile(&text)
                .map_err(|mut faults| faults.remove(0))
                .and_then(|compiled| {
                    let value = compiled.evaluate(&scope)?;
                    let expected = case.get("result").map(Value::Item);
                    let same = expected.is_some_and(|expected| value::equal(&value, &expected));
                    Ok((same, value.to_json()))
                });
            let kind = case.get("error").and_then(Item::as_str);
            let right = match (&result, &kind) {
                (Ok((same, _)), None) => *same,
                (Err(fault), Some(kind)) => fault.kind.name() == *kind,
                _ => false,
            };
            if !right {
                wrong.push(format!(
                    "{}: {text} gave {result:?}",
                    rule.get("rule").unwrap().json()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 350, "{count}");
}

#[test]
fn numbers_stay_what_they_are() {
    let document =
        r#"{"price": 19.90, "big": 9007199254740993, "huge": 1e400, "list": [0.1, 0.2]}"#;
    on("price", document, Ok("19.90"));
    on("[big, huge]", document, Ok("[9007199254740993,1e400]"));
    on("sum(list)", document, Ok("0.3"));
    on("multiply(`19.99`, `3`)", document, Ok("59.97"));
    on("huge == `10e399`", document, Ok("true"));
    on("huge > big", document, Ok("true"));
    on(
        "sort([huge, big, price])",
        document,
        Ok("[19.90,9007199254740993,1e400]"),
    );
    on("add(huge, `1`)", document, Err("overflow"));
    on("multiply(`1e30`, `1e30`)", document, Err("overflow"));
    on("to_string(price)", document, Ok("\"19.90\""));
    on("abs(price)", document, Ok("19.90"));
}

#[test]
fn deep_and_long_expressions_are_refused_before_they_hurt() {
    let compile = |text: String| {
        Expression::compile(&text)
            .map(|_| ())
            .map_err(|faults| faults[0].kind)
    };
    assert_eq!(compile("(".repeat(60_000)), Err(FaultKind::Syntax));
    assert_eq!(compile("!".repeat(60_000)), Err(FaultKind::Syntax));
    assert_eq!(
        compile(format!("{}a", "[".repeat(60_000))),
        Err(FaultKind::Syntax)
    );
    assert_eq!(compile("a|".repeat(30_000)), Err(FaultKind::Syntax));
    assert_eq!(
        compile(format!("{}a", "a||".repeat(20_000))),
        Err(FaultKind::Syntax)
    );
    assert_eq!(
        compile(format!("a{}", "[*]".repeat(20_000))),
        Err(FaultKind::Syntax)
    );
    assert_eq!(compile("a".repeat(LENGTH_MAX + 1)), Err(FaultKind::Syntax));
    assert_eq!(compile(format!("a{}", ".a".repeat(20_000))), Ok(()));
    let deepest = DEPTH_MAX - 1;
    let nested = format!("{}a{}", "(".repeat(deepest), ")".repeat(deepest));
    assert_eq!(compile(nested), Ok(()));
    let lists = format!("{}a{}", "[".repeat(deepest), "]".repeat(deepest));
    on(
        &lists,
        "{}",
        Ok(&format!(
            "{}null{}",
            "[".repeat(deepest),
            "]".repeat(deepest)
        )),
    );
    on(
        &format!("{}a", "a||".repeat(HEIGHT_MAX - 2)),
        "{\"a\": []}",
        Ok("[]"),
    );
}

#[test]
fn no_expression_explodes() {
    let double = vec!["[@, @]"; 40].join(" | ");
    on(&double, "1", Err("too-large"));
    let products = "n[*].[let $a = @ in $n[*].[let $b = @ in $n[*].[$a, $b, @]]]";
    on(
        &format!("let $n = range(`1000`) in {{n: $n}} | let $n = n in {products}"),
        "1",
        Err("too-large"),
    );
    let grown = vec!["concat(@, @)"; 40].join(" | ");
    on(&grown, "\"0123456789\"", Err("too-large"));
    let referred = format!("[{}]", vec!["@"; 20_000].join(", "));
    on(
        &referred,
        &format!("\"{}\"", "x".repeat(10_000)),
        Err("too-large"),
    );
}

#[test]
fn all_static_mistakes_are_told_at_once() {
    let faults =
        Expression::compile("[foo(a), lower(), sum('x'), lenght(b), matches(c, '(')]").unwrap_err();
    let list: Vec<_> = faults
        .iter()
        .map(|fault| (fault.kind, fault.start, fault.end, fault.help.as_str()))
        .collect();
    assert_eq!(
        list[..4],
        [
            (
                FaultKind::UnknownFunction,
                1,
                4,
                "the functions are listed in docs/reference/functions.md"
            ),
            (
                FaultKind::InvalidArity,
                9,
                16,
                "lower(text: string or null) -> string or null"
            ),
            (
                FaultKind::InvalidType,
                22,
                25,
                "sum(list: array of numbers) -> number"
            ),
            (FaultKind::UnknownFunction, 28, 34, "did you mean length()?"),
        ]
    );
    assert_eq!(list[4].0, FaultKind::InvalidValue);
}

#[test]
fn order_between_strings_is_cautioned() {
    let cautions = |text: &str| Expression::compile(text).unwrap().cautions().len();
    assert_eq!(cautions("a < 'b'"), 1);
    assert_eq!(cautions("lines[?date >= '2026-01-01']"), 1);
    assert_eq!(cautions("`\"x\"` > a"), 1);
    assert_eq!(cautions("to_string(a) > b"), 1);
    assert_eq!(cautions("a == 'b' && a > `1`"), 0);
}

#[test]
fn names_that_an_expression_uses_are_known() {
    let text = "let $a = $outer in lookup('customers', key('order'), $a) || known('skus', $other)";
    let expression = Expression::compile(text).unwrap();
    let names = |list: Vec<(String, usize, usize)>| -> Vec<String> {
        list.iter()
            .for_each(|(name, start, end)| assert!(text[*start..*end].contains(name.as_str())));
        list.into_iter().map(|(name, _, _)| name).collect()
    };
    assert_eq!(names(expression.free_variables()), ["outer", "other"]);
    let tables: Vec<String> = expression
        .tables()
        .into_iter()
        .map(|used| used.table)
        .collect();
    assert_eq!(tables, ["customers", "skus"]);
    assert_eq!(names(expression.keys()), ["order"]);
    assert!(!expression.reads_body());
    assert!(Expression::compile("a").unwrap().reads_body());
}

#[test]
fn variables_come_from_the_message_and_from_bindings() {
    on("$limit.amount", "{}", Ok("100.50"));
    on("$missing", "{}", Err("undefined-variable"));
    let tables = Tables::new();
    let message = message("{\"a\": 1}");
    let scope = Scope::of(&message, &tables)
        .unwrap()
        .with("limit", Value::Bool(true));
    check("$limit", &scope, Ok("true"));
}

#[test]
fn conditions_are_boolean_or_fail() {
    let tables = Tables::new();
    let message = message("{\"status\": \"open\", \"n\": 3}");
    let scope = Scope::of(&message, &tables).unwrap();
    let decide = |text: &str| {
        let expression = Expression::compile(text).unwrap();
        expression.decide(&scope).map_err(|failure| failure.class)
    };
    assert_eq!(decide("status != 'cancelled'"), Ok(true));
    assert_eq!(decide("n > `5`"), Ok(false));
    assert_eq!(decide("status"), Err(Class::Mapping));
    assert_eq!(decide("missing > `5`"), Err(Class::Mapping));
}

#[test]
fn bad_times_units_and_tables_say_what_to_do() {
    for (expression, kind) in [
        ("timestamp('2026-11-02T09:30:00')", "invalid-value"),
        ("timestamp('yesterday')", "invalid-value"),
        ("timestamp('2026-11-02', 'Europe/Berln')", "invalid-value"),
        ("parse_time('2026', '%Y-%m-%d')", "invalid-value"),
        ("convert(`1`, 'kg', 'm')", "invalid-value"),
        ("convert(`1`, 'kg', 'lb')", "overflow"),
        ("lookup('none', 'a')", "unknown-reference"),
        ("divide(`1`, `0`, `2`)", "invalid-value"),
        ("decimal('1.234,50')", "invalid-value"),
        ("decimal(`true`)", "invalid-type"),
        ("minor_units(`1.005`)", "invalid-value"),
        ("matches('a', n)", "invalid-type"),
        ("required(x)", "invalid-value"),
    ] {
        on(expression, "{}", Err(kind));
    }
    on(
        "timestamp(`1793608200`)",
        "1",
        Ok("\"2026-11-02T08:30:00Z\""),
    );
    on(
        "timestamp(`1793608200000`)",
        "1",
        Ok("\"2026-11-02T08:30:00Z\""),
    );
    on(
        "timestamp('/Date(1793608200000)/')",
        "1",
        Ok("\"2026-11-02T08:30:00Z\""),
    );
    on(
        "timestamp('Mon, 2 Nov 2026 09:30:00 +0100')",
        "1",
        Ok("\"2026-11-02T08:30:00Z\""),
    );
    on(
        "timestamp('2026-11-02T09:30:00+01:00')",
        "1",
        Ok("\"2026-11-02T08:30:00Z\""),
    );
    on(
        "timestamp('2026-11-02')",
        "1",
        Ok("\"2026-11-02T00:00:00Z\""),
    );
    on(
        "add_days('2026-03-28T12:00:00Z', `1`, 'Europe/Berlin')",
        "1",
        Ok("\"2026-03-29T11:00:00Z\""),
    );
    on("decimal(' +05.50 ')", "1", Ok("5.50"));
    on("lower(x)", "{}", Ok("null"));
}
