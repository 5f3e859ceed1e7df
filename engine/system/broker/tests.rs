//! What systems that are brokers promise: their files are checked without a connection, and a look tells what is wrong on the way.

use super::*;
use crate::diagnostic::{File, Findings};
use crate::step::bench::NoFormats;
use crate::yaml;

/// The broker of this machine.
pub(crate) const SYSTEM: &str = "system: events\namqp: { urls: ['amqp://127.0.0.1:5672'] }\n";

fn parse(text: &str) -> (Option<Broker>, Vec<String>) {
    let file = File::new("systems/events.yaml", text);
    let mut findings = Findings::new();
    let node = yaml::parse(&file, &mut findings).unwrap();
    let broker = Broker::parse(&file, &node, &NoFormats, &mut findings);
    let found = findings.iter().map(|finding| {
        let (line, column) = finding.place.line_column();
        format!("{}:{line}:{column}", finding.code)
    });
    (broker, found.collect())
}

#[test]
fn a_file_is_checked_without_a_connection() {
    let check = |amqp: &str, expect: &[&str]| {
        let (broker, found) = parse(&format!("system: events\namqp: {{ {amqp} }}\n"));
        assert_eq!(found, expect, "{amqp}");
        assert_eq!(broker.is_some(), expect.is_empty());
    };
    check(
        "urls: ['amqps://a.example.com', 'amqps://b.example.com:5671/shop']",
        &[],
    );
    check("urls: ['http://a.example.com']", &["bad-value:2:15"]);
    check(
        "urls: ['amqp://we:hunter2@a.example.com']",
        &["bad-value:2:15"],
    );
    check(
        "urls: ['amqps://a.example.com'], certificate: x",
        &["conflicting-settings:2:7"],
    );
    let (_, found) = parse(
        "system: events\namqp: { urls: ['amqp://127.0.0.1'] }\nfailures: { \"409\": conflict }\n",
    );
    assert_eq!(found, ["conflicting-settings:3:11"]);
}

#[tokio::test]
async fn a_look_says_whether_the_broker_lets_us_in() {
    let reach = async |url: &str| {
        let (broker, found) = parse(&format!("system: events\namqp: {{ urls: ['{url}'] }}\n"));
        let broker = broker.unwrap_or_else(|| panic!("{found:?}"));
        broker.reach(0).await.map_err(|failure| failure.class)
    };
    let (shown, blocked) = reach("amqp://127.0.0.1:5672").await.unwrap();
    assert_eq!((shown.as_str(), blocked), ("amqp://127.0.0.1:5672/", None));
    assert_eq!(
        reach("amqp://nobody@127.0.0.1:5672").await.unwrap_err(),
        Class::Auth
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("amqp://{}", free.local_addr().unwrap());
    drop(free);
    assert_eq!(reach(&nobody).await.unwrap_err(), Class::Unavailable);
}
