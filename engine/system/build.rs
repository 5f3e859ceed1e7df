//! From a system's file to a system: everything that can be wrong with it is found here, and nothing is opened.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde_json::Value;
use tokio::sync::Mutex;

use super::admission::Admission;
use super::auth::{Credentials, Tokens};
use super::file::{Auth, Http, SystemFile};
use super::{ANSWER, REDIRECTS, System, TIMEOUT, codes};
use crate::component::codes as common;
use crate::diagnostic::{Code, Diagnostic, File, Findings, Span};
use crate::failure::Class;
use crate::net::http::Options;
use crate::net::tls;
use crate::yaml::shape::{self, Formats};
use crate::yaml::{Data, Node};

mod broker;
mod database;
mod rules;

/// The most that making a connection may take; where the timeout is short, half of it, so that a connection that does not come about
/// is told from an answer that does not come.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The shape of a file, made once.
static SHAPE: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(SystemFile).to_value());

/// The shape of a file that says something else than `http`.
static SHAPE_WITHOUT_HTTP: LazyLock<Value> = LazyLock::new(|| {
    let mut shape = SHAPE.clone();
    if let Some(required) = shape["required"].as_array_mut() {
        required.retain(|name| name != "http");
    }
    shape
});

/// Reads a file that says something else than `http` over its shape, and gives whether it is as it must be.
fn read(
    file: &Arc<File>,
    node: &Node,
    formats: &dyn Formats,
    findings: &mut Findings,
) -> Option<(SystemFile, bool)> {
    let mut found = Findings::new();
    shape::check_with(&SHAPE_WITHOUT_HTTP, node, file, formats, &mut found);
    let sound = !found.has_errors();
    findings.extend(found);
    match serde_json::from_value(node.to_json()) {
        Ok(config) => Some((config, sound)),
        Err(_) if !sound => None,
        Err(error) => {
            let place = node.place(file);
            findings.push(Diagnostic::error(
                common::BAD_VALUE,
                place,
                error.to_string(),
            ));
            None
        }
    }
}

impl System {
    /// Checks a system's file and makes the system of it. Values from `${env:..}` and `${file:..}` stand in the node already; `formats`
    /// checks durations and the like. Nothing, if a finding is an error.
    pub fn parse(
        file: &Arc<File>,
        node: &Node,
        formats: &dyn Formats,
        findings: &mut Findings,
    ) -> Option<System> {
        let mut found = Findings::new();
        shape::check_with(&SHAPE, node, file, formats, &mut found);
        let sound = !found.has_errors();
        // A value of the right shape that must not stand there, such as a secret in the open, can be used.
        let broken: Vec<Span> = found
            .iter()
            .filter(|finding| shape::codes::ALL.contains(&finding.code))
            .map(|finding| finding.place.span)
            .collect();
        let found_codes: Vec<Code> = found.iter().map(|finding| finding.code).collect();
        findings.extend(found);
        let config = match serde_json::from_value::<SystemFile>(node.to_json()) {
            Ok(config) => config,
            Err(_) if !sound => {
                // What is broken is told; the rest is looked at without it.
                let names = [shape::codes::UNKNOWN_FIELD, shape::codes::MISSING_FIELD];
                let values_only = !found_codes.iter().any(|code| names.contains(code));
                let rest = without(node, &broken).to_json();
                if let (true, Ok(config)) = (values_only, serde_json::from_value(rest)) {
                    System::from_file(&config, file, node, findings);
                }
                return None;
            }
            Err(error) => {
                let place = node.place(file);
                findings.push(Diagnostic::error(
                    common::BAD_VALUE,
                    place,
                    error.to_string(),
                ));
                return None;
            }
        };
        let system = System::from_file(&config, file, node, findings);
        system.filter(|_| sound)
    }

    /// The system that a file describes. What is wrong is reported at its place in `node`.
    pub fn from_file(
        config: &SystemFile,
        file: &Arc<File>,
        node: &Node,
        findings: &mut Findings,
    ) -> Option<System> {
        let mut report = Report {
            file,
            node,
            findings,
            errors: 0,
        };
        // That it is missing is told with the shape.
        let http = config.http.as_ref()?;
        let base = base(http, &mut report);
        let headers = headers(http, &mut report);
        let credentials = credentials(http, &mut report);
        let idempotency_header = idempotency_header(http, &mut report);
        let failures = failures(config, &mut report);
        let rules = rules::rules(config, &mut report);
        let timeout = config.timeout.unwrap_or(TIMEOUT);
        let options = options(
            http,
            timeout.std(),
            base.as_ref(),
            &credentials,
            &mut report,
        );
        if report.errors > 0 {
            return None;
        }
        let limits = &config.limits;
        let rules = rules?;
        Some(System {
            name: Arc::from(config.system.as_str()),
            base: base?,
            headers,
            credentials: credentials?,
            idempotency_header: idempotency_header?,
            redirects: http.redirects.unwrap_or(REDIRECTS),
            timeout: config.timeout,
            concurrency: rules.concurrency,
            rate: limits.rate,
            answer_max: usize::try_from(limits.answer.unwrap_or(ANSWER).bytes)
                .unwrap_or(usize::MAX),
            failures,
            options: options?,
            admission: Arc::new(Admission::new(&config.system, rules)),
            client: OnceLock::new(),
        })
    }
}

/// The tree without the fields whose values are at these places.
fn without(node: &Node, broken: &[Span]) -> Node {
    let data = match &node.data {
        Data::Map(entries) => Data::Map(
            entries
                .iter()
                .filter(|(key, value)| !broken.contains(&value.span) && !broken.contains(&key.span))
                .map(|(key, value)| (key.clone(), without(value, broken)))
                .collect(),
        ),
        other => other.clone(),
    };
    Node {
        span: node.span,
        data,
    }
}

/// Takes what is wrong, at its place.
struct Report<'a> {
    file: &'a Arc<File>,
    node: &'a Node,
    findings: &'a mut Findings,
    errors: usize,
}

impl Report<'_> {
    fn error(&mut self, path: &[&str], message: impl Into<String>, help: &str) {
        self.errors += 1;
        let place = self.at(path).place(self.file);
        self.findings
            .push(Diagnostic::error(common::BAD_VALUE, place, message).help(help));
    }

    fn conflict(&mut self, path: &[&str], message: &str, help: &str) {
        self.errors += 1;
        let place = self.at(path).place(self.file);
        let finding = Diagnostic::error(common::CONFLICTING_SETTINGS, place, message);
        self.findings.push(finding.help(help));
    }

    fn warning(&mut self, code: Code, path: &[&str], message: String, help: &str) {
        let place = self.at(path).place(self.file);
        self.findings
            .push(Diagnostic::warning(code, place, message).help(help));
    }

    /// The node at this path, or the nearest one above it.
    fn at(&self, path: &[&str]) -> &Node {
        let mut node = self.node;
        for part in path {
            match node.get(part) {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }
}

fn base(http: &Http, report: &mut Report<'_>) -> Option<Url> {
    let path = &["http", "base_url"];
    let url = web_url(&http.base_url, path, report)?;
    if url.query().is_some() || url.fragment().is_some() {
        let help = "keep scheme, host and path; a query belongs to the steps";
        report.error(path, "the base URL has a query or a fragment", help);
        return None;
    }
    Some(url)
}

/// An absolute http or https URL without credentials in it.
fn web_url(text: &str, path: &[&str], report: &mut Report<'_>) -> Option<Url> {
    let help = "write it like `https://erp.example.com/api`";
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(url) => {
            let message = format!("`{}` is no scheme of HTTP", url.scheme());
            report.error(path, message, help);
            return None;
        }
        Err(error) => {
            report.error(path, format!("this is no URL: {error}"), help);
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let help = "put them under `auth: { basic: { user, password } }`";
        report.error(path, "the URL has credentials in it", help);
        return None;
    }
    if url.scheme() == "http" && !loopback(&url) {
        let host = url.host_str().unwrap_or_default();
        let message = format!("{host} is reached without TLS");
        let help = "use https, or keep the connection inside a network that you trust";
        report.warning(codes::PLAIN_HTTP, path, message, help);
    }
    Some(url)
}

fn loopback(url: &Url) -> bool {
    crate::net::is_here(url.host_str().unwrap_or_default())
}

fn headers(http: &Http, report: &mut Report<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &http.headers {
        let path = &["http", "headers", name.as_str()];
        let parsed = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        );
        match parsed {
            (Ok(name), _) if name == AUTHORIZATION => {
                let help = "put credentials under `auth`: there they are kept out of logs and of the store";
                report.conflict(path, "credentials do not belong into `headers`", help);
            }
            (Ok(name), _)
                if [HOST, CONTENT_LENGTH, CONNECTION, TRANSFER_ENCODING].contains(&name) =>
            {
                let message = format!("the header `{name}` is set by the engine");
                report.conflict(path, &message, "leave it out");
            }
            (Ok(name), Ok(value)) => {
                headers.insert(name, value);
            }
            (Err(_), _) => {
                let message = format!("`{name}` is no header name");
                report.error(path, message, "use letters, digits and hyphens");
            }
            (_, Err(_)) => {
                let help = "use visible ASCII characters";
                report.error(path, "a header cannot carry this value", help);
            }
        }
    }
    headers
}

fn idempotency_header(http: &Http, report: &mut Report<'_>) -> Option<HeaderName> {
    let name = http.idempotency_header.as_deref();
    let name = name.unwrap_or("Idempotency-Key");
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        let message = format!("`{name}` is no header name");
        let help = "use letters, digits and hyphens";
        report.error(&["http", "idempotency_header"], message, help);
    }
    parsed
}

fn credentials(http: &Http, report: &mut Report<'_>) -> Option<Credentials> {
    let Some(auth) = &http.auth else {
        return Some(Credentials::Nobody);
    };
    match auth {
        Auth::Basic(basic) => Some(Credentials::basic(&basic.user, basic.password.reveal())),
        Auth::Bearer(bearer) => Some(Credentials::bearer(bearer.token.reveal())),
        Auth::ApiKey(key) => match (&key.header, &key.query) {
            (Some(header), None) => match HeaderName::from_bytes(header.as_bytes()) {
                Ok(name) => Some(Credentials::Header(name, key.value.clone())),
                Err(_) => {
                    let path = &["http", "auth", "api_key", "header"];
                    let message = format!("`{header}` is no header name");
                    report.error(path, message, "use letters, digits and hyphens");
                    None
                }
            },
            (None, Some(query)) => Some(Credentials::Query(query.clone(), key.value.clone())),
            _ => {
                let path = &["http", "auth", "api_key"];
                let message = "an API key stands either in a header or in the query";
                let help = "give exactly one of `header: X-API-Key` and `query: api_key`";
                report.conflict(path, message, help);
                None
            }
        },
        Auth::Oauth2(oauth2) => {
            let path = &["http", "auth", "oauth2", "token_url"];
            let url = web_url(&oauth2.token_url, path, report)?;
            Some(Credentials::Tokens(Box::new(Tokens {
                url,
                client_id: oauth2.client_id.clone(),
                client_secret: oauth2.client_secret.clone(),
                scope: oauth2.scope.clone(),
                audience: oauth2.audience.clone(),
                client_auth: oauth2.client_auth,
                held: Mutex::new(None),
            })))
        }
    }
}

fn failures(config: &SystemFile, report: &mut Report<'_>) -> BTreeMap<u16, Class> {
    let mut failures = BTreeMap::new();
    for (status, class) in &config.failures {
        match status.parse::<u16>() {
            Ok(number) if (400..600).contains(&number) => {
                failures.insert(number, class.0);
            }
            _ => {
                let path = &["failures", status.as_str()];
                let message = format!("`{status}` is no status of a failure");
                report.error(path, message, "write a status from \"400\" to \"599\"");
            }
        }
    }
    failures
}

fn options(
    http: &Http,
    timeout: Duration,
    base: Option<&Url>,
    credentials: &Option<Credentials>,
    report: &mut Report<'_>,
) -> Option<Options> {
    let proxy = proxy(http, report)?;
    let given = &http.tls;
    let mut authorities = None;
    if let Some(ca) = &given.ca {
        match tls::authorities(ca) {
            Ok(found) => authorities = Some(found),
            Err(reason) => {
                let help = "give the PEM text, usually with `${file:/run/secrets/ca.pem}`";
                report.error(&["http", "tls", "ca"], reason, help);
            }
        }
    }
    let identity = match (&given.client_cert, &given.client_key) {
        (Some(certificate), Some(key)) => match tls::identity(certificate, key.reveal()) {
            Ok(identity) => Some(identity),
            Err(reason) => {
                let help = "give PEM texts, usually with `${file:/run/secrets/..}`";
                report.error(&["http", "tls", "client_cert"], reason, help);
                None
            }
        },
        (None, None) => None,
        _ => {
            let message = "a client certificate needs its key, and the key its certificate";
            let help = "give both `client_cert` and `client_key`";
            report.conflict(&["http", "tls"], message, help);
            None
        }
    };
    if given.dangerously_accept_any_certificate {
        let path = &["http", "tls", "dangerously_accept_any_certificate"];
        let message = "whoever answers is trusted".to_owned();
        let help = "give the system's authority with `ca` instead";
        report.warning(codes::ANY_CERTIFICATE, path, message, help);
    }
    let secure = |url: &Url| url.scheme() == "https";
    let needs_roots = base.is_some_and(secure)
        || matches!(credentials, Some(Credentials::Tokens(tokens)) if secure(&tokens.url))
        || proxy.as_ref().is_some_and(|(url, _)| secure(url));
    if !needs_roots && authorities.is_none() {
        // Without TLS the machine's certificates need not be read, nor exist.
        authorities = Some(Vec::new());
    }
    Some(Options {
        authorities,
        identity,
        trust_any: given.dangerously_accept_any_certificate,
        proxy,
        gzip: http.gzip.unwrap_or(true),
        user_agent: user_agent(http, report)?,
        connect: CONNECT_MAX.min(timeout / 2),
    })
}

fn user_agent(http: &Http, report: &mut Report<'_>) -> Option<String> {
    let default = || concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned();
    let agent = http.user_agent.clone().unwrap_or_else(default);
    if HeaderValue::from_str(&agent).is_ok() {
        return Some(agent);
    }
    let help = "use visible ASCII characters";
    report.error(
        &["http", "user_agent"],
        "a header cannot carry this value",
        help,
    );
    None
}

type Way = (Url, Option<(String, String)>);

fn proxy(http: &Http, report: &mut Report<'_>) -> Option<Option<Way>> {
    let Some(proxy) = &http.proxy else {
        return Some(None);
    };
    let path = &["http", "proxy", "url"];
    let help = "write it like `http://proxy.example.com:3128`";
    let url = match Url::parse(&proxy.url) {
        Ok(url) if matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") => url,
        _ => {
            report.error(path, "this is no URL of a proxy", help);
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let help = "put them under `user` and `password`";
        report.error(path, "the URL has credentials in it", help);
        return None;
    }
    let credentials = proxy.user.clone().map(|user| {
        let password = proxy.password.as_ref();
        let password = password.map_or("", |password| password.reveal());
        (user, password.to_owned())
    });
    Some(Some((url, credentials)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// Parses a system's file and lists what is wrong with it.
    fn check(text: &str, expect: &[&str]) {
        struct None;
        impl Formats for None {
            fn check(&self, _: &str, _: &Node, _: &Arc<File>, _: &mut Findings) {}
        }
        let file = File::new("systems/erp.yaml", text);
        let mut findings = Findings::new();
        let node = yaml::parse(&file, &mut findings).unwrap();
        let system = System::parse(&file, &node, &None, &mut findings);
        let found: Vec<_> = findings
            .iter()
            .map(|finding| {
                let (line, column) = finding.place.line_column();
                format!("{}:{line}:{column}", finding.code)
            })
            .collect();
        assert_eq!(found, expect, "{text}");
        assert_eq!(system.is_some(), !findings.has_errors(), "{text}");
    }

    fn http(lines: &str) -> String {
        format!("system: erp\nhttp:\n  base_url: https://erp.test/api\n{lines}")
    }

    #[test]
    fn good_files_have_no_findings() {
        check(&http(""), &[]);
        check(
            &http(
                "  auth: { oauth2: { token_url: \"https://id.test/token\", client_id: a, client_secret: b, scope: x } }\n\
                 timeout: 5s\nlimits: { rate: 20/s, burst: 40, concurrency: 8, answer: 1MB }\n\
                 failures: { \"409\": conflict, \"500\": unavailable }\n\
                 circuit: { window: 30s, least: 5, failures: 20%, open: 1s, most: 1s }\nretry_auth: 5m\nretry_budget: 100%\n\
                 maintenance: [\"Sun 02:00-04:00 America/Denver\", \"Mon-Fri 23:00-24:00 UTC\"]\n",
            ),
            &[],
        );
        check(&http("circuit: never\n"), &[]);
        check(
            "system: a\nhttp: { base_url: \"http://127.0.0.1:1\" }\n",
            &[],
        );
        check("system: a\nhttp: { base_url: \"http://[::1]:1\" }\n", &[]);
    }

    #[test]
    fn mistakes_are_found_where_they_stand() {
        check(
            "system: a\nhttp: { base_url: \"ftp://x\" }\n",
            &["bad-value:2:19"],
        );
        check(
            "system: a\nhttp: { base_url: erp.test }\n",
            &["bad-value:2:19"],
        );
        check(
            "system: a\nhttp: { base_url: \"http://erp.test\" }\n",
            &["plain-http:2:19"],
        );
        check(
            "system: a\nhttp: { base_url: \"https://u:p@erp.test\" }\n",
            &["bad-value:2:19"],
        );
        check(
            &http("  headers: { Authorization: x, Host: y, \"a b\": z }\n"),
            &[
                "conflicting-settings:4:29",
                "conflicting-settings:4:38",
                "bad-value:4:48",
            ],
        );
        check(
            &http("  auth: { api_key: { value: x } }\n"),
            &["conflicting-settings:4:20"],
        );
        check(
            &http("  tls: { client_cert: x }\nfailures: { \"200\": conflict }\n"),
            &["bad-value:5:20", "conflicting-settings:4:8"],
        );
        check(&http("  tls: { ca: x }\n"), &["bad-value:4:14"]);
        check(
            &http("  tls: { dangerously_accept_any_certificate: true }\n"),
            &["any-certificate:4:46"],
        );
        check(&http("  proxy: { url: nowhere }\n"), &["bad-value:4:17"]);
        check(&http("timeout: 0s\n"), &["bad-value:4:10"]);
        check(
            &http("circuit: { window: 10ms, open: 1ms, most: 20s }\n"),
            &["bad-value:4:20", "bad-value:4:32"],
        );
        check(
            &http("circuit: { open: 2m, most: 1m }\n"),
            &["bad-value:4:28"],
        );
        check(&http("circuit: { open: 20m }\n"), &["bad-value:4:18"]);
        check(&http("circuit: sometimes\n"), &["unknown-value:4:10"]);
        check(&http("circuit: { trip: 5 }\n"), &["unknown-field:4:12"]);
        check(&http("retry_auth: 10ms\n"), &["bad-value:4:13"]);
        check(
            &http(
                "maintenance: [\"Sun 02:00-04:00 UTC\", \"Sun 04:00-02:00 UTC\", \"Son 1-2 UTC\"]\n",
            ),
            &["bad-value:4:38", "bad-value:4:61"],
        );
        check(&http("retries: 3\n"), &["unknown-field:4:1"]);
        check(
            &http("failures: { \"409\": conflcit }\n"),
            &["unknown-value:4:20"],
        );
    }
}
