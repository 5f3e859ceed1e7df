//! Crossdock, a declarative integration engine. Reading order is the order below; a module uses its own floor and those below it.
//!
//! 1. words: what everything speaks of
//! 2. tools: pure functions from text and bytes to values; no IO, not async
//! 3. world: the only doors to clock, disk, environment, randomness and the network
//! 4. parts: sources, steps, sinks, systems, the store and the hand-off
//! 5. flow: files in, checked plans out
//! 6. run: plans in motion
//! 7. doors: the admin API, command line, language server and demo

pub mod body;
pub mod diagnostic;
pub mod failure;
pub mod message;

pub mod expression;
pub mod format;
pub mod mapping;
pub mod personal;
pub mod schema;
pub mod template;
pub mod yaml;

pub mod net;
pub mod world;

pub mod component;
pub mod handoff;
pub mod sink;
pub mod source;
pub mod step;
pub mod store;
pub mod system;

pub mod flow;

pub mod run;

pub mod admin;
pub mod cli;
pub mod demo;
pub mod lsp;

#[cfg(test)]
extern crate self as crossdock;
