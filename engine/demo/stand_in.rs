//! The process of the stand-in ERP, as its parent sees it: started, and ended without warning. It knows nothing of what the ERP does.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::erp::ErpArgs;

/// How long the process may take to say where it listens.
const SAYS_WITHIN: Duration = Duration::from_secs(10);

/// A running stand-in. It ends when its standard input closes, so it ends with its parent, however that ends.
pub struct StandIn {
    child: Child,
    address: SocketAddr,
}

impl StandIn {
    /// Starts one with these arguments, from this program; it listens when this comes back.
    pub async fn start(program: &Path, args: &ErpArgs) -> Result<StandIn, String> {
        let wrong = |error: std::io::Error| format!("cannot start the ERP: {error}");
        let mode = clap::ValueEnum::to_possible_value(&args.mode)
            .map_or_else(String::new, |value| value.get_name().to_owned());
        let mut command = Command::new(program);
        command
            .arg("demo-erp")
            .args(["--listen", &args.listen.to_string()])
            .args(["--until-stdin-closes", "--mode", &mode])
            .arg("--journal")
            .arg(&args.journal)
            .args(["--seed", &args.seed.to_string()])
            .args(["--fault", &args.fault.to_string()]);
        if let Some(token) = &args.token {
            command.env("ERP_TOKEN", token);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(wrong)?;
        let output = child
            .stdout
            .take()
            .ok_or("the ERP has no standard output")?;
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(SAYS_WITHIN, lines.next_line())
            .await
            .map_err(|_| "the ERP does not say where it listens".to_owned())?;
        let said = line.map_err(wrong)?.unwrap_or_default();
        let address = said
            .parse()
            .map_err(|_| format!("the ERP says `{said}` instead of its address"))?;
        Ok(StandIn { child, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as `kill -9` does, and waits until it is gone. What its journal says is there at the next start.
    pub async fn kill(mut self) -> Result<(), String> {
        self.child
            .kill()
            .await
            .map_err(|error| format!("cannot kill the ERP: {error}"))
    }
}
