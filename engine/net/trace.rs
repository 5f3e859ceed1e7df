//! The trace of a message: which one, and which of its spans comes before. Read from and written to `traceparent`, as W3C has it. It exports nothing.

use std::cell::Cell;
use std::fmt;
use std::future::Future;

/// The header.
pub const TRACEPARENT: &str = "traceparent";
/// The header of what others have to say about a trace.
pub const TRACESTATE: &str = "tracestate";
/// How long a `tracestate` may be that is passed on.
pub const TRACESTATE_MAX: usize = 512;

/// A place in a trace: what comes next is below this span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The trace; never 0.
    pub trace: u128,
    /// The span; never 0.
    pub span: u64,
    /// Whether the trace is to be exported.
    pub sampled: bool,
}

impl Place {
    /// The place that a header names; `None` if it is none.
    pub fn parse(text: &str) -> Option<Place> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |part: &str, length: usize| {
            let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            part.len() == length && part.chars().all(digit)
        };
        let whole = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        // A later version may have more parts; ours has not.
        if !whole || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let place = Place {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        };
        (place.trace != 0 && place.span != 0).then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

tokio::task_local! {
    static PLACE: Cell<Option<Place>>;
}

/// Does this with requests to systems below this place: they carry it out.
pub async fn within<T>(place: Option<Place>, doing: impl Future<Output = T>) -> T {
    PLACE.scope(Cell::new(place), doing).await
}

/// The place below which a request goes out now.
pub fn now() -> Option<Place> {
    PLACE.try_with(Cell::get).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written_and_nothing_else_is_read() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let place = Place::parse(text).unwrap();
        assert_eq!(place.to_string(), text);
        assert!(place.sampled);
        let later = format!("01{}-more", &text[2..]);
        assert_eq!(Place::parse(&later), Some(place));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_request_knows_its_place() {
        let place = Place::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
        assert_eq!(now(), None);
        assert_eq!(within(place, async { now() }).await, place);
        assert_eq!(now(), None);
    }
}
