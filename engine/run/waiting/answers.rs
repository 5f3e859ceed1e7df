//! `await`: a message goes on with its answer, or fails when none has come in time. The store finds and keeps answers; here they are looked
//! at where a step is choosy, and bound.

use super::{Batch, WaitStage};
use crate::body::Body;
use crate::component::waiting::Awaiting;
use crate::failure::{Class, Failure};
use crate::handoff::Hop;
use crate::message::Message;
use crate::run::stage::guarded;
use crate::run::turn::Finished;
use crate::run::walk::Walked;
use crate::store::commit::{Commit, Trail};
use crate::store::waits::{Answer, Ask, Asked};

/// A message with what it asks for.
struct Asking {
    hop: Hop,
    ask: Ask,
}

impl WaitStage {
    pub(super) async fn answers(&self, awaiting: &Awaiting) {
        while let Some(hops) = self.take(self.shared.batch_max).await {
            let mut asking = Vec::with_capacity(hops.len());
            let mut batch = Batch::default();
            for hop in hops {
                match self.ask(&hop, |message, _| value_of(awaiting, message)) {
                    Ok(value) => asking.push(self.asking(awaiting, hop, value)),
                    Err(walked) => {
                        let finished = self.over(&hop, *walked);
                        batch.add(hop, finished);
                    }
                }
            }
            while !asking.is_empty() {
                match self.ask_all(&asking).await {
                    Ok(verdicts) => {
                        let asked = std::mem::take(&mut asking);
                        for (one, verdict) in asked.into_iter().zip(verdicts) {
                            match self.act(awaiting, one, verdict) {
                                Next::Settle(hop, finished) => batch.add(hop, *finished),
                                Next::Ask(again) => asking.push(again),
                                Next::Nothing => {}
                            }
                        }
                    }
                    Err(failure) => {
                        let hops = asking.drain(..).map(|one| one.hop).collect();
                        self.refused(hops, &failure).await;
                    }
                }
            }
            self.settle(batch).await;
        }
    }

    fn asking(&self, awaiting: &Awaiting, hop: Hop, value: String) -> Asking {
        let ask = Ask {
            hop: hop.hop,
            fence: hop.fence,
            run: hop.run,
            message: hop.message.id,
            flow: self.plan.flow.clone(),
            step: hop.step.clone(),
            awaited: awaiting.from.clone(),
            name: awaiting.key.clone(),
            value,
            within_ms: awaiting.within_ms,
            choosy: awaiting.matches.is_some(),
            unwanted: Vec::new(),
            wanted: None,
        };
        Asking { hop, ask }
    }

    async fn ask_all(&self, asking: &[Asking]) -> Result<Vec<Asked>, Failure> {
        for one in asking {
            // Its answer may come, and wake it, as soon as it waits.
            self.shared.handoff.waits(one.hop.hop);
        }
        let commit = Commit {
            asks: asking.iter().map(|one| one.ask.clone()).collect(),
            ..Commit::default()
        };
        Ok(self.shared.commit(commit).await?.asks)
    }

    fn act(&self, awaiting: &Awaiting, mut asking: Asking, verdict: Asked) -> Next {
        let Asking { hop, ask } = &mut asking;
        match verdict {
            Asked::Answered(answer) => {
                let finished = self.answered(awaiting, hop, answer);
                Next::Settle(asking.hop, Box::new(finished))
            }
            Asked::Offered(answer) => {
                let wanted = self.ask(hop, |message, cx| {
                    let body = answer.body.clone().unwrap_or_default();
                    awaiting.wants(message, Body::new(body), cx)
                });
                match wanted {
                    Ok(true) => ask.wanted = Some(answer.run),
                    Ok(false) => ask.unwanted.push(answer.run),
                    Err(walked) => {
                        let finished = self.over(hop, *walked);
                        return Next::Settle(asking.hop, Box::new(finished));
                    }
                }
                Next::Ask(asking)
            }
            Asked::Waits(until_ms) => {
                self.shared.handoff.rests(hop.hop);
                self.shared.bell.due_at(until_ms);
                Next::Nothing
            }
            Asked::Over => {
                let finished = self.over(hop, self.unanswered(awaiting, hop, &ask.value));
                Next::Settle(asking.hop, Box::new(finished))
            }
            Asked::Gone => {
                self.shared.handoff.ended(hop.hop);
                Next::Nothing
            }
        }
    }

    fn answered(&self, awaiting: &Awaiting, hop: &Hop, answer: Answer) -> Finished {
        let mut message = hop.message.clone();
        let walked = match (&awaiting.into, answer.body) {
            (Some(into), Some(body)) => {
                message.bind(into.clone(), Body::new(body));
                self.goes_on_as(hop, message)
            }
            (Some(_), None) => {
                let what = format!(
                    "the body of the answer, run {}, is no longer kept",
                    answer.run.0
                );
                self.fails(hop, message, Failure::new(Class::NotFound, what))
            }
            (None, _) => self.goes_on_as(hop, message),
        };
        let mut finished = self.over(hop, walked);
        let line = Trail {
            at_ms: self.shared.world.clock.now_ms(),
            step: hop.step.clone(),
            what: "answered",
            detail: Some(format!("by run {} of {}", answer.run.0, awaiting.from)),
            hash: None,
        };
        finished.end.trail.insert(0, line);
        finished
    }

    fn unanswered(&self, awaiting: &Awaiting, hop: &Hop, value: &str) -> Walked {
        let mut message = hop.message.clone();
        if let Some(into) = &awaiting.into {
            message.bind(into.clone(), Body::new("null"));
        }
        let within = crate::component::words::Duration {
            ms: u64::try_from(awaiting.within_ms).unwrap_or(0),
        };
        let what = format!(
            "no message of `{}` with {} `{value}` came within {within}",
            awaiting.from, awaiting.key
        );
        self.fails(hop, message, Failure::new(Class::Timeout, what))
    }

    /// What a failure of the step leads to.
    pub(super) fn fails(&self, hop: &Hop, message: Message, failure: Failure) -> Walked {
        guarded(&self.plan, self.node, &hop.message, |walker| {
            walker.fail(self.node, message, failure)
        })
    }
}

/// What follows a verdict of the store.
enum Next {
    /// The hop ends.
    Settle(Hop, Box<Finished>),
    /// It has looked at an answer, and asks again.
    Ask(Asking),
    /// It waits, or is not there any more.
    Nothing,
}

fn value_of(awaiting: &Awaiting, message: &Message) -> Result<String, Failure> {
    let value = message.keys.get(&awaiting.key);
    let value = value.filter(|value| !value.is_empty()).cloned();
    value.ok_or_else(|| {
        Failure::validation(format!(
            "the key `{}` is null or empty, and `await` needs it",
            awaiting.key
        ))
    })
}
