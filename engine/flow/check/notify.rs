//! `notify` in `crossdock.yaml`: whether what is told to people can get there. Nothing is sent.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue};
use reqwest::Url;
use serde::Deserialize;

use super::Source;
use crate::component::codes as part_codes;
use crate::diagnostic::{Code, Diagnostic, Findings, Place, Span};
use crate::flow::notify::{Mail, Notify, Webhook};
use crate::net;
use crate::net::mail::{Server, mailbox};
use crate::system::codes;
use crate::yaml::Node;

/// Adds what is wrong with each address of the settings, as far as it has the shape of one.
pub(super) fn check(source: &Source, settings: &Node, findings: &mut Findings) {
    let list = settings.get("notify").map_or(&[][..], Node::items);
    for at in list {
        let Ok(notify) = Notify::deserialize(at.to_json()) else {
            continue;
        };
        let mut report = Report {
            source,
            at,
            findings,
        };
        match notify {
            Notify::Webhook(webhook) => report.webhook(&webhook),
            Notify::Mail(mail) => report.mail(&mail),
        }
    }
}

struct Report<'a> {
    source: &'a Source,
    at: &'a Node,
    findings: &'a mut Findings,
}

impl Report<'_> {
    fn webhook(&mut self, webhook: &Webhook) {
        let path = &["webhook", "url"];
        let help = "write it like `https://chat.example.com/hooks/orders`";
        match Url::parse(&webhook.url) {
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                let message = format!("`{}` is no scheme of HTTP", url.scheme());
                self.wrong(path, message, help);
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                let help = "put a token under `token`, or a header under `headers`";
                self.wrong(path, "the URL has credentials in it".to_owned(), help);
            }
            Ok(url) => {
                let host = url.host_str().unwrap_or_default();
                if url.scheme() == "http" && !net::is_here(host) {
                    let message = format!("{host} is reached without TLS");
                    let help = "use https, or keep the connection inside a network that you trust";
                    self.plain(path, message, help);
                }
            }
            Err(error) => self.wrong(path, format!("this is no URL: {error}"), help),
        }
        if let Some(token) = &webhook.token
            && HeaderValue::from_str(token.reveal()).is_err()
        {
            let message = "the token cannot stand in a header".to_owned();
            self.wrong(
                &["webhook", "token"],
                message,
                "it has a line break or a control character in it",
            );
        }
        for (name, value) in &webhook.headers {
            let path = &["webhook", "headers", name.as_str()];
            match HeaderName::from_bytes(name.as_bytes()) {
                Err(_) => self.wrong(path, format!("`{name}` is no name of a header"), ""),
                Ok(AUTHORIZATION) => {
                    let message = "`authorization` is no header to write here".to_owned();
                    self.wrong(
                        path,
                        message,
                        "put the token under `token`, from `${env:..}`",
                    );
                }
                Ok(CONTENT_LENGTH | CONTENT_TYPE | HOST) => {
                    self.wrong(path, format!("the engine writes `{name}` itself"), "");
                }
                Ok(_) if HeaderValue::from_str(value).is_err() => {
                    self.wrong(path, "the value cannot stand in a header".to_owned(), "");
                }
                Ok(_) => {}
            }
        }
    }

    fn mail(&mut self, mail: &Mail) {
        if let Err(why) = Server::parse(&mail.smtp) {
            let help = "write it like `smtps://mail.example.com`";
            self.wrong(&["mail", "smtp"], why, help);
        }
        if mail.user.is_some() != mail.password.is_some() {
            let message = "a login is a `user` and a `password`".to_owned();
            self.wrong(&["mail"], message, "write both, or neither");
        }
        let help = "write it like `ops@example.com` or `Anna <anna@example.com>`";
        if let Err(why) = mailbox(&mail.from) {
            self.wrong(&["mail", "from"], why, help);
        }
        for (nth, to) in mail.to.iter().enumerate() {
            let Err(why) = mailbox(to) else { continue };
            let list = self.at.find(&["mail", "to"]);
            let span = list
                .and_then(|list| list.items().get(nth))
                .map_or(self.at.span, |to| to.span);
            self.add(Diagnostic::error, part_codes::BAD_VALUE, span, why, help);
        }
    }

    fn wrong(&mut self, path: &[&str], message: String, help: &str) {
        let span = self.span(path);
        self.add(
            Diagnostic::error,
            part_codes::BAD_VALUE,
            span,
            message,
            help,
        );
    }

    fn plain(&mut self, path: &[&str], message: String, help: &str) {
        let span = self.span(path);
        self.add(Diagnostic::warning, codes::PLAIN_HTTP, span, message, help);
    }

    fn span(&self, path: &[&str]) -> Span {
        self.at.find(path).unwrap_or(self.at).span
    }

    fn add(
        &mut self,
        make: fn(Code, Place, String) -> Diagnostic,
        code: Code,
        span: Span,
        message: String,
        help: &str,
    ) {
        let place = Place {
            file: self.source.file.clone(),
            span,
        };
        self.findings.push(make(code, place, message).help(help));
    }
}
