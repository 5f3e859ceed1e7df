//! One commit, applied inside the writer's transaction: each of its parts goes to its noun. What can be refused is checked before anything
//! is written, so that a refused commit leaves nothing behind.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::failure::{Class, Failure};

use super::claims::{self, Standing};
use super::commit::{
    Accepted, Commit, Committed, DOOR, EffectState, End, First, NewException, NewRun, Turn,
};
use super::database::{Connection, Sql};
use super::writer::Writing;
use super::{
    announcements, answers, approvals, audit, calls, canaries, chains, clock, cursors, decisions,
    effects, erasure, exceptions, facts, groups, hops, journeys, notices, replays, reruns,
    revisions, runs, sagas, sequences, sessions, shadows, systems, together, toggles, tokens,
    versions, waits,
};

/// Applies a commit. The inner failure refuses this commit alone and means that nothing of it was written.
pub(super) fn apply(writing: &mut Writing<'_>, commit: &Commit) -> Sql<Result<Committed, Failure>> {
    if let Some((flow, progress)) = &commit.progress
        && let Err(failure) = cursors::advance(writing.connection, flow, progress)?
    {
        return Ok(Err(failure));
    }
    if let Err(failure) = groups::closable(writing.connection, &commit.closes)? {
        return Ok(Err(failure));
    }
    let mut committed = Committed::default();
    together::accepts(writing, commit)?;
    for run in &commit.accepts {
        committed.accepts.push(accept(writing, run)?);
    }
    together::ends(writing, &commit.ends)?;
    for one in &commit.ends {
        let (applied, accepts) = end(writing, one)?;
        committed.ends.push(applied);
        committed.ends_accepts.push(accepts);
    }
    for pass in &commit.passes {
        if committed.ends.get(pass.end) == Some(&true) {
            sequences::pass(writing, pass)?;
        }
    }
    for close in &commit.closes {
        groups::close(writing, close)?;
    }
    for (run, claim) in &commit.claims {
        committed.claims.push(claims::first(writing, *run, claim)?);
    }
    for intent in &commit.sagas {
        sagas::intend(writing, intent)?;
    }
    for sighting in &commit.sightings {
        committed.sightings.push(versions::see(writing, sighting)?);
    }
    committed.intents = effects::intend(writing, &commit.intents)?;
    waiting(writing, commit, &mut committed)?;
    for outcome in &commit.outcomes {
        effects::settle(writing, outcome)?;
    }
    if let Some((flow, number)) = &commit.refused {
        let number = i64::try_from(*number).unwrap_or(i64::MAX);
        let counts = writing.books.of(flow);
        counts.received += number;
        counts.refused += number;
    }
    of_systems(writing, commit)?;
    if let Some((due_at_ms, limit)) = commit.release {
        if let Connection::Sqlite(_) = writing.connection {
            clock::note(writing.connection, writing.now_ms)?;
        }
        committed.released = hops::release(writing, due_at_ms, limit)?;
    }
    by_handoff(writing, commit)?;
    by_people(writing, commit, &mut committed)?;
    committed.released.append(&mut writing.released);
    committed.ended.append(&mut writing.ended);
    Ok(Ok(committed))
}

/// How systems are, and what need not wait for them any more.
fn of_systems(writing: &Writing<'_>, commit: &Commit) -> Sql<()> {
    if let Some((steps, states)) = &commit.system_steps {
        systems::replace_steps(writing, steps, states)?;
    }
    for state in &commit.systems {
        systems::put(writing, state)?;
    }
    for state in &commit.systems_still {
        systems::still(writing, state)?;
    }
    for (flow, step) in &commit.hurry {
        hops::hurry(writing, flow, step)?;
    }
    Ok(())
}

/// What a hand-off outside of the store keeps in it.
fn by_handoff(writing: &Writing<'_>, commit: &Commit) -> Sql<()> {
    for (flow, step) in &commit.forget {
        announcements::forget(writing, flow, step)?;
    }
    for hop in &commit.announced {
        announcements::note(writing, *hop)?;
    }
    for fact in &commit.facts {
        facts::set(writing, fact)?;
    }
    Ok(())
}

/// What people have decided, and what is told to them.
fn by_people(writing: &mut Writing<'_>, commit: &Commit, committed: &mut Committed) -> Sql<()> {
    let mut taken = true;
    for change in &commit.approvals {
        let applied = approvals::change(writing, change)?;
        taken &= applied.is_some() || !change.takes();
        committed.approvals.push(applied);
    }
    if !taken {
        return audit::write(writing, commit, committed);
    }
    for change in &commit.replays {
        let applied = replays::change(writing, change)?;
        taken &= applied.is_some() || !change.takes();
        committed.replays.push(applied);
    }
    if taken {
        for decision in &commit.decisions {
            let (decided, ready) = decisions::decide(writing, decision)?;
            committed.decisions.push(decided);
            committed.released.extend(ready);
        }
        for rerun in &commit.reruns {
            let (begun, ready) = reruns::rerun(writing, rerun)?;
            committed.reruns.push(begun);
            committed.released.extend(ready);
        }
    }
    approvals::counted(writing, commit, committed)?;
    for change in &commit.revisions {
        revisions::change(writing, change)?;
    }
    for change in &commit.canaries {
        canaries::change(writing, change)?;
    }
    for change in &commit.shadows {
        shadows::change(writing, change)?;
    }
    for change in &commit.toggles {
        toggles::change(writing, change)?;
    }
    calls::note(writing, &commit.calls)?;
    for change in &commit.notices {
        notices::change(writing, change)?;
    }
    if let Some(now_ms) = commit.wake {
        decisions::wake(writing, now_ms)?;
    }
    if let Some(erasure) = &commit.erase {
        committed.erased = Some(erasure::erase(writing, erasure)?);
    }
    for change in &commit.tokens {
        committed.tokens.push(tokens::change(writing, change)?);
    }
    for change in &commit.sessions {
        sessions::change(writing, change)?;
    }
    for change in &commit.answers {
        committed.answers.push(answers::change(writing, change)?);
    }
    audit::write(writing, commit, committed)
}

/// Messages that ask for what they wait for.
fn waiting(writing: &mut Writing<'_>, commit: &Commit, committed: &mut Committed) -> Sql<()> {
    for ask in &commit.asks {
        committed.asks.push(waits::ask(writing, ask)?);
    }
    for join in &commit.joins {
        committed.joins.push(groups::join(writing, join)?);
    }
    let mut given = sequences::Given::default();
    for number in &commit.numbers {
        let turned = sequences::number(writing, number, &mut given)?;
        committed.numbers.push(turned);
    }
    Ok(())
}

fn accept(writing: &mut Writing<'_>, run: &NewRun) -> Sql<Accepted> {
    match claims::take(writing, run.run, &run.claims, run.version.as_ref())? {
        Standing::Free => match &run.first {
            First::Hop(hop) => {
                runs::insert(writing, run, false)?;
                journeys::insert_keys(writing, run)?;
                let ahead = chains::join(writing, run)?;
                hops::insert(writing, hop, None)?;
                waits::arrived(writing, run)?;
                let Some(ahead) = ahead else {
                    return Ok(Accepted::New);
                };
                hops::hold(writing, hop.hop)?;
                Ok(Accepted::Held(ahead))
            }
            First::Exception(exception) => {
                except(writing, run, exception)?;
                Ok(Accepted::New)
            }
        },
        Standing::Repeat(first) => {
            let counts = writing.books.of(&run.flow);
            counts.received += 1;
            counts.duplicates += 1;
            Ok(Accepted::Duplicate(first))
        }
        Standing::Refused(first) => {
            let counts = writing.books.of(&run.flow);
            counts.received += 1;
            counts.refused += 1;
            Ok(Accepted::Refused(first))
        }
        Standing::Differs(first) => {
            except(writing, run, &changed(run, &first))?;
            runs::changes(writing, run.run, first.run)?;
            Ok(Accepted::Changed(first.run))
        }
    }
}

/// A message that begins as an exception. It has its place in its chains: what comes behind it waits, unless its flow lets it pass.
fn except(writing: &mut Writing<'_>, run: &NewRun, exception: &NewException) -> Sql<()> {
    runs::insert(writing, run, true)?;
    exceptions::insert(writing, &run.flow, run.run, exception)?;
    journeys::insert_keys(writing, run)?;
    if !run.chains.is_empty() {
        chains::join(writing, run)?;
        chains::pass(writing, run.run)?;
    }
    Ok(())
}

/// What a person must know about a message whose key is known and whose content is not.
fn changed(run: &NewRun, first: &claims::First) -> NewException {
    let at = Timestamp::from_millisecond(first.received_at_ms).unwrap_or_default();
    NewException {
        step: DOOR.into(),
        class: Class::Duplicate,
        message: format!(
            "`{}` was accepted before with other content: run {}, message {}, at {at}",
            first.key, first.run.0, first.message
        ),
        detail: Some(
            "compare the two; if the change counts, correct it at the target or send it under a new key"
                .to_owned(),
        ),
        fingerprint: format!("1-duplicate-{}", run.flow),
        attempts: 0,
        at: run.message,
        body: None,
        envelope: None,
        request: None,
        answer: None,
    }
}

/// The hop itself ends, or waits. Gives whether it was there with this fence.
fn turned(writing: &mut Writing<'_>, end: &End) -> Sql<bool> {
    match &end.turn {
        Turn::Over { .. } => together::end(writing, end),
        Turn::Wait {
            due_at_ms,
            attempt,
            failure,
        } => {
            let due_at_ms = writing.at(*due_at_ms);
            hops::wait(writing, end.hop, end.fence, due_at_ms, *attempt, failure)
        }
        Turn::Rest { due_at_ms, why } => {
            hops::rest(writing, end.hop, end.fence, writing.at(*due_at_ms), why)
        }
    }
}

fn end(writing: &mut Writing<'_>, end: &End) -> Sql<(bool, Vec<Accepted>)> {
    if !turned(writing, end)? {
        // Somebody else has moved the hop on. What this effect did is true all the same, and spares the other a second try.
        if let Some(outcome) = &end.effect
            && let EffectState::Done(_) = outcome.state
        {
            effects::settle(writing, outcome)?;
        }
        return Ok((false, Vec::new()));
    }
    // Before the leaves: whether something is there to be undone depends on it.
    if let Some(result) = &end.saga {
        sagas::settle(writing, result)?;
    }
    if let Some(outcome) = &end.effect {
        effects::settle(writing, outcome)?;
    }
    let mut trail = Cow::Borrowed(&end.trail);
    if let Turn::Over {
        next,
        doors,
        leaves,
    } = &end.turn
    {
        let next_ones = next.iter().map(|hop| (hop, end.revision.as_deref()));
        for (hop, revision) in next_ones.chain(doors.iter().map(|hop| (hop, None))) {
            hops::insert(writing, hop, revision)?;
        }
        let mut leaves = Cow::Borrowed(leaves);
        let mut follow = next.len();
        if leaves.iter().any(sagas::concerns) {
            let resolved = sagas::resolve(writing, end, &leaves)?;
            follow += resolved.follow.len();
            writing.released.extend(resolved.follow);
            trail.to_mut().extend(resolved.trail);
            leaves = Cow::Owned(resolved.leaves);
        }
        for leaf in leaves.iter() {
            if let super::commit::Leaf::Exception(exception) = leaf {
                exceptions::insert(writing, &end.flow, end.run, exception)?;
            }
        }
        if &*end.step != DOOR {
            runs::advance(writing, &end.flow, end.run, follow, &leaves)?;
        }
    }
    journeys::insert_lines(writing, end.run, end.hop, end.fence, &trail)?;
    let mut accepts = Vec::with_capacity(end.accepts.len());
    for run in &end.accepts {
        accepts.push(match reruns::handed_before(writing, end.run, run)? {
            Some(handed) => reruns::accept_again(writing, run, handed)?,
            None => accept(writing, run)?,
        });
    }
    Ok((true, accepts))
}
