//! The mail client: one letter, by SMTP, bounded in time. It knows no notices and no retry.

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::AsyncSmtpTransportBuilder;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use reqwest::Url;

/// A mail server, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    host: String,
    port: u16,
    security: Security,
}

/// How a mail server's connection is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    /// TLS from the first byte.
    Tls,
    /// TLS by STARTTLS; a server without it gets nothing.
    StartTls,
    /// None: the server is on this machine.
    Here,
}

/// A letter.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// Its name: a letter that is sent again has the same.
    pub(crate) id: String,
    pub(crate) from: Mailbox,
    pub(crate) to: Vec<Mailbox>,
    pub(crate) subject: String,
    pub(crate) text: String,
}

impl Server {
    /// The server that `smtps://host:port` or `smtp://host:port` stands for.
    pub(crate) fn parse(text: &str) -> Result<Server, String> {
        let url = Url::parse(text).map_err(|error| format!("this is no URL: {error}"))?;
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err("the URL names no host".to_owned());
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "the URL has credentials in it; put them under `user` and `password`".into(),
            );
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("the URL has more than a host and a port".to_owned());
        }
        let (security, port) = match url.scheme() {
            "smtps" => (Security::Tls, 465),
            "smtp" if super::is_here(host) => (Security::Here, 25),
            "smtp" => (Security::StartTls, 587),
            other => return Err(format!("`{other}` is no scheme of mail servers")),
        };
        Ok(Server {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(port),
            security,
        })
    }

    /// Sends a letter, logged in with this name and password. Fails with a sentence without secrets.
    pub(crate) async fn send(
        &self,
        login: Option<(&str, &str)>,
        letter: Letter,
        timeout: Duration,
    ) -> Result<(), String> {
        let domain = letter.from.email.domain().to_owned();
        let transport = self.transport(login, timeout)?;
        let transport = transport.hello_name(ClientId::Domain(domain));
        let message = letter.message()?;
        let sending = transport.build::<Tokio1Executor>();
        match tokio::time::timeout(timeout, sending.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(described(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Connects and logs in, and sends nothing. Fails with a sentence without secrets.
    pub(crate) async fn greet(
        &self,
        login: Option<(&str, &str)>,
        timeout: Duration,
    ) -> Result<(), String> {
        let transport = self.transport(login, timeout)?.build::<Tokio1Executor>();
        match tokio::time::timeout(timeout, transport.test_connection()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("it greets and then takes no words".to_owned()),
            Ok(Err(error)) => Err(described(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    fn transport(
        &self,
        login: Option<(&str, &str)>,
        timeout: Duration,
    ) -> Result<AsyncSmtpTransportBuilder, String> {
        let tls = || TlsParameters::new(self.host.clone()).map_err(|error| error.to_string());
        let security = match self.security {
            Security::Tls => Tls::Wrapper(tls()?),
            Security::StartTls => Tls::Required(tls()?),
            Security::Here => Tls::None,
        };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.host.clone())
            .port(self.port)
            .tls(security)
            .timeout(Some(timeout));
        Ok(match login {
            Some((user, password)) => {
                transport.credentials(Credentials::new(user.to_owned(), password.to_owned()))
            }
            None => transport,
        })
    }
}

impl Letter {
    fn message(self) -> Result<Message, String> {
        let id = format!("<{}@{}>", self.id, self.from.email.domain());
        let mut message = Message::builder()
            .message_id(Some(id))
            .from(self.from)
            .subject(self.subject)
            .header(ContentType::TEXT_PLAIN);
        for to in self.to {
            message = message.to(to);
        }
        message.body(self.text).map_err(|error| error.to_string())
    }
}

/// The mailbox that `ops@example.com` or `Anna <anna@example.com>` stands for.
pub(crate) fn mailbox(text: &str) -> Result<Mailbox, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no mail address"))
}

/// The error with its reasons, each of which says a part.
fn described(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut inner = error.source();
    while let Some(reason) = inner {
        let reason_told = reason.to_string();
        if !told.contains(&reason_told) {
            told.push_str(": ");
            told.push_str(&reason_told);
        }
        inner = reason.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_on_this_machine_is_reached_without_tls() {
        let check = |text: &str, port, security| {
            let server = Server::parse(text).unwrap();
            assert_eq!((server.port, server.security), (port, security), "{text}");
        };
        check("smtps://mail.example.com", 465, Security::Tls);
        check("smtp://mail.example.com", 587, Security::StartTls);
        check("smtp://mail.example.com:25", 25, Security::StartTls);
        check("smtp://127.0.0.1:2525", 2525, Security::Here);
        check("smtp://[::1]", 25, Security::Here);
        check("smtps://localhost", 465, Security::Tls);
    }

    #[test]
    fn what_is_no_server_is_said_so() {
        for (text, why) in [
            ("mail.example.com", "this is no URL"),
            ("https://mail.example.com", "no scheme of mail servers"),
            ("smtps://anna:secret@mail.example.com", "credentials"),
            ("smtp://mail.example.com?tls=none", "more than a host"),
        ] {
            let said = Server::parse(text).unwrap_err();
            assert!(said.contains(why) && !said.contains("secret"), "{said}");
        }
        assert!(mailbox("ops").is_err());
    }
}
