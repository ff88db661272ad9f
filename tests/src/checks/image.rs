//! An image as it lies on the controller: which file, and whether it is still the same.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use haas_api::image::Image;
use sha2::{Digest, Sha256};

use super::megabytes;
use crate::haasd::Haasd;
use crate::rack::Rack;

/// The root disk of an image, as it was when this was made.
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// Its name, without a tag.
    pub name: String,
    /// Its manifest's digest: `sha256:...`.
    pub digest: String,
    /// The file that is exported to the nodes.
    pub path: PathBuf,
    pub size: Size,
    sha256: String,
}

/// Bytes, shown as megabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&megabytes(self.0))
    }
}

impl ImageFile {
    /// Looks up what the name means now, and reads the whole file.
    pub fn of(haasd: &Haasd<'_>, rack: &Rack, name: &str) -> Result<ImageFile> {
        let image: Image = haasd.ctl_json(&["image", "show", name])?;
        let digest = image.digest.to_string();
        let path = blob(rack, &digest, "root")?;
        let mut hash = Sha256::new();
        let mut file = File::open(&path)?;
        let size = Size(io::copy(&mut file, &mut hash)?);
        let sha256 = hex::encode(hash.finalize());
        Ok(ImageFile { name: name.to_owned(), digest, path, size, sha256 })
    }

    /// The image's kernel.
    pub fn kernel(&self, rack: &Rack) -> Result<PathBuf> {
        blob(rack, &self.digest, "kernel")
    }

    /// Fails if the name means another image, or the file holds other bytes than those that its
    /// digest promises.
    pub fn is_unchanged(&self, haasd: &Haasd<'_>, rack: &Rack) -> Result<()> {
        let now = ImageFile::of(haasd, rack, &self.name)?;
        ensure!(now.digest == self.digest, "the name means {} now", now.digest);
        ensure!(now.sha256 == self.sha256, "the file's SHA-256 is {} now", now.sha256);
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        ensure!(name.as_deref() == Some(&*now.sha256), "the file's bytes are not its digest's");
        Ok(())
    }
}

/// A file of the image with this digest.
fn blob(rack: &Rack, digest: &str, part: &str) -> Result<PathBuf> {
    let hex = digest.strip_prefix("sha256:").context("a digest begins with sha256:")?;
    let images = rack.dir().join("state/images");
    let manifest = images.join("manifests").join(format!("{hex}.json"));
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest)?)?;
    let blob = manifest[part]["digest"].as_str().and_then(|d| d.strip_prefix("sha256:"));
    let blob = blob.with_context(|| format!("the manifest names no {part}"))?;
    Ok(images.join("blobs/sha256").join(blob))
}
