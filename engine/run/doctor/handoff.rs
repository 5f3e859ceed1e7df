//! The broker between the steps: reached, logged in to, its rights tried with a queue and an exchange that go at once, and its queues as they
//! must be.

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::ExchangeKind;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;

use super::{Look, Looking, Places};
use crate::failure::{Class, Failure};
use crate::flow::plan::Project;
use crate::handoff::rabbitmq;
use crate::handoff::rabbitmq::topology::{NAME_DEFAULT, State, Topology};
use crate::net::amqp::link::Link;
use crate::net::amqp::{self, answer};
use crate::run::supervisor::{broker_of, topology_of};
use crate::store::reader::{Place, Reader};
use crate::system::reach::reach_broker;

const NAME: &str = "handoff broker";
const RIGHTS: &str = "handoff rights";
const QUEUES: &str = "handoff queues";

/// The looks at the broker, if the project has one.
pub(super) fn looks<'c>(places: &'c Places, project: &Project) -> Vec<Looking<'c>> {
    let Some(given) = &places.settings.handoff.rabbitmq else {
        return Vec::new();
    };
    let place = match broker_of(given) {
        Ok(place) => place,
        Err(failure) => {
            let look = Look::fail(
                NAME,
                failure.message,
                "mend `handoff.rabbitmq` in crossdock.yaml",
            );
            return vec![Looking::new(NAME, async { vec![look] })];
        }
    };
    let mut looking = Vec::new();
    for nth in 0..given.urls.len() {
        looking.push(Looking::new(NAME, broker(place.broker().clone(), nth)));
    }
    let name = given.name.as_deref().unwrap_or(NAME_DEFAULT);
    looking.push(Looking::new(RIGHTS, rights(place.broker().clone(), name)));
    let topology = topology_of(project);
    looking.push(Looking::new(QUEUES, queues(&places.store, place, topology)));
    looking
}

async fn broker(place: Arc<amqp::Broker>, nth: usize) -> Vec<Look> {
    vec![match reach_broker(&place, nth).await {
        Ok((shown, None)) => Look::ok(NAME, format!("{shown} lets us in")),
        Ok((shown, Some(why))) => Look::fail(
            NAME,
            format!("{shown} lets us in and takes no messages: {why}"),
            "free memory or disk on the broker: until then nothing is announced to other engines",
        ),
        Err(failure) => turned_away(failure),
    }]
}

/// What to do about a broker to which there is no way.
fn turned_away(failure: Failure) -> Look {
    let help = if failure.message.contains("certificate") {
        "have the broker's certificate renewed, or name the authority that it comes from in `handoff.rabbitmq.ca`"
    } else {
        match failure.class {
            Class::Auth => {
                "check user and password in `handoff.rabbitmq.urls`, and the variables that it uses"
            }
            Class::Config => {
                "have the virtual host made and the user let in, or mend `handoff.rabbitmq.urls`"
            }
            _ => {
                "check the address, the network and whether it runs: until then messages wait in the store"
            }
        }
    };
    Look::fail(NAME, failure.message, help)
}

/// Tries to configure, write and read what begins with the hand-off's name.
async fn rights(place: Arc<amqp::Broker>, name: &str) -> Vec<Look> {
    let tried = async {
        let link = Link::open(&place, 0, "doctor").await?;
        let tried = match link.ask_blocked("", name).await? {
            None => try_rights(&link, name).await,
            Some(why) => Err(Failure::new(
                Class::Unavailable,
                format!("not looked at, because the broker takes no messages: {why}"),
            )),
        };
        link.close().await;
        tried
    };
    vec![match tried.await {
        Ok(()) => Look::ok(
            RIGHTS,
            format!("{name}.* may be configured, written and read"),
        ),
        Err(failure) if failure.class == Class::Forbidden => Look::fail(
            RIGHTS,
            failure.message,
            format!(
                "`rabbitmqctl set_permissions -p VHOST USER '^{name}\\.' '^{name}\\.' '^{name}\\.'`"
            ),
        ),
        // That it cannot be reached is told by the other look.
        Err(failure) => Look::warn(
            RIGHTS,
            failure.message,
            "look again once the broker can be reached and takes messages",
        ),
    }]
}

async fn try_rights(link: &Link, name: &str) -> Result<(), Failure> {
    let trial = format!("{name}.doctor.{}", std::process::id());
    let may = |what: &str| format!("this user may not {what} {name}.*");
    let channel = link.channel().await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let making = channel.queue_declare(trial.as_str().into(), options, FieldTable::default());
    answer(may("configure"), making).await?;
    let options = ExchangeDeclareOptions {
        auto_delete: true,
        ..ExchangeDeclareOptions::default()
    };
    let making = channel.exchange_declare(
        trial.as_str().into(),
        ExchangeKind::Direct,
        options,
        FieldTable::default(),
    );
    answer(may("configure"), making).await?;
    let publishing = channel.basic_publish(
        trial.as_str().into(),
        "nobody".into(),
        BasicPublishOptions::default(),
        b"",
        BasicProperties::default(),
    );
    let wrote = answer(may("write"), publishing).await.map(drop);
    // A refused write is told with the next answer.
    let options = BasicGetOptions { no_ack: true };
    let reading = channel.basic_get(trial.as_str().into(), options);
    let read = answer(may("read or write"), reading).await.map(drop);
    let gone = link.channel().await?;
    let options = ExchangeDeleteOptions::default();
    gone.exchange_delete(trial.as_str().into(), options)
        .await
        .ok();
    let options = QueueDeleteOptions::default();
    gone.queue_delete(trial.as_str().into(), options).await.ok();
    wrote.and(read)
}

/// Whether the queues that are there are as they must be.
async fn queues(store: &Place, broker: rabbitmq::Place, topology: Topology) -> Vec<Look> {
    let looked = async {
        let reader = Reader::at(store)?;
        broker.look(&topology, &reader, false).await
    };
    let all = match looked.await {
        Ok(all) => all,
        Err(failure) => {
            let help = "they are looked at once there is a store and a broker";
            return vec![Look::warn(QUEUES, failure.message, help)];
        }
    };
    let mut looks = Vec::new();
    let mut missing = 0;
    for (found, _) in &all {
        match &found.state {
            State::Drifted(how) => looks.push(Look::fail(
                QUEUES,
                format!("{} {} is other than it must be: {how}", found.kind, found.name),
                "an engine does not start on it: delete it once it is empty, or choose another `name`",
            )),
            State::Missing => missing += 1,
            State::There | State::LeftOver => {}
        }
    }
    if looks.is_empty() {
        let found = format!(
            "{} are as they must be, {missing} are made at the start",
            all.len() - missing
        );
        looks.push(Look::ok(QUEUES, found));
    }
    looks
}
