//! Reads the text of metrics strictly: what this does not take, a collector need not take either.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What one scrape said.
pub struct Scrape {
    pub text: String,
    /// By name and labels, as they are written.
    pub values: BTreeMap<String, f64>,
}

/// A GET with these headers: the head of the answer, and its body.
pub fn get(address: SocketAddr, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

impl Scrape {
    /// The numbers of this moment.
    pub fn of(address: SocketAddr) -> Scrape {
        Scrape::plain(&get(address, "/metrics", "").1)
    }

    /// The form of Prometheus.
    pub fn plain(text: &str) -> Scrape {
        assert!(
            !text.contains("# EOF") && !text.contains("# UNIT"),
            "{text}"
        );
        Scrape::read(text, |name, kind| match kind {
            "counter" => name.ends_with("_total"),
            _ => !name.ends_with("_total"),
        })
    }

    /// OpenMetrics.
    pub fn open(text: &str) -> Scrape {
        let text = text
            .strip_suffix("# EOF\n")
            .expect("it says that it is over");
        Scrape::read(text, |name, _| !name.ends_with("_total"))
    }

    fn read(text: &str, named_well: impl Fn(&str, &str) -> bool) -> Scrape {
        let mut values = BTreeMap::new();
        let (mut described, mut now) = (BTreeSet::new(), None::<(String, String)>);
        let mut helped = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help says something");
                assert!(
                    described.insert(name.to_owned()),
                    "{name} is described twice"
                );
                assert!(words.len() > 5, "{line}");
                helped = name.to_owned();
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, helped, "the help of a metric comes before its type");
                assert!(named_well(name, kind), "{line}");
                now = Some((name.to_owned(), kind.to_owned()));
                continue;
            }
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let (name, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let (family, kind) = now.as_ref().expect("a value has a type");
            let bare = name.split('{').next().unwrap();
            let end = bare
                .strip_prefix(family.as_str())
                .unwrap_or_else(|| panic!("{line} is not of {family}"));
            let ends: &[&str] = match &**kind {
                "counter" => &["", "_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{family} is a {other}"),
            };
            assert!(ends.contains(&end), "{line}");
            labels(name);
            assert!(
                values.insert(name.to_owned(), value).is_none(),
                "{name} is there twice"
            );
        }
        Scrape {
            text: text.to_owned(),
            values,
        }
    }

    /// The value of this name with these labels.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// The names, each with its labels.
    pub fn families(&self) -> BTreeMap<String, Vec<String>> {
        let names = self.values.keys();
        names
            .map(|name| (name.split('{').next().unwrap().to_owned(), labels(name)))
            .collect()
    }
}

/// The names of the labels.
fn labels(name: &str) -> Vec<String> {
    let Some((_, rest)) = name.split_once('{') else {
        return Vec::new();
    };
    let mut left = rest.strip_suffix('}').expect("labels end with a brace");
    let mut names = Vec::new();
    while !left.is_empty() {
        let (label, rest) = left.split_once("=\"").expect("a label has a value");
        assert!(
            label.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
            "{label}"
        );
        names.push(label.to_owned());
        let mut escaped = false;
        let end = rest.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (_, after) = rest.split_at(end.expect("a value ends with a quote").0 + 1);
        left = after.strip_prefix(',').unwrap_or(after);
    }
    names
}
