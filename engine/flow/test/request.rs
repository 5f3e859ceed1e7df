//! Which requests a rule or an expectation means: `POST /orders`, `GET /customers/*`. It sees method and path, and nothing else.

/// Method and path of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    method: String,
    path: String,
}

impl Pattern {
    /// The pattern that a text stands for; else what is wrong, and behind the semicolon what to do.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let help = "write the method and the path below the system's base URL, such as `POST /orders`, `SQL orders` for a table, `PUBLISH EXCHANGE/KEY` for a broker";
        let Some((method, path)) = text.split_once(' ') else {
            return Err(format!("`{text}` is no request; {help}"));
        };
        let known = [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "SQL", "PUBLISH", "*",
        ];
        if !known.contains(&method) {
            return Err(format!("`{method}` is no method; {help}"));
        }
        if path.contains(' ') || path.is_empty() {
            return Err(format!("`{path}` is no path; {help}"));
        }
        if !["SQL", "PUBLISH"].contains(&method) && !path.starts_with(['/', '*']) {
            return Err(format!("the path `{path}` does not begin with `/`; {help}"));
        }
        Ok(Pattern {
            method: method.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Whether it means a request with this method and this path, query included.
    pub fn fits(&self, method: &str, path: &str) -> bool {
        if self.method != "*" && self.method != method {
            return false;
        }
        let path = match self.path.contains('?') {
            true => path,
            false => path.split('?').next().unwrap_or(path),
        };
        glob(&self.path, path)
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(before) = last.replace(part) {
            match rest.find(before) {
                Some(at) => rest = &rest[at + before.len()..],
                None => return false,
            }
        }
    }
    match last {
        None => rest.is_empty(),
        Some(end) => rest.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, method: &str, path: &str, expect: bool) {
        let fits = Pattern::parse(pattern).unwrap().fits(method, path);
        assert_eq!(fits, expect, "{pattern}: {method} {path}");
    }

    #[test]
    fn patterns_mean_requests() {
        check("POST /orders", "POST", "/orders", true);
        check("POST /orders", "POST", "/orders?dry=1", true);
        check("POST /orders", "GET", "/orders", false);
        check("POST /orders", "POST", "/orders/1", false);
        check("GET /orders?ref=*", "GET", "/orders?ref=SO-1", true);
        check("GET /orders?ref=*", "GET", "/orders", false);
        check("* /customers/*/notes", "PUT", "/customers/C-1/notes", true);
        check("GET /a*b*c", "GET", "/a1b2c", true);
        check("GET /a*b*c", "GET", "/a1c2b", false);
        check("SQL orders", "SQL", "orders", true);
    }

    #[test]
    fn what_is_no_request_is_said() {
        for wrong in ["/orders", "post /orders", "POST orders", "POST /a b"] {
            let fault = Pattern::parse(wrong).unwrap_err();
            assert!(fault.contains("; write the method"), "{fault}");
        }
    }
}
