//! Charges a card once, however often it is asked to: reserve, charge, complete.
//!
//! ```sh
//! cargo run --release -p holdfast-client --example charge -- 127.0.0.1:7400 invoice-7
//! ```

use std::time::Duration;

use anyhow::{Context as _, bail};
use holdfast_client::client::{Client, Envelope, Outcome, Reserve};

/// What a payment provider is to this example. A real one gets the fencing token as its own idempotency key, or compares it.
pub(crate) trait Provider {
    /// Charges, and returns the charge's number.
    fn charge(&mut self, invoice: &str, cents: u64) -> anyhow::Result<String>;
}

/// Answers the request to charge an invoice: with a new charge, or with the first one's response.
///
/// # Errors
/// When the caller has to ask again, or may not.
pub(crate) async fn charge(
    client: &Client,
    provider: &mut impl Provider,
    invoice: &str,
    cents: u64,
) -> anyhow::Result<Envelope> {
    // The same invoice with another amount is another request, and is refused.
    let question = Reserve::new("shop", invoice)
        .request("POST", "/v1/charges", [], format!("{{\"invoice\":\"{invoice}\",\"cents\":{cents}}}"))
        .lease(Duration::from_secs(30))
        .wait(Duration::from_secs(10));
    let grant = match client.reserve(question).await? {
        Outcome::Granted(grant) => grant,
        Outcome::Replay(replay) => return Ok(replay.envelope),
        Outcome::Mismatch => bail!("{invoice} was charged with another amount"),
        Outcome::InProgress { retry_after } => bail!("{invoice} is being charged: ask again in {retry_after:?}"),
        Outcome::OutcomeUnknown { .. } => bail!("nobody knows whether {invoice} was charged: it is being looked into"),
        other @ (Outcome::InDoubt { .. } | Outcome::Superseded { .. } | Outcome::Expired | Outcome::Limited { .. }) => {
            bail!("{invoice} cannot be charged now: {other:?}")
        }
    };
    if grant.possible_duplicate() {
        bail!("{invoice} may have been charged before: look at the provider's records first");
    }
    // From here on the outcome has to be told; before, dropping the grant is enough.
    grant.start()?;
    let response = match provider.charge(invoice, cents) {
        Ok(charge) => Envelope::new(201, format!("{{\"charge\":\"{charge}\"}}")),
        Err(refused) => Envelope::new(402, format!("{{\"refused\":\"{refused}\"}}")),
    };
    let response = response.header("content-type", "application/json");
    // The effect is done. The client has resent this a few times when it fails; a process that cannot tell the outcome now
    // leaves the key to whoever recovers it (see the example `recover`).
    grant.complete(response.clone()).await.context("the charge was made, and its outcome could not be stored")?;
    Ok(response)
}

/// A provider that charges everybody.
struct Generous;

impl Provider for Generous {
    fn charge(&mut self, invoice: &str, cents: u64) -> anyhow::Result<String> {
        Ok(format!("{invoice}-{cents}"))
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is what the example shows")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let nodes = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let invoice = arguments.next().unwrap_or_else(|| "invoice-7".to_owned());
    let client = Client::builder().nodes(nodes.split(',')).client_version("charge/1").connect().await?;
    let response = charge(&client, &mut Generous, &invoice, 1_999).await?;
    println!("{} {}", response.status, String::from_utf8_lossy(&response.body));
    Ok(())
}
