//! Rules about the sources themselves, which no compiler checks: layers, where effects may be, what files look like.
//!
//! Plain text scanning. A rule takes one file and says what is wrong with it; beside each test that applies a rule to
//! the crate stands a twin that shows the rule biting.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module may use modules of lower layers only. Two on one layer never use each other.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["types", "error", "config", "wire", "checksum", "sys", "clock", "observe", "watermark", "turn", "probe"]),
    (1, &["record", "disk"]),
    (2, &["replica", "group", "txn", "segment"]),
    (3, &["partition"]),
    (4, &["log"]),
    (5, &["client"]),
    (6, &["sim", "openraft", "bin"]),
    (7, &["fuzzing"]),
];

/// On the lowest layer, and open to all of it: the words the others are written in.
const SHARED: &[&str] = &["types", "error", "probe"];

/// Exceptions, each with its reason: these two are made of the locks and atomics of `sys::shim`.
const SIDEWAYS: &[(&str, &str)] = &[("watermark", "sys"), ("turn", "sys")];

/// Modules of values only: no I/O, time, threads, locks.
const PURE: &[&str] = &["types", "error", "config", "wire", "checksum", "record", "replica", "group", "txn"];
const IMPURE: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "AtomicBool",
    "AtomicU64",
    "AtomicUsize",
    "parking_lot",
    "crate::sys",
    "crate::clock",
    "crate::watermark",
    "crate::turn",
];

/// Effects, and the only files that may have them.
const EFFECTS: &[(&[&str], &[&str])] = &[
    (&["std::net", "TcpStream", "TcpListener", "UdpSocket"], &["src/bin/"]),
    (
        &["std::thread", "thread::spawn", "thread::Builder"],
        &[
            "src/log/background.rs",
            "src/log/verify/mod.rs",
            "src/observe/tell.rs",
            "src/partition/report.rs",
            "src/sys/shim.rs",
            "src/sim/",
            "src/bin/",
        ],
    ),
    (
        &["Instant", "SystemTime"],
        &["src/clock.rs", "src/disk/real.rs", "src/sys/shim.rs", "src/sim/explore/", "src/bin/"],
    ),
    (
        &["std::fs", "fs::read", "fs::write", "File::open", "File::create", "OpenOptions"],
        &["src/disk/real.rs", "src/bin/"],
    ),
];

/// The type of an open file, which descriptors are passed on by, is no effect.
const FILE_TYPE: &str = "std::fs::File";

/// Explorers stand above all else.
const TOP_LAYER: u8 = 6;

const LINES_MAX: usize = 1_000;

#[test]
fn modules_use_lower_layers_only() {
    assert_tidy(layers);
}

#[test]
fn the_layer_rule_bites() {
    assert!(bites(layers, "src/wire.rs", "use crate::disk::Disk;"));
    assert!(bites(layers, "src/record/batch.rs", "fn f() { crate::disk::replace(); }"), "on one layer");
    assert!(bites(layers, "src/segment/mod.rs", "use crate::{types::Offset, log::{Log, Topic}};"));
    assert!(bites(layers, "src/watermark.rs", "use super::log::Log;"));
    assert!(bites(layers, "src/segment/scan.rs", "use super::super::partition::Partition;"));
    assert!(bites(layers, "src/log/mod.rs", "use crate::Error;"), "a name of the root hides its layer");
    assert!(bites(layers, "src/novel.rs", "use crate::types::Offset;"), "a module without a layer");
    assert!(!bites(
        layers,
        "src/segment/scan.rs",
        "use super::active::Active; use crate::{disk::Disk, types::Offset};"
    ));
    assert!(!bites(layers, "src/wire.rs", "//! See `crate::log::Log`.\npub(crate) use crate::types::Offset;"));
    assert!(!bites(layers, "src/wire.rs", "#[cfg(test)]\nmod tests {\n    use crate::log::Log;\n}"));
}

fn layers(file: &File) -> Vec<String> {
    let Some(module) = file.module() else { return Vec::new() };
    let Some(own) = layer_of(module) else { return vec![format!("module `{module}` is in no layer")] };
    let code = file.shipped();
    let mut found = Vec::new();
    for used in modules_used(&code, file.depth()).into_iter().filter(|used| used != module) {
        let is_sideways = SIDEWAYS.contains(&(module, &used));
        match layer_of(&used) {
            // The uppermost layer uses the crate as its users do.
            None if own == TOP_LAYER && used.starts_with(char::is_uppercase) => {}
            None => found.push(format!("`crate::{used}` is no module: name the one it is from")),
            Some(layer) if layer < own || SHARED.contains(&used.as_str()) || is_sideways => {}
            Some(layer) => found.push(format!("`{module}` of layer {own} uses `{used}` of layer {layer}")),
        }
    }
    found
}

fn layer_of(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(_, modules)| modules.contains(&module)).map(|(layer, _)| *layer)
}

/// The first names of all paths that begin at the root of the crate.
fn modules_used(code: &str, depth: usize) -> Vec<String> {
    let mut used = Vec::new();
    for at in occurrences(code, "crate") {
        if let Some(path) = code[at + "crate".len()..].strip_prefix("::") {
            used.extend(first_names(path));
        }
    }
    for at in occurrences(code, "super") {
        let path = &code[at..];
        let up = path.split("::").take_while(|step| step.trim() == "super").count();
        let follows_another = code[..at].ends_with("super::");
        if up >= depth && !follows_another {
            // Inside a nested module this may be a name of the same file: only known modules count.
            let names = first_names(&path["super::".len() * up..]);
            used.extend(names.into_iter().filter(|name| layer_of(name).is_some()));
        }
    }
    used
}

/// `a::b` has the first name `a`; `{a::b, c}` has `a` and `c`.
fn first_names(path: &str) -> Vec<String> {
    let name = |path: &str| path.trim().chars().take_while(|&c| is_word(c)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn unsafe_code_is_in_sys_only() {
    assert_tidy(no_unsafe);
}

#[test]
fn the_unsafe_rule_bites() {
    assert!(bites(no_unsafe, "src/segment/mod.rs", "fn f() { unsafe { g() } }"));
    assert!(bites(no_unsafe, "src/lib.rs", "#![allow(unsafe_code)]"));
    assert!(!bites(no_unsafe, "src/sys/map.rs", "unsafe impl Send for Map {}"));
    assert!(!bites(no_unsafe, "src/lib.rs", "#![deny(unsafe_code)] // unsafe \nconst S: &str = \"unsafe\";"));
}

fn no_unsafe(file: &File) -> Vec<String> {
    if !file.path.starts_with("src/") || file.path.starts_with("src/sys/") {
        return Vec::new();
    }
    let code = file.code();
    let mut found = naming(&code, "unsafe", "outside of src/sys");
    found.extend(naming(&code, "allow(unsafe_code)", "outside of src/sys"));
    found
}

#[test]
fn effects_are_behind_their_traits() {
    assert_tidy(effects);
}

#[test]
fn the_effect_rule_bites() {
    assert!(bites(effects, "src/segment/mod.rs", "use std::fs;"));
    assert!(bites(effects, "src/segment/mod.rs", "use std::fs::{self, File};"));
    assert!(bites(effects, "src/segment/mod.rs", "use std::fs::File;\nfn f() { File::open(p) }"));
    assert!(bites(effects, "src/partition/mod.rs", "std::thread::sleep(d);"));
    assert!(bites(effects, "src/log/mod.rs", "let now = Instant::now();"));
    assert!(bites(effects, "src/log/mod.rs", "use std::time::{Duration, SystemTime};"));
    assert!(bites(effects, "src/client/mod.rs", "use std::net::TcpStream;"));
    assert!(bites(effects, "src/group/mod.rs", "use parking_lot::Mutex;"), "a lock in a pure module");
    assert!(!bites(effects, "src/log/background.rs", "std::thread::spawn(run);"));
    assert!(!bites(effects, "src/disk/mod.rs", "fn as_std(&self) -> Option<&std::fs::File>;"));
    assert!(!bites(effects, "src/log/mod.rs", "#[cfg(all(test, not(loom)))]\nmod tests {\n    use std::fs;\n}"));
}

fn effects(file: &File) -> Vec<String> {
    let Some(module) = file.module() else { return Vec::new() };
    let code = file.shipped().replace(FILE_TYPE, "a_file_type");
    let mut found = Vec::new();
    for (words, allowed) in EFFECTS {
        if !allowed.iter().any(|allowed| file.path.starts_with(allowed)) {
            found.extend(words.iter().flat_map(|word| naming(&code, word, "is an effect: go through its trait")));
        }
    }
    if PURE.contains(&module) {
        found.extend(IMPURE.iter().flat_map(|word| naming(&code, word, "has no place in a pure module")));
    }
    found
}

#[test]
fn text_is_plain_short_and_finished() {
    assert_tidy(text);
}

#[test]
fn the_text_rule_bites() {
    assert!(bites(text, "src/wire.rs", "// na\u{ef}ve"));
    assert!(bites(text, "src/wire.rs", concat!("// TO", "DO: later")));
    assert!(bites(text, "tests/it.rs", concat!("// FIX", "ME")));
    assert!(bites(text, "src/wire.rs", concat!("to", "do!()")));
    assert!(bites(text, "src/wire.rs", &"\n".repeat(LINES_MAX + 1)));
    assert!(!bites(text, "src/wire.rs", &"\n".repeat(LINES_MAX)));
}

fn text(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if !line.is_ascii() {
            found.push(format!("line {}: not ASCII", index + 1));
        }
    }
    for word in [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
    ] {
        found.extend(naming(&file.text, word, "do it, or say what it costs not to"));
    }
    let line_count = file.text.lines().count();
    if file.path.ends_with(".rs") && line_count > LINES_MAX {
        found.push(format!("{line_count} lines are two files"));
    }
    found
}

#[test]
fn marks_and_planted_bugs_have_dotted_names() {
    assert_tidy(probes);
}

#[test]
fn the_probe_rule_bites() {
    assert!(bites(probes, "src/log/mod.rs", r#"if probe::planted("ack") {}"#));
    assert!(bites(probes, "src/log/mod.rs", r#"if probe::planted("log.AckEarly") {}"#));
    assert!(bites(probes, "src/log/mod.rs", r#"probe::reached("log.");"#));
    assert!(bites(probes, "src/log/mod.rs", "if probe::planted(name) {}"), "a name that cannot be listed");
    assert!(!bites(probes, "src/log/mod.rs", r#"if probe::planted("log.ack_early") {}"#));
}

/// Where they are listed.
const LISTS: [&str; 2] = ["src/sim/log/planted.rs", "src/sim/cluster/planted.rs"];

/// A mistake that is not listed is never looked for, and one that is nowhere is found in nothing.
#[test]
fn planted_bugs_and_marks_of_the_log_are_listed() {
    let sources = sources();
    let named = |function: &str| -> BTreeSet<String> {
        let code = sources.iter().filter(|file| file.path.starts_with("src/"));
        let names = code.flat_map(|file| arguments(&file.text, function));
        names.filter(|name| is_dotted(name) && !name.starts_with("toy.")).map(str::to_owned).collect()
    };
    let (planted, marks) = (named("probe::planted"), named("probe::reached"));
    let lists = sources.iter().filter(|file| LISTS.contains(&&*file.path));
    let listed: BTreeSet<String> =
        lists.flat_map(|list| list.text.split('"')).filter(|word| is_dotted(word)).map(str::to_owned).collect();
    let unlisted: Vec<_> = planted.difference(&listed).collect();
    assert!(unlisted.is_empty(), "not listed: {unlisted:?}");
    let nowhere: Vec<_> = listed.iter().filter(|name| !planted.contains(*name) && !marks.contains(*name)).collect();
    assert!(nowhere.is_empty(), "nowhere in the code: {nowhere:?}");
}

fn probes(file: &File) -> Vec<String> {
    if file.path == "src/probe.rs" || !file.path.starts_with("src/") {
        return Vec::new();
    }
    let names = PROBES.iter().flat_map(|call| arguments(&file.text, call));
    names.filter(|name| !is_dotted(name)).map(|name| format!("{name:?} is not a dotted lower-case name")).collect()
}

const PROBES: &[&str] = &["probe::planted", "probe::reached"];

fn is_dotted(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    name.contains('.') && name.split('.').all(is_part)
}

/// The literal each call of `function` has for its argument; the source text of it where it is no literal.
fn arguments<'a>(text: &'a str, function: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for at in occurrences(text, function) {
        let Some(argument) = text[at + function.len()..].strip_prefix('(') else { continue };
        let literal = argument.strip_prefix('"').and_then(|literal| literal.split('"').next());
        names.push(literal.unwrap_or_else(|| argument.split(')').next().unwrap_or(argument)));
    }
    names
}

/// One switch in two files would be two mistakes under one name: an explorer that finds one of them hides the other.
#[test]
fn a_planted_bug_is_in_one_file() {
    assert_eq!(planted_twice(&sources()), Vec::<String>::new());
    let twice = ["src/disk/a.rs", "src/disk/b.rs"].map(|path| File::new(path, r#"probe::planted("disk.no_sync")"#));
    assert_eq!(planted_twice(&twice).len(), 1, "the rule bites");
}

fn planted_twice(files: &[File]) -> Vec<String> {
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        for name in arguments(&file.text, "probe::planted") {
            let files = places.entry(name).or_default();
            if files.last() != Some(&file.path.as_str()) {
                files.push(&file.path);
            }
        }
    }
    places.retain(|_, files| files.len() > 1);
    places.iter().map(|(name, files)| format!("{name} is planted in {}", files.join(" and "))).collect()
}

#[test]
fn every_page_of_the_guide_is_shown() {
    assert_eq!(hidden_pages(&sources()), Vec::<String>::new());
    let page = File::new("src/guide/format.md", "# Format");
    let index = File::new("src/guide/mod.rs", "#![doc = include_str!(\"format.md\")]");
    assert_eq!(hidden_pages(&[page.clone(), index]).len(), 0);
    assert_eq!(hidden_pages(&[page, File::new("src/guide/mod.rs", "")]).len(), 1, "the rule bites");
}

fn hidden_pages(files: &[File]) -> Vec<String> {
    let is_shown = |page: &str| {
        files
            .iter()
            .any(|file| file.path.ends_with(".rs") && file.text.contains(&format!("include_str!(\"{page}\")")))
    };
    let pages =
        files.iter().filter_map(|file| file.path.strip_prefix("src/guide/")).filter(|path| path.ends_with(".md"));
    pages.filter(|page| !is_shown(page)).map(|page| format!("{page} is included nowhere")).collect()
}

/// Code is told from comments, strings and tests as the compiler would.
#[test]
fn the_scanner_reads_rust() {
    let file = File::new(
        "src/a.rs",
        "let a = \"x // \\\" y\"; /* b /* c */ d */ let e = '\"'; // f\nlet g: &'h str = r#\"i\"j\"#;",
    );
    assert_eq!(
        file.code().split_whitespace().collect::<Vec<_>>().join(" "),
        "let a = \"\"; let e = \"\"; let g: &'h str = \"\";"
    );
    let file =
        File::new("src/a.rs", "a();\n#[cfg(test)]\nuse b;\n#[cfg(test)]\n#[allow(x)]\nmod c {\n    d();\n}\ne();\n");
    assert_eq!(file.shipped().split_whitespace().collect::<Vec<_>>(), ["a();", "e();"]);
    let file = File::new("src/a/mod.rs", "mod b;\n#[cfg(test)]\nmod c;\n");
    assert_eq!(file.test_files(), ["src/a/c.rs", "src/a/c/mod.rs"]);
    assert_eq!(occurrences("unsafe unsafe_code is_unsafe unsafe", "unsafe"), [0, 29]);
}

#[derive(Clone)]
struct File {
    /// From the root of the crate, with slashes.
    path: String,
    text: String,
    /// Whether its module is declared for tests only.
    is_test: bool,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), is_test: false }
    }

    /// The module right below the root that this file belongs to. None for the root itself, the guide, tests and what is
    /// no source of the library.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let name = inside.split('/').next()?.trim_end_matches(".rs");
        (self.path.ends_with(".rs") && !self.is_test && !matches!(name, "lib" | "guide")).then_some(name)
    }

    /// How many modules deep the file is: `super` as often leads to the root.
    fn depth(&self) -> usize {
        self.path.matches('/').count() - usize::from(self.path.ends_with("/mod.rs"))
    }

    /// The files of the modules that this one declares for tests only.
    fn test_files(&self) -> Vec<String> {
        let dir = self.path.trim_end_matches("/mod.rs").trim_end_matches("/lib.rs").trim_end_matches(".rs");
        let lines: Vec<_> = self.text.lines().collect();
        let declared = lines.windows(2).filter(|pair| is_for_tests(pair[0])).filter_map(|pair| module_name(pair[1]));
        declared.flat_map(|name| [format!("{dir}/{name}.rs"), format!("{dir}/{name}/mod.rs")]).collect()
    }

    /// The text without comments and the contents of literals. Lines stay where they are.
    fn code(&self) -> String {
        let mut code = String::with_capacity(self.text.len());
        let mut rest = self.text.as_str();
        while let Some(c) = rest.chars().next() {
            let blank = blank_len(rest, !code.ends_with(is_word));
            let len = blank.unwrap_or(c.len_utf8());
            match blank {
                None => code.push(c),
                Some(_) => {
                    code.push_str(if c == '/' { " " } else { "\"\"" });
                    code.extend(rest[..len].chars().filter(|c| *c == '\n'));
                }
            }
            rest = &rest[len..];
        }
        code
    }

    /// The code without the items that are there in tests only.
    fn shipped(&self) -> String {
        let code = self.code();
        let mut lines = code.lines();
        let mut shipped = String::new();
        while let Some(line) = lines.next() {
            let bare = line.trim_start();
            if is_for_tests(bare) {
                skip_item(&mut lines, line.len() - bare.len());
            } else {
                shipped.push_str(line);
            }
            shipped.push('\n');
        }
        shipped
    }
}

fn is_for_tests(attribute: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(all(test,", "#[cfg(all(any(test,", "#[cfg(any(fuzzing, test))]"]
        .iter()
        .any(|known| attribute.starts_with(known))
}

fn module_name(line: &str) -> Option<&str> {
    line.strip_suffix(';')?.trim_start_matches("pub(crate) ").strip_prefix("mod ")
}

/// The length of the comment or literal that `rest` begins with; `None` if it begins with neither.
fn blank_len(rest: &str, is_new_word: bool) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(comment_len(rest));
    }
    let (prefix, hashes) = (count(rest, &['b', 'c', 'r']), count(rest.trim_start_matches(['b', 'c', 'r']), &['#']));
    let open = prefix + hashes + 1;
    if is_new_word && rest[..prefix].ends_with('r') && rest[prefix + hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len()));
    }
    match rest.as_bytes() {
        [b'"', ..] => Some(quoted_len(rest, '"')),
        [b'\'', b'\\', ..] => Some(quoted_len(rest, '\'')),
        // `'a'` is a character, `'a` a lifetime.
        [b'\'', ..] if rest.chars().nth(2) == Some('\'') => Some(quoted_len(rest, '\'')),
        _ => None,
    }
}

fn count(text: &str, of: &[char]) -> usize {
    text.len() - text.trim_start_matches(of).len()
}

fn comment_len(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let step = &text.as_bytes()[at..];
        depth += i32::from(step.starts_with(b"/*")) - i32::from(step.starts_with(b"*/"));
        at += if step.starts_with(b"/*") || step.starts_with(b"*/") { 2 } else { 1 };
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return at + c.len_utf8();
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    text.len()
}

/// Leaves out the item after an attribute: one line, or all up to the brace that stands below its first word.
fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>, indent: usize) {
    let Some(first) = lines.by_ref().find(|line| !line.trim_start().starts_with("#[")) else { return };
    if first.ends_with([';', ',', '}']) {
        return;
    }
    lines.find(|line| {
        line.len() > indent && line.trim_start().len() == line.len() - indent && line[indent..].starts_with('}')
    });
}

/// Where `word` stands in `text` as a word of its own.
fn occurrences(text: &str, word: &str) -> Vec<usize> {
    let is_alone = |at: &usize| {
        let (before, after) = (text[..*at].chars().next_back(), text[at + word.len()..].chars().next());
        !(before.is_some_and(is_word) || after.is_some_and(is_word) && word.ends_with(is_word))
    };
    text.match_indices(word).map(|(at, _)| at).filter(is_alone).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// One complaint for each place that names `word`.
fn naming(text: &str, word: &str, why: &str) -> Vec<String> {
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    occurrences(text, word).into_iter().map(|at| format!("line {}: `{word}` {why}", line(at))).collect()
}

fn assert_tidy(rule: fn(&File) -> Vec<String>) {
    let files = sources();
    assert!(files.len() > 10, "the sources are not where this test looks");
    let found: Vec<_> =
        files.iter().flat_map(|file| rule(file).into_iter().map(|what| format!("{}: {what}", file.path))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn bites(rule: fn(&File) -> Vec<String>, path: &str, text: &str) -> bool {
    !rule(&File::new(path, text)).is_empty()
}

/// Everything we wrote, in order.
fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches", "examples", "fuzz"] {
        collect(&root.join(dir), dir, &mut files);
    }
    for name in ["README.md", "CHANGELOG.md", "Cargo.toml", ".ci/run"] {
        files.extend(fs::read_to_string(root.join(name)).ok().map(|text| File::new(name, &text)));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let for_tests: Vec<_> = files.iter().flat_map(File::test_files).collect();
    files.iter_mut().for_each(|file| {
        // With a module that is for tests only go the modules below it.
        let below = |test: &String| test.strip_suffix("mod.rs").is_some_and(|dir| file.path.starts_with(dir));
        file.is_test = for_tests.iter().any(|test| *test == file.path || below(test));
    });
    files
}

/// Adds the sources and pages below a directory, if there is one. Data is none of our business.
fn collect(dir: &Path, prefix: &str, into: &mut Vec<File>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}/{name}");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !["fixtures", "target", "corpus", "artifacts", "coverage"].contains(&name.as_str()) {
                collect(&entry.path(), &path, into);
            }
        } else if path.ends_with(".rs") || path.ends_with(".md") {
            // What is not UTF-8 becomes a character that is not ASCII, which is a finding.
            let bytes = fs::read(entry.path()).unwrap_or_default();
            into.push(File::new(&path, &String::from_utf8_lossy(&bytes)));
        }
    }
}
