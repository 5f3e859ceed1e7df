//! STUB replaced by the expression helper.
#![allow(missing_docs, unused_variables, clippy::todo)]
pub struct Expression {}
#[derive(Clone, Copy)]
pub enum FaultKind {
    Syntax,
}
pub struct Fault {
    pub kind: FaultKind,
    pub message: String,
    pub start: usize,
    pub end: usize,
    pub help: String,
}
impl Expression {
    pub fn compile(text: &str) -> Result<Expression, Vec<Fault>> {
        todo!()
    }
    pub fn cautions(&self) -> Vec<Fault> {
        todo!()
    }
    pub fn free_variables(&self) -> Vec<(String, usize, usize)> {
        todo!()
    }
    pub fn tables(&self) -> Vec<(String, usize, usize)> {
        todo!()
    }
    pub fn keys(&self) -> Vec<(String, usize, usize)> {
        todo!()
    }
}
#[derive(Default)]
pub struct Tables {}
pub struct Table {}
impl Tables {
    pub fn get(&self, name: &str) -> Option<&Table> {
        todo!()
    }
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [].into_iter()
    }
}
pub mod codes {
    use crate::diagnostic::Code;
    pub const STRING_ORDERING: Code = Code {
        name: "string-ordering",
        meaning: "",
    };
    pub const UNKNOWN_VARIABLE: Code = Code {
        name: "unknown-variable",
        meaning: "",
    };
    pub fn of(kind: super::FaultKind) -> Code {
        todo!()
    }
}
