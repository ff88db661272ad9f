//! Files that nodes download, in memory once for all who do at a moment: those of a fleet fetch the same two,
//! and what each read for itself would be the same bytes a thousand times.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use tokio::sync::Mutex;

/// A file that is larger is read by each alone, bytes.
const MOST_OF_ONE: u64 = 64 << 20;
/// All of them together are not larger, bytes.
const MOST: u64 = 128 << 20;
/// What a connection is handed at a time, bytes: so exactly it is known how much went out.
const PART: usize = 128 << 10;

/// The files. They go with the last one who reads them. A path names the same bytes for ever: blobs are kept by
/// their digests.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    files: Arc<Mutex<HashMap<PathBuf, Weak<[u8]>>>>,
}

impl Held {
    /// The answer to a request for a whole file; none: it is asked for a part of it, or it is too large.
    pub(super) async fn answer(
        &self,
        path: &Path,
        method: &Method,
        headers: &HeaderMap,
    ) -> io::Result<Option<Response>> {
        let conditions = [header::RANGE, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE];
        if method != Method::GET || conditions.iter().any(|name| headers.contains_key(name)) {
            return Ok(None);
        }
        let Some(file) = self.read(path).await? else { return Ok(None) };
        let whole = Bytes::from_owner(file);
        let length = whole.len();
        let head = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
        ];
        let part = move |from| Ok::<_, Infallible>(whole.slice(from..length.min(from + PART)));
        let body = Body::from_stream(stream::iter((0..length).step_by(PART).map(part)));
        Ok(Some((head, body).into_response()))
    }

    async fn read(&self, path: &Path) -> io::Result<Option<Arc<[u8]>>> {
        // Held while reading: who comes meanwhile waits for the first, and does not read too.
        let mut files = self.files.lock().await;
        if let Some(file) = files.get(path).and_then(Weak::upgrade) {
            return Ok(Some(file));
        }
        files.retain(|_, file| file.strong_count() > 0);
        let held: usize = files.values().filter_map(Weak::upgrade).map(|file| file.len()).sum();
        let length = tokio::fs::metadata(path).await?.len();
        if length > MOST_OF_ONE || length + u64::try_from(held).unwrap_or(u64::MAX) > MOST {
            return Ok(None);
        }
        let file: Arc<[u8]> = tokio::fs::read(path).await?.into();
        files.insert(path.to_owned(), Arc::downgrade(&file));
        Ok(Some(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_in_memory_once_for_all_and_as_long_as_somebody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        std::fs::write(&path, [7; 1000]).unwrap();
        let held = Held::default();
        let (first, second) = (held.read(&path).await.unwrap(), held.read(&path).await.unwrap());
        assert!(Arc::ptr_eq(first.as_ref().unwrap(), second.as_ref().unwrap()));
        drop((first, second));
        assert_eq!(held.files.lock().await[&path].strong_count(), 0);
        let none = HeaderMap::new();
        let answer = held.answer(&path, &Method::GET, &none).await.unwrap().unwrap();
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], "1000");
        assert!(held.answer(&path, &Method::HEAD, &none).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::default();
        let file = |name: &str, length| {
            let path = dir.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(length).unwrap();
            path
        };
        assert!(held.read(&file("one", MOST_OF_ONE + 1)).await.unwrap().is_none());
        let first = held.read(&file("first", MOST_OF_ONE)).await.unwrap();
        let second = held.read(&file("second", MOST_OF_ONE)).await.unwrap();
        assert!(first.is_some() && second.is_some());
        let small = file("small", 1);
        assert!(held.read(&small).await.unwrap().is_none());
        drop(first);
        assert!(held.read(&small).await.unwrap().is_some());
    }
}
