//! The only doors to clock, disk, environment, secrets and randomness; each has a test double.
