//! Who may do what: rights, the roles that have them, and the one function that decides. What nobody has been given nobody may.

use std::sync::Arc;

use crate::store::audit::Acting;

/// What somebody may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// See flows, runs, exceptions, books, systems and revisions, without bodies.
    Metadata,
    /// See bodies, requests and answers.
    Payload,
    /// See what is personal in them, when they say that they want to.
    Personal,
    /// Take what is personal out of messages that have ended.
    Erase,
    /// Take an exception, leave notes, put it off.
    Note,
    /// Let one message go on.
    Retry,
    /// Let a message go on with another body.
    Edit,
    /// Act on many at once, and do what ends or leaves out something: discard, skip, by hand, replays.
    Operate,
    /// Load the project anew, roll back, lift.
    Deploy,
    /// Act on more at once than `BULK_MAX`.
    Approve,
    /// Read the audit log, and prove it.
    Audit,
    /// Make and revoke tokens, and end sessions of people.
    Tokens,
}

/// How many exceptions or runs one request may be about without the right `approve`.
pub const BULK_MAX: u64 = 1_000;

/// A name for some rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Customer service, finance: looks into messages, leaves notes, lets one go on.
    Business,
    /// Keeps it running.
    Operator,
    /// Changes the project, too.
    Engineer,
    /// Lets through what is large.
    Approver,
    /// Sees everything, and changes nothing.
    Auditor,
    /// Answers for personal data: sees it, and takes it out.
    Privacy,
    /// May do everything.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Right; 12] = [
        Right::Metadata,
        Right::Payload,
        Right::Personal,
        Right::Erase,
        Right::Note,
        Right::Retry,
        Right::Edit,
        Right::Operate,
        Right::Deploy,
        Right::Approve,
        Right::Audit,
        Right::Tokens,
    ];

    /// The name in the document and in refusals.
    pub fn name(self) -> &'static str {
        match self {
            Right::Metadata => "metadata",
            Right::Payload => "payload",
            Right::Personal => "personal",
            Right::Erase => "erase",
            Right::Note => "note",
            Right::Retry => "retry",
            Right::Edit => "edit",
            Right::Operate => "operate",
            Right::Deploy => "deploy",
            Right::Approve => "approve",
            Right::Audit => "audit",
            Right::Tokens => "tokens",
        }
    }
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 8] = [
        Role::Viewer,
        Role::Business,
        Role::Operator,
        Role::Engineer,
        Role::Approver,
        Role::Auditor,
        Role::Privacy,
        Role::Admin,
    ];

    /// The name on the command line and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Business => "business",
            Role::Operator => "operator",
            Role::Engineer => "engineer",
            Role::Approver => "approver",
            Role::Auditor => "auditor",
            Role::Privacy => "privacy",
            Role::Admin => "admin",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// What it may do.
    pub fn rights(self) -> &'static [Right] {
        use Right::{
            Approve, Audit, Deploy, Edit, Erase, Metadata, Note, Operate, Payload, Personal, Retry,
            Tokens,
        };
        match self {
            Role::Viewer => &[Metadata],
            Role::Business => &[Metadata, Payload, Note, Retry],
            Role::Operator => &[Metadata, Payload, Note, Retry, Edit, Operate],
            Role::Engineer => &[Metadata, Payload, Note, Retry, Edit, Operate, Deploy],
            Role::Approver => &[Metadata, Payload, Note, Approve],
            Role::Auditor => &[Metadata, Payload, Personal, Audit],
            Role::Privacy => &[Metadata, Payload, Personal, Erase],
            Role::Admin => &[
                Metadata, Payload, Personal, Erase, Note, Retry, Edit, Operate, Deploy, Approve,
                Audit, Tokens,
            ],
        }
    }
}

/// Somebody who is known, and what they may do.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The name, and how they came.
    pub acting: Acting,
    /// What they may do.
    pub roles: Vec<Role>,
    /// For which flows: names, with `*` for any letters. `*` alone is everything, also what belongs to no flow.
    pub flows: Arc<[String]>,
    /// Until when that holds, in milliseconds since 1970; `None`: as long as the connection lasts.
    pub until_ms: Option<i64>,
    /// The hash of the browser's session by which they are known, if it is one.
    pub session: Option<[u8; 32]>,
}

/// What is acted on.
#[derive(Clone, Copy, Debug)]
pub enum Object<'o> {
    /// A flow, or what belongs to it: a run, an exception.
    Flow(&'o str),
    /// Things of flows that are not known yet: each is asked for by itself.
    Flows,
    /// What belongs to no flow: the project, the tokens, the audit log.
    Whole,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None of their roles has this right.
    Right(Right),
    /// It concerns all flows, and they have some.
    Scope,
    /// The object is not theirs: for them it is not there.
    NotThere,
}

/// Decides whether an actor may do something to an object. There is no other place that does.
pub fn authorise(actor: &Actor, right: Right, object: Object<'_>) -> Result<(), Refusal> {
    if let Object::Flow(flow) = object
        && !actor.flows.iter().any(|pattern| matches(pattern, flow))
    {
        return Err(Refusal::NotThere);
    }
    if !actor
        .roles
        .iter()
        .any(|role| role.rights().contains(&right))
    {
        return Err(Refusal::Right(right));
    }
    match object {
        Object::Whole if !actor.flows.iter().any(|pattern| pattern == "*") => Err(Refusal::Scope),
        _ => Ok(()),
    }
}

/// Whether a pattern stands for a name: `*` for any letters, all others for themselves.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What is wrong with a pattern for flows, if something is.
pub fn pattern_fault(pattern: &str) -> Option<String> {
    let known = |letter: char| letter.is_alphanumeric() || "-_.*".contains(letter);
    let good = !pattern.is_empty() && pattern.len() <= 100 && pattern.chars().all(known);
    (!good).then(|| {
        format!("`{pattern}` is no pattern for flows; write a name, with `*` for any letters: `orders-*`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(roles: &[Role], flows: &[&str]) -> Actor {
        Actor {
            acting: Acting::user("anna"),
            roles: roles.to_vec(),
            flows: flows.iter().map(|flow| (*flow).to_owned()).collect(),
            until_ms: None,
            session: None,
        }
    }

    #[test]
    fn patterns_stand_for_names() {
        for (pattern, name, stands) in [
            ("orders", "orders", true),
            ("orders", "orders-eu", false),
            ("orders-*", "orders-eu", true),
            ("*-eu", "orders-eu", true),
            ("o*d*s", "orders", true),
            ("a*a", "a", false),
            ("*", "", true),
            ("", "orders", false),
        ] {
            assert_eq!(matches(pattern, name), stands, "{pattern} {name}");
        }
        assert!(pattern_fault("orders-*").is_none() && pattern_fault("a,b").is_some());
    }

    #[test]
    fn nobody_may_what_no_role_gives_and_what_is_not_theirs_is_not_there() {
        let nobody = actor(&[], &["*"]);
        for right in Right::ALL {
            let refused = authorise(&nobody, right, Object::Flows);
            assert_eq!(refused, Err(Refusal::Right(right)));
            assert!(authorise(&actor(&[Role::Admin], &["*"]), right, Object::Whole).is_ok());
        }
        let scoped = actor(&[Role::Admin], &["orders-*"]);
        let ask = |right, object| authorise(&scoped, right, object);
        assert!(ask(Right::Retry, Object::Flow("orders-eu")).is_ok());
        let foreign = ask(Right::Retry, Object::Flow("stock"));
        assert_eq!(foreign, Err(Refusal::NotThere));
        assert_eq!(ask(Right::Audit, Object::Whole), Err(Refusal::Scope));
        // Who may not, and whose it is not, learns that it is not there.
        let viewer = actor(&[Role::Viewer], &["orders"]);
        let both = authorise(&viewer, Right::Retry, Object::Flow("stock"));
        assert_eq!(both, Err(Refusal::NotThere));
    }

    #[test]
    fn only_the_admin_has_every_right() {
        for role in Role::ALL {
            assert_eq!(Role::from_name(role.name()), Some(role));
            let all = role.rights().len() == Right::ALL.len();
            assert_eq!(all, role == Role::Admin, "{role:?}");
        }
        let changes = [
            Right::Retry,
            Right::Edit,
            Right::Operate,
            Right::Deploy,
            Right::Tokens,
            Right::Erase,
        ];
        for role in [Role::Viewer, Role::Auditor] {
            assert!(!role.rights().iter().any(|right| changes.contains(right)));
        }
    }
}
