//! The pages of the documentation, for the suites that hold them to their word.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Stands behind a command that needs nodes, root or a mirror.
const ON_THE_RACK: &str = "# on the rack";

/// A page.
#[derive(Debug)]
pub struct Page {
    /// From the root of the checkout, for messages.
    pub name: String,
    pub path: PathBuf,
    text: String,
}

/// One command of a page.
#[derive(Debug)]
pub struct Line {
    /// `FILE:LINE`, for messages.
    pub place: String,
    /// The command, without the marker.
    pub command: String,
    pub on_the_rack: bool,
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the checkout").to_owned()
}

/// The pages at the root and in `docs/`, the tutorial first: what it makes, later ones use.
pub fn pages() -> Result<Vec<Page>> {
    let root = root();
    let mut paths = vec![root.join("docs/tutorial.md")];
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        paths.push(root.join(name));
    }
    let mut folders = vec![root.join("docs")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "md") && !paths.contains(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    paths.extend(found);
    paths.into_iter().map(|path| Page::read(&root, path)).collect()
}

impl Page {
    fn read(root: &Path, path: PathBuf) -> Result<Page> {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root)?.display().to_string();
        Ok(Page { name, path, text })
    }

    /// The contents of the fenced blocks of a language, with the number of their first line.
    pub fn blocks(&self, language: &str) -> Vec<(usize, String)> {
        let mut blocks = Vec::new();
        let mut open: Option<(bool, usize, String)> = None;
        for (index, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(info), None) => open = Some((info == language, index + 2, String::new())),
                (Some(_), Some(_)) => {
                    if let Some((true, at, text)) = open.take() {
                        blocks.push((at, text));
                    }
                }
                (None, Some((_, _, text))) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fenced block has no end", self.name);
        blocks
    }

    /// The commands of its `sh` blocks.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for (at, text) in self.blocks("sh") {
            for (offset, line) in text.lines().enumerate() {
                let marked = line.strip_suffix(ON_THE_RACK);
                let command = marked.unwrap_or(line).trim().to_owned();
                if !command.is_empty() && !command.starts_with('#') {
                    let place = format!("{}:{}", self.name, at + offset);
                    lines.push(Line { place, command, on_the_rack: marked.is_some() });
                }
            }
        }
        lines
    }

    /// The targets of its links.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(str::to_owned).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings = prose.lines().filter_map(|line| line.strip_prefix('#'));
        headings
            .map(|heading| {
                let heading = heading.trim_start_matches('#').trim().to_lowercase();
                let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.map(|c| if c == ' ' { '-' } else { c }).collect()
            })
            .collect()
    }

    /// Whether a word stands in the page as code.
    pub fn names(&self, word: &str) -> bool {
        self.text.contains(&format!("`{word}`"))
    }

    /// Whether a text stands in the page as a word of its own.
    pub fn mentions(&self, what: &str) -> bool {
        let ends = |rest: &str| rest.starts_with(['`', ',', ' ']);
        self.text.split(what).skip(1).any(ends)
    }

    /// The text outside of fenced blocks.
    fn prose(&self) -> String {
        self.text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
    }
}
