//! STUB replaced by the expression helper.
#![allow(missing_docs)]
pub struct Mapping {}
