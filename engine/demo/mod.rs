//! The demo: stand-ins for an ERP and a storefront, and a recount from their journals.

mod client;
mod dice;
pub mod erp;
pub mod faults;
mod journal;
pub mod orders;
pub mod recount;
pub(crate) mod storefront;
