//! Promises of the verifier, and what attackers try. Tokens are signed here, with keys made for the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

use super::*;
use crate::net::listener::{Listener, Receive, Received, Reply};
use crate::world::Pending;

const NOW_MS: i64 = 1_790_000_000_000;
const NOW: i64 = NOW_MS / 1000;
const ISSUER: &str = "https://login.example.com";
/// An RSA key of 2048 bits (PKCS #8), made for these tests and used nowhere else.
const RSA: &str = include_str!("tests/rsa.b64");

enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    fn rsa() -> Signer {
        let text: String = RSA.split_ascii_whitespace().collect();
        Signer::Rsa(RsaKeyPair::from_pkcs8(&STANDARD.decode(text).unwrap()).unwrap())
    }

    fn p256() -> Signer {
        let (by, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pair = EcdsaKeyPair::generate_pkcs8(by, &random).unwrap();
        Signer::P256(EcdsaKeyPair::from_pkcs8(by, pair.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Signer {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed25519(Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Signer::Rsa(pair) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "kid": id, "use": "sig", "n": text(&public.n), "e": text(&public.e)})
            }
            Signer::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Signer::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": text(pair.public_key().as_ref())})
            }
            Signer::Secret(secret) => json!({"kty": "oct", "kid": id, "k": text(secret)}),
        }
    }

    fn sign(&self, head: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(head),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let random = SystemRandom::new();
        let bytes = signed.as_bytes();
        let signature = match self {
            Signer::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let by: &dyn ring::signature::RsaEncoding = match head {
                    head if head.contains("PS256") => &RSA_PSS_SHA256,
                    head if head.contains("RS384") => &RSA_PKCS1_SHA384,
                    _ => &RSA_PKCS1_SHA256,
                };
                pair.sign(by, &random, bytes, &mut signature).unwrap();
                signature
            }
            Signer::P256(pair) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.sign(bytes).as_ref().to_vec(),
            Signer::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, bytes).as_ref().to_vec()
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn rules(keys: Source) -> Rules {
    Rules {
        issuer: ISSUER.to_owned(),
        audiences: vec!["crossdock".to_owned()],
        algorithms: Vec::new(),
        keys,
    }
}

fn of_set(keys: &[Value]) -> Verifier {
    let set = json!({ "keys": keys }).to_string();
    Verifier::new(rules(Source::Set(set))).unwrap()
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "crossdock", "exp": NOW + 300, "sub": "acme", "scope": "orders:write orders:read"})
}

/// The claims with others in the place of some; null takes one away.
fn with(changes: Value) -> String {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    all.to_string()
}

async fn refused(verifier: &Verifier, token: &str) -> &'static str {
    match verifier.verify(token, NOW_MS).await {
        Err(Refusal::Bad(why)) => why,
        other => panic!("{other:?}: {token}"),
    }
}

#[tokio::test]
async fn good_tokens_of_every_kind_of_key_count_and_their_claims_are_read() {
    let (rsa, p256, ed25519) = (Signer::rsa(), Signer::p256(), Signer::ed25519());
    let verifier = of_set(&[rsa.jwk("r"), p256.jwk("p"), ed25519.jwk("e")]);
    let claims = claims().to_string();
    for (signer, head) in [
        (&rsa, r#"{"alg":"RS256","kid":"r","typ":"JWT"}"#),
        (&p256, r#"{"alg":"ES256","kid":"p","typ":"at+jwt"}"#),
        (&ed25519, r#"{"alg":"EdDSA","kid":"e"}"#),
        (&ed25519, r#"{"alg":"EdDSA"}"#),
    ] {
        let token = signer.sign(head, &claims);
        assert!(verifier.concerns(&token));
        let found = verifier.verify(&token, NOW_MS).await.unwrap();
        assert_eq!(found.text("sub").as_deref(), Some("acme"));
        assert_eq!(found.list("scope"), ["orders:write", "orders:read"]);
        assert_eq!(found.expires_at_ms, NOW_MS + 300_000);
    }
    let nested = with(
        json!({"aud": ["other", "crossdock"], "realm_access": {"roles": ["operator"]}, "https://x.y/z": "dotted"}),
    );
    let token = rsa.sign(r#"{"alg":"RS256","kid":"r"}"#, &nested);
    let found = verifier.verify(&token, NOW_MS).await.unwrap();
    assert_eq!(found.list("realm_access.roles"), ["operator"]);
    assert_eq!(found.text("https://x.y/z").as_deref(), Some("dotted"));
}

#[tokio::test]
async fn what_claims_say_wrongly_or_not_at_all_is_refused() {
    let signer = Signer::p256();
    let verifier = of_set(&[signer.jwk("p")]);
    for (changes, why) in [
        (json!({"exp": (NOW + 300).to_string()}), "no number"),
        (json!({"exp": null}), "no end"),
        (json!({"exp": true}), "no number"),
        (json!({"exp": 1e300}), "no number"),
        (json!({"exp": (NOW + 300) * 1000}), "no number"),
        (json!({"exp": -5}), "no number"),
        (json!({"exp": NOW - 60}), "expired"),
        (json!({"nbf": NOW + 61}), "not count yet"),
        (json!({"nbf": "soon"}), "no number"),
        (json!({"iat": NOW + 61}), "in the future"),
        (
            json!({"iss": "https://login.example.com/"}),
            "another issuer",
        ),
        (json!({"iss": null}), "another issuer"),
        (json!({"iss": [ISSUER]}), "another issuer"),
        (json!({"aud": "crossdock2"}), "another audience"),
        (json!({"aud": null}), "no audience"),
        (json!({"aud": []}), "another audience"),
        (json!({"aud": ["crossdock", 7]}), "no text"),
        (json!({"aud": {"crossdock": true}}), "no text"),
    ] {
        let token = signer.sign(r#"{"alg":"ES256","kid":"p"}"#, &with(changes.clone()));
        let told = refused(&verifier, &token).await;
        assert!(told.contains(why), "{changes}: {told}");
    }
    for good in [
        json!({"exp": NOW - 59}),
        json!({"nbf": NOW + 60}),
        json!({"exp": NOW as f64 + 0.5}),
    ] {
        let token = signer.sign(r#"{"alg":"ES256","kid":"p"}"#, &with(good.clone()));
        assert!(verifier.verify(&token, NOW_MS).await.is_ok(), "{good}");
    }
}

#[tokio::test]
async fn attacks_on_the_algorithm_and_on_the_key_are_refused() {
    let (rsa, p256, mine) = (Signer::rsa(), Signer::p256(), Signer::p256());
    let verifier = of_set(&[rsa.jwk("r"), p256.jwk("p")]);
    let claims = claims().to_string();
    let unsigned = |head: &str| {
        let (head, body) = (
            URL_SAFE_NO_PAD.encode(head),
            URL_SAFE_NO_PAD.encode(&claims),
        );
        format!("{head}.{body}.")
    };
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let token = unsigned(&format!(r#"{{"alg":"{none}","kid":"p"}}"#));
        assert!(refused(&verifier, &token).await.contains("algorithm"));
    }
    // The public key as the secret of an HMAC, in each form that it is published in.
    let jwk = rsa.jwk("r").to_string();
    for secret in [jwk.as_bytes(), PUBLIC.as_bytes(), PUBLIC.trim().as_bytes()] {
        let token = Signer::Secret(secret.to_vec()).sign(r#"{"alg":"HS256","kid":"r"}"#, &claims);
        assert!(refused(&verifier, &token).await.contains("not allowed"));
    }
    // Keys that the token brings along, or says where to find.
    let own = mine.jwk("p");
    for head in [
        json!({"alg": "ES256", "kid": "p", "jwk": own}),
        json!({"alg": "ES256", "kid": "p", "jku": "https://evil.example.com/jwks"}),
        json!({"alg": "ES256", "kid": "p", "x5u": "https://evil.example.com/x", "x5c": ["MIIB"]}),
    ] {
        let token = mine.sign(&head.to_string(), &claims);
        assert!(
            refused(&verifier, &token)
                .await
                .contains("signature is wrong")
        );
    }
    for (head, why) in [
        (r#"{"alg":"ES256","kid":"other"}"#, "no key"),
        (r#"{"alg":"RS256","kid":"p"}"#, "no key"),
        (r#"{"alg":"RS384","kid":"r"}"#, "not allowed"),
        (
            r#"{"alg":"ES256","kid":"p","crit":["b64"],"b64":false}"#,
            "not known",
        ),
        (r#"{"alg":"ES256","kid":7}"#, "wrong kind"),
        (r#"{"alg":["ES256"],"kid":"p"}"#, "wrong kind"),
        (r#"{"kid":"p"}"#, "no algorithm"),
        (
            r#"{"alg":"ES256","kid":"p","typ":"logout+jwt"}"#,
            "another kind",
        ),
        (
            r#"{"alg":"ES256","alg":"none","kid":"p"}"#,
            "no JSON object",
        ),
        (r#"["ES256"]"#, "no JSON object"),
    ] {
        let told = refused(&verifier, &p256.sign(head, &claims)).await;
        assert!(told.contains(why), "{head}: {told}");
    }
}

#[tokio::test]
async fn tokens_that_are_not_exactly_tokens_are_refused() {
    let signer = Signer::p256();
    let verifier = of_set(&[signer.jwk("p")]);
    let head = r#"{"alg":"ES256","kid":"p"}"#;
    let good = signer.sign(head, &claims().to_string());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let twice = r#"{"iss":"https://login.example.com","aud":"crossdock","exp":1,"exp":9790000300}"#;
    let mut tampered = good.clone();
    tampered.replace_range(40..41, if &good[40..41] == "A" { "B" } else { "A" });
    for bad in [
        String::new(),
        "a.b".to_owned(),
        format!("{good}.x"),
        format!("{good}="),
        format!("{good} "),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{signed}."),
        format!("{signed}.{signature}{signature}"),
        format!("{signed}.{}", &signature[..40]),
        tampered,
        signer.sign(head, twice),
        signer.sign(head, &format!("{}x", claims())),
        signer.sign(head, "[]"),
        signer.sign(head, &"[".repeat(3_000)),
        "x".repeat(1 << 20),
        ".".repeat(TOKEN_BYTES_MAX),
        signer.sign(head, &with(json!({"x": "y".repeat(TOKEN_BYTES_MAX)}))),
    ] {
        refused(&verifier, &bad).await;
    }
}

#[tokio::test]
async fn allow_lists_and_secrets_and_pem_are_as_they_must_be() {
    let with_keys = |keys, algorithms: &[Algorithm]| {
        Verifier::new(Rules {
            algorithms: algorithms.to_vec(),
            ..rules(keys)
        })
    };
    let secret = vec![b's'; 32];
    let verifier = with_keys(Source::Secret(secret.clone()), &[]).unwrap();
    let token = Signer::Secret(secret.clone()).sign(r#"{"alg":"HS256"}"#, &claims().to_string());
    assert!(verifier.verify(&token, NOW_MS).await.is_ok());
    let other = Signer::Secret(vec![b't'; 32]).sign(r#"{"alg":"HS256"}"#, &claims().to_string());
    assert!(refused(&verifier, &other).await.contains("wrong"));
    // PEM: the same key as in the set, and algorithms that are allowed by name.
    let some = [Algorithm::Ps256, Algorithm::Rs384];
    let verifier = with_keys(Source::Pem(PUBLIC.to_owned()), &some).unwrap();
    for (head, counts) in [("PS256", true), ("RS384", true), ("RS256", false)] {
        let head = format!(r#"{{"alg":"{head}"}}"#);
        let token = Signer::rsa().sign(&head, &claims().to_string());
        assert_eq!(
            verifier.verify(&token, NOW_MS).await.is_ok(),
            counts,
            "{head}"
        );
    }
    let hs = [Algorithm::Hs256];
    let es = [Algorithm::Es256];
    assert!(with_keys(Source::Pem(PUBLIC.to_owned()), &hs).is_err());
    assert!(with_keys(Source::Secret(secret.clone()), &es).is_err());
    assert!(with_keys(Source::Secret(PUBLIC.into()), &[]).is_err());
    assert!(with_keys(Source::Secret(b"short".to_vec()), &[]).is_err());
    assert!(with_keys(Source::Pem("no pem".to_owned()), &[]).is_err());
    assert!(with_keys(Source::Url("http://keys.example.com/".to_owned()), &[]).is_err());
    let oct = json!({"keys": [Signer::Secret(secret).jwk("o")]}).to_string();
    assert!(with_keys(Source::Set(oct), &[]).is_err());
    let mut nobody = rules(Source::Discovery);
    nobody.audiences.clear();
    assert!(Verifier::new(nobody).is_err());
}

/// An issuer that counts how often it is asked.
struct Served {
    documents: std::sync::Mutex<(u16, Value)>,
    asked: AtomicUsize,
}

impl Receive for Served {
    fn receive(&self, _: Received) -> Pending<'_, Reply> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let (status, document) = self.documents.lock().unwrap().clone();
            Reply::json(StatusCode::from_u16(status).unwrap(), document.to_string())
        })
    }

    fn body_max(&self) -> usize {
        0
    }
}

#[tokio::test]
async fn keys_are_fetched_kept_and_rotated_and_the_issuer_is_asked_once_a_minute() {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    listener.set_ready();
    let issuer = format!("http://{}", listener.local_addr());
    let (first, second) = (Signer::p256(), Signer::ed25519());
    let served = Arc::new(Served {
        documents: std::sync::Mutex::new((200, json!({"keys": [first.jwk("1")]}))),
        asked: AtomicUsize::new(0),
    });
    let discovery = Arc::new(Served {
        documents: std::sync::Mutex::new((
            200,
            json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks")}),
        )),
        asked: AtomicUsize::new(0),
    });
    let _keys = listener.register(Method::GET, "/jwks", served.clone());
    let path = "/.well-known/openid-configuration";
    let _document = listener.register(Method::GET, path, discovery.clone());
    let verifier = Verifier::new(Rules {
        issuer: issuer.clone(),
        ..rules(Source::Discovery)
    })
    .unwrap();
    let token = |signer: &Signer, head: &str, now: i64| {
        signer.sign(head, &with(json!({"iss": issuer, "exp": now / 1000 + 100})))
    };
    let asked = || served.asked.load(Ordering::SeqCst);
    let one = token(&first, r#"{"alg":"ES256","kid":"1"}"#, NOW_MS);
    let two = token(&second, r#"{"alg":"EdDSA","kid":"2"}"#, NOW_MS);
    for _ in 0..3 {
        assert!(verifier.verify(&one, NOW_MS).await.is_ok());
    }
    assert_eq!(asked(), 1);
    // An unknown key: not asked again within the minute, then found once it is published.
    for _ in 0..50 {
        assert!(verifier.verify(&two, NOW_MS + 59_000).await.is_err());
    }
    assert_eq!(asked(), 1);
    served.documents.lock().unwrap().1 = json!({"keys": [second.jwk("2")]});
    assert!(verifier.verify(&two, NOW_MS + 61_000).await.is_ok());
    assert!(verifier.verify(&one, NOW_MS + 62_000).await.is_err());
    assert_eq!(asked(), 2);
    // The issuer is away: what is kept counts for a day.
    served.documents.lock().unwrap().0 = 503;
    for (hours, counts) in [(1, true), (23, true), (25, false)] {
        let now_ms = NOW_MS + hours * 3_600_000;
        let late = token(&second, r#"{"alg":"EdDSA","kid":"2"}"#, now_ms);
        let found = verifier.verify(&late, now_ms).await;
        assert_eq!(found.is_ok(), counts, "{hours} h: {found:?}");
    }
    // A document of another issuer is not believed.
    discovery.documents.lock().unwrap().1["issuer"] = json!("https://other.example.com");
    let verifier = Verifier::new(Rules {
        issuer: issuer.clone(),
        ..rules(Source::Discovery)
    });
    let found = verifier.unwrap().verify(&one, NOW_MS).await;
    assert!(matches!(found, Err(Refusal::Unavailable(why)) if why.contains("another issuer")));
}

/// The public key of `RSA`.
const PUBLIC: &str = include_str!("tests/rsa.pub.pem");
