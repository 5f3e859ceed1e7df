//! From a system's file to a broker: where it is, and what can be wrong with that. Nothing is opened.

use std::sync::{Arc, Mutex};

use super::{Report, read, rules};
use crate::diagnostic::{File, Findings};
use crate::net::amqp::{self, Identity};
use crate::system::admission::Admission;
use crate::system::broker::{Broker, Publishers};
use crate::system::file::Amqp;
use crate::yaml::shape::Formats;
use crate::yaml::{Data, Node, Style};

const HELP: &str =
    "write `amqps://user@host:5671/vhost`, from `${env:NAME}` where there is a password in it";

impl Broker {
    /// Checks a system's file that says `amqp`, and makes the broker of it.
    pub fn parse(
        file: &Arc<File>,
        node: &Node,
        formats: &dyn Formats,
        findings: &mut Findings,
    ) -> Option<Broker> {
        let (config, sound) = read(file, node, formats, findings)?;
        let mut report = Report {
            file,
            node,
            findings,
            errors: 0,
        };
        let amqp = config.amqp.as_ref()?;
        let place = place(amqp, &mut report);
        rules::only("amqp", "a broker", &config, &mut report);
        let rules = rules::rules(&config, &mut report);
        if report.errors > 0 || !sound {
            return None;
        }
        let rules = rules?;
        Some(Broker {
            name: Arc::from(config.system.as_str()),
            place: Arc::new(place?),
            timeout: config.timeout,
            concurrency: rules.concurrency,
            admission: Arc::new(Admission::new(&config.system, rules)),
            publishers: Mutex::new(Publishers::default()),
        })
    }
}

fn place(amqp: &Amqp, report: &mut Report<'_>) -> Option<amqp::Broker> {
    let path = &["amqp", "urls"];
    for (nth, url) in amqp.urls.iter().enumerate() {
        let list = report.at(path);
        let written = list.items().get(nth).unwrap_or(list).data.clone();
        let open = matches!(written, Data::Text(text) if text.style != Style::Variable);
        let has_password = url
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('@'))
            .is_some_and(|(user, _)| user.contains(':'));
        if open && has_password {
            let message = "the password stands in the file itself";
            let help = "take the URL from `${env:NAME}` or `${file:/run/secrets/name}`";
            report.error(path, message, help);
        }
    }
    let identity = match (&amqp.certificate, &amqp.key) {
        (Some(certificate), Some(key)) => Some(Identity {
            certificate,
            key: key.reveal(),
        }),
        (None, None) => None,
        _ => {
            let message = "a client's certificate needs its private key, and the other way round";
            let help = "give both `certificate` and `key`, or neither";
            report.conflict(&["amqp"], message, help);
            return None;
        }
    };
    match amqp::Broker::new(&amqp.urls, amqp.ca.as_deref(), identity) {
        Ok(place) => Some(place),
        Err(why) => {
            report.error(path, why, HELP);
            None
        }
    }
}
