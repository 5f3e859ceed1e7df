//! Deliberate mistakes, to see whether the tests would find them. They exist only in builds with debug assertions: a release build makes
//! none of them and does not know their names.
//!
//! `CROSSDOCK_MUTATION=NAME` makes one; `make faults-mutations` makes each, and the oracle of the fault tests must object.

/// Every mistake. A test holds this list against the places that make them.
#[cfg(debug_assertions)]
pub const ALL: &[&str] = &[
    "no-fsync",
    "early-ack",
    "ledger-ignored",
    "blind-resend",
    "unfenced-end",
];

/// Whether this mistake is to be made.
#[inline(always)]
pub fn is(name: &'static str) -> bool {
    #[cfg(debug_assertions)]
    {
        static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| std::env::var("CROSSDOCK_MUTATION").ok());
        chosen.as_deref() == Some(name)
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mistake_is_made_unless_a_test_asks() {
        assert!(ALL.iter().all(|name| !is(name)));
    }
}
