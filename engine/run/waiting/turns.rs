//! `resequence`: messages go on in the order of their numbers. The store says whose turn it is, and moves it with the end of the hop that had it.

use super::groups::because;
use super::{Batch, WaitStage};
use crate::component::waiting::Numbered;
use crate::component::words::Duration;
use crate::failure::{Class, Failure};
use crate::handoff::Hop;
use crate::run::accept::hash;
use crate::run::turn::Finished;
use crate::run::walk::{Ended, Walked};
use crate::store::commit::Commit;
use crate::store::sequences::{Number, Pass, Sequence, Turned};

impl WaitStage {
    pub(super) async fn turns(&self, numbered: &Numbered) {
        while let Some(hops) = self.take(self.shared.batch_max).await {
            let mut batch = Batch::default();
            let (mut asking, mut numbers) = (Vec::new(), Vec::new());
            for hop in hops {
                match self.ask(&hop, |message, cx| numbered.of(message, cx)) {
                    Ok((key, number)) => {
                        numbers.push(self.number(numbered, &hop, key, number));
                        asking.push(hop);
                    }
                    Err(walked) => {
                        let finished = self.over(&hop, *walked);
                        batch.add(hop, finished);
                    }
                }
            }
            for hop in &asking {
                // The one before it may have its turn, and wake it, as soon as it waits.
                self.shared.handoff.waits(hop.hop);
            }
            let commit = Commit {
                numbers: numbers.clone(),
                ..Commit::default()
            };
            match self.shared.commit(commit).await {
                Ok(committed) => {
                    let verdicts = committed.numbers.into_iter();
                    for ((hop, number), turned) in asking.into_iter().zip(numbers).zip(verdicts) {
                        self.turn(&mut batch, hop, number, turned);
                    }
                }
                Err(failure) => self.refused(asking, &failure).await,
            }
            self.settle(batch).await;
        }
    }

    fn number(&self, numbered: &Numbered, hop: &Hop, key: String, number: i64) -> Number {
        Number {
            sequence: Sequence {
                flow: self.plan.flow.clone(),
                step: hop.step.clone(),
                key,
            },
            hop: hop.hop,
            fence: hop.fence,
            run: hop.run,
            number,
            hash: hash(hop.message.body.bytes()),
            from: numbered.from,
            within_ms: numbered.within_ms,
            most: numbered.most,
            skip: numbered.skip,
        }
    }

    /// What follows for a message.
    fn turn(&self, batch: &mut Batch, hop: Hop, number: Number, turned: Turned) {
        match turned {
            Turned::Goes(skipped) => {
                let mut finished = self.over(&hop, self.goes_on(&hop));
                if let Some((from, to)) = skipped {
                    let missing = ranges(&[(from, to)]);
                    let within = words(number.within_ms);
                    let what = format!(
                        "{missing} of `{}`, not here after {within}",
                        number.sequence.key
                    );
                    self.note(&mut finished, "skipped", what);
                }
                batch.passes.push(Pass {
                    end: batch.finished.len(),
                    sequence: number.sequence,
                    number: number.number,
                });
                batch.add(hop, finished);
            }
            Turned::Waits(until_ms) => {
                self.shared.handoff.rests(hop.hop);
                self.shared.bell.due_at(until_ms);
            }
            Turned::Gone => self.shared.handoff.ended(hop.hop),
            Turned::Old(next) => {
                let why = format!("number {} is old: it is the turn of {next}", number.number);
                let finished = self.filtered(&hop, &why);
                batch.add(hop, finished);
            }
            Turned::Same => {
                let why = format!("number {} waits already", number.number);
                let finished = self.filtered(&hop, &why);
                batch.add(hop, finished);
            }
            failed @ (Turned::Differs(_) | Turned::Full | Turned::Gap(_)) => {
                let failure = failure(&number, &failed);
                let finished = self.over(&hop, self.fails(&hop, hop.message.clone(), failure));
                batch.add(hop, finished);
            }
        }
    }

    fn filtered(&self, hop: &Hop, why: &str) -> Finished {
        let walked = Walked {
            ended: vec![Ended::Filtered(self.node)],
            ..Walked::default()
        };
        let mut finished = self.over(hop, walked);
        because(&mut finished, "filtered", why);
        finished
    }
}

fn failure(number: &Number, turned: &Turned) -> Failure {
    let key = &number.sequence.key;
    match turned {
        Turned::Differs(run) => Failure::new(
            Class::Conflict,
            format!(
                "number {} of `{key}` came twice, with other content: run {} has the other",
                number.number, run.0
            ),
        ),
        Turned::Gap(missing) => Failure::new(
            Class::Timeout,
            format!(
                "number {} of `{key}` has waited {} for {}, which did not come",
                number.number,
                words(number.within_ms),
                ranges(missing)
            ),
        ),
        _ => Failure::new(
            Class::TooLarge,
            format!(
                "{} messages of `{key}` wait for their turn, and no more may",
                number.most
            ),
        ),
    }
}

fn words(ms: i64) -> Duration {
    Duration {
        ms: u64::try_from(ms).unwrap_or(0),
    }
}

/// `5, 7 to 9`.
fn ranges(missing: &[(i64, i64)]) -> String {
    let ranges: Vec<String> = missing
        .iter()
        .map(|(from, to)| match from == to {
            true => from.to_string(),
            false => format!("{from} to {to}"),
        })
        .collect();
    ranges.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(ranges(&[(5, 5), (7, 9)]), "5, 7 to 9");
    }
}
