//! `holdfast dev`: one node on this machine, without configuration.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::exit::{Exit, Problem};
use crate::cli::output;
use crate::cli::serve::serve;
use crate::cli::settings::{DEFAULT_LISTEN, Settings, resolve};
use crate::control::state::Tenants;
use crate::limits;
use crate::policy::Severity;
use crate::telemetry;

/// Flags of `holdfast dev`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  holdfast dev
  holdfast dev --data-dir ./holdfast-data --severity critical

Every tenant is known. There are 4 partitions; the region and the only home is `local`.
SIGTERM or Ctrl-C ends the node after the requests in flight; a second one ends it at once.")]
pub(crate) struct Dev {
    /// Address and port of gRPC and HTTP/JSON. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,

    /// Let `--listen` be reachable from other machines, although nothing is encrypted and nobody has to authenticate
    #[arg(long)]
    insecure: bool,

    /// Directory of everything that the node stores, kept at exit. Without it: a fresh temporary one, removed at exit
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// How bad a double execution is: critical, high, medium or low
    #[arg(long, value_name = "CLASS", default_value_t = Severity::High)]
    severity: Severity,

    /// What is logged, on stderr: a level, or levels by module
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// Runs the node to its end.
pub(crate) fn run(dev: Dev) -> Result<Exit, Problem> {
    let temporary = match &dev.data_dir {
        Some(_) => None,
        None => Some(TemporaryDir::make()?),
    };
    let data_dir = temporary.as_ref().map(|dir| dir.0.clone()).or(dev.data_dir).unwrap_or_default();
    let settings = Settings {
        data_dir: Some(data_dir.clone()),
        listen: Some(dev.listen),
        insecure: Some(dev.insecure),
        region: Some("local".to_owned()),
        partitions: Some(limits::DEV_PARTITIONS),
        tenants: Some(Tenants::Any.to_string()),
        severity: Some(dev.severity.to_string()),
        log: Some(dev.log),
        ..Settings::default()
    };
    let resolved = resolve::resolve(settings).map_err(Problem::usage)?;
    telemetry::init(resolved.log, resolved.log_format).map_err(anyhow::Error::new)?;
    serve(resolved.node, |node| Ok(output::emit(&welcome(node.local_addr(), &data_dir, temporary.is_some()))?))
}

/// What a developer reads first.
fn welcome(address: SocketAddr, data_dir: &Path, temporary: bool) -> String {
    let kept = if temporary { "temporary: removed at exit" } else { "kept" };
    format!(
        "\
holdfast {version} serves gRPC and HTTP/JSON on {address}
data in {data} ({kept})

May I execute the request with this key?

  {curl}

Ctrl-C ends it.
",
        version = env!("CARGO_PKG_VERSION"),
        data = data_dir.display(),
        curl = curl_line(address),
    )
}

/// A line for a shell that asks to execute.
fn curl_line(address: SocketAddr) -> String {
    // An unspecified address means every interface; a client needs one of them.
    let host = match address.ip() {
        ip if !ip.is_unspecified() => address.to_string(),
        std::net::IpAddr::V4(_) => format!("127.0.0.1:{}", address.port()),
        std::net::IpAddr::V6(_) => format!("[::1]:{}", address.port()),
    };
    let body = r#"{"tenant":"demo","key":"order-1","fingerprint":"2a97516c354b68848cdbd8f54a226a0a"}"#;
    format!("curl -s http://{host}/v1/reserve -H 'content-type: application/json' -d '{body}'")
}

/// A directory that nobody else can read, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    /// Makes one.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn make() -> Result<Self, Problem> {
        let name = format!("holdfast-dev-{}-{:x}", std::process::id(), crate::clock::wall_unix_ms());
        let path = std::env::temp_dir().join(name);
        // `create` refuses what exists already: what somebody else put there is not taken over.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the temporary directory {}: give a --data-dir", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            output::complain(&format!("holdfast: cannot remove {} ({error}): remove it by hand", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curl_line_is_valid_json_at_a_reachable_address() -> anyhow::Result<()> {
        let line = curl_line("0.0.0.0:7400".parse()?);
        assert!(line.contains("http://127.0.0.1:7400/v1/reserve"), "{line}");
        let body = line.split("-d '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default();
        let body: serde_json::Value = serde_json::from_str(body)?;
        assert_eq!(body["fingerprint"].as_str().map(str::len), Some(32));
        assert!(curl_line("[::1]:7400".parse()?).contains("http://[::1]:7400/"));
        Ok(())
    }

    #[test]
    fn the_temporary_directory_is_private_and_goes() -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = TemporaryDir::make().map_err(|problem| problem.error)?;
        let path = dir.0.clone();
        std::fs::write(path.join("file"), b"x")?;
        assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o700);
        drop(dir);
        assert!(!path.exists());
        Ok(())
    }
}
