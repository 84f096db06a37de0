//! No circle of imports among the files of a crate: each file can be read after
//! those that it uses.

#![expect(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, VisRestricted, Visibility};

/// Names of modules from the crate's root, which has none.
type ModulePath = Vec<String>;

/// What is known of the files of a crate.
#[derive(Default)]
struct Crate {
    /// The file of each module that is not for tests alone.
    files: BTreeMap<ModulePath, (PathBuf, syn::File)>,
    /// Where a name that a module re-exports comes from.
    exports: BTreeMap<(ModulePath, String), ModulePath>,
}

impl Crate {
    fn load(source: &Path) -> Self {
        let mut it = Self::default();
        it.add(Vec::new(), source.join("lib.rs"));
        for (module, (_, file)) in &it.files {
            for item in &file.items {
                let Item::Use(item) = item else { continue };
                if matches!(item.vis, Visibility::Inherited) {
                    continue;
                }
                each_name(&item.tree, &mut Vec::new(), &mut |path, name| {
                    let from = absolute(module, path);
                    it.exports.insert((module.clone(), name.to_owned()), from);
                });
            }
        }
        it
    }

    fn add(&mut self, module: ModulePath, path: PathBuf) {
        let text = fs::read_to_string(&path).unwrap();
        let file = syn::parse_file(&text).unwrap();
        // Modules of `a.rs` are in `a/`, those of `a/mod.rs` beside it.
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let folder = match stem {
            "lib" | "main" | "mod" => path.parent().unwrap().to_owned(),
            _ => path.with_extension(""),
        };
        for item in &file.items {
            let Item::Mod(ItemMod {
                attrs,
                ident,
                content: None,
                ..
            }) = item
            else {
                continue;
            };
            if for_tests(attrs) {
                continue;
            }
            let name = ident.to_string();
            let beside = folder.join(format!("{name}.rs"));
            let path = match beside.exists() {
                true => beside,
                false => folder.join(&name).join("mod.rs"),
            };
            let mut child = module.clone();
            child.push(name);
            self.add(child, path);
        }
        self.files.insert(module, (path, file));
    }

    /// The module whose file defines what `path` names.
    fn definition(&self, path: &[String]) -> ModulePath {
        let mut path = path.to_vec();
        // A re-export of a re-export is followed, a circle of them is not.
        for _ in 0..8 {
            let depth = (0..=path.len())
                .rev()
                .find(|&depth| self.files.contains_key(&path[..depth]))
                .unwrap_or(0);
            let (module, rest) = path.split_at(depth);
            let Some(next) = rest
                .first()
                .and_then(|name| self.exports.get(&(module.to_vec(), name.clone())))
            else {
                return module.to_vec();
            };
            path = next.iter().chain(&rest[1..]).cloned().collect();
        }
        path
    }

    /// The modules that each module imports from.
    fn arrows(&self) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
        let mut arrows = BTreeMap::new();
        for (module, (_, file)) in &self.files {
            let mut paths = Paths {
                module,
                found: BTreeSet::new(),
            };
            paths.visit_file(file);
            let mut to: BTreeSet<_> = paths
                .found
                .iter()
                .map(|path| self.definition(path))
                .collect();
            to.remove(module);
            arrows.insert(module.clone(), to);
        }
        arrows
    }

    fn name(&self, module: &ModulePath) -> String {
        self.files[module].0.display().to_string()
    }
}

/// Collects the paths in its own crate that a file names.
struct Paths<'a> {
    module: &'a ModulePath,
    found: BTreeSet<Vec<String>>,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if for_tests(&item.attrs) {
            return;
        }
        each_name(&item.tree, &mut Vec::new(), &mut |path, _| {
            self.add(path);
        });
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.add(&segments.collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    // Documentation links to what explains, in any direction.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

impl Paths<'_> {
    fn add(&mut self, path: &[String]) {
        if matches!(path[0].as_str(), "crate" | "super" | "self") {
            self.found.insert(absolute(self.module, path));
        }
    }
}

fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|condition| condition.is_ident("test"))
    })
}

/// Calls `found` with the path and the name of each leaf.
fn each_name(tree: &UseTree, path: &mut Vec<String>, found: &mut impl FnMut(&[String], &str)) {
    match tree {
        UseTree::Path(inner) => {
            path.push(inner.ident.to_string());
            each_name(&inner.tree, path, found);
            path.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                each_name(tree, path, found);
            }
        }
        UseTree::Name(name) if name.ident == "self" => found(path, path.last().unwrap()),
        UseTree::Name(name) => {
            path.push(name.ident.to_string());
            found(path, &name.ident.to_string());
            path.pop();
        }
        UseTree::Rename(rename) => {
            path.push(rename.ident.to_string());
            found(path, &rename.rename.to_string());
            path.pop();
        }
        UseTree::Glob(_) => found(path, "*"),
    }
}

/// `path`, as `module` writes it, from the crate's root.
fn absolute(module: &[String], path: &[String]) -> ModulePath {
    let mut from = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => module.to_vec(),
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => {
                from.pop();
            }
            name => from.push(name.to_owned()),
        }
    }
    from
}

/// The groups of modules that reach each other.
fn circles(arrows: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> BTreeSet<Vec<&ModulePath>> {
    let reached = |from: &ModulePath| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&ModulePath> = arrows[from].iter().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(&arrows[module]);
            }
        }
        seen
    };
    let all: BTreeMap<_, _> = arrows
        .keys()
        .map(|module| (module, reached(module)))
        .collect();
    all.iter()
        .filter(|(module, reached)| reached.contains(*module))
        .map(|(module, reached)| {
            let back = |other: &&&ModulePath| all[**other].contains(module);
            reached.iter().filter(back).copied().collect()
        })
        .collect()
}

#[test]
fn no_two_files_need_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut report = String::new();
    for name in ["vmbus", "services", "agent"] {
        let it = Crate::load(&root.join(name).join("src"));
        let arrows = it.arrows();
        for circle in circles(&arrows) {
            report.push_str("these files import each other:\n");
            for module in &circle {
                let to = arrows[*module].iter().filter(|to| circle.contains(to));
                let to: Vec<String> = to.map(|to| it.name(to)).collect();
                report.push_str(&format!(
                    "  {} imports {}\n",
                    it.name(module),
                    to.join(", ")
                ));
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}
