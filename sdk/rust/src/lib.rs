//! What every Holdfast client and the server itself agree on, byte for byte.
//!
//! * [`keys`]: idempotency keys, and which partition and home they belong to.
//! * [`fingerprint`]: the digest that says whether two requests are the same.
//!
//! Both are pure: no clock, no randomness, no I/O. Deliberately absent: storage, and anything that decides who may
//! execute.

#![forbid(unsafe_code)]

pub mod fingerprint;
pub mod keys;
pub mod proto;
