//! Images and their tags. The blobs are files (`images/`); here is what names them.

use haas_api::names::{Digest, ImageName, ImageRef, ImageTag};
use sqlx::{query, query_as, query_scalar};

use super::{Result, Tx, changed, from_text, on};
use crate::model::Micros;

/// An image as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// Its identity.
    pub digest: Digest,
    /// The manifest's text, whose SHA-256 is the digest.
    pub manifest: String,
    /// When it came here, wall clock.
    pub created_at: Micros,
    /// Whether nodes that boot it may read it without proving themselves.
    pub is_open: bool,
    /// The tags that point to it.
    pub tags: Vec<ImageRef>,
}

impl Tx {
    /// Adds an image, or does nothing where it is known.
    pub async fn add_image(&mut self, digest: &Digest, manifest: &str, at: Micros) -> Result<()> {
        changed!(
            self,
            query(
                "insert into images (digest, manifest, created_at) values ($1, $2, $3)
                 on conflict (digest) do nothing",
            )
            .bind(digest.as_str())
            .bind(manifest)
            .bind(at)
        )?;
        Ok(())
    }

    /// Points `name:tag` to an image that is known.
    pub async fn set_tag(
        &mut self,
        name: &ImageName,
        tag: &ImageTag,
        digest: &Digest,
    ) -> Result<()> {
        changed!(
            self,
            query(
                "insert into image_tags (name, tag, digest) values ($1, $2, $3)
                 on conflict (name, tag) do update set digest = excluded.digest",
            )
            .bind(name.as_str())
            .bind(tag.as_str())
            .bind(digest.as_str())
        )?;
        Ok(())
    }

    /// All images, newest first, with their tags.
    pub async fn images(&mut self) -> Result<Vec<ImageRow>> {
        let rows: Vec<(String, String, i64, bool)> = on!(
            self,
            c => query_as(
                "select digest, manifest, created_at, is_open from images
                 order by created_at desc, digest",
            )
            .fetch_all(c)
        )?;
        let tags: Vec<(String, String, String)> = on!(
            self,
            c => query_as("select name, tag, digest from image_tags order by name, tag").fetch_all(c)
        )?;
        rows.into_iter()
            .map(|(digest, manifest, created_at, is_open)| {
                let tags = tags
                    .iter()
                    .filter(|(_, _, d)| *d == digest)
                    .map(|(name, tag, _)| from_text("image_tags", &format!("{name}:{tag}")))
                    .collect::<Result<_>>()?;
                let digest = from_text("images", &digest)?;
                Ok(ImageRow { digest, manifest, created_at, is_open, tags })
            })
            .collect()
    }

    /// The text of an image's manifest.
    pub async fn image_manifest(&mut self, digest: &Digest) -> Result<Option<String>> {
        on!(
            self,
            c => query_scalar("select manifest from images where digest = $1")
                .bind(digest.as_str())
                .fetch_optional(c)
        )
    }

    /// The digest that a reference means now.
    pub async fn resolve_image(&mut self, image: &ImageRef) -> Result<Option<Digest>> {
        let found: Option<String> = match image {
            ImageRef::Tag(name, tag) => on!(
                self,
                c => query_scalar("select digest from image_tags where name = $1 and tag = $2")
                    .bind(name.as_str())
                    .bind(tag.as_str())
                    .fetch_optional(c)
            )?,
            ImageRef::Digest(digest) => on!(
                self,
                c => query_scalar("select digest from images where digest = $1")
                    .bind(digest.as_str())
                    .fetch_optional(c)
            )?,
        };
        found.map(|digest| from_text("images", &digest)).transpose()
    }

    /// The names that an image has tags of, and the project whose each is; none: the cluster's.
    pub async fn names_of_image(
        &mut self,
        digest: &Digest,
    ) -> Result<Vec<(ImageName, Option<String>)>> {
        let rows: Vec<(String, Option<String>)> = on!(
            self,
            c => query_as(
                "select distinct image_tags.name, image_owners.project_id from image_tags
                 left join image_owners on image_owners.name = image_tags.name
                 where image_tags.digest = $1 order by image_tags.name",
            )
            .bind(digest.as_str())
            .fetch_all(c)
        )?;
        rows.into_iter().map(|(name, owner)| Ok((from_text("image_tags", &name)?, owner))).collect()
    }

    /// The names of the nodes that want this image now, that still run an attempt of it or that may go
    /// back to it, and for whom they do.
    pub async fn image_users(&mut self, digest: &Digest) -> Result<Vec<(String, String)>> {
        on!(
            self,
            c => query_as(
                "select distinct nodes.name, desired.tenant from nodes
                 join desired on desired.node_id = nodes.id
                 where desired.image_digest = $1
                   and (desired.generation = nodes.generation
                        or exists (select 1 from operation_nodes
                                   join operations on operations.id = operation_nodes.operation_id
                                   where operation_nodes.node_id = nodes.id
                                   and operation_nodes.generation = desired.generation + 1
                                   and operations.committed_at is null
                                   and operations.state in ('running', 'paused'))
                        or exists (select 1 from attempts where attempts.node_id = nodes.id
                                   and attempts.generation = desired.generation
                                   and attempts.state in ('open', 'ready')))
                 order by nodes.name",
            )
            .bind(digest.as_str())
            .fetch_all(c)
        )
    }

    /// The numbers of the reservations that are to boot this image.
    pub async fn reservations_of_image(&mut self, digest: &Digest) -> Result<Vec<i64>> {
        on!(
            self,
            c => query_scalar(
                "select id from reservations
                 where image_digest = $1 and state in ('pending', 'planned', 'starting', 'active')
                 order by id",
            )
            .bind(digest.as_str())
            .fetch_all(c)
        )
    }

    /// The image that last ran over an overlay, if it was asked for by this name and is still there.
    pub async fn image_over(&mut self, overlay_id: &str, name: &str) -> Result<Option<Digest>> {
        let last: Option<(String, String)> = on!(
            self,
            c => query_as(
                "select desired.image_digest, desired.image_name from desired
                 join images on images.digest = desired.image_digest
                 where desired.overlay_id = $1 and desired.power_on
                 order by desired.created_at desc, desired.generation desc limit 1",
            )
            .bind(overlay_id)
            .fetch_optional(c)
        )?;
        let last = last.filter(|(_, known)| known == name);
        last.map(|(digest, _)| from_text("desired", &digest)).transpose()
    }

    /// Says whether nodes that boot this image may read it without proving themselves.
    pub async fn set_open(&mut self, digest: &Digest, is_open: bool) -> Result<()> {
        changed!(
            self,
            query("update images set is_open = $2 where digest = $1")
                .bind(digest.as_str())
                .bind(is_open)
        )?;
        Ok(())
    }

    /// Removes a tag; true if it was there.
    pub async fn remove_tag(&mut self, name: &ImageName, tag: &ImageTag) -> Result<bool> {
        let done = changed!(
            self,
            query("delete from image_tags where name = $1 and tag = $2")
                .bind(name.as_str())
                .bind(tag.as_str())
        )?;
        Ok(done == 1)
    }

    /// Removes an image and its tags.
    pub async fn remove_image(&mut self, digest: &Digest) -> Result<()> {
        changed!(self, query("delete from image_tags where digest = $1").bind(digest.as_str()))?;
        changed!(self, query("delete from images where digest = $1").bind(digest.as_str()))?;
        Ok(())
    }
}
