//! The source `schedule`: a message at planned times. It does not know what time it is: the world does, and what has been done is a cursor.

use std::sync::Arc;

use croner::Cron;
use croner::parser::{CronParser, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Ready;
use super::literal;
use super::offer::{Offered, offer, pause_or_stop, room_or_stop};
use crate::component::{Arrival, Batch, Build, Intake, Part, Progress, Source, codes};
use crate::diagnostic::closest;
use crate::failure::{Class, Failure};
use crate::world::{Pending, failpoint};

/// Makes a message at planned times, by the clock of a zone: also where that clock is put forward or back. A time is served once, on
/// whatever engine, and what was missed while the engine was down is made up for as `missed` says. The header `scheduled-at` has the
/// planned time.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// When: minute, hour, day, month, weekday, with seconds in front where they are needed: `0 6 * * Mon-Fri`, `@daily`.
    pub cron: String,
    /// The zone whose clock counts, such as `Europe/Berlin`. Default UTC.
    pub zone: Option<String>,
    /// The body. Default `{"scheduled_at": ".."}` with the planned time.
    pub body: Option<serde_json::Value>,
    /// What happens to times that were missed. Default run_once.
    pub missed: Option<Missed>,
}

/// What happens to planned times at which the engine was down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// One message, for the last of them.
    #[default]
    RunOnce,
    /// None.
    Skip,
    /// A message for each of them.
    All,
}

/// A time that is served later than this counts as missed, in milliseconds.
const GRACE_MS: i64 = 60_000;
/// How often the clock is looked at, so that a clock that jumps is noticed, in milliseconds.
const LOOK_MS: i64 = 30_000;
/// A last time that is further ahead than this was set by a wrong clock and does not count, in milliseconds.
const AHEAD_MS: i64 = 86_400_000;
/// How many missed times are made up for in one commit.
const BATCH_MAX: usize = 128;
/// The cursor: the last planned time that was served, or when the schedule was first seen.
const CURSOR: &str = "schedule";

impl Part for Schedule {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source:
  schedule:
    cron: \"0 6 * * Mon-Fri\"
    zone: Europe/Berlin
    body: { report: open-orders }
    missed: run_once
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let zone = self.zone(cx);
        let cron = self.cron(cx);
        Some(Ready::Runs(Arc::new(Clockwork {
            cron: cron?,
            zone: zone?,
            body: self
                .body
                .as_ref()
                .and_then(|_| cx.node.get("body"))
                .map(literal::json),
            missed: self.missed.unwrap_or_default(),
        })))
    }
}

fn parse(pattern: &str) -> Result<Cron, String> {
    CronParser::builder()
        .year(Year::Disallowed)
        .build()
        .parse(pattern)
        .map_err(|error| error.to_string().trim_end_matches('.').to_owned())
}

/// The one field of a pattern that is at fault, with its name.
fn wrong_field(pattern: &str) -> Option<(&'static str, &str)> {
    const NAMES: [&str; 6] = ["second", "minute", "hour", "day", "month", "weekday"];
    let fields: Vec<&str> = pattern.split_whitespace().collect();
    let names = match fields.len() {
        5 => &NAMES[1..],
        6 => &NAMES[..],
        _ => return None,
    };
    let mut wrong = fields
        .iter()
        .zip(names)
        .enumerate()
        .filter(|(at, (field, _))| {
            let alone: Vec<&str> = (0..fields.len())
                .map(|other| if other == *at { **field } else { "*" })
                .collect();
            parse(&alone.join(" ")).is_err()
        });
    let (_, (field, name)) = wrong.next()?;
    wrong.next().is_none().then_some((*name, *field))
}

impl Schedule {
    fn zone(&self, cx: &mut Build<'_>) -> Option<TimeZone> {
        let name = self.zone.as_deref().unwrap_or("UTC");
        if let Ok(zone) = TimeZone::get(name) {
            return Some(zone);
        }
        let known: Vec<String> = jiff::tz::db()
            .available()
            .map(|name| name.to_string())
            .collect();
        let help = match closest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "zones have names such as `Europe/Berlin` or `UTC`".to_owned(),
        };
        cx.error(
            codes::BAD_VALUE,
            &["zone"],
            format!("there is no zone `{name}`"),
            help,
        );
        None
    }

    fn cron(&self, cx: &mut Build<'_>) -> Option<Cron> {
        let cron = match parse(&self.cron) {
            Ok(cron) => cron,
            Err(why) => {
                let part = match wrong_field(&self.cron) {
                    Some((name, text)) => format!("`{text}` is no {name}"),
                    None => why,
                };
                cx.error(
                    codes::BAD_VALUE,
                    &["cron"],
                    format!("`{}` is no cron pattern: {part}", self.cron),
                    "write minute, hour, day, month and weekday, such as `0 6 * * Mon-Fri`",
                );
                return None;
            }
        };
        let start = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
        if cron.find_next_occurrence(&start, false).is_err() {
            cx.error(
                codes::BAD_VALUE,
                &["cron"],
                format!("`{}` names a time that never comes", self.cron),
                "compare day and month: there is no 30 February",
            );
            return None;
        }
        Some(cron)
    }
}

struct Clockwork {
    cron: Cron,
    zone: TimeZone,
    body: Option<String>,
    missed: Missed,
}

impl Source for Clockwork {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let mut known = cx.accept.cursor(CURSOR).await?;
            loop {
                let now_ms = cx.world.clock.now_ms();
                let last = match &known {
                    Some(text) => Some(time(text)?),
                    None => None,
                };
                let ahead = last.is_some_and(|last| last.as_millisecond() - now_ms > AHEAD_MS);
                let batch = match last.filter(|_| !ahead) {
                    Some(last) => match self.due(last, now_ms)? {
                        Due::Later(ms) => {
                            if pause_or_stop(&cx, ms.clamp(1, LOOK_MS).unsigned_abs()).await {
                                continue;
                            }
                            return Ok(());
                        }
                        Due::Now(times, to) => self.batch(&known, &times, &to),
                    },
                    None => self.batch(&known, &[], &self.zoned(now_ms)?),
                };
                if !room_or_stop(&cx).await {
                    return Ok(());
                }
                let to = batch
                    .progress
                    .as_ref()
                    .and_then(|progress| progress.to.clone());
                let offered = offer(&cx, batch).await;
                failpoint::hit("schedule-committed");
                known = match offered? {
                    Offered::Durable => to,
                    Offered::Stopped => return Ok(()),
                    Offered::Moved => cx.accept.cursor(CURSOR).await?,
                };
            }
        })
    }
    fn alone(&self) -> bool {
        true
    }
}

/// What is to be done at some time.
enum Due {
    /// Nothing for so many milliseconds.
    Later(i64),
    /// Messages for these times, after which all up to the last time has been served.
    Now(Vec<Zoned>, Zoned),
}

impl Clockwork {
    /// What is to be done now, if all up to `last` has been served.
    fn due(&self, last: Timestamp, now_ms: i64) -> Result<Due, Failure> {
        let last = last.to_zoned(self.zone.clone());
        let now = self.zoned(now_ms)?;
        let next = self.after(&last)?;
        if next > now {
            return Ok(Due::Later(next.timestamp().as_millisecond() - now_ms));
        }
        if self.missed == Missed::All {
            let mut times = vec![next];
            while times.len() < BATCH_MAX {
                let next = self.after(&times[times.len() - 1])?;
                if next > now {
                    break;
                }
                times.push(next);
            }
            let to = times[times.len() - 1].clone();
            return Ok(Due::Now(times, to));
        }
        let latest = self
            .cron
            .find_previous_occurrence(&now, true)
            .map_err(|error| Failure::internal(format!("schedule: {error}")))?
            .max(next);
        let late = now_ms - latest.timestamp().as_millisecond() > GRACE_MS;
        let times = if late && self.missed == Missed::Skip {
            Vec::new()
        } else {
            vec![latest.clone()]
        };
        Ok(Due::Now(times, latest))
    }

    fn after(&self, time: &Zoned) -> Result<Zoned, Failure> {
        self.cron
            .find_next_occurrence(time, false)
            .map_err(|error| Failure::internal(format!("schedule: {error}")))
    }

    fn zoned(&self, ms: i64) -> Result<Zoned, Failure> {
        let time = Timestamp::from_millisecond(ms).map_err(|error| {
            Failure::internal(format!("schedule: the clock says {ms}: {error}"))
        })?;
        Ok(time.to_zoned(self.zone.clone()))
    }

    fn batch(&self, known: &Option<String>, times: &[Zoned], to: &Zoned) -> Batch {
        let arrivals = times.iter().map(|time| {
            let at = written(time);
            let body = match &self.body {
                Some(body) => body.clone(),
                None => format!("{{\"scheduled_at\":\"{at}\"}}"),
            };
            Arrival {
                body: body.into(),
                headers: vec![("scheduled-at".to_owned(), at)],
                identity: Some(format!("schedule:{}", time.timestamp())),
                ..Arrival::default()
            }
        });
        Batch {
            arrivals: arrivals.collect(),
            progress: Some(Progress {
                cursor: CURSOR.to_owned(),
                from: known.clone(),
                to: Some(to.timestamp().to_string()),
            }),
        }
    }
}

/// With offset and without the zone's name: RFC 3339, which every system reads.
fn written(time: &Zoned) -> String {
    time.timestamp()
        .display_with_offset(time.offset())
        .to_string()
}

fn time(text: &str) -> Result<Timestamp, Failure> {
    text.parse().map_err(|_| {
        Failure::new(
            Class::Config,
            format!("the cursor {CURSOR} is `{text}`, not a time"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Library;
    use crate::net::listener::Listener;
    use crate::source::fake::{self, Fake};
    use crate::world::World;
    use crate::world::clock::ManualClock;

    /// Runs from one time until some messages have come; gives their planned times.
    async fn run(config: &str, cursor: Option<&str>, from: &str, count: usize) -> Vec<String> {
        let (fake, ready) = (
            Fake::new(),
            fake::build(&format!("schedule: {config}"), &Library::default()),
        );
        let Some(Ready::Runs(source)) = ready.0 else {
            panic!("{:?}", ready.1)
        };
        if let Some(cursor) = cursor {
            fake.state()
                .cursors
                .insert(CURSOR.to_owned(), cursor.to_owned());
        }
        let from: Timestamp = from.parse().unwrap();
        let world = World {
            clock: Arc::new(ManualClock::at(from.as_millisecond())),
            ..World::real()
        };
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let cx = fake::intake(&fake, world, std::path::Path::new("."), &listener);
        let running = tokio::spawn(source.run(cx.clone()));
        fake.until("the messages have come", |state| {
            state.stored.len() >= count
        })
        .await;
        cx.stop.cancel();
        running.await.unwrap().unwrap();
        let state = fake.state();
        state
            .stored
            .iter()
            .take(count)
            .map(|arrival| arrival.headers[0].1.clone())
            .collect()
    }

    async fn check(config: &str, cursor: Option<&str>, from: &str, expect: &[&str]) {
        assert_eq!(
            run(config, cursor, from, expect.len()).await,
            expect,
            "{config} from {from}"
        );
    }

    #[tokio::test]
    async fn planned_times_come_by_the_clock_of_the_zone() {
        let config = "{ cron: '30 2 * * *', zone: Europe/Berlin }";
        // On 29 March 2026 there is no 02:30 in Berlin; on 25 October 2026 there are two.
        check(
            config,
            None,
            "2026-03-27T12:00:00Z",
            &[
                "2026-03-28T02:30:00+01:00",
                "2026-03-29T03:00:00+02:00",
                "2026-03-30T02:30:00+02:00",
            ],
        )
        .await;
        check(
            config,
            None,
            "2026-10-24T12:00:00Z",
            &["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
        )
        .await;
        check(
            "{ cron: '0 6 * * Mon-Fri' }",
            None,
            "2026-11-20T07:00:00Z",
            &["2026-11-23T06:00:00+00:00"],
        )
        .await;
    }

    #[tokio::test]
    async fn missed_times_are_made_up_for_as_the_flow_says() {
        let (last, now) = (Some("2026-11-20T10:00:00Z"), "2026-11-20T13:30:00Z");
        let hour = |hour: u8| format!("2026-11-20T{hour}:00:00+00:00");
        let (h11, h12, h13, h14) = (hour(11), hour(12), hour(13), hour(14));
        check("{ cron: '0 * * * *' }", last, now, &[&h13, &h14]).await;
        check("{ cron: '0 * * * *', missed: skip }", last, now, &[&h14]).await;
        check(
            "{ cron: '0 * * * *', missed: all }",
            last,
            now,
            &[&h11, &h12, &h13, &h14],
        )
        .await;
    }

    #[tokio::test]
    async fn a_wrong_clock_in_the_past_does_not_stop_the_schedule_for_years() {
        check(
            "{ cron: '0 * * * *' }",
            Some("2031-01-01T00:00:00Z"),
            "2026-11-20T13:30:00Z",
            &["2026-11-20T14:00:00+00:00"],
        )
        .await;
    }

    #[test]
    fn the_field_at_fault_is_named() {
        assert_eq!(wrong_field("61 * * * *"), Some(("minute", "61")));
        assert_eq!(wrong_field("0 6 * * Mon-Fry"), Some(("weekday", "Mon-Fry")));
        assert_eq!(wrong_field("0 0 25 * * *"), Some(("hour", "25")));
        assert_eq!(wrong_field("61 25 * * *"), None, "two are at fault");
        assert_eq!(wrong_field("often"), None);
    }

    #[test]
    fn mistakes_in_the_config_are_found() {
        for (config, expect) in [
            ("{ cron: '61 * * * *' }", "bad-value 1:19"),
            ("{ cron: 'often' }", "bad-value 1:19"),
            ("{ cron: '0 0 30 2 *' }", "bad-value 1:19"),
            ("{ cron: '0 0 1 1 * 2030 7' }", "bad-value 1:19"),
            ("{ cron: '@daily', zone: Europe/Berln }", "bad-value 1:35"),
        ] {
            assert_eq!(
                fake::build(&format!("schedule: {config}"), &Library::default()).1,
                [expect],
                "{config}"
            );
        }
    }
}
