//! Mapping files: a tree of expressions -> one compiled mapping. Pure.
