//! Exchanges and queues of the hand-off: what they are called and how they are, making what is missing, and telling what is there. Queues hold
//! no truth, so none is worth more than the time to announce its hops again.
//!
//! - `NAME.x`, direct: all that is announced, by the name of the queue. What has no queue goes on to `NAME.unroutable`.
//! - `NAME.unroutable`, an exchange and a queue: what had no queue at that moment.
//! - `NAME.FLOW.STEP`, a quorum queue for each step with a queue of its own. One that was lost comes back under a new name, with `~2` behind it:
//!   a broker may lose what is put into a quorum queue that bears the name of one that was deleted (seen with 3.10).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use crate::failure::{Class, Failure};
use crate::net::amqp::link::Link;
use crate::net::amqp::{ANSWER_WITHIN, answer, failure, reply_code};
use crate::store::Store;
use crate::store::commit::Commit;
use crate::store::facts::Fact;
use crate::store::reader::Reader;

/// What names begin with where nobody says so. The number is that of the arguments below: others need another name.
pub const NAME_DEFAULT: &str = "crossdock1";
/// How long a new quorum queue rests before it is used: what was put into one that was younger was lost when the broker died (measured).
const REST: Duration = Duration::from_secs(2);
/// How often a message may come back to its queue. A guard against nothing: the store counts attempts. But it must be said, because new
/// brokers drop messages after 20 times.
const DELIVERIES_MAX: i64 = 1_000_000;
/// How the names of the facts begin that say which name each queue has.
const FACTS: &str = "queue/";
/// How many arguments of a queue are compared.
const ARGUMENTS_MAX: usize = 12;

/// A step with a queue of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// Steps of the flow at which a message seldom stands: they share the queue.
    pub also: Vec<Arc<str>>,
    /// How many deliveries may be here at a time.
    pub prefetch: u16,
    /// Whether one engine takes from it at a time, and another one when that has gone: where order matters.
    pub single: bool,
}

/// Which exchanges and queues there are to be.
#[derive(Clone)]
pub struct Topology {
    name: String,
    stages: Vec<Stage>,
}

/// The names of queues, by flow and step.
pub(super) type Queues = BTreeMap<(Arc<str>, Arc<str>), Arc<str>>;

/// What the topology is after it was made.
pub(super) struct Raised {
    pub(super) queues: Queues,
    /// Queues that were made now: whatever was announced for them before is not in them.
    pub(super) made: Vec<(Arc<str>, Arc<str>)>,
}

/// An exchange or a queue, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `exchange` or `queue`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// Messages that are ready in it.
    pub ready: u32,
    /// How many take from it.
    pub consumers: u32,
}

/// How an exchange or a queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there, as it must be.
    There,
    /// It is not there; an engine makes it when it starts.
    Missing,
    /// It is there and must not be as it is: what is different.
    Drifted(String),
    /// It is there, and nothing needs it any more.
    LeftOver,
}

/// What is wrong with a name for exchanges and queues, if something is.
pub fn name_fault(name: &str) -> Option<String> {
    let sound =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let good = (1..=40).contains(&name.len()) && name.chars().all(sound);
    (!good).then(|| {
        format!("`{name}` is no name for queues; take 1 to 40 lowercase letters, digits and `-`")
    })
}

impl Stage {
    /// All steps whose hops are in the queue.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.step).chain(&self.also)
    }
}

impl Topology {
    /// The topology of a project's stages under this name.
    pub fn new(name: &str, stages: Vec<Stage>) -> Topology {
        Topology {
            name: name.to_owned(),
            stages,
        }
    }

    /// This and more: where messages can stand already, they can still.
    pub(super) fn with(&self, more: Topology) -> Topology {
        let mut all = self.clone();
        for mut stage in more.stages {
            let at = |known: &&mut Stage| known.flow == stage.flow && known.step == stage.step;
            match all.stages.iter_mut().find(at) {
                Some(known) => {
                    let before = known.also.drain(..);
                    let lost: Vec<_> = before.filter(|step| !stage.also.contains(step)).collect();
                    stage.also.extend(lost);
                    *known = stage;
                }
                None => all.stages.push(stage),
            }
        }
        all
    }

    pub(super) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    pub(super) fn exchange(&self) -> String {
        format!("{}.x", self.name)
    }

    pub(super) fn unroutable(&self) -> String {
        format!("{}.unroutable", self.name)
    }

    fn queue(&self, flow: &str, step: &str, birth: i64) -> String {
        match birth {
            ..=1 => format!("{}.{flow}.{step}", self.name),
            _ => format!("{}.{flow}.{step}~{birth}", self.name),
        }
    }

    /// Makes what is missing, and another queue for each that is `broken`. Fails if something is there with other arguments, or if the user may not make it.
    pub(super) async fn raise(
        &self,
        link: &Link,
        store: &Store,
        broken: &BTreeSet<Arc<str>>,
    ) -> Result<Raised, Failure> {
        let mut asker = Asker::new(link).await?;
        self.raise_exchanges(&mut asker).await?;
        let births = births(store).await?;
        let mut raised = Raised {
            queues: Queues::new(),
            made: Vec::new(),
        };
        let mut named = Vec::new();
        for stage in &self.stages {
            let known = births.get(&fact(&stage.flow, &stage.step)).copied();
            let (birth, made) = self.raise_queue(&mut asker, stage, known, broken).await?;
            if known != Some(birth) {
                named.push(Fact {
                    name: fact(&stage.flow, &stage.step),
                    from: known,
                    to: birth,
                });
            }
            let queue: Arc<str> = Arc::from(self.queue(&stage.flow, &stage.step, birth));
            for step in stage.steps() {
                let at = (stage.flow.clone(), step.clone());
                if made {
                    raised.made.push(at.clone());
                }
                // Of a step that has a queue of its own now, some may be where they shared one.
                if *step == stage.step {
                    raised.queues.insert(at, queue.clone());
                } else {
                    raised.queues.entry(at).or_insert_with(|| queue.clone());
                }
            }
        }
        // Before anything is announced: a name that nobody has noted must not be used.
        if !named.is_empty() {
            let commit = Commit {
                facts: named,
                ..Commit::default()
            };
            store.commit(commit).await?;
        }
        if !raised.made.is_empty() {
            tokio::time::sleep(REST).await;
        }
        let queues: BTreeSet<_> = raised.queues.values().collect();
        for queue in queues {
            asker.bind(&self.exchange(), queue, queue).await?;
        }
        Ok(raised)
    }

    /// Makes the queue of a stage if it is missing or broken, under a name that it did not have before, which the caller keeps. Gives its
    /// birth, and whether it was made.
    async fn raise_queue(
        &self,
        asker: &mut Asker,
        stage: &Stage,
        known: Option<i64>,
        broken: &BTreeSet<Arc<str>>,
    ) -> Result<(i64, bool), Failure> {
        let (flow, step) = (&stage.flow, &stage.step);
        let name = self.queue(flow, step, known.unwrap_or(1));
        let there = asker.look(&name).await?.is_some();
        let sound = there && !broken.contains(&*name);
        let birth = match (sound, known) {
            (true, known) => known.unwrap_or(1),
            (false, None) => 1 + i64::from(there),
            (false, Some(known)) => known + 1,
        };
        let name = self.queue(flow, step, birth);
        asker.declare(&name, stage.single).await?;
        Ok((birth, !sound))
    }

    async fn raise_exchanges(&self, asker: &mut Asker) -> Result<(), Failure> {
        let (exchange, unroutable) = (self.exchange(), self.unroutable());
        asker
            .exchange(&unroutable, ExchangeKind::Fanout, FieldTable::default())
            .await?;
        asker.declare(&unroutable, false).await?;
        asker.bind(&unroutable, &unroutable, "").await?;
        asker
            .exchange(&exchange, ExchangeKind::Direct, self.exchange_arguments())
            .await
    }

    fn exchange_arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert(
            "alternate-exchange".into(),
            AMQPValue::LongString(self.unroutable().into()),
        );
        arguments
    }

    /// Looks at all that must be there, and at the queues that the store knows of besides. Changes nothing.
    pub(super) async fn survey(&self, link: &Link, store: &Reader) -> Result<Vec<Found>, Failure> {
        let mut asker = Asker::new(link).await?;
        let mut found = Vec::new();
        for name in [self.exchange(), self.unroutable()] {
            let kind = if name == self.exchange() {
                ExchangeKind::Direct
            } else {
                ExchangeKind::Fanout
            };
            let arguments = if name == self.exchange() {
                self.exchange_arguments()
            } else {
                FieldTable::default()
            };
            found.push(asker.survey_exchange(&name, kind, arguments).await?);
        }
        found.push(asker.survey_queue(&self.unroutable(), Some(false)).await?);
        let births = births(store).await?;
        let mut needed = Vec::new();
        for stage in &self.stages {
            let birth = births
                .get(&fact(&stage.flow, &stage.step))
                .copied()
                .unwrap_or(1);
            needed.push((self.queue(&stage.flow, &stage.step, birth), stage.single));
        }
        for (name, single) in &needed {
            found.push(asker.survey_queue(name, Some(*single)).await?);
        }
        for (fact, newest) in &births {
            let of = fact.strip_prefix(FACTS).and_then(|of| of.split_once('/'));
            let Some((flow, step)) = of else { continue };
            for birth in (1..=*newest).rev().take(BIRTHS_MAX) {
                let name = self.queue(flow, step, birth);
                if needed.iter().any(|(needed, _)| *needed == name) {
                    continue;
                }
                let left = asker.survey_queue(&name, None).await?;
                if left.state != State::Missing {
                    found.push(left);
                }
            }
        }
        Ok(found)
    }

    /// Deletes a queue that is left over, if nothing is in it and nobody takes from it. Says why not.
    pub(super) async fn delete(
        &self,
        link: &Link,
        name: &str,
    ) -> Result<Result<(), String>, Failure> {
        let mut asker = Asker::new(link).await?;
        let busy = |counts: Counts| {
            let (ready, consumers) = counts;
            (ready > 0 || consumers > 0)
                .then(|| format!("{ready} messages are in it, {consumers} consumers take from it"))
        };
        let Some(counts) = asker.look(name).await? else {
            return Ok(Err("it is not there any more".to_owned()));
        };
        if let Some(why) = busy(counts) {
            return Ok(Err(why));
        }
        // A queue that can be deleted only if it is empty does not exist in quorum queues: nothing may reach it, then it is looked at again.
        asker.unbind(&self.exchange(), name).await?;
        let why = asker.look(name).await?.and_then(busy);
        if let Some(why) = why {
            asker.bind(&self.exchange(), name, name).await?;
            return Ok(Err(why));
        }
        let deleting = asker
            .channel
            .queue_delete(name.into(), QueueDeleteOptions::default());
        answer(format!("the queue {name}"), deleting).await?;
        Ok(Ok(()))
    }
}

/// After so many refusals there is a new connection: each has used up one of its channels.
const REFUSALS_MAX: usize = 500;
/// How many earlier names of a queue are looked at.
const BIRTHS_MAX: usize = 20;

/// Messages that are ready, and consumers.
type Counts = (u32, u32);

fn fact(flow: &str, step: &str) -> String {
    format!("{FACTS}{flow}/{step}")
}

async fn births(store: &Reader) -> Result<BTreeMap<String, i64>, Failure> {
    Ok(store.facts(FACTS).await?.into_iter().collect())
}

/// How a quorum queue of ours is.
fn arguments(single: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments.insert(
        "x-delivery-limit".into(),
        AMQPValue::LongLongInt(DELIVERIES_MAX),
    );
    if single {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments
}

/// Asks and tells a broker over a channel; one that a refusal has closed is replaced.
pub(super) struct Asker {
    link: Link,
    channel: Channel,
    refusals: usize,
}

impl Asker {
    pub(super) async fn new(link: &Link) -> Result<Asker, Failure> {
        Ok(Asker {
            link: link.clone(),
            channel: link.channel().await?,
            refusals: 0,
        })
    }

    /// Waits for the broker's word; a refusal closes the channel, so there is a new one after it.
    async fn ask<T>(
        &mut self,
        what: &str,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<Result<T, lapin::Error>, Failure> {
        let asked = tokio::time::timeout(ANSWER_WITHIN, asking).await;
        match asked {
            Ok(Ok(told)) => Ok(Ok(told)),
            Ok(Err(error)) => {
                if reply_code(&error).is_none() {
                    return Err(failure(what, &error));
                }
                self.refusals += 1;
                if self.refusals.is_multiple_of(REFUSALS_MAX) {
                    self.link = self.link.again().await?;
                }
                self.channel = self.link.channel().await?;
                Ok(Err(error))
            }
            Err(_) => Err(Failure::new(
                Class::Timeout,
                format!("{what}: no answer within {} s", ANSWER_WITHIN.as_secs()),
            )),
        }
    }

    /// How much is in a queue; `None` if there is no such queue.
    pub(super) async fn look(&mut self, name: &str) -> Result<Option<Counts>, Failure> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.channel.clone();
        let what = format!("the queue {name}");
        let asking = channel.queue_declare(short(name)?, options, FieldTable::default());
        match self.ask(&what, asking).await? {
            Ok(queue) => Ok(Some((queue.message_count(), queue.consumer_count()))),
            Err(error) if reply_code(&error) == Some(404) => Ok(None),
            Err(error) => Err(failure(what, &error)),
        }
    }

    /// Makes a queue, or finds that it is as it must be.
    async fn declare(&mut self, name: &str, single: bool) -> Result<(), Failure> {
        match self.try_declare(name, arguments(single)).await? {
            Ok(()) => Ok(()),
            Err(error) if reply_code(&error) == Some(406) => {
                let told = self.drift(name, single, &error).await?;
                Err(Failure::new(
                    Class::Conflict,
                    format!(
                        "the queue {name} exists with other arguments: {told}; delete it when it is empty, or give the project another `handoff.rabbitmq.name`"
                    ),
                ))
            }
            Err(error) => Err(refused(&format!("the queue {name}"), &error)),
        }
    }

    async fn try_declare(
        &mut self,
        name: &str,
        arguments: FieldTable,
    ) -> Result<Result<(), lapin::Error>, Failure> {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.channel.clone();
        let asking = channel.queue_declare(short(name)?, options, arguments);
        let asked = self.ask(&format!("the queue {name}"), asking).await?;
        Ok(asked.map(drop))
    }

    /// In what a queue differs from what it must be. The broker names one difference at a time: what it names is taken over and asked again.
    async fn drift(
        &mut self,
        name: &str,
        single: bool,
        error: &lapin::Error,
    ) -> Result<String, Failure> {
        let wanted = arguments(single);
        let mut found = wanted.inner().clone();
        let mut error = error.clone();
        for _ in 0..ARGUMENTS_MAX {
            let text = failure("", &error).message;
            let Some((argument, current)) = difference(&text) else {
                return Ok(format!(
                    "{} (wanted {})",
                    text.trim_start_matches(": "),
                    Shown(wanted.inner())
                ));
            };
            match current {
                Some(value) => drop(found.insert(ShortString::from(argument), value)),
                None => drop(found.remove(argument)),
            }
            match self.try_declare(name, found.clone().into()).await? {
                Ok(()) => break,
                Err(next) if reply_code(&next) == Some(406) => error = next,
                Err(next) => return Err(failure(format_args!("the queue {name}"), &next)),
            }
        }
        Ok(format!(
            "it has {}, wanted {}",
            Shown(&found),
            Shown(wanted.inner())
        ))
    }

    async fn exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> Result<(), Failure> {
        let what = format!("the exchange {name}");
        match self.try_exchange(name, kind, false, arguments).await? {
            Ok(()) => Ok(()),
            Err(error) if reply_code(&error) == Some(406) => {
                let told = failure(what, &error).message;
                Err(Failure::new(
                    Class::Conflict,
                    format!(
                        "{told}; delete it, or give the project another `handoff.rabbitmq.name`"
                    ),
                ))
            }
            Err(error) => Err(refused(&what, &error)),
        }
    }

    async fn try_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        passive: bool,
        arguments: FieldTable,
    ) -> Result<Result<(), lapin::Error>, Failure> {
        let options = ExchangeDeclareOptions {
            durable: true,
            passive,
            ..ExchangeDeclareOptions::default()
        };
        let channel = self.channel.clone();
        let asking = channel.exchange_declare(short(name)?, kind, options, arguments);
        self.ask(&format!("the exchange {name}"), asking).await
    }

    async fn bind(&mut self, exchange: &str, queue: &str, key: &str) -> Result<(), Failure> {
        let channel = self.channel.clone();
        let binding = channel.queue_bind(
            short(queue)?,
            short(exchange)?,
            short(key)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        match self.ask(&format!("the queue {queue}"), binding).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(refused(&format!("the queue {queue}"), &error)),
        }
    }

    async fn unbind(&mut self, exchange: &str, queue: &str) -> Result<(), Failure> {
        let channel = self.channel.clone();
        let unbinding = channel.queue_unbind(
            short(queue)?,
            short(exchange)?,
            short(queue)?,
            FieldTable::default(),
        );
        match self.ask(&format!("the queue {queue}"), unbinding).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(refused(&format!("the queue {queue}"), &error)),
        }
    }

    async fn survey_exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> Result<Found, Failure> {
        let mut state = State::There;
        if let Err(error) = self
            .try_exchange(name, kind.clone(), true, FieldTable::default())
            .await?
        {
            match reply_code(&error) {
                Some(404) => state = State::Missing,
                _ => return Err(refused(&format!("the exchange {name}"), &error)),
            }
        } else if let Err(error) = self.try_exchange(name, kind, false, arguments).await? {
            state = State::Drifted(
                failure("", &error)
                    .message
                    .trim_start_matches(": ")
                    .to_owned(),
            );
        }
        Ok(Found {
            kind: "exchange",
            name: name.to_owned(),
            state,
            ready: 0,
            consumers: 0,
        })
    }

    /// How a queue is; `needed` says whether it is to be single, if it is needed at all.
    async fn survey_queue(&mut self, name: &str, needed: Option<bool>) -> Result<Found, Failure> {
        let counts = self.look(name).await?;
        let state = match (counts, needed) {
            (None, _) => State::Missing,
            (Some(_), None) => State::LeftOver,
            (Some(_), Some(single)) => match self.try_declare(name, arguments(single)).await? {
                Ok(()) => State::There,
                Err(error) if reply_code(&error) == Some(406) => {
                    State::Drifted(self.drift(name, single, &error).await?)
                }
                Err(error) => return Err(refused(&format!("the queue {name}"), &error)),
            },
        };
        let (ready, consumers) = counts.unwrap_or_default();
        Ok(Found {
            kind: "queue",
            name: name.to_owned(),
            state,
            ready,
            consumers,
        })
    }
}

fn short(name: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(name).map_err(|_| {
        Failure::config(format!(
            "`{name}` is too long for the name of a queue: 255 bytes at most"
        ))
    })
}

/// What a refusal means to who must see to it.
fn refused(what: &str, error: &lapin::Error) -> Failure {
    let mut refused = failure(what, error);
    if refused.class == Class::Forbidden {
        refused.message = format!(
            "{}; give the user the rights to configure, write and read what begins with the name of the hand-off",
            refused.message
        );
    }
    refused
}

/// The argument that a refusal names, and what it is there: `None` where it is not set.
fn difference(text: &str) -> Option<(&str, Option<AMQPValue>)> {
    let rest = text.split_once("inequivalent arg '")?.1;
    let (argument, rest) = rest.split_once('\'')?;
    let current = rest.split_once("but current is ")?.1;
    if current.starts_with("none") {
        return Some((argument, None));
    }
    let quoted = current.split_once('\'')?.1;
    let (value, kind) = quoted.split_once('\'')?;
    let number = kind.contains("signedint")
        || kind.contains("long'")
        || kind.contains("'long")
        || kind.contains("int");
    let value = match value.parse() {
        Ok(whole) if number => AMQPValue::LongLongInt(whole),
        _ => match value {
            "true" | "false" if kind.contains("bool") => AMQPValue::Boolean(value == "true"),
            _ => AMQPValue::LongString(value.into()),
        },
    };
    Some((argument, Some(value)))
}

/// Arguments as a person reads them.
struct Shown<'a>(&'a BTreeMap<ShortString, AMQPValue>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (nth, (name, value)) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            match value {
                AMQPValue::LongString(text) => write!(f, "{comma}{name}: {text}")?,
                AMQPValue::LongLongInt(number) => write!(f, "{comma}{name}: {number}")?,
                AMQPValue::Boolean(is) => write!(f, "{comma}{name}: {is}")?,
                other => write!(f, "{comma}{name}: {other:?}")?,
            }
        }
        f.write_str("}")
    }
}
