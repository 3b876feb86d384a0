//! Connections of clients: accepted up to a limit, served over HTTP/1.1 and HTTP/2 with prior knowledge, drained at a shutdown.
//! What the API and the gateway listen with.
//!
//! Deliberately absent: TLS, and what is served.

mod connection;
mod socket;

pub use self::connection::{Bounds, accept, drain};
