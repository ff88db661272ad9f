//! A recipe: the folder from which an image is built.
//!
//! ```text
//! images/NAME/recipe.toml    what to take; read here
//! images/NAME/files/         copied over the root as it lies there, owned by root
//! ```
//! A recipe is taken whole or not at all. An error names file, line, what is wrong and what would
//! be right. Nothing is built here.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use haas_api::{check::ReadyCheck, names::ImageName};
use serde::Deserialize;
use toml::Spanned;

use super::manifest::{FsType, check_argument};
use crate::{config::units, inventory::Arch};

/// A recipe and the recipes that it is based on, put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// How its packages get into the root.
    pub method: Method,
    /// The image's name, where the caller gives no other.
    pub name: ImageName,
    /// One line for people.
    pub description: String,
    /// The processor that it is for.
    pub arch: Arch,
    /// The file system of its root.
    pub fstype: FsType,
    /// The Debian package of its kernel; a meta package such as `linux-image-amd64` stands for
    /// the one that it depends on.
    pub kernel_package: String,
    /// Which of the kernel's modules the root gets.
    pub root_modules: RootModules,
    /// Names of Debian packages.
    pub packages: Vec<String>,
    /// What is done to the root then, the base's first.
    pub layers: Vec<Layer>,
    /// Arguments for the kernel command line.
    pub cmdline: Vec<String>,
    /// What must succeed in the running image before a node is ready, the base's first.
    pub ready_checks: Vec<ReadyCheck>,
}

/// How packages get into the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Method {
    /// Unpacked in the order of the recipe. Their maintainer scripts do not run and their
    /// dependencies are not followed.
    #[serde(rename = "debian-packages")]
    Unpack,
    /// Installed as on any Debian system: essential packages and dependencies come along,
    /// maintainer scripts run, and the image knows what it consists of.
    #[serde(rename = "debian-system")]
    Install,
}

/// What one recipe folder does to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The tree to be copied over it, where there is one.
    pub files: Option<PathBuf>,
    /// Programs with their arguments, run in the root one after the other, without network.
    pub commands: Vec<Vec<String>>,
}

/// Which of the kernel's modules the root gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootModules {
    /// None: the node runs with those that the initramfs loaded. Small.
    None,
    /// The whole `/lib/modules/RELEASE`.
    All,
}

/// Why a recipe was refused.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read the recipe {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// How deep recipes may be based on each other.
const MAX_BASES: usize = 8;

/// recipe.toml as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    kind: Spanned<Method>,
    name: Spanned<String>,
    description: String,
    /// A folder beside this one.
    base: Option<Spanned<String>>,
    arch: Option<Arch>,
    fstype: Option<FsType>,
    kernel: Option<KernelTable>,
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    #[serde(default)]
    commands: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    cmdline: Vec<Spanned<String>>,
    #[serde(default)]
    ready_checks: Vec<Spanned<CheckEntry>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a check is a list, [\"nvidia-smi\", \"-L\"], or { command = [...], within = \"60s\" }"
)]
enum CheckEntry {
    Command(Vec<String>),
    Table(CheckTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckTable {
    command: Vec<String>,
    within: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelTable {
    package: Spanned<String>,
    modules: RootModules,
}

impl Recipe {
    /// Reads the recipe in `folder`.
    pub fn load(folder: &Path) -> Result<Self, RecipeError> {
        Self::load_below(folder, MAX_BASES)
    }

    fn load_below(folder: &Path, bases_left: usize) -> Result<Self, RecipeError> {
        let path = folder.join("recipe.toml");
        let text = fs::read_to_string(&path)
            .map_err(|source| RecipeError::Read { path: path.clone(), source })?;
        let refuse = |span: Range<usize>, problem: String| RecipeError::Line {
            path: path.clone(),
            line: line_of(&text, span.start),
            problem,
        };
        let file: RecipeFile = toml::from_str(&text)
            .map_err(|e| refuse(e.span().unwrap_or(0..0), e.message().to_owned()))?;
        let method = *file.kind.get_ref();

        let name: ImageName =
            file.name.get_ref().parse().map_err(|e| refuse(file.name.span(), format!("{e}")))?;
        let kernel_package = file.kernel.as_ref().map(|kernel| &kernel.package);
        for package in file.packages.iter().chain(kernel_package) {
            check_package(package.get_ref()).map_err(|p| refuse(package.span(), p))?;
        }
        for command in &file.commands {
            check_command(command.get_ref()).map_err(|p| refuse(command.span(), p))?;
        }
        for argument in &file.cmdline {
            check_argument(argument.get_ref()).map_err(|p| refuse(argument.span(), p))?;
        }

        let mut ready_checks = Vec::with_capacity(file.ready_checks.len());
        for entry in file.ready_checks {
            let span = entry.span();
            ready_checks.push(ready_check(entry.into_inner()).map_err(|p| refuse(span, p))?);
        }

        let mut recipe = match &file.base {
            Some(base) => {
                let span = || base.span();
                let beside = base.get_ref().parse::<ImageName>().map_err(|_| {
                    let problem = "base is the name of a recipe folder beside this one".to_owned();
                    refuse(span(), problem)
                })?;
                if bases_left == 0 {
                    let problem = format!("more than {MAX_BASES} recipes based on each other");
                    return Err(refuse(span(), problem));
                }
                let parent = folder.parent().unwrap_or(folder);
                let base = Self::load_below(&parent.join(beside.as_str()), bases_left - 1);
                base.map_err(|e| match e {
                    RecipeError::Read { path, .. } => {
                        refuse(span(), format!("the base has no recipe: {}", path.display()))
                    }
                    line @ RecipeError::Line { .. } => line,
                })?
            }
            None => {
                let missing = |key: &str, example: &str| {
                    let problem = format!("{key} is missing, for example {example}, or a base");
                    refuse(0..0, problem)
                };
                let arch = file.arch.ok_or_else(|| missing("arch", "arch = \"x86_64\""))?;
                let kernel = file.kernel.as_ref().ok_or_else(|| {
                    missing(
                        "kernel",
                        "kernel = { package = \"linux-image-amd64\", modules = \"none\" }",
                    )
                })?;
                Self {
                    method,
                    name: name.clone(),
                    description: String::new(),
                    arch,
                    fstype: FsType::Erofs,
                    kernel_package: kernel.package.get_ref().clone(),
                    root_modules: kernel.modules,
                    packages: Vec::new(),
                    layers: Vec::new(),
                    cmdline: Vec::new(),
                    ready_checks: Vec::new(),
                }
            }
        };
        if let (Some(arch), Some(base)) = (file.arch, &file.base)
            && arch != recipe.arch
        {
            return Err(refuse(base.span(), "the base is for another arch".into()));
        }
        if method != recipe.method {
            let problem =
                "the base is of another kind: packages are unpacked or installed, not both";
            return Err(refuse(file.kind.span(), problem.into()));
        }
        recipe.name = name;
        recipe.description = file.description;
        recipe.fstype = file.fstype.unwrap_or(recipe.fstype);
        if let Some(kernel) = file.kernel {
            recipe.kernel_package = kernel.package.into_inner();
            recipe.root_modules = kernel.modules;
        }
        for package in file.packages {
            if recipe.packages.contains(package.get_ref()) {
                let problem = format!("package {} is named twice", package.get_ref());
                return Err(refuse(package.span(), problem));
            }
            recipe.packages.push(package.into_inner());
        }
        let files = folder.join("files");
        recipe.layers.push(Layer {
            files: files.is_dir().then_some(files),
            commands: file.commands.into_iter().map(Spanned::into_inner).collect(),
        });
        recipe.cmdline.extend(file.cmdline.into_iter().map(Spanned::into_inner));
        recipe.ready_checks.extend(ready_checks);
        Ok(recipe)
    }
}

/// Debian Policy 5.6.1. A name that begins with a hyphen would be an option of apt.
fn check_package(name: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    if name.len() < 2
        || !name.as_bytes()[0].is_ascii_lowercase() && !name.as_bytes()[0].is_ascii_digit()
        || !name.bytes().all(ok)
    {
        return Err(format!("{name:?} is not the name of a Debian package"));
    }
    Ok(())
}

fn check_command(command: &[String]) -> Result<(), String> {
    match command.first() {
        Some(program) if program.starts_with('/') => {}
        _ => {
            return Err("a command is a list: the program's whole path, then its arguments".into());
        }
    }
    if command.iter().any(|argument| argument.contains('\0')) {
        return Err("an argument holds a NUL character".into());
    }
    Ok(())
}

fn ready_check(entry: CheckEntry) -> Result<ReadyCheck, String> {
    let (command, within) = match entry {
        CheckEntry::Command(command) => (command, None),
        CheckEntry::Table(CheckTable { command, within }) => (command, within),
    };
    let within_s = match within {
        None => ReadyCheck::WITHIN_S,
        Some(text) => units::seconds(&text)
            .ok_or_else(|| format!("{text:?} is no duration such as \"60s\" or \"5m\""))?,
    };
    let check = ReadyCheck { command, within_s };
    match check.problem() {
        Some(problem) => Err(format!("the check {problem}")),
        None => Ok(check),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"kind = "debian-packages"
name = "small"
description = "A test"
arch = "x86_64"
packages = ["busybox-static",
            "dropbear-bin"]
commands = [["/bin/busybox", "--install"]]
cmdline = ["console=ttyS0"]

[kernel]
package = "linux-image-amd64"
modules = "none"
"#;

    fn load(text: &str) -> Result<Recipe, RecipeError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("recipe.toml"), text).unwrap();
        Recipe::load(folder.path())
    }

    #[test]
    fn a_recipe_says_what_it_takes() {
        let recipe = load(GOOD).unwrap();
        assert_eq!(recipe.packages, ["busybox-static", "dropbear-bin"]);
        assert_eq!((recipe.fstype, recipe.root_modules), (FsType::Erofs, RootModules::None));
        assert_eq!(
            recipe.layers,
            [Layer {
                files: None,
                commands: vec![vec!["/bin/busybox".into(), "--install".into()]]
            }]
        );
    }

    #[test]
    fn a_bad_recipe_is_refused_with_its_line() {
        for (from, to, line, reason) in [
            ("name = \"small\"", "name = \"../x\"", 2, "image name"),
            ("name = \"small\"", "nmae = \"small\"", 2, "unknown field"),
            ("kind = \"debian-packages\"", "kind = \"rpm\"", 1, "rpm"),
            ("description = \"A test\"", "description = \"A test", 3, "string"),
            ("arch = \"x86_64\"\n", "", 1, "arch is missing"),
            ("arch = \"x86_64\"", "arch = \"vax\"", 4, "vax"),
            ("\"dropbear-bin\"", "\"--help\"", 6, "Debian package"),
            ("\"dropbear-bin\"", "\"busybox-static\"", 6, "named twice"),
            ("\"/bin/busybox\"", "\"busybox\"", 7, "whole path"),
            ("console=ttyS0", "console=ttyS0\\ninit=/bin/sh", 8, "one argument"),
            ("console=ttyS0", "haas.token=x", 8, "haas."),
            ("[kernel]", "ready_checks = [[\"bin/x\"]]\n[kernel]", 10, "whole path"),
            ("[kernel]", "ready_checks = [\"ibstat\"]\n[kernel]", 10, "a check is a list"),
            ("linux-image-amd64", "/etc/passwd", 11, "Debian package"),
            ("modules = \"none\"", "modules = \"some\"", 12, "some"),
        ] {
            match load(&GOOD.replacen(from, to, 1)) {
                Err(RecipeError::Line { line: found, problem, .. }) => {
                    assert_eq!(found, line, "{to}: {problem}");
                    assert!(problem.contains(reason), "{to}: {problem}");
                }
                other => panic!("{to}: {other:?}"),
            }
        }
        assert!(matches!(Recipe::load(Path::new("/nonexistent")), Err(RecipeError::Read { .. })));
    }

    #[test]
    fn ready_checks_are_commands_with_a_time() {
        let checks =
            "ready_checks = [[\"ibstat\"], { command = [\"a\", \"b\"], within = \"5m\" }]\n";
        let recipe = load(&GOOD.replacen("[kernel]", &format!("{checks}[kernel]"), 1)).unwrap();
        let check = |words: &[&str], within_s| ReadyCheck {
            command: words.iter().map(ToString::to_string).collect(),
            within_s,
        };
        assert_eq!(recipe.ready_checks, [check(&["ibstat"], 60), check(&["a", "b"], 300)]);
    }

    #[test]
    fn a_recipe_adds_to_its_base() {
        let images = tempfile::tempdir().unwrap();
        let folder = |name: &str, text: &str| {
            let folder = images.path().join(name);
            fs::create_dir_all(folder.join("files")).unwrap();
            fs::write(folder.join("recipe.toml"), text).unwrap();
            folder
        };
        let head = "kind = \"debian-packages\"\nname = \"more\"\ndescription = \"More\"\n";
        let small = folder("small", GOOD);
        let more = folder("more", &format!("{head}base = \"small\"\npackages = [\"less\"]\n"));
        let recipe = Recipe::load(&more).unwrap();
        assert_eq!(recipe.name.as_str(), "more");
        assert_eq!(recipe.packages, ["busybox-static", "dropbear-bin", "less"]);
        let files: Vec<_> = recipe.layers.iter().map(|l| l.files.clone().unwrap()).collect();
        assert_eq!(files, [small.join("files"), more.join("files")]);

        for (base, reason) in
            [("more", "based on each other"), ("gone", "no recipe"), ("../more", "beside")]
        {
            let folder = folder("more", &format!("{head}base = \"{base}\"\n"));
            let error = Recipe::load(&folder).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(":4:"), "{error}");
        }
        let system = format!("{head}base = \"small\"\n").replace("-packages", "-system");
        let error = Recipe::load(&folder("system", &system)).unwrap_err().to_string();
        assert!(error.contains("another kind") && error.contains(":1:"), "{error}");
    }

    #[test]
    fn the_recipes_that_come_with_haas_are_good() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
        let mut names = Vec::new();
        for entry in fs::read_dir(images).unwrap() {
            let folder = entry.unwrap().path();
            if folder.is_dir() {
                let recipe = Recipe::load(&folder).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(folder.file_name().unwrap().to_str(), Some(recipe.name.as_str()));
                names.push(recipe.name.to_string());
            }
        }
        names.sort();
        assert_eq!(names, ["debian-12", "minimal", "tools"]);
    }
}
