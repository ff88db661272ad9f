//! A console: the WebSocket of `GET /v1/nodes/{name}/console`.

use std::fmt;

use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode, Upgraded, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{Client, ClientError};
use crate::{
    console::{ConsoleAsk, ConsoleLog, ConsoleNote},
    names::NodeName,
};

/// A longer message is refused: none of ours comes near.
const MESSAGE_MAX: usize = 1 << 20;

/// How a console is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleMode {
    /// Only to watch.
    Watch,
    /// To type, unless somebody else does.
    Write,
    /// To type, whoever else does.
    Take,
}

/// One watcher's console.
pub struct Console {
    client: Client,
    socket: WebSocketStream<Upgraded>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("client", &self.client).finish_non_exhaustive()
    }
}

/// What came.
#[derive(Debug)]
pub enum ConsoleHeard {
    /// What the node printed.
    Characters(Vec<u8>),
    /// What haasd says.
    Note(ConsoleNote),
    /// A sign of life. One comes every 15 s.
    Alive,
}

impl Client {
    /// Opens a node's console.
    pub async fn console(
        &self,
        node: &NodeName,
        mode: ConsoleMode,
    ) -> Result<Console, ClientError> {
        let query: &[_] = match mode {
            ConsoleMode::Watch => &[("watch", "true")],
            ConsoleMode::Write => &[],
            ConsoleMode::Take => &[("take", "true")],
        };
        let key = generate_key();
        let url = self.at(&["v1", "nodes", node.as_str(), "console"], query);
        let request = self
            .request(&self.inner.http, Method::GET, url)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        let response = request.send().await.map_err(|e| self.failed(e))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.checked(response).await?;
            return Err(self.protocol("it opens no WebSocket".to_owned()));
        }
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted
            .is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
        {
            return Err(self.protocol("it answers another WebSocket".to_owned()));
        }
        let connection = response.upgrade().await.map_err(|e| self.failed(e))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        let socket = WebSocketStream::from_raw_socket(connection, Role::Client, Some(config)).await;
        Ok(Console { client: self.clone(), socket })
    }

    /// `GET /v1/nodes/{name}/console/log`: the last lines or, after a cursor, those behind it, for
    /// which haasd waits up to `wait_s` seconds.
    pub async fn console_log(
        &self,
        node: &NodeName,
        lines: u32,
        after: Option<&str>,
        wait_s: u32,
    ) -> Result<ConsoleLog, ClientError> {
        let (lines, wait_s) = (lines.to_string(), wait_s.to_string());
        let mut query = vec![("lines", lines.as_str()), ("wait_s", wait_s.as_str())];
        query.extend(after.map(|cursor| ("after", cursor)));
        self.get(&["v1", "nodes", node.as_str(), "console", "log"], &query).await
    }
}

impl Console {
    /// What comes next. Can be dropped and called again.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn next(&mut self) -> Result<ConsoleHeard, ClientError> {
        match self.socket.next().await {
            Some(Ok(Message::Binary(bytes))) => Ok(ConsoleHeard::Characters(bytes.to_vec())),
            Some(Ok(Message::Text(text))) => {
                let note = serde_json::from_str(&text);
                let what = |e| self.client.protocol(format!("a note cannot be read: {e}"));
                Ok(ConsoleHeard::Note(note.map_err(what)?))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                Ok(ConsoleHeard::Alive)
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(self.ended()),
        }
    }

    /// Types characters.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn write(&mut self, characters: &[u8]) -> Result<(), ClientError> {
        self.send(Message::Binary(characters.to_vec().into())).await
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn ask(&mut self, what: ConsoleAsk) -> Result<(), ClientError> {
        let text = serde_json::to_string(&what).expect("a word");
        self.send(Message::Text(text.into())).await
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        // Whoever has gone already does not mind.
        let _ = self.socket.close(None).await;
    }

    async fn send(&mut self, message: Message) -> Result<(), ClientError> {
        self.socket.send(message).await.map_err(|_| self.ended())
    }

    fn ended(&self) -> ClientError {
        ClientError::Ended { url: self.client.url().to_owned() }
    }
}
