//! `image`: build, import, name, remove.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use haas_api::{
    List,
    client::{Client, ClientError, Progress},
    image::{
        BootRead, Image, ImageChange, ImageProgress, ImageSessions, ImportKind, SessionCounts,
        TagImage,
    },
    names::{Digest, ImageName, ImageRef, ImageTag, UserName},
};

use crate::{
    cli::Session,
    confirm::Yes,
    error::{Error, io_error},
    format, pack,
    table::{Field, Table, number, or_dash},
    upload::Upload,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a recipe's folder.
    #[command(after_help = "\
Examples:
  haasctl image build images/minimal
  haasctl image build images/minimal --name minimal --tag 2026-11")]
    Build {
        /// The recipe's folder.
        folder: PathBuf,
        /// The image's name; the folder's where none is given.
        #[arg(long)]
        name: Option<ImageName>,
        /// The image's tag.
        #[arg(long, default_value = "latest")]
        tag: ImageTag,
    },
    /// Import a root file system: a folder, a tar, or a raw file system image.
    ///
    /// A folder or tar holds the whole root with its kernel in /boot and its modules in
    /// /lib/modules. A folder keeps owners, modes, links, devices and extended attributes, so read
    /// it as root; other file systems mounted in it are left out. A raw image needs its kernel and
    /// modules beside it.
    #[command(after_help = "\
Examples:
  haasctl image import /srv/rocky9 --name rocky --tag 9.4
  haasctl image import rocky9.tar --name rocky
  zstd -dc rocky9.tar.zst | haasctl image import - --name rocky
  haasctl image import root.erofs --kernel vmlinuz --modules lib/modules/6.1.0-30-amd64 --name debian")]
    Import(ImportArgs),
    /// List images.
    #[command(after_help = "Examples:\n  haasctl image list")]
    List,
    /// Show an image.
    #[command(after_help = "Examples:\n  haasctl image show minimal:latest")]
    Show {
        /// `name`, `name:tag` or `sha256:...`.
        image: ImageRef,
    },
    /// What the nodes that run an image read from it, how fast, and how much of it is in memory.
    #[command(after_help = "Examples:\n  haasctl image sessions minimal:latest")]
    Sessions {
        /// The image: `name`, `name:tag` or `sha256:...`.
        image: ImageRef,
    },
    /// What the first boot of an image since haasd started has read, in order.
    #[command(after_help = "Examples:\n  haasctl image reads minimal:latest -o json")]
    Reads {
        /// The image: `name`, `name:tag` or `sha256:...`.
        image: ImageRef,
    },
    /// Give an image another name.
    #[command(after_help = "Examples:\n  haasctl image tag minimal:latest minimal:stable")]
    Tag {
        /// The image: `name`, `name:tag` or `sha256:...`.
        image: ImageRef,
        /// The new name, `name` or `name:tag`. It is moved if another image has it.
        new: ImageRef,
    },
    /// Let nodes that boot an image read it without proving themselves, as initiators that know no
    /// secret do: iPXE's, dracut's. Nodes with haas's agent prove themselves all the same.
    #[command(after_help = "Examples:\n  haasctl image open minimal:latest")]
    Open {
        /// The image: `name`, `name:tag` or `sha256:...`.
        image: ImageRef,
    },
    /// Let only those nodes read an image that prove themselves (CHAP).
    #[command(after_help = "Examples:\n  haasctl image close minimal:latest")]
    Close {
        /// The image: `name`, `name:tag` or `sha256:...`.
        image: ImageRef,
    },
    /// Remove an image; refused while a node uses it.
    #[command(after_help = "Examples:\n  haasctl image rm minimal:old")]
    Rm {
        /// `name`, `name:tag` or `sha256:...`.
        image: ImageRef,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A folder, a tar (`-` for standard input), or with --kernel a file system image.
    source: PathBuf,
    /// The image's name.
    #[arg(long)]
    name: ImageName,
    /// The image's tag.
    #[arg(long, default_value = "latest")]
    tag: ImageTag,
    /// The project whose image it is; without, the cluster's or whose the name is already.
    #[arg(long)]
    project: Option<UserName>,
    /// For a file system image: its kernel.
    #[arg(long, value_name = "FILE", requires = "modules")]
    kernel: Option<PathBuf>,
    /// For a file system image: its modules, the folder `lib/modules/RELEASE`.
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    modules: Option<PathBuf>,
}

impl Command {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let client = session.client()?;
        let out = session.out;
        match self {
            Self::Build { folder, name, tag } => build(session, &client, folder, name, tag).await,
            Self::Import(args) => args.run(session, &client).await,
            Self::List => {
                let list = List::whole(client.images().await?);
                out.show(&list, || list_table(&list.items))
            }
            Self::Show { image } => {
                let image = client.image(&image).await?;
                out.show(&image, || show_table(&image))
            }
            Self::Sessions { image } => {
                let sessions = client.image_sessions(&image).await?;
                out.show(&sessions, || sessions_table(&sessions))?;
                let cached = sessions.cached_bytes.map_or_else(
                    || "the image's file cannot be opened; see haasd's log".to_owned(),
                    |bytes| format!("{} of the image are in memory", format::bytes(bytes)),
                );
                out.note(&format!("{cached}; counted since haasd started."))
            }
            Self::Reads { image } => {
                let list = List::whole(client.image_reads(&image).await?);
                out.show(&list, || reads_table(&list.items))
            }
            Self::Tag { image, new } => {
                let ImageRef::Tag(name, tag) = new else {
                    return Err(Error::Usage("the new name must be name or name:tag".to_owned()));
                };
                let image = client.tag_image(&TagImage { image, name, tag }).await?;
                out.show(&image, || show_table(&image))
            }
            Self::Open { image } => change(session, &client, &image, true).await,
            Self::Close { image } => change(session, &client, &image, false).await,
            Self::Rm { image, yes } => {
                yes.ask(session, &format!("Remove image {image}?"))?;
                client.remove_image(&image).await?;
                out.note(&format!("Image {image} is removed."))
            }
        }
    }
}

async fn change(
    session: &Session<'_>,
    client: &Client,
    image: &ImageRef,
    open: bool,
) -> Result<(), Error> {
    let image = client.change_image(image, &ImageChange { open }).await?;
    session.out.show(&image, || show_table(&image))
}

async fn build(
    session: &Session<'_>,
    client: &Client,
    folder: PathBuf,
    name: Option<ImageName>,
    tag: ImageTag,
) -> Result<(), Error> {
    let folder =
        folder.canonicalize().map_err(io_error(format!("{} cannot be read", folder.display())))?;
    if !folder.is_dir() {
        return Err(Error::Usage(format!("{} is no folder", folder.display())));
    }
    let name = match name {
        Some(name) => name,
        None => folder
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| {
                Error::Usage("the folder's name is no image name; give one with --name".to_owned())
            })?,
    };
    // Before anything is packed: a refusal would else show as a broken connection.
    client.whoami().await?;
    let (body, upload) = Upload::start(move |tar| pack::recipe(&folder, tar));
    let progress = client.build_image(&name, &tag, body).await;
    finish(session, progress, Some(upload)).await
}

impl ImportArgs {
    async fn run(self, session: &Session<'_>, client: &Client) -> Result<(), Error> {
        let source = self.source;
        let read = format!("{} cannot be read", source.display());
        if let (Some(kernel), Some(modules)) = (self.kernel, self.modules) {
            client.whoami().await?;
            let (body, upload) =
                Upload::start(move |tar| pack::raw(&source, &kernel, &modules, tar));
            let progress = client
                .import_image(&self.name, &self.tag, ImportKind::Raw, self.project.as_ref(), body)
                .await;
            return finish(session, progress, Some(upload)).await;
        }
        let (body, upload) = if source.as_os_str() == "-" {
            client.whoami().await?;
            Upload::start(|to| copy(&mut io::stdin().lock(), to))
        } else if source.is_dir() {
            client.whoami().await?;
            Upload::start(move |tar| pack::root(&source, tar))
        } else {
            let mut file = File::open(&source).map_err(io_error(read.clone()))?;
            refuse_what_is_no_tar(&source, &mut file, &read)?;
            client.whoami().await?;
            let file = File::open(&source).map_err(io_error(read))?;
            Upload::start(move |to| copy(&mut { file }, to))
        };
        let progress = client
            .import_image(&self.name, &self.tag, ImportKind::Root, self.project.as_ref(), body)
            .await;
        finish(session, progress, Some(upload)).await
    }
}

fn copy(from: &mut dyn Read, to: &mut dyn io::Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

fn refuse_what_is_no_tar(source: &Path, file: &mut File, what: &str) -> Result<(), Error> {
    let mut head = Vec::new();
    file.take(512).read_to_end(&mut head).map_err(io_error(what))?;
    let file = source.display();
    let unpack = match head.as_slice() {
        _ if head.get(257..262) == Some(b"ustar") => return Ok(()),
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => {
            return Err(Error::Usage(format!(
                "{file} is no tar; for a file system image give --kernel and --modules too"
            )));
        }
    };
    Err(Error::Usage(format!(
        "{file} is compressed; send it as {unpack} -dc {file} | haasctl image import - ..."
    )))
}

/// Shows what the build says until it is done. What went wrong while packing comes first: the
/// broken connection that followed from it says nothing.
async fn finish(
    session: &Session<'_>,
    progress: Result<Progress, ClientError>,
    upload: Option<Upload>,
) -> Result<(), Error> {
    let result = follow(session, progress).await;
    match upload.and_then(|upload| upload.failure()) {
        Some(source) if result.is_err() => {
            Err(Error::Io { what: "the image cannot be sent whole".to_owned(), source })
        }
        _ => result,
    }
}

async fn follow(
    session: &Session<'_>,
    progress: Result<Progress, ClientError>,
) -> Result<(), Error> {
    let mut progress = progress?;
    while let Some(step) = progress.next().await? {
        match step {
            ImageProgress::Log(line) => session.out.note(&line)?,
            ImageProgress::Done(image) => return session.out.show(&*image, || show_table(&image)),
            ImageProgress::Failed(problem) => {
                return Err(ClientError::Problem(Box::new(problem)).into());
            }
        }
    }
    Err(Error::Failed(
        "haasd ended before the image was done; see haasd's log and haasctl image list".to_owned(),
    ))
}

fn list_table(images: &[Image]) -> Table {
    let mut table = Table::new([
        "IMAGE", "DIGEST", "ROOT", "BOOT", "KERNEL", "ARCH", "OPEN", "CREATED", "NODES",
    ]);
    for image in images {
        table.row([
            or_dash(tags(image)),
            image.digest.short().into(),
            number(format::bytes(image.root_bytes)),
            number(format::bytes(image.boot_bytes)),
            (&image.kernel).into(),
            (&image.arch).into(),
            or_dash(image.open.then_some("yes")),
            format::time(&image.created_at).into(),
            or_dash(Some(format::fold(&image.nodes)).filter(|nodes| !nodes.is_empty())),
        ]);
    }
    table
}

fn sessions_table(sessions: &ImageSessions) -> Table {
    let mut table = Table::new([
        "NODE", "USER", "ADDRESS", "SESSIONS", "LOGINS", "READS", "BYTES", "P50", "P99", "ERRORS",
    ]);
    let mut row = |node: Field, user: Field, address: Field, counts: &SessionCounts| {
        let errors: Vec<_> =
            counts.errors.iter().map(|e| format!("{} x{}", e.sense, e.count)).collect();
        table.row([
            node,
            user,
            address,
            number(counts.sessions.to_string()),
            number(counts.logins.to_string()),
            number(counts.reads.to_string()),
            number(format::bytes(counts.bytes)),
            counts.p50_us.map_or_else(|| or_dash(None::<String>), |us| number(below(us))),
            counts.p99_us.map_or_else(|| or_dash(None::<String>), |us| number(below(us))),
            or_dash(Some(errors.join(", ")).filter(|errors| !errors.is_empty())),
        ]);
    };
    for node in &sessions.nodes {
        row((&node.node).into(), (&node.user).into(), or_dash(node.address.clone()), &node.counts);
    }
    let dash = || or_dash(None::<String>);
    for user in &sessions.users {
        row("all".into(), (&user.user).into(), dash(), &user.counts);
    }
    row("all".into(), dash(), dash(), &sessions.all);
    table
}

/// A bound of the histogram, to be read.
fn below(us: u64) -> String {
    if us < 1000 { format!("<{us} us") } else { format!("<{} ms", us.div_ceil(1000)) }
}

fn reads_table(reads: &[BootRead]) -> Table {
    let mut table = Table::new(["READ", "AT", "LBA", "BLOCKS"]);
    for read in reads {
        table.row([
            number(read.number.to_string()),
            number(format!("{:.6} s", Duration::from_micros(read.at_us).as_secs_f64())),
            number(read.lba.to_string()),
            number(read.blocks.to_string()),
        ]);
    }
    table
}

fn tags(image: &Image) -> Option<String> {
    let tags: Vec<_> = image.tags.iter().map(ToString::to_string).collect();
    (!tags.is_empty()).then(|| tags.join(", "))
}

fn show_table(image: &Image) -> Table {
    let digest: &Digest = &image.digest;
    let mut table = Table::pairs();
    table.pair("image", or_dash(tags(image)));
    table.pair("digest", digest);
    table.pair("root", format!("{} {}", format::bytes(image.root_bytes), image.fstype));
    table.pair("kernel+initramfs", format::bytes(image.boot_bytes));
    table.pair("kernel", &image.kernel);
    table.pair("arch", &image.arch);
    table.pair("target", &image.target);
    table.pair(
        "read by",
        if image.open {
            "nodes that boot it, without a secret too"
        } else {
            "nodes that boot it, with their secret"
        },
    );
    table.pair("created", format::time(&image.created_at));
    let nodes = Some(format::fold(&image.nodes)).filter(|nodes| !nodes.is_empty());
    table.pair("nodes", or_dash(nodes));
    table
}
