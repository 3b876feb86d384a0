//! What the reference answers, and what it remembers of it.

use holdfast::ids::{Digest, EndpointName, FencingToken, Fingerprint, Nonce};
use holdfast::limits;
use holdfast::reservation::command::{Command, Complete, Context, Doubt, Kind, Reserve, Verdict};
use holdfast::reservation::record::State;
use holdfast::reservation::reply::{Grant, Limit, Recorded, Reply};

use super::{Fact, Fate, Given, Life, What, later_of};

/// What is answered.
impl Life {
    pub(super) fn answer_to(&self, command: &Command, context: &Context) -> Reply {
        let open = context.open_epoch == Some(command.epoch);
        if let Kind::Reserve(reserve) = &command.kind {
            return self.reserve(reserve, open, context);
        }
        if !open {
            return Reply::Void { open: context.open_epoch };
        }
        let running = self.runner();
        let runs = |token: FencingToken| running.as_ref().is_some_and(|(of, ..)| *of == token);
        let stale = Reply::StaleToken(self.state());
        match &command.kind {
            Kind::Reserve(_) => stale,
            Kind::Complete(complete) => self.complete(complete, context),
            Kind::Release { token } => {
                if runs(*token) || self.ran_out_last(*token) || self.is_back(*token) {
                    Reply::Released
                } else {
                    stale
                }
            }
            Kind::Extend { token, lease_ms } => {
                if runs(*token) {
                    Reply::Extended { lease_ms: *lease_ms }
                } else {
                    stale
                }
            }
            Kind::Checkpoint { token, .. } => {
                if runs(*token) {
                    Reply::Checkpointed
                } else {
                    stale
                }
            }
            Kind::Void { token } => {
                let extended = running.as_ref().is_some_and(|(_, _, _, revision)| *revision > 0);
                if runs(*token) && !extended { Reply::Voided } else { Reply::Ignored }
            }
            Kind::Lapse { token, lease_revision } => {
                let same = running.as_ref().is_some_and(|(_, _, _, revision)| revision == lease_revision);
                if runs(*token) && same { Reply::Lapsed } else { Reply::Ignored }
            }
            Kind::Claim { nonce, lease_ms, .. } => self.claim(nonce.as_ref(), *lease_ms, context),
            Kind::Resolve { token, verdict, .. } => {
                let unclear = matches!(self.state(), State::OutcomeUnknown | State::Lapsed);
                match (unclear && self.last_token() == Some(*token), verdict) {
                    (false, _) => stale,
                    (true, Verdict::Executed(_)) => Reply::Resolved(State::Completed),
                    (true, Verdict::NotExecuted) => Reply::Resolved(State::Released),
                }
            }
        }
    }

    /// Every answer with whether it applies, in the documented order: the first that applies.
    fn reserve(&self, reserve: &Reserve, open: bool, context: &Context) -> Reply {
        let answer = self.answer(context.key.time_ms);
        let executed = answer.and_then(|answer| self.introduced(answer.token)).map(|(_, given)| &given.request);
        let differs = |of: &Fingerprint| differs(of, &reserve.fingerprint);
        let not_as_answer = answer.and_then(|_| executed.map_or(Some(Reply::Mismatch), differs));
        let superseded = context.open_epoch.filter(|epoch| context.key.mint_epoch > *epoch);
        let past = matches!((context.key.time_ms, context.horizon_ms), (Some(time), Some(most)) if time <= most);
        let runner = self.runner();
        let other_runs = runner.as_ref().and_then(|(_, given, ..)| differs(&given.request));
        let own_runs =
            reserve.nonce.is_some() && runner.as_ref().is_some_and(|(_, given, ..)| given.nonce == reserve.nonce);
        let doubtful = match reserve.doubt {
            Doubt::Settled => false,
            Doubt::Lost | Doubt::UnsettledFailOpen | Doubt::UnsettledFailClosed => true,
        };
        let before = self.may_have_run();
        let other_ran = before.iter().rev().find_map(|(_, given, _)| differs(&given.request));
        let part_ran = self.checkpoint().and_then(|(_, request)| differs(&request));
        let other_or_part_ran = other_ran.or(part_ran);
        let said = |reply: &Option<Reply>| reply.clone().unwrap_or(Reply::Raced);
        let unknown = self.state() == State::OutcomeUnknown;
        let left = self.checkpoint().map(|(checkpoint, _)| checkpoint);
        let closed = reserve.doubt == Doubt::UnsettledFailClosed;
        let number = before.last().map_or(0, |(_, given, _)| given.number);

        let given = self.next(
            reserve.fingerprint.clone(),
            reserve.nonce.clone(),
            reserve.terms.lease_ms,
            doubtful || !before.is_empty(),
        );
        let fresh = || self.grant_reply(&given, context, reserve.endpoint.clone(), reserve.terms.policy_revision);
        let again = || runner.as_ref().and_then(|running| self.again(running, doubtful));
        let answers: [(bool, Reply); 13] = [
            (not_as_answer.is_some(), said(&not_as_answer)),
            (answer.is_some(), answer.map_or(Reply::Raced, Reply::Replay)),
            (!open, Reply::Void { open: context.open_epoch }),
            (superseded.is_some(), superseded.map_or(Reply::Raced, |epoch| Reply::Superseded { epoch })),
            (self.facts.is_empty() && past, Reply::Expired),
            (other_runs.is_some(), said(&other_runs)),
            (own_runs, again().map_or(Reply::Raced, |grant| Reply::Granted(Box::new(grant)))),
            (runner.is_some(), Reply::InProgress),
            (unknown, Reply::OutcomeUnknown { attempt: number, checkpoint: left }),
            (other_or_part_ran.is_some(), said(&other_or_part_ran)),
            (closed, Reply::InDoubt),
            (before.len() >= limits::MAX_ATTEMPTS, Reply::Limited(Limit::Attempts)),
            (self.last_token() != reserve.known, Reply::Raced),
        ];
        let first = answers.into_iter().find(|(applies, _)| *applies).map(|(_, reply)| reply);
        first.unwrap_or_else(|| Reply::Granted(Box::new(fresh())))
    }

    fn claim(&self, nonce: Option<&Nonce>, lease_ms: Option<u32>, context: &Context) -> Reply {
        if let Some(running) = self.runner()
            && nonce.is_some()
            && running.1.nonce.as_ref() == nonce
            && let Some(grant) = self.again(&running, true)
        {
            return Reply::Claimed(Box::new(grant));
        }
        let unknown = self.may_have_run();
        let (State::OutcomeUnknown, Some((_, last, _)), Some(terms)) = (self.state(), unknown.last(), self.terms())
        else {
            return Reply::NotClaimable(self.state());
        };
        if unknown.len() >= limits::MAX_ATTEMPTS {
            return Reply::Limited(Limit::Attempts);
        }
        let given = self.next(last.request.clone(), nonce.cloned(), lease_ms.unwrap_or(terms.lease_ms), true);
        let endpoint = self.endpoint().expect("what can be claimed was granted");
        Reply::Claimed(Box::new(self.grant_reply(&given, context, endpoint, terms.policy_revision)))
    }

    /// Whether the token is of the last grant that may have run, its lease ran out, and nothing is known of its outcome.
    fn ran_out_last(&self, token: FencingToken) -> bool {
        let last = self.may_have_run().pop();
        self.first_outcome().is_none() && last.is_some_and(|(of, _, fate)| of == token && fate == Fate::Unknown)
    }

    /// Whether the token's grant is known to have been given back, of a key that has no outcome.
    fn is_back(&self, token: FencingToken) -> bool {
        let back = self.grants().into_iter().any(|(of, _, fate)| of == token && fate == Fate::Back);
        self.first_outcome().is_none() && back
    }

    fn told_of(&self, token: FencingToken) -> Vec<Digest> {
        let known = self.introduced(token);
        known.map(|(place, _)| self.reported(token, place, self.facts.len())).unwrap_or_default()
    }

    fn complete(&self, complete: &Complete, context: &Context) -> Reply {
        let repeated = self.told_of(complete.token).contains(&complete.envelope);
        let terms = self.terms().unwrap_or(complete.terms);
        let now = later_of(context.now, context.key.time_ms);
        let others_run_ms = self.runs_on_ms(complete.token, self.facts.len());
        let fresh = now.plus_ms(complete.retention_ms.unwrap_or(0).max(terms.retention_ms).max(others_run_ms));
        let expires_at = self.answer(context.key.time_ms).map_or(fresh, |answer| answer.expires_at);
        let recorded = match (repeated, self.first_outcome().is_some()) {
            (true, _) => Recorded::Repeated,
            (false, true) => Recorded::Late,
            (false, false) => Recorded::Answer,
        };
        Reply::Completed { recorded, expires_at }
    }

    fn next(&self, request: Fingerprint, nonce: Option<Nonce>, lease_ms: u32, flagged: bool) -> Given {
        let made = self.facts.iter().filter(|fact| self.is_grant(fact)).count();
        let number = u32::try_from(made + 1).expect("a life is short");
        Given { number, request, nonce, flagged, lease_ms }
    }

    fn grant_reply(&self, given: &Given, context: &Context, endpoint: EndpointName, policy_revision: u32) -> Grant {
        Grant {
            token: token_of(context),
            lease_ms: given.lease_ms,
            lease_revision: 0,
            attempt: given.number,
            checkpoint: self.checkpoint().map(|(checkpoint, _)| checkpoint),
            possible_duplicate: given.flagged,
            repeated: false,
            fingerprint: given.request.clone(),
            endpoint,
            policy_revision,
        }
    }

    fn again(&self, running: &(FencingToken, Given, u32, u32), flagged: bool) -> Option<Grant> {
        let (token, given, lease_ms, lease_revision) = running;
        Some(Grant {
            token: *token,
            lease_ms: *lease_ms,
            lease_revision: *lease_revision,
            attempt: given.number,
            checkpoint: self.checkpoint().map(|(checkpoint, _)| checkpoint),
            possible_duplicate: given.flagged || flagged,
            repeated: true,
            fingerprint: given.request.clone(),
            endpoint: self.endpoint()?,
            policy_revision: self.terms()?.policy_revision,
        })
    }
}

/// What is remembered.
impl Life {
    /// Adds the facts that an answer stands for, and says which envelope is to be stored.
    pub(super) fn remember(&mut self, command: &Command, context: &Context, reply: &Reply) -> Option<Digest> {
        let back = matches!(&command.kind, Kind::Release { token } if self.is_back(*token));
        let mut add = |token, what| self.facts.push(Fact { at: context.now, token, what });
        match (&command.kind, reply) {
            (Kind::Reserve(reserve), Reply::Granted(grant)) if !grant.repeated => {
                let what = What::Granted(given(grant, &reserve.nonce), reserve.terms, reserve.endpoint.clone());
                add(grant.token, what);
            }
            (Kind::Claim { nonce, worker, .. }, Reply::Claimed(grant)) if !grant.repeated => {
                add(grant.token, What::Claimed { given: given(grant, nonce), worker: worker.clone() });
            }
            (Kind::Release { token }, Reply::Released) if !back => add(*token, What::Released),
            (Kind::Void { token }, Reply::Voided) => add(*token, What::Voided),
            (Kind::Lapse { token, .. }, Reply::Lapsed) => add(*token, What::Lapsed),
            (Kind::Extend { token, lease_ms }, Reply::Extended { .. }) => add(*token, What::Extended(*lease_ms)),
            (Kind::Checkpoint { token, checkpoint }, Reply::Checkpointed) => {
                add(*token, What::Checkpointed(checkpoint.clone()));
            }
            (Kind::Resolve { token, verdict, actor, reason }, Reply::Resolved(_)) => {
                add(*token, What::Ruled { verdict: *verdict, why: format!("{actor}: {reason}") });
                return match verdict {
                    Verdict::Executed(envelope) => Some(*envelope),
                    Verdict::NotExecuted => None,
                };
            }
            (Kind::Complete(complete), Reply::Completed { recorded: Recorded::Answer | Recorded::Late, .. }) => {
                return self.report(complete, context);
            }
            _ => {}
        }
        None
    }

    fn report(&mut self, complete: &Complete, context: &Context) -> Option<Digest> {
        let Complete { token, envelope, retention_ms, .. } = complete;
        if self.told_of(*token).len() >= limits::MAX_ENVELOPES_PER_TOKEN {
            return None;
        }
        if self.introduced(*token).is_none() {
            let given = Given {
                number: 0,
                request: complete.fingerprint.clone(),
                nonce: complete.nonce.clone(),
                flagged: false,
                lease_ms: 0,
            };
            let what = What::Adopted(given, complete.terms);
            self.facts.push(Fact { at: context.now, token: *token, what });
        }
        let what = What::Reported { envelope: *envelope, retention_ms: *retention_ms };
        self.facts.push(Fact { at: context.now, token: *token, what });
        Some(*envelope)
    }
}

/// What a request is told that is not the one that a grant is for. Under another selection nobody can say whether it is.
fn differs(granted: &Fingerprint, asked: &Fingerprint) -> Option<Reply> {
    if granted == asked {
        return None;
    }
    match granted.selection == asked.selection || granted.version != asked.version || granted.version == 0 {
        true => Some(Reply::Mismatch),
        false => Some(Reply::OtherSelection { selection: granted.selection }),
    }
}

fn given(grant: &Grant, nonce: &Option<Nonce>) -> Given {
    Given {
        number: grant.attempt,
        request: grant.fingerprint.clone(),
        nonce: nonce.clone(),
        flagged: grant.possible_duplicate,
        lease_ms: grant.lease_ms,
    }
}

fn token_of(context: &Context) -> FencingToken {
    let epoch = context.open_epoch.expect("a grant needs an open epoch");
    FencingToken { epoch, sequence: context.next_position }
}
