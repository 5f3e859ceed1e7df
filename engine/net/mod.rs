//! Clients and servers that parts share. They know nothing of flows.

pub mod listener;
