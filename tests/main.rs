//! The one integration-test target.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, also outside of its `#[test]` function"
)]

mod tidy;
