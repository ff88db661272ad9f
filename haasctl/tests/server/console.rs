//! Consoles that repeat what they are told, each piece in angle brackets.
//!
//! On `n02` bob types; `n03` ends at once; `n04` breaks off the first time.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Shared, problem};

pub(super) async fn watch(
    State(seen): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if name == "n09" {
        return problem(404, "no-node", "there is no node n09");
    }
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.consoles += 1;
        seen.consoles
    };
    upgrade.on_upgrade(async move |mut socket| {
        let bobs = name == "n02" && !query.contains_key("take");
        match name.as_str() {
            "n03" => drop(say(&mut socket, json!({ "ended": "the node was given away" })).await),
            "n04" if number == 1 => {}
            _ => serve(&mut socket, &name, bobs).await,
        }
    })
}

async fn serve(socket: &mut WebSocket, name: &str, bobs: bool) {
    let state = |bobs: bool| {
        json!({ "state": {
            "connected": true, "writer": if bobs { "bob" } else { "alice" }, "you_write": !bobs,
            "watchers": ["alice", "bob"], "logged": name != "n02",
        } })
    };
    if !say(socket, state(bobs)).await {
        return;
    }
    let greeting = format!("{name} login: ").into_bytes();
    if socket.send(Message::Binary(greeting.into())).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        match message {
            Message::Binary(keys) => {
                let mut shown = String::new();
                // However they come in pieces: a line, or a control character by itself.
                for piece in String::from_utf8_lossy(&keys).split_inclusive('\r') {
                    shown.push_str(&format!("<{piece}>"));
                }
                if socket.send(Message::Binary(shown.into_bytes().into())).await.is_err() {
                    return;
                }
            }
            Message::Text(text) if text.as_str() == "\"take\"" => {
                let _ = say(socket, state(false)).await;
            }
            Message::Text(_) => drop(socket.send(Message::Binary("<BREAK>".into())).await),
            _ => {}
        }
    }
}

async fn say(socket: &mut WebSocket, note: Value) -> bool {
    socket.send(Message::Text(note.to_string().into())).await.is_ok()
}

pub(super) async fn log(Query(query): Query<HashMap<String, String>>) -> Response {
    let lines = &query["lines"];
    Json(json!({
        "items": [
            { "at": "2026-11-21T00:00:01Z", "text": "connected", "mark": true },
            { "at": "2026-11-21T00:00:02Z", "text": format!("{lines} \u{1b}[32mOK\u{1b}]0;x\u{7} \r") },
        ],
        "cursor": "a:1",
        "logged": true,
    }))
    .into_response()
}
