//! Texts that a pattern is likely to match: a few for each, short ones and long ones. What it does not understand gives none.

/// How often `*` and `+` repeat at most.
const REPEATS_MAX: usize = 3;
/// How long a text may become.
const LENGTH_MAX: usize = 2_000;

/// A part of a pattern.
enum Part {
    /// One of these characters.
    One(Vec<char>),
    /// One of these ways.
    Ways(Vec<Vec<Part>>),
    /// From so often to so often.
    Repeat(Box<Part>, usize, usize),
}

/// Texts that are likely to match; each another choice.
pub(super) fn texts(pattern: &str) -> Vec<String> {
    let characters: Vec<char> = pattern.chars().collect();
    let mut reader = Reader {
        characters: &characters,
        at: 0,
    };
    let Some(ways) = reader.ways() else {
        return Vec::new();
    };
    if reader.at != characters.len() {
        return Vec::new();
    }
    let whole = Part::Ways(ways);
    let mut all: Vec<String> = Vec::new();
    for choice in 0..12 {
        let mut text = String::new();
        write(&whole, choice, &mut text);
        if text.len() <= LENGTH_MAX && !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// Writes one text; the number decides what is chosen.
fn write(part: &Part, choice: usize, out: &mut String) {
    if out.len() > LENGTH_MAX {
        return;
    }
    match part {
        Part::One(characters) => out.extend(characters.get(choice % characters.len().max(1))),
        Part::Ways(ways) => {
            let way = &ways[choice % ways.len()];
            for part in way {
                write(part, choice / ways.len(), out);
            }
        }
        Part::Repeat(part, least, most) => {
            let count = match choice % 3 {
                0 => *least,
                1 => *most,
                _ => (*least + 1).min(*most),
            };
            for at in 0..count {
                write(part, choice / 3 + at, out);
            }
        }
    }
}

struct Reader<'p> {
    characters: &'p [char],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn ways(&mut self) -> Option<Vec<Vec<Part>>> {
        let mut ways = vec![Vec::new()];
        while let Some(next) = self.peek() {
            match next {
                ')' => break,
                '|' => {
                    self.at += 1;
                    ways.push(Vec::new());
                }
                '^' | '$' => self.at += 1,
                _ => {
                    let part = self.one()?;
                    let part = self.repeated(part)?;
                    ways.last_mut()?.push(part);
                }
            }
        }
        Some(ways)
    }

    fn one(&mut self) -> Option<Part> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            '(' => {
                if self.take('?') {
                    let named = self.take(':');
                    if !named {
                        return None;
                    }
                }
                let ways = self.ways()?;
                self.take(')').then_some(Part::Ways(ways))
            }
            '[' => self.class(),
            '.' => Some(Part::One(vec!['a', 'Z', '0'])),
            '\\' => self.escape().map(Part::One),
            '*' | '+' | '?' | '{' => None,
            plain => Some(Part::One(vec![plain])),
        }
    }

    fn escape(&mut self) -> Option<Vec<char>> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            'd' => Some(('0'..='9').collect()),
            'w' => Some("aZ0_".chars().collect()),
            's' => Some(vec![' ']),
            'S' | 'D' | 'W' | 'b' | 'B' | 'p' | 'P' | 'u' | 'x' => None,
            't' => Some(vec!['\t']),
            'n' => Some(vec!['\n']),
            plain if plain.is_alphanumeric() => None,
            plain => Some(vec![plain]),
        }
    }

    fn class(&mut self) -> Option<Part> {
        let without = self.take('^');
        let mut listed: Vec<char> = Vec::new();
        loop {
            let next = self.peek()?;
            self.at += 1;
            match next {
                ']' if !listed.is_empty() => break,
                '\\' => listed.extend(self.escape()?),
                '-' if self.peek() != Some(']') && !listed.is_empty() => {
                    let from = listed.pop()?;
                    let to = self.peek()?;
                    self.at += 1;
                    listed.extend((from..=to).take(100));
                }
                plain => listed.push(plain),
            }
        }
        if without {
            listed = ('!'..='~').filter(|c| !listed.contains(c)).collect();
        }
        (!listed.is_empty()).then_some(Part::One(listed))
    }

    fn repeated(&mut self, part: Part) -> Option<Part> {
        let (least, most) = match self.peek() {
            Some('*') => (0, REPEATS_MAX),
            Some('+') => (1, REPEATS_MAX),
            Some('?') => (0, 1),
            Some('{') => {
                let length = self.characters[self.at..].iter().position(|c| *c == '}')?;
                let inside: String = self.characters[self.at + 1..self.at + length]
                    .iter()
                    .collect();
                self.at += length;
                let (least, most) = inside.split_once(',').unwrap_or((&inside, &inside));
                let least: usize = least.trim().parse().ok()?;
                let most = match most.trim() {
                    "" => least + REPEATS_MAX,
                    most => most.parse().ok()?,
                };
                (least, most)
            }
            _ => return Some(part),
        };
        self.at += 1;
        self.take('?');
        (least <= most && most <= LENGTH_MAX).then(|| Part::Repeat(Box::new(part), least, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_match_their_pattern() {
        for pattern in [
            "^[A-Z]{2}$",
            "^-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,6})?$",
            "^SO-\\d+$",
            "^(?:a|bc)+[^x-z]$",
            "^.{1,3}$",
            "[\\w-]+@shop\\.example",
        ] {
            let found = texts(pattern);
            let regex = regex::Regex::new(pattern).unwrap();
            assert!(found.len() > 1, "{pattern}: {found:?}");
            for text in found {
                assert!(regex.is_match(&text), "{pattern}: {text}");
            }
        }
        assert!(texts("(?=a)b").is_empty() && texts("a{").is_empty());
    }
}
