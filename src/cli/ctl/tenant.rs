//! `holdfast ctl tenant`: who may have keys, and how much.

use holdfast_client::proto::v1;
use holdfast_client::proto::v1::admin_client::AdminClient;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::cli::client::Asking;
use crate::cli::ctl::signed::Signed;
use crate::cli::exit::{Exit, Problem};
use crate::cli::output::{self, Output};

/// What is asked of tenants.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Tenant {
    /// Make a tenant
    #[command(after_help = "\
Examples:
  holdfast ctl tenant create acme --actor ada --reason 'a new customer'
  holdfast ctl tenant create acme --home eu --max-keys 10000000 --keys-per-second 500 --actor ada --reason 'ticket 812'")]
    Create(Create),
    /// Give a tenant other limits: those that are named, in the place of all that it has
    Limit(Limit),
    /// Refuse new keys of a tenant; those that it has are answered as ever
    Close(Named),
    /// Let a closed tenant have new keys again
    Reopen(Named),
    /// List the tenants, and what their keys take up
    List,
    /// Show a tenant, and what its keys take up by endpoint
    Show {
        /// Its name
        tenant: String,
    },
}

/// A tenant that is made.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// Its name
    tenant: String,

    /// Where its opaque keys are at home, for ever: a home of the cluster. By their hash if left out
    #[arg(long, value_name = "HOME", default_value = "", hide_default_value = true)]
    home: String,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    signed: Signed,
}

/// A tenant and its limits.
#[derive(Debug, clap::Args)]
pub(super) struct Limit {
    /// Its name
    tenant: String,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    signed: Signed,
}

/// A tenant.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Its name
    tenant: String,

    #[command(flatten)]
    signed: Signed,
}

/// What a tenant may take up. What is left out has no limit.
#[derive(Debug, clap::Args)]
struct Limits {
    /// Keys that are stored at a time
    #[arg(long, value_name = "COUNT")]
    max_keys: Option<u64>,

    /// Bytes that are stored at a time, responses included
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,

    /// New keys each second
    #[arg(long, value_name = "COUNT")]
    keys_per_second: Option<u64>,

    /// New keys each second of one client
    #[arg(long, value_name = "COUNT")]
    keys_per_second_per_client: Option<u64>,
}

impl Limits {
    fn message(&self) -> Option<v1::TenantLimits> {
        let Self { max_keys, max_bytes, keys_per_second, keys_per_second_per_client } = *self;
        Some(v1::TenantLimits { max_keys, max_bytes, keys_per_second, keys_per_second_per_client })
    }
}

/// Asks the node.
pub(super) async fn run(asking: &Asking, channel: Channel, tenant: Tenant) -> Result<Exit, Problem> {
    let mut client = AdminClient::new(channel);
    let changed = |signed: &Signed, tenant: String, limits, closed| v1::ChangeTenantRequest {
        signature: signed.message(),
        tenant,
        limits,
        closed,
    };
    let answer = match tenant {
        Tenant::List => return list(asking, &mut client).await,
        Tenant::Show { tenant } => return show(asking, &mut client, tenant).await,
        Tenant::Create(Create { tenant, home, limits, signed }) => {
            let (signature, limits) = (signed.message(), limits.message());
            client.create_tenant(v1::CreateTenantRequest { signature, tenant, home, limits }).await
        }
        Tenant::Limit(Limit { tenant, limits, signed }) => {
            client.change_tenant(changed(&signed, tenant, limits.message(), None)).await
        }
        Tenant::Close(Named { tenant, signed }) => {
            client.change_tenant(changed(&signed, tenant, None, Some(true))).await
        }
        Tenant::Reopen(Named { tenant, signed }) => {
            client.change_tenant(changed(&signed, tenant, None, Some(false))).await
        }
    };
    match (answer.map_err(|status| asking.address.failed(&status))?.into_inner().tenant, asking.output) {
        (Some(tenant), output) => emit(output, &tenant)?,
        (None, Output::Json) => output::emit_json(&Value::Null)?,
        (None, Output::Text) => output::emit("it is done; the node that was asked has not applied it yet\n")?,
    }
    Ok(Exit::Ok)
}

async fn list(asking: &Asking, client: &mut AdminClient<Channel>) -> Result<Exit, Problem> {
    let answer = client.list_tenants(v1::ListTenantsRequest::default()).await;
    let answer = answer.map_err(|status| asking.address.failed(&status))?.into_inner();
    match asking.output {
        Output::Json => {
            let tenants: Vec<Value> = answer.tenants.iter().map(document).collect();
            output::emit_json(&json!({ "registered_only": answer.registered_only, "tenants": tenants }))?;
        }
        Output::Text => {
            let mut rows = vec![["tenant", "home", "state", "keys", "bytes", "limits"].map(str::to_owned).to_vec()];
            rows.extend(answer.tenants.iter().map(|tenant| {
                vec![
                    tenant.tenant.clone(),
                    home(tenant),
                    state(tenant).to_owned(),
                    output::count(tenant.keys),
                    output::bytes(tenant.bytes),
                    limits(tenant),
                ]
            }));
            let others = match answer.registered_only {
                true => "no other tenant may have keys\n",
                false => "other tenants may have keys too: this cluster takes any\n",
            };
            output::emit(&format!("{}{others}", output::table(&rows)))?;
        }
    }
    Ok(Exit::Ok)
}

async fn show(asking: &Asking, client: &mut AdminClient<Channel>, tenant: String) -> Result<Exit, Problem> {
    let answer = client.list_tenants(v1::ListTenantsRequest { tenant }).await;
    let tenants = answer.map_err(|status| asking.address.failed(&status))?.into_inner().tenants;
    emit(asking.output, &tenants.into_iter().next().unwrap_or_default())?;
    Ok(Exit::Ok)
}

fn home(tenant: &v1::Tenant) -> String {
    if tenant.home.is_empty() { "by hash".to_owned() } else { tenant.home.clone() }
}

const fn state(tenant: &v1::Tenant) -> &'static str {
    if tenant.closed { "closed" } else { "open" }
}

fn limits(tenant: &v1::Tenant) -> String {
    let of = tenant.limits.unwrap_or_default();
    let said = [
        of.max_keys.map(|most| format!("{} keys", output::count(most))),
        of.max_bytes.map(output::bytes),
        of.keys_per_second.map(|most| format!("{}/s", output::count(most))),
        of.keys_per_second_per_client.map(|most| format!("{}/s a client", output::count(most))),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    if said.is_empty() { "none".to_owned() } else { said.join(", ") }
}

fn emit(output: Output, tenant: &v1::Tenant) -> Result<(), Problem> {
    if let Output::Json = output {
        return Ok(output::emit_json(&document(tenant))?);
    }
    let mut text = format!(
        "tenant  {}, {}, since {}\nhome    {}\nlimits  {}\nkeys    {}, {}\n",
        tenant.tenant,
        state(tenant),
        output::time(tenant.made_at_unix_ms),
        home(tenant),
        limits(tenant),
        output::count(tenant.keys),
        output::bytes(tenant.bytes)
    );
    for endpoint in &tenant.endpoints {
        let (keys, bytes) = (output::count(endpoint.keys), output::bytes(endpoint.bytes));
        text.push_str(&format!("        {}: {keys}, {bytes}\n", endpoint.endpoint));
    }
    Ok(output::emit(&text)?)
}

fn document(tenant: &v1::Tenant) -> Value {
    let of = tenant.limits.unwrap_or_default();
    let endpoint = |one: &v1::EndpointUsage| json!({ "endpoint": one.endpoint, "keys": one.keys, "bytes": one.bytes });
    json!({
        "tenant": tenant.tenant,
        "home": tenant.home,
        "made_at_unix_ms": tenant.made_at_unix_ms,
        "closed": tenant.closed,
        "limits": {
            "max_keys": of.max_keys,
            "max_bytes": of.max_bytes,
            "keys_per_second": of.keys_per_second,
            "keys_per_second_per_client": of.keys_per_second_per_client,
        },
        "keys": tenant.keys,
        "bytes": tenant.bytes,
        "endpoints": tenant.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}
