//! `holdfast ctl key show` and `key history`.

use anyhow::anyhow;
use holdfast_client::proto::v1;
use holdfast_client::proto::v1::reservations_client::ReservationsClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::ctl::view;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};
use crate::limits;

/// Which key.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Name {
    /// Whose key
    #[arg(value_name = "TENANT")]
    pub(super) tenant: String,

    /// The key
    #[arg(value_name = "KEY")]
    pub(super) key: String,
}

/// A client that takes the largest record.
pub(super) fn reservations(channel: Channel) -> ReservationsClient<Channel> {
    ReservationsClient::new(channel).max_decoding_message_size(limits::MAX_GRPC_MESSAGE_BYTES)
}

/// Asks what the store knows of a key.
pub(super) async fn lookup(asking: &Asking, channel: Channel, name: &Name) -> Result<v1::LookupResponse, Problem> {
    let request = v1::LookupRequest { tenant: name.tenant.clone(), key: name.key.clone() };
    let answer = reservations(channel).lookup(request).await;
    Ok(answer.map_err(|status| asking.address.failed(&status))?.into_inner())
}

/// The record of a lookup's answer.
pub(super) fn record<'a>(name: &Name, found: &'a v1::LookupResponse) -> Result<&'a v1::Record, Problem> {
    let missing = || anyhow!("there is no record of the key {:?} of the tenant {:?}", name.key, name.tenant);
    found.record.as_ref().ok_or_else(|| Problem { exit: Exit::NoRecord, error: missing() })
}

/// Shows what the store knows of a key.
pub(super) async fn show(asking: &Asking, channel: Channel, name: Name) -> Result<Exit, Problem> {
    let found = lookup(asking, channel, &name).await?;
    match asking.output {
        Output::Json => {
            output::emit_json(&view::document(&name, &found))?;
            Ok(if found.record.is_some() { Exit::Ok } else { Exit::NoRecord })
        }
        Output::Text => {
            let mut text = view::record_text(record(&name, &found)?);
            if let Some(epoch) = &found.epoch {
                text = format!("{:<12} {}, partition {}, epoch {}\n", "home", epoch.home, epoch.partition, epoch.epoch)
                    + &text;
            }
            output::emit(&text)?;
            Ok(Exit::Ok)
        }
    }
}

/// Shows what happened to a key.
pub(super) async fn history(asking: &Asking, channel: Channel, name: Name) -> Result<Exit, Problem> {
    let found = lookup(asking, channel, &name).await?;
    let record = record(&name, &found)?;
    match asking.output {
        Output::Text => output::emit(&view::history_text(record))?,
        Output::Json => output::emit_json(&json!({
            "tenant": name.tenant,
            "key": name.key,
            "history": view::history_document(record),
            "history_dropped": record.history_dropped,
        }))?,
    }
    Ok(Exit::Ok)
}
