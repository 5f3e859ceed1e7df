//! A RabbitMQ node of a test's own: its own name, folder, ports and cookie, that can be killed, started again and robbed of its data.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crossdock::demo::engine::free_address;

use super::cluster::{Process, newest, said};

/// Where Debian installs versions of it.
const VERSIONS: &str = "/usr/lib/rabbitmq/lib";
/// How long it may take to answer a greeting.
const GREETING: Duration = Duration::from_secs(2);

/// The node.
pub struct Broker {
    programs: PathBuf,
    address: SocketAddr,
    tls: Option<SocketAddr>,
    /// Where Erlang's directory of nodes listens, and where this node listens to other nodes and to `rabbitmqctl`.
    directory: SocketAddr,
    nodes: SocketAddr,
    directory_process: Option<Process>,
    process: Option<Process>,
    // Last, so that the processes are gone when their folder goes.
    folder: tempfile::TempDir,
}

/// The files by which a node shows who it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Who has signed it, in PEM.
    pub authority: PathBuf,
    /// Its certificate, in PEM.
    pub certificate: PathBuf,
    /// The key of it, in PEM.
    pub key: PathBuf,
}

impl Broker {
    /// Starts a new node and waits until it serves.
    pub fn start() -> Result<Broker, String> {
        Broker::set(None)
    }

    /// The same, with a second port where it speaks TLS and shows this certificate.
    pub fn start_with_tls(identity: &Identity) -> Result<Broker, String> {
        Broker::set(Some(identity))
    }

    fn set(identity: Option<&Identity>) -> Result<Broker, String> {
        let programs = newest(VERSIONS, "sbin", "rabbitmq-server").ok_or(
            "RabbitMQ is not installed: there is no /usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server; run `make services`",
        )?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut broker = Broker {
            programs,
            address: free_address().unwrap(),
            tls: identity.map(|_| free_address().unwrap()),
            directory: free_address().unwrap(),
            nodes: free_address().unwrap(),
            directory_process: None,
            process: None,
            folder,
        };
        broker.write("enabled_plugins", "[].\n")?;
        broker.write("environment", "")?;
        broker.configure(identity)?;
        std::fs::create_dir(broker.path("home")).map_err(|error| error.to_string())?;
        broker.start_again()?;
        Ok(broker)
    }

    /// Starts it after it was killed, at the same address, and waits until it serves.
    pub fn start_again(&mut self) -> Result<(), String> {
        if self.directory_process.is_none() {
            let mut directory = Command::new("epmd");
            directory
                .args([
                    "-address",
                    "127.0.0.1",
                    "-port",
                    &self.directory.port().to_string(),
                ])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut process = Process::start(&mut directory, self.folder.path())?;
            let log = self.path("log");
            process.wait_until(&log, || TcpStream::connect(self.directory).is_ok())?;
            self.directory_process = Some(process);
        }
        let log = self.path("log");
        let to = std::fs::File::create(&log).map_err(|error| error.to_string())?;
        let mut command = self.command("rabbitmq-server");
        // The runtime takes the place of the script, so that the process is the node itself; without a terminal.
        command
            .arg("-noinput")
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .stdout(to.try_clone().map_err(|error| error.to_string())?)
            .stderr(to);
        let mut process = Process::start(&mut command, self.folder.path())?;
        let served = process.wait_until(&log, || self.greets());
        self.process = Some(process);
        served.map_err(|error| format!("RabbitMQ: {error}"))
    }

    /// `kill -9` of the node.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Deletes all that the node has stored: queues, messages, users. It must not be running.
    pub fn wipe(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "a node that runs is not robbed");
        std::fs::remove_dir_all(self.path("data")).map_err(|error| error.to_string())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client needs to reach it.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    /// What a client needs to reach it over TLS.
    pub fn tls_url(&self) -> Option<String> {
        let port = self.tls?.port();
        Some(format!("amqps://guest:guest@localhost:{port}/%2f"))
    }

    /// What `rabbitmqctl` prints for these arguments.
    pub fn control(&self, arguments: &[&str]) -> Result<String, String> {
        said(
            self.command("rabbitmqctl")
                .args(["--silent"])
                .args(arguments),
        )
    }

    /// Changes what certificate it shows from its next start on.
    pub fn configure(&self, identity: Option<&Identity>) -> Result<(), String> {
        let mut text = format!(
            "listeners.tcp.1 = {}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
log.console = true
log.console.level = warning
log.file = false
",
            self.address
        );
        if let (Some(identity), Some(tls)) = (identity, self.tls) {
            let Identity {
                authority,
                certificate,
                key,
            } = identity;
            text += &format!(
                "listeners.ssl.1 = {tls}
ssl_options.cacertfile = {}
ssl_options.certfile = {}
ssl_options.keyfile = {}
",
                authority.display(),
                certificate.display(),
                key.display()
            );
        }
        self.write("rabbitmq.conf", &text)
    }

    /// Whether it answers a client's greeting as a broker does, with `Connection.Start`.
    fn greets(&self) -> bool {
        let answer = || -> std::io::Result<[u8; 11]> {
            let mut stream = TcpStream::connect_timeout(&self.address, GREETING)?;
            stream.set_read_timeout(Some(GREETING))?;
            stream.write_all(b"AMQP\0\0\x09\x01")?;
            let mut start = [0; 11];
            stream.read_exact(&mut start)?;
            Ok(start)
        };
        // A frame with a method on channel 0: class 10, method 10.
        answer().is_ok_and(|start| start[..3] == [1, 0, 0] && start[7..] == [0, 10, 0, 10])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        std::fs::write(self.path(name), text).map_err(|error| format!("{name}: {error}"))
    }

    /// One of its programs, told of nothing but this node. Debian's own scripts would insist on the user `rabbitmq`.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        let set = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
        command
            .current_dir(self.folder.path())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.directory.port().to_string())
            .env(
                "RABBITMQ_NODENAME",
                format!("crossdock-{}@localhost", self.address.port()),
            )
            .env("RABBITMQ_DIST_PORT", self.nodes.port().to_string())
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            )
            .envs([
                set("HOME", &self.path("home")),
                set("RABBITMQ_MNESIA_BASE", &self.path("data")),
                set("RABBITMQ_LOG_BASE", &self.path("logs")),
                set("RABBITMQ_CONFIG_FILE", &self.path("rabbitmq.conf")),
                set("RABBITMQ_CONF_ENV_FILE", &self.path("environment")),
                set(
                    "RABBITMQ_ENABLED_PLUGINS_FILE",
                    &self.path("enabled_plugins"),
                ),
            ]);
        command
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if let Some(process) = self.directory_process.take() {
            process.kill();
        }
    }
}
