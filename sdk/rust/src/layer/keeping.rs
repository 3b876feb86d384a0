//! Keeps a grant's lease alive while something is done under it.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::client::clock::Moment;
use crate::client::{Grant, Held};

/// The shortest pause between two tries to extend a lease.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest lease that the store gives.
const MOST: Duration = Duration::from_secs(3_600);

/// Does something, and extends the lease meanwhile, until `until` at the latest: whoever works for longer than its rules allow
/// loses the key as one that died does.
pub(super) async fn kept<T>(grant: &Grant, until: Moment, work: impl Future<Output = T>) -> T {
    match select(pin!(work), pin!(keep(grant, until))).await {
        Either::Left((done, _)) => done,
        Either::Right((never, _)) => match never {},
    }
}

/// Makes a lease last for so long from now, with one call, which a process that ends afterwards does not undo. Tried until the lease
/// is over, or somebody else's.
pub(super) async fn lasting(grant: &Grant, lease: Duration) {
    while !grant.remaining().is_zero() && grant.remaining() < lease {
        match grant.extend(lease.min(MOST)).await {
            Ok(Held::Done | Held::Stale(_)) => return,
            Err(_) => tokio::time::sleep((grant.remaining() / 10).max(PAUSE)).await,
        }
    }
}

async fn keep(grant: &Grant, until: Moment) -> std::convert::Infallible {
    let lease = grant.lease();
    loop {
        // A third of it is gone: two more tries fit, and an answer that takes its time.
        tokio::time::sleep(grant.remaining().saturating_sub(lease.mul_f64(2.0 / 3.0))).await;
        if Moment::now() >= until {
            return std::future::pending().await;
        }
        match grant.extend(lease).await {
            Ok(Held::Done) => {}
            // It is somebody else's now, or nobody's. What was begun cannot be stopped safely: it goes on, and its outcome is
            // told all the same.
            Ok(Held::Stale(_)) => return std::future::pending().await,
            Err(_) => tokio::time::sleep((lease / 10).max(PAUSE)).await,
        }
    }
}
