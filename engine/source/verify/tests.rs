//! Promises of verification: what is signed rightly comes in, nothing else does.

use super::*;
use crate::component::Library;
use crate::source::verify::Refusal::{Forged, Malformed, Missing, Stale};

const NOW_MS: i64 = 1_700_000_000_000;
const BODY: &[u8] = b"{\"id\":1}";

/// The verifier of a rule: what stands after `verify:`.
fn verifier(rule: &str) -> Verifier {
    let (verifier, findings) = built(rule);
    assert_eq!(findings, Vec::<String>::new(), "{rule}");
    verifier.expect("no findings, so there is a verifier")
}

fn built(rule: &str) -> (Option<Verifier>, Vec<String>) {
    let yaml = format!("verify: {rule}");
    let file = crate::diagnostic::File::new("a.yaml", yaml);
    let mut findings = crate::diagnostic::Findings::new();
    let node = crate::yaml::parse(&file, &mut findings).unwrap();
    let json = node.get("verify").unwrap().to_json();
    let Verify::By(parsed) = serde_json::from_value(json).unwrap() else {
        panic!("a rule")
    };
    let mut cx = crate::component::Build {
        file: &file,
        node: &node,
        common: &Default::default(),
        library: &Library::default(),
        flow: "f",
        high: false,
        variables: &mut Default::default(),
        keys: &Default::default(),
        accepts: None,
        used_at: None,
        findings: &mut findings,
    };
    let verifier = parsed.build(&mut cx);
    (
        verifier,
        findings
            .iter()
            .map(|finding| finding.message.clone())
            .collect(),
    )
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn check(rule: &str, list: &[(&'static str, &str)], expect: Result<(), Refusal>) {
    let got = verifier(rule).verify(&headers(list), BODY, NOW_MS);
    assert_eq!(got, expect, "{rule} {list:?}");
}

fn mac(secret: &[u8], content: &[u8]) -> Vec<u8> {
    finish(
        Hmac::<Sha256>::new_from_slice(secret).unwrap(),
        [content].into_iter(),
    )
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn known_answers_of_hmac() {
    // RFC 4231 and RFC 2202, test case 2: key `Jefe`, data `what do ya want for nothing?`.
    let data = b"what do ya want for nothing?";
    for (algorithm, signature) in [
        ("sha1", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (
            "sha256",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            "sha512",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
    ] {
        let rule =
            format!("{{ scheme: hmac, secret: Jefe, header: X-Sig, algorithm: {algorithm} }}");
        let verifier = verifier(&rule);
        assert_eq!(
            verifier.verify(&headers(&[("x-sig", signature)]), data, 0),
            Ok(()),
            "{algorithm}"
        );
        let upper = signature.to_uppercase();
        assert_eq!(
            verifier.verify(&headers(&[("x-sig", &upper)]), data, 0),
            Ok(()),
            "{algorithm}"
        );
        assert_eq!(
            verifier.verify(&headers(&[("x-sig", &signature[2..])]), data, 0),
            Err(Forged)
        );
    }
}

#[test]
fn shopify_woocommerce_and_easypost_sign_the_body() {
    let good = to_base64(&mac(b"s3cret", BODY));
    let other = to_base64(&mac(b"s3cret", b"{\"id\":2}"));
    let rule = "{ scheme: shopify, secret: s3cret }";
    check(rule, &[("x-shopify-hmac-sha256", &good)], Ok(()));
    check(rule, &[("x-shopify-hmac-sha256", &other)], Err(Forged));
    check(
        rule,
        &[("x-shopify-hmac-sha256", "not base64!")],
        Err(Malformed("signature")),
    );
    check(rule, &[("x-shopify-hmac-sha256", "")], Err(Forged));
    check(rule, &[], Err(Missing("x-shopify-hmac-sha256".to_owned())));
    check(
        "{ scheme: shopify, secret: another }",
        &[("x-shopify-hmac-sha256", &good)],
        Err(Forged),
    );
    let rule = "{ scheme: woocommerce, secret: s3cret }";
    check(rule, &[("x-wc-webhook-signature", &good)], Ok(()));
    let rule = "{ scheme: easypost, secret: s3cret }";
    let hex = to_hex(&mac(b"s3cret", BODY));
    check(
        rule,
        &[("x-hmac-signature", &format!("hmac-sha256-hex={hex}"))],
        Ok(()),
    );
    check(
        rule,
        &[("x-hmac-signature", &hex)],
        Err(Malformed("signature")),
    );
}

#[test]
fn standard_webhooks_sign_id_time_and_body_and_rotate() {
    let (old, new) = (b"old key bytes".as_slice(), b"new key bytes".as_slice());
    let rule = format!(
        "{{ scheme: standard_webhooks, secrets: [whsec_{}, whsec_{}] }}",
        to_base64(old),
        to_base64(new)
    );
    let sign = |key: &[u8], id: &str, seconds: i64| {
        let mut content = format!("{id}.{seconds}.").into_bytes();
        content.extend_from_slice(BODY);
        format!("v1,{}", to_base64(&mac(key, &content)))
    };
    let check = |time: i64, id: &str, signature: &str, expect| {
        let (now, time) = (NOW_MS / 1000, time.to_string());
        assert_eq!(now, 1_700_000_000);
        let list = [
            ("webhook-id", id),
            ("webhook-timestamp", &time),
            ("webhook-signature", signature),
        ];
        check(&rule, &list, expect);
    };
    let now = NOW_MS / 1000;
    check(now, "m1", &sign(old, "m1", now), Ok(()));
    check(now, "m1", &sign(new, "m1", now), Ok(()));
    check(
        now,
        "m1",
        &format!(
            "v1a,AAAA {} {}",
            sign(b"x", "m1", now),
            sign(new, "m1", now)
        ),
        Ok(()),
    );
    check(now, "m1", &sign(b"x", "m1", now), Err(Forged));
    check(now, "m2", &sign(new, "m1", now), Err(Forged));
    check(now + 1, "m1", &sign(new, "m1", now), Err(Forged));
    check(now - 299, "m1", &sign(new, "m1", now - 299), Ok(()));
    check(now - 301, "m1", &sign(new, "m1", now - 301), Err(Stale));
    check(now + 301, "m1", &sign(new, "m1", now + 301), Err(Stale));
    let svix = [
        ("svix-id", "m1"),
        ("svix-timestamp", "1700000000"),
        ("svix-signature", &*sign(new, "m1", now)),
    ];
    super::tests::check(&rule, &svix, Ok(()));
}

#[test]
fn a_flood_of_signatures_is_not_looked_at_to_its_end() {
    let good = to_base64(&mac(b"key", BODY));
    let rule = "{ scheme: hmac, secret: key, header: S, encoding: base64, separator: ' ' }";
    let flood = format!("{}{good}", "AAAA ".repeat(SIGNATURES_MAX));
    check(rule, &[("s", &flood)], Err(Forged));
}

#[test]
fn stripe_signs_time_and_body() {
    let rule = "{ scheme: stripe, secret: whsec_plain, tolerance: 10m }";
    let sign = |seconds: i64| {
        let mut content = format!("{seconds}.").into_bytes();
        content.extend_from_slice(BODY);
        to_hex(&mac(b"whsec_plain", &content))
    };
    let now = NOW_MS / 1000;
    let header = |text: String| [("stripe-signature", text)];
    let check = |text: String, expect| {
        check(
            rule,
            &header(text).each_ref().map(|(n, v)| (*n, v.as_str())),
            expect,
        )
    };
    check(format!("t={now},v1={}", sign(now)), Ok(()));
    check(
        format!("t={now},v1={},v1={},v0=00", "00".repeat(32), sign(now)),
        Ok(()),
    );
    check(
        format!("t={now},v0={}", sign(now)),
        Err(Malformed("signature")),
    );
    check(format!("v1={}", sign(now)), Err(Malformed("time")));
    check(
        format!("t={},v1={}", now - 601, sign(now - 601)),
        Err(Stale),
    );
    check(format!("t={},v1={}", now, sign(now - 601)), Err(Forged));
}

#[test]
fn tokens_are_compared_whole() {
    let rule = "{ scheme: bearer, secrets: [one, two] }";
    check(rule, &[("authorization", "Bearer one")], Ok(()));
    check(rule, &[("authorization", "bearer two")], Ok(()));
    check(rule, &[("authorization", "Bearer on")], Err(Forged));
    check(rule, &[("authorization", "Bearer ")], Err(Forged));
    check(
        rule,
        &[("authorization", "Basic one two")],
        Err(Malformed("authorization")),
    );
    check(
        rule,
        &[("authorization", "B")],
        Err(Missing("authorization".to_owned())),
    );
    let rule = "{ scheme: bearer, secret: one, header: X-Token }";
    check(rule, &[("x-token", "one")], Ok(()));
    check(rule, &[("x-token", "Bearer one")], Err(Forged));
    check(rule, &[], Err(Missing("x-token".to_owned())));
}

#[test]
fn any_other_scheme_can_be_spelled_out() {
    let rule = "{ scheme: hmac, secret: key, header: X-Sig, prefix: v0=, content: 'v0:{t}:{body}', timestamp_header: X-Time }";
    let mut content = format!("v0:{NOW_MS}:").into_bytes();
    content.extend_from_slice(BODY);
    let signature = format!("v0={}", to_hex(&mac(b"key", &content)));
    let time = NOW_MS.to_string();
    check(rule, &[("x-sig", &signature), ("x-time", &time)], Ok(()));
    check(
        rule,
        &[("x-sig", &signature)],
        Err(Missing("x-time".to_owned())),
    );
    check(
        rule,
        &[("x-sig", &signature), ("x-time", "soon")],
        Err(Forged),
    );
}

#[test]
fn rules_that_protect_nothing_are_found() {
    for (rule, expect) in [
        (
            "{ scheme: shopify }",
            "a scheme takes `secret`, or `secrets` with at least one",
        ),
        (
            "{ scheme: shopify, secrets: [] }",
            "a scheme takes `secret`, or `secrets` with at least one",
        ),
        (
            "{ scheme: shopify, secret: ' ' }",
            "the secret is empty: anybody could sign",
        ),
        (
            "{ scheme: shopify, secret: x, tolerance: 5m }",
            "this scheme settles `tolerance` by itself",
        ),
        (
            "{ scheme: stripe, secret: x, tolerance: 0s }",
            "a tolerance of nothing turns every delivery away",
        ),
        (
            "{ scheme: standard_webhooks, secret: 'whsec_??' }",
            "the secret is not base64",
        ),
        (
            "{ scheme: hmac, secret: x }",
            "the scheme `hmac` does not know which header has the signature",
        ),
        (
            "{ scheme: hmac, secret: x, header: 'a b' }",
            "`a b` is no name of a header",
        ),
        (
            "{ scheme: hmac, secret: x, header: a, content: '{t}' }",
            "the body is not signed",
        ),
        (
            "{ scheme: hmac, secret: x, header: a, content: '{bodi}' }",
            "`{bodi}` means nothing in the signed content",
        ),
        (
            "{ scheme: hmac, secret: x, header: a, timestamp_header: t }",
            "`{t}` in `content` and the place of the time need each other",
        ),
        (
            "{ scheme: hmac, secret: x, header: a, tolerance: 1m }",
            "`tolerance` needs a signed time",
        ),
    ] {
        let (verifier, findings) = built(rule);
        assert_eq!(findings.first().map(String::as_str), Some(expect), "{rule}");
        assert!(
            verifier.is_none() || rule.contains("settles") || rule.contains("shopify"),
            "{rule}"
        );
    }
}
