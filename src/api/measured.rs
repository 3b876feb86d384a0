//! The router, with every call counted and timed: what every way in (gRPC, HTTP/JSON, sessions) calls. A call that another
//! node forwarded goes straight to the router, so that each is counted once, where its client is.

use std::ops::Deref;

use crate::clock::{self, Monotonic};
use crate::ids::{FencingToken, Nonce, RecordKey};
use crate::region::calls::{
    Certainty, ClaimOutcome, Completed, Envelope, Failure, Found, GrantOutcome, Placed, ReserveCall, ReserveOutcome,
    ResolveOutcome, Verdict,
};
use crate::reservation::record::Checkpoint;
use crate::reservation::reply::Recorded;
use crate::router::Router;
use crate::telemetry::metrics::{self, Method, Outcome, Whose};

/// The router as the API uses it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Measured {
    router: Router,
}

/// What is not a call of a client is not measured.
impl Deref for Measured {
    type Target = Router;

    fn deref(&self) -> &Router {
        &self.router
    }
}

type Answered<T> = Result<Placed<T>, Failure>;

impl Measured {
    pub(super) const fn new(router: Router) -> Self {
        Self { router }
    }

    pub(super) async fn reserve(&self, call: ReserveCall) -> Answered<ReserveOutcome> {
        let (tenant, endpoint, client_version) =
            (call.key.tenant.clone(), call.endpoint.clone(), call.client_version.clone());
        let (received, waits) = (call.received, !call.wait.is_zero());
        let answered = self.router.reserve(call).await;
        let outcome = came_to(&answered, reserved);
        metrics::call(Method::Reserve, waits, outcome, clock::monotonic().since(received));
        let severity = self.router.severity().as_str();
        metrics::reserve(
            Whose { tenant: &tenant, endpoint: &endpoint, severity, client_version: &client_version },
            outcome,
        );
        answered
    }

    pub(super) async fn complete(
        &self,
        key: RecordKey,
        token: &str,
        envelope: Envelope,
        retention_ms: Option<u64>,
    ) -> Answered<Completed> {
        let call = self.router.complete(key, token, envelope, retention_ms);
        timed(Method::Complete, clock::monotonic(), call, |completed| match completed.recorded {
            Recorded::Answer => Outcome::Answer,
            Recorded::Repeated => Outcome::Repeated,
            Recorded::Late => Outcome::Late,
        })
        .await
    }

    pub(super) async fn release(&self, key: RecordKey, token: &str) -> Answered<GrantOutcome> {
        timed(Method::Release, clock::monotonic(), self.router.release(key, token), on_grant).await
    }

    pub(super) async fn extend(&self, key: RecordKey, token: &str, lease_ms: u32) -> Answered<GrantOutcome> {
        timed(Method::Extend, clock::monotonic(), self.router.extend(key, token, lease_ms), on_grant).await
    }

    pub(super) async fn checkpoint(
        &self,
        key: RecordKey,
        token: &str,
        checkpoint: Checkpoint,
    ) -> Answered<GrantOutcome> {
        timed(Method::Checkpoint, clock::monotonic(), self.router.checkpoint(key, token, checkpoint), on_grant).await
    }

    pub(super) async fn claim(
        &self,
        key: RecordKey,
        worker: &str,
        nonce: Option<Nonce>,
        lease_ms: Option<u32>,
        received: Monotonic,
    ) -> Answered<ClaimOutcome> {
        let call = self.router.claim(key, worker, nonce, lease_ms, received);
        timed(Method::Claim, received, call, |outcome| match outcome {
            ClaimOutcome::Claimed(grant) if grant.repeated => Outcome::GrantedAgain,
            ClaimOutcome::Claimed(_) => Outcome::Claimed,
            ClaimOutcome::NotClaimable(_) => Outcome::NotClaimable,
            ClaimOutcome::Limited(_) => Outcome::Limited,
        })
        .await
    }

    pub(super) async fn resolve(
        &self,
        key: RecordKey,
        fencing: FencingToken,
        verdict: Verdict,
        actor: &str,
        reason: &str,
    ) -> Answered<ResolveOutcome> {
        let call = self.router.resolve(key, fencing, verdict, actor, reason);
        timed(Method::Resolve, clock::monotonic(), call, |outcome| match outcome {
            ResolveOutcome::Resolved(_) => Outcome::Done,
            ResolveOutcome::StaleToken(_) => Outcome::StaleToken,
        })
        .await
    }

    pub(super) fn lookup(&self, key: &RecordKey) -> Answered<Option<Found>> {
        let begun = clock::monotonic();
        let answered = self.router.lookup(key);
        let found = |found: &Option<Found>| if found.is_some() { Outcome::Found } else { Outcome::Absent };
        metrics::call(Method::Lookup, false, came_to(&answered, found), clock::monotonic().since(begun));
        answered
    }
}

async fn timed<T>(
    method: Method,
    begun: Monotonic,
    call: impl Future<Output = Answered<T>>,
    outcome: impl FnOnce(&T) -> Outcome,
) -> Answered<T> {
    let answered = call.await;
    metrics::call(method, false, came_to(&answered, outcome), clock::monotonic().since(begun));
    answered
}

fn came_to<T>(answered: &Answered<T>, outcome: impl FnOnce(&T) -> Outcome) -> Outcome {
    match answered {
        Ok(placed) => outcome(&placed.outcome),
        Err(Failure::Unavailable { certainty: Certainty::Indefinite, .. }) => Outcome::FailedIndefinite,
        Err(
            Failure::Unavailable { certainty: Certainty::Definite, .. }
            | Failure::Invalid(_)
            | Failure::Overloaded { .. }
            | Failure::DiskLow { .. },
        ) => Outcome::FailedDefinite,
    }
}

fn reserved(outcome: &ReserveOutcome) -> Outcome {
    match outcome {
        ReserveOutcome::Granted(grant) if grant.repeated => Outcome::GrantedAgain,
        ReserveOutcome::Granted(_) => Outcome::Granted,
        ReserveOutcome::Replay(_) => Outcome::Replay,
        ReserveOutcome::Mismatch => Outcome::Mismatch,
        ReserveOutcome::InProgress { .. } => Outcome::InProgress,
        ReserveOutcome::OutcomeUnknown { .. } => Outcome::OutcomeUnknown,
        ReserveOutcome::InDoubt { .. } => Outcome::InDoubt,
        ReserveOutcome::Superseded { .. } => Outcome::Superseded,
        ReserveOutcome::Expired => Outcome::Expired,
        ReserveOutcome::Limited { .. } => Outcome::Limited,
    }
}

fn on_grant(outcome: &GrantOutcome) -> Outcome {
    match outcome {
        GrantOutcome::Done => Outcome::Done,
        GrantOutcome::StaleToken(_) => Outcome::StaleToken,
    }
}
