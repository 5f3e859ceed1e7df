//! Bytes <-> documents: the contract and the registry of formats. Pure.
