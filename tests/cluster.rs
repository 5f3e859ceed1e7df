//! The broker and the database that tests start for themselves: they keep what they have over `kill -9`, lose it when they are robbed, and leave nothing behind.

mod engines;
mod outages;
mod refusals;

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::broker::Broker;
use crate::support::cluster::Process;
use crate::support::eventually;
use crate::support::postgres::Postgres;

#[test]
fn a_database_of_a_test_keeps_what_was_committed() {
    let mut postgres = Postgres::start().unwrap();
    postgres.sql("postgres", "CREATE DATABASE orders").unwrap();
    postgres
        .sql(
            "orders",
            "CREATE TABLE numbers (n int); INSERT INTO numbers VALUES (1001)",
        )
        .unwrap();
    postgres.kill();
    assert!(TcpStream::connect(postgres.address()).is_err());
    postgres.start_again().unwrap();
    assert_eq!(
        postgres.sql("orders", "SELECT n FROM numbers").unwrap(),
        "1001"
    );
    let wrong = postgres.sql("orders", "SELECT m FROM numbers").unwrap_err();
    assert!(wrong.contains("column \"m\" does not exist"), "{wrong}");
    let address = postgres.address();
    drop(postgres);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_broker_of_a_test_keeps_what_it_has_until_it_is_robbed() {
    let mut broker = Broker::start().unwrap();
    broker.control(&["add_vhost", "orders"]).unwrap();
    broker.kill();
    assert!(TcpStream::connect(broker.address()).is_err());
    broker.start_again().unwrap();
    let hosts = |broker: &Broker| broker.control(&["list_vhosts"]).unwrap();
    assert!(hosts(&broker).contains("orders"));
    broker.kill();
    broker.wipe().unwrap();
    broker.start_again().unwrap();
    assert!(!hosts(&broker).contains("orders"));
    let address = broker.address();
    drop(broker);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn what_a_test_has_started_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "sleep 1000 & wait"])
        .stdout(Stdio::null());
    let process = Process::start(&mut command, folder.path()).unwrap();
    let number = process.number();
    let of = |parent: u32| {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        children.unwrap_or_default().trim().parse::<u32>().ok()
    };
    let child = eventually("the shell has started its child", || of(number));
    process.kill();
    for gone in [number, child] {
        let path = format!("/proc/{gone}/stat");
        let stat = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}
