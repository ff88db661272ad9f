//! Makes the tar streams that haasd takes: a recipe's folder, a root file system, a raw image.
//!
//! A recipe's tar is the same for the same files, whoever packs it and when. A root's tar keeps all
//! that the file system knows.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use haas_api::names::ImageName;
use tar::{Builder, EntryType, Header};

type Tar<'a> = Builder<&'a mut dyn Write>;

/// What is kept of each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Contents, modes and symbolic links: what a recipe is.
    Contents,
    /// Also owners, times, hard links, devices and extended attributes.
    All,
}

/// Where a recipe's tar has the recipes that it is based on, each as a folder of its name.
const BASES: &str = ".bases";

/// How deep recipes may be based on each other; haasd has the same limit and says so.
const MAX_BASES: usize = 8;

/// A recipe's folder and, in it, the folders of the recipes that it is based on. Refuses what a
/// recipe has no use for, such as devices.
pub(crate) fn recipe(folder: &Path, to: &mut dyn Write) -> io::Result<()> {
    let mut packer = Packer::new(Keep::Contents, device_of(folder)?, to);
    packer.folder(folder, Path::new(""))?;
    let mut below = folder.to_owned();
    for _ in 0..MAX_BASES {
        let Some(name) = base_of(&below)? else { break };
        below = below.parent().unwrap_or(Path::new("/")).join(&name);
        packer.device = device_of(&below)?;
        packer.folder(&below, &Path::new(BASES).join(name))?;
    }
    packer.finish()
}

/// The recipe that a recipe is based on: a folder beside it. What is wrong with a recipe is haasd's
/// to say.
fn base_of(folder: &Path) -> io::Result<Option<String>> {
    let file = folder.join("recipe.toml");
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(at(&file))?,
    };
    let base = text.parse::<toml::Table>().ok().and_then(|mut recipe| recipe.remove("base"));
    let name = base.as_ref().and_then(|base| base.as_str()).map(str::to_owned);
    Ok(name
        .filter(|name| name.parse::<ImageName>().is_ok() && folder.with_file_name(name).exists()))
}

fn device_of(folder: &Path) -> io::Result<u64> {
    fs::metadata(folder).map(|metadata| metadata.dev()).map_err(at(folder))
}

/// A root file system. Other file systems mounted in it are left out but for their mount points.
pub(crate) fn root(folder: &Path, to: &mut dyn Write) -> io::Result<()> {
    pack(folder, Path::new(""), Keep::All, to)
}

/// A file system image as `root.img`, with its kernel as `vmlinuz` and its modules under
/// `modules/RELEASE/`, where RELEASE is the name of the folder `modules`.
pub(crate) fn raw(
    image: &Path,
    kernel: &Path,
    modules: &Path,
    to: &mut dyn Write,
) -> io::Result<()> {
    let modules = modules.canonicalize().map_err(at(modules))?;
    let release =
        modules.file_name().ok_or_else(|| io::Error::other("the modules' folder has no name"))?;
    let mut packer = Packer::new(Keep::Contents, 0, to);
    for (file, name) in [(image, "root.img"), (kernel, "vmlinuz")] {
        // A kernel is often a symbolic link; the file behind it is meant.
        let metadata = fs::metadata(file).map_err(at(file))?;
        packer.file(file, Path::new(name), &metadata).map_err(at(file))?;
    }
    packer.device = fs::metadata(&modules).map_err(at(&modules))?.dev();
    packer.folder(&modules, &Path::new("modules").join(release))?;
    packer.finish()
}

fn pack(folder: &Path, name: &Path, keep: Keep, to: &mut dyn Write) -> io::Result<()> {
    let mut packer = Packer::new(keep, device_of(folder)?, to);
    packer.folder(folder, name)?;
    packer.finish()
}

struct Packer<'a> {
    tar: Tar<'a>,
    keep: Keep,
    /// The file system that is packed.
    device: u64,
    /// Files with several names that were packed already, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Packer<'a> {
    fn new(keep: Keep, device: u64, to: &'a mut dyn Write) -> Self {
        Self { tar: Builder::new(to), keep, device, linked: HashMap::new() }
    }

    fn finish(self) -> io::Result<()> {
        self.tar.into_inner()?.flush()
    }

    /// What is in `folder`, as what is in `name`; the folder itself too.
    fn folder(&mut self, folder: &Path, name: &Path) -> io::Result<()> {
        let metadata = fs::metadata(folder).map_err(at(folder))?;
        let shown = if name.as_os_str().is_empty() { Path::new("./") } else { name };
        self.entry(folder, shown, &metadata, EntryType::Directory)?;
        if metadata.dev() != self.device {
            return Ok(());
        }
        let mut names: Vec<OsString> = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(at(folder))?;
        // The order of a directory is the file system's own affair.
        names.sort();
        for file in names {
            self.any(&folder.join(&file), &name.join(&file))?;
        }
        Ok(())
    }

    fn any(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(path).map_err(at(path))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return self.folder(path, name);
        }
        if self.keep == Keep::All && metadata.nlink() > 1 {
            let id = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&id) {
                let mut header = self.header(&metadata, EntryType::Link);
                return self.tar.append_link(&mut header, name, first).map_err(at(path));
            }
            self.linked.insert(id, name.to_owned());
        }
        if kind.is_file() {
            self.attributes(path)?;
            self.file(path, name, &metadata).map_err(at(path))
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(at(path))?;
            let mut header = self.header(&metadata, EntryType::Symlink);
            self.tar.append_link(&mut header, name, target).map_err(at(path))
        } else if kind.is_socket() {
            // A socket is nothing without the process that listens to it.
            Ok(())
        } else if self.keep == Keep::Contents {
            Err(at(path)(io::Error::other("a recipe holds files, folders and symbolic links only")))
        } else if kind.is_fifo() {
            self.entry(path, name, &metadata, EntryType::Fifo)
        } else if kind.is_char_device() {
            self.entry(path, name, &metadata, EntryType::Char)
        } else {
            self.entry(path, name, &metadata, EntryType::Block)
        }
    }

    /// An entry without contents.
    fn entry(
        &mut self,
        path: &Path,
        name: &Path,
        metadata: &Metadata,
        kind: EntryType,
    ) -> io::Result<()> {
        self.attributes(path)?;
        let mut header = self.header(metadata, kind);
        self.tar.append_data(&mut header, name, io::empty()).map_err(at(path))
    }

    fn file(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        if !metadata.is_file() {
            return Err(io::Error::other("this is no file"));
        }
        let mut header = self.header(metadata, EntryType::Regular);
        header.set_size(metadata.len());
        let contents = Exactly { inner: File::open(path)?, left: metadata.len() };
        self.tar.append_data(&mut header, name, contents)
    }

    fn header(&self, metadata: &Metadata, kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(metadata.mode() & 0o7777);
        match self.keep {
            Keep::Contents => {
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
            }
            Keep::All => {
                header.set_uid(u64::from(metadata.uid()));
                header.set_gid(u64::from(metadata.gid()));
                header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
                if matches!(kind, EntryType::Char | EntryType::Block) {
                    let device = metadata.rdev();
                    // A GNU header has both fields; they are as wide as Linux needs.
                    let _ = header.set_device_major(libc::major(device));
                    let _ = header.set_device_minor(libc::minor(device));
                }
            }
        }
        header
    }

    /// Extended attributes (file capabilities, ACLs) as pax records before their entry. A file
    /// system that knows none has none.
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        if self.keep == Keep::Contents {
            return Ok(());
        }
        let names = match xattr::list(path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
            Err(error) => return Err(at(path)(error)),
        };
        let mut records = Vec::new();
        for name in names {
            // SELinux labels belong to the policy of the computer that packs.
            let Some(text) = name.to_str().filter(|text| *text != "security.selinux") else {
                continue;
            };
            if let Some(value) = xattr::get(path, &name).map_err(at(path))? {
                records.push((format!("SCHILY.xattr.{text}"), value));
            }
        }
        records.sort();
        let records = records.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records).map_err(at(path))
    }
}

/// Adds where it happened.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    let path = path.as_os_str().as_bytes().to_vec();
    move |error| {
        io::Error::new(error.kind(), format!("{}: {error}", String::from_utf8_lossy(&path)))
    }
}

/// A file that must be as long as its header says: one that shrinks while it is read would shift
/// all that follows in the tar.
struct Exactly {
    inner: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::other("the file became shorter while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn packed(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        bytes
    }

    fn entries(bytes: &[u8]) -> Vec<(String, EntryType, Option<PathBuf>, u32)> {
        tar::Archive::new(bytes)
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (
                    entry.path().unwrap().display().to_string(),
                    header.entry_type(),
                    entry.link_name().unwrap().map(|name| name.into_owned()),
                    header.mode().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn the_same_recipe_is_the_same_tar() {
        let make = |order: [&str; 2]| {
            let folder = tempfile::tempdir().unwrap();
            for name in order {
                fs::write(folder.path().join(name), name).unwrap();
            }
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            packed(|to| recipe(folder.path(), to))
        };
        assert_eq!(make(["a", "b"]), make(["b", "a"]));
    }

    #[test]
    fn a_recipe_brings_the_recipes_below_it() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("top", "base = \"mid\""), ("mid", "base = \"low\""), ("low", "")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("recipe.toml"), text).unwrap();
        }
        let files = |name: &str| -> Vec<String> {
            let bytes = packed(|to| recipe(&folder.path().join(name), to));
            let is_file = |kind| kind == EntryType::Regular;
            entries(&bytes).into_iter().filter(|e| is_file(e.1)).map(|e| e.0).collect()
        };
        let bases = [".bases/mid/recipe.toml", ".bases/low/recipe.toml"];
        assert_eq!(files("top"), [&["recipe.toml"][..], &bases].concat());
        // haasd says what is wrong with these; packing them ends.
        for base in ["top", "gone", "../mid", "/etc"] {
            fs::write(folder.path().join("top/recipe.toml"), format!("base = \"{base}\"")).unwrap();
            assert!(files("top").len() <= 1 + MAX_BASES);
        }
        assert_eq!(files("low"), ["recipe.toml"]);
    }

    #[test]
    fn a_root_keeps_links_modes_and_long_names() {
        let folder = tempfile::tempdir().unwrap();
        let root_of = folder.path();
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        fs::create_dir(root_of.join("d".repeat(90))).unwrap();
        fs::write(root_of.join(&long), "x").unwrap();
        fs::write(root_of.join("su"), "x").unwrap();
        fs::set_permissions(root_of.join("su"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(root_of.join("su"), root_of.join("sudo")).unwrap();
        symlink("../away/su", root_of.join("sulink")).unwrap();
        let bytes = packed(|to| root(root_of, to));
        let found = entries(&bytes);
        let get = |name: &str| found.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!(get(&long).1, EntryType::Regular);
        assert_eq!((get("su").1, get("su").3), (EntryType::Regular, 0o4755));
        assert_eq!((get("sudo").1, get("sudo").2.clone()), (EntryType::Link, Some("su".into())));
        assert_eq!(get("sulink").2, Some("../away/su".into()));
    }

    #[test]
    fn a_root_keeps_devices() {
        let bytes = packed(|to| {
            let mut packer = Packer::new(Keep::All, 0, to);
            packer.any(Path::new("/dev/null"), Path::new("dev/null"))?;
            packer.finish()
        });
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let header = entry.header();
        let device = (header.device_major().unwrap(), header.device_minor().unwrap());
        assert_eq!((header.entry_type(), device), (EntryType::Char, (Some(1), Some(3))));
    }

    #[test]
    fn a_root_keeps_attributes_beside_long_names() {
        // Not /tmp: it may be a tmpfs, and older ones know no user attributes.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("f".repeat(150));
        fs::write(&file, "x").unwrap();
        xattr::set(&file, "user.haas", b"a\0b").unwrap();
        let bytes = packed(|to| root(folder.path(), to));
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut found = archive.entries().unwrap().map(Result::unwrap);
        let mut entry = found.find(|entry| entry.path().unwrap().as_os_str().len() == 150).unwrap();
        let records = entry.pax_extensions().unwrap().unwrap();
        let record = records
            .map(Result::unwrap)
            .find(|record| record.key() == Ok("SCHILY.xattr.user.haas"))
            .unwrap();
        assert_eq!(record.value_bytes(), b"a\0b");
    }

    #[test]
    fn a_raw_image_has_its_three_parts() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("x.erofs");
        let kernel = folder.path().join("vmlinuz-6.1");
        let modules = folder.path().join("6.1.0-30-amd64");
        fs::write(&image, vec![7; 5000]).unwrap();
        fs::write(&kernel, "k").unwrap();
        fs::create_dir(&modules).unwrap();
        fs::write(modules.join("modules.dep"), "").unwrap();
        let bytes = packed(|to| raw(&image, &kernel, &modules, to));
        let names: Vec<_> = entries(&bytes).into_iter().map(|entry| entry.0).collect();
        let expected =
            ["root.img", "vmlinuz", "modules/6.1.0-30-amd64", "modules/6.1.0-30-amd64/modules.dep"];
        assert_eq!(names, expected);
    }

    #[test]
    fn errors_name_the_file() {
        let error = recipe(Path::new("/nonexistent/recipe"), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/recipe"), "{error}");
        let file = tempfile::tempfile().unwrap();
        let mut short = Exactly { inner: file, left: 10 };
        assert!(short.read(&mut [0; 4]).unwrap_err().to_string().contains("shorter"));
    }
}
