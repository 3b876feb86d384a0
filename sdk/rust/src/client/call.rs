//! One call from its first send to its answer, or to the last resend that was allowed. Every send bears the same message,
//! nonce included, so that whichever of them arrives is the same attempt.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng as _;

use super::clock::Moment;
use super::error::{Certainty, Error, Failed, codes};
use super::known::{Known, Picked};
use super::retry::Backoff;
use super::{Client, Inner};
use crate::proto::v1;
use crate::proto::v1::session_answer::Answer;
use crate::proto::v1::session_call::Call;

/// An answer, and when the send was begun that it answers.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) sent: Moment,
}

/// What is the same for every send of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sending {
    /// Where the key belongs, if that is known.
    pub(super) partition: Option<u16>,
    /// How long the store may wait for an attempt in flight.
    pub(super) wait: Duration,
}

/// What follows a failed send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Send again after this time.
    Again(Duration),
    /// It is the call's end.
    End,
}

impl Client {
    /// Sends a call until it is answered, fails for good, or may not be sent again.
    pub(super) async fn call(&self, mut call: Call, sending: Sending) -> Result<Answered, Error> {
        let Sending { partition, wait } = sending;
        let settings = &self.0.settings;
        let begun = Moment::now();
        let wait_until = begun.plus(wait);
        let deadline = begun.plus(settings.deadline).plus(wait);
        let mut tried = Vec::new();
        let mut earlier = Certainty::Definite;
        loop {
            let sent = Moment::now();
            let wait_left = wait_until.since(sent);
            let Some(picked) = self.0.pick(&mut call, partition, wait_left, &tried, sent) else {
                let message = "the client knows no node".to_owned();
                return Err(Failed::for_good(codes::UNREACHABLE, Certainty::Definite, message).end(earlier));
            };
            let limit = deadline.since(sent).min(settings.attempt_timeout.saturating_add(wait_left));
            let failed = match picked.node.call(call.clone(), limit).await {
                Ok(answer) => {
                    self.0.learn(&answer);
                    return Ok(Answered { answer, sent });
                }
                Err(failed) => failed,
            };
            let resends = u32::try_from(tried.len()).unwrap_or(u32::MAX);
            tried.push(picked.serial);
            match self.0.after(&failed, partition, resends, &tried, deadline) {
                Next::End => return Err(failed.end(earlier)),
                Next::Again(pause) => {
                    earlier = worse(earlier, failed.certainty);
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }
}

impl Inner {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Picks the node of a send, and brings up to date what differs from send to send.
    fn pick(
        &self,
        call: &mut Call,
        partition: Option<u16>,
        wait_left: Duration,
        tried: &[u32],
        now: Moment,
    ) -> Option<Picked> {
        let mut known = self.known();
        if tried.is_empty() {
            known.budget.sent();
        }
        if let Call::Reserve(reserve) = call {
            // Never less than it is: a wait that was asked for is one.
            let wait_ms = u32::try_from(wait_left.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX);
            reserve.wait_ms = (wait_ms > 0).then_some(wait_ms);
            reserve.seen = partition.and_then(|partition| known.position(partition));
        }
        known.pick(partition, tried, now)
    }

    fn learn(&self, answer: &Answer) {
        let epoch = match answer {
            Answer::Reserve(answer) => &answer.epoch,
            Answer::Complete(answer) => &answer.epoch,
            Answer::Release(answer) => &answer.epoch,
            Answer::Extend(answer) => &answer.epoch,
            Answer::Checkpoint(answer) => &answer.epoch,
            Answer::Lookup(answer) => &answer.epoch,
            Answer::Claim(answer) => &answer.epoch,
            Answer::Resolve(answer) => &answer.epoch,
            Answer::Failure(_) => &None::<v1::Epoch>,
        };
        let Some(epoch) = epoch else { return };
        if !self.known().learn(epoch) {
            self.stale.notify_one();
        }
    }

    /// Notes a failure and says what follows it. `tried` has the node that failed, `resends` counts those before it.
    fn after(&self, failed: &Failed, partition: Option<u16>, resends: u32, tried: &[u32], deadline: Moment) -> Next {
        let now = Moment::now();
        let mut known = self.known();
        let mut stale = failed.of_the_node;
        if let (true, Some(serial)) = (failed.of_the_node, tried.last()) {
            known.suspect(*serial, now);
        }
        if let (Some(partition), Some(leader)) = (partition, failed.leader) {
            stale |= !known.leads(partition, leader);
        }
        if stale {
            self.stale.notify_one();
        }
        let Some(retry_after) = failed.retry_after else { return Next::End };
        if resends.saturating_add(1) >= self.settings.attempts {
            return Next::End;
        }
        let elsewhere = known.has_another(tried, now) && (failed.of_the_node || failed.leader.is_some());
        let random: f64 = known.random.random();
        let pause = pause(elsewhere, retry_after, &self.settings.backoff, resends, random);
        if pause >= deadline.since(now) || !known.budget.resend(now) {
            return Next::End;
        }
        Next::Again(pause)
    }
}

/// How long to wait before a resend. Another node is asked at once when this one cannot help; the same question is put
/// again only after the time that the node asked for, and some more, so that not everybody comes at the same moment.
fn pause(elsewhere: bool, retry_after: Duration, backoff: &Backoff, resends: u32, random: f64) -> Duration {
    if elsewhere { Duration::ZERO } else { retry_after.saturating_add(backoff.pause(resends, random)) }
}

fn worse(one: Certainty, other: Certainty) -> Certainty {
    match (one, other) {
        (Certainty::Definite, Certainty::Definite) => Certainty::Definite,
        (Certainty::Indefinite, _) | (_, Certainty::Indefinite) => Certainty::Indefinite,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_node_is_asked_at_once_and_the_same_after_a_pause() {
        let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };
        let asked = Duration::from_millis(250);
        assert_eq!(pause(true, asked, &backoff, 0, 1.0), Duration::ZERO);
        assert_eq!(pause(false, asked, &backoff, 0, 0.0), asked);
        assert_eq!(pause(false, asked, &backoff, 1, 1.0), Duration::from_millis(450));
        assert_eq!(pause(false, Duration::ZERO, &backoff, 9, 0.5), Duration::from_millis(2_500));
    }
}
