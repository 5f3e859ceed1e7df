//! `crossdock.yaml`: its shape, its address, its retry, who is told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::Source;
use super::judged;
use super::notify;
use super::parts::retry_fault;
use super::words::Words;
use crate::component::codes as part_codes;
use crate::component::common::{Retry, RetryRule};
use crate::component::words::Secret;
use crate::diagnostic::{Code, Diagnostic, Findings, Place, Severity, Span};
use crate::expression::Tables;
use crate::flow::codes;
use crate::flow::settings::{LISTEN_DEFAULT, Postgres, Rabbitmq, Settings};
use crate::flow::shapes;
use crate::handoff::rabbitmq::{self, topology};
use crate::net::otlp;
use crate::source::clients::{Apis, Clients};
use crate::yaml::shape;
use crate::yaml::{Data, Node};

/// Reads the settings. Where they are broken the defaults hold, so that the flows can be checked too.
pub(crate) fn read(source: &Source, findings: &mut Findings) -> Settings {
    let mut found = Findings::new();
    let node = known(source, &mut found);
    let (secrets, keys) = (RefCell::new(Vec::new()), BTreeSet::new());
    let tables = Tables::default();
    let words = Words {
        variables: None,
        keys: &keys,
        tables: &tables,
        missing: &source.missing,
        secrets: &secrets,
    };
    // A file of comments is a file of defaults.
    if matches!(node.data, Data::Null) {
        return Settings::default();
    }
    shape::check_with(shapes::settings(), &node, &source.file, &words, &mut found);
    addresses(source, &node, &mut found);
    collector(source, &node, &mut found);
    let sound = !found
        .iter()
        .any(|finding| finding.severity == Severity::Error && finding.code != codes::NOT_YET);
    let mut settings = match Settings::deserialize(node.to_json()) {
        Ok(settings) if sound => settings,
        Err(error) if sound && source.missing.is_empty() => {
            let code = part_codes::BAD_VALUE;
            report(&mut found, source, code, node.span, error.to_string(), "");
            Settings::default()
        }
        _ => Settings::default(),
    };
    store(source, &node, &settings, &mut found);
    admin(source, &node, &settings, &mut found);
    sign_in(source, &node, &settings, &mut found);
    notify::check(source, &node, &mut found);
    if let Some(rabbitmq) = &settings.handoff.rabbitmq
        && let Err((field, message)) = rabbit_fault(rabbitmq)
    {
        let at = node.find(&["handoff", "rabbitmq", field]);
        let span = at.map_or(node.span, |at| at.span);
        let help = "see `handoff.rabbitmq` in docs/reference/settings.md";
        report(
            &mut found,
            source,
            part_codes::BAD_VALUE,
            span,
            message,
            help,
        );
    }
    settings.apis = apis(source, &node, &mut found);
    judged::check(source, &node, &mut found);
    if let Some(at) = node.find(&["defaults", "retry"])
        && let Ok(rule) = Retry::deserialize(at.to_json())
        && let Some((field, message)) = retry_fault(&rule, RetryRule::DEFAULT.with(Some(&rule)))
    {
        let span = at.get(field).map_or(at.span, |node| node.span);
        let help = "`first` is the wait before the second attempt, `most` the longest wait";
        report(&mut found, source, codes::BAD_RETRY, span, message, help);
    }
    for finding in found.iter() {
        if !source.missing.contains(&finding.place.span) {
            findings.push(finding.clone());
        }
    }
    settings
}

/// What is wrong with the settings of a broker, if something is: the field and why.
fn rabbit_fault(given: &Rabbitmq) -> Result<(), (&'static str, String)> {
    topology::name_fault(given.name.as_deref().unwrap_or(topology::NAME_DEFAULT))
        .map_or(Ok(()), |why| Err(("name", why)))?;
    if given.certificate.is_some() != given.key.is_some() {
        return Err((
            "certificate",
            "`certificate` and `key` belong together".to_owned(),
        ));
    }
    let tls = |why| ("ca", why);
    rabbitmq::place(&given.urls, None, None).map_err(|why| ("urls", why))?;
    let key = given.key.as_ref().map(Secret::reveal);
    let identity = given.certificate.as_deref().zip(key);
    rabbitmq::place(&given.urls, given.ca.as_deref(), identity)
        .map_err(tls)
        .map(drop)
}

/// The settings without what belongs to later versions.
fn known(source: &Source, findings: &mut Findings) -> Node {
    let Data::Map(entries) = &source.node.data else {
        return source.node.clone();
    };
    let mut kept = Vec::new();
    for (key, value) in entries {
        if shapes::SETTINGS_LATER.contains(&key.text.as_str()) {
            let message = format!("`{}` does not exist in this version", key.text);
            report(
                findings,
                source,
                codes::NOT_YET,
                key.span,
                message,
                "leave it out",
            );
        } else {
            kept.push((key.clone(), value.clone()));
        }
    }
    Node {
        span: source.node.span,
        data: Data::Map(kept),
    }
}

/// `store`: one place, and one that can be connected to.
fn store(source: &Source, node: &Node, settings: &Settings, findings: &mut Findings) {
    let Some(postgres) = node.find(&["store", "postgres"]) else {
        return;
    };
    if let Some(sqlite) = node.find(&["store", "sqlite"]) {
        let message = "the store is said to be in a file, and on a server too".to_owned();
        let help = "keep one of `sqlite` and `postgres`";
        report(
            findings,
            source,
            part_codes::CONFLICTING_SETTINGS,
            sqlite.span,
            message,
            help,
        );
    }
    let url = postgres.get("url").unwrap_or(postgres);
    if let Some(Err(message)) = settings.store.postgres.as_ref().map(Postgres::server) {
        let help = "write `postgres://user@host/database`, a schema of lowercase letters, and PEM";
        report(
            findings,
            source,
            part_codes::BAD_VALUE,
            url.span,
            message,
            help,
        );
    }
}

/// `apis`: clients with credentials that count, and issuers that can be asked. Flows name clients, so those are known also where something else
/// is broken.
fn apis(source: &Source, node: &Node, findings: &mut Findings) -> Apis {
    let given = node.get("apis").map(|at| Apis::deserialize(at.to_json()));
    let apis = given.and_then(Result::ok).unwrap_or_default();
    let mut faults = Vec::new();
    Clients::of(&apis, &mut faults);
    for (path, message, help) in faults {
        let mut at = node.get("apis").unwrap_or(node);
        for part in &path {
            at = at.get(part).unwrap_or(at);
        }
        let code = part_codes::BAD_VALUE;
        report(findings, source, code, at.span, message, help);
    }
    apis
}

/// `admin`: only for this machine, or with TLS, and at a port of its own.
fn admin(source: &Source, node: &Node, settings: &Settings, findings: &mut Findings) {
    let (Some(at), Some(admin)) = (node.get("admin"), &settings.admin) else {
        return;
    };
    let span = at.get("listen").map_or(at.span, |at| at.span);
    let address = admin.address();
    let webhooks = settings.listen.as_deref().unwrap_or(LISTEN_DEFAULT);
    let (message, help) = if admin.is_open() {
        (
            format!("others reach the admin API at `{address}`, and it has no TLS"),
            "give `admin.tls` a certificate, listen at 127.0.0.1, or say `plain_http: true` if a proxy before it has TLS",
        )
    } else if address == webhooks && !address.ends_with(":0") {
        (
            format!("the admin API has the address of the webhooks, `{address}`"),
            "give `admin.listen` another port",
        )
    } else {
        return;
    };
    report(findings, source, codes::OPEN_ADMIN, span, message, help);
}

/// The files of certificates that are to be in the project. Others belong to the machine that the engine runs on, which need not be this one.
pub(crate) fn certificates(
    source: &Source,
    settings: &Settings,
    root: &Path,
    findings: &mut Findings,
) {
    let admin = settings.admin.as_ref().and_then(|admin| admin.tls.as_ref());
    let all = [
        (&["tls"][..], settings.tls.as_ref()),
        (&["admin", "tls"][..], admin),
    ];
    for (path, tls) in all {
        let Some((at, tls)) = source.node.find(path).zip(tls) else {
            continue;
        };
        for (field, name) in [("certificate", &tls.certificate), ("key", &tls.key)] {
            if Path::new(name).is_absolute() || root.join(name).is_file() {
                continue;
            }
            let span = at.get(field).map_or(at.span, |at| at.span);
            if source.missing.contains(&span) {
                continue;
            }
            let place = Place {
                file: source.file.clone(),
                span,
            };
            let message = format!("there is no file `{name}` in the project");
            let help = "put it there; without it the engine does not start";
            let code = codes::MISSING_CERTIFICATE;
            findings.push(Diagnostic::warning(code, place, message).help(help));
        }
    }
}

/// `admin.sign_in`: a provider that can be asked, and an address that browsers find back to.
fn sign_in(source: &Source, node: &Node, settings: &Settings, findings: &mut Findings) {
    let admin = settings.admin.as_ref();
    let given = admin.and_then(|admin| Some((admin, admin.sign_in.as_ref()?)));
    if let Some((admin, given)) = given
        && let Some(at) = node.find(&["admin", "sign_in"])
        && let Err((field, message)) = given.fault(admin)
    {
        let span = at.get(field).map_or(at.span, |at| at.span);
        let (code, help) = (part_codes::BAD_VALUE, "see docs/operating/sign-in.md");
        report(findings, source, code, span, message, help);
    }
}

/// `telemetry.otlp.endpoint`: a URL.
fn collector(source: &Source, node: &Node, findings: &mut Findings) {
    let Some(at) = node.find(&["telemetry", "otlp", "endpoint"]) else {
        return;
    };
    if let Some(Err(message)) = at.as_text().map(otlp::traces_url) {
        let help = "write the collector's URL, such as `http://127.0.0.1:4318`";
        let code = part_codes::BAD_VALUE;
        report(findings, source, code, at.span, message, help);
    }
}

/// Where is listened: at hosts and ports.
fn addresses(source: &Source, node: &Node, findings: &mut Findings) {
    for path in [
        &["listen"][..],
        &["admin", "listen"],
        &["telemetry", "metrics", "listen"],
    ] {
        if let Some(at) = node.find(path) {
            address(source, at, findings);
        }
    }
}

fn address(source: &Source, at: &Node, findings: &mut Findings) {
    let Some(text) = at.as_text() else { return };
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let why = if port.is_empty() {
        "it has no port"
    } else if port.parse::<u16>().is_err() {
        "its port is not a number from 0 to 65535"
    } else if host.is_empty() {
        "it has no host"
    } else if host.contains("//") || host.contains('/') {
        "it is a URL"
    } else if host.contains(char::is_whitespace) || (host.contains(':') && !bracketed) {
        "its host is not a name or an address"
    } else {
        return;
    };
    let message = format!("`{text}` is no address to listen at: {why}");
    let help = "write host:port, such as `127.0.0.1:8080`, or `0.0.0.0:8080` for every network";
    report(findings, source, codes::BAD_ADDRESS, at.span, message, help);
}

fn report(
    findings: &mut Findings,
    source: &Source,
    code: Code,
    span: Span,
    message: String,
    help: &str,
) {
    let place = Place {
        file: source.file.clone(),
        span,
    };
    findings.push(Diagnostic::error(code, place, message).help(help));
}
