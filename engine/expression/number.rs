//! Exact decimals: 38 digits, checked, never rounded unless asked. Numbers that are only passed on or compared stay text of any size.

use std::cmp::Ordering;

/// The most digits after the point.
pub(crate) const SCALE_MAX: u32 = 38;

/// `mantissa / 10^scale`, the mantissa in two halves so that a value stays small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decimal {
    high: i64,
    low: u64,
    scale: u32,
}

/// What to do with the digits that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// 0.5 goes away from zero, as on invoices.
    HalfUp,
    /// 0.5 goes to the even neighbour.
    HalfEven,
    /// Towards zero.
    Down,
    /// Away from zero.
    Up,
}

impl Rounding {
    pub(crate) const NAMES: &'static str = "half-up, half-even, down, up";

    pub(crate) fn from_name(name: &str) -> Option<Rounding> {
        Some(match name {
            "half-up" => Rounding::HalfUp,
            "half-even" => Rounding::HalfEven,
            "down" => Rounding::Down,
            "up" => Rounding::Up,
            _ => return None,
        })
    }
}

impl Decimal {
    pub(crate) const ZERO: Decimal = Decimal {
        high: 0,
        low: 0,
        scale: 0,
    };

    pub(crate) fn new(mantissa: i128, scale: u32) -> Decimal {
        Decimal {
            high: (mantissa >> 64) as i64,
            low: mantissa as u64,
            scale,
        }
    }

    pub(crate) fn from_count(count: usize) -> Decimal {
        Decimal::new(count as i128, 0)
    }

    pub(crate) fn mantissa(self) -> i128 {
        (i128::from(self.high) << 64) | i128::from(self.low)
    }

    pub(crate) fn scale(self) -> u32 {
        self.scale
    }

    /// The number that is written as `text` (JSON's form), if it fits without rounding.
    pub(crate) fn parse(text: &str) -> Option<Decimal> {
        let bytes = text.as_bytes();
        if bytes.len() <= 18
            && let Some(short) = parse_short(bytes)
        {
            return Some(short);
        }
        let digits = Digits::of(text)?;
        let mut mantissa: i128 = 0;
        for digit in digits.all() {
            mantissa = mantissa
                .checked_mul(10)?
                .checked_add(i128::from(digit - b'0'))?;
        }
        if digits.negative {
            mantissa = -mantissa;
        }
        if digits.exponent > i128::from(SCALE_MAX) || -digits.exponent > i128::from(SCALE_MAX) {
            return (mantissa == 0).then_some(Decimal::ZERO);
        }
        if digits.exponent >= 0 {
            return Some(Decimal::new(
                mantissa.checked_mul(power(digits.exponent as u32)?)?,
                0,
            ));
        }
        // Zeros that `Digits` drops at the end are part of how money is written: 19.90.
        let scale = (-digits.exponent) as u32;
        let written = written_scale(text).clamp(scale, SCALE_MAX.max(scale));
        match power(written - scale).and_then(|factor| mantissa.checked_mul(factor)) {
            Some(wide) => Some(Decimal::new(wide, written)),
            None => Some(Decimal::new(mantissa, scale)),
        }
    }

    pub(crate) fn add(self, other: Decimal) -> Option<Decimal> {
        let (a, b, scale) = aligned(self, other)?;
        Some(Decimal::new(a.checked_add(b)?, scale))
    }

    pub(crate) fn subtract(self, other: Decimal) -> Option<Decimal> {
        self.add(other.negate())
    }

    pub(crate) fn multiply(self, other: Decimal) -> Option<Decimal> {
        if let Some(product) = self.mantissa().checked_mul(other.mantissa()) {
            let scale = self.scale + other.scale;
            if scale <= SCALE_MAX {
                return Some(Decimal::new(product, scale));
            }
        }
        let (a, b) = (self.normal(), other.normal());
        let mut product = a.mantissa().checked_mul(b.mantissa())?;
        let mut scale = a.scale + b.scale;
        while scale > SCALE_MAX {
            if product % 10 != 0 {
                return None;
            }
            product /= 10;
            scale -= 1;
        }
        Some(Decimal::new(product, scale))
    }

    /// The quotient with `scale` digits after the point. The divisor is not zero.
    pub(crate) fn divide(self, other: Decimal, scale: u32, rounding: Rounding) -> Option<Decimal> {
        let (a, b) = (self.normal(), other.normal());
        let shift = i64::from(scale) + i64::from(b.scale) - i64::from(a.scale);
        let (mut above, mut below) = (a.mantissa(), b.mantissa());
        let factor = power(u32::try_from(shift.unsigned_abs()).ok()?)?;
        if shift >= 0 {
            above = above.checked_mul(factor)?;
        } else {
            below = below.checked_mul(factor)?;
        }
        Some(Decimal::new(rounded(above, below, rounding)?, scale))
    }

    /// The exact quotient, if it has an end within the digits there are.
    pub(crate) fn divide_exactly(self, other: Decimal) -> Option<Decimal> {
        (0..=SCALE_MAX)
            .map_while(|scale| self.divide(other, scale, Rounding::Down))
            .find(|quotient| {
                quotient
                    .multiply(other)
                    .is_some_and(|product| product.compare(self) == Ordering::Equal)
            })
    }

    /// The number with exactly `scale` digits after the point.
    pub(crate) fn round(self, scale: u32, rounding: Rounding) -> Option<Decimal> {
        if scale >= self.scale {
            let factor = power(scale - self.scale)?;
            return Some(Decimal::new(self.mantissa().checked_mul(factor)?, scale));
        }
        let mantissa = rounded(self.mantissa(), power(self.scale - scale)?, rounding)?;
        Some(Decimal::new(mantissa, scale))
    }

    /// The largest whole number that is not greater.
    pub(crate) fn floor(self) -> Option<Decimal> {
        let rounding = if self.high < 0 {
            Rounding::Up
        } else {
            Rounding::Down
        };
        self.round(0, rounding)
    }

    /// The smallest whole number that is not less.
    pub(crate) fn ceil(self) -> Option<Decimal> {
        Some(self.negate().floor()?.negate())
    }

    pub(crate) fn negate(self) -> Decimal {
        Decimal::new(-self.mantissa(), self.scale)
    }

    pub(crate) fn is_zero(self) -> bool {
        self.high == 0 && self.low == 0
    }

    /// The same number without zeros at the end.
    pub(crate) fn normal(self) -> Decimal {
        let (mut mantissa, mut scale) = (self.mantissa(), self.scale);
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        Decimal::new(mantissa, scale)
    }

    /// The whole number, if it is one that fits.
    pub(crate) fn to_integer(self) -> Option<i64> {
        let normal = self.normal();
        (normal.scale == 0)
            .then(|| i64::try_from(normal.mantissa()).ok())
            .flatten()
    }

    pub(crate) fn compare(self, other: Decimal) -> Ordering {
        match aligned(self, other) {
            Some((a, b, _)) => a.cmp(&b),
            None => compare_text(&self.to_text(), &other.to_text()),
        }
    }

    pub(crate) fn to_text(self) -> String {
        let mut out = Vec::with_capacity(24);
        self.write(&mut out);
        String::from_utf8(out).expect("digits are ASCII")
    }

    /// Appends the number as JSON.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let mantissa = self.mantissa();
        if mantissa < 0 {
            out.push(b'-');
        }
        let mut digits = [b'0'; 40];
        let mut at = digits.len();
        let mut rest = mantissa.unsigned_abs();
        while rest > u128::from(u64::MAX) {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut rest = rest as u64;
        while rest > 0 {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let scale = self.scale as usize;
        at = at.min(digits.len() - 1 - scale);
        let point = digits.len() - scale;
        out.extend_from_slice(&digits[at..point]);
        if scale > 0 {
            out.push(b'.');
            out.extend_from_slice(&digits[point..]);
        }
    }
}

/// Compares two numbers written as JSON, whatever their size.
pub(crate) fn compare_text(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    if let (Some(a), Some(b)) = (Decimal::parse(a), Decimal::parse(b))
        && let Some((a, b, _)) = aligned(a, b)
    {
        return a.cmp(&b);
    }
    match (Digits::of(a), Digits::of(b)) {
        (Some(a), Some(b)) => a.compare(&b),
        _ => Ordering::Equal,
    }
}

/// Whether the text is a number as JSON writes it.
pub(crate) fn is_json_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let digits = |from: usize| {
        bytes[from.min(bytes.len())..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return false;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let part = digits(at + 1);
        if part == 0 {
            return false;
        }
        at += 1 + part;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
        let part = digits(at);
        if part == 0 {
            return false;
        }
        at += part;
    }
    at == bytes.len()
}

/// `10^exponent`, as far as it fits.
pub(crate) fn power(exponent: u32) -> Option<i128> {
    10_i128.checked_pow(exponent)
}

/// The common case: at most 18 bytes, no exponent.
fn parse_short(bytes: &[u8]) -> Option<Decimal> {
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, bytes),
    };
    let mut mantissa: i64 = 0;
    let mut scale = 0;
    let mut after_point = false;
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                mantissa = mantissa * 10 + i64::from(byte - b'0');
                scale += u32::from(after_point);
            }
            b'.' if !after_point => after_point = true,
            _ => return None,
        }
    }
    let mantissa = if negative { -mantissa } else { mantissa };
    Some(Decimal::new(i128::from(mantissa), scale))
}

fn aligned(a: Decimal, b: Decimal) -> Option<(i128, i128, u32)> {
    let scale = a.scale.max(b.scale);
    if a.scale == b.scale {
        return Some((a.mantissa(), b.mantissa(), scale));
    }
    let wide = |number: Decimal| number.mantissa().checked_mul(power(scale - number.scale)?);
    match (wide(a), wide(b)) {
        (Some(a), Some(b)) => Some((a, b, scale)),
        _ => {
            let (a, b) = (a.normal(), b.normal());
            let scale = a.scale.max(b.scale);
            let a_wide = a.mantissa().checked_mul(power(scale - a.scale)?)?;
            let b_wide = b.mantissa().checked_mul(power(scale - b.scale)?)?;
            Some((a_wide, b_wide, scale))
        }
    }
}

/// `above / below`, whole, rounded.
fn rounded(above: i128, below: i128, rounding: Rounding) -> Option<i128> {
    let quotient = above.checked_div(below)?;
    let rest = above.checked_rem(below)?;
    if rest == 0 {
        return Some(quotient);
    }
    let twice = rest.unsigned_abs().checked_mul(2)?;
    let half = twice.cmp(&below.unsigned_abs());
    let away = match rounding {
        Rounding::Down => false,
        Rounding::Up => true,
        Rounding::HalfUp => half != Ordering::Less,
        Rounding::HalfEven => match half {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => quotient % 2 != 0,
        },
    };
    let direction = if (above < 0) == (below < 0) { 1 } else { -1 };
    if away {
        quotient.checked_add(direction)
    } else {
        Some(quotient)
    }
}

/// How many digits stand after the point, less what the exponent moves.
fn written_scale(text: &str) -> u32 {
    if text.contains(['e', 'E']) {
        return 0;
    }
    text.split_once('.')
        .map_or(0, |(_, part)| u32::try_from(part.len()).unwrap_or(u32::MAX))
}

/// A number as sign, digits without zeros at either end, and exponent of the last digit.
struct Digits<'a> {
    negative: bool,
    whole: &'a [u8],
    part: &'a [u8],
    exponent: i128,
}

impl<'a> Digits<'a> {
    fn of(text: &'a str) -> Option<Digits<'a>> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (number, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], exponent(&rest[at + 1..])),
            None => (rest, 0),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let all_digits = whole
            .bytes()
            .chain(part.bytes())
            .all(|b| b.is_ascii_digit());
        if !all_digits || whole.is_empty() {
            return None;
        }
        let mut whole = whole.trim_start_matches('0');
        let mut part = part.trim_end_matches('0');
        let mut exponent = exponent - part.len() as i128;
        if whole.is_empty() {
            part = part.trim_start_matches('0');
        }
        if part.is_empty() {
            let trimmed = whole.trim_end_matches('0');
            exponent += (whole.len() - trimmed.len()) as i128;
            whole = trimmed;
        }
        let zero = whole.is_empty() && part.is_empty();
        Some(Digits {
            negative: negative && !zero,
            whole: whole.as_bytes(),
            part: part.as_bytes(),
            exponent: if zero { 0 } else { exponent },
        })
    }

    fn all(&self) -> impl Iterator<Item = u8> {
        self.whole.iter().chain(self.part).copied()
    }

    fn len(&self) -> usize {
        self.whole.len() + self.part.len()
    }

    fn compare(&self, other: &Digits) -> Ordering {
        let sign = |digits: &Digits| match (digits.len(), digits.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        };
        let by_sign = sign(self).cmp(&sign(other));
        if by_sign != Ordering::Equal || self.len() == 0 {
            return by_sign;
        }
        let top = |digits: &Digits| digits.exponent + digits.len() as i128;
        let by_size = top(self)
            .cmp(&top(other))
            .then_with(|| self.all().cmp(other.all()));
        if self.negative {
            by_size.reverse()
        } else {
            by_size
        }
    }
}

/// The exponent of a number. One of more than 36 digits is as good as endless.
fn exponent(text: &str) -> i128 {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.trim_start_matches('0');
    let size = if digits.len() > 36 {
        power(37).unwrap_or(i128::MAX / 4)
    } else {
        digits.parse().unwrap_or(0)
    };
    if negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn text_survives() {
        for text in [
            "0",
            "1",
            "-1",
            "19.90",
            "0.10",
            "-0.05",
            "9007199254740993",
            "1.0",
            "0.0000",
            "12345678901234567890123456789012345678",
            "0.00000000000000000000000000000000000001",
            "1234567890123456789.0123456789",
        ] {
            assert_eq!(number(text).to_text(), text, "{text}");
        }
        assert_eq!(number("1e2").to_text(), "100");
        assert_eq!(number("1.5E-3").to_text(), "0.0015");
        assert_eq!(number("-0").to_text(), "0");
        assert!(Decimal::parse("1e400").is_none());
        assert!(Decimal::parse("1e-400").is_none());
        assert!(Decimal::parse("0e400").unwrap().is_zero());
    }

    #[test]
    fn arithmetic_is_exact_or_nothing() {
        let text = |result: Option<Decimal>| result.map(Decimal::to_text);
        assert_eq!(text(number("0.1").add(number("0.2"))).unwrap(), "0.3");
        assert_eq!(
            text(number("19.99").multiply(number("3"))).unwrap(),
            "59.97"
        );
        assert_eq!(text(number("1").subtract(number("0.01"))).unwrap(), "0.99");
        let tiny = number("0.00000000000000000000000000000000000001");
        assert_eq!(text(tiny.multiply(number("0.1"))), None);
        assert_eq!(text(number("1e37").multiply(number("1e37"))), None);
        assert_eq!(text(number("1e37").add(tiny)), None);
        assert_eq!(text(tiny.multiply(number("1e37"))).unwrap().len(), 40);
    }

    #[test]
    fn division_and_rounding_follow_their_rule() {
        let divide = |a: &str, b: &str, scale, rounding| {
            number(a)
                .divide(number(b), scale, rounding)
                .unwrap()
                .to_text()
        };
        assert_eq!(divide("10", "3", 2, Rounding::HalfUp), "3.33");
        assert_eq!(divide("20", "3", 2, Rounding::HalfUp), "6.67");
        assert_eq!(divide("-20", "3", 0, Rounding::Down), "-6");
        assert_eq!(divide("1", "8", 2, Rounding::HalfEven), "0.12");
        assert_eq!(divide("1", "8", 2, Rounding::HalfUp), "0.13");
        let round = |a: &str, scale, rounding| number(a).round(scale, rounding).unwrap().to_text();
        assert_eq!(round("2.345", 2, Rounding::HalfUp), "2.35");
        assert_eq!(round("-2.345", 2, Rounding::HalfUp), "-2.35");
        assert_eq!(round("2.345", 2, Rounding::HalfEven), "2.34");
        assert_eq!(round("2", 2, Rounding::HalfUp), "2.00");
        assert_eq!(number("-1.5").ceil().unwrap().to_text(), "-1");
        assert_eq!(number("-1.5").floor().unwrap().to_text(), "-2");
        assert_eq!(number("1.01").ceil().unwrap().to_text(), "2");
        let third = number("1").divide_exactly(number("3"));
        assert!(third.is_none());
        let eighth = number("1").divide_exactly(number("8")).unwrap();
        assert_eq!(eighth.to_text(), "0.125");
    }

    #[test]
    fn comparison_is_mathematical_at_any_size() {
        for (a, b, order) in [
            ("1", "1.0", Ordering::Equal),
            ("1e2", "100", Ordering::Equal),
            ("100e-2", "1", Ordering::Equal),
            ("-0", "0", Ordering::Equal),
            ("0e9", "0.00", Ordering::Equal),
            ("1e400", "10e399", Ordering::Equal),
            ("1e400", "1e401", Ordering::Less),
            ("-1e400", "1", Ordering::Less),
            ("-1e400", "-1e401", Ordering::Greater),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            (
                "0.1",
                "0.10000000000000000000000000000000000000000000001",
                Ordering::Less,
            ),
            (
                "123456789012345678901234567890123456789012",
                "123456789012345678901234567890123456789013",
                Ordering::Less,
            ),
            ("1e-400", "0", Ordering::Greater),
        ] {
            assert_eq!(compare_text(a, b), order, "{a} {b}");
            assert_eq!(compare_text(b, a), order.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn json_numbers_are_told_from_other_text() {
        for text in ["0", "-1", "1.50", "1e5", "1E+5", "0.1e-7"] {
            assert!(is_json_number(text), "{text}");
        }
        for text in [
            "", "-", "01", "1.", ".5", "+1", "1e", " 1", "1 ", "0x1", "1,5",
        ] {
            assert!(!is_json_number(text), "{text}");
        }
    }
}
