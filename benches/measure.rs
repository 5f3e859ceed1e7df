//! What all measures share: the order that is measured with, and the line that each prints.

use std::fmt;

/// The order that is measured with, 2.4 KB of JSON.
pub fn order() -> Vec<u8> {
    crate::mapping::ORDER.as_bytes().to_vec()
}

/// One measure: a value, and a ratio or the value itself held against its goal.
pub struct Line {
    name: &'static str,
    value: f64,
    unit: &'static str,
    ratio: Option<f64>,
    goal: Goal,
    more: String,
}

enum Goal {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Line {
    /// A ratio that must not be above its goal.
    pub fn at_most(
        name: &'static str,
        value: f64,
        unit: &'static str,
        ratio: f64,
        goal: f64,
    ) -> Line {
        Line {
            name,
            value,
            unit,
            ratio: Some(ratio),
            goal: Goal::AtMost(goal),
            more: String::new(),
        }
    }

    /// A ratio that must not be below its goal.
    pub fn at_least(
        name: &'static str,
        value: f64,
        unit: &'static str,
        ratio: f64,
        goal: f64,
    ) -> Line {
        Line {
            name,
            value,
            unit,
            ratio: Some(ratio),
            goal: Goal::AtLeast(goal),
            more: String::new(),
        }
    }

    /// An absolute value that must not be above its goal.
    pub fn below(name: &'static str, value: f64, unit: &'static str, goal: f64) -> Line {
        Line {
            name,
            value,
            unit,
            ratio: None,
            goal: Goal::AtMost(goal),
            more: String::new(),
        }
    }

    /// A ratio that has no goal.
    pub fn told(name: &'static str, value: f64, unit: &'static str, ratio: f64) -> Line {
        Line {
            name,
            value,
            unit,
            ratio: Some(ratio),
            goal: Goal::None,
            more: String::new(),
        }
    }

    /// The same line with an explanation under it.
    #[must_use]
    pub fn with(mut self, more: String) -> Line {
        self.more = more;
        self
    }

    /// Whether the goal is met.
    pub fn met(&self) -> bool {
        let measured = self.ratio.unwrap_or(self.value);
        match self.goal {
            Goal::AtMost(goal) => measured <= goal,
            Goal::AtLeast(goal) => measured >= goal,
            Goal::None => true,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goal = match self.goal {
            Goal::AtMost(goal) => format!("<={goal}"),
            Goal::AtLeast(goal) => format!(">={goal}"),
            Goal::None => "-".to_owned(),
        };
        let ratio = self
            .ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let word = if self.met() { "ok" } else { "MISSED" };
        write!(
            f,
            "{} {:.1} {} ratio {ratio} goal {goal} {word}",
            self.name, self.value, self.unit
        )?;
        if !self.more.is_empty() {
            write!(f, "\n    {}", self.more)?;
        }
        Ok(())
    }
}
