//! A provider of OpenID Connect for tests, on loopback: it signs whoever comes in as the person that it was told, and can be made to lie.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use crossdock::world::clock::{Clock, SystemClock};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::receiver::request;

/// What the provider has given to its client.
pub const CLIENT: &str = "crossdock";
pub const SECRET: &str = "a secret/of the client+";

/// A running provider.
pub struct Provider {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    pair: EcdsaKeyPair,
    other: EcdsaKeyPair,
    issuer: String,
    claims: Value,
    /// What stands in tokens in the place of what should.
    lies: Value,
    /// Whether tokens are signed with a key that nobody has published.
    forges: bool,
    away: bool,
    codes: BTreeMap<String, BTreeMap<String, String>>,
    count: usize,
}

fn pair() -> EcdsaKeyPair {
    let (by, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let bytes = EcdsaKeyPair::generate_pkcs8(by, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(by, bytes.as_ref(), &random).unwrap()
}

impl Provider {
    pub fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            pair: pair(),
            other: pair(),
            issuer: format!("http://{address}"),
            claims: json!({}),
            lies: json!({}),
            forges: false,
            away: false,
            codes: BTreeMap::new(),
            count: 0,
        }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Provider { address, state }
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Who signs in from now on.
    pub fn person(&self, claims: Value) {
        self.state.lock().unwrap().claims = claims;
    }

    /// What stands in its tokens from now on, whatever should.
    pub fn lies(&self, lies: Value, forges: bool) {
        let mut state = self.state.lock().unwrap();
        (state.lies, state.forges) = (lies, forges);
    }

    /// Whether it answers nobody.
    pub fn is_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
    }

    /// A token for another audience, as machines get them.
    pub fn token(&self, claims: Value) -> String {
        self.state.lock().unwrap().sign(claims)
    }

    /// What a browser does that was sent here: somebody signs in, and it is sent back to this path.
    pub fn signs_in(&self, url: &str) -> String {
        let path = url.strip_prefix(&self.issuer()).unwrap();
        let mut stream = TcpStream::connect(self.address).unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let to = answer
            .lines()
            .find_map(|line| line.strip_prefix("location: "));
        let to = to.unwrap_or_else(|| panic!("{answer}"));
        let at = to.find("/api/").unwrap();
        to[at..].to_owned()
    }
}

impl State {
    fn sign(&self, mut claims: Value) -> String {
        let now = SystemClock.now_ms() / 1_000;
        let all = claims.as_object_mut().unwrap();
        all.entry("iss").or_insert(json!(self.issuer));
        all.entry("iat").or_insert(json!(now));
        all.entry("exp").or_insert(json!(now + 300));
        for (name, lie) in self.lies.as_object().unwrap() {
            all.insert(name.clone(), lie.clone());
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(&json!({"alg": "ES256", "kid": "1"})),
            part(&claims)
        );
        let by = if self.forges { &self.other } else { &self.pair };
        let signature = by.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn answer(&mut self, head: &str, body: &str) -> (u16, String, Value) {
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let none = String::new;
        let issuer = self.issuer.clone();
        match path {
            "/.well-known/openid-configuration" => (
                200,
                none(),
                json!({
                    "issuer": issuer, "jwks_uri": format!("{issuer}/keys"),
                    "authorization_endpoint": format!("{issuer}/authorize?tenant=1"), "token_endpoint": format!("{issuer}/token"),
                }),
            ),
            "/keys" => {
                let point = self.pair.public_key().as_ref();
                let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
                let key = json!({"kty": "EC", "crv": "P-256", "kid": "1", "x": text(&point[1..33]), "y": text(&point[33..])});
                (200, none(), json!({ "keys": [key] }))
            }
            "/authorize" => {
                let asked = fields(query);
                let is = |name: &str, value: &str| asked.get(name).is_some_and(|one| one == value);
                let right = is("tenant", "1")
                    && is("client_id", CLIENT)
                    && is("response_type", "code")
                    && is("code_challenge_method", "S256")
                    && is("scope", "openid email groups");
                if !right {
                    return (400, none(), json!({"error": "invalid_request"}));
                }
                self.count += 1;
                let code = format!("code-{}", self.count);
                let to = format!(
                    "{}?code={code}&state={}",
                    asked["redirect_uri"], asked["state"]
                );
                self.codes.insert(code, asked);
                (302, to, json!({}))
            }
            "/token" => self.redeem(head, &fields(body)),
            _ => (404, none(), json!({})),
        }
    }

    fn redeem(&mut self, head: &str, given: &BTreeMap<String, String>) -> (u16, String, Value) {
        let pair = format!(
            "{CLIENT}:{}",
            SECRET
                .replace('/', "%2F")
                .replace(' ', "%20")
                .replace('+', "%2B")
        );
        let basic = format!("basic {}", STANDARD.encode(pair).to_lowercase());
        let refused = |why: &str| (400, String::new(), json!({ "error": why }));
        if !head.to_lowercase().contains(&basic) {
            return refused("invalid_client");
        }
        let Some(asked) = given.get("code").and_then(|code| self.codes.remove(code)) else {
            return refused("invalid_grant");
        };
        let verifier = given.get("code_verifier").map_or("", String::as_str);
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        if challenge != asked["code_challenge"]
            || given.get("redirect_uri") != asked.get("redirect_uri")
        {
            return refused("invalid_grant");
        }
        let mut claims = self.claims.clone();
        claims["aud"] = json!(CLIENT);
        claims["nonce"] = json!(asked["nonce"]);
        let token = self.sign(claims);
        (
            200,
            String::new(),
            json!({"id_token": token, "access_token": "opaque", "token_type": "Bearer"}),
        )
    }
}

/// The fields of a query or a form.
fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), plain(value)))
        .collect()
}

fn plain(text: &str) -> String {
    let (mut out, bytes) = (Vec::new(), text.as_bytes());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
                at += 2;
            }
            b'+' => out.push(b' '),
            other => out.push(other),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap()
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let (head, body) = request(&mut stream)?;
    let mut state = state.lock().unwrap();
    if state.away {
        return None;
    }
    let (status, to, document) = state.answer(&head, &body);
    drop(state);
    let document = document.to_string();
    let to = if to.is_empty() {
        to
    } else {
        format!("location: {to}\r\n")
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\n{to}content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{document}",
        document.len()
    );
    stream.get_mut().write_all(answer.as_bytes()).ok()
}
