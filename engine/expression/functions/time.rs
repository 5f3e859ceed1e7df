//! Times, dates and zones, by the zone database that is built in. There is no clock here: the only time that comes by itself is the message's.

use std::sync::OnceLock;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::fmt::strtime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Span, Timestamp};

use super::{Arguments, Function, Group, Parameter, Types, takes};
use crate::body::Kind;
use crate::expression::Value;
use crate::expression::evaluate::{Outcome, Run};
use crate::expression::number::Decimal;
use crate::expression::{Fault, FaultKind, shortened};

const fn time(
    name: &'static str,
    parameters: &'static [Parameter],
    optional: usize,
    gives: Types,
    doc: &'static str,
    example: (&'static str, &'static str, &'static str),
    run: for<'s, 'a> fn(&mut Run<'s, 'a>, Arguments<'a>) -> Outcome<'a>,
) -> Function {
    Function {
        name,
        group: Group::Time,
        parameters,
        optional,
        repeats: false,
        null_gives_null: true,
        gives,
        doc,
        example,
        run,
    }
}

const TEXT_OR_NULL: Types = Types::STRING.or(Types::NULL);
const NUMBER_OR_NULL: Types = Types::NUMBER.or(Types::NULL);
const TIME: Parameter = takes("time", Types::TEXT.or(Types::NULL));
const OTHER: Parameter = takes("other", Types::TEXT);
const ZONE: Parameter = takes("zone", Types::STRING);
const PATTERN: Parameter = takes("pattern", Types::STRING);
const COUNT: Parameter = takes("count", Types::NUMBER);

pub(super) const FUNCTIONS: &[Function] = &[
    time(
        "timestamp",
        &[TIME, ZONE],
        1,
        TEXT_OR_NULL,
        "The time, in UTC: from RFC 3339, RFC 2822, seconds or milliseconds since 1970 (from 100000000000 on they are milliseconds), /Date(ms)/, a date (its midnight, in UTC unless a zone is given) or a local time (which needs a zone)",
        (
            "timestamp('2026-11-02T09:30:00', 'Europe/Berlin')",
            "null",
            "\"2026-11-02T08:30:00Z\"",
        ),
        timestamp,
    ),
    time(
        "parse_time",
        &[takes("text", Types::TEXT.or(Types::NULL)), PATTERN, ZONE],
        1,
        TEXT_OR_NULL,
        "The time in a text of a known pattern (strftime: %Y %m %d %H %M %S %z ..), as a time in UTC; without %z a zone must be given unless the pattern has no hours",
        (
            "parse_time('20261102 0930', '%Y%m%d %H%M', 'Europe/Berlin')",
            "null",
            "\"2026-11-02T08:30:00Z\"",
        ),
        parse_time,
    ),
    time(
        "format_time",
        &[TIME, PATTERN, ZONE],
        1,
        TEXT_OR_NULL,
        "The time as text by a pattern (strftime), in UTC unless a zone is given",
        (
            "format_time('2026-11-02T08:30:00Z', '%d.%m.%Y %H:%M', 'Europe/Berlin')",
            "null",
            "\"02.11.2026 09:30\"",
        ),
        format_time,
    ),
    time(
        "date",
        &[TIME, ZONE],
        1,
        TEXT_OR_NULL,
        "The date of a time, in UTC unless a zone is given",
        (
            "date('2026-11-02T23:30:00Z', 'Europe/Berlin')",
            "null",
            "\"2026-11-03\"",
        ),
        date,
    ),
    time(
        "epoch",
        &[TIME],
        0,
        NUMBER_OR_NULL,
        "The seconds since 1970",
        ("epoch('1970-01-02T00:00:00Z')", "null", "86400"),
        epoch,
    ),
    time(
        "epoch_ms",
        &[TIME],
        0,
        NUMBER_OR_NULL,
        "The milliseconds since 1970",
        ("epoch_ms('1970-01-01T00:00:01.5Z')", "null", "1500"),
        epoch_ms,
    ),
    time(
        "add_seconds",
        &[TIME, COUNT],
        0,
        TEXT_OR_NULL,
        "The time so many seconds later, or earlier",
        (
            "add_seconds('2026-11-02T08:30:00Z', `-60`)",
            "null",
            "\"2026-11-02T08:29:00Z\"",
        ),
        add_seconds,
    ),
    time(
        "add_days",
        &[TIME, COUNT, ZONE],
        1,
        TEXT_OR_NULL,
        "The date or time so many days later, or earlier; with a zone the local hour stays the same",
        ("add_days('2026-02-27', `2`)", "null", "\"2026-03-01\""),
        add_days,
    ),
    time(
        "add_months",
        &[TIME, COUNT, ZONE],
        1,
        TEXT_OR_NULL,
        "The date or time so many months later, or earlier; the day is cut to the length of the month",
        ("add_months('2026-01-31', `1`)", "null", "\"2026-02-28\""),
        add_months,
    ),
    time(
        "add_business_days",
        &[TIME, COUNT, ZONE],
        1,
        TEXT_OR_NULL,
        "The date or time so many days later, or earlier, that are neither Saturday nor Sunday",
        (
            "add_business_days('2026-11-06', `1`)",
            "null",
            "\"2026-11-09\"",
        ),
        add_business_days,
    ),
    time(
        "days_between",
        &[TIME, OTHER, ZONE],
        1,
        NUMBER_OR_NULL,
        "How many dates lie from the first to the second, in UTC unless a zone is given",
        ("days_between('2026-11-02', '2026-11-09')", "null", "7"),
        days_between,
    ),
    time(
        "seconds_between",
        &[TIME, OTHER],
        0,
        NUMBER_OR_NULL,
        "How many seconds lie from the first to the second",
        (
            "seconds_between('2026-11-02T08:30:00Z', '2026-11-02T08:31:00Z')",
            "null",
            "60",
        ),
        seconds_between,
    ),
    time(
        "weekday",
        &[TIME, ZONE],
        1,
        NUMBER_OR_NULL,
        "The day of the week, 1 for Monday to 7 for Sunday, in UTC unless a zone is given",
        ("weekday('2026-11-02')", "null", "1"),
        weekday,
    ),
    time(
        "before",
        &[TIME, OTHER],
        0,
        Types::BOOLEAN.or(Types::NULL),
        "Whether the first time lies before the second, however they are written",
        (
            "before('2026-11-02T09:00:00+01:00', '2026-11-02T08:30:00Z')",
            "null",
            "true",
        ),
        before,
    ),
    time(
        "after",
        &[TIME, OTHER],
        0,
        Types::BOOLEAN.or(Types::NULL),
        "Whether the first time lies after the second, however they are written",
        (
            "after('2026-11-03', '2026-11-02T08:30:00Z')",
            "null",
            "true",
        ),
        after,
    ),
];

/// From here on a number is taken for milliseconds.
const MILLISECONDS_FROM: i128 = 100_000_000_000;

/// The instant of so many milliseconds since 1970.
pub(super) fn instant(milliseconds: i64) -> Result<Timestamp, Box<Fault>> {
    Timestamp::from_millisecond(milliseconds).map_err(|_| out_of_range())
}

/// The zone that an argument names; UTC where it is not there.
pub(super) fn zone(arguments: &mut Arguments, at: usize) -> Result<TimeZone, Box<Fault>> {
    Ok(given_zone(arguments, at)?.unwrap_or(TimeZone::UTC))
}

fn given_zone(arguments: &mut Arguments, at: usize) -> Result<Option<TimeZone>, Box<Fault>> {
    static DATABASE: OnceLock<TimeZoneDatabase> = OnceLock::new();
    if arguments.len() <= at {
        return Ok(None);
    }
    let name = arguments.string(at);
    if name == "UTC" || name == "Z" {
        return Ok(Some(TimeZone::UTC));
    }
    let database = DATABASE.get_or_init(TimeZoneDatabase::bundled);
    database.get(&name).map(Some).map_err(|_| {
        let mut fault =
            arguments.refuse(at, format!("there is no time zone `{}`", shortened(&name)));
        fault.help = "zones have names such as Europe/Berlin or America/New_York".to_owned();
        fault
    })
}

/// What an argument says: an instant, or only a date.
enum Moment {
    Instant(Timestamp),
    Date(Date),
}

impl Moment {
    fn instant(&self, zone: &TimeZone) -> Result<Timestamp, Box<Fault>> {
        match self {
            Moment::Instant(instant) => Ok(*instant),
            Moment::Date(date) => local(date.at(0, 0, 0, 0), zone),
        }
    }

    fn date(&self, zone: &TimeZone) -> Date {
        match self {
            Moment::Instant(instant) => instant.to_zoned(zone.clone()).date(),
            Moment::Date(date) => *date,
        }
    }
}

fn local(time: DateTime, zone: &TimeZone) -> Result<Timestamp, Box<Fault>> {
    zone.to_ambiguous_zoned(time)
        .compatible()
        .map(|zoned| zoned.timestamp())
        .map_err(|_| out_of_range())
}

fn out_of_range() -> Box<Fault> {
    Fault::new(
        FaultKind::InvalidValue,
        "the time lies outside the years -9999 to 9999",
    )
    .boxed()
}

fn moment(
    arguments: &mut Arguments,
    at: usize,
    zone: Option<&TimeZone>,
) -> Result<Moment, Box<Fault>> {
    if arguments.values[at].kind() == Kind::Number {
        return Ok(Moment::Instant(epoch_instant(arguments.number(at)?)?));
    }
    let text = arguments.string(at);
    let text = text.trim();
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(Moment::Instant(instant));
    }
    let plain_date = text.len() == 10 || text.len() == 8;
    if let (true, Ok(date)) = (plain_date, text.parse::<Date>()) {
        return Ok(Moment::Date(date));
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return match zone {
            Some(zone) => Ok(Moment::Instant(local(time, zone)?)),
            None => {
                let mut fault = arguments.refuse(
                    at,
                    format!("the time `{}` does not say its zone", shortened(text)),
                );
                fault.help = "give the zone: timestamp(x, 'Europe/Berlin')".to_owned();
                Err(fault)
            }
        };
    }
    if let Ok(zoned) = jiff::fmt::rfc2822::parse(text) {
        return Ok(Moment::Instant(zoned.timestamp()));
    }
    if let Some(instant) = microsoft(text) {
        return Ok(Moment::Instant(instant?));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let number = Decimal::parse(text);
    if let (true, Some(number)) = (digits.len() >= 9 && !digits.contains('e'), number) {
        return Ok(Moment::Instant(epoch_instant(number)?));
    }
    let mut fault = arguments.refuse(at, format!("`{}` is no time", shortened(text)));
    fault.help = "say how it is written: parse_time(x, '%d.%m.%Y', zone)".to_owned();
    Err(fault)
}

fn epoch_instant(number: Decimal) -> Result<Timestamp, Box<Fault>> {
    let whole = number.floor().map_or(0, Decimal::mantissa);
    let scale = if whole.abs() >= MILLISECONDS_FROM {
        6
    } else {
        9
    };
    let nanoseconds = number
        .multiply(Decimal::new(10_i128.pow(scale), 0))
        .and_then(Decimal::floor)
        .ok_or_else(out_of_range)?;
    Timestamp::from_nanosecond(nanoseconds.mantissa()).map_err(|_| out_of_range())
}

/// `/Date(1700000000000)/`, as OData of version 2 writes it.
fn microsoft(text: &str) -> Option<Result<Timestamp, Box<Fault>>> {
    let inside = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
    let digits = inside.strip_prefix('-').unwrap_or(inside);
    let end = digits.find(['+', '-']).unwrap_or(digits.len());
    let milliseconds: i64 = inside[..end + inside.len() - digits.len()].parse().ok()?;
    Some(instant(milliseconds))
}

fn timestamp<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let zone = given_zone(&mut arguments, 1)?;
    let moment = moment(&mut arguments, 0, zone.as_ref())?;
    let instant = moment.instant(zone.as_ref().unwrap_or(&TimeZone::UTC))?;
    Ok(Value::text(instant.to_string()))
}

fn parse_time<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let zone = given_zone(&mut arguments, 2)?;
    let (text, pattern) = (arguments.text(0), arguments.string(1));
    let broken = match strtime::parse(&*pattern, text.trim()) {
        Ok(broken) => broken,
        Err(_) => {
            let mut fault = arguments.refuse(
                0,
                format!(
                    "`{}` does not fit the pattern `{pattern}`",
                    shortened(&text)
                ),
            );
            fault.help = "the patterns are those of strftime: %Y-%m-%d %H:%M:%S %z".to_owned();
            return Err(fault);
        }
    };
    if let Ok(instant) = broken.to_timestamp() {
        return Ok(Value::text(instant.to_string()));
    }
    let has_hours = broken.hour().is_some();
    let time = match (broken.to_datetime(), broken.to_date()) {
        (Ok(time), _) => time,
        (_, Ok(date)) => date.at(0, 0, 0, 0),
        _ => {
            let message = format!("the pattern `{pattern}` gives no full date");
            return Err(arguments.refuse(1, message));
        }
    };
    match zone {
        Some(zone) => Ok(Value::text(local(time, &zone)?.to_string())),
        None if !has_hours => Ok(Value::text(local(time, &TimeZone::UTC)?.to_string())),
        None => {
            let mut fault = arguments.refuse(0, "the time does not say its zone");
            fault.help =
                "give the zone as the third argument: parse_time(x, pattern, 'Europe/Berlin')"
                    .to_owned();
            Err(fault)
        }
    }
}

fn format_time<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let zone = zone(&mut arguments, 2)?;
    let moment = moment(&mut arguments, 0, Some(&zone))?;
    let pattern = arguments.string(1);
    let zoned = moment.instant(&zone)?.to_zoned(zone);
    match strtime::format(&*pattern, &zoned) {
        Ok(text) => {
            run.write(text.len())?;
            Ok(Value::text(text))
        }
        Err(_) => {
            let mut fault = arguments.refuse(
                1,
                format!("`{}` is no pattern for a time", shortened(&pattern)),
            );
            fault.help = "the patterns are those of strftime: %Y-%m-%d %H:%M:%S %z".to_owned();
            Err(fault)
        }
    }
}

fn date<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let given = given_zone(&mut arguments, 1)?;
    let moment = moment(&mut arguments, 0, given.as_ref())?;
    let date = moment.date(&given.unwrap_or(TimeZone::UTC));
    Ok(Value::text(date.to_string()))
}

fn whole<'a>(number: i128) -> Value<'a> {
    Value::decimal(Decimal::new(number, 0))
}

fn one_instant(arguments: &mut Arguments, at: usize) -> Result<Timestamp, Box<Fault>> {
    moment(arguments, at, None)?.instant(&TimeZone::UTC)
}

fn epoch<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let instant = one_instant(&mut arguments, 0)?;
    Ok(whole(instant.as_nanosecond().div_euclid(1_000_000_000)))
}

fn epoch_ms<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let instant = one_instant(&mut arguments, 0)?;
    Ok(whole(instant.as_nanosecond().div_euclid(1_000_000)))
}

fn add_seconds<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let seconds = arguments.whole(1, -1_000_000_000_000, 1_000_000_000_000)?;
    let instant = one_instant(&mut arguments, 0)?;
    let later = instant.checked_add(SignedDuration::from_secs(seconds));
    Ok(Value::text(later.map_err(|_| out_of_range())?.to_string()))
}

/// Moves a date, or the local date of a time, and leaves the local hour as it is.
fn moved<'a>(mut arguments: Arguments<'a>, by: impl Fn(Date, i64) -> Option<Date>) -> Outcome<'a> {
    let count = arguments.whole(1, -100_000, 100_000)?;
    let given = given_zone(&mut arguments, 2)?;
    let moment = moment(&mut arguments, 0, given.as_ref())?;
    let zone = given.unwrap_or(TimeZone::UTC);
    match moment {
        Moment::Date(date) => {
            let date = by(date, count).ok_or_else(out_of_range)?;
            Ok(Value::text(date.to_string()))
        }
        Moment::Instant(instant) => {
            let zoned = instant.to_zoned(zone.clone());
            let date = by(zoned.date(), count).ok_or_else(out_of_range)?;
            let time = local(date.to_datetime(zoned.time()), &zone)?;
            Ok(Value::text(time.to_string()))
        }
    }
}

fn add_days<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    moved(arguments, |date, count| {
        date.checked_add(Span::new().try_days(count).ok()?).ok()
    })
}

fn add_months<'a>(_: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    moved(arguments, |date, count| {
        date.checked_add(Span::new().try_months(count).ok()?).ok()
    })
}

fn add_business_days<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    run.step(arguments.whole(1, -100_000, 100_000)?.unsigned_abs())?;
    moved(arguments, |mut date, count| {
        let mut left = count.unsigned_abs();
        while left > 0 {
            date = if count > 0 {
                date.tomorrow().ok()?
            } else {
                date.yesterday().ok()?
            };
            let works = !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday);
            left -= u64::from(works);
        }
        Some(date)
    })
}

fn days_between<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let given = given_zone(&mut arguments, 2)?;
    let from = moment(&mut arguments, 0, given.as_ref())?;
    let to = moment(&mut arguments, 1, given.as_ref())?;
    let zone = given.unwrap_or(TimeZone::UTC);
    let days = to.date(&zone).duration_since(from.date(&zone)).as_hours() / 24;
    Ok(whole(i128::from(days)))
}

fn seconds_between<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let from = one_instant(&mut arguments, 0)?.as_nanosecond();
    let to = one_instant(&mut arguments, 1)?.as_nanosecond();
    Ok(Value::decimal(Decimal::new(to - from, 9).normal()))
}

fn weekday<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let given = given_zone(&mut arguments, 1)?;
    let moment = moment(&mut arguments, 0, given.as_ref())?;
    let date = moment.date(&given.unwrap_or(TimeZone::UTC));
    Ok(whole(i128::from(date.weekday().to_monday_one_offset())))
}

fn before<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let (a, b) = (
        one_instant(&mut arguments, 0)?,
        one_instant(&mut arguments, 1)?,
    );
    Ok(Value::Bool(a < b))
}

fn after<'a>(_: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let (a, b) = (
        one_instant(&mut arguments, 0)?,
        one_instant(&mut arguments, 1)?,
    );
    Ok(Value::Bool(a > b))
}
