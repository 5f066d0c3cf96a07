//! Parses the items, imports and paths of a Rust file, as far as the rule against import cycles
//! needs them.

use std::collections::{BTreeMap, BTreeSet};

/// The path of a module as a list of names, starting from the root of its crate.
pub(super) type Path = Vec<String>;

/// A module: either a whole file or an inline module in a file.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// The path of the file that contains the module. It is empty until [`Reader`] has returned the
    /// module, because the reader does not know the path.
    pub(super) file: String,
    /// The names of the items that the module defines.
    pub(super) items: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    /// The paths in the code of the module that begin with `crate`, `self` or `super`.
    pub(super) paths: Vec<Path>,
}

/// A name that a `use` declaration imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    pub(super) path: Path,
    /// The imported name. `None` for a glob import, and for an import `as _`.
    pub(super) name: Option<String>,
    pub(super) is_glob: bool,
    pub(super) is_public: bool,
}

/// A parser that finds the modules, imports and paths in the code of one file. Comments and
/// literals have been removed from the code.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    /// The modules in the file: the module that the file itself is, and its inline modules.
    pub(super) modules: BTreeMap<Path, Module>,
    /// The paths of modules that are separate files and are only compiled for tests.
    pub(super) tests: Vec<Path>,
}

/// The keywords that precede the name of an item that a module defines.
const ITEMS: &[&str] = &[
    "struct", "enum", "union", "trait", "type", "fn", "const", "static",
];

impl<'a> Reader<'a> {
    pub(super) fn new(code: &'a str) -> Self {
        Self {
            tokens: tokens(code),
            at: 0,
            modules: BTreeMap::new(),
            tests: Vec::new(),
        }
    }

    /// Parses the module `path`, up to the brace that closes it or to the end of the file.
    pub(super) fn read(&mut self, path: Path) {
        let mut module = Module::default();
        let mut depth = 0usize;
        while let Some(token) = self.next() {
            match token {
                "{" => depth += 1,
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                "#" if self.attribute() => self.skip_item(&path),
                "#" => {}
                "mod" if self.peek(1) == "{" => {
                    let mut inner = path.clone();
                    inner.push(self.peek(0).to_owned());
                    self.at += 2;
                    self.read(inner);
                }
                "use" => {
                    let is_public = self.is_public();
                    let mut imports = Vec::new();
                    self.tree(Path::new(), &mut imports);
                    let imports = imports.into_iter();
                    module.imports.extend(imports.map(|import| Import {
                        is_public,
                        ..import
                    }));
                }
                "macro_rules" if depth == 0 => {
                    module.items.insert(self.peek(1).to_owned());
                }
                _ if depth == 0 && ITEMS.contains(&token) => {
                    module.items.insert(self.peek(0).to_owned());
                }
                "crate" | "self" | "super" if self.peek(0) == "::" && !self.is_inside() => {
                    module.paths.push(self.path(token));
                }
                _ => {}
            }
        }
        self.modules.insert(path, module);
    }

    fn next(&mut self) -> Option<&'a str> {
        let token = self.tokens.get(self.at).copied();
        self.at += 1;
        token
    }

    /// Returns the token `ahead` positions after the next token.
    fn peek(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).copied().unwrap_or("")
    }

    /// Returns the token `back` positions before the token that was read last.
    fn before(&self, back: usize) -> &'a str {
        let index = self.at.checked_sub(1 + back);
        index.map_or("", |index| self.tokens[index])
    }

    /// Returns whether the token that was read last is in the middle of a path, or in a visibility
    /// such as `pub(in path)`. Such a token does not begin a path of its own.
    fn is_inside(&self) -> bool {
        self.before(1) == "::" || (self.before(1) == "in" && self.before(2) == "(")
    }

    /// Returns whether the `use` declaration whose `use` was read last is a re-export (`pub use`).
    fn is_public(&self) -> bool {
        let mut back = 1;
        if self.before(back) == ")" {
            while !matches!(self.before(back), "(" | "") {
                back += 1;
            }
            back += 1;
        }
        self.before(back) == "pub"
    }

    /// Reads an attribute after its `#`. Returns whether the attribute restricts the next item to
    /// test builds.
    fn attribute(&mut self) -> bool {
        if self.peek(0) == "!" {
            self.at += 1;
        }
        let from = self.at;
        self.skip_group("[", "]");
        let words = &self.tokens[from..self.at.min(self.tokens.len())];
        matches!(
            words,
            ["[", "cfg", "(", "test", ..] | ["[", "cfg", "(", "all", "(", "test", ..]
        )
    }

    /// Skips a bracketed group of tokens that begins with the next token. `open` and `close` are
    /// the brackets.
    fn skip_group(&mut self, open: &str, close: &str) {
        let mut depth = 0usize;
        while let Some(token) = self.next() {
            depth += usize::from(token == open);
            depth -= usize::from(token == close && depth > 0);
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips the next item, which is only compiled for tests. If the item is a module in a separate
    /// file, records its path.
    fn skip_item(&mut self, path: &Path) {
        let mut is_use = false;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "{" if !is_use => return self.skip_group("{", "}"),
                ";" => {
                    self.at += 1;
                    return;
                }
                "use" => is_use = true,
                "mod" if self.peek(2) == ";" => {
                    let mut test = path.clone();
                    test.push(self.peek(1).to_owned());
                    self.tests.push(test);
                }
                "[" => {
                    self.skip_group("[", "]");
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Reads the rest of a path whose first segment, `first`, has already been read.
    fn path(&mut self, first: &str) -> Path {
        let mut path = vec![first.to_owned()];
        while self.peek(0) == "::" && is_name(self.peek(1)) {
            path.push(self.peek(1).to_owned());
            self.at += 2;
        }
        path
    }

    /// Reads one tree of a `use` declaration, such as `a::{b, c}`, and adds its names to `imports`.
    /// `prefix` is the path before the tree.
    fn tree(&mut self, prefix: Path, imports: &mut Vec<Import>) {
        let mut import = Import {
            path: prefix,
            name: None,
            is_glob: false,
            is_public: false,
        };
        while let Some(token) = self.next() {
            match token {
                "::" => {}
                "{" => {
                    while !matches!(self.peek(0), "}" | "") {
                        self.tree(import.path.clone(), imports);
                        if self.peek(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => import.is_glob = true,
                "as" => {
                    import.name = self.next().filter(|name| *name != "_").map(str::to_owned);
                    break;
                }
                "self" if !import.path.is_empty() => {}
                name if is_name(name) => import.path.push(name.to_owned()),
                _ => {
                    self.at -= 1;
                    break;
                }
            }
            if matches!(self.peek(0), "," | "}" | ";") {
                import.name = import.path.last().filter(|_| !import.is_glob).cloned();
                break;
            }
        }
        if !import.path.is_empty() {
            imports.push(import);
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Splits code into tokens: words, `::`, and other characters one by one.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}
