//! Images: build, import, tag, remove. Uploads are streamed to disk, and the work is done by a child
//! process of its own (`images::worker`); the answer streams its log.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt};
use haas_api::{
    List,
    image::{Image, ImageChange, ImageProgress, ImportKind, TagImage},
    names::{Digest, ImageName, ImageRef, ImageTag, UserName},
    problem::Problem,
};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt, sync::mpsc, time::timeout};
use tracing::info;

use super::{Answer, Caller, Fail, IfMatch, Json, Page, Path, Query, Tagged, guard, projects};
use crate::{
    auth::{Object, Verb},
    clock,
    context::Context,
    errors::chain,
    images::{
        ImageError, Import, ImportSource,
        blobs::BlobError,
        manifest::{Manifest, target_name},
    },
    inventory::Arch,
    requests::{self, RequestError},
    store::{ImageRow, NewAudit, NewEvent, Tx},
};

/// The name that a new image gets.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct Naming {
    /// Its name.
    name: ImageName,
    /// Its tag; `latest` where none is given.
    tag: Option<ImageTag>,
}

/// A body that is a tar, as the API's description has it.
#[derive(utoipa::ToSchema)]
#[schema(format = Binary)]
struct TarStream(#[expect(dead_code, reason = "it is only described")] String);

/// What an import brings.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(super) struct ImportQuery {
    /// Its name.
    name: ImageName,
    /// Its tag; `latest` where none is given.
    tag: Option<ImageTag>,
    /// The project whose the name is or becomes; where none is given, the cluster's or whose it is.
    project: Option<UserName>,
    /// What the body is.
    #[param(inline)]
    kind: ImportKind,
    /// Arguments for the kernel command line, with spaces between them.
    cmdline: Option<String>,
}

/// Images, newest first.
#[utoipa::path(get, path = "/v1/images", params(Page), responses((status = 200, body = List<Image>)))]
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Answer<Json<List<Image>>> {
    let mut tx = context.store.read().await?;
    let mut items = Vec::new();
    for row in tx.images().await? {
        let digest = ImageRef::Digest(row.digest.clone());
        match requests::image(&mut tx, &caller.0, Verb::View, &digest).await {
            Ok(_) => items.push(shown(&context, &mut tx, &caller, row).await?),
            Err(RequestError::NoImage(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(page.of(items, |entry: &Image| entry.digest.to_string())?))
}

/// One image, by `name:tag` or digest.
#[utoipa::path(get, path = "/v1/images/{image}", params(("image" = String, Path)),
    responses((status = 200, body = Image), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(image): Path<ImageRef>,
) -> Answer<Tagged<Image>> {
    let mut tx = context.store.read().await?;
    let digest = requests::image(&mut tx, &caller.0, Verb::View, &image).await?;
    Ok(Tagged(find(&context, &mut tx, &caller, &digest).await?))
}

/// Builds an image from a recipe. The body is a tar of the recipe's folder; the answer is JSON lines.
#[utoipa::path(post, path = "/v1/images/build", params(Naming),
    request_body(content_type = "application/x-tar", content = inline(TarStream)),
    responses((status = 200, content_type = "application/x-ndjson", body = ImageProgress)))]
pub(super) async fn build(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(naming): Query<Naming>,
    body: Body,
) -> Answer<Response> {
    caller.may(Verb::Manage, Object::Images)?;
    let work = work_folder(&context)?;
    let archive = work.path().join("recipe.tar");
    receive(body, &archive).await?;
    let recipe = work.path().join("build/.recipe");
    unpack(archive, recipe.clone()).await?;
    lay_bases_beside(&recipe)?;
    Ok(streamed(context.clone(), naming, None, caller, move |log| async move {
        let built = context.images.build(&recipe, log).await;
        drop(work);
        built
    }))
}

/// Imports a system. The body is a tar, see [`ImportKind`]; the answer is JSON lines.
#[utoipa::path(post, path = "/v1/images/import", params(ImportQuery),
    request_body(content_type = "application/x-tar", content = inline(TarStream)),
    responses((status = 200, content_type = "application/x-ndjson", body = ImageProgress)))]
pub(super) async fn import(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    body: Body,
) -> Answer<Response> {
    let mut tx = context.store.write().await?;
    may_name(&mut tx, &caller, &query.name, query.project.as_ref()).await?;
    drop(tx);
    let work = work_folder(&context)?;
    let archive = work.path().join("import.tar");
    receive(body, &archive).await?;
    let (source, kernel, modules) = match query.kind {
        ImportKind::Root => (ImportSource::Tar(archive), None, None),
        ImportKind::Raw => {
            let folder = work.path().join("raw");
            unpack(archive, folder.clone()).await?;
            let modules = only_entry(&folder.join("modules"));
            let kernel = Some(folder.join("vmlinuz")).filter(|path| path.exists());
            (ImportSource::RawDisk(folder.join("root.img")), kernel, modules)
        }
    };
    let cmdline = query.cmdline.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let import = Import { source, kernel, modules, arch: Arch::X86_64, fstype: None, cmdline };
    let naming = Naming { name: query.name, tag: query.tag };
    Ok(streamed(context.clone(), naming, query.project, caller, move |log| async move {
        let imported = context.images.import(import, log).await;
        drop(work);
        imported
    }))
}

/// Points `name:tag` to an image.
#[utoipa::path(post, path = "/v1/images/tags", request_body = TagImage,
    responses((status = 200, body = Image), (status = 404, body = Problem)))]
pub(super) async fn tag(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Json(request): Json<TagImage>,
) -> Answer<Json<Image>> {
    let mut tx = context.store.write().await?;
    may_name(&mut tx, &caller, &request.name, None).await?;
    // A name must not open to others what only its own was opened to.
    let digest = requests::image(&mut tx, &caller.0, Verb::Manage, &request.image).await?;
    tx.set_tag(&request.name, &request.tag, &digest).await?;
    let image = find(&context, &mut tx, &caller, &digest).await?;
    caller
        .commit(tx, StatusCode::OK, format!("{}:{} is {digest}", request.name, request.tag))
        .await?;
    Ok(Json(image))
}

/// Opens an image, so that nodes that boot it may read it without proving themselves, or closes it.
/// Sessions that stand are not touched.
#[utoipa::path(patch, path = "/v1/images/{image}", params(("image" = String, Path)),
    request_body = ImageChange,
    responses((status = 200, body = Image), (status = 404, body = Problem)))]
pub(super) async fn change(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(image): Path<ImageRef>,
    seen: IfMatch,
    Json(change): Json<ImageChange>,
) -> Answer<Tagged<Image>> {
    caller.may(Verb::Manage, Object::Images)?;
    let mut tx = context.store.write().await?;
    let digest = requests::image(&mut tx, &caller.0, Verb::Manage, &image).await?;
    let before = find(&context, &mut tx, &caller, &digest).await?;
    seen.check(&before)?;
    tx.set_open(&digest, change.open).await?;
    let kind = if change.open { "image-opened" } else { "image-closed" };
    if change.open != before.open {
        let names = tx.names_of_image(&digest).await?;
        let owner = names.into_iter().find_map(|(_, project)| project);
        tx.add_event(NewEvent {
            at: clock::wall(),
            kind,
            node: None,
            operation: None,
            actor: caller.0.name.as_str(),
            data: serde_json::json!({ "image": image.to_string(), "digest": digest }),
            tenant: owner.as_deref(),
        })
        .await?;
    }
    let after = find(&context, &mut tx, &caller, &digest).await?;
    caller.commit(tx, StatusCode::OK, format!("{kind}: {digest}")).await?;
    context.exports.reload(&context.store).await?;
    context.told();
    info!(%image, %digest, kind, "image changed");
    Ok(Tagged(after))
}

/// Removes a tag; an image without tags goes with its last one. Refused while a node needs it.
#[utoipa::path(delete, path = "/v1/images/{image}", params(("image" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    caller: Caller,
    Path(image): Path<ImageRef>,
    seen: IfMatch,
) -> Answer<StatusCode> {
    let _change = context.images.change().await;
    let mut tx = context.store.write().await?;
    let digest = requests::image(&mut tx, &caller.0, Verb::Manage, &image).await?;
    seen.check(&find(&context, &mut tx, &caller, &digest).await?)?;
    let row = tx.images().await?.into_iter().find(|row| row.digest == digest);
    let tags = row.map_or(0, |row| row.tags.len());
    if let (ImageRef::Tag(name, tag), true) = (&image, tags > 1) {
        tx.remove_tag(name, tag).await?;
        tx.forget_image_owner(name).await?;
        caller
            .commit(tx, StatusCode::NO_CONTENT, format!("removed the name {image} of {digest}"))
            .await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let users = tx.image_users(&digest).await?;
    if !users.is_empty() {
        let nodes: Vec<_> = users.into_iter().map(|(node, _)| node).collect();
        return Err(Fail::conflict(
            "image-in-use",
            format!("{image} is in use on {}; switch them to another", nodes.join(", ")),
        ));
    }
    let reserved = tx.reservations_of_image(&digest).await?;
    if !reserved.is_empty() {
        let ids: Vec<_> = reserved.iter().map(ToString::to_string).collect();
        let detail = format!("{image} is to be booted by the reservations {}", ids.join(", "));
        return Err(Fail::conflict("image-in-use", detail));
    }
    let names = tx.names_of_image(&digest).await?;
    for (name, project) in &names {
        // The last tag takes the image with it, so that all its names must be the caller's.
        caller.may(Verb::Manage, Object::Image { name, project: project.as_deref() })?;
    }
    tx.remove_image(&digest).await?;
    for (name, _) in &names {
        tx.forget_image_owner(name).await?;
    }
    caller.commit(tx, StatusCode::NO_CONTENT, format!("removed {digest}")).await?;
    // The files go once nothing exports them any more.
    context.exports.reload(&context.store).await?;
    let images = context.images.clone();
    tokio::task::spawn_blocking(move || images.remove(&digest))
        .await
        .map_err(|e| Fail::internal(&e))?
        .map_err(|e| Fail::internal(&e))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Runs the making of an image and streams what it says, then its end.
fn streamed<F>(
    context: Arc<Context>,
    naming: Naming,
    project: Option<UserName>,
    caller: Caller,
    make: impl FnOnce(mpsc::Sender<String>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Result<(Digest, Manifest), ImageError>> + Send,
{
    caller.did("begun; its end has an entry of its own");
    let (lines, answer) = mpsc::channel::<ImageProgress>(64);
    tokio::spawn(async move {
        let (log, mut said) = mpsc::channel(64);
        let forward = lines.clone();
        let forwarder = async move {
            while let Some(line) = said.recv().await {
                // A caller who is gone ends the stream; dropping the future ends the build.
                if forward.send(ImageProgress::Log(line)).await.is_err() {
                    break;
                }
            }
        };
        let gone = lines.clone();
        let made = tokio::select! {
            (made, ()) = async { tokio::join!(make(log), forwarder) } => made,
            () = gone.closed() => {
                ended(&context, &caller, StatusCode::REQUEST_TIMEOUT, "the client went away".to_owned()).await;
                return;
            }
        };
        let end = match made {
            Ok((digest, manifest)) => {
                match keep(&context, &naming, project.as_ref(), &caller, &digest, &manifest).await {
                    Ok(image) => ImageProgress::Done(Box::new(image)),
                    Err(fail) => ImageProgress::Failed(fail.into_problem()),
                }
            }
            Err(ImageError::Store(error @ BlobError::NoSpace { .. })) => {
                let full = format!("the controller's disk is full: {error}");
                let code = StatusCode::INSUFFICIENT_STORAGE;
                ImageProgress::Failed(Fail::new(code, "no-space", full).into_problem())
            }
            Err(error) => {
                ImageProgress::Failed(Fail::bad("image-refused", chain(&error)).into_problem())
            }
        };
        let (status, detail) = match &end {
            ImageProgress::Log(_) => (StatusCode::OK, String::new()),
            ImageProgress::Done(image) => (StatusCode::CREATED, image.digest.to_string()),
            ImageProgress::Failed(problem) => {
                let status = StatusCode::from_u16(problem.status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (status, problem.code.clone())
            }
        };
        ended(&context, &caller, status, detail).await;
        // Nobody waits for the answer any more: the image is there all the same.
        let _ = lines.send(end).await;
    });
    let body = Body::from_stream(json_lines(answer));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// Notes how the making of an image ended: its answer had begun long before.
async fn ended(context: &Context, caller: &Caller, status: StatusCode, detail: String) {
    let entry = caller.1.ended(&caller.0, status);
    guard::note(context, NewAudit { detail, ..entry }).await;
}

fn json_lines(
    answer: mpsc::Receiver<ImageProgress>,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    tokio_stream::wrappers::ReceiverStream::new(answer).map(|line| {
        let mut text = serde_json::to_string(&line).expect("progress is plain data");
        text.push('\n');
        Ok(Bytes::from(text))
    })
}

/// Notes a new image under its name, and exports it.
async fn keep(
    context: &Context,
    naming: &Naming,
    project: Option<&UserName>,
    caller: &Caller,
    digest: &Digest,
    manifest: &Manifest,
) -> Answer<Image> {
    let tag = match &naming.tag {
        Some(tag) => tag.clone(),
        None => "latest".parse().expect("a valid tag"),
    };
    let text = String::from_utf8(manifest.canonical()).map_err(|e| Fail::internal(&e))?;
    let _change = context.images.change().await;
    // Somebody may have removed the same image a moment ago.
    context.images.manifest(digest).map_err(|e| Fail::internal(&e))?;
    let mut tx = context.store.write().await?;
    // Much may have happened while it was made.
    let owner = may_name(&mut tx, caller, &naming.name, project).await?;
    tx.add_image(digest, &text, clock::wall()).await?;
    tx.set_tag(&naming.name, &tag, digest).await?;
    tx.add_event(NewEvent {
        at: clock::wall(),
        kind: "image-added",
        node: None,
        operation: None,
        actor: caller.0.name.as_str(),
        data: serde_json::json!({ "image": format!("{}:{tag}", naming.name), "digest": digest }),
        tenant: owner.as_deref(),
    })
    .await?;
    let image = find(context, &mut tx, caller, digest).await?;
    tx.commit().await?;
    context.exports.reload(&context.store).await?;
    context.told();
    info!(image = %naming.name, %tag, %digest, "image added");
    Ok(image)
}

/// Whether the caller may give an image this name, and the project whose the name is then, if it is
/// one's. A new name becomes the project's that is named.
async fn may_name(
    tx: &mut Tx,
    caller: &Caller,
    name: &ImageName,
    project: Option<&UserName>,
) -> Answer<Option<String>> {
    let owner = tx.image_owner(name).await?;
    let Some(project) = project else {
        let object = match &owner {
            Some(owner) => Object::Image { name, project: Some(owner) },
            None => Object::Images,
        };
        caller.may(Verb::Manage, object)?;
        return Ok(owner);
    };
    let project = projects::find(tx, project.as_str()).await?;
    caller.may(Verb::Manage, Object::Project { id: Some(&project.id) })?;
    if owner.is_none() {
        let has = tx.images_of(&project.id).await?.len();
        projects::within("images", &project, project.limits.images, has)?;
    }
    tx.set_image_owner(name, &project.id).await?;
    Ok(Some(project.id))
}

pub(super) fn no_such_image(image: &ImageRef) -> Fail {
    let detail = format!("there is no image {image}; `haasctl image list` shows all");
    Fail::not_found("no-image", detail)
}

async fn find(context: &Context, tx: &mut Tx, caller: &Caller, digest: &Digest) -> Answer<Image> {
    let row = tx
        .images()
        .await?
        .into_iter()
        .find(|row| row.digest == *digest)
        .ok_or_else(|| Fail::not_found("no-image", format!("there is no image {digest}")))?;
    shown(context, tx, caller, row).await
}

/// An image as the caller may see it: with the names and nodes that are not others'.
async fn shown(context: &Context, tx: &mut Tx, caller: &Caller, row: ImageRow) -> Answer<Image> {
    let mut project = None;
    let mut hidden = Vec::new();
    for (name, owner) in tx.names_of_image(&row.digest).await? {
        let object = Object::Image { name: &name, project: owner.as_deref() };
        if caller.may(Verb::View, object).is_err() {
            hidden.push(name);
        } else if let Some(owner) = owner {
            project = tx.project_by_id(&owner).await?.map(|project| project.name);
        }
    }
    let mut nodes = tx.image_users(&row.digest).await?;
    nodes
        .retain(|(_, tenant)| caller.may(Verb::View, Object::Deed { actor: None, tenant }).is_ok());
    let mut nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
    nodes.dedup();
    let manifest = Manifest::parse(row.manifest.as_bytes()).map_err(|e| Fail::internal(&e))?;
    let agent = std::fs::metadata(&context.config.agent_cpio).map_or(0, |meta| meta.len());
    Ok(Image {
        nodes,
        project,
        target: target_name(&row.digest),
        tags: row
            .tags
            .into_iter()
            .filter(|tag| !matches!(tag, ImageRef::Tag(name, _) if hidden.contains(name)))
            .collect(),
        root_bytes: manifest.root.size,
        fstype: manifest.root.fstype.to_string(),
        kernel: manifest.kernel.release.clone(),
        boot_bytes: manifest.kernel.size + manifest.modules.size + agent,
        arch: match manifest.arch {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
        .to_owned(),
        open: row.is_open,
        created_at: clock::rfc3339(row.created_at),
        digest: row.digest,
    })
}

fn work_folder(context: &Context) -> Answer<tempfile::TempDir> {
    let below = context.config.state_dir.join("uploads");
    std::fs::create_dir_all(&below)
        .and_then(|()| tempfile::tempdir_in(&below))
        .map_err(|e| Fail::internal(&e))
}

/// An upload of which nothing came for this long is over.
const STALL: Duration = Duration::from_secs(120);

/// Streams a body to a file. A disk that fills up is told as such, and nothing is left behind.
async fn receive(body: Body, to: &std::path::Path) -> Answer<()> {
    let mut file = tokio::fs::File::create(to).await.map_err(|e| no_room(&e))?;
    let mut stream = body.into_data_stream();
    let broke_off = || Fail::bad("upload-broke-off", "the upload broke off");
    while let Some(chunk) = timeout(STALL, stream.next()).await.map_err(|_| broke_off())? {
        let chunk = chunk.map_err(|_| broke_off())?;
        let written = match file.write_all(&chunk).await {
            // Written behind our back, so that a full disk may show only here.
            Ok(()) => file.flush().await,
            failed => failed,
        };
        if let Err(error) = written {
            // The room is given back at once. Then the rest is taken and dropped: a client that is
            // cut off while it sends never reads why.
            let _ = file.set_len(0).await;
            while stream.next().await.is_some_and(|chunk| chunk.is_ok()) {}
            return Err(no_room(&error));
        }
    }
    file.flush().await.map_err(|e| no_room(&e))
}

fn no_room(error: &std::io::Error) -> Fail {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Fail::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "no-space",
            "the controller's disk is full; remove images that no node needs, or give it more room",
        );
    }
    Fail::internal(error)
}

async fn unpack(archive: PathBuf, folder: PathBuf) -> Answer<()> {
    let unpacked = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)?;
        // `unpack` refuses entries that would land outside of the folder.
        tar::Archive::new(std::fs::File::open(&archive)?).unpack(&folder)
    })
    .await
    .map_err(|e| Fail::internal(&e))?;
    unpacked.map_err(|error| match error.kind() {
        std::io::ErrorKind::StorageFull => no_room(&error),
        _ => Fail::bad("bad-tar", format!("the upload is no tar archive: {error}")),
    })
}

/// Moves the recipes that a recipe is based on, which its tar has in `.bases`, to where a recipe
/// looks for them: beside it. No name of a recipe begins with a dot, so none takes its place.
fn lay_bases_beside(recipe: &std::path::Path) -> Answer<()> {
    let bases = recipe.join(".bases");
    let Ok(entries) = std::fs::read_dir(&bases) else { return Ok(()) };
    let beside = recipe.parent().unwrap_or(recipe);
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.parse::<ImageName>().is_ok()) {
            std::fs::rename(entry.path(), beside.join(name)).map_err(|e| Fail::internal(&e))?;
        }
    }
    std::fs::remove_dir_all(&bases).map_err(|e| Fail::internal(&e))
}

/// The one entry of a folder: `modules/RELEASE`.
fn only_entry(folder: &std::path::Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    entries.next().map(|entry| entry.path())
}
