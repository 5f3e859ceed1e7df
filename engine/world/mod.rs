//! The only doors to clock, disk, environment, secrets and randomness; each has a test double.
#![allow(
    clippy::disallowed_methods,
    reason = "these are the doors that everything else must use"
)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub mod bell;
pub mod clock;
pub mod disk;
pub mod env;
pub mod failpoint;
pub mod git;
pub mod inbox;
pub mod metrics;
pub mod mutation;
pub mod process;
pub mod random;
pub mod scratch;
pub mod stdin;
pub mod watch;

/// A boxed future: what waits behind a trait is chosen at run time.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The world outside the program, as parts see it. A clone is the same world.
#[derive(Clone)]
pub struct World {
    /// What time it is, and waiting.
    pub clock: Arc<dyn clock::Clock>,
    /// Environment variables.
    pub env: Arc<dyn env::Environment>,
    /// Randomness.
    pub random: Arc<dyn random::Random>,
    /// Who sees the engine's commits, and may take its power away between two of them: a flow test. `None` in the real world.
    pub watch: Option<Arc<dyn watch::Watch>>,
    /// What the engine counts.
    pub metrics: metrics::Metrics,
}

impl World {
    /// The real one.
    pub fn real() -> World {
        World {
            clock: Arc::new(clock::SystemClock),
            env: Arc::new(env::ProcessEnvironment),
            random: Arc::new(random::SystemRandom),
            watch: None,
            metrics: metrics::Metrics::default(),
        }
    }
}
