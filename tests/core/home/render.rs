//! Replies and rows of a global group as text, for the golden answers.

use std::fmt::Write as _;

use holdfast::home::evidence::{Attempt, Completion, Phase};
use holdfast::home::ledger::{Entry, Event, Loser, Subject, Task, TaskState, Verdict, Withdrawn};
use holdfast::home::merge::Winner;
use holdfast::home::reply::{Kept, Swept};
use holdfast::home::state::{Home, LossCause, Lost, Stream, StreamId};
use holdfast::home::{Decision, Record, Reply, Write};
use holdfast::ids::{Digest, RecordKey};

/// The reply on one line, then the rows that change.
pub(crate) fn decision(decision: &Decision) -> String {
    let mut text = reply(&decision.reply);
    text.push('\n');
    if decision.writes.is_empty() {
        text.push_str("  unchanged\n");
    }
    for write in &decision.writes {
        let _ = writeln!(text, "  {}", row(write));
    }
    text
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Adopted => "adopted".to_owned(),
        Reply::Ordered => "ordered".to_owned(),
        Reply::Renewed { renewal } => format!("renewed {renewal}"),
        Reply::TookOver { epoch } => format!("took over in {epoch}"),
        Reply::Shipped { watermark, merged } => format!("shipped to {watermark}, {merged} merged"),
        Reply::Settled => "settled".to_owned(),
        Reply::Lost => "lost".to_owned(),
        Reply::Retired => "retired".to_owned(),
        Reply::Restored { incarnation, lost } => {
            let lost: Vec<String> = lost.iter().map(|epoch| format!(" {epoch}")).collect();
            format!("restored as {incarnation}, lost:{}", lost.concat())
        }
        Reply::Swept(keys) => {
            let keys: Vec<String> =
                keys.iter().map(|(name, what)| format!(" {}: {}", key(name), swept(*what))).collect();
            format!("swept{}", keys.join(","))
        }
        Reply::Pruned(count) => format!("pruned {count}"),
        Reply::Acknowledged(tasks) => {
            let told = tasks.iter().map(|(_, told)| match told {
                Ok(()) => " taken".to_owned(),
                Err(why) => format!(" {why}"),
            });
            format!("acknowledged:{}", told.collect::<Vec<_>>().join(","))
        }
        Reply::Closed => "closed".to_owned(),
        Reply::Refused(why) => format!("refused: {why}"),
    }
}

pub(crate) fn swept(swept: Swept) -> String {
    match swept {
        Swept::Removed => "removed".to_owned(),
        Swept::Kept(Kept::Absent) => "absent".to_owned(),
        Swept::Kept(Kept::OtherHome) => "kept, another home".to_owned(),
        Swept::Kept(Kept::Unsettled) => "kept, unsettled".to_owned(),
        Swept::Kept(Kept::Unended) => "kept, not ended".to_owned(),
        Swept::Kept(Kept::OpenTask) => "kept, open task".to_owned(),
        Swept::Kept(Kept::NotDue { at }) => format!("kept until {}", at.unix_ms()),
    }
}

fn key(key: &RecordKey) -> &str {
    key.key.as_str()
}

fn row(write: &Write) -> String {
    match write {
        Write::Group(group) => format!("group: ledger from {} to before {}", group.ledger_first, group.ledger_next),
        Write::Home(name, row) => format!("home {name}: {}", home(row)),
        Write::Stream(id, Some(row)) => format!("stream {}: {}", stream_id(id), stream(row)),
        Write::Stream(id, None) => format!("stream {} goes", stream_id(id)),
        Write::Contract(home, endpoint, row) => {
            format!("contract {home} {endpoint}: {:?} since {}", row.consistency, row.since)
        }
        Write::Record(name, Some(row)) => format!("record {}: {}", key(name), record(row)),
        Write::Record(name, None) => format!("record {} goes", key(name)),
        Write::Envelope(name, digest) => format!("envelope {} of {}", envelope(*digest), key(name)),
        Write::Task(id, Some(row)) => format!("task {:.8}… {}", id.to_string(), task(row)),
        Write::Task(id, None) => format!("task {:.8}… goes", id.to_string()),
        Write::Entry(_, Some(row)) => entry(row),
        Write::Entry(sequence, None) => format!("ledger {sequence} goes"),
        Write::Horizon(_, endpoint, time) => format!("horizon {endpoint}: {time}"),
    }
}

fn home(home: &Home) -> String {
    let mut text = format!("epoch {} of {}/{}", home.epoch, home.acting, home.incarnation);
    if let Some(why) = &home.lost {
        let _ = write!(text, " {}", lost(why));
    }
    if let Some(epoch) = home.renewed_in {
        let _ = write!(text, ", renewal {} in {epoch} for {} ms", home.renewal, home.lease_ms);
    }
    for ended in &home.ended {
        let _ = write!(text, ", {} of {}/{} ended at {}", ended.epoch, ended.region, ended.incarnation, ended.ended_at);
        if let Some(why) = &ended.lost {
            let _ = write!(text, " {}", lost(why));
        }
    }
    let order: Vec<&str> = home.order.iter().map(|region| region.as_str()).collect();
    let _ = write!(text, ", order {}", order.join(" "));
    for (region, incarnation) in &home.incarnations {
        let _ = write!(text, ", {region} is {region}/{incarnation}");
    }
    text
}

fn lost(lost: &Lost) -> String {
    match &lost.cause {
        LossCause::Declared(signature) => format!("(lost, {}: {})", signature.actor, signature.reason),
        LossCause::Restored { incarnation } => format!("(lost, restored as {incarnation})"),
    }
}

pub(crate) fn stream_id(id: &StreamId) -> String {
    format!("{}.{}.{}.{}", id.home, id.epoch, id.region, id.incarnation)
}

fn stream(stream: &Stream) -> String {
    format!("{}{}", stream.watermark, if stream.sealed { ", sealed" } else { "" })
}

fn record(record: &Record) -> String {
    let attempts: Vec<String> = record.attempts.iter().map(attempt).collect();
    let mut text = format!("{}, wins {}", attempts.join("; "), winner(record.winner().as_ref()));
    if let Some(placed) = &record.placed {
        let name = placed.checkpoint.as_ref().map_or("none", |checkpoint| &checkpoint.name);
        let _ = write!(text, ", checkpoint {name}");
    }
    if record.not_kept > 0 {
        let _ = write!(text, ", {} not kept", record.not_kept);
    }
    for conflict in &record.conflicts {
        let state = if conflict.withdrawn { ", withdrawn" } else { "" };
        let _ = write!(text, ", conflict {}{state}", subject(&conflict.subject));
    }
    text
}

fn winner(winner: Option<&Winner>) -> String {
    match winner {
        None => "nobody".to_owned(),
        Some(Winner { token, envelope: None }) => token.to_string(),
        Some(Winner { token, envelope: Some(digest) }) => format!("{token} with {}", envelope(*digest)),
    }
}

fn attempt(attempt: &Attempt) -> String {
    let phase = match &attempt.phase {
        Phase::Held { lease_revision: 0, .. } => "held".to_owned(),
        Phase::Held { lease_revision, .. } => format!("held/{lease_revision}"),
        Phase::Lapsed => "lapsed".to_owned(),
        Phase::Released => "released".to_owned(),
        Phase::Completed(all) => all.iter().map(completion).collect::<Vec<_>>().join(" "),
    };
    format!("{}{} {phase}", attempt.token, if attempt.flagged { "!" } else { "" })
}

fn completion(completion: &Completion) -> String {
    let late = if completion.late { " late" } else { "" };
    format!("{}@{}.{}{late}", envelope(completion.envelope), completion.commit.epoch, completion.commit.position)
}

fn task(task: &Task) -> String {
    let state = match &task.state {
        TaskState::Open => "open".to_owned(),
        TaskState::Acknowledged { worker, .. } => format!("taken by {worker}"),
        TaskState::Closed { verdict, signature, .. } => {
            format!("closed by {}: {}", signature.actor, verdict_of(*verdict))
        }
        TaskState::Withdrawn { why, .. } => format!("withdrawn: {}", why_of(*why)),
    };
    format!("{} of {}: {state}", subject(&task.subject), key(&task.key))
}

fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Loser(Loser { token, envelope: None }) => token.to_string(),
        Subject::Loser(Loser { token, envelope: Some(digest) }) => format!("{token} with {}", envelope(*digest)),
        Subject::NotKept => "what was not kept".to_owned(),
    }
}

fn verdict_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Compensated => "compensated",
        Verdict::NotNeeded => "not needed",
    }
}

fn why_of(why: Withdrawn) -> &'static str {
    match why {
        Withdrawn::Won => "won",
        Withdrawn::Released => "released",
    }
}

fn entry(entry: &Entry) -> String {
    let event = match &entry.event {
        Event::Found { winner: of } => format!("found, wins {}", winner(of.as_ref())),
        Event::Ran => "ran".to_owned(),
        Event::Withdrawn(why) => format!("withdrawn: {}", why_of(*why)),
        Event::NotKept(evidence) => format!("not kept: {}", attempt(evidence)),
        Event::Acknowledged { worker } => format!("taken by {worker}"),
        Event::Closed(verdict) => format!("closed: {}", verdict_of(*verdict)),
    };
    format!("ledger {} {}: {}: {event}", entry.sequence, key(&entry.key), subject(&entry.subject))
}

fn envelope(digest: Digest) -> String {
    let name: Vec<u8> = digest.0.into_iter().take_while(|byte| *byte != 0).collect();
    name.escape_ascii().to_string()
}
