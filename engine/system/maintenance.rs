//! Times at which a system is not to be called: `Sun 02:00-04:00 America/Denver`. Pure: the time is passed in.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// The days by their names in YAML.
const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

/// A time of the week, by the clock of a zone.
#[derive(Clone, Debug)]
pub struct Maintenance {
    /// As it was written.
    text: String,
    days: Vec<Weekday>,
    from: Time,
    /// Before this time; `None`: until midnight.
    to: Option<Time>,
    zone: TimeZone,
}

impl Maintenance {
    /// The time that a text stands for. What is wrong is said, and after a semicolon what to do.
    pub fn parse(text: &str) -> Result<Maintenance, String> {
        let mut words = text.split_whitespace();
        let (Some(days), Some(times), zone, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!(
                "`{text}` is no time of the week; write a day, from-to and a zone, such as `Sun 02:00-04:00 America/Denver`"
            ));
        };
        let days = days_of(days)?;
        let (from, to) = times_of(times)?;
        let Some(zone) = zone else {
            return Err(format!(
                "`{text}` has no zone; add whose clock counts, such as `UTC` or `Europe/Berlin`"
            ));
        };
        let zone = TimeZone::get(zone).map_err(|_| {
            format!("there is no zone `{zone}`; zones have names such as `Europe/Berlin` or `UTC`")
        })?;
        Ok(Maintenance {
            text: text.to_owned(),
            days,
            from,
            to,
            zone,
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// If this is such a time: when it began and when it ends, in milliseconds since 1970.
    pub fn covers(&self, now_ms: i64) -> Option<(i64, i64)> {
        let now = Timestamp::from_millisecond(now_ms)
            .ok()?
            .to_zoned(self.zone.clone());
        let time = now.time();
        let inside = self.days.contains(&now.date().weekday())
            && self.from <= time
            && self.to.is_none_or(|to| time < to);
        if !inside {
            return None;
        }
        let at = |zoned: Zoned| zoned.timestamp().as_millisecond();
        let from = now.date().to_datetime(self.from);
        let to = match self.to {
            Some(to) => now.date().to_datetime(to),
            None => now.date().checked_add(1.day()).ok()?.to_datetime(Time::MIN),
        };
        let since_ms = from.to_zoned(self.zone.clone()).ok().map_or(now_ms, at);
        let until_ms = to.to_zoned(self.zone.clone()).ok().map_or(now_ms, at);
        // Where a clock is put back the end comes twice; it is over at the second one.
        Some((since_ms.min(now_ms), until_ms.max(now_ms + 1_000)))
    }
}

fn days_of(text: &str) -> Result<Vec<Weekday>, String> {
    if text == "daily" {
        return Ok(DAYS.iter().map(|(_, day)| *day).collect());
    }
    let position = |name: &str| {
        DAYS.iter().position(|(known, _)| *known == name).ok_or_else(|| {
            format!("`{name}` is no day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun, a range such as Mon-Fri, or daily")
        })
    };
    let Some((first, last)) = text.split_once('-') else {
        return Ok(vec![DAYS[position(text)?].1]);
    };
    let (first, last) = (position(first)?, position(last)?);
    let many = (last + 7 - first) % 7 + 1;
    Ok((0..many).map(|nth| DAYS[(first + nth) % 7].1).collect())
}

fn times_of(text: &str) -> Result<(Time, Option<Time>), String> {
    let fault =
        || format!("`{text}` is no span of a day; write hours and minutes, such as `02:00-04:00`");
    let time = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let number = |text: &str| {
            let plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse::<i8>().ok()).flatten()
        };
        Some((number(hour)?, number(minute)?))
    };
    let (from, to) = text.split_once('-').ok_or_else(fault)?;
    let (from, to) = (time(from).ok_or_else(fault)?, time(to).ok_or_else(fault)?);
    let start = Time::new(from.0, from.1, 0, 0).map_err(|_| fault())?;
    let end = match to {
        (24, 0) => None,
        (hour, minute) => Some(Time::new(hour, minute, 0, 0).map_err(|_| fault())?),
    };
    if end.is_some_and(|end| end <= start) {
        return Err(format!(
            "`{text}` ends before it begins; over midnight write two: until 24:00, and from 00:00 on the next day"
        ));
    }
    Ok((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// Whether these times are inside.
    fn check(window: &str, times: &[(&str, bool)]) {
        let window = Maintenance::parse(window).unwrap();
        for (time, inside) in times {
            assert_eq!(
                window.covers(ms(time)).is_some(),
                *inside,
                "{window:?} {time}"
            );
        }
    }

    #[test]
    fn a_window_is_a_time_of_the_week_by_its_own_clock() {
        check(
            "Sun 02:00-04:00 America/Denver",
            &[
                ("2026-11-22T08:59:59Z", false),
                ("2026-11-22T09:00:00Z", true),
                ("2026-11-22T10:59:59Z", true),
                ("2026-11-22T11:00:00Z", false),
                ("2026-11-23T09:30:00Z", false),
                // Summer time.
                ("2026-07-05T08:00:00Z", true),
            ],
        );
        check(
            "Fri-Mon 22:00-24:00 UTC",
            &[
                ("2026-11-20T23:59:59Z", true),
                ("2026-11-21T00:00:00Z", false),
                ("2026-11-23T22:00:00Z", true),
                ("2026-11-24T22:00:00Z", false),
            ],
        );
        check("daily 00:00-24:00 UTC", &[("2026-11-24T12:00:00Z", true)]);
    }

    #[test]
    fn it_says_when_it_ends() {
        let window = Maintenance::parse("Sun 02:00-04:00 America/Denver").unwrap();
        let covered = window.covers(ms("2026-11-22T10:30:00Z")).unwrap();
        assert_eq!(
            covered,
            (ms("2026-11-22T09:00:00Z"), ms("2026-11-22T11:00:00Z"))
        );
        let window = Maintenance::parse("daily 22:00-24:00 UTC").unwrap();
        let covered = window.covers(ms("2026-11-22T22:30:00Z")).unwrap();
        assert_eq!(covered.1, ms("2026-11-23T00:00:00Z"));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, told) in [
            ("", "is no time of the week"),
            ("Sun 02:00-04:00 UTC x", "is no time of the week"),
            ("Sunday 02:00-04:00 UTC", "`Sunday` is no day"),
            ("Mon-Fry 02:00-04:00 UTC", "`Fry` is no day"),
            ("Sun 2:00-4:00 UTC", "is no span of a day"),
            ("Sun 02:00-25:00 UTC", "is no span of a day"),
            ("Sun 02:00 UTC", "is no span of a day"),
            ("Sun 23:00-01:00 UTC", "ends before it begins"),
            ("Sun 02:00-02:00 UTC", "ends before it begins"),
            ("Sun 02:00-04:00", "has no zone"),
            ("Sun 02:00-04:00 America/Denvr", "no zone `America/Denvr`"),
        ] {
            let fault = Maintenance::parse(text).unwrap_err();
            assert!(
                fault.contains(told) && fault.contains("; "),
                "{text}: {fault}"
            );
        }
    }
}
