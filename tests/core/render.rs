//! Replies and records as text, for the golden answers.

use std::fmt::Write as _;

use holdfast::ids::Digest;
use holdfast::reservation::record::{Attempt, Checkpoint, Event, EventKind, Phase, State};
use holdfast::reservation::reply::{Grant, Recorded};
use holdfast::reservation::sweep::Sweep;
use holdfast::reservation::{Record, Reply};

use crate::world::Applied;

/// The reply on one line, then what changed.
pub(crate) fn applied(applied: &Applied) -> String {
    let mut text = reply(&applied.decision.reply);
    text.push('\n');
    match &applied.decision.record {
        None => text.push_str("  unchanged\n"),
        Some(after) => {
            text.push_str(&record(after));
            events_since(applied.before.as_ref(), after).for_each(|one| text.push_str(&event(one)));
        }
    }
    if let Some(digest) = applied.decision.envelope {
        let _ = writeln!(text, "  stores envelope {}", envelope(digest));
    }
    text
}

pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Granted(grant) => format!("granted {}", granted(grant)),
        Reply::Claimed(grant) => format!("claimed {}", granted(grant)),
        Reply::Replay(answer) => format!(
            "replay {} of {} completed at {} until {}",
            envelope(answer.envelope),
            answer.token,
            answer.completed_at.unix_ms(),
            answer.expires_at.unix_ms()
        ),
        Reply::Mismatch => "mismatch".to_owned(),
        Reply::OtherSelection { selection } => format!("other-selection {selection}"),
        Reply::InProgress => "in-progress".to_owned(),
        Reply::OutcomeUnknown { attempt, checkpoint } => {
            format!("outcome-unknown attempt={attempt}{}", left(checkpoint.as_ref()))
        }
        Reply::InDoubt => "in-doubt".to_owned(),
        Reply::Superseded { epoch } => format!("superseded epoch={epoch}"),
        Reply::Expired => "expired".to_owned(),
        Reply::Limited(limit) => format!("limited {limit:?}").to_lowercase(),
        Reply::Raced => "raced".to_owned(),
        Reply::Void { open: Some(epoch) } => format!("void open={epoch}"),
        Reply::Void { open: None } => "void nothing-open".to_owned(),
        Reply::Completed { recorded, expires_at } => {
            let how = match recorded {
                Recorded::Answer => "answer",
                Recorded::Repeated => "repeated",
                Recorded::Late => "late",
            };
            format!("completed {how} until {}", expires_at.unix_ms())
        }
        Reply::Released => "released".to_owned(),
        Reply::Extended { lease_ms } => format!("extended lease={lease_ms}"),
        Reply::Checkpointed => "checkpointed".to_owned(),
        Reply::NotClaimable(at) => format!("not-claimable {}", state(*at)),
        Reply::Resolved(to) => format!("resolved {}", state(*to)),
        Reply::StaleToken(at) => format!("stale-token {}", state(*at)),
        Reply::Lapsed => "lapsed".to_owned(),
        Reply::Voided => "voided".to_owned(),
        Reply::Ignored => "ignored".to_owned(),
    }
}

fn granted(grant: &Grant) -> String {
    format!(
        "{} attempt={} lease={}/{} policy={} fp={} endpoint={}{}{}{}",
        grant.token,
        grant.attempt,
        grant.lease_ms,
        grant.lease_revision,
        grant.policy_revision,
        ascii(&grant.fingerprint.digest),
        grant.endpoint,
        left(grant.checkpoint.as_ref()),
        if grant.possible_duplicate { " possible-duplicate" } else { "" },
        if grant.repeated { " repeated" } else { "" },
    )
}

fn left(checkpoint: Option<&Checkpoint>) -> String {
    checkpoint.map(|left| format!(" checkpoint={}:{}", left.name, ascii(&left.data))).unwrap_or_default()
}

/// A record, all of it but its history; of many attempts the first three and the last two.
pub(crate) fn record(record: &Record) -> String {
    let expiry = match record.expires_at() {
        Some(at) => format!("until {}", at.unix_ms()),
        None => "for good".to_owned(),
    };
    let mut text = format!(
        "  {} position={} kept {expiry}{}{}\n",
        state(record.state()),
        record.position,
        record.answer.map(|is| format!(" answer={} of {}", envelope(is.envelope), is.token)).unwrap_or_default(),
        left(record.checkpoint.as_ref()),
    );
    let shown = record.attempts.len();
    for (place, one) in record.attempts.iter().enumerate() {
        match (shown > 8, place) {
            (true, 3) => {
                let _ = writeln!(text, "  … {} more", shown - 5);
            }
            (true, place) if place > 3 && place + 2 < shown => {}
            (_, _) => text.push_str(&attempt(one)),
        }
    }
    text
}

fn attempt(attempt: &Attempt) -> String {
    let phase = match &attempt.phase {
        Phase::Held { lease_ms, lease_revision } => format!("held lease={lease_ms}/{lease_revision}"),
        Phase::Lapsed => "lapsed".to_owned(),
        Phase::Released => "released".to_owned(),
        Phase::Completed { envelopes, late } => {
            let names: Vec<String> = envelopes.iter().copied().map(envelope).collect();
            format!("completed {}{}", names.join(","), if *late { " late" } else { "" })
        }
    };
    format!(
        "  #{} {} {phase} fp={}{}{}\n",
        attempt.number,
        attempt.token,
        ascii(&attempt.fingerprint.digest),
        attempt.nonce.as_ref().map(|nonce| format!(" nonce={}", ascii(nonce.as_bytes()))).unwrap_or_default(),
        if attempt.flagged { " flagged" } else { "" },
    )
}

/// The events that a decision added.
pub(crate) fn events_since<'a>(before: Option<&Record>, after: &'a Record) -> impl Iterator<Item = &'a Event> {
    let known = before.map_or(0, |before| before.history_dropped + before.history.len() as u64);
    let kept_known = usize::try_from(known.saturating_sub(after.history_dropped)).unwrap_or(usize::MAX);
    after.history.iter().skip(kept_known)
}

pub(crate) fn event(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Granted => "granted",
        EventKind::Completed => "completed",
        EventKind::Late => "late",
        EventKind::Released => "released",
        EventKind::Extended => "extended",
        EventKind::Checkpointed => "checkpointed",
        EventKind::Lapsed => "lapsed",
        EventKind::Voided => "voided",
        EventKind::Claimed => "claimed",
        EventKind::Resolved => "resolved",
        EventKind::Adopted => "adopted",
    };
    let detail = if event.detail.is_empty() { String::new() } else { format!(" ({})", event.detail) };
    format!("  + {kind} {} at {}{detail}\n", event.token, event.at.unix_ms())
}

pub(crate) fn swept(swept: Sweep) -> String {
    match swept {
        Sweep::Keep => "stays".to_owned(),
        Sweep::Remove { raise_horizon_ms: None } => "goes".to_owned(),
        Sweep::Remove { raise_horizon_ms: Some(time) } => format!("goes and raises the horizon to {time}"),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Held => "held",
        State::Lapsed => "lapsed",
        State::OutcomeUnknown => "outcome-unknown",
        State::Released => "released",
        State::Completed => "completed",
    }
}

fn envelope(digest: Digest) -> String {
    let name: Vec<u8> = digest.0.into_iter().take_while(|byte| *byte != 0).collect();
    ascii(&name)
}

fn ascii(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
