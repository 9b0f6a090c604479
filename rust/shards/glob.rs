//! Shell patterns for paths: `*`, `?`, `[a-z]`, `[!a-z]`, and `**` for any number of folders.
//!
//! Matching simulates the pattern as a nondeterministic automaton, one step a character, so it takes
//! O(pattern x path) whatever the pattern.

/// A parsed pattern.
#[derive(Debug)]
pub struct Glob {
    steps: Vec<Step>,
    whole_path: bool,
}

#[derive(Debug)]
enum Step {
    Literal(char),
    /// One character, no slash.
    Any,
    /// Any run of characters without a slash.
    Star,
    /// Any run of characters.
    DoubleStar,
    /// One character inside (or, negated, outside) the ranges; never a slash.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

impl Glob {
    /// Parses `pattern`. A `[` that is never closed stands for itself.
    pub fn new(pattern: &str) -> Self {
        let chars: Vec<char> = pattern.chars().collect();
        let mut steps = Vec::new();
        let mut at = 0;
        while at < chars.len() {
            let (step, length) = match chars[at] {
                '*' if chars.get(at + 1) == Some(&'*') => {
                    // "**/" also matches no folder at all.
                    (
                        Step::DoubleStar,
                        if chars.get(at + 2) == Some(&'/') {
                            3
                        } else {
                            2
                        },
                    )
                }
                '*' => (Step::Star, 1),
                '?' => (Step::Any, 1),
                '[' => parse_class(&chars[at..]).unwrap_or((Step::Literal('['), 1)),
                other => (Step::Literal(other), 1),
            };
            steps.push(step);
            at += length;
        }
        Self {
            steps,
            whole_path: pattern.contains('/'),
        }
    }

    /// Whether a name holds any of the characters that make it a pattern.
    pub fn is_pattern(name: &str) -> bool {
        name.contains(['*', '?', '['])
    }

    /// Whether `path`, with `/` between folders, matches. A pattern without a slash is held against
    /// the last component only.
    pub fn matches(&self, path: &str) -> bool {
        let subject = if self.whole_path {
            path
        } else {
            path.rsplit('/').next().unwrap_or(path)
        };
        let mut states = vec![false; self.steps.len() + 1];
        let mut next = states.clone();
        self.enter(&mut states, 0);
        for c in subject.chars() {
            next.fill(false);
            for (at, step) in self.steps.iter().enumerate().filter(|&(at, _)| states[at]) {
                match step {
                    Step::Star | Step::DoubleStar if step.accepts(c) => self.enter(&mut next, at),
                    _ if step.accepts(c) => self.enter(&mut next, at + 1),
                    _ => {}
                }
            }
            std::mem::swap(&mut states, &mut next);
        }
        states[self.steps.len()]
    }

    /// Marks `at`, and what follows a run that may be empty.
    fn enter(&self, states: &mut [bool], mut at: usize) {
        states[at] = true;
        while let Some(Step::Star | Step::DoubleStar) = self.steps.get(at) {
            at += 1;
            states[at] = true;
        }
    }
}

impl Step {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == c,
            Self::Any | Self::Star => c != '/',
            Self::DoubleStar => true,
            Self::Class { ranges, negated } => {
                c != '/' && ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
            }
        }
    }
}

/// The class that `chars` begins with, and its length.
fn parse_class(chars: &[char]) -> Option<(Step, usize)> {
    let negated = matches!(chars.get(1), Some('!' | '^'));
    let first = if negated { 2 } else { 1 };
    // A closing bracket in first place is a member.
    let close = first + 1 + chars.get(first + 1..)?.iter().position(|&c| c == ']')?;
    let members = &chars[first..close];
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        if members.get(at + 1) == Some(&'-') && at + 2 < members.len() {
            ranges.push((members[at], members[at + 2]));
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Some((Step::Class { ranges, negated }, close + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Glob::new(pattern).matches(path)
    }

    #[test]
    fn patterns_match_as_a_shell_user_expects() {
        for (pattern, path, expected) in [
            ("*.py", "a.py", true),
            ("*.py", "deep/er/a.py", true),
            ("*.py", "a.pyc", false),
            ("src/*.py", "src/a.py", true),
            ("src/*.py", "src/deep/a.py", false),
            ("src/**/*.py", "src/a.py", true),
            ("src/**/*.py", "src/x/y/a.py", true),
            ("src/**", "src/x/y", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("src/a?c", "src/a/c", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[]]x", "]x", true),
            ("[x", "[x", true),
            ("part-*-of-*.txt", "part-1-of-2.txt", true),
            ("é*", "été", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} against {path}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
        assert!(matches(&"*a".repeat(200), &"a".repeat(200)));
    }
}
