//! One connection to a broker, from the first byte until it is lost. It does not come back: `line` makes the next one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::{BasicPublishOptions, BasicQosOptions};
use lapin::tcp::RustlsConnector;
use lapin::{AsyncTcpStream, BasicProperties, Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Broker, Place, answer, cause, failure, reply_code};
use crate::failure::{Class, Failure};

/// How long the way to a broker may take: name, TCP, TLS.
const REACHED_WITHIN: Duration = Duration::from_secs(4);
/// How long a connection may take from the first byte until channels can be opened.
const OPEN_WITHIN: Duration = Duration::from_secs(8);
/// How long a connection may take to say goodbye.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
/// How many numbers for channels a connection has at most.
const NUMBERS: usize = 65_535;
/// How often the connection is looked at besides its own word.
const LOOK: Duration = Duration::from_millis(500);

/// A connection. A clone is the same one.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    connection: Connection,
    cord: Cord,
    state: Arc<State>,
    shown: String,
    broker: Broker,
    nth: usize,
    purpose: String,
}

/// What is known of a connection.
struct State {
    lost: CancellationToken,
    why: Mutex<Option<Failure>>,
    /// Why the broker takes nothing at the moment.
    blocked: watch::Sender<Option<String>>,
}

/// Ends a connection whatever it is doing: a client that waits for a silent broker does not end by itself.
#[derive(Clone, Default)]
struct Cord(Arc<Mutex<Option<std::net::TcpStream>>>);

impl Cord {
    fn tie(&self, stream: std::net::TcpStream) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(stream);
    }

    fn cut(&self) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stream) = held {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }
}

/// Cuts the cord if nobody has taken it.
struct Loose(Option<Cord>);

impl Drop for Loose {
    fn drop(&mut self) {
        if let Some(cord) = &self.0 {
            cord.cut();
        }
    }
}

impl Link {
    /// Connects to one of the broker's addresses; `purpose` is shown in the broker's own lists.
    pub async fn open(broker: &Broker, nth: usize, purpose: &str) -> Result<Link, Failure> {
        let place = &broker.places[nth % broker.places.len()];
        let what = format!("the broker {}", place.shown);
        if place.is_external() && !place.is_secure() {
            return Err(Failure::config(format!(
                "{what}: `auth_mechanism=external` needs `amqps://` and a certificate of the client"
            )));
        }
        let cord = Cord::default();
        let mut loose = Loose(Some(cord.clone()));
        let opening = connect(broker, place, purpose, cord.clone());
        let connection = match tokio::time::timeout(OPEN_WITHIN, opening).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(refused(&what, place, &error)),
            Err(_) => {
                return Err(Failure::new(
                    Class::Timeout,
                    format!("{what}: no connection within {} s", OPEN_WITHIN.as_secs()),
                ));
            }
        };
        loose.0 = None;
        let state = Arc::new(State {
            lost: CancellationToken::new(),
            why: Mutex::default(),
            blocked: watch::Sender::new(None),
        });
        let link = Link(Arc::new(Inner {
            cord: cord.clone(),
            state: state.clone(),
            shown: place.shown.clone(),
            broker: broker.clone(),
            nth,
            purpose: purpose.to_owned(),
            connection,
        }));
        let connection = &link.0.connection;
        let status = connection.status().clone();
        tokio::spawn(watch_over(
            connection.events_listener(),
            status,
            state,
            cord,
        ));
        Ok(link)
    }

    /// A connection of its own to where this one leads.
    pub async fn again(&self) -> Result<Link, Failure> {
        Link::open(&self.0.broker, self.0.nth, &self.0.purpose).await
    }

    /// A new channel.
    ///
    /// A channel that the broker closes with a refusal spoils its number: whenever the client (lapin 4.12) comes round to it, it gives the old
    /// refusal for the new channel. Such numbers are passed over; when all are spoilt the connection is given up.
    pub async fn channel(&self) -> Result<Channel, Failure> {
        let what = format!("a channel of {}", self.0.shown);
        let most = match self.0.connection.configuration().channel_max() {
            0 => NUMBERS,
            most => usize::from(most),
        };
        for _ in 0..most {
            let opening = async { Ok(self.0.connection.create_channel().await) };
            match answer(&what, opening).await? {
                Ok(channel) => return Ok(channel),
                Err(error) => match reply_code(&error) {
                    Some(311..=313 | 403..=406) if !self.is_lost() => {}
                    _ => return Err(failure(&what, &error)),
                },
            }
        }
        let why = format!(
            "{what}: the broker has refused something on each; a new connection has others"
        );
        let why = Failure::new(Class::Unavailable, why);
        self.give_up(why.clone());
        Err(why)
    }

    /// Where it leads, without credentials.
    pub fn shown(&self) -> &str {
        &self.0.shown
    }

    /// Waits until the connection is lost.
    pub async fn lost(&self) {
        self.0.state.lost.cancelled().await;
    }

    /// Whether the connection is lost.
    pub fn is_lost(&self) -> bool {
        self.0.state.lost.is_cancelled()
    }

    /// Why it is lost, if that is known.
    pub fn why_lost(&self) -> Failure {
        let why = self.0.state.why.lock();
        let why = why.unwrap_or_else(PoisonError::into_inner).clone();
        why.unwrap_or_else(|| {
            let message = format!("the connection to {} is lost", self.0.shown);
            Failure::new(Class::Unavailable, message)
        })
    }

    /// Why the broker takes nothing at the moment (its memory or disk alarm), and when that changes.
    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.0.state.blocked.subscribe()
    }

    /// Asks why the broker takes nothing at the moment. It says so only to who publishes: an empty message goes out, which no queue wants.
    pub async fn ask_blocked(
        &self,
        exchange: &str,
        routing_key: &str,
    ) -> Result<Option<String>, Failure> {
        let mut blocked = self.blocked();
        let channel = self.channel().await?;
        let publishing = channel.basic_publish(
            exchange.into(),
            routing_key.into(),
            BasicPublishOptions::default(),
            b"",
            BasicProperties::default(),
        );
        publishing.await.ok();
        // Who is blocked gets no answer to what is asked after that. Who may not publish there gets a refusal, and learns nothing more.
        let asking = channel.basic_qos(1, BasicQosOptions::default());
        tokio::select! {
            biased;
            why = blocked.wait_for(Option::is_some) => return Ok(why.ok().and_then(|why| why.clone())),
            answered = answer("a question", asking) => match answered {
                // No answer is no word that it takes messages.
                Err(failure) if failure.class == Class::Timeout || self.is_lost() => return Err(failure),
                _ => {}
            }
        }
        channel.close(200, "closed".into()).await.ok();
        Ok(None)
    }

    /// The connection can no longer be trusted, because what it should have answered did not come: it ends now.
    pub fn give_up(&self, why: Failure) {
        self.0.state.lose(why);
        self.0.cord.cut();
    }

    /// Says goodbye, briefly, and ends.
    pub async fn close(&self) {
        let goodbye = self.0.connection.close(200, "closed".into());
        if !self.is_lost() {
            tokio::time::timeout(CLOSED_WITHIN, goodbye).await.ok();
        }
        let shown = &self.0.shown;
        self.give_up(Failure::new(
            Class::Unavailable,
            format!("the connection to {shown} was closed"),
        ));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.lost.cancel();
        self.cord.cut();
    }
}

impl State {
    /// The first reason is the one that counts.
    fn lose(&self, why: Failure) {
        let mut known = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert(why);
        drop(known);
        self.lost.cancel();
    }
}

async fn connect(
    broker: &Broker,
    place: &Place,
    purpose: &str,
    cord: Cord,
) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("crossdock {purpose}").into())
        .with_client_property("product".into(), "crossdock".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let secure = place.is_secure();
    let connector = RustlsConnector::from(broker.tls.clone());
    let runtime = lapin::runtime::default_runtime()?;
    let uri = place.uri.clone();
    // Written in place, so that the compiler knows the runtime's kind of socket.
    Connection::connector(
        uri,
        runtime,
        async move |uri, runtime| {
            let host = uri.authority.host.clone();
            let reaching = async {
                let found = tokio::net::lookup_host((host.as_str(), uri.authority.port)).await?;
                let found: Vec<_> = found.collect();
                let stream = AsyncTcpStream::connect(&runtime, found).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    use std::os::fd::AsFd;
                    cord.tie(plain.get_ref().as_fd().try_clone_to_owned()?.into());
                }
                match secure {
                    true => stream.into_rustls(&connector, &host).await,
                    false => Ok(stream),
                }
            };
            match tokio::time::timeout(REACHED_WITHIN, reaching).await {
                Ok(reached) => reached.map_err(lapin::Error::from),
                Err(_) => Err(lapin::Error::from(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("it was not reached within {} s", REACHED_WITHIN.as_secs()),
                ))),
            }
        },
        properties,
    )
    .await
}

/// Why there is no connection, and what to do.
fn refused(what: &str, place: &Place, error: &lapin::Error) -> Failure {
    let user = &place.uri.authority.userinfo.username;
    let mut refused = failure(what, error);
    let told = match super::reply_code(error) {
        Some(403) => {
            refused.class = Class::Auth;
            format!("it refuses the user `{user}` or the password; check the URL's credentials")
        }
        Some(530) => format!(
            "it has no virtual host `{}`, or the user `{user}` may not use it: {}",
            place.uri.vhost,
            cause(error)
        ),
        _ => {
            let cause = cause(error);
            match cause.contains("certificate") {
                true => {
                    // Waiting does not help: somebody must change a certificate.
                    refused.class = Class::Auth;
                    format!(
                        "TLS failed: {cause}; check `ca`, the broker's certificate and its dates"
                    )
                }
                false => cause,
            }
        }
    };
    refused.message = format!("{what}: {told}");
    refused
}

/// Notes what becomes of a connection, until it is lost.
async fn watch_over(
    events: impl Stream<Item = Event>,
    status: lapin::ConnectionStatus,
    state: Arc<State>,
    cord: Cord,
) {
    let mut events = std::pin::pin!(events);
    let mut why = None;
    while status.connected() {
        tokio::select! {
            () = state.lost.cancelled() => break,
            told = events.next() => match told {
                Some(Event::ConnectionBlocked(reason)) => {
                    state.blocked.send_replace(Some(reason));
                }
                Some(Event::ConnectionUnblocked) => {
                    state.blocked.send_replace(None);
                }
                // An error may be that of a channel alone: the status decides.
                Some(Event::Error(error)) => why = Some(error),
                Some(_) => {}
                None => break,
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    let why = match why {
        Some(error) => failure("the connection to the broker is lost", &error),
        None => Failure::new(Class::Unavailable, "the connection to the broker is lost"),
    };
    state.lose(why);
    cord.cut();
}
