//! The committed vectors and the properties that they cannot list; the client and its examples against a region that
//! misbehaves.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test that expects one outcome takes every other one for the failure it is"
)]

mod client;
mod examples;
mod fake;
mod fingerprint;
mod keys;
mod layer;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hex digit") as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => digit(*high) << 4 | digit(*low),
            _ => panic!("odd number of hex digits: {text}"),
        })
        .collect()
}
