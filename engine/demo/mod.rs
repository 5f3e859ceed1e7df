//! The demo: stand-ins for an ERP and a storefront, and a recount from their journals.
