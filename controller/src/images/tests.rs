//! Whole builds and imports through the real worker process, its namespaces and tools. They need
//! root.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use haas_api::names::Digest;
use tokio::sync::mpsc;

use super::{
    ImageError, Images, Import, ImportSource,
    blobs::BlobError,
    kernel::tests::bzimage,
    manifest::{FsType, Manifest},
    worker::{WorkerCommand, WorkerError, worker_main},
};
use crate::inventory::Arch;

const RELEASE: &str = "6.1.0-test";

/// Not a test of its own: the tests start this binary once more with this test's name, and it
/// becomes their image worker. In an ordinary run the arguments are missing.
#[test]
fn worker_process() {
    let mut args = std::env::args_os().skip_while(|arg| arg != "image-worker");
    if args.next().is_some() {
        let failed = worker_main(args, pack_modules) != std::process::ExitCode::SUCCESS;
        // The test harness would print more to the log and know better about the exit code.
        std::process::exit(i32::from(failed));
    }
}

/// Like the real one: names in order, and refuses a kernel without `overlay`.
fn pack_modules(
    folder: &Path,
    release: &str,
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    names.sort();
    if !names.iter().any(|name| name.starts_with("overlay.ko")) {
        return Err(format!("kernel {release} lacks the module overlay").into());
    }
    Ok(names.join("\n").into_bytes())
}

fn open(state: &Path) -> Images {
    let worker = WorkerCommand {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "--nocapture", "images::tests::worker_process", "image-worker"]
            .map(str::to_owned)
            .to_vec(),
    };
    Images::open(state, worker).unwrap()
}

/// Collects the log until the worker has ended.
fn logger() -> (mpsc::Sender<String>, tokio::task::JoinHandle<String>) {
    let (log, mut lines) = mpsc::channel::<String>(16);
    let all = tokio::spawn(async move {
        let mut all = String::new();
        while let Some(line) = lines.recv().await {
            all.push_str(&line);
            all.push('\n');
        }
        all
    });
    (log, all)
}

fn import_of(source: ImportSource) -> Import {
    Import {
        source,
        kernel: None,
        modules: None,
        arch: Arch::X86_64,
        fstype: None,
        cmdline: vec!["quiet".into()],
    }
}

async fn import(
    images: &Images,
    import: Import,
) -> (Result<(Digest, Manifest), ImageError>, String) {
    let (log, all) = logger();
    let result = images.import(import, log).await;
    (result, all.await.unwrap())
}

/// The smallest system that is taken.
fn make_root(root: &Path) {
    for folder in ["sbin", "etc/ssh", "boot", "run", "usr/bin"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let modules = root.join("lib/modules").join(RELEASE);
    fs::create_dir_all(modules.join("kernel/fs/overlayfs")).unwrap();
    fs::write(modules.join("kernel/fs/overlayfs/overlay.ko"), "module").unwrap();
    for fs in ["erofs", "squashfs"] {
        fs::create_dir_all(modules.join("kernel/fs").join(fs)).unwrap();
        fs::write(modules.join(format!("kernel/fs/{fs}/{fs}.ko.xz")), "module").unwrap();
    }
    fs::write(modules.join("modules.dep"), "").unwrap();
    fs::write(root.join(format!("boot/vmlinuz-{RELEASE}")), bzimage(RELEASE)).unwrap();
    fs::write(root.join("usr/bin/start"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("usr/bin/start"), fs::Permissions::from_mode(0o755)).unwrap();
    // An absolute link, which on the controller leads elsewhere.
    symlink("/usr/bin/start", root.join("sbin/init")).unwrap();
    fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(root.join("etc/ssh/ssh_host_ed25519_key"), "secret").unwrap();
    fs::write(root.join("run/leftover"), "x").unwrap();
}

/// A root image mounted read-only until dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(images: &Images, manifest: &Manifest) -> Self {
        let at = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", &manifest.root.fstype.to_string(), "-o", "ro,loop"])
            .arg(images.blob_path(&manifest.root.digest))
            .arg(at.path())
            .status()
            .unwrap();
        assert!(status.success(), "this test mounts the image and needs root");
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

fn verity_holds(images: &Images, manifest: &Manifest) -> bool {
    let blob = images.blob_path(&manifest.root.digest);
    let verity = &manifest.root.verity;
    Command::new("veritysetup")
        .arg("verify")
        .args([&blob, &blob])
        .arg(&verity.root_hash)
        .arg(format!("--hash-offset={}", verity.hash_offset))
        .output()
        .unwrap()
        .status
        .success()
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_folder_is_imported_whole_without_what_two_nodes_must_not_share() {
    let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_root(root.path());
    let images = open(state.path());
    for fstype in [FsType::Erofs, FsType::Squashfs] {
        let mut order = import_of(ImportSource::Directory(root.path().to_owned()));
        order.fstype = Some(fstype);
        let (result, log) = import(&images, order).await;
        let (image, manifest) = result.unwrap_or_else(|e| panic!("{e}\n{log}"));
        assert_eq!(images.manifest(&image).unwrap(), manifest);
        assert_eq!(manifest.kernel.release, RELEASE);
        assert_eq!(manifest.root.size % 4096, 0);
        assert!(verity_holds(&images, &manifest));
        assert!(log.contains("ssh_host_ed25519_key"), "{log}");

        let mounted = Mounted::new(&images, &manifest);
        let at = |path: &str| mounted.0.path().join(path);
        assert!(names_in(&at("etc/ssh")).is_empty());
        assert_eq!(fs::read(at("etc/machine-id")).unwrap(), b"");
        assert!(names_in(&at("run")).is_empty());
        assert!(at("proc").is_dir() && at("sys").is_dir() && at("dev").is_dir());
    }
    // The original is as it was, and no work is left.
    assert!(root.path().join("etc/ssh/ssh_host_ed25519_key").exists());
    assert!(names_in(&state.path().join("images/tmp")).is_empty());
}

/// EL kernels of some years have no EROFS.
#[tokio::test]
async fn an_import_takes_a_file_system_that_its_kernel_can_mount() {
    let state = tempfile::tempdir().unwrap();
    let images = open(state.path());
    let kernel_without = |fs: &str, wanted: Option<FsType>| {
        let root = tempfile::tempdir().unwrap();
        make_root(root.path());
        let modules = root.path().join("lib/modules").join(RELEASE);
        fs::remove_dir_all(modules.join("kernel/fs").join(fs)).unwrap();
        let mut order = import_of(ImportSource::Directory(root.path().to_owned()));
        order.fstype = wanted;
        (root, order)
    };
    for (missing, taken) in [("squashfs", FsType::Erofs), ("erofs", FsType::Squashfs)] {
        let (_root, order) = kernel_without(missing, None);
        let (result, log) = import(&images, order).await;
        let (_, manifest) = result.unwrap_or_else(|e| panic!("{e}\n{log}"));
        assert_eq!(manifest.root.fstype, taken);
    }
    let (_root, order) = kernel_without("erofs", Some(FsType::Erofs));
    let Err(ImageError::Worker(WorkerError::Failed(said))) = import(&images, order).await.0 else {
        panic!("a root that its kernel cannot mount was taken")
    };
    assert!(said.contains("lacks the module erofs"), "{said}");
}

#[tokio::test]
async fn a_system_with_a_policy_is_labelled_by_it_and_has_nothing_to_relabel() {
    let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_root(root.path());
    let policy = root.path().join("etc/selinux/targeted/contexts/files");
    fs::create_dir_all(&policy).unwrap();
    let contexts = "/.*\tsystem_u:object_r:default_t:s0\n\
                    /etc(/.*)?\tsystem_u:object_r:etc_t:s0\n\
                    /boot(/.*)?\t<<none>>\n";
    fs::write(policy.join("file_contexts"), contexts).unwrap();
    fs::write(root.path().join(".autorelabel"), "").unwrap();
    let images = open(state.path());
    for (config, label) in [
        ("SELINUX=enforcing\nSELINUXTYPE=targeted\n", Some("system_u:object_r:etc_t:s0\0")),
        ("SELINUX=disabled\nSELINUXTYPE=targeted\n", None),
    ] {
        fs::write(root.path().join("etc/selinux/config"), config).unwrap();
        for fstype in [FsType::Erofs, FsType::Squashfs] {
            let mut order = import_of(ImportSource::Directory(root.path().to_owned()));
            order.fstype = Some(fstype);
            let (result, log) = import(&images, order).await;
            let (_, manifest) = result.unwrap_or_else(|e| panic!("{e}\n{log}"));
            let mounted = Mounted::new(&images, &manifest);
            // Also what the build itself has written.
            for path in ["etc", "etc/ssh", "etc/machine-id"] {
                let found = label_of(&mounted.0.path().join(path));
                assert_eq!(found.as_deref(), label, "{path} in {fstype}\n{log}");
            }
            let relabels = mounted.0.path().join(".autorelabel").exists();
            assert_eq!(relabels, label.is_none(), "{log}");
        }
    }
}

/// An independent reader of the attribute.
fn label_of(path: &Path) -> Option<String> {
    let program =
        "import os, sys; sys.stdout.buffer.write(os.getxattr(sys.argv[1], 'security.selinux'))";
    let output = Command::new("python3").args(["-c", program]).arg(path).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn the_same_system_gives_the_same_digest() {
    let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_root(root.path());
    let images = open(state.path());
    for fstype in [FsType::Erofs, FsType::Squashfs] {
        let mut digests = Vec::new();
        for _ in 0..2 {
            let mut order = import_of(ImportSource::Directory(root.path().to_owned()));
            order.fstype = Some(fstype);
            digests.push(import(&images, order).await.0.unwrap().0);
            // Times are kept in seconds by both, so let one pass.
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        assert_eq!(digests[0], digests[1], "{fstype}");
    }
}

/// One member of a tar archive.
fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    link: &str,
    data: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    // Written by hand, since the builder refuses names that lead out of the root.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o4751 });
    header.set_uid(1234);
    header.set_gid(5678);
    header.set_mtime(1_000_000_000);
    if kind == tar::EntryType::Char {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

fn system_tar() -> tar::Builder<Vec<u8>> {
    let root = tempfile::tempdir().unwrap();
    make_root(root.path());
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", root.path()).unwrap();
    tar
}

#[tokio::test]
async fn a_tar_keeps_owners_modes_times_links_devices_and_attributes() {
    let state = tempfile::tempdir().unwrap();
    let images = open(state.path());
    let mut tar = system_tar();
    append(&mut tar, "opt/", tar::EntryType::Directory, "", b"");
    tar.append_pax_extensions([("SCHILY.xattr.user.colour", &b"blue"[..])]).unwrap();
    append(&mut tar, "opt/program", tar::EntryType::Regular, "", b"data");
    append(&mut tar, "opt/same", tar::EntryType::Link, "opt/program", b"");
    append(&mut tar, "opt/null", tar::EntryType::Char, "", b"");
    append(&mut tar, "opt/fifo", tar::EntryType::Fifo, "", b"");
    append(&mut tar, "opt/outside", tar::EntryType::Symlink, "../../../etc/shadow", b"");
    let bytes = tar.into_inner().unwrap();

    // Compressed in a file, and plain through a pipe: the same image.
    let file = state.path().join("system.tar.zst");
    fs::write(&file, zstd_of(&bytes)).unwrap();
    let (result, log) = import(&images, import_of(ImportSource::Tar(file))).await;
    let (image, manifest) = result.unwrap_or_else(|e| panic!("{e}\n{log}"));
    let (reader, mut writer) = std::io::pipe().unwrap();
    let sent = std::thread::spawn(move || writer.write_all(&bytes));
    let (result, log) = import(&images, import_of(ImportSource::TarStream(reader.into()))).await;
    assert_eq!(result.unwrap_or_else(|e| panic!("{e}\n{log}")).0, image);
    sent.join().unwrap().unwrap();

    let mounted = Mounted::new(&images, &manifest);
    let at = |path: &str| mounted.0.path().join("opt").join(path);
    let meta = fs::metadata(at("program")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 5678, 0o4751));
    assert_eq!(meta.mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(at("same")).unwrap().ino(), meta.ino());
    let null = fs::metadata(at("null")).unwrap();
    assert_eq!((null.rdev(), null.mode() & 0o170_000), (0x103, 0o020_000));
    assert_eq!(fs::metadata(at("fifo")).unwrap().mode() & 0o170_000, 0o010_000);
    assert_eq!(fs::read_link(at("outside")).unwrap(), Path::new("../../../etc/shadow"));
    let attribute = Command::new("python3")
        .args(["-c", "import os,sys; print(os.getxattr(sys.argv[1], 'user.colour').decode())"])
        .arg(at("program"))
        .output()
        .unwrap();
    assert_eq!(attribute.stdout, b"blue\n");
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Command::new("zstd").args(["-q", "-c"]).arg(file.path()).output().unwrap().stdout
}

#[tokio::test]
async fn a_hostile_or_broken_tar_is_refused_and_writes_nothing_outside() {
    let state = tempfile::tempdir().unwrap();
    let images = open(state.path());
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");

    let mut dotdot = system_tar();
    append(&mut dotdot, "../../victim", tar::EntryType::Regular, "", b"evil");
    let mut through_link = system_tar();
    let link = outside.path().to_str().unwrap().to_owned();
    append(&mut through_link, "way", tar::EntryType::Symlink, &link, b"");
    append(&mut through_link, "way/victim", tar::EntryType::Regular, "", b"evil");
    let whole = system_tar().into_inner().unwrap();
    let (in_a_block, between_blocks) =
        (&whole[..whole.len() / 3 + 7], &whole[..whole.len() - 1024]);
    for bytes in [
        dotdot.into_inner().unwrap(),
        through_link.into_inner().unwrap(),
        in_a_block.to_vec(),
        between_blocks.to_vec(),
        b"this is no archive".to_vec(),
        Vec::new(),
        b"\x1f\x8b\x08 garbage".to_vec(),
    ] {
        let file = outside.path().join("a.tar");
        fs::write(&file, bytes).unwrap();
        let (result, log) = import(&images, import_of(ImportSource::Tar(file))).await;
        let Err(ImageError::Worker(WorkerError::Failed(reason))) = result else {
            panic!("{result:?}\n{log}")
        };
        assert!(reason.contains("archive"), "{reason}\n{log}");
        assert!(!victim.exists());
    }
    assert!(images.list().unwrap().is_empty());
    assert_eq!(names_in(&state.path().join("images/tmp")), [""; 0]);
}

#[tokio::test]
async fn a_system_that_no_node_could_boot_is_refused_with_the_reason() {
    let state = tempfile::tempdir().unwrap();
    let images = open(state.path());
    type Break = fn(&Path, &mut Import);
    let breaks: [(Break, &str); 6] = [
        (|root, _| fs::remove_dir_all(root.join("boot")).unwrap(), "no kernel in the root"),
        (|root, _| fs::remove_file(root.join("usr/bin/start")).unwrap(), "no /sbin/init"),
        (
            |root, _| {
                let overlay = "kernel/fs/overlayfs/overlay.ko";
                fs::remove_file(root.join("lib/modules").join(RELEASE).join(overlay)).unwrap();
            },
            "lacks the module overlay",
        ),
        (|_, import| import.cmdline = vec!["a b".into()], "not one argument"),
        (|_, import| import.arch = Arch::Aarch64, "not an arm64 kernel"),
        (|_, import| import.kernel = Some("/nonexistent".into()), "cannot read the kernel"),
    ];
    for (break_it, reason) in breaks {
        let root = tempfile::tempdir().unwrap();
        make_root(root.path());
        let mut order = import_of(ImportSource::Directory(root.path().to_owned()));
        break_it(root.path(), &mut order);
        let (result, log) = import(&images, order).await;
        let Err(ImageError::Worker(WorkerError::Failed(said))) = result else {
            panic!("{result:?}\n{log}")
        };
        assert!(said.contains(reason), "{said}");
    }
    assert!(images.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_raw_disk_gives_its_root_partition() {
    let state = tempfile::tempdir().unwrap();
    let images = open(state.path());
    let root = tempfile::tempdir().unwrap();
    make_root(root.path());
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
    };
    let fs_image = state.path().join("fs.img");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    run("mke2fs", &["-q", "-t", "ext4", "-d", &text(root.path()), &text(&fs_image), "8M"]);
    // An MBR with an empty first partition of 1 MiB and the file system as the second.
    let disk = state.path().join("disk.img");
    let (mut bytes, fs_bytes) = (vec![0; 2 << 20], fs::read(&fs_image).unwrap());
    for (slot, start, sectors) in [(0, 2048_u32, 2048_u32), (1, 4096, 16384)] {
        let entry = &mut bytes[446 + slot * 16..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes.extend_from_slice(&fs_bytes);
    fs::write(&disk, &bytes).unwrap();

    for path in [&fs_image, &disk] {
        let (result, log) = import(&images, import_of(ImportSource::RawDisk(path.clone()))).await;
        let (_, manifest) = result.unwrap_or_else(|e| panic!("{e}\n{log}"));
        let mounted = Mounted::new(&images, &manifest);
        assert!(mounted.0.path().join("usr/bin/start").is_file());
    }
    assert_eq!(fs::read(&disk).unwrap(), bytes, "the disk is only read");
    fs::write(&disk, vec![7; 1 << 20]).unwrap();
    let (result, _) = import(&images, import_of(ImportSource::RawDisk(disk))).await;
    assert!(result.unwrap_err().to_string().contains("holds no root"));
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_images_that_are_there_stay() {
    let root = tempfile::tempdir().unwrap();
    make_root(root.path());
    let disk = tempfile::tempdir().unwrap();
    nix::mount::mount(
        Some("tmpfs"),
        disk.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=4m"),
    )
    .expect("this test mounts a small file system and needs root");
    let disk = Mounted(disk);
    let images = open(disk.0.path());
    let order = import_of(ImportSource::Directory(root.path().to_owned()));
    let (image, _) = import(&images, order).await.0.unwrap();
    let noise: Vec<u8> = Digest::of(b"noise").hex().bytes().cycle().take(8 << 20).collect();
    fs::write(root.path().join("large"), noise).unwrap();
    let order = import_of(ImportSource::Directory(root.path().to_owned()));
    let (result, log) = import(&images, order).await;
    assert!(
        matches!(result, Err(ImageError::Store(BlobError::NoSpace { .. }))),
        "{result:?}\n{log}"
    );
    assert_eq!(images.list().unwrap(), [image]);
    assert!(names_in(&disk.0.path().join("images/tmp")).is_empty());
}

/// Processes that run from this work folder's worker, by their command lines.
fn workers_of(state: &Path) -> usize {
    let state = state.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|cmdline| String::from_utf8_lossy(cmdline).contains(state))
        .count()
}

#[tokio::test]
async fn a_cancelled_import_leaves_no_process_and_no_file() {
    let state = tempfile::tempdir().unwrap();
    let images = open(state.path());
    // An archive that never ends: the worker waits for more.
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&system_tar().get_ref()[..1024]).unwrap();
    let (log, mut lines) = mpsc::channel(16);
    let task = tokio::spawn({
        let images = images.clone();
        async move { images.import(import_of(ImportSource::TarStream(reader.into())), log).await }
    });
    while !lines.recv().await.expect("the worker runs").contains("unpacking") {}
    assert!(workers_of(state.path()) >= 2);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // The sender of the log goes with the worker.
    while lines.recv().await.is_some() {}
    let deadline = Instant::now() + Duration::from_secs(20);
    while workers_of(state.path()) > 0 || !names_in(&state.path().join("images/tmp")).is_empty() {
        assert!(Instant::now() < deadline, "the worker outlives its cancelling");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

#[tokio::test]
#[ignore = "downloads Debian packages; run: cargo xtask e2e"]
async fn the_recipes_are_built_twice_with_the_same_digest() {
    let state = tempfile::tempdir_in(target_dir()).unwrap();
    let cached = target_dir().join("debs");
    fs::create_dir_all(&cached).unwrap();
    fs::create_dir_all(state.path().join("cache")).unwrap();
    symlink(fs::canonicalize(&cached).unwrap(), state.path().join("cache/debs")).unwrap();
    let images = open(state.path());
    let mut digests = Vec::new();
    for name in ["minimal", "minimal", "tools"] {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images").join(name);
        let (log, all) = logger();
        let start = Instant::now();
        let result = images.build(&recipe, log).await;
        let log = all.await.unwrap();
        let (image, manifest) = result.unwrap_or_else(|e| panic!("{e}\n{log}"));
        eprintln!(
            "{name}: root {} B, kernel {} B, modules {} B, {:.1} s",
            manifest.root.size,
            manifest.kernel.size,
            manifest.modules.size,
            start.elapsed().as_secs_f64()
        );
        assert!(manifest.root.size < 20 << 20, "{}", manifest.root.size);
        assert!(verity_holds(&images, &manifest));
        let mounted = Mounted::new(&images, &manifest);
        let at = |path: &str| mounted.0.path().join(path);
        assert!(File::open(at("usr/bin/busybox")).unwrap().metadata().unwrap().len() > 1 << 20);
        assert_eq!(fs::read_link(at("usr/sbin/init")).unwrap(), Path::new("../bin/busybox"));
        assert_eq!(fs::read_link(at("usr/sbin/reboot")).unwrap(), Path::new("../lib/haas/control"));
        // busybox's shell would run its built-in reboot and never ask the agent.
        assert_eq!(fs::read_link(at("usr/bin/sh")).unwrap(), Path::new("bash"));
        assert!(at("usr/bin/ls").symlink_metadata().unwrap().is_symlink());
        assert_eq!(names_in(&at("etc/dropbear")), ["README"]);
        assert_eq!(fs::read(at("etc/machine-id")).unwrap(), b"");
        assert!(!at("etc/hostname").exists());
        let release = fs::read_to_string(at("etc/os-release")).unwrap();
        assert!(release.contains(&format!("ID=haas-{name}\n")), "{release}");
        // Every program finds its libraries in the image itself.
        let programs = [
            "/usr/bin/bash",
            "/usr/sbin/dropbear",
            "/usr/lib/openssh/sftp-server",
            "/usr/bin/htop",
        ];
        for program in programs.iter().filter(|p| at(&p[1..]).exists()) {
            let output = Command::new("chroot")
                .arg(mounted.0.path())
                .args(["/lib64/ld-linux-x86-64.so.2", "--list", program])
                .output()
                .unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
        }
        digests.push(image);
    }
    assert_eq!(digests[0], digests[1], "the same recipe and packages give the same image");
    assert_ne!(digests[0], digests[2]);
}
