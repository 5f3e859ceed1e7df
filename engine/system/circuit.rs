//! The circuit of a system: it opens when too many calls fail, and closes after calls that went well. Pure: the time is passed in.

use super::window::Window;

/// How many calls in a row must go well before a system counts as up again.
const GOOD_NEEDED: u32 = 3;

/// When a circuit opens, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The calls that count: those of the last so many milliseconds.
    pub window_ms: u64,
    /// Fewer calls than this say nothing.
    pub least: u32,
    /// From this share of failed calls on it opens, in percent.
    pub failures_percent: u32,
    /// How long it stays open the first time, in milliseconds.
    pub open_ms: u64,
    /// The time doubles from opening to opening, up to this many milliseconds.
    pub most_ms: u64,
}

impl Rule {
    /// What holds where nothing is said: half of at least 10 calls within 60 s; open for 30 s, at most 10 min.
    pub const DEFAULT: Rule = Rule {
        window_ms: 60_000,
        least: 10,
        failures_percent: 50,
        open_ms: 30_000,
        most_ms: 600_000,
    };
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Yes.
    Yes,
    /// Yes, this one: its end decides.
    Trial,
    /// Not before this time.
    NotBefore(i64),
    /// A trial is under way: not before it ends.
    NotYet,
}

/// What a call's end has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is open now.
    Opened,
    /// It is closed again.
    Closed,
}

/// The circuit of one system.
#[derive(Clone, Debug)]
pub struct Circuit {
    rule: Rule,
    window: Window,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open(Outage, i64),
    /// So many calls in a row went well; one may be under way.
    Trying {
        outage: Outage,
        good: u32,
        under_way: bool,
    },
}

/// Since when, and how often it has opened since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first of these openings was, in milliseconds since 1970.
    pub since_ms: i64,
    /// How often it has opened since then; at least 1.
    pub times: u32,
}

impl Circuit {
    /// A closed circuit.
    pub fn new(rule: Rule) -> Circuit {
        Circuit {
            window: Window::new(rule.window_ms),
            rule,
            state: State::Closed,
        }
    }

    /// Opens it as it was when the last process ended.
    pub fn restore(&mut self, outage: Outage, until_ms: i64) {
        self.state = State::Open(outage, until_ms);
    }

    /// The same under another rule; if it is open, one call tries the system at once.
    pub fn under(self, rule: Rule, now_ms: i64) -> Circuit {
        let same = self.rule.window_ms == rule.window_ms;
        Circuit {
            window: match same {
                true => self.window,
                false => Window::new(rule.window_ms),
            },
            rule,
            state: match self.state {
                State::Open(outage, _) => State::Open(outage, now_ms),
                state => state,
            },
        }
    }

    /// Whether a call may be made now. Changes nothing.
    pub fn looks(&self, now_ms: i64) -> Admits {
        match self.state {
            State::Closed => Admits::Yes,
            State::Open(_, until_ms) if self.still(now_ms, until_ms) => Admits::NotBefore(until_ms),
            State::Trying {
                under_way: true, ..
            } => Admits::NotYet,
            State::Open(..) | State::Trying { .. } => Admits::Trial,
        }
    }

    /// Whether a call may be made now. After `Trial` its end must be told with `ends` or `gives_up`.
    pub fn admits(&mut self, now_ms: i64) -> Admits {
        let looks = self.looks(now_ms);
        if looks == Admits::Trial {
            let (outage, good) = match self.state {
                State::Trying { outage, good, .. } => (outage, good),
                State::Open(outage, _) => (outage, 0),
                State::Closed => return Admits::Yes,
            };
            self.state = State::Trying {
                outage,
                good,
                under_way: true,
            };
        }
        looks
    }

    /// A trial ended without saying anything about the system: the next call is the trial.
    pub fn gives_up(&mut self) {
        if let State::Trying { under_way, .. } = &mut self.state {
            *under_way = false;
        }
    }

    /// A call has ended. Those that began before the circuit opened say nothing any more. `vary` gives a number from 0 to before its
    /// argument: how much of a tenth an opening is longer or shorter, so that not all engines come back at once.
    pub fn ends(
        &mut self,
        now_ms: i64,
        trial: bool,
        good: bool,
        vary: impl FnOnce(u64) -> u64,
    ) -> Option<Change> {
        match self.state {
            State::Closed => {
                self.window.add(now_ms, 1, u32::from(!good));
                let (calls, failed) = self.window.counts(now_ms);
                let many = u64::from(failed) * 100
                    >= u64::from(calls) * u64::from(self.rule.failures_percent);
                if good || calls < self.rule.least || !many {
                    return None;
                }
                let outage = Outage {
                    since_ms: now_ms,
                    times: 1,
                };
                self.open(now_ms, outage, vary);
                Some(Change::Opened)
            }
            State::Trying {
                outage, good: n, ..
            } if trial => {
                if !good {
                    let again = Outage {
                        times: outage.times.saturating_add(1),
                        ..outage
                    };
                    self.open(now_ms, again, vary);
                    return Some(Change::Opened);
                }
                if n + 1 < GOOD_NEEDED {
                    self.state = State::Trying {
                        outage,
                        good: n + 1,
                        under_way: false,
                    };
                    return None;
                }
                self.state = State::Closed;
                self.window.clear();
                Some(Change::Closed)
            }
            State::Open(..) | State::Trying { .. } => None,
        }
    }

    /// Since when it is not closed, and until when it is open; the time is over while it is being tried.
    pub fn outage(&self) -> Option<(Outage, Option<i64>)> {
        match self.state {
            State::Closed => None,
            State::Open(outage, until_ms) => Some((outage, Some(until_ms))),
            State::Trying { outage, .. } => Some((outage, None)),
        }
    }

    /// Calls and failures that are counted now.
    pub fn counts(&self, now_ms: i64) -> (u32, u32) {
        self.window.counts(now_ms)
    }

    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    fn open(&mut self, now_ms: i64, outage: Outage, vary: impl FnOnce(u64) -> u64) {
        let doubled = 1_u64 << (outage.times.saturating_sub(1)).min(30);
        let open_ms = self
            .rule
            .open_ms
            .saturating_mul(doubled)
            .min(self.rule.most_ms);
        let tenth = open_ms / 10;
        let varied = (open_ms - tenth + vary(2 * tenth + 1)).min(self.rule.most_ms);
        let until_ms = now_ms.saturating_add(i64::try_from(varied.max(1)).unwrap_or(i64::MAX / 4));
        self.state = State::Open(outage, until_ms);
    }

    /// Whether the time has not come. A time that is further away than any opening lasts is one of a clock that was put back.
    fn still(&self, now_ms: i64, until_ms: i64) -> bool {
        let most_ms = i64::try_from(self.rule.most_ms.max(self.rule.open_ms)).unwrap_or(i64::MAX);
        now_ms < until_ms && until_ms.saturating_sub(now_ms) <= most_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_000_000;

    fn circuit() -> Circuit {
        Circuit::new(Rule::DEFAULT)
    }

    /// No variation: exactly the rule's time.
    fn plain(span: u64) -> u64 {
        span / 2
    }

    fn end(circuit: &mut Circuit, now_ms: i64, good: bool) -> Option<Change> {
        let trial = circuit.admits(now_ms) == Admits::Trial;
        circuit.ends(now_ms, trial, good, plain)
    }

    /// Open since START.
    fn open() -> Circuit {
        let mut circuit = circuit();
        for _ in 0..9 {
            assert_eq!(end(&mut circuit, START, false), None);
        }
        assert_eq!(end(&mut circuit, START, false), Some(Change::Opened));
        circuit
    }

    #[test]
    fn half_of_at_least_ten_calls_open_it() {
        assert_eq!(
            open().looks(START + 1),
            Admits::NotBefore(START + Rule::DEFAULT.open_ms as i64)
        );
        let mut circuit = circuit();
        for call in 0..40 {
            let good = call % 2 == 0 || call % 7 == 0;
            assert_eq!(end(&mut circuit, START, good), None, "{call}");
        }
        let mut circuit = Circuit::new(Rule {
            least: 4,
            ..Rule::DEFAULT
        });
        let ends = [true, true, false].map(|good| end(&mut circuit, START, good));
        assert_eq!(ends, [None; 3]);
        assert_eq!(end(&mut circuit, START, false), Some(Change::Opened));
    }

    #[test]
    fn calls_of_another_minute_do_not_count() {
        let mut circuit = circuit();
        for call in 0..100 {
            assert_eq!(end(&mut circuit, START + call * 10_000, false), None);
        }
    }

    #[test]
    fn one_call_tries_and_three_good_ones_close_it() {
        let mut circuit = open();
        let at = START + 30_000;
        for good in 0..3 {
            assert_eq!(circuit.admits(at), Admits::Trial, "{good}");
            assert_eq!(circuit.admits(at), Admits::NotYet, "one at a time");
            let change = circuit.ends(at, true, true, plain);
            assert_eq!(change, (good == 2).then_some(Change::Closed));
        }
        assert_eq!(circuit.admits(at), Admits::Yes);
        assert_eq!(circuit.outage(), None);
        assert_eq!(
            end(&mut circuit, at, false),
            None,
            "what was before is forgotten"
        );
    }

    #[test]
    fn a_failed_try_opens_it_again_for_twice_the_time_up_to_the_most() {
        let mut circuit = open();
        let mut at = START;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let Admits::NotBefore(until) = circuit.looks(at) else {
                panic!("closed")
            };
            waits.push((until - at) / 1_000);
            at = until;
            assert_eq!(circuit.admits(at - 1), Admits::NotBefore(until));
            assert_eq!(end(&mut circuit, at, false), Some(Change::Opened));
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
        let (outage, _) = circuit.outage().unwrap();
        assert_eq!((outage.since_ms, outage.times), (START, 8));
    }

    #[test]
    fn a_good_try_and_a_bad_one_open_it_again() {
        let mut circuit = open();
        let at = START + 30_000;
        assert_eq!(end(&mut circuit, at, true), None);
        assert_eq!(end(&mut circuit, at, false), Some(Change::Opened));
        assert_eq!(circuit.looks(at), Admits::NotBefore(at + 60_000));
    }

    #[test]
    fn a_try_that_says_nothing_is_tried_again() {
        let mut circuit = open();
        assert_eq!(circuit.admits(START + 30_000), Admits::Trial);
        circuit.gives_up();
        assert_eq!(circuit.admits(START + 30_000), Admits::Trial);
    }

    #[test]
    fn late_ends_of_calls_that_began_before_say_nothing() {
        let mut circuit = open();
        assert_eq!(circuit.ends(START, false, true, plain), None);
        assert_eq!(circuit.admits(START + 30_000), Admits::Trial);
        assert_eq!(circuit.ends(START + 30_000, false, false, plain), None);
        assert_eq!(circuit.looks(START + 30_000), Admits::NotYet);
    }

    #[test]
    fn openings_vary_by_a_tenth_and_never_beyond_the_most() {
        let until = |vary: fn(u64) -> u64| {
            let mut circuit = circuit();
            for _ in 0..10 {
                circuit.ends(START, false, false, vary);
            }
            circuit.outage().unwrap().1.unwrap() - START
        };
        assert_eq!((until(|_| 0), until(|span| span - 1)), (27_000, 33_000));
    }

    #[test]
    fn a_clock_that_was_put_back_does_not_keep_it_open() {
        let mut circuit = open();
        assert_eq!(circuit.admits(START - 86_400_000), Admits::Trial);
    }

    #[test]
    fn an_open_circuit_is_open_after_a_restart() {
        let mut again = circuit();
        let (outage, until) = open().outage().unwrap();
        again.restore(outage, until.unwrap());
        assert_eq!(
            again.looks(START + 1_000),
            Admits::NotBefore(START + 30_000)
        );
        assert_eq!(again.admits(START + 30_000), Admits::Trial);
    }
}
