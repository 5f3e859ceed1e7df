//! Environment variables.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Where `${env:NAME}` looks.
pub trait Environment: Send + Sync {
    /// The value of a variable; `None` if it is not set or is not text.
    fn get(&self, name: &str) -> Option<String>;
}

/// What this machine, or this container, is called.
pub fn machine() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The environment of this process.
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// An environment for tests.
#[derive(Clone, Debug, Default)]
pub struct FixedEnvironment(pub BTreeMap<String, String>);

impl Environment for FixedEnvironment {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

/// Another environment, with the variables of a file behind it.
pub struct Overlay {
    first: Arc<dyn Environment>,
    behind: FixedEnvironment,
}

impl Overlay {
    /// Reads `NAME=value` lines; empty lines and lines that begin with `#` are passed over, quotes around a value are taken off.
    pub fn parse(first: Arc<dyn Environment>, text: &str) -> Overlay {
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let variables = lines
            .filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='))
            .map(|(name, value)| {
                let value = value.trim();
                let bare = ['"', '\'']
                    .iter()
                    .find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote));
                (name.trim().to_owned(), bare.unwrap_or(value).to_owned())
            });
        Overlay {
            first,
            behind: FixedEnvironment(variables.collect()),
        }
    }
}

impl Environment for Overlay {
    fn get(&self, name: &str) -> Option<String> {
        self.first.get(name).or_else(|| self.behind.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_stands_behind_the_process() {
        let first = FixedEnvironment([("A".to_owned(), "1".to_owned())].into());
        let both = Overlay::parse(
            Arc::new(first),
            "# note\nA=2\nexport B=\"two words\"\n\nC=x=y\n",
        );
        assert_eq!(both.get("A").as_deref(), Some("1"));
        assert_eq!(both.get("B").as_deref(), Some("two words"));
        assert_eq!(both.get("C").as_deref(), Some("x=y"));
        assert_eq!(both.get("D"), None);
    }
}
