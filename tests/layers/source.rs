//! Reads Rust source as far as the layer rules need it: library code without comments, strings and tests, and the paths in it.

/// A path in a file: its line, counted from 1, the inline modules around it, and its segments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundPath {
    pub(crate) line: usize,
    modules: Vec<String>,
    pub(crate) segments: Vec<String>,
}

/// The library code of a file. Comments, strings and items behind `#[cfg(test)]` become spaces; lines keep their numbers.
pub(crate) fn library_code(text: &str) -> String {
    without_tests(&without_comments_and_strings(text))
}

/// Replaces a part of a text by spaces and keeps its line breaks.
fn blank(part: &str) -> impl Iterator<Item = char> {
    part.chars().map(|c| if c == '\n' { c } else { ' ' })
}

/// The length in bytes of the comment, string or character that `text` begins with; 0 if it begins with code.
fn literal_length(text: &str, after_word: bool) -> usize {
    let until = |start: usize, end: &str| text[start..].find(end).map_or(text.len(), |at| start + at + end.len());
    let quoted = |start: usize, quote: char| {
        let mut escaped = false;
        for (at, c) in text[start..].char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => return start + at + 1,
                _ => {}
            }
        }
        text.len()
    };
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    if text.starts_with('"') {
        return quoted(1, '"');
    }
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r')).filter(|_| !after_word);
    if let Some(rest) = raw {
        let hashes = rest.chars().take_while(|&c| c == '#').count();
        if rest[hashes..].starts_with('"') {
            return until(text.len() - rest.len() + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    // A character, rather than a lifetime: one character or an escape between two quotes.
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) => quoted(1, '\''),
        (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        match literal_length(rest, after_word) {
            0 => {
                code.push(c);
                rest = &rest[c.len_utf8()..];
            }
            length => {
                code.extend(blank(&rest[..length]));
                rest = &rest[length..];
            }
        }
    }
    code
}

/// Blanks every item behind `#[cfg(test)]` or `#[cfg(all(test, ..))]`.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|cfg| rest.find(cfg)).min() {
        kept.push_str(&rest[..at]);
        let item = item_length(&rest[at..]);
        kept.extend(blank(&rest[at..at + item]));
        rest = &rest[at + item..];
    }
    kept + rest
}

/// The length of an item with its attributes: up to its closing brace, or up to a semicolon outside of brackets.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Every path of at least two segments, and every import with its groups written out: `use a::{b, c::d}` holds the paths `a::b`
/// and `a::c::d`. A glob's last segment is `*`. The name that `as` gives to an import does not matter.
pub(crate) fn paths(code: &str) -> Vec<FoundPath> {
    let tokens = tokens(code);
    let token = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let (mut found, mut at) = (Vec::new(), 0);
    // The inline modules around the token, each with the depth of braces outside it.
    let (mut modules, mut depth) = (Vec::<(usize, &str)>::new(), 0_usize);
    while at < tokens.len() {
        let first = found.len();
        match token(at) {
            "mod" if is_word(token(at + 1)) && token(at + 2) == "{" => {
                modules.push((depth, token(at + 1)));
                at += 2;
            }
            "{" => {
                depth += 1;
                at += 1;
            }
            "}" => {
                depth = depth.saturating_sub(1);
                modules.retain(|&(outside, _)| outside < depth);
                at += 1;
            }
            "use" => at = import(&tokens, at + 1, &[], &mut found),
            word if is_word(word) && token(at + 1) == "::" => {
                let mut path = FoundPath { line: tokens[at].0, modules: Vec::new(), segments: vec![word.to_owned()] };
                at += 1;
                while token(at) == "::" && is_word(token(at + 1)) {
                    path.segments.push(token(at + 1).to_owned());
                    at += 2;
                }
                found.extend((path.segments.len() > 1).then_some(path));
            }
            _ => at += 1,
        }
        for path in &mut found[first..] {
            path.modules = modules.iter().map(|&(_, name)| name.to_owned()).collect();
        }
    }
    found
}

/// Collects the paths of the import that begins at a token, behind `prefix`; returns the index of the token after it.
fn import(tokens: &[(usize, String)], mut at: usize, prefix: &[String], found: &mut Vec<FoundPath>) -> usize {
    let mut segments = prefix.to_vec();
    while let Some((line, token)) = tokens.get(at) {
        at += 1;
        match token.as_str() {
            "::" => continue,
            "{" => {
                while tokens.get(at).is_some_and(|(_, token)| token != "}") {
                    at = import(tokens, at, &segments, found);
                    at += usize::from(tokens.get(at).is_some_and(|(_, token)| token == ","));
                }
                return at + 1;
            }
            // `a::{self}` imports `a`.
            "self" if !prefix.is_empty() && segments.len() == prefix.len() => {}
            word if word == "*" || is_word(word) => segments.push(word.to_owned()),
            _ => return at,
        }
        if tokens.get(at).is_none_or(|(_, token)| token != "::") {
            found.push(FoundPath { line: *line, modules: Vec::new(), segments });
            let renamed = tokens.get(at).is_some_and(|(_, token)| token == "as");
            return if renamed { at + 2 } else { at };
        }
    }
    at
}

/// A path from the root of the crate: `crate`, `self` and `super` are followed from the module that holds the path. `None` for a
/// path that begins with another name.
pub(crate) fn from_root(path: &FoundPath, file: &[String]) -> Option<Vec<String>> {
    let mut modules = [file, &path.modules].concat();
    let mut segments = path.segments.iter().map(String::as_str).peekable();
    match *segments.peek()? {
        "crate" => modules.clear(),
        "self" | "super" => {}
        _ => return None,
    }
    while let Some(step) = segments.next_if(|segment| ["crate", "self", "super"].contains(segment)) {
        if step == "super" {
            modules.pop();
        }
    }
    modules.extend(segments.map(str::to_owned));
    Some(modules)
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Words, `::` and single other characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, text) in (1..).zip(code.lines()) {
        let mut rest = text.trim_start();
        while let Some(c) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => c.len_utf8(),
                word => word,
            };
            found.push((line, rest[..length].to_owned()));
            rest = rest[length..].trim_start();
        }
    }
    found
}
