//! `holdfast ctl rotate-cluster-key` and `clock accept`.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::ctl::signature::PerhapsSigned;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};

/// Makes a new cluster key.
pub(super) async fn rotate(asking: &Asking, channel: Channel, signed: PerhapsSigned) -> Result<Exit, Problem> {
    let request = v1::RotateClusterKeyRequest { signature: Some(signed.signature()) };
    let answer = AdminClient::new(channel).rotate_cluster_key(request).await;
    let key_id = answer.map_err(|status| asking.address.failed(&status))?.into_inner().key_id;
    match asking.output {
        Output::Json => output::emit_json(&json!({ "key_id": key_id }))?,
        Output::Text => output::emit(&format!(
            "tokens are made with key {key_id} now; those of the key before it stay valid until the next rotation\n"
        ))?,
    }
    Ok(Exit::Ok)
}

/// Lets log time follow the clock.
pub(super) async fn accept_clock(asking: &Asking, channel: Channel, signed: PerhapsSigned) -> Result<Exit, Problem> {
    let request = v1::AcceptClockRequest { signature: Some(signed.signature()) };
    let answer = AdminClient::new(channel).accept_clock(request).await;
    let times = answer.map_err(|status| asking.address.failed(&status))?.into_inner().log_time_unix_ms;
    match asking.output {
        Output::Json => output::emit_json(&json!({ "log_time_unix_ms": times }))?,
        Output::Text => {
            let lines = times
                .iter()
                .enumerate()
                .map(|(partition, time)| format!("partition {partition}: log time is {}\n", output::time(*time)));
            output::emit(&lines.collect::<String>())?;
        }
    }
    Ok(Exit::Ok)
}
