//! JSON lines: the answer of an image build or import, line by line as it comes.

use std::{fmt, pin::Pin};

use futures_util::{Stream, StreamExt};
use reqwest::{Body, Method};

use super::{Client, ClientError};
use crate::image::ImageProgress;

/// A longer line is refused.
const LINE_MAX: usize = 1 << 20;

type Chunks = Pin<Box<dyn Stream<Item = Result<Vec<u8>, reqwest::Error>> + Send>>;

/// What a build or import says, in its order.
pub struct Progress {
    client: Client,
    body: Chunks,
    buffer: Vec<u8>,
    ended: bool,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

impl Client {
    /// Posts a stream of bytes and reads the answer while it comes.
    pub(super) async fn post_stream(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: Body,
    ) -> Result<Progress, ClientError> {
        let request = self
            .request(&self.inner.http, Method::POST, self.at(path, query))
            .header(reqwest::header::CONTENT_TYPE, "application/x-tar")
            .body(body);
        let response = self.send(request).await?;
        let body = Box::pin(response.bytes_stream().map(|chunk| chunk.map(|b| b.to_vec())));
        Ok(Progress { client: self.clone(), body, buffer: Vec::new(), ended: false })
    }
}

impl Progress {
    /// The next line, or none when the answer is over.
    pub async fn next(&mut self) -> Result<Option<ImageProgress>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.parse(&line).map(Some);
            }
            if self.buffer.len() > LINE_MAX {
                return Err(self.client.protocol("a line of the answer is too long".to_owned()));
            }
            if self.ended {
                let line = std::mem::take(&mut self.buffer);
                return if line.trim_ascii().is_empty() {
                    Ok(None)
                } else {
                    self.parse(&line).map(Some)
                };
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(source)) => return Err(self.client.failed(source)),
                None => self.ended = true,
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<ImageProgress, ClientError> {
        serde_json::from_slice(line)
            .map_err(|e| self.client.protocol(format!("a line of the answer cannot be read: {e}")))
    }
}
