//! Steps: what happens to messages on the way. The contract and the registry; they do not know sinks.

use std::sync::Arc;

use crate::component::waiting::Waiting;
use crate::component::{Claiming, Effect, Pure, components};

pub mod r#await;
#[cfg(test)]
pub(crate) mod bench;
mod cache;
pub mod call;
pub mod collect;
pub mod decode;
pub mod dedupe;
pub mod delay;
pub mod emit;
pub mod encode;
pub mod filter;
pub mod log;
pub mod lookup;
pub mod map;
pub mod newest;
pub mod resequence;
pub mod set;
pub mod split;
pub mod template;
pub mod throttle;
pub(crate) mod undo;
pub mod validate;

/// A step, ready to run.
pub enum Ready {
    /// No outside effect: fuses with its neighbours.
    Pure(Box<dyn Pure>),
    /// Acts on the outside: a stage of its own.
    Effect(Arc<dyn Effect>),
    /// Lets only the first with a key go on, or the newest: a stage of its own, because the store is asked.
    Claim(Arc<dyn Claiming>),
    /// Lets messages wait durably: a stage of its own.
    Wait(Waiting),
}

components! {
    /// The kinds of steps. `branch`, `saga` and `use` are structure, not kinds.
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
        dedupe: dedupe::Dedupe,
        newest: newest::Newest,
        delay: delay::Delay,
        throttle: throttle::Throttle,
        awaits as "await": r#await::Await,
        collect: collect::Collect,
        resequence: resequence::Resequence,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Registry;
    use crate::diagnostic::{File, Findings};
    use crate::sink::SinkKind;
    use crate::yaml;

    /// Parses every example of a registry: its entry is a list's item or a mapping's value.
    fn check<R: Registry>() {
        for kind in R::KINDS {
            let file = File::new("example.yaml", kind.example);
            let mut findings = Findings::new();
            let node = yaml::parse(&file, &mut findings).unwrap();
            let entry = match node.items() {
                [entry] => entry,
                _ => &node.entries()[0].1,
            };
            let config = entry.get(kind.name).unwrap();
            let parsed = R::parse(kind.name, config.to_json()).unwrap();
            assert!(findings.is_empty() && parsed.is_ok(), "{}", kind.example);
        }
    }

    #[test]
    fn examples_are_entries() {
        check::<StepKind>();
        check::<SinkKind>();
    }
}
