//! The modules of a crate, and the files that use items of other files.
//!
//! Names are resolved by paths, `use` declarations and re-exports. Method calls are not resolved,
//! so a call of a method does not count as a use of the file that implements the method. Code under
//! `#[cfg(test)]` is ignored.

use std::collections::{BTreeMap, BTreeSet};

use super::files::File;
use super::lexer::code_only;
use super::paths::{Import, Module, Path, Reader};

/// The modules of one crate, by their paths.
#[derive(Debug, Default)]
pub(super) struct Modules(BTreeMap<Path, Module>);

/// The module or item to which a path in the code refers.
enum Target {
    Module(Path),
    /// An item. The path is the path of the module that defines the item.
    Item(Path),
}

impl Modules {
    /// Reads the files of the crate in `directory`, such as `crates/tinkers-core`.
    pub(super) fn read(directory: &str, files: &[File]) -> Self {
        let source = format!("{directory}/src/");
        let mut modules = Self::default();
        let mut tests = Vec::new();
        for file in files {
            let Some(path) = file
                .path
                .strip_prefix(&source)
                .and_then(|path| path.strip_suffix(".rs"))
            else {
                continue;
            };
            if path.starts_with("bin/") {
                continue;
            }
            let mut path: Path = path.split('/').map(str::to_owned).collect();
            if path.last().is_some_and(|last| last == "mod")
                || path.len() == 1 && matches!(path[0].as_str(), "lib" | "main")
            {
                path.pop();
            }
            let code = code_only(&file.text);
            let mut reader = Reader::new(&code);
            reader.read(path);
            tests.extend(reader.tests);
            for (path, mut module) in reader.modules {
                module.file.clone_from(&file.path);
                modules.0.insert(path, module);
            }
        }
        let is_test = |path: &Path| tests.iter().any(|test| path.starts_with(test));
        modules.0.retain(|path, _| !is_test(path));
        modules
    }

    /// Returns, for each file of the crate, the files whose items it uses. Re-exports do not count
    /// as uses. Uses between a module and its parent do not count either.
    pub(super) fn uses(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (path, module) in &self.0 {
            let imports = module.imports.iter().filter(|import| !import.is_public);
            let paths = imports.map(|import| &import.path).chain(&module.paths);
            for target in paths.filter_map(|used| self.resolve(path, used, 0)) {
                let (Target::Module(to) | Target::Item(to)) = target;
                let Some(Module { file: other, .. }) = self.0.get(&to) else {
                    continue;
                };
                if *other != module.file && !is_parent(path, &to) && !is_parent(&to, path) {
                    uses.entry(&module.file).or_default().insert(other);
                }
            }
        }
        uses
    }

    /// Resolves the path `used`, as written in the module `from`, to a module or an item of this
    /// crate. Returns `None` if the path refers to another crate.
    fn resolve(&self, from: &Path, used: &[String], depth: u8) -> Option<Target> {
        // The limit on the depth ends cycles of re-exports.
        let depth = (depth < 16).then_some(depth + 1)?;
        let mut at = from.clone();
        let mut rest = used;
        while let Some((first, more)) = rest.split_first() {
            match first.as_str() {
                "crate" => at.clear(),
                "super" => {
                    at.pop();
                }
                "self" => {}
                _ => break,
            }
            rest = more;
        }
        let is_rooted = rest.len() < used.len();
        while let Some((name, more)) = rest.split_first() {
            let target = match self.lookup(&at, name, depth) {
                // The name is a macro of this crate, or an item that a macro defines.
                None if is_rooted => Target::Item(at),
                target => target?,
            };
            match target {
                Target::Module(module) => at = module,
                Target::Item(_) => return Some(target),
            }
            rest = more;
        }
        self.0.contains_key(&at).then_some(Target::Module(at))
    }

    /// Finds the module or item to which the single name `name` refers in the module with the path
    /// `at`.
    fn lookup(&self, at: &Path, name: &str, depth: u8) -> Option<Target> {
        let mut child = at.clone();
        child.push(name.to_owned());
        if self.0.contains_key(&child) {
            return Some(Target::Module(child));
        }
        let module = self.0.get(at)?;
        if module.items.contains(name) {
            return Some(Target::Item(at.clone()));
        }
        let binds = |import: &&Import| import.name.as_deref() == Some(name);
        // A declaration `use x;` for another crate `x` would resolve to itself.
        let named = module.imports.iter().find(binds);
        if let Some(import) = named.filter(|import| import.path != [name]) {
            return self.resolve(at, &import.path, depth);
        }
        let globs = module.imports.iter().filter(|import| import.is_glob);
        let mut found = globs.filter_map(|import| match self.resolve(at, &import.path, depth)? {
            Target::Module(module) if module != *at => self.lookup(&module, name, depth + 1),
            _ => None,
        });
        (depth < 16).then(|| found.next())?
    }
}

fn is_parent(parent: &Path, child: &Path) -> bool {
    child
        .split_last()
        .is_some_and(|(_, above)| above == parent.as_slice())
}
