//! Tokens at work: the cluster key that the first partition's log holds, and what it signs.

use std::sync::{Arc, PoisonError, RwLock};

use holdfast_client::keys;

use crate::codec::pb;
use crate::codec::token::{self, Claims, ClusterKey, TokenError};
use crate::ids::{Nonce, PartitionId, RecordKey, RegionName};
use crate::region::calls::Invalid;
use crate::reservation::reply::Grant;

/// The valid cluster keys, the current one first.
#[derive(Default)]
pub(super) struct Tokens {
    keys: RwLock<Arc<[ClusterKey]>>,
}

/// Why a token has no claims here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// It is none of this cluster's, or another key's.
    Invalid(Invalid),
    /// It bears a cluster key that may have been made since this node last heard of one.
    Behind(TokenError),
}

impl Tokens {
    fn valid(&self) -> Arc<[ClusterKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over the keys as the first partition's state has them. Whether they are others than before.
    pub(super) fn follow(&self, keys: &[pb::ClusterKey]) -> bool {
        let same = |known: &[ClusterKey]| known.iter().map(|key| key.id).eq(keys.iter().map(|key| key.key_id));
        if same(&self.valid()) {
            return false;
        }
        let keys = keys
            .iter()
            .filter_map(|key| Some(ClusterKey { id: key.key_id, secret: key.secret.as_ref().try_into().ok()? }));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.collect();
        true
    }

    /// The current key's number.
    pub(super) fn current(&self) -> Option<u32> {
        self.valid().first().map(|key| key.id)
    }

    /// A grant's token, if there is a cluster key yet.
    pub(super) fn mint(
        &self,
        key: &RecordKey,
        grant: &Grant,
        nonce: Option<&Nonce>,
        place: &Granting<'_>,
    ) -> Option<String> {
        let claims = Claims {
            fencing: grant.token,
            tenant: key.tenant.clone(),
            key_hash: keys::key_hash(key.tenant.as_str(), &key.key),
            home: place.home.clone(),
            region: place.region.clone(),
            partition: place.partition,
            fingerprint: grant.fingerprint.clone(),
            endpoint: grant.endpoint.clone(),
            policy_revision: grant.policy_revision,
            nonce: nonce.cloned(),
        };
        self.valid().first().map(|current| token::mint(current, &claims))
    }

    /// The claims of a token that this cluster made for this key.
    pub(super) fn verify(&self, key: &RecordKey, text: &str) -> Result<Claims, Unverified> {
        let valid = self.valid();
        let claims = token::verify(&valid, text).map_err(|error| match error {
            TokenError::UnknownKey(id) if valid.iter().all(|known| known.id < id) => Unverified::Behind(error),
            TokenError::UnknownKey(_) | TokenError::Shape | TokenError::Claims | TokenError::Mac => {
                Unverified::Invalid(Invalid::Token(error.to_string()))
            }
        })?;
        let hash = keys::key_hash(key.tenant.as_str(), &key.key);
        if claims.tenant != key.tenant || claims.key_hash != hash {
            return Err(Unverified::Invalid(Invalid::TokenForAnotherKey));
        }
        Ok(claims)
    }
}

/// Where a grant is made.
pub(super) struct Granting<'a> {
    pub(super) home: &'a RegionName,
    pub(super) region: &'a RegionName,
    pub(super) partition: PartitionId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EndpointName, Epoch, FencingToken, Fingerprint, IdempotencyKey, TenantId};

    fn stored(key_id: u32) -> pb::ClusterKey {
        pb::ClusterKey { key_id, secret: vec![u8::try_from(key_id).unwrap(); 32].into() }
    }

    fn key(name: &str) -> RecordKey {
        RecordKey { tenant: TenantId::parse("acme").unwrap(), key: IdempotencyKey::parse(name).unwrap() }
    }

    fn token(tokens: &Tokens) -> String {
        let grant = Grant {
            token: FencingToken { epoch: Epoch(1), sequence: 1 },
            lease_ms: 1,
            lease_revision: 0,
            attempt: 1,
            checkpoint: None,
            possible_duplicate: false,
            repeated: false,
            fingerprint: Fingerprint { version: 0, selection: 0, digest: Box::new([1]) },
            endpoint: EndpointName::parse("default").unwrap(),
            policy_revision: 0,
        };
        let eu = RegionName::parse("eu").unwrap();
        let place = Granting { home: &eu, region: &eu, partition: PartitionId(0) };
        tokens.mint(&key("a"), &grant, None, &place).unwrap()
    }

    #[test]
    fn a_newer_cluster_key_is_not_called_invalid_and_an_older_one_is() {
        let (ahead, behind) = (Tokens::default(), Tokens::default());
        ahead.follow(&[stored(2), stored(1)]);
        let text = token(&ahead);
        assert!(matches!(behind.verify(&key("a"), &text), Err(Unverified::Behind(_))), "it knows no key yet");
        behind.follow(&[stored(1)]);
        assert!(matches!(behind.verify(&key("a"), &text), Err(Unverified::Behind(_))));
        behind.follow(&[stored(2), stored(1)]);
        assert!(behind.verify(&key("a"), &text).is_ok());
        assert_eq!(behind.verify(&key("b"), &text), Err(Unverified::Invalid(Invalid::TokenForAnotherKey)));
        behind.follow(&[stored(4), stored(3)]);
        assert!(matches!(behind.verify(&key("a"), &text), Err(Unverified::Invalid(Invalid::Token(_)))), "it is over");
    }
}
