//! Ship: a stream's mutations are merged, each once, in its order (R2, R11, R12, R16).
//!
//! The whole batch is checked before anything is merged, so a refusal leaves nothing behind. What is at or below the
//! watermark was merged before and is passed over. A chain hash over all that was shipped shows a region whose data is not
//! what it was.

use crate::home::command::{Change, KeyChange, Mutation, Ship};
use crate::home::epochs::known;
use crate::home::evidence::{Attempt, LOCAL, Phase};
use crate::home::ledger;
use crate::home::merge::Record;
use crate::home::reply::{Refused, Reply};
use crate::home::rows::{Draft, Rows};
use crate::home::state::{Home, Limits, Stream, StreamId, chained};
use crate::ids::{Digest, Epoch};
use crate::limits;

/// Merges what is new in a batch. The first that applies:
///
/// 1. the home is unknown
/// 2. too many mutations, or bytes: `TooMuch`
/// 3. whose stream it is: `Incarnation`, `NotInOrder`, `OtherEpoch`, `Over`, `NotActing`, `OtherIncarnation`
/// 4. a gap before it: `Gap`; another past: `Diverged`
/// 5. more than the stream has room for: `AfterSeal`; what no region writes: `Malformed`; a key of another home: `OtherHome`
/// 6. `Shipped`
pub(super) fn ship<R: Rows>(draft: &mut Draft<'_, R>, ship: &Ship) -> Result<Reply, R::Error> {
    let home = known!(draft, &ship.stream.home);
    if let Some(refused) = too_much(ship, &draft.context.limits).or_else(|| not_theirs(&home, &ship.stream)) {
        return Ok(Reply::Refused(refused));
    }
    let stream = draft.stream(&ship.stream)?;
    let (chain, new) = match continued(ship, &stream) {
        Ok(continued) => continued,
        Err(refused) => return Ok(Reply::Refused(refused)),
    };
    for (at, mutation) in new.iter() {
        if let Change::Key(change) = &mutation.change
            && let Some(refused) = other_home(draft, &ship.stream, change)?.or_else(|| malformed(*at, change))
        {
            return Ok(Reply::Refused(refused));
        }
    }
    let is_tail = !ship.stream.is_local() && ship.stream.epoch != home.epoch;
    let mut next = Stream { chain, ..stream };
    for (at, mutation) in &new {
        next.watermark = *at;
        match &mutation.change {
            Change::Seal => next.sealed = true,
            Change::Key(change) => merge(draft, &ship.stream, is_tail, change)?,
        }
    }
    draft.put_stream(ship.stream.clone(), Some(next));
    Ok(Reply::Shipped { watermark: next.watermark, merged: new.len() })
}

fn too_much(ship: &Ship, limits: &Limits) -> Option<Refused> {
    let (got, most) = (ship.mutations.len(), limits.mutations);
    if got > most {
        return Some(Refused::TooMuch { what: "mutations", got, most });
    }
    let (bytes, most) = (ship.mutations.iter().map(|mutation| mutation.bytes).sum::<usize>(), limits.bytes);
    (got > 1 && bytes > most).then_some(Refused::TooMuch { what: "bytes", got: bytes, most })
}

/// Why a stream is not of the region that sends it, or not taken any more.
fn not_theirs(home: &Home, stream: &StreamId) -> Option<Refused> {
    let StreamId { epoch, region, incarnation, .. } = stream;
    let known = home.incarnation_of(region);
    if *incarnation != known {
        return Some(Refused::Incarnation { known, got: *incarnation });
    }
    if *epoch == LOCAL {
        let acted = home.acting == *region || home.ended.iter().any(|ended| ended.region == *region);
        let is_known = acted || known > 0 || home.order.contains(region);
        return (!is_known).then(|| Refused::NotInOrder(region.clone()));
    }
    if *epoch > home.epoch {
        return Some(Refused::OtherEpoch { current: home.epoch, got: *epoch });
    }
    let Some(owner) = home.owner(*epoch) else { return Some(Refused::Over(*epoch)) };
    if owner.region != region {
        return Some(Refused::NotActing { acting: owner.region.clone() });
    }
    (owner.incarnation != *incarnation).then_some(Refused::OtherIncarnation {
        epoch: *epoch,
        of: owner.incarnation,
        got: *incarnation,
    })
}

/// A mutation that was not merged before, with its position.
type New<'a> = Vec<(u64, &'a Mutation)>;

/// What of a batch is new, and the chain hash after it.
fn continued<'a>(ship: &'a Ship, stream: &Stream) -> Result<(Digest, New<'a>), Refused> {
    let watermark = stream.watermark;
    if ship.first == 0 || ship.first <= ship.stream.start() {
        return Err(Refused::Malformed { at: ship.first, why: "a stream of this incarnation begins above it" });
    }
    if ship.first > watermark.saturating_add(1) {
        return Err(Refused::Gap { watermark, first: ship.first });
    }
    let mut chain = ship.chain;
    let mut theirs = (ship.first == watermark.saturating_add(1)).then_some(ship.chain);
    let mut new = New::new();
    for (at, mutation) in (ship.first..).zip(&ship.mutations) {
        chain = chained(chain, mutation.digest);
        if at == watermark {
            theirs = Some(chain);
        }
        if at > watermark {
            new.push((at, mutation));
        }
    }
    if let Some(theirs) = theirs.filter(|theirs| *theirs != stream.chain) {
        return Err(Refused::Diverged { at: watermark, ours: stream.chain, theirs });
    }
    if let Some(refused) = past_its_end(ship, stream, &new) {
        return Err(refused);
    }
    Ok((if new.is_empty() { stream.chain } else { chain }, new))
}

/// Nothing follows a seal; the stream of `local` has none, and its incarnations do not overlap.
fn past_its_end(ship: &Ship, stream: &Stream, new: &New<'_>) -> Option<Refused> {
    if stream.sealed && !new.is_empty() {
        return Some(Refused::AfterSeal { end: stream.watermark });
    }
    let (last, before) = new.split_last()?;
    if let Some((end, _)) = before.iter().find(|(_, mutation)| mutation.change == Change::Seal) {
        return Some(Refused::AfterSeal { end: *end });
    }
    if !ship.stream.is_local() {
        return None;
    }
    if last.1.change == Change::Seal {
        return Some(Refused::Malformed { at: last.0, why: "the stream of local grants never ends" });
    }
    let end = ship.stream.start().saturating_add(limits::LOCAL_POSITIONS);
    (last.0 > end).then_some(Refused::Malformed { at: last.0, why: "it is a position of the next incarnation" })
}

fn malformed(at: u64, change: &KeyChange) -> Option<Refused> {
    let bare = |attempt: &Attempt| attempt.phase == Phase::Completed(Vec::new());
    let nameless = |attempt: &Attempt| !attempt.token.is_valid();
    let why = match change {
        KeyChange { attempts, .. } if attempts.iter().any(bare) => "a completed grant has no envelope",
        KeyChange { attempts, .. } if attempts.iter().any(nameless) => "only a local grant bears its region",
        KeyChange { attempts, placed: None, .. } if attempts.is_empty() => "nothing changed",
        KeyChange { .. } => return None,
    };
    Some(Refused::Malformed { at, why })
}

fn other_home<R: Rows>(
    draft: &mut Draft<'_, R>,
    stream: &StreamId,
    change: &KeyChange,
) -> Result<Option<Refused>, R::Error> {
    let known = draft.record(&change.key)?.filter(|record| record.home != stream.home);
    Ok(known.map(|record| Refused::OtherHome { key: change.key.clone(), home: record.home }))
}

fn merge<R: Rows>(
    draft: &mut Draft<'_, R>,
    stream: &StreamId,
    is_tail: bool,
    change: &KeyChange,
) -> Result<(), R::Error> {
    let key = &change.key;
    let before = draft.record(key)?;
    let mut record = before.clone().unwrap_or_else(|| Record::new(stream.home.clone()));
    let mut not_kept = Vec::new();
    for attempt in &change.attempts {
        let mut attempt = attempt.clone();
        if is_tail && is_void(draft, stream, &record, &attempt)? {
            attempt.phase = Phase::Released;
        }
        not_kept.extend(record.admit(attempt, &draft.context.limits));
    }
    if let Some(placed) = &change.placed {
        record.place(placed.clone());
    }
    if before.as_ref() == Some(&record) && not_kept.is_empty() {
        return Ok(());
    }
    record.changed_at = draft.context.now;
    ledger::name(draft, key, &mut record, not_kept)?;
    let is_new =
        |digest: &Digest| before.iter().flat_map(Record::completions).all(|(_, known)| known.envelope != *digest);
    let envelopes: Vec<Digest> = record.completions().map(|(_, one)| one.envelope).filter(is_new).collect();
    envelopes.into_iter().for_each(|digest| draft.put_envelope(key, digest));
    draft.put_record(key, Some(record));
    Ok(())
}

/// Under `global` nobody is told of a grant before the global log shows it in its own epoch. So one that the log first shows
/// after its epoch ended was never told, and is void (R12). One that is known already may have been told, whatever arrives
/// of it later.
fn is_void<R: Rows>(
    draft: &mut Draft<'_, R>,
    stream: &StreamId,
    record: &Record,
    attempt: &Attempt,
) -> Result<bool, R::Error> {
    let epoch: Epoch = stream.epoch;
    if !attempt.is_held() || attempt.token.fencing.epoch != epoch || record.get(&attempt.token).is_some() {
        return Ok(false);
    }
    let contract = draft.contract(&stream.home, &attempt.endpoint)?;
    Ok(contract.is_some_and(|contract| contract.is_wholly_global(epoch)))
}
