//! The gateway as a process in front of an upstream that counts its effects.
//!
//! `process` and `upstream` are what the tests are made of; `keys` what becomes of a key, `passing` what of a request and its answer
//! passes unchanged, `hostile` what does not pass, `limits` what is bounded, `late` what fails or comes late, `changes` what changes while
//! it runs.

mod changes;
mod hostile;
mod keys;
mod late;
mod limits;
mod passing;
mod process;
mod upstream;

use std::net::SocketAddr;

/// A file with one route for everything to an upstream, and these lines of the route.
fn file(upstream: SocketAddr, lines: &str) -> String {
    format!(
        "connect_timeout = \"200ms\"\n[[route]]\npath = \"/{{*path}}\"\nendpoint = \"charges\"\nupstream = \
         [\"http://{upstream}\"]\n{lines}\n"
    )
}

/// The code of a refusal.
fn code(answer: &crate::http::Answer) -> String {
    let problem = answer.json().unwrap_or_default();
    problem.get("code").and_then(|code| code.as_str()).unwrap_or_default().to_owned()
}
