//! What is on the other side of the network: systems and those who are told. They are reached and logged in to; nothing is sent to them that
//! they would act on.

use std::sync::Arc;
use std::time::Duration;

use super::{Case, Look, Looking};
use crate::failure::{Class, Failure};
use crate::flow::notify::{Mail, Notify, Webhook};
use crate::flow::plan::{Action, Project};
use crate::flow::settings::Settings;
use crate::net::certified::Certified;
use crate::net::http::Options;
use crate::net::mail::Server;
use crate::source;
use crate::system::System;
use crate::system::broker::Broker;
use crate::system::database::Database;
use crate::system::reach::{Reached, reach_url};
use crate::world::{Pending, disk};

/// How many days before its end a certificate is spoken of.
const CERTIFICATE_DAYS: i64 = 30;
/// By how much the clock of a system may differ, in milliseconds.
const CLOCK_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// All systems of the project.
pub(super) fn systems<'c>(case: &'c Case, project: &'c Project) -> Vec<Looking<'c>> {
    let mut looking = Vec::new();
    for system in project.library.systems.values() {
        let name = format!("system {}", system.name());
        looking.push(Looking::new(name, http(case, system.clone())));
    }
    for database in project.library.databases.values() {
        let name = format!("system {}", database.name());
        looking.push(Looking::new(name, sql(case, database.clone())));
    }
    for broker in project.library.brokers.values() {
        for nth in 0..broker.addresses() {
            let name = format!("system {}", broker.name());
            looking.push(Looking::new(name, amqp(broker.clone(), nth)));
        }
    }
    looking
}

/// What sources take from and sinks act on, where they can tell: queues and exchanges.
pub(super) fn ends(project: &Project) -> Vec<Looking<'_>> {
    let mut looking = Vec::new();
    let mut add = |name: String, looks: Pending<'static, Result<Option<String>, Failure>>| {
        let shown = name.clone();
        let looks = async move {
            match looks.await {
                Ok(None) => Vec::new(),
                Ok(Some(found)) => vec![Look::ok(shown, found)],
                Err(failure) => vec![refused(&shown, &failure)],
            }
        };
        looking.push(Looking::new(name, looks));
    };
    for plan in project.plans.values() {
        if let source::Ready::Runs(source) = &plan.source {
            let source = source.clone();
            let look = Box::pin(async move { source.look().await });
            add(format!("source of {}", plan.flow), look);
        }
        for node in &plan.nodes {
            if let Action::Effect(effect) = &node.action {
                let effect = effect.clone();
                let look = Box::pin(async move { effect.look().await });
                add(format!("{} of {}", node.id, plan.flow), look);
            }
        }
    }
    looking
}

/// Connects, logs in, and asks whether the broker takes messages now.
async fn amqp(broker: Arc<Broker>, nth: usize) -> Vec<Look> {
    let name = format!("system {}", broker.name());
    vec![match broker.reach(nth).await {
        Ok((shown, None)) => Look::ok(name, format!("{shown} lets us in")),
        Ok((shown, Some(why))) => Look::fail(
            name,
            format!("{shown} lets us in and takes no messages: {why}"),
            "free memory or disk on the broker: until then messages for it wait here",
        ),
        Err(failure) => refused(&name, &failure),
    }]
}

async fn http(case: &Case, system: Arc<System>) -> Vec<Look> {
    let name = format!("system {}", system.name());
    match system.reach(case.within).await {
        Ok(reached) => judge(case, &name, system.base_url(), &reached),
        Err(failure) => vec![refused(&name, &failure)],
    }
}

/// What an answer says about credentials, certificate and clock.
fn judge(case: &Case, name: &str, url: &str, reached: &Reached) -> Vec<Look> {
    let now_ms = case.world.clock.now_ms();
    let token = if reached.token {
        ", with a token of its token server"
    } else {
        ""
    };
    let found = format!("{url} answers (status {}){token}", reached.status);
    let mut looks = vec![match reached.status {
        401 => Look::fail(
            name,
            format!("{found}: it refuses the credentials"),
            "check `auth` in the system's file, and the variables that it uses",
        ),
        403 => Look::warn(
            name,
            found,
            "who we are there may not see this address: if calls fail as well, have the right given",
        ),
        500..=599 => Look::warn(name, found, "look at the system: it answers with an error"),
        _ => Look::ok(name, found),
    }];
    if let Some(until_ms) = reached.certificate_until_ms {
        let days = (until_ms - now_ms).div_euclid(DAY_MS);
        let found = format!("the certificate of {name} is good for {days} days");
        looks.push(match days < CERTIFICATE_DAYS {
            true => Look::warn("certificate", found, "have it renewed before it ends"),
            false => Look::ok("certificate", found),
        });
    }
    if let Some(date_ms) = reached.date_ms
        && (date_ms - now_ms).abs() > CLOCK_MS
    {
        let found = format!(
            "it differs from that of {name} by {} s",
            (now_ms - date_ms) / 1_000
        );
        let help =
            "set this machine's clock by a time server; if it is right, tell the system's owner";
        looks.push(Look::warn("clock", found, help));
    }
    looks
}

/// The certificates that the engine itself serves with: of senders, and of the admin API.
pub(super) async fn served(case: &Case, settings: &Settings) -> Vec<Look> {
    let admin = settings.admin.as_ref().and_then(|admin| admin.tls.as_ref());
    let given = [("senders", settings.tls.as_ref()), ("the admin API", admin)];
    let mut looks = Vec::new();
    for (whose, tls) in given {
        let Some(tls) = tls else { continue };
        let (certificate, key) = (case.root.join(&tls.certificate), case.root.join(&tls.key));
        let loaded = disk::aside(move || Certified::load(&certificate, &key)).await;
        looks.push(match loaded {
            Err(failure) => Look::fail(
                "certificate",
                failure.message,
                "the engine does not start without it: put both files there, PEM, that fit each other",
            ),
            Ok(certified) => {
                let now_ms = case.world.clock.now_ms();
                let days = certified.until_ms().map(|ms| (ms - now_ms).div_euclid(DAY_MS));
                let days = days.unwrap_or(i64::MAX / DAY_MS);
                let found = format!("the one for {whose} is good for {days} days");
                match days < CERTIFICATE_DAYS {
                    true => Look::warn("certificate", found, "have it renewed before it ends; a new one is taken without a restart"),
                    false => Look::ok("certificate", found),
                }
            }
        });
    }
    looks
}

fn refused(name: &str, failure: &Failure) -> Look {
    let told = failure.message.to_lowercase();
    let help = if told.contains("certificate") {
        "have the certificate renewed, or name the authority that it comes from under `tls: { ca: .. }`"
    } else {
        match failure.class {
            Class::Auth => "check `auth` in the system's file, and the variables that it uses",
            Class::NotFound => "have it made, or mend its name",
            Class::Conflict => "make the two agree",
            Class::Forbidden => "have the right given to who we are there",
            Class::Config => "mend the system's file",
            _ => "check the address, the network and whether it runs",
        }
    };
    Look::fail(name, failure.message.clone(), help)
}

async fn sql(case: &Case, database: Arc<Database>) -> Vec<Look> {
    let name = format!("system {}", database.name());
    let found = match database.reach(case.within).await {
        Ok(found) => found,
        Err(failure) => return vec![refused(&name, &failure)],
    };
    let shown = format!("{} answers", found.version);
    vec![if !found.writable {
        let help = "connect to the server that takes writes, or have the right given";
        Look::fail(name, format!("{shown} and takes no writes"), help)
    } else if !found.makes_tables {
        let help = "have the ledger `crossdock_effects` made by somebody who may (docs/guide/databases.md), or set `ledger: false`";
        Look::warn(name, format!("{shown}; this user may make no tables"), help)
    } else {
        Look::ok(name, shown)
    }]
}

/// Those who are told of what needs a person.
pub(super) fn told(notify: &[Notify], within: Duration) -> Vec<Looking<'_>> {
    let (mut webhooks, mut mails) = (0, 0);
    let each = notify.iter().map(|notify| match notify {
        Notify::Webhook(hook) => {
            webhooks += 1;
            let name = format!("notify webhook {webhooks}");
            Looking::new(name.clone(), webhook(name, hook, within))
        }
        Notify::Mail(letter) => {
            mails += 1;
            let name = format!("notify mail {mails}");
            Looking::new(name.clone(), mail(name, letter, within))
        }
    });
    each.collect()
}

/// The URL may be a secret: it is not shown.
async fn webhook(name: String, webhook: &Webhook, within: Duration) -> Vec<Look> {
    let options = Options {
        authorities: None,
        identity: None,
        trust_any: false,
        proxy: None,
        gzip: false,
        user_agent: concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned(),
        connect: within,
    };
    let help = "check the URL, the network and the certificate";
    vec![match reach_url(&webhook.url, options, within).await {
        Ok(reached) => Look::ok(name, format!("it answers (status {})", reached.status)),
        Err(failure) => Look::fail(name, failure.message, help),
    }]
}

async fn mail(name: String, mail: &Mail, within: Duration) -> Vec<Look> {
    let server = match Server::parse(&mail.smtp) {
        Ok(server) => server,
        Err(why) => return vec![Look::fail(name, why, "mend `smtp` in crossdock.yaml")],
    };
    let password = mail.password.as_ref().map(|password| password.reveal());
    let login = mail.user.as_deref().zip(password);
    vec![match server.greet(login, within).await {
        Ok(()) => Look::ok(name, format!("{} greets us", mail.smtp)),
        Err(why) => Look::fail(
            name,
            format!("{}: {why}", mail.smtp),
            "check the address, TLS, the name and the password",
        ),
    }]
}
