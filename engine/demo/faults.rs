//! The ways in which the stand-in ERP misbehaves, and how often. It decides by chance; it does not act.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::dice::Dice;

/// How long a slow answer takes, where the setting names no time.
const SLOW_DEFAULT: Duration = Duration::from_millis(200);

/// How often each fault happens, as fractions: `slow=0.05:200ms,fail=0.02,throttle=0.01,error-after-apply=0.01,drop-after-apply=0.01`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    slow: f64,
    slow_for: Duration,
    fail: f64,
    throttle: f64,
    error_after_apply: f64,
    drop_after_apply: f64,
    hang_after_apply: f64,
    error_before_apply: f64,
    conflict: f64,
    reset_mid_body: f64,
    stale: f64,
}

/// How young a sales order may be that a stale search does not see yet.
pub(crate) const STALE_FOR: Duration = Duration::from_millis(300);

/// What happens before the ERP does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    Nothing,
    /// It says 503.
    Fail,
    /// It says 429.
    Throttle,
    /// It says 500, and has done nothing.
    Error,
    /// It says 409, and has done nothing.
    Conflict,
}

/// What happens after the ERP has booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It answers.
    Nothing,
    /// It says 500 though it has booked.
    Fail,
    /// It closes the connection without a word.
    Drop,
    /// It never answers.
    Hang,
    /// It closes the connection in the middle of its answer.
    Reset,
}

impl Before {
    /// The name in settings and in the journal; `None` for nothing.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Before::Nothing => None,
            Before::Fail => Some("fail"),
            Before::Throttle => Some("throttle"),
            Before::Error => Some("error-before-apply"),
            Before::Conflict => Some("conflict"),
        }
    }
}

impl After {
    /// The name in settings and in the journal; `None` for nothing.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            After::Nothing => None,
            After::Fail => Some("error-after-apply"),
            After::Drop => Some("drop-after-apply"),
            After::Hang => Some("hang-after-apply"),
            After::Reset => Some("reset-mid-body"),
        }
    }
}

/// The faults of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    /// How long the ERP dawdles first.
    pub(crate) wait: Duration,
    /// What happens before.
    pub(crate) before: Before,
    /// What happens after.
    pub(crate) after: After,
    /// Whether a search does not see what is new.
    pub(crate) stale: bool,
}

impl Faults {
    /// What befalls the request that rolls `dice`.
    pub(crate) fn fate(&self, mut dice: Dice) -> Fate {
        let wait = if dice.fraction() < self.slow {
            self.slow_for
        } else {
            Duration::ZERO
        };
        let before = choose(
            dice.fraction(),
            &[
                (self.fail, Before::Fail),
                (self.throttle, Before::Throttle),
                (self.error_before_apply, Before::Error),
                (self.conflict, Before::Conflict),
            ],
            Before::Nothing,
        );
        let after = choose(
            dice.fraction(),
            &[
                (self.error_after_apply, After::Fail),
                (self.drop_after_apply, After::Drop),
                (self.hang_after_apply, After::Hang),
                (self.reset_mid_body, After::Reset),
            ],
            After::Nothing,
        );
        Fate {
            wait,
            before,
            after,
            stale: dice.fraction() < self.stale,
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slow={}:{}ms,fail={},throttle={},",
            self.slow,
            self.slow_for.as_millis(),
            self.fail,
            self.throttle
        )?;
        write!(
            f,
            "error-after-apply={},drop-after-apply={},hang-after-apply={},",
            self.error_after_apply, self.drop_after_apply, self.hang_after_apply
        )?;
        write!(
            f,
            "error-before-apply={},conflict={},reset-mid-body={},stale={}",
            self.error_before_apply, self.conflict, self.reset_mid_body, self.stale
        )
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Faults, String> {
        let mut faults = Faults {
            slow_for: SLOW_DEFAULT,
            ..Faults::default()
        };
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` has no share: write `{part}=0.01`"))?;
            let (share, time) = value
                .split_once(':')
                .map_or((value, None), |(share, time)| (share, Some(time)));
            let share = parse_share(share)?;
            match name {
                "slow" => {
                    faults.slow = share;
                    faults.slow_for = time.map_or(Ok(SLOW_DEFAULT), parse_time)?;
                }
                "fail" => faults.fail = share,
                "throttle" => faults.throttle = share,
                "error-after-apply" => faults.error_after_apply = share,
                "drop-after-apply" => faults.drop_after_apply = share,
                "hang-after-apply" => faults.hang_after_apply = share,
                "error-before-apply" => faults.error_before_apply = share,
                "conflict" => faults.conflict = share,
                "reset-mid-body" => faults.reset_mid_body = share,
                "stale" => faults.stale = share,
                _ => {
                    return Err(format!(
                        "no fault is named `{name}`: there are slow, fail, throttle, error-before-apply, error-after-apply, drop-after-apply, hang-after-apply, reset-mid-body, conflict and stale"
                    ));
                }
            }
            if time.is_some() && name != "slow" {
                return Err(format!("only `slow` takes a time, not `{name}`"));
            }
        }
        Ok(faults)
    }
}

fn choose<T: Copy>(rolled: f64, shares: &[(f64, T)], otherwise: T) -> T {
    let mut below = 0.0;
    for (share, choice) in shares {
        below += share;
        if rolled < below {
            return *choice;
        }
    }
    otherwise
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a share from 0 to 1")),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time: write it like 200ms or 2s");
    if let Some(number) = text.strip_suffix("ms") {
        return number
            .parse()
            .map(Duration::from_millis)
            .map_err(|_| wrong());
    }
    text.strip_suffix('s')
        .and_then(|number| number.parse().ok())
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times_are_read() {
        let faults: Faults =
            "slow=0.05:2s,fail=0.02,throttle=0.01,error-after-apply=0.03,drop-after-apply=0.04"
                .parse()
                .unwrap();
        let expect = Faults {
            slow: 0.05,
            slow_for: Duration::from_secs(2),
            fail: 0.02,
            throttle: 0.01,
            error_after_apply: 0.03,
            drop_after_apply: 0.04,
            ..Faults::default()
        };
        assert_eq!(faults, expect);
        assert_eq!(faults.to_string().parse(), Ok(expect));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expect: &str| {
            let message = text.parse::<Faults>().unwrap_err();
            assert!(message.contains(expect), "{message}");
        };
        check("fial=0.1", "no fault is named `fial`");
        check("fail", "has no share");
        check("fail=2", "not a share");
        check("slow=0.1:fast", "not a time");
        check("fail=0.1:2s", "only `slow` takes a time");
    }

    #[test]
    fn faults_happen_about_as_often_as_asked() {
        let faults: Faults = "fail=0.1,drop-after-apply=0.2".parse().unwrap();
        let fates: Vec<Fate> = (0..10_000).map(|n| faults.fate(Dice::of(1, n))).collect();
        let failed = fates
            .iter()
            .filter(|fate| fate.before == Before::Fail)
            .count();
        let dropped = fates
            .iter()
            .filter(|fate| fate.after == After::Drop)
            .count();
        assert!((850..1_150).contains(&failed), "{failed}");
        assert!((1_800..2_200).contains(&dropped), "{dropped}");
        assert!(
            fates
                .iter()
                .all(|fate| fate.before != Before::Throttle && fate.wait.is_zero())
        );
    }
}
