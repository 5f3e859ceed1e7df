//! Plans in motion: stages, effects, timers, recovery.
