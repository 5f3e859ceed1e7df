//! People sign in at a provider: the way there and back, what is refused on it, what a session is worth and when it ends.

use serde_json::{Value, json};

use super::{Answer, Site};
use crate::support::provider::{CLIENT, Provider, SECRET};
use crate::support::text;

const BEGIN: &str = "/api/v1/session/begin";
const SESSION: &str = "/api/v1/session";
const AUDIENCE: &str = "urn:crossdock:api";

/// A site whose people sign in at this provider.
fn site(provider: &Provider) -> Site {
    site_with(provider, "")
}

fn site_with(provider: &Provider, more: &str) -> Site {
    let issuer = provider.issuer();
    let site = Site::with(&format!(
        "{more}, sign_in: {{ issuer: \"{issuer}\", client_id: {CLIENT}, client_secret: \"${{env:OIDC_SECRET}}\", name: email, scopes: [email, groups], audience: \"{AUDIENCE}\", roles: {{ map: {{ ops: operator, lead: [viewer, approver], boss: admin }} }} }}"
    ));
    Site {
        sandbox: site.sandbox.variable("OIDC_SECRET", SECRET),
        admin: site.admin,
    }
}

fn anna() -> Value {
    json!({"sub": "u-1", "email": "anna@example.com", "email_verified": true, "groups": ["staff", "ops"]})
}

/// The cookies that an answer gives, as a browser shows them.
fn cookies(answer: &Answer) -> Vec<String> {
    let lines = answer.head.lines();
    let given = lines.filter_map(|line| line.strip_prefix("set-cookie: "));
    let given = given.filter(|cookie| !cookie.contains("Max-Age=0"));
    given
        .map(|cookie| cookie.split(';').next().unwrap().to_owned())
        .collect()
}

fn ask(site: &Site, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    site.send(method, path, "", headers, b"")
}

/// Begins a sign-in, and signs in at the provider: the path that the browser comes back to, and what it shows there.
fn back(site: &Site, provider: &Provider, to: &str) -> (String, String) {
    let begun = ask(site, "GET", &format!("{BEGIN}?to={to}"), &[]);
    assert_eq!(begun.status, 303, "{begun:?}");
    let cookie = cookies(&begun).remove(0);
    (provider.signs_in(begun.header("location").unwrap()), cookie)
}

/// Signs in, and gives what the browser shows from then on.
fn signed_in(site: &Site, provider: &Provider) -> String {
    let (path, cookie) = back(site, provider, "/");
    let done = ask(site, "GET", &path, &[("cookie", &cookie)]);
    assert_eq!(done.status, 303, "{done:?}");
    cookies(&done).remove(0)
}

#[test]
fn people_sign_in_act_and_sign_out() {
    let provider = Provider::start();
    provider.person(anna());
    let site = site(&provider);
    let engine = site.start(1);
    let (path, cookie) = back(&site, &provider, "/flows?a=1");
    let done = ask(&site, "GET", &path, &[("cookie", &cookie)]);
    assert_eq!(
        (done.status, done.header("location")),
        (303, Some("/flows?a=1"))
    );
    assert!(
        done.head.contains("HttpOnly; SameSite=Lax"),
        "{}",
        done.head
    );
    let session = cookies(&done).remove(0);
    let shown = [("cookie", session.as_str())];
    let who = ask(&site, "GET", SESSION, &shown);
    let expected = json!(["anna@example.com", "identity", ["operator"], true]);
    let found = ["name", "kind", "roles", "browser"].map(|field| who.body[field].clone());
    assert_eq!(json!(found), expected);
    // What changes something comes from a page of our own, and that is all it needs.
    let path = format!("/api/v1/exceptions/{}:act", site.exception_of("orders"));
    let note = br#"{"verb":{"note":{"text":"called them"}}}"#;
    let act = |more: &[(&str, &str)]| {
        let all = [&shown[..], more].concat();
        site.send("POST", &path, "", &all, note)
    };
    let (mark, evil) = (
        ("crossdock-request", "1"),
        ("origin", "https://evil.example"),
    );
    for foreign in [&[][..], &[evil], &[mark, evil]] {
        let refused = act(foreign);
        assert_eq!((refused.status, refused.code()), (403, "foreign_request"));
    }
    assert_eq!(act(&[mark]).status, 200);
    // Rights hold for people as for tokens.
    assert_eq!(
        ask(&site, "GET", "/api/v1/audit", &shown).code(),
        "no_right"
    );
    // A session outlives the engine; the store and the log do not have what the browser shows.
    let secret = session.split_once('=').unwrap().1.to_owned();
    assert!(!engine.log().contains(&secret));
    assert_eq!(engine.terminate(), Some(0));
    let store = std::fs::read(site.sandbox.root().join(".crossdock/store.db")).unwrap();
    assert!(!text(&store).contains(&secret));
    let _engine = site.start_beside(0, 1);
    assert_eq!(ask(&site, "GET", SESSION, &shown).status, 200);
    let out = ask(&site, "POST", "/api/v1/session:end", &[shown[0], mark]);
    assert_eq!((out.status, &out.body), (200, &json!(true)));
    assert!(out.head.contains("Max-Age=0"), "{}", out.head);
    assert_eq!(ask(&site, "GET", SESSION, &shown).status, 401);
    let audited = site.audited();
    let by_anna = |action: &str, outcome: &str| {
        audited.iter().any(|row| {
            row[..3] == ["anna@example.com", "identity", "api"]
                && row[3] == action
                && row[5] == outcome
        })
    };
    for (action, outcome) in [
        ("session.begin", "done"),
        ("exception.note", "done"),
        ("api.request", "denied"),
        ("session.end", "done"),
    ] {
        assert!(by_anna(action, outcome), "{action} {outcome}: {audited:?}");
    }
}

#[test]
fn what_comes_back_otherwise_signs_nobody_in() {
    let provider = Provider::start();
    provider.person(anna());
    let site = site(&provider);
    let _engine = site.start(0);
    let refused = |path: &str, cookie: &str, status: u16, code: &str| {
        let answer = ask(&site, "GET", path, &[("cookie", cookie)]);
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{path}: {answer:?}"
        );
        assert!(cookies(&answer).is_empty(), "{answer:?}");
    };
    let wrong = |path: &str, cookie: &str| refused(path, cookie, 401, "sign_in_refused");
    // Of another browser, of another sign-in, of another provider, without a code, with a code of somebody else, and twice.
    let (path, cookie) = back(&site, &provider, "/");
    wrong(&path, "a=b");
    let (_, other) = back(&site, &provider, "/");
    wrong(&path, &other);
    wrong(&format!("{path}&iss=https://evil.example"), &cookie);
    let (bare, _) = path.split_once("code=").unwrap();
    let state = path.split_once("&state=").unwrap().1;
    wrong(&format!("{bare}error=access_denied&state={state}"), &cookie);
    wrong(&format!("{bare}code=code-999&state={state}"), &cookie);
    let once = ask(&site, "GET", &path, &[("cookie", &cookie)]);
    assert_eq!(once.status, 303);
    wrong(&path, &cookie);
    // Tokens that say something else, or that somebody else has signed.
    for (lies, forges) in [
        (json!({"nonce": "x"}), false),
        (json!({"aud": "another"}), false),
        (json!({"aud": [CLIENT, "another"]}), false),
        (json!({"azp": "another"}), false),
        (json!({"iss": "https://evil.example"}), false),
        (json!({"exp": 1_700_000_000}), false),
        (json!({"email_verified": false}), false),
        (json!({"sub": null}), false),
        (json!({}), true),
    ] {
        provider.lies(lies, forges);
        let (path, cookie) = back(&site, &provider, "/");
        wrong(&path, &cookie);
    }
    provider.lies(json!({}), false);
    // Who has no role is known, and told what to ask for. A text is one group, whatever words it has.
    for groups in [json!(["staff"]), json!([]), json!("staff ops"), json!(null)] {
        provider.person(json!({"sub": "u-2", "email": "otto@example.com", "groups": groups}));
        let (path, cookie) = back(&site, &provider, "/");
        let answer = ask(&site, "GET", &path, &[("cookie", &cookie)]);
        assert_eq!((answer.status, answer.code()), (403, "no_role"), "{groups}");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(
            detail.contains("otto@example.com") && detail.contains("boss, lead, ops"),
            "{detail}"
        );
    }
    // Nobody is sent elsewhere afterwards.
    provider.person(anna());
    for foreign in ["https://evil.example", "//evil.example", "/%5Cevil.example"] {
        let (path, cookie) = back(&site, &provider, foreign);
        let done = ask(&site, "GET", &path, &[("cookie", &cookie)]);
        assert_eq!((done.status, done.header("location")), (303, Some(SESSION)));
    }
    let audited = site.audited();
    let refusals = audited
        .iter()
        .filter(|row| row[0] == "unknown" && row[4].contains("callback"));
    assert!(refusals.count() > 10, "{audited:?}");
}

#[test]
fn a_provider_that_is_away_shuts_out_nobody_who_is_in() {
    let provider = Provider::start();
    provider.person(anna());
    let site = site(&provider);
    provider.is_away(true);
    let _engine = site.start(0);
    let token = site.token("glass", "admin", None);
    let away = ask(&site, "GET", BEGIN, &[]);
    assert_eq!((away.status, away.code()), (503, "provider_unavailable"));
    assert!(
        away.body["help"]
            .as_str()
            .unwrap()
            .contains("crossdock token create")
    );
    let bearer = provider
        .token(json!({"aud": AUDIENCE, "sub": "ci", "email": "ci@example.com", "groups": ["ops"]}));
    let unsure = site.get(SESSION, &bearer);
    assert_eq!(
        (unsure.status, unsure.code()),
        (503, "provider_unavailable")
    );
    assert_eq!(site.get(SESSION, &token).status, 200);
    provider.is_away(false);
    // An address may begin a few sign-ins a second, so it is not asked all the time.
    let session = crate::support::eventually("it is asked again", || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        (ask(&site, "GET", BEGIN, &[]).status == 303).then(|| signed_in(&site, &provider))
    });
    provider.is_away(true);
    assert_eq!(
        ask(&site, "GET", SESSION, &[("cookie", &session)]).status,
        200
    );
}

#[test]
fn a_session_that_is_over_shuts_nobody_out_and_two_names_are_one_person() {
    let provider = Provider::start();
    provider.person(anna());
    let site = site_with(&provider, ", approval: { above: 2 }");
    let _engine = site.start(3);
    let session = signed_in(&site, &provider);
    let discard =
        json!({ "which": { "flow": "orders" }, "verb": { "discard": { "reason": "tests" } } });
    let headers = [("cookie", session.as_str()), ("crossdock-request", "1")];
    let body = discard.to_string();
    let asked = site.send(
        "POST",
        "/api/v1/exceptions:act",
        "",
        &headers,
        body.as_bytes(),
    );
    let id = asked.body["approval"].as_i64().expect("a request");
    let approve = |sub: &str| {
        let token = provider.token(json!({"aud": AUDIENCE, "sub": sub, "email": format!("{sub}@other.example.com"), "groups": ["lead"]}));
        site.post(
            &format!("/api/v1/approvals/{id}:approve"),
            &token,
            &json!({}),
        )
    };
    // The provider's own name says that it is the same person, whatever the address.
    let own = approve("u-1");
    assert_eq!((own.status, own.code()), (403, "forbidden"), "{own:?}");
    assert_eq!(approve("u-2").status, 200);
    let wrong = || {
        ask(
            &site,
            "GET",
            SESSION,
            &[("cookie", "crossdock-session=wrong")],
        )
    };
    // So many wrong ones that nothing unknown from this address is looked at any more.
    crate::support::eventually("wrong ones are shut out", || {
        (wrong().status == 429).then_some(())
    });
    // Who signs in then is in.
    let session = signed_in(&site, &provider);
    assert_eq!(
        ask(&site, "GET", SESSION, &[("cookie", &session)]).status,
        200
    );
}

#[test]
fn tokens_of_the_provider_count_if_they_are_for_this_api() {
    let provider = Provider::start();
    let site = site(&provider);
    let _engine = site.start(0);
    let claims = |aud: &str, groups: Value| json!({"aud": aud, "sub": "ci", "email": "ci@example.com", "groups": groups});
    let asked = |claims: Value| site.get(SESSION, &provider.token(claims));
    let good = asked(claims(AUDIENCE, json!(["ops"])));
    assert_eq!((good.status, &good.body["kind"]), (200, &json!("identity")));
    assert_eq!(good.body["browser"], json!(false));
    // A token that says who somebody is opens nothing.
    assert_eq!(asked(claims(CLIENT, json!(["ops"]))).status, 401);
    assert_eq!(asked(claims("urn:another", json!(["ops"]))).status, 401);
    assert_eq!(asked(claims(AUDIENCE, json!(["staff"]))).code(), "no_role");
    provider.lies(json!({}), true);
    assert_eq!(asked(claims(AUDIENCE, json!(["ops"]))).status, 401);
}

#[test]
fn an_admin_ends_sessions_and_the_settings_of_now_say_what_groups_may_do() {
    let provider = Provider::start();
    provider.person(anna());
    let site = site(&provider);
    let engine = site.start(0);
    let sessions = [signed_in(&site, &provider), signed_in(&site, &provider)];
    let asked = |session: &str| ask(&site, "GET", SESSION, &[("cookie", session)]);
    let admin = site.token("admin", "admin", None);
    let list = site.get("/api/v1/sessions", &admin).body;
    let names: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["anna@example.com", "anna@example.com"]);
    let viewer = site.token("viewer", "viewer", None);
    assert_eq!(site.get("/api/v1/sessions", &viewer).status, 403);
    let out = |name: &str| site.post("/api/v1/sessions:end", &admin, &json!({ "name": name }));
    assert_eq!(out("nobody@example.com").status, 404);
    assert_eq!(out("anna@example.com").status, 200);
    for session in &sessions {
        assert_eq!(asked(session).status, 401);
    }
    // A group that has no role any more gives none to those who are signed in.
    let session = signed_in(&site, &provider);
    assert_eq!(asked(&session).status, 200);
    assert_eq!(engine.terminate(), Some(0));
    let path = site.sandbox.root().join("crossdock.yaml");
    let settings = std::fs::read_to_string(&path).unwrap();
    site.sandbox
        .file("crossdock.yaml", &settings.replace("ops: operator, ", ""));
    let _engine = site.start(0);
    assert_eq!(
        (asked(&session).status, asked(&session).code()),
        (403, "no_role")
    );
}

#[test]
fn settings_that_cannot_work_are_told_at_their_place() {
    let site = Site::new();
    let check = |more: &str| {
        let settings = format!(
            "listen: \"{}\"\nadmin:\n  listen: \"0.0.0.0:8081\"\n  plain_http: true\n  sign_in: {{ client_id: crossdock, {more} }}\n",
            site.sandbox.address()
        );
        site.sandbox.file("crossdock.yaml", &settings);
        let found = site.sandbox.crossdock(&["check"]);
        text(&found.stdout) + &text(&found.stderr)
    };
    let roles = "roles: { map: { ops: operator } }";
    let (far, url) = (
        "issuer: 'https://login.example.com'",
        "url: 'https://ops.example.com'",
    );
    let good = check(&format!("{far}, {url}, {roles}"));
    assert!(
        !good.contains("sign_in") && !good.contains("bad-value"),
        "{good}"
    );
    for (more, said) in [
        (format!("{far}, {roles}"), "browsers cannot come back"),
        (
            format!("{far}, url: 'http://ops.example.com', {roles}"),
            "overheard",
        ),
        (
            format!("issuer: 'http://login.example.com', {url}, {roles}"),
            "must be https",
        ),
        (
            format!("{far}, {url}, audience: crossdock, {roles}"),
            "audience",
        ),
        (
            format!("{far}, {url}, client_secret: plain, {roles}"),
            "secret",
        ),
        (
            format!("{far}, {url}, roles: {{ map: {{}} }}"),
            "nobody has a role",
        ),
        (
            format!("{far}, {url}, roles: {{ map: {{ ops: root }} }}"),
            "root",
        ),
    ] {
        let found = check(&more);
        assert!(found.contains(said), "{more}: {found}");
    }
}
