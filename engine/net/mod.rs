//! Clients and servers that parts share. They know nothing of flows.

pub(crate) mod http;
pub mod listener;
pub mod local;
pub(crate) mod sql;
pub mod tls;
