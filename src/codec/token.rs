//! A grant's token: `<epoch>.<sequence>.<base64url of claims and MAC>`.
//!
//! The claims say what was granted, so that any region can check that a grant was real and knows enough to adopt it.
//! The MAC is HMAC-SHA-256, cut to 16 bytes, over the domain `holdfast-token-v1`, epoch, sequence and the claims.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::codec::record::{endpoint_from, fingerprint_from, fingerprint_to, nonce_from, nonce_to};
use crate::codec::{open, pb, seal};
use crate::ids::{EndpointName, Epoch, FencingToken, Fingerprint, Nonce, PartitionId, RegionName, TenantId};
use crate::limits;

const DOMAIN: &[u8] = b"holdfast-token-v1";
const MAC_BYTES: usize = 16;
const WHAT: &str = "a token";

/// A key that tokens are made under.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    /// Its number, in every token made under it.
    pub id: u32,
    /// Its secret.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterKey({})", self.id)
    }
}

/// What a token says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The fencing token.
    pub fencing: FencingToken,
    /// Whose key.
    pub tenant: TenantId,
    /// SHA-256 over tenant, 0 and the key.
    pub key_hash: [u8; 32],
    /// The key's home.
    pub home: RegionName,
    /// The region that granted.
    pub region: RegionName,
    /// The key's partition.
    pub partition: PartitionId,
    /// The request.
    pub fingerprint: Fingerprint,
    /// The endpoint contract.
    pub endpoint: EndpointName,
    /// The policy revision.
    pub policy_revision: u32,
    /// The attempt's random name.
    pub nonce: Option<Nonce>,
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not `<epoch>.<sequence>.<base64url>`.
    #[error("it is not <epoch>.<sequence>.<claims>: send the token as it was granted")]
    Shape,
    /// The claims do not decode.
    #[error("its claims do not decode: send the token as it was granted")]
    Claims,
    /// It was made under a cluster key that is no longer valid.
    #[error("it was made under the cluster key {0}, which is not valid here any more")]
    UnknownKey(u32),
    /// Its MAC is wrong.
    #[error("its MAC is wrong: it was not granted by this cluster, or was changed")]
    Mac,
}

fn mac(key: &ClusterKey, fencing: FencingToken, claims: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.secret).ok()?;
    mac.update(DOMAIN);
    mac.update(&fencing.epoch.0.to_be_bytes());
    mac.update(&fencing.sequence.to_be_bytes());
    mac.update(claims);
    Some(mac)
}

/// Writes a token under a cluster key.
#[must_use]
pub fn mint(key: &ClusterKey, claims: &Claims) -> String {
    let mut bytes = seal(&pb::TokenClaims {
        key_id: key.id,
        tenant: claims.tenant.as_str().to_owned(),
        key_hash: bytes::Bytes::copy_from_slice(&claims.key_hash),
        home: claims.home.as_str().to_owned(),
        region: claims.region.as_str().to_owned(),
        partition: u32::from(claims.partition.0),
        fingerprint: Some(fingerprint_to(&claims.fingerprint)),
        endpoint: claims.endpoint.as_str().to_owned(),
        policy_revision: claims.policy_revision,
        nonce: nonce_to(claims.nonce.as_ref()),
    });
    if let Some(mac) = mac(key, claims.fencing, &bytes) {
        bytes.extend(mac.finalize().into_bytes().iter().take(MAC_BYTES));
    }
    let mut text = format!("{}.{}.", claims.fencing.epoch, claims.fencing.sequence);
    URL_SAFE_NO_PAD.encode_string(&bytes, &mut text);
    text
}

/// Reads a token and checks its MAC under one of the valid cluster keys.
///
/// # Errors
/// When it does not parse, bears an unknown key, or its MAC is wrong.
pub fn verify(keys: &[ClusterKey], text: &str) -> Result<Claims, TokenError> {
    if text.len() > limits::MAX_TOKEN_BYTES {
        return Err(TokenError::Shape);
    }
    let mut parts = text.splitn(3, '.');
    let (Some(epoch), Some(sequence), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(TokenError::Shape);
    };
    let fencing = FencingToken { epoch: Epoch(number(epoch)?), sequence: number(sequence)? };
    let bytes = URL_SAFE_NO_PAD.decode(rest).map_err(|_| TokenError::Shape)?;
    let at = bytes.len().checked_sub(MAC_BYTES).ok_or(TokenError::Shape)?;
    let (signed, tag) = bytes.split_at_checked(at).ok_or(TokenError::Shape)?;
    let message: pb::TokenClaims = open(WHAT, bytes::Bytes::copy_from_slice(signed)).map_err(|_| TokenError::Claims)?;
    let key = keys.iter().find(|key| key.id == message.key_id).ok_or(TokenError::UnknownKey(message.key_id))?;
    mac(key, fencing, signed).ok_or(TokenError::Mac)?.verify_truncated_left(tag).map_err(|_| TokenError::Mac)?;
    claims(fencing, message).ok_or(TokenError::Claims)
}

/// A canonical decimal number: what `mint` writes.
fn number(text: &str) -> Result<u64, TokenError> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if !canonical {
        return Err(TokenError::Shape);
    }
    text.parse().map_err(|_| TokenError::Shape)
}

fn claims(fencing: FencingToken, message: pb::TokenClaims) -> Option<Claims> {
    Some(Claims {
        fencing,
        tenant: TenantId::parse(&message.tenant).ok()?,
        key_hash: message.key_hash.as_ref().try_into().ok()?,
        home: RegionName::parse(&message.home).ok()?,
        region: RegionName::parse(&message.region).ok()?,
        partition: PartitionId(u16::try_from(message.partition).ok()?),
        fingerprint: fingerprint_from(message.fingerprint, WHAT).ok()?,
        endpoint: endpoint_from(&message.endpoint, WHAT).ok()?,
        policy_revision: message.policy_revision,
        nonce: nonce_from(&message.nonce, WHAT).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            fencing: FencingToken { epoch: Epoch(1), sequence: 7 },
            tenant: TenantId::parse("acme").unwrap(),
            key_hash: [9; 32],
            home: RegionName::parse("eu").unwrap(),
            region: RegionName::parse("eu").unwrap(),
            partition: PartitionId(3),
            fingerprint: Fingerprint { version: 1, selection: 1, digest: [4; 32].into() },
            endpoint: EndpointName::parse("POST /v1/charges").unwrap(),
            policy_revision: 2,
            nonce: Some(Nonce::parse(&[1, 2, 3]).unwrap()),
        }
    }

    #[test]
    fn a_token_is_believed_only_as_it_was_minted() {
        let old = ClusterKey { id: 1, secret: [1; 32] };
        let new = ClusterKey { id: 2, secret: [2; 32] };
        let text = mint(&old, &claims());
        assert_eq!(verify(&[new.clone(), old.clone()], &text), Ok(claims()));
        assert_eq!(verify(&[new], &text), Err(TokenError::UnknownKey(1)));
        assert_eq!(verify(std::slice::from_ref(&old), &text.replacen("1.7.", "1.8.", 1)), Err(TokenError::Mac));
        assert_eq!(verify(std::slice::from_ref(&old), &text.replacen("1.7.", "1.07.", 1)), Err(TokenError::Shape));
        assert_eq!(verify(&[old], "nonsense"), Err(TokenError::Shape));
    }

    #[test]
    fn every_flipped_character_is_refused() {
        let key = ClusterKey { id: 1, secret: [1; 32] };
        let text = mint(&key, &claims());
        for at in 0..text.len() {
            for replacement in ['A', 'z', '0', '.', '-'] {
                let mut other: Vec<char> = text.chars().collect();
                if other[at] == replacement {
                    continue;
                }
                other[at] = replacement;
                let other: String = other.into_iter().collect();
                assert!(verify(std::slice::from_ref(&key), &other).is_err(), "accepted {other}");
            }
        }
    }

    #[test]
    fn the_longest_claims_fit() {
        let mut claims = claims();
        claims.tenant = TenantId::parse(&"t".repeat(limits::MAX_TENANT_BYTES)).unwrap();
        claims.endpoint = EndpointName::parse(&"e".repeat(limits::MAX_ENDPOINT_BYTES)).unwrap();
        claims.home = RegionName::parse(&"h".repeat(32)).unwrap();
        claims.region = claims.home.clone();
        claims.fingerprint.digest = [7; limits::MAX_FINGERPRINT_BYTES].into();
        claims.nonce = Some(Nonce::parse(&[5; limits::MAX_NONCE_BYTES]).unwrap());
        claims.fencing = FencingToken { epoch: Epoch(u64::MAX), sequence: u64::MAX };
        let key = ClusterKey { id: u32::MAX, secret: [1; 32] };
        let text = mint(&key, &claims);
        assert!(text.len() <= limits::MAX_TOKEN_BYTES, "{}", text.len());
        assert_eq!(verify(&[key], &text), Ok(claims));
    }
}
