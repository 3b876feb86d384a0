//! A Reserve from its message to its answer: its fingerprint is taken as the endpoint's policy says, and again as the key's own
//! grant says if that is another selection. So a change of policies turns no retry into a mismatch.

use std::sync::Arc;
use std::time::Duration;

use holdfast_client::fingerprint::Selection;
use holdfast_client::proto::v1;

use super::convert::{self, Asked};
use super::error::ApiError;
use crate::clock::Monotonic;
use crate::ids::Fingerprint;
use crate::region::calls::{Certainty, Failed, Failure, Placed, ReserveCall, ReserveOutcome};
use crate::router::{self, Router};

/// Bytes of a body over which a fingerprint is made on a thread of its own: at about 100 MB/s this is half a millisecond,
/// which the calls beside it may well wait.
const INLINE_FINGERPRINT_BYTES: usize = 64 * 1024;

/// Times that the fingerprint of one call is taken: as the policy says, as the key's grant says, and once more if another
/// grant took its place meanwhile.
const MAX_SELECTIONS: u32 = 3;

/// Serves a Reserve by whoever leads its key's partition.
pub(super) async fn reserve(
    router: &Router,
    asked: Asked,
    timeout: Option<Duration>,
) -> Result<Placed<ReserveOutcome>, ApiError> {
    let until = router::until(asked.received(), timeout, asked.wait());
    let (mut call, request) = match asked {
        Asked::Digested(call) => return Ok(router.call(&*call, until).await?),
        Asked::Described { call, request } => (call, request),
    };
    let mut selection = router.region().selection_for(&call.key.tenant, &call.endpoint).map_err(unserved)?;
    for _ in 0..MAX_SELECTIONS {
        let followed = router.region().selection(selection, until).await.map_err(unserved)?;
        call.fingerprint = taken(&request, &call, selection, followed).await?;
        match router.call(&*call, until).await {
            Err(Failed { failure: Failure::OtherSelection { selection: other }, .. }) => selection = other,
            answered => return Ok(answered?),
        }
    }
    let reason = "the key changed hands while its fingerprint was taken: ask again".to_owned();
    let retry_after = Duration::from_millis(200);
    Err(unserved(Failure::Unavailable { certainty: Certainty::Definite, reason, retry_after }))
}

fn unserved(failure: Failure) -> ApiError {
    ApiError::from(failure)
}

/// The fingerprint of a request, taken away from the other calls if the body is large.
async fn taken(
    request: &v1::Request,
    call: &ReserveCall,
    number: u32,
    selection: Arc<Selection>,
) -> Result<Fingerprint, ApiError> {
    let endpoint = call.endpoint.clone();
    if request.body.len() <= INLINE_FINGERPRINT_BYTES {
        return Ok(convert::fingerprint_of(request, &endpoint, number, &selection));
    }
    let request = request.clone();
    let take = move || convert::fingerprint_of(&request, &endpoint, number, &selection);
    tokio::task::spawn_blocking(take).await.map_err(|ended| {
        let reason = format!("the request was not fingerprinted: {ended}");
        let retry_after = Duration::from_secs(1);
        unserved(Failure::Unavailable { certainty: Certainty::Definite, reason, retry_after })
    })
}

impl Asked {
    /// When the request reached this node.
    pub(super) fn received(&self) -> Monotonic {
        match self {
            Self::Digested(call) | Self::Described { call, .. } => call.received,
        }
    }

    /// How long it waits while another attempt is in flight.
    pub(super) fn wait(&self) -> Duration {
        match self {
            Self::Digested(call) | Self::Described { call, .. } => call.wait,
        }
    }

    /// As another node has passed it on, which took the fingerprint. Nothing: no node of this version sends that.
    pub(super) fn forwarded(self, fingerprint: Option<(u32, u32)>) -> Option<ReserveCall> {
        let (version, selection) = fingerprint?;
        match self {
            Self::Digested(mut call) => {
                call.fingerprint.version = version;
                call.fingerprint.selection = selection;
                Some(*call)
            }
            Self::Described { .. } => None,
        }
    }
}
