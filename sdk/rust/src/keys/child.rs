//! Child keys: the key that one step of a protected operation sends on to the next service.
//!
//! The rules stand at [`IdempotencyKey::child`]. Deliberately absent: the tenant. The downstream has its own, and would not
//! know the parent's.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{IdempotencyKey, KeyKind, TaggedKey};

/// Keeps these digests apart from all others, and this version from the next.
const LABEL: &[u8] = b"holdfast child key v1\0";

/// What the child of an opaque key starts with: for whoever reads it in a log.
const PREFIX: &str = "child.";

impl IdempotencyKey {
    /// The key of a step of the operation that this key names: the same for every retry of it, from any process, and another
    /// for each step.
    ///
    /// `step` is any text, best a constant such as `reserve-stock`; with a number in it where one step runs several times
    /// in an order that a retry repeats. A child has children as well.
    ///
    /// Every language computes the same; `vectors/child.json` holds examples. The rules:
    ///
    /// * digest = SHA-256 over `holdfast child key v1` 0x00, then the parent and then the step, each after its length in bytes
    ///   as a big-endian `u32`. With the lengths no two pairs read the same; the label keeps it apart from other digests.
    /// * The child of an opaque key is `child.` and the digest in 64 lower-case hexadecimal digits.
    /// * The child of a tagged key is `hf1.<home>.0.<uuid>`: the parent's home, so that it is served where the parent is; the
    ///   parent's key time, so that it is as old as the parent to whoever forgets old keys; and the first 10 bytes of the digest
    ///   as the random ones. Its mint epoch is 0: the parent's is of the parent's partition, and the child lies in another,
    ///   which may never reach that epoch.
    ///
    /// ```
    /// use holdfast_client::keys::IdempotencyKey;
    /// let order = IdempotencyKey::parse("order-1001")?;
    /// let charge = order.child("charge");
    /// assert_eq!(charge.as_str(), "child.fcb58d98f6ce38f2939c87444c5a0b75b5b95b74e467c75834cbf2d584289a06");
    /// assert_ne!(charge, order.child("ship"));
    /// # Ok::<(), holdfast_client::keys::KeyError>(())
    /// ```
    #[must_use]
    pub fn child(&self, step: &str) -> Self {
        match self.kind() {
            KeyKind::Opaque => opaque_child(self.as_str(), step),
            KeyKind::Tagged(parent) => {
                let [a, b, c, d, e, f, g, h, i, j, ..] = digest(self.as_str(), step);
                let random = [a, b, c, d, e, f, g, h, i, j];
                let uuid = uuid::Builder::from_unix_timestamp_millis(parent.unix_ms(), &random).into_uuid();
                TaggedKey { home: parent.home(), mint_epoch: 0, uuid }.into()
            }
        }
    }
}

/// The child of a key that a store has granted. One that this version cannot read as a key is a text like any other.
pub(crate) fn child_of_granted(parent: &str, step: &str) -> IdempotencyKey {
    IdempotencyKey::parse(parent).map_or_else(|_| opaque_child(parent, step), |parent| parent.child(step))
}

fn opaque_child(parent: &str, step: &str) -> IdempotencyKey {
    let digits = digest(parent, step).map(|byte| format!("{byte:02x}")).concat();
    IdempotencyKey { text: Arc::from(format!("{PREFIX}{digits}")), tag: None }
}

fn digest(parent: &str, step: &str) -> [u8; 32] {
    let hash = Sha256::new().chain_update(LABEL);
    let hash = hash.chain_update(length(parent)).chain_update(parent);
    hash.chain_update(length(step)).chain_update(step).finalize().into()
}

/// No text in memory that anybody names a step with is longer than a `u32` counts; one that were would count as the longest.
fn length(part: &str) -> [u8; 4] {
    u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes()
}
