//! Finds out what became of keys whose outcome is unknown, and finishes them: claim, look, complete or release.
//!
//! ```sh
//! cargo run --release -p holdfast-client --example recover -- 127.0.0.1:7400 invoice-7 invoice-8
//! ```

use anyhow::bail;
use holdfast_client::client::{Claim, ClaimOutcome, Client, Envelope, Held, KeyState};

/// Where it can be looked up what was executed: the payment provider's list of charges, say.
pub(crate) trait Records {
    /// The charge that was made for an invoice, if one was.
    fn charge_of(&self, invoice: &str) -> Option<String>;
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// It was executed: its answer is stored now.
    Completed,
    /// It was not: the next attempt may.
    Released,
    /// There was nothing to do.
    Nothing(KeyState),
}

/// Finishes one key.
///
/// # Errors
/// When the key has to be looked at again later.
pub(crate) async fn recover(client: &Client, records: &impl Records, invoice: &str) -> anyhow::Result<Recovered> {
    let claimed = match client.claim(Claim::new("shop", invoice, "recover-1")).await? {
        ClaimOutcome::Claimed(claimed) => claimed,
        ClaimOutcome::NotClaimable(state) => return Ok(Recovered::Nothing(state)),
        ClaimOutcome::Limited { limit, .. } => bail!("{invoice} has reached its limit of {limit}: resolve it by hand"),
    };
    // Nothing is executed under this grant. It only keeps everybody else away while it is found out what was.
    claimed.grant.start()?;
    match records.charge_of(invoice) {
        Some(charge) => {
            let response = Envelope::new(201, format!("{{\"charge\":\"{charge}\"}}"));
            claimed.grant.complete(response.header("content-type", "application/json")).await?;
            Ok(Recovered::Completed)
        }
        None => match claimed.grant.release().await? {
            Held::Done => Ok(Recovered::Released),
            Held::Stale(state) => Ok(Recovered::Nothing(state)),
        },
    }
}

/// Records that show no charge at all.
struct Empty;

impl Records for Empty {
    fn charge_of(&self, _invoice: &str) -> Option<String> {
        None
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is what the example shows")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let nodes = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let client = Client::builder().nodes(nodes.split(',')).client_version("recover/1").connect().await?;
    for invoice in arguments {
        println!("{invoice}: {:?}", recover(&client, &Empty, &invoice).await?);
    }
    Ok(())
}
