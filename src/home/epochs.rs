//! Who acts for a home, and what is known of the epochs that ended: Adopt, Order, RenewLease, TakeOver, Settle, DeclareLost,
//! Retire, Restored (R1, R3, R4, R14, R16).
//!
//! No clock is read and no time is compared here but log time, for what is retired. That a lease ran out is for the
//! candidate to know; what the log decides is that nobody renewed it since.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::Signature;
use crate::home::command::{Adopt, Cause, RenewLease, Restored, TakeOver};
use crate::home::evidence::LOCAL;
use crate::home::reply::{Refused, Reply};
use crate::home::rows::{Draft, Rows};
use crate::home::state::{Contract, Ended, Home, LossCause, Lost, StreamId};
use crate::ids::{EndpointName, Epoch, RegionName};
use crate::limits;
use crate::policy::Consistency;
use crate::time::LogTime;

/// How long after its end a lost epoch may hide a key, in milliseconds: as long as the longest retention, from the latest time
/// that a key of it may bear (R4, R15).
const HIDES_MS: u64 = *limits::RETENTION_MS.end() + limits::MAX_KEY_TIME_AHEAD_MS;

/// The home, or the refusal.
macro_rules! known {
    ($draft:expr, $name:expr) => {
        match $draft.home($name)? {
            Some(home) => home,
            None => return Ok(Reply::Refused(Refused::UnknownHome($name.clone()))),
        }
    };
}
pub(super) use known;

/// A home comes under the global group. The first that applies: no epoch 0; a valid order; the region in it; known before,
/// in the same epoch of the same region: nothing changes; known otherwise: refused.
pub(super) fn adopt<R: Rows>(draft: &mut Draft<'_, R>, adopt: &Adopt) -> Result<Reply, R::Error> {
    let Adopt { home: name, acting, epoch, order } = adopt;
    if *epoch == LOCAL {
        return Ok(Reply::Refused(Refused::NoEpoch));
    }
    if let Some(refused) = order_refused(order, draft.context.limits.regions) {
        return Ok(Reply::Refused(refused));
    }
    if !order.contains(acting) {
        return Ok(Reply::Refused(Refused::NotInOrder(acting.clone())));
    }
    if let Some(known) = draft.home(name)? {
        let same = known.epoch == *epoch && known.acting == *acting;
        let (epoch, acting) = (known.epoch, known.acting);
        return Ok(if same { Reply::Adopted } else { Reply::Refused(Refused::HomeKnown { epoch, acting }) });
    }
    let home = Home {
        epoch: *epoch,
        acting: acting.clone(),
        incarnation: 0,
        lost: None,
        renewal: 0,
        renewed_in: None,
        lease_ms: 0,
        ended: Vec::new(),
        order: order.clone(),
        incarnations: BTreeMap::new(),
    };
    draft.put_home(name, home);
    Ok(Reply::Adopted)
}

fn order_refused(order: &[RegionName], most: usize) -> Option<Refused> {
    let distinct: BTreeSet<&RegionName> = order.iter().collect();
    let fits = !order.is_empty() && order.len() <= most && distinct.len() == order.len();
    (!fits).then_some(Refused::Order { got: order.len(), most })
}

/// Changes which regions may act. One that acts now goes on until another takes over.
pub(super) fn order<R: Rows>(
    draft: &mut Draft<'_, R>,
    name: &RegionName,
    order: &[RegionName],
) -> Result<Reply, R::Error> {
    let mut home = known!(draft, name);
    if let Some(refused) = order_refused(order, draft.context.limits.regions) {
        return Ok(Reply::Refused(refused));
    }
    if home.order != order {
        home.order = order.to_vec();
        draft.put_home(name, home);
    }
    Ok(Reply::Ordered)
}

/// A renewal counts only in the epoch, and of the region and incarnation, that acts.
pub(super) fn renew<R: Rows>(draft: &mut Draft<'_, R>, renew: &RenewLease) -> Result<Reply, R::Error> {
    let mut home = known!(draft, &renew.home);
    let bounds = limits::HOME_LEASE_MS;
    if !bounds.contains(&renew.lease_ms) {
        let (got, least, most) = (renew.lease_ms, *bounds.start(), *bounds.end());
        return Ok(Reply::Refused(Refused::Lease { got, least, most }));
    }
    if let Some(refused) = not_acting(&home, renew.epoch, &renew.region, renew.incarnation) {
        return Ok(Reply::Refused(refused));
    }
    let before = if home.renewed_in == Some(home.epoch) { home.lease_ms } else { 0 };
    home.lease_ms = before.max(renew.lease_ms);
    home.renewal = home.renewal.saturating_add(1);
    home.renewed_in = Some(home.epoch);
    let renewal = home.renewal;
    draft.put_home(&renew.home, home);
    Ok(Reply::Renewed { renewal })
}

/// Why this is not from the region that acts: another epoch, another region, another incarnation, a lost epoch.
pub(super) fn not_acting(home: &Home, epoch: Epoch, region: &RegionName, incarnation: u64) -> Option<Refused> {
    if epoch != home.epoch {
        return Some(Refused::OtherEpoch { current: home.epoch, got: epoch });
    }
    if *region != home.acting {
        return Some(Refused::NotActing { acting: home.acting.clone() });
    }
    if incarnation != home.incarnation {
        return Some(Refused::OtherIncarnation { epoch, of: home.incarnation, got: incarnation });
    }
    home.lost.is_some().then_some(Refused::EpochLost)
}

/// An epoch begins. The first that applies:
///
/// 1. it is the current one already, of this region and incarnation: sent twice, and nothing changes
/// 2. it is not the next: `OtherEpoch`
/// 3. the region may not act: `NotInOrder`; its incarnation is another: `Incarnation`
/// 4. what the cause asks for: see [`Cause`]
/// 5. too many epochs are open behind it: `TooManyEnded`
pub(super) fn take_over<R: Rows>(draft: &mut Draft<'_, R>, take: &TakeOver) -> Result<Reply, R::Error> {
    let mut home = known!(draft, &take.home);
    if take.epoch == home.epoch && take.region == home.acting && take.incarnation == home.incarnation {
        return Ok(Reply::TookOver { epoch: home.epoch });
    }
    if home.epoch.0.checked_add(1) != Some(take.epoch.0) {
        return Ok(Reply::Refused(Refused::OtherEpoch { current: home.epoch, got: take.epoch }));
    }
    if !home.order.contains(&take.region) {
        return Ok(Reply::Refused(Refused::NotInOrder(take.region.clone())));
    }
    let known = home.incarnation_of(&take.region);
    if known != take.incarnation {
        return Ok(Reply::Refused(Refused::Incarnation { known, got: take.incarnation }));
    }
    let (refused, planned) = match &take.cause {
        Cause::RanOut { renewal } => (renewed_since(&home, *renewal), None),
        Cause::Vouched { signature, .. } if !is_signed(signature) => (Some(Refused::Unsigned), None),
        Cause::Vouched { renewal, .. } => (renewed_since(&home, *renewal), None),
        Cause::Planned { end, contracts } => (not_drained(draft, take, &home, *end, contracts)?, Some(contracts)),
    };
    if let Some(refused) = refused {
        return Ok(Reply::Refused(refused));
    }
    let most = draft.context.limits.ended;
    if planned.is_none() && home.ended.len() >= most {
        return Ok(Reply::Refused(Refused::TooManyEnded { most }));
    }
    let before = stream_of(&take.home, home.epoch, &home.acting, home.incarnation);
    match planned {
        Some(contracts) => {
            draft.put_stream(before, None);
            change_contracts(draft, take, contracts)?;
        }
        None => home.ended.push(Ended {
            epoch: home.epoch,
            region: home.acting,
            incarnation: home.incarnation,
            ended_at: draft.context.now,
            lost: home.lost,
        }),
    }
    home.epoch = take.epoch;
    home.acting = take.region.clone();
    home.incarnation = take.incarnation;
    home.lost = None;
    draft.put_home(&take.home, home);
    Ok(Reply::TookOver { epoch: take.epoch })
}

fn is_signed(signature: &Signature) -> bool {
    !signature.actor.is_empty() && !signature.reason.is_empty()
}

fn renewed_since(home: &Home, seen: u64) -> Option<Refused> {
    (home.renewal != seen).then_some(Refused::RenewedSince { current: home.renewal, seen })
}

/// Why a switchover would put a key in doubt. Lost epochs do not stand in its way: what they may hide is granted flagged
/// before and after it.
fn not_drained<R: Rows>(
    draft: &mut Draft<'_, R>,
    take: &TakeOver,
    home: &Home,
    end: u64,
    contracts: &[(EndpointName, Consistency)],
) -> Result<Option<Refused>, R::Error> {
    let most = draft.context.limits.contracts;
    if contracts.len() > most {
        return Ok(Some(Refused::TooMuch { what: "changes of consistency", got: contracts.len(), most }));
    }
    if home.lost.is_some() {
        return Ok(Some(Refused::EpochLost));
    }
    if let Some(older) = home.ended.iter().find(|ended| ended.lost.is_none()) {
        return Ok(Some(Refused::OlderUnsettled(older.epoch)));
    }
    let stream = draft.stream(&stream_of(&take.home, home.epoch, &home.acting, home.incarnation))?;
    let drained = stream.sealed && stream.watermark == end;
    let (watermark, sealed) = (stream.watermark, stream.sealed);
    Ok((!drained).then_some(Refused::NotDrained { watermark, sealed, end }))
}

fn change_contracts<R: Rows>(
    draft: &mut Draft<'_, R>,
    take: &TakeOver,
    contracts: &[(EndpointName, Consistency)],
) -> Result<(), R::Error> {
    for (endpoint, consistency) in contracts {
        let known = draft.contract(&take.home, endpoint)?;
        if known.is_none_or(|known| known.consistency != *consistency) {
            let contract = Contract { consistency: *consistency, since: take.epoch };
            draft.put_contract(&take.home, endpoint, contract);
        }
    }
    Ok(())
}

fn stream_of(home: &RegionName, epoch: Epoch, region: &RegionName, incarnation: u64) -> StreamId {
    StreamId { home: home.clone(), epoch, region: region.clone(), incarnation }
}

/// An ended epoch that is not settled or retired, with its place in the home's list.
fn ended(home: &Home, epoch: Epoch) -> Result<(usize, Ended), Refused> {
    if epoch >= home.epoch {
        return Err(Refused::NotEnded(epoch));
    }
    let place = home.ended.iter().position(|ended| ended.epoch == epoch).ok_or(Refused::Over(epoch))?;
    home.ended.get(place).cloned().map(|found| (place, found)).ok_or(Refused::Over(epoch))
}

/// The stream of an ended epoch is here to its end, which only its region's seal says (R3). A lost one is settled too if
/// all of it turns up.
pub(super) fn settle<R: Rows>(draft: &mut Draft<'_, R>, name: &RegionName, epoch: Epoch) -> Result<Reply, R::Error> {
    let mut home = known!(draft, name);
    let (place, found) = match ended(&home, epoch) {
        Ok(found) => found,
        Err(refused) => return Ok(Reply::Refused(refused)),
    };
    let id = stream_of(name, epoch, &found.region, found.incarnation);
    let stream = draft.stream(&id)?;
    if !stream.sealed {
        return Ok(Reply::Refused(Refused::NotSealed { watermark: stream.watermark }));
    }
    home.ended.remove(place);
    draft.put_stream(id, None);
    draft.put_home(name, home);
    Ok(Reply::Settled)
}

/// An operator gives an ended epoch up. A tail that turns up later is merged all the same.
pub(super) fn declare_lost<R: Rows>(
    draft: &mut Draft<'_, R>,
    name: &RegionName,
    epoch: Epoch,
    signature: &Signature,
) -> Result<Reply, R::Error> {
    let mut home = known!(draft, name);
    if !is_signed(signature) {
        return Ok(Reply::Refused(Refused::Unsigned));
    }
    if let Err(refused) = ended(&home, epoch) {
        return Ok(Reply::Refused(refused));
    }
    let at = draft.context.now;
    for found in home.ended.iter_mut().filter(|ended| ended.epoch == epoch && ended.lost.is_none()) {
        found.lost = Some(Lost { at, cause: LossCause::Declared(signature.clone()) });
    }
    draft.put_home(name, home);
    Ok(Reply::Lost)
}

/// A lost epoch is forgotten when every record that it may hide would have gone.
pub(super) fn retire<R: Rows>(draft: &mut Draft<'_, R>, name: &RegionName, epoch: Epoch) -> Result<Reply, R::Error> {
    let mut home = known!(draft, name);
    let (place, found) = match ended(&home, epoch) {
        Ok(found) => found,
        Err(refused) => return Ok(Reply::Refused(refused)),
    };
    if found.lost.is_none() {
        return Ok(Reply::Refused(Refused::NotLost(epoch)));
    }
    let at: LogTime = found.ended_at.plus_ms(HIDES_MS);
    if draft.context.now <= at {
        return Ok(Reply::Refused(Refused::NotRetirable { at }));
    }
    home.ended.remove(place);
    draft.put_stream(stream_of(name, epoch, &found.region, found.incarnation), None);
    draft.put_home(name, home);
    Ok(Reply::Retired)
}

/// A region's data went back in time: every epoch of it that is not settled is lost, the current one too. What its former
/// incarnation still sends is refused.
pub(super) fn restored<R: Rows>(draft: &mut Draft<'_, R>, restored: &Restored) -> Result<Reply, R::Error> {
    let mut home = known!(draft, &restored.home);
    let Restored { region, incarnation, .. } = restored;
    let known = home.incarnation_of(region);
    let acted = home.acting == *region || home.ended.iter().any(|ended| ended.region == *region);
    if known == 0 && !acted && !home.order.contains(region) {
        return Ok(Reply::Refused(Refused::NotInOrder(region.clone())));
    }
    if known == *incarnation {
        return Ok(Reply::Restored { incarnation: known, lost: Vec::new() });
    }
    if *incarnation > limits::MAX_INCARNATIONS {
        return Ok(Reply::Refused(Refused::TooManyRestores { got: *incarnation, most: limits::MAX_INCARNATIONS }));
    }
    if *incarnation < known {
        return Ok(Reply::Refused(Refused::Incarnation { known, got: *incarnation }));
    }
    let mark = || Some(Lost { at: draft.context.now, cause: LossCause::Restored { incarnation: *incarnation } });
    let mut lost = Vec::new();
    for ended in home.ended.iter_mut().filter(|ended| ended.region == *region && ended.lost.is_none()) {
        ended.lost = mark();
        lost.push(ended.epoch);
    }
    if home.acting == *region && home.lost.is_none() {
        home.lost = mark();
        lost.push(home.epoch);
    }
    home.incarnations.insert(region.clone(), *incarnation);
    draft.put_stream(stream_of(&restored.home, LOCAL, region, known), None);
    draft.put_home(&restored.home, home);
    Ok(Reply::Restored { incarnation: *incarnation, lost })
}
