//! Steps at which messages wait, in a running engine: by a clock that the test moves, over restarts and deaths, the store real.

mod answers;
mod bench;
mod groups;
pub mod proof;
mod times;
mod turns;
