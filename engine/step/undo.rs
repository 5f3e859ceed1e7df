//! The undo of a saga's step: a request of its own, beside the step that it undoes. Not a kind of step: nothing leads to it but a failure.

use std::sync::Arc;

use crate::component::codes;
use crate::component::common::{Common, Undo};
use crate::component::{Answer, Attempt, Build, Context, Effect, Probed, Promises, Request};
use crate::failure::{Class, Failure};
use crate::message::Message;
use crate::system::admission::Admission;
use crate::system::ask::{Ask, Wanted};
use crate::world::Pending;

/// What an undo's idempotency key ends with, so that no system takes it for the request that it undoes.
const KEY_END: &str = "~undo";

/// An undo, ready to run.
pub(crate) struct Ready {
    /// The request.
    pub(crate) effect: Arc<dyn Effect>,
    /// Whether it does no harm where there is nothing to undo.
    pub(crate) absent_ok: bool,
}

/// What the keys of an undo are to the request that it sends.
pub(crate) fn common(undo: &Undo) -> Common {
    Common {
        timeout: undo.timeout,
        probe: undo.probe.clone(),
        ..Common::default()
    }
}

/// Makes an undo ready; `system` is the step's.
pub(crate) fn build(undo: &Undo, system: &str, cx: &mut Build<'_>) -> Option<Ready> {
    let ask = Wanted {
        system: undo.system.as_deref().unwrap_or(system),
        verbs: &[
            ("delete", &undo.delete),
            ("post", &undo.post),
            ("put", &undo.put),
            ("patch", &undo.patch),
        ],
        headers: &undo.headers,
        map: undo.map.as_deref(),
        body: undo.body.as_ref(),
        content_type: undo.content_type.as_deref(),
        idempotency_key: undo.idempotency_key.as_ref(),
        kept: undo.kept,
        upsert: undo.upsert || undo.delete.is_some(),
    }
    .build(cx);
    let done_on = done_on(undo, cx)?;
    Some(Ready {
        absent_ok: done_on.contains(&Class::NotFound),
        effect: Arc::new(Undoing { ask: ask?, done_on }),
    })
}

fn done_on(undo: &Undo, cx: &mut Build<'_>) -> Option<Vec<Class>> {
    let Some(names) = &undo.done_on else {
        let absent = undo.delete.is_some().then_some(Class::NotFound);
        return Some(absent.into_iter().collect());
    };
    let classes: Option<Vec<Class>> = names.iter().map(|name| Class::from_name(name)).collect();
    let told = classes.as_ref().is_none_or(|classes| {
        let unclear = |class: &Class| class.retried_by_default() || *class == Class::Ambiguous;
        classes.iter().any(unclear)
    });
    if told {
        let message =
            "`done_on` takes failure classes by which the target says that nothing is there";
        let help = "such as `not_found`, `conflict` or `validation`";
        cx.error(codes::BAD_VALUE, &["done_on"], message, help);
        return None;
    }
    classes
}

/// A request that undoes.
struct Undoing {
    ask: Ask,
    done_on: Vec<Class>,
}

impl Effect for Undoing {
    fn promises(&self) -> Promises {
        self.ask.promises()
    }

    fn admission(&self) -> Option<&Arc<Admission>> {
        self.ask.admission()
    }

    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<Request, Failure> {
        let mut request = self.ask.prepare(message, cx)?;
        request.idempotency_key = request.idempotency_key.map(|key| format!("{key}{KEY_END}"));
        Ok(request)
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            match self.ask.perform(request).await {
                Attempt::NotApplied(failure) if self.done_on.contains(&failure.class) => {
                    Attempt::Applied(nothing_there(&failure))
                }
                attempt => attempt,
            }
        })
    }

    fn probe<'a>(&'a self, message: &'a Message, request: &'a Request) -> Pending<'a, Probed> {
        self.ask.probe(message, request)
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

/// What is stored where the target said that there is nothing to undo.
fn nothing_there(failure: &Failure) -> Answer {
    let said = serde_json::json!({ "nothing_to_undo": failure.to_string() });
    Answer {
        bytes: said.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::diagnostic::Findings;
    use crate::step::bench::Bench;
    use crate::system::stub::{Reply, Stub, answer};

    async fn stub() -> Stub {
        Stub::start(|seen| {
            let line = seen.head.lines().next().unwrap_or_default().to_owned();
            Reply::Bytes(match line.split(' ').nth(1).unwrap_or_default() {
                "/reservations/7" => answer(204, "", ""),
                "/labels/7/void" => answer(409, "", "void"),
                _ => answer(404, "", "unknown"),
            })
        })
        .await
    }

    /// Builds an undo of a step of the system `erp`; its findings as `code`.
    fn built(bench: &Bench, text: &str) -> (Option<Ready>, Vec<&'static str>) {
        let (file, node, mut findings) = crate::step::bench::parsed(text);
        let undo: Undo = serde_json::from_value(node.to_json()).unwrap();
        let mut variables = std::collections::BTreeSet::from(["reservation".to_owned()]);
        let keys = std::collections::BTreeSet::new();
        let mut found = Findings::new();
        let mut cx = Build {
            file: &file,
            node: &node,
            common: &common(&undo),
            library: &bench.library,
            flow: "orders",
            high: false,
            variables: &mut variables,
            keys: &keys,
            accepts: None,
            used_at: None,
            findings: &mut found,
        };
        let ready = build(&undo, "erp", &mut cx);
        findings.extend(found);
        let codes = findings.iter().map(|finding| finding.code.name).collect();
        (ready, codes)
    }

    async fn undone(stub: &Stub, text: &str) -> Result<(), Class> {
        let bench = Bench::new().system(&stub.system("", ""));
        let (ready, found) = built(&bench, text);
        assert!(found.is_empty(), "{found:?}");
        let mut message = bench.message("{}");
        message.bind("reservation", Body::new(r#"{"id":7}"#));
        let effect = ready.unwrap().effect;
        let request = effect.prepare(&message, &bench.cx()).unwrap();
        match effect.perform(&request).await {
            Attempt::Applied(_) | Attempt::Instead(..) => Ok(()),
            Attempt::NotApplied(failure) | Attempt::Unknown(failure) | Attempt::Held(failure) => {
                Err(failure.class)
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_undone_where_the_undo_says_so() {
        let stub = stub().await;
        for (text, expect) in [
            ("delete: '/reservations/{{@reservation.id}}'", Ok(())),
            ("delete: /gone", Ok(())),
            ("{ delete: /gone, done_on: [] }", Err(Class::NotFound)),
            ("post: /gone", Err(Class::NotFound)),
            ("post: /labels/7/void", Err(Class::Conflict)),
            ("{ post: /labels/7/void, done_on: [conflict] }", Ok(())),
        ] {
            assert_eq!(undone(&stub, text).await, expect, "{text}");
        }
    }

    #[tokio::test]
    async fn an_undo_promises_what_its_request_does_and_has_a_key_of_its_own() {
        let stub = stub().await;
        let bench = Bench::new().system(&stub.system("", ""));
        let ready = |text: &str| built(&bench, text).0.unwrap();
        assert!(ready("delete: /x").effect.promises().safe);
        assert!(ready("delete: /x").absent_ok);
        assert!(!ready("post: /x").effect.promises().safe);
        assert!(!ready("post: /x").absent_ok);
        let keyed = ready("{ post: /x, idempotency_key: n }").effect;
        let mut message = bench.message(r#"{"n":"A"}"#);
        let key = |message: &Message| {
            let request = keyed.prepare(message, &bench.cx()).unwrap();
            request.idempotency_key
        };
        assert_eq!(key(&message).as_deref(), Some("A~undo"));
        message.generation = 2;
        assert_eq!(key(&message).as_deref(), Some("A~2~undo"));
    }

    #[tokio::test]
    async fn mistakes_are_found() {
        let stub = stub().await;
        let bench = Bench::new().system(&stub.system("", ""));
        for (text, expect) in [
            ("system: erp", "conflicting-settings"),
            ("{ delete: /x, post: /x }", "conflicting-settings"),
            ("{ delete: /x, system: crm }", "unknown-system"),
            ("{ delete: /x, done_on: [gone] }", "bad-value"),
            ("{ delete: /x, done_on: [timeout] }", "bad-value"),
        ] {
            let (ready, found) = built(&bench, text);
            assert!(ready.is_none(), "{text}");
            assert_eq!(found, [expect], "{text}");
        }
    }
}
