//! One Rust file as the rules see it: its text, and its tokens without comments, literals and test code.
//!
//! This is no Rust parser. It knows what can hide a token from a search (comments, strings, characters) and what
//! is compiled for tests only (`#[cfg(test)]` items), and it knows braces; that is all that the rules need.

use std::ops::Range;

/// A file of the tree.
pub(crate) struct Source {
    /// Relative to the root of the repository, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    tokens: Vec<Token>,
    product: Vec<Token>,
}

/// A word or a mark, and the line it stands on (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// An identifier, a keyword, a number, `::`, or one mark.
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

impl Token {
    /// Whether it is a word and not a mark.
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

impl Source {
    /// Reads one file's text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let tokens = tokenise(&blank(text));
        let test_only = path.starts_with("src/") && path.rsplit('/').next() == Some("tests.rs");
        let product = if test_only { Vec::new() } else { without_test_items(&tokens) };
        Self { path: path.to_owned(), text: text.to_owned(), tokens, product }
    }

    /// Every token but those of comments and literals.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// [`Self::tokens`] without what is compiled for tests only.
    pub(crate) fn product(&self) -> &[Token] {
        &self.product
    }

    /// The module of a file under `src/`: `src/attach/netns.rs` is `["attach", "netns"]`, the crate's root is empty.
    pub(crate) fn module(&self) -> Option<Vec<&str>> {
        let inner = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        Some(if inner == "lib" { Vec::new() } else { inner.split('/').collect() })
    }

    /// The names of the functions marked `#[test]` or `#[tokio::test]`, which stand right before `fn` or `async fn`.
    pub(crate) fn tests(&self) -> Vec<String> {
        let words: Vec<&str> = self.tokens.iter().map(|token| token.text.as_str()).collect();
        let test = |at: usize| {
            let before = words[..at].strip_suffix(&["async"]).unwrap_or(&words[..at]);
            // What is in quotes is no token.
            let argued = matches!(before, [.., "test", "(", _, "=", ")", "]"] | [.., "test", "(", _, "=", _, ")", "]"]);
            argued || matches!(before, [.., "test", "]"])
        };
        let named = words.iter().enumerate().filter(|(at, word)| **word == "fn" && test(*at));
        named.filter_map(|(at, _)| words.get(at + 1).map(|&name| name.to_owned())).collect()
    }

    /// Name, first and last line of every function that has a body.
    pub(crate) fn functions(&self) -> Vec<(String, Range<usize>)> {
        let mut found = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let Some(name) = self.tokens.get(at + 1).filter(|name| token.text == "fn" && name.is_word()) else {
                continue;
            };
            if let Some(end) = item_end(&self.tokens, at).filter(|&end| self.tokens[end].text == "}") {
                found.push((name.text.clone(), token.line..self.tokens[end].line));
            }
        }
        found
    }
}

/// Every path that begins at the crate's root, `crate::…` and `super::…` alike, with its line. A tree
/// (`use crate::a::{b, c::d}`) gives one path for each leaf.
pub(crate) fn crate_paths(tokens: &[Token], module: &[&str]) -> Vec<(Vec<String>, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_path = tokens.get(at + 1).is_some_and(|next| next.text == "::");
        let starts = at == 0 || tokens[at - 1].text != "::";
        let (root, first) = match tokens[at].text.as_str() {
            "crate" if is_path && starts => (Vec::new(), at + 2),
            "super" if is_path && starts => climb(tokens, at, module),
            _ => {
                at += 1;
                continue;
            }
        };
        let line = tokens[at].line;
        let mut leaves = Vec::new();
        at = leaves_of(tokens, first, &root, &mut leaves).max(at + 1);
        found.extend(leaves.into_iter().map(|leaf| (leaf, line)));
    }
    found
}

/// Where a chain of `super::` leads, and the token after it.
fn climb(tokens: &[Token], mut at: usize, module: &[&str]) -> (Vec<String>, usize) {
    let mut root: Vec<String> = module.iter().map(|&part| part.to_owned()).collect();
    while tokens.get(at).is_some_and(|token| token.text == "super") {
        root.pop();
        at += 2;
    }
    (root, at)
}

/// Collects the leaves of the path or tree at `at`; returns the token after it.
fn leaves_of(tokens: &[Token], mut at: usize, root: &[String], leaves: &mut Vec<Vec<String>>) -> usize {
    let mut path = root.to_vec();
    loop {
        match tokens.get(at) {
            Some(token) if token.text == "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    let next = leaves_of(tokens, at, &path, leaves).max(at + 1);
                    at = tokens[next.min(tokens.len())..]
                        .iter()
                        .position(|token| token.text == "," || token.text == "}")
                        .map_or(tokens.len(), |skip| next + skip);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            Some(token) if token.is_word() || token.text == "*" => {
                if token.text != "self" {
                    path.push(token.text.clone());
                }
                at += 1;
                if tokens.get(at).is_some_and(|token| token.text == "::") {
                    at += 1;
                    continue;
                }
            }
            _ => {}
        }
        leaves.push(path);
        return at;
    }
}

/// The text with comments and the insides of literals replaced by spaces; lines stay where they were.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = hidden_end(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            // A whole word at once, so that the `r` of `for` never begins a raw string.
            let word = |c: &char| c.is_alphanumeric() || *c == '_';
            let end = at + chars[at..].iter().take_while(|c| word(c)).count().max(1);
            out.extend(&chars[at..end]);
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` if none begins there.
fn hidden_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let starts = |prefix: &str| prefix.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    if starts("//") {
        return at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len());
    }
    if starts("/*") {
        return at + block_comment(rest);
    }
    let prefix = rest.iter().take_while(|c| matches!(c, 'b' | 'c' | 'r')).count();
    let raw = prefix > 0 && prefix <= 2 && rest[prefix - 1] == 'r';
    let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
    if raw && rest.get(prefix + hashes) == Some(&'"') {
        let open = prefix + hashes + 1;
        let closes =
            |i: usize| rest[i] == '"' && rest[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
        return at + (open..rest.len()).find(|&i| closes(i)).map_or(rest.len(), |i| i + 1 + hashes);
    }
    match rest.get(prefix) {
        Some('"') if prefix <= 1 => at + quoted(rest, prefix + 1, '"'),
        // A character, not a lifetime: 'x' or an escape.
        Some('\'') if prefix <= 1 && (rest.get(prefix + 1) == Some(&'\\') || rest.get(prefix + 2) == Some(&'\'')) => {
            at + quoted(rest, prefix + 1, '\'')
        }
        _ => at,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0usize, 0);
    while i < rest.len() {
        match (rest[i], rest.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn quoted(rest: &[char], mut i: usize, close: char) -> usize {
    while i < rest.len() && rest[i] != close {
        i += if rest[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(rest.len())
}

fn tokenise(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match first {
                _ if word > 0 => word,
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push(Token { text: rest[..length].to_owned(), line: number + 1 });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The token that ends the item at `at`: its closing brace, or its `;`.
fn item_end(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut braced = false;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" | "(" | "[" => {
                braced |= depth == 0 && token.text == "{";
                depth += 1;
            }
            "}" | ")" | "]" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 && token.text == "}" && braced {
                    return Some(i);
                }
            }
            ";" if depth == 0 => return Some(i),
            _ => {}
        }
    }
    None
}

fn without_test_items(tokens: &[Token]) -> Vec<Token> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut product = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let attribute =
            CFG_TEST.iter().enumerate().all(|(i, &t)| tokens.get(at + i).is_some_and(|token| token.text == t));
        if attribute {
            at = item_end(tokens, at + CFG_TEST.len()).map_or(tokens.len(), |end| end + 1);
        } else {
            product.push(tokens[at].clone());
            at += 1;
        }
    }
    product
}
