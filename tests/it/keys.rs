//! What a key says about itself: tagged keys and their epochs and times, what expires, and tokens under rotated keys.

use std::num::NonZeroU16;

use anyhow::{Context as _, ensure};
use holdfast_client::keys::{self, IdempotencyKey, TaggedKey};
use holdfast_client::proto::v1 as api;
use holdfast_client::proto::v1::reserve_response::Outcome;

use crate::client::{Client, admin};
use crate::clock;
use crate::harness::{self, Place};
use crate::http;
use crate::payload;
use crate::policies;
use crate::talk::{Ask, TENANT, complete, fencing, release};

const HOME: &str = "local";
const HOUR_MS: u64 = 3_600_000;

/// A tagged key that was minted now.
fn tagged(mint_epoch: u64, number: u8) -> anyhow::Result<String> {
    tagged_at(mint_epoch, clock::wall_unix_ms(), number)
}

fn tagged_at(mint_epoch: u64, unix_ms: u64, number: u8) -> anyhow::Result<String> {
    Ok(IdempotencyKey::from(TaggedKey::mint(HOME, mint_epoch, unix_ms, [number; 10])?).as_str().to_owned())
}

fn partition(key: &str) -> anyhow::Result<u16> {
    let partitions = NonZeroU16::new(4).context("no partitions")?;
    Ok(keys::partition(TENANT, &IdempotencyKey::parse(key)?, partitions))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tagged_keys_are_taken_at_their_word_or_refused() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let mut number = 0;
    for client in &Client::both(node.address())? {
        for mint_epoch in [0, 1] {
            number += 1;
            Ask::new(&tagged(mint_epoch, number)?, 1).granted(client).await?;
        }
        number += 1;
        let outcome = Ask::new(&tagged(2, number)?, 1).outcome(client).await?;
        ensure!(matches!(&outcome, Outcome::Superseded(superseded) if superseded.epoch == 1), "{outcome:?}");
        Ask::new(&tagged_at(1, clock::wall_unix_ms() + 23 * HOUR_MS, number)?, 1).granted(client).await?;

        let right = tagged(1, 99)?;
        let (front, uuid) = right.rsplit_once('.').context("no tagged key")?;
        let wrong = [
            tagged_at(1, clock::wall_unix_ms() + 25 * HOUR_MS, number)?,
            right.replace(".local.", ".mars."),
            right.replace(".local.1.", ".local.01."),
            right.replace(".local.", ".LOCAL."),
            format!("{front}.{}", uuid.to_uppercase()),
            format!("{front}.{}", uuid.replace('-', "")),
            format!("{front}.3d813cbb-47fb-432b-91df-831593ac2957"),
            "hf1.".to_owned(),
            "hf1.local".to_owned(),
            "with space".to_owned(),
            "x".repeat(256),
        ];
        for key in wrong {
            let refused = Ask::new(&key, 1).refused(client).await?;
            ensure!(refused.code == "key-invalid" && refused.definite, "{key} over {}: {refused:?}", client.name());
            ensure!(matches!(refused.status.as_str(), "400" | "InvalidArgument"), "{key}: {refused:?}");
        }
        Ask::new(&"x".repeat(255), 1).granted(client).await?;
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tagged_key_expires_and_an_opaque_one_runs_as_new() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let short = "[policy.short]\nendpoints = [\"POST /*\"]\nseverity = \"high\"\nlease = \"1s\"\nretention = \"1s\"\n";
    policies::apply(node.address(), 0, short).await?;
    for (number, client) in (1..).zip(&Client::both(node.address())?) {
        let endpoint = &format!("POST /{}", client.name());
        let opaque = &format!("opaque-{}", client.name());
        let tagged = &tagged(1, number)?;
        let mut grants = Vec::new();
        for key in [opaque, tagged] {
            let grant = Ask::new(key, 1).endpoint(endpoint).granted(client).await?;
            complete(client, key, &grant, &payload::envelope(1, 10)).await?;
            grants.push(fencing(&grant));
            let kept = Ask::new(key, 2).endpoint(endpoint).outcome(client).await?;
            ensure!(matches!(kept, Outcome::Replay(_)), "not kept for its second: {kept:?}");
        }
        let ask = Ask::new(tagged, 3).endpoint(endpoint);
        let gone = |outcome| if let Outcome::Replay(_) = outcome { None } else { Some(outcome) };
        let expired = ask.until(client, "gone", gone).await?;
        ensure!(matches!(expired, Outcome::Expired(_)), "a late arrival: {expired:?}");
        // Absent, and older than what expired: the partition's horizon is past it.
        let hour_ago = clock::wall_unix_ms() - HOUR_MS;
        let mut older = tagged_at(1, hour_ago, 0)?;
        for number in 0..=255 {
            older = tagged_at(1, hour_ago, number)?;
            if partition(&older)? == partition(tagged)? {
                break;
            }
        }
        let outcome = Ask::new(&older, 1).endpoint(endpoint).outcome(client).await?;
        ensure!(matches!(outcome, Outcome::Expired(_)), "an older one: {outcome:?}");
        let fresh = self::tagged(1, number + 100)?;
        Ask::new(&fresh, 1).endpoint(endpoint).granted(client).await?;

        let again = Ask::new(opaque, 3).endpoint(endpoint);
        let outcome = again.until(client, "gone", gone).await?;
        let Outcome::Granted(grant) = outcome else { anyhow::bail!("an opaque key after its retention: {outcome:?}") };
        ensure!(grant.attempt == 1 && !grant.possible_duplicate, "{grant:?}");
        ensure!(grants.first() < Some(&fencing(&grant)), "the token did not grow: {grant:?}");
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_live_through_one_rotation_of_the_cluster_key() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let start = place.start();
    let node = start.run().await?;
    let clients = Client::both(node.address())?;
    let [grpc, _] = &clients;
    let first = Ask::new("one-rotation", 1).granted(grpc).await?;
    let second = Ask::new("two-rotations", 1).granted(grpc).await?;
    let old = admin(node.address())?.rotate_cluster_key(api::RotateClusterKeyRequest::default()).await?.into_inner();
    ensure!(complete(grpc, "one-rotation", &first, &payload::envelope(1, 10)).await? == api::Recorded::Answer);
    let new = admin(node.address())?.rotate_cluster_key(api::RotateClusterKeyRequest::default()).await?.into_inner();
    ensure!(new.key_id != old.key_id, "{old:?} and {new:?}");
    node.stop().await?;

    let node = start.run().await?;
    let clients = Client::both(node.address())?;
    for client in &clients {
        let refused = release(client, "two-rotations", &second.token).await;
        let refused = refused.err().context("a token of two rotations ago was taken")?;
        ensure!(refused.code == "token-invalid" && refused.definite, "{refused:?}");
    }
    // The grant itself is not gone: its own attempt gets a token of the new key.
    let [grpc, _] = &clients;
    let again = Ask::new("two-rotations", 1).granted(grpc).await?;
    ensure!(fencing(&again) == fencing(&second) && again.repeated && again.token != second.token, "{again:?}");
    ensure!(complete(grpc, "two-rotations", &again, &payload::envelope(2, 10)).await? == api::Recorded::Answer);
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_its_own_key_only() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    for client in &Client::both(node.address())? {
        let (mine, yours) = (&format!("mine-{}", client.name()), &format!("yours-{}", client.name()));
        let grant = Ask::new(mine, 1).granted(client).await?;
        Ask::new(yours, 1).granted(client).await?;
        let flipped = match grant.token.strip_suffix('A') {
            Some(rest) => format!("{rest}B"),
            None => format!("{}A", grant.token.get(..grant.token.len() - 1).unwrap_or_default()),
        };
        let (rest, claims) = grant.token.rsplit_once('.').context("no claims")?;
        let (epoch, sequence) = rest.split_once('.').context("no sequence")?;
        let later = format!("{epoch}.{}.{claims}", sequence.parse::<u64>()? + 1);
        for (key, token) in [(yours, &grant.token), (mine, &flipped), (mine, &later), (mine, &"1.2".to_owned())] {
            let refused = release(client, key, token).await;
            ensure!(matches!(&refused, Err(failure) if failure.code == "token-invalid"), "{key}: {refused:?}");
        }
        ensure!(release(client, mine, &grant.token).await == Ok(Ok(())));
    }
    node.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_only() -> anyhow::Result<()> {
    let _machine = harness::beside_another().await?;
    let place = Place::new()?;
    let node = place.start().run().await?;
    let address = node.address();
    let unknown = http::get(address, "/v1/keys/acme/nobody").await?;
    ensure!(unknown.status == 404 && unknown.header("content-type") == Some("application/problem+json"), "{unknown:?}");
    let code = unknown.json()?;
    ensure!(code.get("code").and_then(|code| code.as_str()) == Some("key-unknown"), "{code}");
    let epochs = http::get(address, "/v1/epochs").await?.json()?;
    let partitions = epochs.get("partitions").and_then(serde_json::Value::as_u64);
    let count = epochs.get("epochs").and_then(|epochs| epochs.as_array()).map(Vec::len);
    ensure!(partitions == Some(4) && count == Some(4), "{epochs}");
    let status = http::get(address, "/v1/status").await?.json()?;
    let groups = status.get("groups").and_then(|groups| groups.as_array()).context("no groups")?;
    let serving = |group: &serde_json::Value| group.get("state").and_then(|state| state.as_str()) == Some("serving");
    ensure!(groups.len() == 4 && groups.iter().all(serving), "{status}");
    let openapi = http::get(address, "/openapi.json").await?;
    ensure!(openapi.status == 200 && openapi.json()?.get("paths").is_some(), "no /openapi.json: {}", openapi.status);

    let Client::Grpc(mut grpc) = Client::grpc(address)? else { anyhow::bail!("no grpc") };
    let request = api::LookupRequest { tenant: "acme".to_owned(), key: "nobody".to_owned() };
    let looked_up = grpc.lookup(request).await?.into_inner();
    let epoch = looked_up.epoch.context("no epoch")?;
    ensure!(looked_up.record.is_none() && epoch.home == HOME && epoch.epoch == 1, "{epoch:?}");
    node.stop().await
}
