//! Sweep and Prune: what is remembered ends, by log time and a bounded number at a time (R15).

use holdfast_client::keys::KeyKind;

use crate::home::command::Sweep;
use crate::home::epochs::{known, not_acting};
use crate::home::merge::Record;
use crate::home::reply::{Kept, Refused, Reply, Swept};
use crate::home::rows::{Draft, Rows};
use crate::home::state::{Group, Home, StreamId};
use crate::ids::{Epoch, RecordKey};
use crate::limits;

/// Removes the records whose time has come, and raises the horizon of their endpoints.
///
/// Only the acting region proposes it, after an entry of its own log removed the records there, and only as far as its
/// stream is merged: so no grant of the current epoch is on its way, and what is shipped later of a key is of a grant that
/// was made after the record went.
pub(super) fn sweep<R: Rows>(draft: &mut Draft<'_, R>, sweep: &Sweep) -> Result<Reply, R::Error> {
    let home = known!(draft, &sweep.home);
    let (got, most) = (sweep.keys.len(), draft.context.limits.swept);
    if got > most {
        return Ok(Reply::Refused(Refused::TooMuch { what: "records", got, most }));
    }
    if let Some(refused) = not_acting(&home, sweep.epoch, &sweep.region, sweep.incarnation) {
        return Ok(Reply::Refused(refused));
    }
    let Sweep { region, incarnation, epoch, up_to, .. } = sweep;
    let stream =
        StreamId { home: sweep.home.clone(), epoch: *epoch, region: region.clone(), incarnation: *incarnation };
    let watermark = draft.stream(&stream)?.watermark;
    if watermark < *up_to {
        return Ok(Reply::Refused(Refused::Behind { stream: Box::new(stream), watermark, up_to: *up_to }));
    }
    let mut swept = Vec::with_capacity(got);
    for key in &sweep.keys {
        let record = draft.record(key)?;
        let kept = match &record {
            None => Some(Kept::Absent),
            Some(record) => kept(draft, &home, sweep, key, record)?,
        };
        if let (None, Some(record)) = (kept, &record) {
            remove(draft, key, record)?;
        }
        swept.push((key.clone(), kept.map_or(Swept::Removed, Swept::Kept)));
    }
    Ok(Reply::Swept(swept))
}

fn key_time_ms(key: &RecordKey) -> Option<u64> {
    match key.key.kind() {
        KeyKind::Tagged(tagged) => Some(tagged.unix_ms()),
        KeyKind::Opaque => None,
    }
}

/// Why a record stays: the first that applies.
fn kept<R: Rows>(
    draft: &mut Draft<'_, R>,
    home: &Home,
    sweep: &Sweep,
    key: &RecordKey,
    record: &Record,
) -> Result<Option<Kept>, R::Error> {
    if record.home != sweep.home {
        return Ok(Some(Kept::OtherHome));
    }
    if !home.is_settled_since(Epoch(key.key.mint_epoch())) {
        return Ok(Some(Kept::Unsettled));
    }
    let Some(at) = record.expires_at(key_time_ms(key)) else { return Ok(Some(Kept::Unended)) };
    for conflict in &record.conflicts {
        if draft.task(conflict.task)?.is_some_and(|task| task.state.is_open()) {
            return Ok(Some(Kept::OpenTask));
        }
    }
    Ok((draft.context.now <= at).then_some(Kept::NotDue { at }))
}

/// A record goes with its tasks, which are all done; what the ledger says of them stays.
fn remove<R: Rows>(draft: &mut Draft<'_, R>, key: &RecordKey, record: &Record) -> Result<(), R::Error> {
    for conflict in &record.conflicts {
        draft.put_task(conflict.task, None);
    }
    if let (Some(time_ms), Some(endpoint)) = (key_time_ms(key), record.endpoint()) {
        draft.raise_horizon(&key.tenant, endpoint, time_ms)?;
    }
    draft.put_record(key, None);
    Ok(())
}

/// Removes the oldest entries of the ledger that are older than any retention. It stops before an entry whose task is open:
/// what a record had no room for stands nowhere else.
pub(super) fn prune<R: Rows>(draft: &mut Draft<'_, R>, count: usize) -> Result<Reply, R::Error> {
    let most = draft.context.limits.swept;
    if count > most {
        return Ok(Reply::Refused(Refused::TooMuch { what: "entries", got: count, most }));
    }
    let group = draft.group()?;
    let mut first = group.ledger_first;
    let mut pruned = 0;
    while pruned < count && first < group.ledger_next {
        if let Some(entry) = draft.entry(first)? {
            let is_young = draft.context.now <= entry.at.plus_ms(limits::LEDGER_KEPT_MS);
            if is_young || draft.task(entry.task)?.is_some_and(|task| task.state.is_open()) {
                break;
            }
        }
        draft.forget_entry(first);
        first = first.saturating_add(1);
        pruned += 1;
    }
    draft.put_group(Group { ledger_first: first, ..group });
    Ok(Reply::Pruned(pruned))
}
