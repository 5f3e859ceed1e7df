//! What the engines of a demo share: a broker and a database that are there already, in which this run has a schema and queues of its own.

use std::fs;
use std::path::Path;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use serde_json::Value;

use crate::failure::Failure;
use crate::net::amqp::link::Link;
use crate::net::amqp::{Broker, answer};
use crate::net::sql;

/// Where the engines keep their store and hand messages over, and how many they are.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterArgs {
    /// Hands messages over a RabbitMQ broker: amqp://user:password@host:5672/vhost.
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub rabbitmq: Option<String>,
    /// Keeps the store on a PostgreSQL server: postgres://user:password@host:5432/database.
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub postgres: Option<String>,
    /// How many engines share the work; more than one needs `--rabbitmq` and `--postgres`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub engines: u8,
}

/// The parts of a broker and a database that are one run's own.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The database server's URL, if the store is there.
    pub postgres: Option<String>,
    /// The broker's URL, if messages go over it.
    pub rabbitmq: Option<String>,
    /// The schema, and what the names of queues and exchanges begin with.
    pub name: String,
}

impl ClusterArgs {
    /// What is asked for, under this name; an error if it cannot work.
    pub fn cluster(&self, name: String) -> Result<Cluster, String> {
        let both = self.rabbitmq.is_some() && self.postgres.is_some();
        if self.engines > 1 && !both {
            return Err(format!(
                "{} engines share a broker and a database: name both with `--rabbitmq URL --postgres URL`",
                self.engines
            ));
        }
        Ok(Cluster {
            postgres: self.postgres.clone(),
            rabbitmq: self.rabbitmq.clone(),
            name,
        })
    }
}

impl Cluster {
    /// Writes into the project's settings where the store is and how messages are handed over, in place of what they say now.
    pub fn settle(&self, project: &Path) -> Result<(), String> {
        let path = project.join("crossdock.yaml");
        let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
        let text = fs::read_to_string(&path).map_err(wrong)?;
        fs::write(&path, self.settled(&text)).map_err(wrong)
    }

    fn settled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let name = &self.name;
        if self.postgres.is_some() {
            text = without(&text, "store");
            text += &format!(
                "\nstore:\n  postgres: {{ url: \"${{env:DATABASE_URL}}\", schema: {name} }}\n"
            );
        }
        if self.rabbitmq.is_some() {
            text = without(&text, "handoff");
            text += &format!(
                "\nhandoff:\n  rabbitmq: {{ urls: [\"${{env:AMQP_URL}}\"], name: {name} }}\n"
            );
        }
        text
    }

    /// Removes the queues and the schema; `known` are the project's variables. The engines must have ended.
    pub async fn remove(
        &self,
        program: &Path,
        project: &Path,
        known: Vec<(&str, String)>,
    ) -> Result<(), String> {
        // The store knows what the queues are called, so it goes last.
        self.remove_queues(program, project, known).await?;
        self.remove_schema().await
    }

    async fn remove_queues(
        &self,
        program: &Path,
        project: &Path,
        known: Vec<(&str, String)>,
    ) -> Result<(), String> {
        let Some(url) = &self.rabbitmq else {
            return Ok(());
        };
        let listed = tokio::process::Command::new(program)
            .args(["topology", "--format", "json", "--project"])
            .arg(project)
            .envs(known)
            .output()
            .await
            .map_err(|error| format!("the queues of {} are left over: {error}", self.name))?;
        // 1 says that one is not as it must be: that one goes as well.
        if !matches!(listed.status.code(), Some(0 | 1)) {
            let why = String::from_utf8_lossy(&listed.stderr).into_owned();
            return Err(format!("the queues of {} are left over: {why}", self.name));
        }
        let broker = Broker::new(std::slice::from_ref(url), None, None)?;
        let wrong = |failure: Failure| format!("queues of {} are left over: {failure}", self.name);
        let link = Link::open(&broker, 0, "demo").await.map_err(wrong)?;
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            let found: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
            let name = found["name"].as_str().unwrap_or_default();
            let channel = link.channel().await.map_err(wrong)?;
            let deleted = if found["kind"] == "queue" {
                let options = QueueDeleteOptions::default();
                let deleting = channel.queue_delete(name.into(), options);
                answer(name, deleting).await.map(drop)
            } else {
                let options = ExchangeDeleteOptions::default();
                answer(name, channel.exchange_delete(name.into(), options)).await
            };
            deleted.map_err(wrong)?;
        }
        link.close().await;
        Ok(())
    }

    async fn remove_schema(&self) -> Result<(), String> {
        let Some(url) = &self.postgres else {
            return Ok(());
        };
        let name = &self.name;
        let wrong =
            |error: tokio_postgres::Error| format!("the schema {name} is left over: {error}");
        let config = sql::server(url)?;
        let (client, connection) = config.connect(sql::tls(None)?).await.map_err(wrong)?;
        let connected = tokio::spawn(connection);
        let removed = client
            .batch_execute(&format!("DROP SCHEMA IF EXISTS {name} CASCADE"))
            .await;
        drop(client);
        drop(connected.await);
        removed.map_err(wrong)
    }

    /// What an engine needs in its environment to find both.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let postgres = self.postgres.clone().map(|url| ("DATABASE_URL", url));
        let rabbitmq = self.rabbitmq.clone().map(|url| ("AMQP_URL", url));
        postgres.into_iter().chain(rabbitmq).collect()
    }
}

/// The settings without a key of the first level and all that stands below it.
fn without(text: &str, key: &str) -> String {
    let mut within = false;
    let mut rest = String::new();
    for line in text.lines() {
        let begins = !line.is_empty() && !line.starts_with([' ', '#']);
        if begins {
            within = line.split(':').next() == Some(key);
        }
        if !within {
            rest += line;
            rest.push('\n');
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(postgres: bool, rabbitmq: bool) -> Cluster {
        Cluster {
            postgres: postgres.then(|| "postgres://127.0.0.1/orders".to_owned()),
            rabbitmq: rabbitmq.then(|| "amqp://127.0.0.1".to_owned()),
            name: "demo7".to_owned(),
        }
    }

    #[test]
    fn the_settings_say_where_the_store_is_instead_of_what_they_said() {
        let text = "listen: a\nstore:\n  sqlite: { path: b }\n# c\n\nlimits: { drain: 1s }\n";
        assert_eq!(cluster(false, false).settled(text), text);
        let both = cluster(true, true).settled(text);
        assert_eq!(
            both,
            "listen: a\nlimits: { drain: 1s }\n\nstore:\n  postgres: { url: \"${env:DATABASE_URL}\", schema: demo7 }\n\nhandoff:\n  rabbitmq: { urls: [\"${env:AMQP_URL}\"], name: demo7 }\n"
        );
        assert_eq!(cluster(true, true).settled(&both), both);
    }

    #[test]
    fn several_engines_need_a_broker_and_a_database() {
        let asked = |engines, postgres: Option<&str>| ClusterArgs {
            rabbitmq: Some("amqp://127.0.0.1".to_owned()),
            postgres: postgres.map(str::to_owned),
            engines,
        };
        assert!(asked(1, None).cluster("a".to_owned()).is_ok());
        let wrong = asked(3, None).cluster("a".to_owned()).unwrap_err();
        assert!(wrong.contains("`--rabbitmq URL --postgres URL`"), "{wrong}");
        assert!(
            asked(3, Some("postgres://127.0.0.1/a"))
                .cluster("a".to_owned())
                .is_ok()
        );
    }
}
