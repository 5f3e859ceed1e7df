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
