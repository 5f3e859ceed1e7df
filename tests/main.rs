//! The one integration-test target.
