//! Every file of `tests/scripts/home` gives the answers that stand in it, and together they have every answer.

use holdfast::home::Refused;
use holdfast::home::Reply;
use holdfast::home::ledger::{Event, TaskState, Verdict, Withdrawn};
use holdfast::home::reply::{Kept, Swept, TaskRefused};

use crate::coverage::{complete, every};
use crate::home::script::run;
use crate::scripts::{all, hold};

#[test]
fn answers_are_as_they_stand() {
    hold("tests/scripts/home", |name, text| run(name, text).0);
}

every!(REPLIES, reply: Reply, {
    Reply::Adopted => "adopted",
    Reply::Ordered => "ordered",
    Reply::Renewed { renewal: _ } => "renewed",
    Reply::TookOver { epoch: _ } => "took over",
    Reply::Shipped { watermark: _, merged: 0 } => "shipped, nothing new",
    Reply::Shipped { watermark: _, merged: _ } => "shipped",
    Reply::Settled => "settled",
    Reply::Lost => "lost",
    Reply::Retired => "retired",
    Reply::Restored { incarnation: _, lost: _ } => "restored",
    Reply::Swept(_) => "swept",
    Reply::Pruned(_) => "pruned",
    Reply::Acknowledged(_) => "acknowledged",
    Reply::Closed => "closed",
    Reply::Refused(_) => "refused",
});

every!(REFUSALS, refusal: Refused, {
    Refused::UnknownHome(_) => "unknown home",
    Refused::HomeKnown { epoch: _, acting: _ } => "home known",
    Refused::NoEpoch => "no epoch",
    Refused::Order { got: _, most: _ } => "order",
    Refused::NotInOrder(_) => "not in order",
    Refused::Incarnation { known: _, got: _ } => "incarnation",
    Refused::OtherIncarnation { epoch: _, of: _, got: _ } => "other incarnation",
    Refused::TooManyRestores { got: _, most: _ } => "too many restores",
    Refused::OtherEpoch { current: _, got: _ } => "other epoch",
    Refused::NotActing { acting: _ } => "not acting",
    Refused::EpochLost => "epoch lost",
    Refused::Lease { got: _, least: _, most: _ } => "lease",
    Refused::RenewedSince { current: _, seen: _ } => "renewed since",
    Refused::TooManyEnded { most: _ } => "too many ended",
    Refused::OlderUnsettled(_) => "older unsettled",
    Refused::NotDrained { watermark: _, sealed: true, end: _ } => "not drained, sealed",
    Refused::NotDrained { watermark: _, sealed: false, end: _ } => "not drained",
    Refused::TooMuch { what: "mutations", got: _, most: _ } => "too many mutations",
    Refused::TooMuch { what: "bytes", got: _, most: _ } => "too many bytes",
    Refused::TooMuch { what: "records", got: _, most: _ } => "too many records",
    Refused::TooMuch { what: "entries", got: _, most: _ } => "too many entries",
    Refused::TooMuch { what: "tasks", got: _, most: _ } => "too many tasks",
    Refused::TooMuch { what: _, got: _, most: _ } => "too many changes of consistency",
    Refused::Gap { watermark: _, first: _ } => "gap",
    Refused::Diverged { at: _, ours: _, theirs: _ } => "diverged",
    Refused::AfterSeal { end: _ } => "after the seal",
    Refused::Malformed { at: _, why: _ } => "malformed",
    Refused::OtherHome { key: _, home: _ } => "other home",
    Refused::Over(_) => "over",
    Refused::NotEnded(_) => "not ended",
    Refused::NotSealed { watermark: _ } => "not sealed",
    Refused::NotLost(_) => "not lost",
    Refused::NotRetirable { at: _ } => "not retirable",
    Refused::Unsigned => "unsigned",
    Refused::Behind { stream: _, watermark: _, up_to: _ } => "behind",
    Refused::Task(_) => "task",
});

every!(TASKS, task_refusal: TaskRefused, {
    TaskRefused::Unknown => "unknown",
    TaskRefused::Taken { worker: _ } => "taken",
    TaskRefused::Closed => "closed",
    TaskRefused::Withdrawn { why: Withdrawn::Won } => "withdrawn, won",
    TaskRefused::Withdrawn { why: Withdrawn::Released } => "withdrawn, released",
});

every!(SWEEPS, swept: Swept, {
    Swept::Removed => "removed",
    Swept::Kept(Kept::Absent) => "absent",
    Swept::Kept(Kept::OtherHome) => "other home",
    Swept::Kept(Kept::Unsettled) => "unsettled",
    Swept::Kept(Kept::Unended) => "not ended",
    Swept::Kept(Kept::OpenTask) => "open task",
    Swept::Kept(Kept::NotDue { at: _ }) => "not due",
});

every!(EVENTS, event: Event, {
    Event::Found { winner: Some(_) } => "found",
    Event::Found { winner: None } => "found, nobody wins",
    Event::Ran => "ran",
    Event::Withdrawn(Withdrawn::Won) => "withdrawn, won",
    Event::Withdrawn(Withdrawn::Released) => "withdrawn, released",
    Event::NotKept(_) => "not kept",
    Event::Acknowledged { worker: _ } => "acknowledged",
    Event::Closed(Verdict::Compensated) => "compensated",
    Event::Closed(Verdict::NotNeeded) => "not needed",
});

every!(STATES, state: TaskState, {
    TaskState::Open => "open",
    TaskState::Acknowledged { worker: _, at: _ } => "acknowledged",
    TaskState::Closed { verdict: _, signature: _, at: _ } => "closed",
    TaskState::Withdrawn { why: _, at: _ } => "withdrawn",
});

#[test]
fn the_scripts_have_every_answer() {
    let scripts = all("tests/scripts/home");
    let decisions: Vec<_> =
        scripts.into_iter().flat_map(|(path, text)| run(&path.display().to_string(), &text).1).collect();
    let replies = || decisions.iter().map(|(decision, _)| &decision.reply);
    complete("reply", REPLIES, &[], replies().map(reply));
    let refusals = || {
        replies().filter_map(|reply| {
            if let Reply::Refused(why) = reply {
                return Some(why);
            }
            None
        })
    };
    complete("refusal", REFUSALS, &[], refusals().map(refusal));
    let mut tasks = Vec::new();
    let mut sweeps = Vec::new();
    for reply in replies() {
        if let Reply::Acknowledged(told) = reply {
            tasks.extend(told.iter().filter_map(|(_, told)| told.as_ref().err()));
        }
        if let Reply::Refused(Refused::Task(why)) = reply {
            tasks.push(why);
        }
        if let Reply::Swept(keys) = reply {
            sweeps.extend(keys.iter().map(|(_, what)| swept(what)));
        }
    }
    complete("refusal of a task", TASKS, &[], tasks.into_iter().map(task_refusal));
    complete("sweep", SWEEPS, &[], sweeps.into_iter());
    let worlds = || decisions.iter().map(|(_, world)| world);
    complete("event", EVENTS, &[], worlds().flat_map(|world| world.entries.values()).map(|entry| event(&entry.event)));
    complete("state", STATES, &[], worlds().flat_map(|world| world.tasks.values()).map(|task| state(&task.state)));
}
