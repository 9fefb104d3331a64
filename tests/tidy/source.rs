//! Source files as the rules look at them: code without comments and literals, and which lines are tests.

/// One Rust file.
pub struct Source {
    /// Relative to the project, with `/`.
    pub path: String,
    pub text: String,
    /// `text` with comments and the contents of literals blanked; same lines.
    pub code: String,
    /// For each line, whether it belongs to an item under `#[cfg(test)]`.
    pub is_test: Vec<bool>,
    /// For each line, whether a `//` comment begins on it.
    has_comment: Vec<bool>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let (code, comments) = blank_comments_and_literals(text);
        let mut is_test = test_lines(&code);
        if path.ends_with("/tests.rs") || path.contains("/tests/") {
            is_test.fill(true);
        }
        let mut has_comment = vec![false; text.lines().count()];
        for line in comments {
            has_comment[line - 1] = true;
        }
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            is_test,
            has_comment,
        }
    }

    /// Numbered from 1: the line's code, its text, whether it is a test.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str, &str, bool)> {
        let pairs = self.code.lines().zip(self.text.lines()).zip(&self.is_test);
        pairs
            .enumerate()
            .map(|(index, ((code, text), is_test))| (index + 1, code, text, *is_test))
    }

    /// The line, or one right above it, has a comment.
    pub fn has_comment_at(&self, number: usize) -> bool {
        let has_comment = |number: &usize| self.has_comment.get(number - 1).copied().unwrap_or(false);
        let is_only_comment = |number: &usize| {
            self.code
                .lines()
                .nth(number - 1)
                .is_some_and(|code| code.trim().is_empty())
        };
        has_comment(&number)
            || Some(number - 1)
                .filter(|above| *above > 0)
                .is_some_and(|above| has_comment(&above) && is_only_comment(&above))
    }
}

/// Blanks what is no code, and tells the lines on which a `//` comment begins. Line breaks stay, also in literals.
pub fn blank_comments_and_literals(text: &str) -> (String, Vec<usize>) {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut comments = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => {
                comments.push(line_of(&code, code.len()));
                find_line_end(&chars, at)
            }
            '/' if chars.get(at + 1) == Some(&'*') => find_comment_end(&chars, at),
            '"' => find_string_end(&chars, at),
            'r' if !follows_name(&chars, at) => find_raw_string_end(&chars, at).unwrap_or(at),
            'b' if chars.get(at + 1) == Some(&'r') && !follows_name(&chars, at) => {
                find_raw_string_end(&chars, at + 1).unwrap_or(at)
            }
            '\'' => find_char_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    (code, comments)
}

fn follows_name(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn find_line_end(chars: &[char], at: usize) -> usize {
    chars[at..]
        .iter()
        .position(|c| *c == '\n')
        .map_or(chars.len(), |length| at + length)
}

/// Block comments nest.
fn find_comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn find_string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `at` is at the `r`.
fn find_raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let quote = at + 1 + hashes;
    if chars.get(quote) != Some(&'"') {
        return None;
    }
    let closes = |end: usize| {
        chars[end] == '"'
            && chars[end + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    (quote + 1..chars.len())
        .find(|end| closes(*end))
        .map(|end| end + 1 + hashes)
}

/// A character literal, and not a lifetime.
fn find_char_end(chars: &[char], at: usize) -> Option<usize> {
    if chars.get(at + 1) == Some(&'\\') {
        let length = chars[at + 3..].iter().take(12).position(|c| *c == '\'')?;
        return Some(at + 3 + length + 1);
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

/// The index just behind the brace that closes the first one at or after `at`; `None` when a `;` comes first.
pub fn find_block_end(code: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (index, byte) in code.iter().enumerate().skip(at) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(index + 1),
            b'}' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

pub fn line_of(code: &str, at: usize) -> usize {
    // `lines` does not count an empty last line.
    code[..at].split('\n').count()
}

fn test_lines(code: &str) -> Vec<bool> {
    let mut is_test = vec![false; code.lines().count()];
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let behind = at + attribute.len();
        let end = find_block_end(code.as_bytes(), behind).unwrap_or(behind);
        for line in line_of(code, at)..=line_of(code, end) {
            if let Some(flag) = is_test.get_mut(line - 1) {
                *flag = true;
            }
        }
    }
    is_test
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let text = "let a = \"x // \\\" y\"; // c\nlet b = 'x'; /* d /* e */\n f */ let c: &'static str = r#\"q\"q\"#;\nlet d = '\\'';";
        let (code, comments) = blank_comments_and_literals(text);
        assert_eq!(comments, [1]);
        assert_eq!(code.lines().count(), text.lines().count());
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "let a = ; let b = ; let c: &'static str = ; let d = ;"
        );
    }

    #[test]
    fn names_that_end_in_r_do_not_begin_raw_strings() {
        let (code, _) = blank_comments_and_literals("for(\"a\"); var r = br\"b\"; expr");
        assert_eq!(
            code.split_whitespace().collect::<Vec<_>>().join(" "),
            "for( ); var r = ; expr"
        );
    }

    #[test]
    fn test_items_are_known() {
        let source = Source::new(
            "src/x.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { }\n}\nfn c() {}\n",
        );
        assert_eq!(source.is_test, [false, true, true, true, true, false]);
        let single = Source::new("src/x.rs", "#[cfg(test)]\nuse a;\nfn c() {}\n");
        assert!(!single.is_test[2]);
    }

    #[test]
    fn files_named_tests_are_tests() {
        assert_eq!(Source::new("src/x/tests.rs", "fn a() {}\n").is_test, [true]);
        assert_eq!(Source::new("src/x/tests/y.rs", "fn a() {}\n").is_test, [true]);
        assert_eq!(Source::new("src/x/contests.rs", "fn a() {}\n").is_test, [false]);
    }

    #[test]
    fn a_comment_counts_on_its_line_and_right_above() {
        let source = Source::new("src/x.rs", "a(); // why\nb();\n// why\nc(\"//\");\nd(\"//\");\n");
        let seen: Vec<bool> = (1..=5).map(|number| source.has_comment_at(number)).collect();
        assert_eq!(seen, [true, false, true, true, false]);
    }
}
