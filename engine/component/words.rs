//! The small words of configs: durations, sizes, rates, expressions, templates and secrets. Each is a type that knows its text.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A length of time: `500ms`, `30s`, `5m`, `2h`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration {
    /// In milliseconds.
    pub ms: u64,
}

/// A number of bytes: `512B`, `64KB`, `4MB`, `1GB`; 1 KB is 1,024 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// In bytes.
    pub bytes: u64,
}

/// So many in a time: `20/s`, `100/m`, `5000/h`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In this many milliseconds.
    pub per_ms: u64,
}

/// A share: `20%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent {
    /// So many of a hundred: 1 to 100.
    pub of_100: u32,
}

/// A JMESPath expression.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ExpressionText(pub String);

/// A handlebars template.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct TemplateText(pub String);

/// A secret: never printed, never stored. In YAML it must come from `${env:..}` or `${file:..}`.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Duration {
    /// The duration that a text stands for.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let (number, unit) = split(text);
        let factor: f64 = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => {
                return Err(format!(
                    "`{text}` is no duration; write a number and ms, s, m, h or d, such as `30s`"
                ));
            }
        };
        let ms = scaled(number, factor).ok_or_else(|| {
            format!("`{text}` is no duration; write a number and ms, s, m, h or d, such as `30s`")
        })?;
        Ok(Duration { ms })
    }

    /// As the standard library has it.
    pub fn std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.ms)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.ms;
        for (factor, unit) in [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1_000, "s"),
        ] {
            if ms >= factor && ms.is_multiple_of(factor) {
                return write!(f, "{}{unit}", ms / factor);
            }
        }
        write!(f, "{ms}ms")
    }
}

impl Size {
    /// The size that a text stands for.
    pub fn parse(text: &str) -> Result<Size, String> {
        let (number, unit) = split(text);
        let factor: f64 = match unit {
            "B" | "" => 1.0,
            "KB" | "K" => 1024.0,
            "MB" | "M" => 1024.0 * 1024.0,
            "GB" | "G" => 1024.0 * 1024.0 * 1024.0,
            _ => {
                return Err(format!(
                    "`{text}` is no size; write a number and B, KB, MB or GB, such as `4MB`"
                ));
            }
        };
        let bytes = scaled(number, factor).ok_or_else(|| {
            format!("`{text}` is no size; write a number and B, KB, MB or GB, such as `4MB`")
        })?;
        Ok(Size { bytes })
    }
}

impl Rate {
    /// The rate that a text stands for.
    pub fn parse(text: &str) -> Result<Rate, String> {
        let fault =
            || format!("`{text}` is no rate; write a number, `/` and s, m or h, such as `20/s`");
        let (count, unit) = text.split_once('/').ok_or_else(fault)?;
        let count: u32 = count.trim().parse().map_err(|_| fault())?;
        let per_ms = match unit.trim() {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(fault()),
        };
        if count == 0 {
            return Err(format!(
                "`{text}` lets nothing through; the count must be at least 1"
            ));
        }
        Ok(Rate { count, per_ms })
    }
}

impl Percent {
    /// The share that a text stands for.
    pub fn parse(text: &str) -> Result<Percent, String> {
        let number = text.trim().strip_suffix('%').map(str::trim);
        match number.and_then(|number| number.parse().ok()) {
            Some(of_100) if (1..=100).contains(&of_100) => Ok(Percent { of_100 }),
            _ => Err(format!(
                "`{text}` is no share; write a whole number from 1 to 100 and `%`, such as `20%`"
            )),
        }
    }
}

impl Secret {
    /// A secret with this value.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The value, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    (text[..at].trim(), &text[at..])
}

fn scaled(number: &str, factor: f64) -> Option<u64> {
    let plain = !number.is_empty()
        && number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value = plain.then(|| number.parse::<f64>().ok()).flatten()? * factor;
    (value <= 9e15 && value.fract() == 0.0).then_some(value as u64)
}

macro_rules! text_word {
    ($type:ty, $name:literal, $format:literal, $doc:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "description": $doc })
            }
        }
    };
}

text_word!(
    Duration,
    "Duration",
    "duration-text",
    "A length of time: `500ms`, `30s`, `5m`, `2h`, `30d`."
);
text_word!(
    Size,
    "Size",
    "size",
    "A number of bytes: `64KB`, `4MB`, `1GB`; 1 KB is 1,024 bytes."
);
text_word!(Rate, "Rate", "rate", "So many in a time: `20/s`, `100/m`.");
text_word!(
    Percent,
    "Percent",
    "percent",
    "A share of a whole: `20%`; 1% to 100%."
);
text_word!(
    ExpressionText,
    "Expression",
    "jmespath",
    "A JMESPath expression."
);
text_word!(
    TemplateText,
    "Template",
    "template",
    "A handlebars template."
);
text_word!(
    Secret,
    "Secret",
    "secret",
    "A secret: `${env:NAME}` or `${file:/run/secrets/x}`, never a literal."
);

macro_rules! parsed_word {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                <$type>::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

parsed_word!(Duration);
parsed_word!(Size);
parsed_word!(Rate);
parsed_word!(Percent);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_rates_are_read() {
        assert_eq!(Duration::parse("1.5h").unwrap().ms, 5_400_000);
        assert_eq!(Duration::parse("30d").unwrap().to_string(), "30d");
        assert_eq!(Size::parse("4MB").unwrap().bytes, 4 << 20);
        assert_eq!(
            Rate::parse("20/s").unwrap(),
            Rate {
                count: 20,
                per_ms: 1_000
            }
        );
        for wrong in ["", "5", "s", "-5s", "5 weeks", "1e9s", "99999999999999d"] {
            assert!(Duration::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Rate::parse("0/s").is_err());
        assert!(Size::parse("4TB").is_err());
        assert_eq!(Percent::parse("20%").unwrap().of_100, 20);
        for wrong in ["", "20", "0%", "101%", "2.5%", "-1%"] {
            assert!(Percent::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
    }
}
