//! The language of every text in the repository: comments, documentation, messages and pages are plain English.
//!
//! Each rule stands in [`RULES`] with its reason, sentences that break it and sentences that do not. A rule is here only if a program can
//! decide it without doubt; the rest of a good style cannot be tested.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files at the root that are read.
const READ: &[&str] =
    &["src", "cli", "shaders", "tests", "benches", "examples", "fuzz", "scripts", "models", "assets", ".ci"];

/// Folders that hold no text of ours.
const SKIPPED: &[&str] = &["target", "corpus", "artifacts", "golden", "results"];

/// This file quotes sentences that break the rules.
const RULE_BOOK: &str = "tests/language.rs";

/// A sentence with more words is two sentences. Authors aim at 25.
const MOST_WORDS: usize = 40;

/// Names of types that say nothing of their job. Each may be the name of one type in the repository.
const BARE_NAMES: [&str; 5] = ["Run", "Call", "Source", "Memory", "Place"];

/// Names of types that are metaphors for a term of the field.
const METAPHORS: [(&str, &str); 5] = [
    ("Wide", "cooperative scan"),
    ("Together", "cooperative scans"),
    ("Walk", "scan"),
    ("Beside", "the name of the thing itself"),
    ("Turn", "step, depth slice or iteration"),
];

/// Things that are counted per step, per call or per second.
const COUNTED: &str = "allocation barrier buffer byte bytes checkpoint dispatch dispatches element elements entry frame gate line lines \
    loop multiply-add node number numbers pass pipeline product products scale step steps submission submissions subgroup \
    thread weight word words workgroup workgroups";

/// Units that others are counted per.
const UNITS: &str = "adapter batch block branch call case cell character chunk core device dispatch element epoch file frame gate invocation \
    lane layer line measurement minute node pass recorder row second stage step stream subgroup submission thread unit week word workgroup";

/// The words of a phrase in a row. Alternatives stand in one string; behind a `!` stand the words that are not meant.
/// Punctuation that ends a clause is a word.
type Phrase = &'static [&'static str];

enum Fault {
    /// A sentence of a comment or a page begins with these words.
    Begins(Phrase),
    /// These words follow one another anywhere, in messages too, and none of the second list stands close before them.
    Holds(Phrase, &'static str),
    /// A sentence of a comment or a page has more words.
    Longer(usize),
}

struct Rule {
    fault: Fault,
    why: &'static str,
    /// Sentences that the rule must find.
    broken: &'static [&'static str],
    /// Sentences that it must leave alone.
    kept: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        fault: Fault::Begins(&["what whatever"]),
        why: "a relative clause without a head is a puzzle: name the thing (\"The bytes that ...\")",
        broken: &["What a lost device refuses, it refuses for being lost.", "*What* is kept, is freed later."],
        kept: &["Says what a device is.", "What is a tensor?"],
    },
    Rule {
        fault: Fault::Begins(&["whose"]),
        why: "a relative clause without a head is a puzzle: name the thing (\"A kernel whose ...\")",
        broken: &["Whose rows are empty."],
        kept: &["A layer whose rows are empty."],
    },
    Rule {
        fault: Fault::Begins(&["those that", "of"]),
        why: "rustdoc shows a line without its neighbours: name the thing again",
        broken: &["Those of the layers above.", "That of a wave."],
        kept: &["Those offsets are bytes.", "That offset is in bytes.", "The weights and those of the layers above."],
    },
    Rule {
        fault: Fault::Begins(&["the", "same", ", by for of as on in with from there but"]),
        why: "rustdoc shows a line without its neighbours: name the thing again",
        broken: &["The same by those of f32.", "The same, for a GRU."],
        kept: &["The same bits come from every path."],
    },
    Rule {
        fault: Fault::Holds(
            &["gradient gradients derivative derivatives", "by", "!value norm element"],
            "clips clipped divides divided multiplies multiplied scales scaled",
        ),
        why: "the term is \"gradient with respect to h\"",
        broken: &["The gradient by h, row by row.", "Adds the gradients by `x`.", "The gradient by h_{t-1}."],
        kept: &[
            "Clipping of a gradient by value.",
            "Scales all gradients by the norm.",
            "The gradient with respect to h.",
        ],
    },
    Rule {
        fault: Fault::Holds(&["is are was were be becomes or", "no", "number numbers"], ""),
        why: "NaN is called NaN",
        broken: &["A loss that is no number changes nothing.", "Weights that are no numbers."],
        kept: &["A loss that is NaN changes nothing.", "Writes zeros: no number of a skipped step may be read."],
    },
    Rule {
        fault: Fault::Begins(&["safety", ":", "the by as", "caller caller's callers"]),
        why: "a SAFETY comment names the invariant and who upholds it",
        broken: &["SAFETY: the caller's.", "SAFETY: the caller says so."],
        kept: &["SAFETY: `index < len`, which `forward` has checked."],
    },
    Rule {
        fault: Fault::Holds(&[COUNTED, "a an", UNITS], "each every per"),
        why: "a rate takes \"per\": one dispatch per step",
        broken: &["It takes a dispatch a step.", "Reads 16 bytes an invocation.", "One submission a call, at most."],
        kept: &[
            "It takes one dispatch per step.",
            "After each step a call may end.",
            "After the last step, a call ends.",
            "Gives every dispatch a step.",
        ],
    },
    Rule {
        fault: Fault::Longer(MOST_WORDS),
        why: "a sentence has one idea; aim at 25 words",
        broken: &["a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n o."],
        kept: &["a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n."],
    },
];

/// Where a piece of text stands, which decides the rules that hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A comment, a doc line or a paragraph of a page.
    Prose,
    /// A row of a table or a string of the program: no whole sentence.
    Phrase,
}

#[derive(Debug)]
struct Sentence {
    line: usize,
    kind: Kind,
    text: String,
}

/// Collects lines into paragraphs and paragraphs into sentences.
#[derive(Default)]
struct Reader {
    sentences: Vec<Sentence>,
    paragraph: Vec<(usize, String)>,
    fenced: bool,
}

impl Reader {
    fn end_paragraph(&mut self) {
        let mut sentence: Option<(usize, Vec<String>)> = None;
        let words: Vec<(usize, String)> = self.paragraph.drain(..).collect();
        for (at, (line, word)) in words.iter().enumerate() {
            let (_, sentence_words) = sentence.get_or_insert((*line, Vec::new()));
            sentence_words.push(word.clone());
            let next = words.get(at + 1).map(|(_, word)| word.as_str());
            if next.is_none_or(|next| ends_sentence(word, next))
                && let Some((line, words)) = sentence.take()
            {
                self.sentences.push(Sentence { line, kind: Kind::Prose, text: words.join(" ") });
            }
        }
    }

    fn phrase(&mut self, line: usize, text: &str) {
        self.sentences.push(Sentence { line, kind: Kind::Phrase, text: text.to_owned() });
    }

    /// Takes a line of Markdown, as pages and doc comments hold it.
    fn markdown(&mut self, number: usize, line: &str) {
        let text = line.trim();
        if text.starts_with("```") {
            self.end_paragraph();
            self.fenced = !self.fenced;
        } else if self.fenced
            || text.is_empty()
            || ["#", ">", "<!--", "!["].iter().any(|mark| text.starts_with(mark))
            || line.starts_with("    ") && self.paragraph.is_empty()
        {
            self.end_paragraph();
        } else if text.starts_with('|') {
            self.end_paragraph();
            text.split('|').for_each(|cell| self.phrase(number, cell.trim()));
        } else {
            let item = text
                .strip_prefix("- ")
                .or_else(|| text.strip_prefix("* "))
                .or_else(|| text.strip_prefix(": "))
                .or_else(|| numbered(text));
            if item.is_some() {
                self.end_paragraph();
            }
            let words = item.unwrap_or(text).split_whitespace().map(|word| (number, word.to_owned()));
            self.paragraph.extend(words);
        }
    }
}

/// The text of an item of a numbered list.
fn numbered(text: &str) -> Option<&str> {
    let (number, rest) = text.split_once(". ")?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(rest)
}

fn ends_sentence(word: &str, next: &str) -> bool {
    const ABBREVIATIONS: [&str; 6] = ["e.g.", "i.e.", "etc.", "cf.", "vs.", "al."];
    let word = word.trim_end_matches(['*', '"', ')', '`', '\'', '_']);
    let opened = next.trim_start_matches(['*', '"', '(', '_']);
    word.ends_with(['.', '!', '?']) && !ABBREVIATIONS.contains(&word) && opened.starts_with(|c: char| !c.is_lowercase())
}

/// Words in lower case, without the marks around them; punctuation that ends a clause is a word of its own.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        let end = word.trim_end_matches(['*', '"', '`', '\'', '_']).chars().next_back();
        words.extend(Some(bare).filter(|bare| !bare.is_empty()));
        words.extend(end.filter(|c| ",;:.!?)".contains(*c)).map(String::from));
    }
    words
}

fn is_one_of(word: &str, alternatives: &str) -> bool {
    match alternatives.strip_prefix('!') {
        Some(others) => !is_one_of(word, others),
        None => alternatives.split_whitespace().any(|one| one == word),
    }
}

fn follows(words: &[String], phrase: Phrase) -> bool {
    words.len() >= phrase.len() && words.iter().zip(phrase).all(|(word, any)| is_one_of(word, any))
}

impl Fault {
    fn is_in(&self, sentence: &Sentence) -> bool {
        let words = words(&sentence.text);
        let prose = sentence.kind == Kind::Prose;
        match self {
            Self::Begins(phrase) => prose && !sentence.text.ends_with('?') && follows(&words, phrase),
            Self::Holds(phrase, unless) => (0..words.len()).any(|at| {
                let before = &words[at.saturating_sub(3)..at];
                follows(&words[at..], phrase) && !before.iter().any(|word| is_one_of(word, unless))
            }),
            Self::Longer(most) => {
                prose && words.iter().filter(|word| word.contains(char::is_alphanumeric)).count() > *most
            }
        }
    }
}

/// The texts of string literals that begin and end on a line of Rust.
fn literals(code: &str) -> Vec<String> {
    let (mut found, mut current, mut escaped) = (Vec::new(), None::<String>, false);
    for c in code.chars() {
        match (&mut current, c) {
            (Some(text), _) if escaped => text.push(c),
            (Some(_), '\\') => {}
            (Some(_), '"') => found.extend(current.take()),
            (Some(text), _) => text.push(c),
            (None, '"') => current = Some(String::new()),
            (None, _) => {}
        }
        escaped = c == '\\' && !escaped;
    }
    found
}

/// Where a comment begins behind code: outside of every string.
fn trailing_comment(line: &str) -> Option<usize> {
    line.match_indices(" // ").map(|(at, _)| at).find(|&at| line[..at].matches('"').count().is_multiple_of(2))
}

/// The sentences of a file with comments that begin with `//`.
fn slash_comments(text: &str) -> Vec<Sentence> {
    let mut reader = Reader::default();
    let mut marker = "";
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim_start();
        let found = ["//!", "///", "//"].into_iter().find(|mark| trimmed.starts_with(mark));
        if found.is_none_or(|mark| mark != marker) {
            reader.end_paragraph();
            reader.fenced = false;
            marker = found.unwrap_or_default();
        }
        if let Some(mark) = found {
            let comment = &trimmed[mark.len()..];
            reader.markdown(number, comment.strip_prefix(' ').unwrap_or(comment));
            continue;
        }
        let code = trailing_comment(line).map_or(line, |at| {
            reader.markdown(number, &line[at + 4..]);
            reader.end_paragraph();
            &line[..at]
        });
        literals(code).iter().for_each(|literal| reader.phrase(number, literal));
    }
    reader.end_paragraph();
    reader.sentences
}

/// The sentences of a script, whose comments begin with `#`.
fn hash_comments(text: &str) -> Vec<Sentence> {
    let mut reader = Reader::default();
    for (number, line) in (1..).zip(text.lines()) {
        match line.trim_start().strip_prefix('#').filter(|comment| !comment.starts_with('!')) {
            Some(comment) => reader.markdown(number, comment.strip_prefix(' ').unwrap_or(comment)),
            None => reader.end_paragraph(),
        }
    }
    reader.end_paragraph();
    reader.sentences
}

fn page(text: &str) -> Vec<Sentence> {
    let mut reader = Reader::default();
    (1..).zip(text.lines()).for_each(|(number, line)| reader.markdown(number, line));
    reader.end_paragraph();
    reader.sentences
}

fn sentences(path: &Path, text: &str) -> Vec<Sentence> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("md") => page(text),
        Some("rs" | "wgsl" | "c") => slash_comments(text),
        _ => hash_comments(text),
    }
}

/// Files with these endings are read, and scripts, which have none.
fn is_text(path: &Path) -> bool {
    let folder = path.parent().and_then(Path::file_name);
    match path.extension() {
        Some(ending) => ["rs", "wgsl", "c", "md", "py", "sh", "toml"].iter().any(|known| ending == *known),
        None => ["scripts", ".ci", "fuzz"].iter().any(|known| folder.is_some_and(|folder| folder == *known)),
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        let skipped = path.file_name().is_some_and(|name| SKIPPED.iter().any(|skipped| name == *skipped));
        if path.is_dir() && !skipped {
            collect(&path, found);
        } else if path.is_file() && is_text(&path) {
            found.push(path);
        }
    }
}

/// Paths relative to the root and texts of all files that the rules hold.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = Vec::new();
    READ.iter().for_each(|folder| collect(&root.join(folder), &mut paths));
    for entry in fs::read_dir(root).expect("the root") {
        let path = entry.expect("an entry").path();
        if path.is_file() && is_text(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    let relative = |path: &Path| path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
    paths.iter().map(|path| (relative(path), fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn every_text_is_plain_english() {
    let mut faults = Vec::new();
    for (path, text) in texts().iter().filter(|(path, _)| path != RULE_BOOK) {
        for sentence in sentences(Path::new(path), text) {
            for rule in RULES.iter().filter(|rule| rule.fault.is_in(&sentence)) {
                faults.push(format!("{path}:{}: {}\n    {}", sentence.line, rule.why, sentence.text));
            }
        }
    }
    assert!(faults.is_empty(), "{} sentences:\n{}", faults.len(), faults.join("\n"));
}

/// The name of a type that a line of Rust declares.
fn declared(line: &str) -> Option<&str> {
    let words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
    let mut words = words.skip_while(|word| *word == "unsafe");
    let keyword = words.next()?;
    let name = words.next().filter(|_| ["struct", "enum", "union", "trait", "type"].contains(&keyword))?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The types that files declare: name and place.
fn declarations<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, String)> {
    let lines = files.flat_map(|(path, text)| (1..).zip(text.lines()).map(move |(number, line)| (path, number, line)));
    let named =
        |(path, number, line): (&str, usize, &'a str)| Some((declared(line.trim())?, format!("{path}:{number}")));
    lines.filter_map(named).collect()
}

/// Types that share one bare name, and types whose name is a metaphor.
fn poor_names(types: &[(&str, String)]) -> Vec<String> {
    let count = |name: &str| types.iter().filter(|(other, _)| *other == name).count();
    let bare = types.iter().filter(|(name, _)| BARE_NAMES.contains(name) && count(name) > 1);
    let bare = bare.map(|(name, place)| format!("{place}: one of several `{name}`: prefix it with its job"));
    let metaphor = |name: &str| METAPHORS.iter().find(|(metaphor, _)| *metaphor == name);
    let metaphors = types.iter().filter_map(|(name, place)| Some((name, place, metaphor(name)?.1)));
    bare.chain(metaphors.map(|(name, place, term)| format!("{place}: `{name}`: the term is {term}"))).collect()
}

#[test]
fn names_of_types_say_their_job() {
    let texts = texts();
    let rust = texts.iter().filter(|(path, _)| path.ends_with(".rs") && path != RULE_BOOK);
    let faults = poor_names(&declarations(rust.map(|(path, text)| (path.as_str(), text.as_str()))));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What each rule says of a text.
fn judged<'a>(read: fn(&str) -> Vec<Sentence>, text: &str, rules: impl Iterator<Item = &'a Rule>) -> usize {
    let sentences = read(text);
    rules.map(|rule| sentences.iter().filter(|sentence| rule.fault.is_in(sentence)).count()).sum()
}

#[test]
fn each_rule_finds_a_planted_fault() {
    for rule in RULES {
        for text in rule.broken {
            assert_eq!(judged(page, text, [rule].into_iter()), 1, "{}: {text}", rule.why);
            assert_eq!(judged(slash_comments, &format!("/// {text}\nfn f() {{}}"), [rule].into_iter()), 1, "{text}");
            assert_eq!(judged(slash_comments, &format!("f(); // {text}"), [rule].into_iter()), 1, "{text}");
            assert_eq!(judged(hash_comments, &format!("# Fine so far. {text}\nrun"), [rule].into_iter()), 1, "{text}");
        }
        for text in rule.kept {
            assert_eq!(judged(page, text, [rule].into_iter()), 0, "{}: {text}", rule.why);
        }
    }
}

#[test]
fn sentences_go_on_over_lines_and_end_with_paragraphs() {
    let found = |read: fn(&str) -> Vec<Sentence>, text: &str| -> Vec<(usize, String)> {
        read(text).into_iter().filter(|s| s.kind == Kind::Prose).map(|s| (s.line, s.text)).collect()
    };
    let expected = [(1, "One goes on, e.g. Here.".to_owned()), (2, "Two.".to_owned()), (4, "Three".to_owned())];
    assert_eq!(found(slash_comments, "/// One goes\n/// on, e.g. Here. Two.\n///\n/// Three\nfn f() {}"), expected);
    assert_eq!(found(page, "One goes\non, e.g. Here. Two.\n\n- Three\n\n# What it is\n```\nWhat\n```"), expected);
    assert!(judged(slash_comments, "/// A rate of one dispatch a\n/// step.", RULES.iter()) == 1, "joined over lines");
    assert!(judged(slash_comments, "/// Ends.\n// What is it.", RULES.iter()) == 1, "kinds of comments are kept apart");
}

#[test]
fn phrases_are_found_in_tables_and_messages_and_nowhere_in_code() {
    let all = |read: fn(&str) -> Vec<Sentence>, text: &str| judged(read, text, RULES.iter());
    assert_eq!(all(page, "| what | one dispatch a step |"), 1);
    assert_eq!(all(slash_comments, r#"fail("the loss is no number");"#), 1);
    assert_eq!(all(slash_comments, r#"let url = "http://x"; // What it is."#), 1);
    assert_eq!(all(slash_comments, r#"let (no, number) = ("say \"no\"", 1);"#), 0);
}

#[test]
fn a_bare_name_may_stand_once_and_a_metaphor_never() {
    let poor = |files: &[(&'static str, &'static str)]| poor_names(&declarations(files.iter().copied()));
    let (once, again) = (("a.rs", "pub(crate) struct Run;"), ("b.rs", "enum Run { A }\nstruct RunOptions;"));
    assert!(poor(&[once]).is_empty());
    assert_eq!(poor(&[once, again]).len(), 2);
    assert_eq!(poor(&[("a.rs", "fn f() {}\npub struct Wide {")]), ["a.rs:2: `Wide`: the term is cooperative scan"]);
    assert!(poor(&[("a.rs", "let wide = Wider::new();\n// struct Wide")]).is_empty());
}
