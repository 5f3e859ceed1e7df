//! Names with `*` and `?`. Not paths.

/// A pattern of file names.
#[derive(Clone, Debug)]
pub(super) struct Glob(Vec<char>);

impl Glob {
    pub(super) fn new(pattern: &str) -> Glob {
        Glob(pattern.chars().collect())
    }

    /// Whether a name fits. Names that begin with a dot fit nothing: those are still being written.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        if name.first() == Some(&'.') {
            return false;
        }
        let (mut at, mut in_name) = (0, 0);
        // Where the last star stands, and how much of the name it has taken.
        let mut star: Option<(usize, usize)> = None;
        while in_name < name.len() {
            match self.0.get(at) {
                Some('*') => {
                    star = Some((at, in_name));
                    at += 1;
                }
                Some('?') => (at, in_name) = (at + 1, in_name + 1),
                Some(letter) if *letter == name[in_name] => (at, in_name) = (at + 1, in_name + 1),
                _ => match star {
                    Some((place, taken)) => {
                        star = Some((place, taken + 1));
                        (at, in_name) = (place + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        self.0[at..].iter().all(|letter| *letter == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, expect) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "a.csv.tmp", false),
            ("*.csv", ".csv", false),
            ("*", ".hidden", false),
            ("orders-*.csv", "orders-.csv", true),
            ("orders-*-?.csv", "orders-1-2-3.csv", true),
            ("orders-*-?.csv", "orders-1-22.csv", false),
            ("a*b*c", "aXbXbXc", true),
            ("ü?.x", "üß.x", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("*", "", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), expect, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(50) + "b";
        assert!(!Glob::new(&pattern).matches(&"a".repeat(2_000)));
    }
}
