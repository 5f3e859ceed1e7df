//! A PostgreSQL server of a test's own: a new cluster in a temporary folder, on a free port, with fsync, that can be killed and started again.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crossdock::demo::engine::free_address;

use super::cluster::{Process, newest, said};

/// Where Debian installs versions of it.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Who may run it when the test is root's: PostgreSQL refuses to.
const USERS: &[&str] = &["postgres", "nobody"];

/// The server.
pub struct Postgres {
    programs: PathBuf,
    address: SocketAddr,
    process: Option<Process>,
    // Last, so that the processes are gone when their folder goes.
    folder: tempfile::TempDir,
}

impl Postgres {
    /// Makes a new cluster, starts it, and waits until it answers.
    pub fn start() -> Result<Postgres, String> {
        let programs = programs()?;
        let wrong = |error: std::io::Error| error.to_string();
        let folder = tempfile::tempdir().map_err(wrong)?;
        if let Some((user, group)) = other_user()? {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).map_err(wrong)?;
        }
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).map_err(wrong)?;
        let mut postgres = Postgres {
            programs,
            address: free_address().unwrap(),
            process: None,
            folder,
        };
        let data = postgres.data();
        said(
            postgres
                .command("initdb")?
                .args([
                    "--username=postgres",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-sync",
                    "-D",
                ])
                .arg(data),
        )?;
        postgres.start_again()?;
        Ok(postgres)
    }

    /// Starts it after it was killed or stopped, at the same address, and waits until it answers.
    pub fn start_again(&mut self) -> Result<(), String> {
        let log = self.folder.path().join("log");
        let to = std::fs::File::create(&log).map_err(|error| error.to_string())?;
        let mut command = self.command("postgres")?;
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.address.port().to_string()]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command
            .stdout(to.try_clone().map_err(|error| error.to_string())?)
            .stderr(to);
        let mut process = Process::start(&mut command, self.folder.path())?;
        let answered = process.wait_until(&log, || self.sql("postgres", "SELECT 1").is_ok());
        self.process = Some(process);
        answered.map_err(|error| format!("PostgreSQL: {error}"))
    }

    /// `kill -9` of the server and all its sessions.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client needs to reach a database of it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }

    /// What a statement gives, a row a line.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String, String> {
        sql(&self.url(database), "public", statement)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// One of its programs, run by somebody who may.
    fn command(&self, program: &str) -> Result<Command, String> {
        let mut command = Command::new(self.programs.join(program));
        if let Some((user, group)) = other_user()? {
            command.gid(group).uid(user);
        }
        command
            .current_dir(self.folder.path())
            .env_remove("PGDATA")
            .env("LC_ALL", "C");
        Ok(command)
    }
}

/// What a statement gives in a schema of a database, a row a line.
pub fn sql(url: &str, schema: &str, statement: &str) -> Result<String, String> {
    said(
        Command::new(programs()?.join("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement])
            .env("PGOPTIONS", format!("-c search_path={schema}"))
            .env("PGCONNECT_TIMEOUT", "5"),
    )
}

/// A copy of a schema, as `pg_dump` makes it.
pub fn dump(url: &str, schema: &str) -> Result<String, String> {
    said(
        Command::new(programs()?.join("pg_dump"))
            .args(["--no-owner", "--schema", schema, "-d", url])
            .env("PGCONNECT_TIMEOUT", "5"),
    )
}

/// Puts a copy back.
pub fn load(url: &str, dump: &str) -> Result<(), String> {
    let mut file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::io::Write::write_all(&mut file, dump.as_bytes()).map_err(|error| error.to_string())?;
    said(
        Command::new(programs()?.join("psql"))
            .args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", url, "-f"])
            .arg(file.path())
            .env("PGCONNECT_TIMEOUT", "5"),
    )
    .map(drop)
}

/// Where its programs are.
fn programs() -> Result<PathBuf, String> {
    newest(VERSIONS, "bin", "initdb").ok_or_else(|| {
        "PostgreSQL is not installed: there is no /usr/lib/postgresql/*/bin/initdb; run `make services`".to_owned()
    })
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // An end at once, that still gives back the memory that its processes share.
            process.stop("-QUIT");
        }
        // A killed server has left the memory by which a second one in its folder is noticed.
        let left = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        if let Some(memory) = left
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1))
        {
            Command::new("ipcrm").args(["-m", memory]).status().ok();
        }
    }
}

/// As in life where it matters (fsync), and small.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "max_connections=100",
    "shared_buffers=64MB",
    "dynamic_shared_memory_type=mmap",
    "autovacuum_naptime=10s",
    "log_min_messages=warning",
];

/// The user and the group that run it; none if the test's own may.
fn other_user() -> Result<Option<(u32, u32)>, String> {
    let own = std::fs::metadata("/proc/self").map_err(|error| error.to_string())?;
    if own.uid() != 0 {
        return Ok(None);
    }
    let known =
        std::fs::read_to_string(Path::new("/etc/passwd")).map_err(|error| error.to_string())?;
    let number = |of: &str| -> Option<(u32, u32)> {
        let line = known
            .lines()
            .find(|line| line.split(':').next() == Some(of))?;
        let mut parts = line.split(':').skip(2);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let found = USERS.iter().find_map(|name| number(name));
    found.map(Some).ok_or_else(|| {
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`".to_owned()
    })
}
