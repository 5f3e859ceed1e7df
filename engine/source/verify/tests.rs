//! Promises of verification.
