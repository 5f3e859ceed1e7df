//! Random expressions on a random document give what the `jmespath` crate gives. It leaves out what that crate does otherwise on purpose:
//! `let`, `!` before a path, and numbers beyond binary floating point.

use proptest::prelude::*;

use super::tests::message;
use super::*;

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "d", "\"e f\""]).prop_map(str::to_owned)
}

fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-3..12_i64).prop_map(Into::into),
        prop::sample::select(vec!["", "a", "b", "xyz"]).prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key = prop::sample::select(vec!["a", "b", "c", "d", "e f"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::Array),
            prop::collection::btree_map(key, inner, 0..5).prop_map(|entries| {
                let entries = entries
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value));
                serde_json::Value::Object(entries.collect())
            }),
        ]
    })
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => name(),
        1 => Just("@".to_owned()),
        1 => Just("*".to_owned()),
        1 => Just("[]".to_owned()),
        1 => Just("[*]".to_owned()),
        1 => (-3..4_i32).prop_map(|index| format!("[{index}]")),
        1 => prop::sample::select(vec!["`1`", "`[1, 2]`", "'a'", "`null`", "`true`", "`{\"a\": 1}`"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 30, 3, |inner| {
        let bound = prop_oneof![
            Just(String::new()),
            (-4..5_i32).prop_map(|bound| bound.to_string())
        ];
        let sign = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
        prop_oneof![
            4 => (inner.clone(), name()).prop_map(|(left, right)| format!("{left}.{right}")),
            2 => (inner.clone(), -3..4_i32).prop_map(|(left, index)| format!("{left}[{index}]")),
            2 => inner.clone().prop_map(|left| format!("{left}[*]")),
            2 => inner.clone().prop_map(|left| format!("{left}[]")),
            2 => inner.clone().prop_map(|left| format!("{left}.*")),
            1 => (inner.clone(), bound.clone(), bound, prop::sample::select(vec!["", ":1", ":-1", ":2", ":-2"]))
                .prop_map(|(left, start, stop, step)| format!("{left}[{start}:{stop}{step}]")),
            2 => (inner.clone(), inner.clone()).prop_map(|(left, condition)| format!("{left}[?{condition}]")),
            2 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} | {right}")),
            1 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} || {right}")),
            1 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} && {right}")),
            1 => inner.clone().prop_map(|inner| format!("(!({inner}))")),
            1 => inner.clone().prop_map(|inner| format!("({inner})")),
            1 => (inner.clone(), sign, inner.clone()).prop_map(|(left, sign, right)| format!("{left} {sign} {right}")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            1 => (name(), inner.clone(), inner.clone()).prop_map(|(left, a, b)| format!("{left}.{{x: {a}, y: {b}}}")),
            1 => inner.clone().prop_map(|inner| format!("to_array({inner})")),
            1 => inner.clone().prop_map(|inner| format!("type({inner})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("not_null({a}, {b})")),
            1 => (inner.clone(), inner).prop_map(|(each, list)| format!("map(&{each}, to_array({list}))")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_crate_agrees(text in expression(), document in document()) {
        let oracle = jmespath::compile(&text)
            .ok()
            .and_then(|compiled| compiled.search(&document).ok())
            .map(|found| serde_json::to_value(&found).unwrap());
        let tables = Tables::new();
        let message = message(&document.to_string());
        let scope = Scope::of(&message, &tables).unwrap();
        let ours = Expression::compile(&text).ok().and_then(|compiled| {
            let json = compiled.evaluate(&scope).ok()?.to_json();
            serde_json::from_str::<serde_json::Value>(&json).ok()
        });
        // `*` takes values in the order of the document here, in the order of the keys there: the documents have sorted keys.
        prop_assert_eq!(ours, oracle, "{}", text);
    }
}
