//! What the application knows of the execution that it is.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::client::{Checkpoint, Error, FencingToken, Grant, Held};
use crate::http::FENCING_TOKEN;
use crate::keys::IdempotencyKey;

/// What a request is followed by through several services.
const CARRIED: [&str; 3] = ["correlation-id", "traceparent", "tracestate"];

/// The execution of a protected request, in the extensions of that request. A request without it runs unprotected.
///
/// ```
/// # fn effect(request: &http::Request<()>) {
/// use holdfast_client::layer::Execution;
/// let execution = request.extensions().get::<Execution>();
/// if execution.is_some_and(Execution::possible_duplicate) {
///     // An earlier attempt may have executed: look before doing it again.
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Execution {
    pub(super) grant: Arc<Grant>,
}

impl Execution {
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.grant.tenant()
    }

    /// The idempotency key.
    #[must_use]
    pub fn key(&self) -> &str {
        self.grant.key()
    }

    /// The key that a step of this execution sends on: see [`IdempotencyKey::child`].
    #[must_use]
    pub fn child(&self, step: &str) -> IdempotencyKey {
        self.grant.child(step)
    }

    /// Writes what a step of this execution sends on into the headers of its request: `Idempotency-Key`, its child key as a
    /// quoted string, and `Holdfast-Fencing-Token`. Also `Correlation-Id`, `traceparent` and `tracestate` where `caller`, the
    /// headers of the request that is executed, has them and `headers` has not: what traces writes its own.
    pub fn propagate(&self, step: &str, caller: &HeaderMap, headers: &mut HeaderMap) {
        // Neither a child key nor a token has a character that a header value or a quoted string could not bear.
        if let Ok(key) = HeaderValue::try_from(format!("\"{}\"", self.child(step))) {
            headers.insert("idempotency-key", key);
        }
        if let Ok(token) = HeaderValue::try_from(self.fencing().to_string()) {
            headers.insert(FENCING_TOKEN, token);
        }
        for name in CARRIED {
            if let (Some(value), false) = (caller.get(name), headers.contains_key(name)) {
                headers.insert(name, value.clone());
            }
        }
    }

    /// What the effect's target compares: it refuses what comes with a smaller one than it has seen for the key.
    #[must_use]
    pub fn fencing(&self) -> FencingToken {
        self.grant.fencing()
    }

    /// The token's text: what another process needs to complete the grant.
    #[must_use]
    pub fn token(&self) -> &str {
        self.grant.token()
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.grant.attempt()
    }

    /// An earlier attempt may have executed: find out before doing it again.
    #[must_use]
    pub fn possible_duplicate(&self) -> bool {
        self.grant.possible_duplicate()
    }

    /// What an earlier attempt left.
    #[must_use]
    pub fn left_checkpoint(&self) -> Option<&Checkpoint> {
        self.grant.left_checkpoint()
    }

    /// How long the lease still runs. The layer extends it in time; near zero it could not, and another attempt may begin.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.grant.remaining()
    }

    /// Stores a recovery point: which step is done, and what continues it. The next attempt gets it, if there is one.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<Held, Error> {
        self.grant.checkpoint(checkpoint).await
    }
}
