//! Tells the store what an execution came to, until it has heard, or for as long as that is worth trying: an outcome that is not
//! told is one that somebody has to find out, or that runs a second time.

use std::time::Duration;

use super::ending::Executed;
use super::keeping::kept;
use crate::client::clock::Moment;
use crate::client::{self, Completed, Envelope, Error, Outcome, Replay};
use crate::http::{Unavailable, store_outcome};

/// How long the store is told.
const LIMIT: Duration = Duration::from_secs(300);
/// The pause between two tries, of which each resends for itself.
const PAUSE: Duration = Duration::from_millis(250);

/// The telling of an outcome.
pub(super) struct Recording<'a> {
    executed: &'a Executed,
    why: Unavailable,
}

/// What came of it.
pub(super) enum Recorded {
    /// Every retry gets it.
    Answer {
        /// Until when.
        expires_at_unix_ms: u64,
        /// The store does not take it whole: only that it was executed is recorded.
        unavailable: Option<Unavailable>,
    },
    /// Another execution had been recorded before: this is what every retry gets.
    Another(Box<Replay>),
}

impl<'a> Recording<'a> {
    /// `why` is what is said if the store does not take the envelope whole.
    pub(super) fn new(executed: &'a Executed, why: Unavailable) -> Self {
        Self { executed, why }
    }

    /// Tells it.
    ///
    /// # Errors
    /// When it could not be told in time, or the store will not hear; with the last failure, if there was one.
    pub(super) async fn run(&self, envelope: Envelope) -> Result<Recorded, Option<Error>> {
        let until = Moment::now().plus(LIMIT);
        let telling = self.tell(envelope, until);
        kept(&self.executed.grant, until, telling).await
    }

    async fn tell(&self, mut envelope: Envelope, until: Moment) -> Result<Recorded, Option<Error>> {
        let mut unavailable = None;
        loop {
            let error = match self.complete(envelope.clone()).await {
                Ok(completed) => return self.recorded(completed, unavailable).await,
                Err(error) => error,
            };
            if matches!(error.code(), "envelope-too-large" | "envelope-invalid") && unavailable.is_none() {
                // A node may take less than the rules say. That it was executed is never too large.
                unavailable = Some(self.why);
                let status = http::StatusCode::from_u16(envelope.status).unwrap_or_default();
                envelope = store_outcome(status, self.why, None);
                continue;
            }
            if error.retry_after().is_none() || Moment::now() >= until {
                return Err(Some(error));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn complete(&self, envelope: Envelope) -> Result<Completed, Error> {
        let Executed { grant, endpoint, .. } = self.executed;
        match endpoint.rules.retention() {
            Some(retention) => grant.complete_for(envelope, retention).await,
            None => grant.complete(envelope).await,
        }
    }

    async fn recorded(
        &self,
        completed: Completed,
        unavailable: Option<Unavailable>,
    ) -> Result<Recorded, Option<Error>> {
        let Completed { recorded, expires_at_unix_ms } = completed;
        match recorded {
            client::Recorded::Answer | client::Recorded::Repeated => {
                Ok(Recorded::Answer { expires_at_unix_ms, unavailable })
            }
            client::Recorded::Late => match self.other().await? {
                Some(replay) => Ok(Recorded::Another(Box::new(replay))),
                None => Err(None),
            },
        }
    }

    /// What was recorded first.
    async fn other(&self) -> Result<Option<Replay>, Option<Error>> {
        let Executed { endpoint, question, .. } = self.executed;
        let asked = endpoint.shared.client.reserve(question.reserve(endpoint, Duration::ZERO)).await.map_err(Some)?;
        Ok(match asked {
            Outcome::Replay(replay) => Some(replay),
            // What is granted here is not executed.
            Outcome::Granted(grant) => {
                let _lapses = grant.release().await;
                None
            }
            Outcome::Mismatch
            | Outcome::InProgress { .. }
            | Outcome::OutcomeUnknown { .. }
            | Outcome::InDoubt { .. }
            | Outcome::Superseded { .. }
            | Outcome::Expired
            | Outcome::Limited { .. } => None,
        })
    }
}
