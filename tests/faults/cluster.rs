//! Several engines on one broker and one database: all of them are killed now and then, the broker is robbed, and the network between them
//! is bad. The servers are these tests' own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossdock::demo::dice::Dice;
use crossdock::demo::erp::Mode;
use crossdock::demo::journal::read_lines;

use super::backing::{Backing, Services};
use super::rig::{Options, Rig, play, points};
use super::{Line, Scale, Setting};
use crate::support::proxy::{Harm, Proxy};

/// What an engine must have booked of all, at least. Of a few hundred orders, one that is down for a second has missed half.
fn share_least(scale: Scale) -> f64 {
    match scale {
        Scale::Small => 0.02,
        Scale::Full | Scale::Long => 0.1,
    }
}
/// For how long no tick of a schedule may come, in milliseconds, the times without a database aside.
const SILENCE_MOST_MS: u64 = 15_000;
/// How soon after the end of a trouble with the network a new order must be booked.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// How long the messages of a scenario may take to come where it wants them.
const WITHIN: Duration = Duration::from_secs(600);

/// A flow that runs each second, on one of the engines.
pub const CLOCK: &str = "flow: clock
description: Ticks.
owner: tests
source: { schedule: { cron: \"* * * * * *\", missed: all } }
keys: { tick: scheduled_at }
sinks:
  nowhere: { discard: {} }
";

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Engine,
    Broker,
    Database,
}

/// Three engines, and at full scale two as well: engines, the broker and the database are killed at random points of the work.
pub fn kills(setting: &Setting) -> Result<Line, String> {
    let sizes: &[usize] = match setting.scale {
        Scale::Small => &[3],
        Scale::Full | Scale::Long => &[3, 2],
    };
    let mut all = Line::default();
    for engines in sizes {
        all.add(killed(setting, *engines)?);
    }
    Ok(all)
}

fn killed(setting: &Setting, engines: usize) -> Result<Line, String> {
    play(async {
        let mut services = aside(Services::start)?;
        let mut rig = Rig::set(Options {
            engines,
            backing: Some(Backing::on(&services)),
            fault: "slow=0.02:50ms,fail=0.01,throttle=0.005,error-after-apply=0.005,drop-after-apply=0.005".to_owned(),
            ..Options::orders(setting.scale.of(400, 20_000, 100_000), setting)
        })
        .await?;
        rig.add("flows/clock.yaml", CLOCK)?;
        rig.start_engines().await?;
        rig.send();
        let mut victims = Vec::new();
        for (victim, times) in [
            (Victim::Engine, setting.scale.of(4, 60, 300)),
            (Victim::Broker, setting.scale.of(1, 10, 50)),
            (Victim::Database, setting.scale.of(1, 5, 25)),
        ] {
            victims.extend(std::iter::repeat_n(victim, times as usize));
        }
        let mut dice = Dice::of(setting.seed, 41);
        for at in (1..victims.len()).rev() {
            victims.swap(at, dice.below(at as u64 + 1) as usize);
        }
        let (mut ended, mut with_work, mut outages) = (0, 0, Vec::new());
        for (point, victim) in points(victims.len() as u64, setting.seed)
            .into_iter()
            .zip(&victims)
        {
            until_sent(&rig, point).await?;
            with_work += u64::from(rig.has_work().await);
            ended += u64::from(rig.revive().await?);
            let began = now_ms();
            kill(*victim, &mut rig, &mut services, &mut dice).await?;
            if *victim == Victim::Database {
                outages.push((began, now_ms()));
            }
        }
        ended += rig.rest().await?;
        let backing = rig.options.backing.as_ref().ok_or("there is no database")?;
        let (wrong, note) = ticks(backing, &outages)?;
        rig.stop_the_clock().await?;
        let mut line = rig.line(victims.len() as u64).await?;
        line.wrong.extend(wrong);
        let spread = spread(&rig, engines, setting.scale, &mut line).await?;
        line.notes.push(format!(
            "{engines} engines, {} kills, {with_work} of them with work in flight; bookings by engine: {spread}",
            victims.len()
        ));
        line.notes.push(note);
        if ended > 0 {
            line.wrong
                .push(format!("engines ended by themselves, {ended} times"));
        }
        if with_work * 2 < victims.len() as u64 {
            line.wrong.push("most kills met no work".to_owned());
        }
        Ok(line)
    })
}

async fn kill(
    victim: Victim,
    rig: &mut Rig,
    services: &mut Services,
    dice: &mut Dice,
) -> Result<(), String> {
    let away = Duration::from_millis(dice.below(2_000));
    match victim {
        Victim::Engine => {
            let nth = dice.below(rig.options.engines as u64) as usize;
            let engine = rig.engines().nth(nth).ok_or("there is no such engine")?;
            engine.kill().await?;
            engine.start().await
        }
        Victim::Broker => {
            aside(|| services.broker.kill());
            tokio::time::sleep(away).await;
            aside(|| services.broker.start_again())
        }
        Victim::Database => {
            aside(|| services.postgres.kill());
            tokio::time::sleep(away).await;
            aside(|| services.postgres.start_again())
        }
    }
}

/// Whether each tick has come once and none is missing, and how long there was none. A time without a database does not count.
pub fn ticks(backing: &Backing, outages: &[(u64, u64)]) -> Result<(Vec<String>, String), String> {
    // In one question: the clock goes on ticking.
    let found = backing.sql(
        "SELECT count(*) || ' ' || count(DISTINCT value) || ' ' || (extract(epoch FROM max(value::timestamptz) - min(value::timestamptz)) + 1)::bigint FROM keys WHERE name = 'tick'",
    )?;
    let numbers: Vec<u64> = found
        .split(' ')
        .filter_map(|number| number.parse().ok())
        .collect();
    let [served, apart, due] = numbers[..] else {
        return Err(format!("the ticks were counted as `{found}`"));
    };
    let times =
        backing.sql("SELECT received_at FROM runs WHERE flow = 'clock' ORDER BY received_at")?;
    let times: Vec<u64> = times.lines().filter_map(|line| line.parse().ok()).collect();
    let silence = times.windows(2).map(|pair| {
        let lost: u64 = outages
            .iter()
            .map(|(from, to)| pair[1].min(*to).saturating_sub(pair[0].max(*from)))
            .sum();
        (pair[1] - pair[0]).saturating_sub(lost)
    });
    let longest = silence.max().unwrap_or(u64::MAX);
    let mut wrong = Vec::new();
    if served != apart {
        wrong.push(format!("{served} runs of the schedule for {apart} ticks"));
    }
    if apart != due {
        wrong.push(format!("{apart} ticks were served, {due} were due"));
    }
    if longest > SILENCE_MOST_MS {
        wrong.push(format!("the schedule was silent for {longest} ms"));
    }
    Ok((
        wrong,
        format!("{served} ticks of a schedule, each once; the longest silence was {longest} ms"),
    ))
}

/// Who has booked how much; wrong if an engine has booked next to nothing.
async fn spread(
    rig: &Rig,
    engines: usize,
    scale: Scale,
    line: &mut Line,
) -> Result<String, String> {
    let by: BTreeMap<String, u64> = rig.recount().await?.booked_by;
    let all: u64 = by.values().sum();
    for nth in 1..=engines {
        let own = by.get(&nth.to_string()).copied().unwrap_or(0);
        if (own as f64) < all as f64 * share_least(scale) {
            line.wrong.push(format!(
                "engine {nth} has booked {own} of {all}: the work is not spread"
            ));
        }
    }
    let shares: Vec<String> = by.values().map(|own| own.to_string()).collect();
    Ok(shares.join(", "))
}

/// Everything waits on the broker, and the broker loses it with all its data, queues and users.
pub fn wiped(setting: &Setting) -> Result<Line, String> {
    let least = setting.scale.of(200, 5_000, 20_000);
    play(async {
        let mut services = aside(Services::start)?;
        let backing = Backing::on(&services);
        let mut rig = Rig::set(Options {
            engines: 2,
            backing: Some(backing.clone()),
            fault: "slow=1:5s".to_owned(),
            concurrency: 64,
            ..Options::orders(least + least / 5 + 200, setting)
        })
        .await?;
        rig.edit("systems/erp.yaml", "timeout: 2s", "timeout: 30s")?;
        rig.start_engines().await?;
        rig.send();
        until_sent(&rig, 1.0).await?;
        let began = Instant::now();
        let mut waiting = 0;
        while waiting < least && began.elapsed() < WITHIN {
            waiting = aside(|| waiting_on(&services, backing.name()))?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for engine in rig.engines() {
            engine.kill().await?;
        }
        aside(|| {
            services.broker.kill();
            services.broker.wipe()?;
            services.broker.start_again()
        })?;
        // The rest is done by an ERP in good health.
        rig.kill_erp().await?;
        rig.options.fault = String::new();
        rig.start_erp().await?;
        rig.start_engines().await?;
        rig.rest().await?;
        let mut line = rig.line(1).await?;
        line.notes.push(format!(
            "{waiting} messages were on the broker when its data was deleted"
        ));
        if waiting < least {
            line.wrong
                .push(format!("fewer than {least} messages were on the broker"));
        }
        Ok(line)
    })
}

/// The messages in the queues whose names begin so, delivered ones included.
fn waiting_on(services: &Services, name: &str) -> Result<u64, String> {
    let listed = services
        .broker
        .control(&["list_queues", "name", "messages"])?;
    let own = listed.lines().filter_map(|line| {
        let (queue, messages) = line.split_once(char::is_whitespace)?;
        queue
            .starts_with(&format!("{name}."))
            .then(|| messages.trim().parse::<u64>().ok())?
    });
    Ok(own.sum())
}

/// A proxy between the engines and the broker: cuts, silence, latency, slices. After each there is peace for a while, in which a new order
/// must be booked in time.
pub fn network(setting: &Setting) -> Result<Line, String> {
    play(async {
        let services = aside(Services::start)?;
        let proxy = Proxy::to(services.broker.address())
            .await
            .map_err(|error| error.to_string())?;
        let url = format!("amqp://guest:guest@{}/%2f", proxy.address());
        let mut rig = Rig::set(Options {
            engines: 2,
            backing: Some(Backing::on(&services).over(url)),
            mode: Mode::Keys,
            // A minute of sending at small scale, at a rate that leaves a busy machine time to make up for the silences.
            rate: setting.scale.of(10, 20, 20),
            ..Options::orders(setting.scale.of(600, 6_500, 40_000), setting)
        })
        .await?;
        rig.start_engines().await?;
        rig.send();
        let mut dice = Dice::of(setting.seed, 43);
        let mut peaces = Vec::new();
        let mut met = Vec::new();
        'all: for _ in 0..setting.scale.of(1, 6, 50) {
            for (name, harm, lasts, cut) in troubles() {
                if rig.is_sent() {
                    break 'all;
                }
                proxy.set(harm);
                if cut {
                    proxy.cut(dice.below(2) == 0);
                }
                tokio::time::sleep(lasts).await;
                proxy.set(Harm::default());
                peaces.push((name, now_us()));
                met.push(name);
                tokio::time::sleep(BACK_WITHIN / 2 + Duration::from_millis(dice.below(1_000)))
                    .await;
            }
        }
        rig.rest().await?;
        let mut line = rig.line(proxy.done() + met.len() as u64).await?;
        let slowest = back(&rig, &peaces, &mut line)?;
        line.notes.push(format!(
            "{} troubles, {} connections cut; the first order after one was booked within {slowest} ms",
            met.len(),
            proxy.done()
        ));
        if troubles().iter().any(|(name, ..)| !met.contains(name)) {
            line.wrong
                .push(format!("not every trouble was met: {met:?}"));
        }
        Ok(line)
    })
}

/// What is done to the connections, how long, and whether they are cut at its beginning.
fn troubles() -> [(&'static str, Harm, Duration, bool); 5] {
    let none = Harm::default();
    let latency = Duration::from_millis(200);
    [
        ("cut", none, Duration::from_millis(100), true),
        (
            "half-open",
            Harm {
                silent: true,
                ..none
            },
            Duration::from_secs(12),
            false,
        ),
        (
            "slow",
            Harm {
                latency,
                bytes_a_second: 20_000,
                ..none
            },
            Duration::from_secs(4),
            false,
        ),
        (
            "sliced",
            Harm { slice: 1, ..none },
            Duration::from_secs(3),
            false,
        ),
        (
            "cut and silent",
            Harm {
                silent: true,
                ..none
            },
            Duration::from_secs(4),
            true,
        ),
    ]
}

/// The longest time, in milliseconds, that the first order after a trouble took until it was booked; wrong where that is too long.
fn back(rig: &Rig, peaces: &[(&str, u64)], line: &mut Line) -> Result<u64, String> {
    let mut sent = BTreeMap::new();
    for each in read_lines(&rig.sent_journal(0))? {
        let answer = &each["answer"];
        if let (Some(number), Some(at)) =
            (answer["number"].as_str(), answer["first_sent_us"].as_u64())
        {
            let first = sent.entry(number.to_owned()).or_insert(at);
            *first = at.min(*first);
        }
    }
    let mut booked: Vec<(u64, u64)> = read_lines(&rig.erp_journal())?
        .iter()
        .filter_map(|each| {
            let number = each["applied"]["order_number"].as_str()?;
            Some((*sent.get(number)?, each["at_us"].as_u64()?))
        })
        .collect();
    booked.sort_unstable();
    let mut slowest = 0;
    for (nth, (name, peace)) in peaces.iter().enumerate() {
        let after = booked.iter().filter(|(sent, _)| sent >= peace);
        let Some(first) = after.map(|(_, booked)| booked - peace).min() else {
            // The last trouble may come when there is nothing more to send.
            if nth + 1 < peaces.len() {
                line.wrong.push(format!(
                    "no order that was sent after `{name}` was ever booked"
                ));
            }
            continue;
        };
        slowest = slowest.max(first / 1_000);
        if first > BACK_WITHIN.as_micros() as u64 {
            line.wrong.push(format!(
                "after `{name}` the first order was booked in {} ms",
                first / 1_000
            ));
        }
    }
    Ok(slowest)
}

impl Rig {
    /// The schedule runs no more: what is counted next stands still.
    async fn stop_the_clock(&mut self) -> Result<(), String> {
        self.edit("flows/clock.yaml", "* * * * * *", "0 0 1 1 *")?;
        for engine in self.engines() {
            engine.kill().await?;
        }
        self.start_engines().await?;
        self.rest().await.map(drop)
    }
}

/// Waits until this part of the orders is sent.
async fn until_sent(rig: &Rig, part: f64) -> Result<(), String> {
    let began = Instant::now();
    while rig.part_sent() < part {
        if began.elapsed() > WITHIN {
            return Err(format!(
                "{part} of the orders were not sent within {WITHIN:?}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Work that blocks, while everything else goes on.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64)
}

fn now_ms() -> u64 {
    now_us() / 1_000
}
