//! The language: files -> checked plans. It opens no socket and no file but the project's own.

pub mod plan;
pub mod settings;
