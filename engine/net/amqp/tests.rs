//! What the AMQP client promises, against the broker of this machine: nothing is said to be stored that is not, nothing is forgotten that
//! was not acknowledged, and a lost connection comes back.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::consumer::Consumer;
use super::line::Line;
use super::link::Link;
use super::publisher::{Letter, Manner, Outcome, Publisher};
use super::receipts::Receipt;
use super::*;
use crate::world::World;

/// Where the broker of this machine is.
const SERVER: &str = "127.0.0.1:5672";
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn url(address: &str) -> String {
    format!("amqp://guest:guest@{address}/%2f")
}

pub(crate) fn broker(urls: &[&str]) -> Arc<Broker> {
    let urls: Vec<_> = urls.iter().map(|address| url(address)).collect();
    Arc::new(Broker::new(&urls, None, None).unwrap())
}

pub(crate) async fn patiently<T>(what: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, what).await;
    waited.expect("it came in time")
}

/// A connection of the test's own, with a queue that goes some time after it.
struct Site {
    line: Line,
    channel: Channel,
    queue: String,
}

impl Site {
    async fn new(most: Option<u32>) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let queue = format!("crossdock-test-amqp-{}-{nth}", std::process::id());
        let line = Line::open(broker(&[SERVER]), "test", World::real());
        let link = line.link_within(PATIENCE).await.unwrap_or_else(|failure| {
            panic!("{failure}; `make services` starts a broker");
        });
        let channel = link.channel().await.unwrap();
        let mut arguments = FieldTable::default();
        if let Some(most) = most {
            arguments.insert("x-max-length".into(), AMQPValue::LongUInt(most));
            arguments.insert(
                "x-overflow".into(),
                AMQPValue::LongString("reject-publish".into()),
            );
        }
        // It outlives its consumers, which come again, and goes if a test dies.
        arguments.insert("x-expires".into(), AMQPValue::LongUInt(120_000));
        let options = QueueDeclareOptions::default();
        let declaring = channel.queue_declare(queue.as_str().into(), options, arguments);
        declaring.await.unwrap();
        Site {
            line,
            channel,
            queue,
        }
    }

    fn letter(&self, body: &str) -> Letter {
        Letter {
            exchange: "".into(),
            routing_key: self.queue.as_str().into(),
            properties: BasicProperties::default().with_message_id(body.into()),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    async fn consumer(&self, prefetch: u16) -> Consumer {
        let link = self.line.link().await;
        Consumer::open(&link, &self.queue, prefetch, "")
            .await
            .unwrap()
    }

    async fn ready(&self) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let asking =
            self.channel
                .queue_declare(self.queue.as_str().into(), options, FieldTable::default());
        asking.await.unwrap().message_count()
    }

    async fn end(self) {
        let deleting = self
            .channel
            .queue_delete(self.queue.as_str().into(), QueueDeleteOptions::default());
        deleting.await.unwrap();
        self.line.close().await;
    }
}

async fn bodies(consumer: &mut Consumer, many: usize) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for _ in 0..many {
        let delivery = patiently(consumer.next()).await.unwrap();
        found.push((
            delivery.tag,
            String::from_utf8(delivery.body.to_vec()).unwrap(),
        ));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_delivered_in_order_until_it_is_acknowledged() {
    let site = Site::new(None).await;
    let publisher = Publisher::start(site.line.clone(), Manner::default());
    let (told, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..600 {
        let told = told.clone();
        let done = move |outcome| told.send(outcome).unwrap();
        patiently(publisher.send(site.letter(&n.to_string()), done)).await;
    }
    for _ in 0..600 {
        let outcome = patiently(outcomes.recv()).await.unwrap();
        assert!(matches!(outcome, Outcome::Stored), "{outcome:?}");
    }
    // A guard that keeps the queue while consumers come and go.
    let mut guard = site.consumer(1).await;
    let mut consumer = site.consumer(50).await;
    let first = bodies(&mut guard, 1).await;
    let taken = bodies(&mut consumer, 50).await;
    let receipts = consumer.receipts();
    for (tag, _) in &taken[..20] {
        receipts.settle(*tag, Receipt::Taken);
    }
    receipts.settle(taken[30].0, Receipt::Taken);
    receipts.settle(taken[31].0, Receipt::Rejected);
    let more = bodies(&mut consumer, 22).await;
    consumer.close().await;
    let mut again = site.consumer(600).await;
    let rest = bodies(&mut again, 577).await;
    let mut seen: BTreeSet<_> = rest.iter().map(|(_, body)| body.clone()).collect();
    assert!(more.iter().all(|(_, body)| seen.contains(body)));
    seen.extend(first.iter().map(|(_, body)| body.clone()));
    assert_eq!(seen.len(), 578);
    assert!(taken[..20].iter().all(|(_, body)| !seen.contains(body)));
    assert!(!seen.contains(&taken[30].1) && !seen.contains(&taken[31].1));
    publisher.close().await;
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_takes_comes_back_under_its_own_name() {
    let site = Site::new(None).await;
    let manner = Manner {
        returns: true,
        ..Manner::default()
    };
    let publisher = Publisher::start(site.line.clone(), manner);
    let (told, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..900 {
        let mut letter = site.letter(&n.to_string());
        if n % 3 == 0 {
            letter.routing_key = "crossdock-test-amqp-nowhere".into();
        }
        let told = told.clone();
        patiently(publisher.send(letter, move |outcome| told.send((n, outcome)).unwrap())).await;
    }
    for _ in 0..900 {
        let (n, outcome) = patiently(outcomes.recv()).await.unwrap();
        match (n % 3, &outcome) {
            (0, Outcome::Unroutable(_)) | (1 | 2, Outcome::Stored) => {}
            _ => panic!("{n}: {outcome:?}"),
        }
    }
    let mut nameless = site.letter("x");
    nameless.properties = BasicProperties::default();
    assert!(matches!(
        publisher.publish(nameless).await,
        Outcome::NotSent(_)
    ));
    assert_eq!(site.ready().await, 600);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_turns_down_is_not_said_to_be_stored() {
    let site = Site::new(Some(10)).await;
    let publisher = Publisher::start(site.line.clone(), Manner::default());
    let mut stored = 0;
    for n in 0..30 {
        match patiently(publisher.publish(site.letter(&n.to_string()))).await {
            Outcome::Stored => stored += 1,
            Outcome::Refused(failure) => assert!(failure.message.contains("full"), "{failure}"),
            outcome => panic!("{outcome:?}"),
        }
    }
    assert_eq!(stored, 10);
    assert_eq!(site.ready().await, 10);
    site.end().await;
}

/// What a relay does with what passes.
#[derive(Clone, Copy, PartialEq)]
enum Weather {
    Fair,
    /// Nothing passes, and nobody is told.
    Silent,
    /// Connections are broken, and refused.
    Cut,
}

/// A relay to the broker that can be disturbed.
async fn relay() -> (String, watch::Sender<Weather>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, weather) = watch::channel(Weather::Fair);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let weather = weather.clone();
            tokio::spawn(async move {
                if *weather.borrow() == Weather::Cut {
                    return;
                }
                let far = TcpStream::connect(SERVER).await.unwrap();
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                let mut cut = weather.clone();
                tokio::select! {
                    () = pass(near_in, far_out, weather.clone()) => {}
                    () = pass(far_in, near_out, weather) => {}
                    _ = cut.wait_for(|now| *now == Weather::Cut) => {}
                }
            });
        }
    });
    (address, sender)
}

async fn pass(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 1 << 16];
    while let Ok(many @ 1..) = from.read(&mut buffer).await {
        if weather
            .wait_for(|now| *now != Weather::Silent)
            .await
            .is_err()
            || to.write_all(&buffer[..many]).await.is_err()
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_cut_comes_back_and_nothing_is_said_to_be_stored_that_is_not() {
    let site = Site::new(None).await;
    let (address, weather) = relay().await;
    let line = Line::open(broker(&[&address]), "test", World::real());
    let publisher = Publisher::start(line.clone(), Manner::default());
    let link = line.link_within(PATIENCE).await.unwrap();
    let (mut stored, mut missed) = (BTreeSet::new(), Vec::new());
    for n in 0..300 {
        match n {
            100 => weather.send_modify(|now| *now = Weather::Cut),
            200 => {
                patiently(link.lost()).await;
                weather.send_modify(|now| *now = Weather::Fair);
                patiently(line.link()).await;
                // The publisher opens its channel a moment later; until then it says at once that nothing was sent.
                patiently(async {
                    while !matches!(
                        publisher.publish(site.letter("again")).await,
                        Outcome::Stored
                    ) {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                })
                .await;
            }
            _ => {}
        }
        let outcome = patiently(publisher.publish(site.letter(&n.to_string()))).await;
        match outcome {
            Outcome::Stored => drop(stored.insert(n.to_string())),
            Outcome::NotSent(_) | Outcome::Unknown(_) => missed.push((n, outcome)),
            outcome => panic!("{outcome:?}"),
        }
    }
    // While there is a connection nearly all are: not to be sent is allowed at any time.
    assert!(stored.len() >= 190, "not stored: {missed:?}");
    let ready = site.ready().await as usize;
    assert!(ready >= stored.len(), "{ready} of {}", stored.len());
    let mut consumer = site.consumer(400).await;
    let found: BTreeSet<_> = bodies(&mut consumer, ready)
        .await
        .into_iter()
        .map(|(_, body)| body)
        .collect();
    assert!(stored.is_subset(&found));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_that_its_connection_is_lost_also_when_nobody_says_so() {
    let site = Site::new(None).await;
    let (address, weather) = relay().await;
    let url = format!("{}?heartbeat=1", url(&address));
    let broker = Arc::new(Broker::new(&[url], None, None).unwrap());
    let line = Line::open(broker, "test", World::real());
    let link = line.link_within(PATIENCE).await.unwrap();
    let mut consumer = Consumer::open(&link, &site.queue, 10, "").await.unwrap();
    weather.send_replace(Weather::Silent);
    let failure = patiently(consumer.next()).await.unwrap_err();
    assert!(failure.message.contains("silent"), "{failure}");
    weather.send_replace(Weather::Fair);
    let mut consumer = patiently(async {
        // With heartbeats this short a busy machine may lose one more connection.
        loop {
            let link = line.link().await;
            if let Ok(consumer) = Consumer::open(&link, &site.queue, 10, "").await {
                return consumer;
            }
        }
    })
    .await;
    site.channel
        .basic_publish(
            "".into(),
            site.queue.as_str().into(),
            Default::default(),
            b"x",
            BasicProperties::default(),
        )
        .await
        .unwrap();
    assert_eq!(bodies(&mut consumer, 1).await.len(), 1);
    let deleting = site
        .channel
        .queue_delete(site.queue.as_str().into(), QueueDeleteOptions::default());
    deleting.await.unwrap();
    let failure = patiently(consumer.next()).await.unwrap_err();
    assert_eq!(failure.class, Class::NotFound, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_serves_where_one_does_not() {
    let (address, weather) = relay().await;
    weather.send_replace(Weather::Cut);
    let line = Line::open(
        broker(&["127.0.0.1:1", &address, SERVER]),
        "test",
        World::real(),
    );
    let link = line.link_within(PATIENCE).await.unwrap();
    assert!(link.shown().contains(SERVER));
    line.close().await;
    assert!(link.is_lost() && !line.is_up());
}

/// Why one address gives no connection.
async fn refusal(url: &str) -> Failure {
    let broker = Broker::new(&[url.to_owned()], None, None).unwrap();
    let opened = patiently(Link::open(&broker, 0, "test")).await;
    opened.err().expect("it was refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_broker_refuses_is_said_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let cases = [
        (
            format!("amqp://guest:wrong@{SERVER}"),
            Class::Auth,
            "credentials",
        ),
        (
            format!("amqp://guest:guest@{SERVER}/none"),
            Class::Config,
            "virtual host `none`",
        ),
        (
            "amqp://guest:guest@127.0.0.1:1".to_owned(),
            Class::Unavailable,
            "refused",
        ),
        (
            format!("amqp://guest:guest@{silent}"),
            Class::Timeout,
            "no connection within",
        ),
    ];
    for (url, class, part) in cases {
        let failure = refusal(&url).await;
        assert_eq!(failure.class, class, "{failure}");
        assert!(failure.message.contains(part), "{failure}");
        assert!(!failure.message.contains("wrong"), "{failure}");
    }
    for (url, part) in [
        ("http://x", "amqp://"),
        ("amqp:///x", "no host"),
        ("not a url", "none"),
    ] {
        let error = Broker::new(&[url.to_owned()], None, None).err().unwrap();
        assert!(error.contains(part), "{error}");
    }
    assert!(Broker::new(&[], None, None).is_err());
    let six = Broker::new(&["amqps://[::1]:5671/".to_owned()], None, None).unwrap();
    assert_eq!(six.places[0].uri.authority.host, "::1");
    assert_eq!(
        (&*six.places[0].uri.vhost, &*six.shown()),
        ("/", "amqps://[::1]:5671/")
    );
}

/// A TLS server before the broker, with a certificate that is good until this year; and the certificate of its authority.
async fn secure(until: i32) -> (SocketAddr, String) {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    tls::provider();
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(near).await else {
                    return;
                };
                let mut far = TcpStream::connect(SERVER).await.unwrap();
                tokio::io::copy_bidirectional(&mut near, &mut far)
                    .await
                    .ok();
            });
        }
    });
    (address, certificate.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_behind_tls_is_trusted_by_its_authority_alone() {
    let (address, pem) = secure(2099).await;
    let url = format!("amqps://guest:guest@localhost:{}/", address.port());
    let broker = Broker::new(std::slice::from_ref(&url), Some(&pem), None).unwrap();
    let link = patiently(Link::open(&broker, 0, "test")).await.unwrap();
    link.channel().await.unwrap();
    link.close().await;
    let failure = refusal(&url).await;
    assert!(
        failure.message.contains("TLS failed") && failure.message.contains("`ca`"),
        "{failure}"
    );
    let (address, pem) = secure(2002).await;
    let url = format!("amqps://guest:guest@localhost:{}/", address.port());
    let broker = Broker::new(&[url], Some(&pem), None).unwrap();
    let failure = patiently(Link::open(&broker, 0, "test"))
        .await
        .err()
        .unwrap();
    assert!(failure.message.contains("xpired"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_was_refused_spoils_no_later_one() {
    let broker = broker(&[SERVER]);
    let link = patiently(Link::open(&broker, 0, "test")).await.unwrap();
    let refused = async || {
        let channel = link.channel().await.unwrap();
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let name = "crossdock-test-amqp-missing";
        let asking = channel.queue_declare(name.into(), options, FieldTable::default());
        assert_eq!(reply_code(&asking.await.unwrap_err()), Some(404));
    };
    refused().await;
    // All numbers of the connection, and the spoilt one again.
    for _ in 0..2_100 {
        let channel = link.channel().await.unwrap();
        channel.close(200, "closed".into()).await.unwrap();
    }
    refused().await;
    assert!(!link.is_lost());
}
