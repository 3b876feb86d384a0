//! The examples do what they say, against a region that is not one.

use std::collections::BTreeMap;

use anyhow::ensure;
use holdfast_client::client::{Client, Envelope, KeyState};

use crate::fake::{Node, Region};

#[allow(dead_code, reason = "its `main` is for people")]
#[path = "../../examples/charge.rs"]
mod charge;
#[allow(dead_code, reason = "its `main` is for people")]
#[path = "../../examples/recover.rs"]
mod recover;

#[derive(Debug, Default)]
struct Provider(BTreeMap<String, u32>);

impl charge::Provider for Provider {
    fn charge(&mut self, invoice: &str, cents: u64) -> anyhow::Result<String> {
        *self.0.entry(invoice.to_owned()).or_default() += 1;
        ensure!(cents < 10_000, "too much");
        Ok(format!("charge-of-{invoice}"))
    }
}

impl recover::Records for Provider {
    fn charge_of(&self, invoice: &str) -> Option<String> {
        self.0.contains_key(invoice).then(|| format!("charge-of-{invoice}"))
    }
}

async fn client(nodes: &[Node]) -> anyhow::Result<Client> {
    Ok(Client::builder().nodes(nodes.iter().map(|node| node.address.to_string())).connect().await?)
}

#[tokio::test]
async fn a_card_is_charged_once() -> anyhow::Result<()> {
    let (_region, nodes) = Region::start(2)?;
    let client = client(&nodes).await?;
    let mut provider = Provider::default();
    let first = charge::charge(&client, &mut provider, "a", 100).await?;
    ensure!(first.status == 201 && first.body == "{\"charge\":\"charge-of-a\"}", "{first:?}");
    ensure!(charge::charge(&client, &mut provider, "a", 100).await? == first, "the retry gets the first response");
    let refused = charge::charge(&client, &mut provider, "b", 20_000).await?;
    ensure!(refused.status == 402, "a refusal is an outcome too: {refused:?}");
    ensure!(charge::charge(&client, &mut provider, "b", 20_000).await? == refused);
    ensure!(provider.0.values().all(|charges| *charges == 1), "{provider:?}");
    Ok(())
}

#[tokio::test]
async fn unknown_outcomes_are_found_out() -> anyhow::Result<()> {
    let (region, nodes) = Region::start(1)?;
    let client = client(&nodes).await?;
    let records = Provider(BTreeMap::from([("charged".to_owned(), 1)]));
    for invoice in ["charged", "lost"] {
        region.lapse(invoice);
    }
    ensure!(recover::recover(&client, &records, "charged").await? == recover::Recovered::Completed);
    ensure!(region.envelope("charged") == Some(Envelope::new(201, "{\"charge\":\"charge-of-charged\"}").body));
    ensure!(recover::recover(&client, &records, "lost").await? == recover::Recovered::Released);
    let nothing = recover::Recovered::Nothing(KeyState::Completed);
    ensure!(recover::recover(&client, &records, "charged").await? == nothing);
    Ok(())
}
