//! haasd's part of the initramfs: the agent as `/init`, and the tools that make and check the
//! overlay store with the libraries that they need.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Archive, ArchiveError, ElfError, elf};

/// Where the host keeps its libraries, in the order in which they are searched.
const LIBRARY_FOLDERS: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// Empty folders: mount points and what programs expect to exist.
const FOLDERS: [&str; 8] = ["dev", "proc", "sys", "run", "tmp", "agent", "root", "etc"];

/// What goes into the agent's archive.
#[derive(Debug, Clone)]
pub struct AgentFiles {
    /// The agent's static binary.
    pub bootagent: PathBuf,
    /// Programs for `/sbin`, by their own names; [`AgentFiles::debian`] lists those that are needed.
    pub tools: Vec<PathBuf>,
    /// `mke2fs.conf`, without which mke2fs makes other file systems than its manual says.
    pub mke2fs_conf: PathBuf,
}

impl AgentFiles {
    /// The agent with the tools of this machine's package e2fsprogs.
    pub fn debian(bootagent: PathBuf) -> Self {
        Self {
            bootagent,
            tools: ["mke2fs", "e2fsck"].map(|t| Path::new("/usr/sbin").join(t)).to_vec(),
            mke2fs_conf: "/etc/mke2fs.conf".into(),
        }
    }
}

/// Why the agent's archive could not be built.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file that must be in it cannot be read.
    #[error("cannot read {}, which must be in the initramfs", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent was built with shared libraries, which are not there when it starts.
    #[error("{} is not static: build it with -C target-feature=+crt-static", path.display())]
    NotStatic {
        /// Which.
        path: PathBuf,
    },
    /// A program is not one for this kind of machine.
    #[error("{} cannot go into the initramfs", path.display())]
    Elf {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// A library was not found.
    #[error("{} needs {library}, which is in none of the library folders", by.display())]
    Library {
        /// Who needs it.
        by: PathBuf,
        /// Its name.
        library: String,
    },
    /// The archive could not be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// The agent's archive, compressed.
pub fn agent_cpio(files: &AgentFiles) -> Result<Vec<u8>, AgentError> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder, 0o755);
    }
    archive.char_device("dev/console", 0o600, 5, 1);
    let agent = read(&files.bootagent)?;
    let elf = |path: &Path| {
        let path = path.to_owned();
        move |source| AgentError::Elf { path, source }
    };
    if !elf::needed(&agent).map_err(elf(&files.bootagent))?.is_empty() {
        return Err(AgentError::NotStatic { path: files.bootagent.clone() });
    }
    archive.file("init", 0o755, agent);
    // The kernel calls this when it wants a module by itself; the agent answers under that name.
    archive.link("sbin/modprobe", "../init");
    archive.file("etc/mke2fs.conf", 0o644, read(&files.mke2fs_conf)?);

    let mut seen = BTreeSet::new();
    let mut waiting = Vec::new();
    for tool in &files.tools {
        let name = tool.file_name().unwrap_or_default().to_string_lossy();
        waiting.push((tool.clone(), format!("sbin/{name}")));
    }
    while let Some((path, target)) = waiting.pop() {
        if !seen.insert(target.clone()) {
            continue;
        }
        let data = read(&path)?;
        if let Some(loader) = elf::interpreter(&data).map_err(elf(&path))? {
            waiting.push((loader.clone().into(), loader.trim_start_matches('/').to_owned()));
        }
        for library in elf::needed(&data).map_err(elf(&path))? {
            let found = LIBRARY_FOLDERS.iter().map(|f| Path::new(f).join(&library));
            let found = found.into_iter().find(|p| p.exists()).ok_or_else(|| {
                AgentError::Library { by: path.clone(), library: library.clone() }
            })?;
            waiting.push((found, format!("lib/{library}")));
        }
        archive.file(&target, 0o755, data);
    }
    Ok(archive.compressed()?)
}

fn read(path: &Path) -> Result<Vec<u8>, AgentError> {
    fs::read(path).map_err(|source| AgentError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::read_back;

    #[test]
    fn tools_bring_their_libraries_and_loader() {
        let folder = tempfile::tempdir().expect("folder");
        let conf = folder.path().join("mke2fs.conf");
        fs::write(&conf, "[defaults]\n").expect("conf");
        let files = AgentFiles {
            bootagent: "/bin/busybox".into(),
            tools: vec!["/bin/ls".into()],
            mke2fs_conf: conf,
        };
        let found = read_back(&agent_cpio(&files).expect("archive"));
        for path in ["init", "sbin/ls", "lib/libc.so.6", "lib64/ld-linux-x86-64.so.2", "agent"] {
            assert!(found.contains_key(path), "{path} is missing");
        }
        assert_eq!(found["sbin/modprobe"].1, b"../init");
    }

    #[test]
    fn an_agent_with_shared_libraries_is_refused() {
        let files = AgentFiles {
            bootagent: "/bin/ls".into(),
            tools: vec![],
            mke2fs_conf: "/dev/null".into(),
        };
        assert!(matches!(agent_cpio(&files), Err(AgentError::NotStatic { .. })));
    }
}
