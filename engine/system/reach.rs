//! A look at a system that changes nothing there: whether it can be reached, knows us, and for how long its certificate is good. For
//! `doctor`; messages go another way.

use std::time::Duration;

use http::header::DATE;
use http::{HeaderMap, Method};
use reqwest::Url;

use super::System;
use super::broker::Broker;
use super::database::Database;
use crate::failure::{Class, Failure};
use crate::net::amqp;
use crate::net::amqp::link::Link;
use crate::net::http::{Client, Deadline, Options, Outgoing, Trouble, TroubleKind};
use crate::net::sql::Looked;
use crate::net::tls;

/// What an answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Its status.
    pub status: u16,
    /// Whether a token was fetched for it.
    pub token: bool,
    /// When the certificate ends, in milliseconds since 1970; `None` without TLS.
    pub certificate_until_ms: Option<i64>,
    /// What the clock over there shows, if it says so.
    pub date_ms: Option<i64>,
}

impl System {
    /// Asks for the head of the base URL, with the credentials, beside all limits.
    pub async fn reach(&self, within: Duration) -> Result<Reached, Failure> {
        let deadline = Deadline::after(within);
        let client = looking(self.options.clone())?;
        let mut outgoing = Outgoing {
            method: Method::HEAD,
            url: self.base.clone(),
            headers: self.headers.clone(),
            body: None,
        };
        let token = self
            .credentials
            .apply(&mut outgoing, &client, deadline, None)
            .await?;
        let shown = self.base_url();
        let reached = look(&client, outgoing, deadline).await;
        Ok(Reached {
            token: token.is_some(),
            ..reached.map_err(|trouble| failure(shown, &trouble))?
        })
    }
}

impl Database {
    /// Connects, and asks who we are there; writes nothing.
    pub(crate) async fn reach(&self, within: Duration) -> Result<Looked, Failure> {
        self.client()?.look(within).await
    }
}

impl Broker {
    /// As `reach_broker`.
    pub(crate) async fn reach(&self, nth: usize) -> Result<(String, Option<String>), Failure> {
        reach_broker(&self.place, nth).await
    }
}

/// Connects to one of a broker's addresses and logs in. Gives the address, and why the broker takes no messages at the moment, if so: that it
/// says only to who publishes, so a letter is published that no queue can get.
pub(crate) async fn reach_broker(
    place: &amqp::Broker,
    nth: usize,
) -> Result<(String, Option<String>), Failure> {
    let link = Link::open(place, nth, "doctor").await?;
    let nowhere = format!("crossdock.doctor.{}", std::process::id());
    let why = link.ask_blocked("", &nowhere).await;
    let shown = link.shown().to_owned();
    link.close().await;
    Ok((shown, why?))
}

/// Asks for the head of a URL, which is not shown: it may be a secret.
pub(crate) async fn reach_url(
    url: &str,
    options: Options,
    within: Duration,
) -> Result<Reached, Failure> {
    let url =
        Url::parse(url).map_err(|error| Failure::config(format!("this is no URL: {error}")))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let outgoing = Outgoing {
        method: Method::HEAD,
        url,
        headers: HeaderMap::new(),
        body: None,
    };
    let client = looking(options)?;
    let reached = look(&client, outgoing, Deadline::after(within)).await;
    reached.map_err(|trouble| failure(&host, &trouble))
}

fn looking(options: Options) -> Result<Client, Failure> {
    Client::looking(options)
        .map_err(|reason| Failure::config(format!("no HTTP client can be made: {reason}")))
}

async fn look(client: &Client, outgoing: Outgoing, deadline: Deadline) -> Result<Reached, Trouble> {
    let (answer, certificate) = client.look(outgoing, deadline).await?;
    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    Ok(Reached {
        status: answer.status,
        token: false,
        certificate_until_ms: certificate.as_deref().and_then(tls::not_after_ms),
        date_ms: date
            .and_then(|date| jiff::fmt::rfc2822::parse(date).ok())
            .map(|at| at.timestamp().as_millisecond()),
    })
}

fn failure(shown: &str, trouble: &Trouble) -> Failure {
    let class = match trouble.kind {
        TroubleKind::Identity => Class::Auth,
        TroubleKind::Timeout => Class::Timeout,
        _ => Class::Unavailable,
    };
    Failure::new(class, format!("{shown}: {}", trouble.message))
}
