//! Steps: what happens to messages on the way. The contract and the registry; they do not know sinks.

use std::sync::Arc;

use crate::component::{Effect, Pure, components};

#[cfg(test)]
pub(crate) mod bench;
mod cache;
pub mod call;
pub mod decode;
pub mod emit;
pub mod encode;
pub mod filter;
pub mod log;
pub mod lookup;
pub mod map;
pub mod set;
pub mod split;
pub mod template;
pub mod validate;

/// A step, ready to run.
pub enum Ready {
    /// No outside effect: fuses with its neighbours.
    Pure(Box<dyn Pure>),
    /// Acts on the outside: a stage of its own.
    Effect(Arc<dyn Effect>),
}

components! {
    /// The kinds of steps. `branch` and `use` are structure, not kinds.
    StepKind -> Ready {
        map: map::Map,
        validate: validate::Validate,
        filter: filter::Filter,
        set: set::Set,
        lookup: lookup::Lookup,
        call: call::Call,
        split: split::Split,
        template: template::Template,
        emit: emit::Emit,
        log: log::Log,
        decode: decode::Decode,
        encode: encode::Encode,
    }
}

/// The codes of findings that only steps make.
pub mod codes {
    use crate::diagnostic::Code;

    /// An answer that nobody uses.
    pub const UNUSED_ANSWER: Code = Code {
        name: "unused-answer",
        meaning: "A `call` that only reads neither binds its answer nor checks it.",
    };

    /// All of them, for the reference.
    pub const ALL: &[Code] = &[UNUSED_ANSWER];
}
