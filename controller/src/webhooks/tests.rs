//! Receivers that fail, are slow, refuse and come back: what each gets, in which order, and what is
//! given up.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, http::HeaderMap, http::StatusCode, routing::post};
use haas_api::event::Event;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;
use crate::testing::Bench;

/// No pause that a test would have to wait for.
const QUICK: Patience = Patience {
    first_pause: Duration::from_millis(2),
    longest_pause: Duration::from_millis(20),
    oldest: Duration::from_secs(24 * 3600),
    failing_for: Duration::from_secs(600),
    refusals: 3,
};

/// One that gives up at once.
const HASTY: Patience =
    Patience { oldest: Duration::ZERO, failing_for: Duration::from_millis(30), ..QUICK };

type Answers = Box<dyn Fn(usize, &Event) -> (u16, Duration) + Send + Sync>;

/// A receiver: answers as it is told to, and keeps what it took and what it was asked.
struct Receiver {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<i64>>>,
    took: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Receiver {
    async fn start(answers: Answers) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let took = Arc::new(Mutex::new(Vec::new()));
        let (seen, kept) = (asked.clone(), took.clone());
        let answers = Arc::new(answers);
        let handler = move |headers: HeaderMap, body: Bytes| {
            let (seen, kept, answers) = (seen.clone(), kept.clone(), answers.clone());
            async move {
                let event: Event = serde_json::from_slice(&body).unwrap();
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(event.seq);
                    seen.len()
                };
                let (status, wait) = answers(number, &event);
                tokio::time::sleep(wait).await;
                if status == 200 {
                    kept.lock().unwrap().push((headers, body));
                }
                StatusCode::from_u16(status).unwrap()
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/in", post(handler));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, asked, took }
    }

    fn took(&self) -> Vec<i64> {
        let took = self.took.lock().unwrap();
        took.iter().map(|(_, body)| serde_json::from_slice::<Event>(body).unwrap().seq).collect()
    }
}

/// A bench that may send to itself.
async fn bench() -> Bench {
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let bench = Bench::with(|config| config.webhooks.allow = allow).await;
    bench.add_nodes([1]).await;
    bench
}

/// Makes the webhook `chat`; answers its secret.
async fn hook(bench: &Bench, receiver: &Receiver, kinds: &[&str]) -> String {
    let url = format!("http://{}/in", receiver.address);
    let body = json!({ "name": "chat", "url": url, "kinds": kinds });
    let made = bench.post("/v1/webhooks", body).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["secret"].as_str().unwrap().to_owned()
}

/// So many events.
async fn happen(bench: &Bench, events: usize) {
    for number in 0..events {
        let body = json!({ "nodeset": "n01", "managed": number % 2 == 1 });
        assert_eq!(bench.post("/v1/nodes/manage", body).await.status, 200);
    }
}

/// Delivers for as long as the answer is kept.
struct Running(CancellationToken);

impl Running {
    fn start(bench: &Bench, patience: Patience) -> Self {
        let stop = CancellationToken::new();
        tokio::spawn(run(bench.context.clone(), patience, stop.clone()));
        Self(stop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn shown(bench: &Bench) -> Value {
    let list = bench.call(&bench.admin, "GET", "/v1/webhooks", Value::Null).await;
    list.json()["items"][0].clone()
}

/// Waits until the webhook's row is so.
async fn until(bench: &Bench, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..2_000 {
        let row = shown(bench).await;
        if is_so(&row) {
            return row;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} has not come: {}", shown(bench).await);
}

#[tokio::test]
async fn each_event_comes_once_in_order_and_signed() {
    let bench = bench().await;
    let receiver = Receiver::start(Box::new(|_, _| (200, Duration::ZERO))).await;
    let secret = hook(&bench, &receiver, &[]).await;
    let _running = Running::start(&bench, QUICK);
    happen(&bench, 6).await;
    let row = until(&bench, "all", |row| row["position"] == 7 && row["behind"] == 0).await;
    assert_eq!(receiver.took(), (1..=7).collect::<Vec<_>>());
    assert!(row["delivered_at"].is_string() && row["failing_since"].is_null(), "{row}");
    let key = secret.strip_prefix("whsec_").unwrap();
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, key).unwrap();
    for (headers, body) in receiver.took.lock().unwrap().iter() {
        let header = |name: &str| headers[name].to_str().unwrap();
        let event: Event = serde_json::from_slice(body).unwrap();
        assert_eq!(header("webhook-id"), format!("{}-{}", bench.context.cluster_id, event.seq));
        assert_eq!(header("content-type"), "application/json");
        let age = clock::wall() / 1_000_000 - header("webhook-timestamp").parse::<i64>().unwrap();
        assert!((0..300).contains(&age), "{age}");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes());
        mac.update(body);
        let signature = header("webhook-signature").strip_prefix("v1,").unwrap();
        let signature =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, signature).unwrap();
        mac.verify_slice(&signature).expect("the signature is right");
    }
}

#[tokio::test]
async fn a_receiver_that_fails_gets_everything_in_order_once_it_works() {
    let bench = bench().await;
    // Every event fails twice, in different ways; nothing overtakes it.
    let answers: Answers = Box::new(|number, _| match number % 3 {
        1 => (503, Duration::ZERO),
        2 => (302, Duration::ZERO),
        _ => (200, Duration::ZERO),
    });
    let receiver = Receiver::start(answers).await;
    hook(&bench, &receiver, &["managed", "unmanaged"]).await;
    let _running = Running::start(&bench, QUICK);
    happen(&bench, 4).await;
    let row = until(&bench, "all", |row| row["position"] == 5).await;
    assert_eq!(receiver.took(), [2, 3, 4, 5], "only the kinds that were asked for");
    let asked = receiver.asked.lock().unwrap().clone();
    assert!(asked.is_sorted() && asked.len() == 12, "{asked:?}");
    assert_eq!((row["failures"].as_i64(), row["dead"].as_i64()), (Some(0), Some(0)));
}

#[tokio::test]
async fn a_slow_receiver_holds_up_no_other() {
    let bench = bench().await;
    let slow = Receiver::start(Box::new(|_, _| (200, Duration::from_secs(3600)))).await;
    let quick = Receiver::start(Box::new(|_, _| (200, Duration::ZERO))).await;
    hook(&bench, &slow, &[]).await;
    let url = format!("http://{}/in", quick.address);
    let body = json!({ "name": "zz", "url": url, "from": 0 });
    assert_eq!(bench.post("/v1/webhooks", body).await.status, 201);
    let _running = Running::start(&bench, QUICK);
    happen(&bench, 3).await;
    for _ in 0..2_000 {
        if quick.took().len() == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(quick.took(), [1, 2, 3, 4, 5]);
    assert_eq!(*slow.asked.lock().unwrap(), [1], "one at a time");
    assert_eq!(shown(&bench).await["behind"], 5);
}

#[tokio::test]
async fn what_was_not_noted_is_sent_again_after_a_restart_and_nothing_is_left_out() {
    let bench = bench().await;
    let answers: Answers =
        Box::new(|number, _| (if number < 4 { 200 } else { 500 }, Duration::ZERO));
    let receiver = Receiver::start(answers).await;
    hook(&bench, &receiver, &[]).await;
    happen(&bench, 5).await;
    let running = Running::start(&bench, QUICK);
    let row = until(&bench, "a failure", |row| row["failures"].as_i64() > Some(2)).await;
    assert_eq!(row["position"], 3);
    assert!(row["last_error"].as_str().unwrap().contains("500"), "{row}");
    drop(running);
    // Where it was stands in the store; it comes back to a receiver that works again.
    let well = Receiver::start(Box::new(|_, _| (200, Duration::ZERO))).await;
    let url = format!("http://{}/in", well.address);
    let mut tx = bench.context.store.write().await.unwrap();
    let before = tx.webhooks().await.unwrap().remove(0);
    tx.remove_webhook(&before.id).await.unwrap();
    tx.add_webhook(&WebhookRow { url, ..before }).await.unwrap();
    tx.commit().await.unwrap();
    let _running = Running::start(&bench, QUICK);
    until(&bench, "the rest", |row| row["position"] == 6).await;
    assert_eq!(well.took(), [4, 5, 6]);
}

#[tokio::test]
async fn an_event_that_the_receiver_refuses_is_given_up_alone() {
    let bench = bench().await;
    let answers: Answers =
        Box::new(|_, event| (if event.seq == 3 { 422 } else { 200 }, Duration::ZERO));
    let receiver = Receiver::start(answers).await;
    hook(&bench, &receiver, &[]).await;
    let _running = Running::start(&bench, QUICK);
    happen(&bench, 4).await;
    let row = until(&bench, "all", |row| row["position"] == 5).await;
    assert_eq!(row["dead"], 1);
    assert_eq!(receiver.took(), [1, 2, 4, 5]);
    let dead = bench.call(&bench.admin, "GET", "/v1/webhooks/chat/dead", Value::Null).await.json();
    assert_eq!(dead["items"][0]["seq"], 3);
    assert!(dead["items"][0]["error"].as_str().unwrap().contains("422"), "{dead}");
}

#[tokio::test]
async fn a_dead_receiver_gives_up_what_is_old_and_is_tried_with_what_is_new() {
    let bench = bench().await;
    let receiver = Receiver::start(Box::new(|_, _| (500, Duration::ZERO))).await;
    hook(&bench, &receiver, &["managed"]).await;
    happen(&bench, 6).await;
    let running = Running::start(&bench, HASTY);
    let row = until(&bench, "the end of patience", |row| row["dead"] == 3).await;
    assert!(row["failing_since"].is_string(), "{row}");
    drop(running);
    // With more patience the next one is tried for longer.
    let _running = Running::start(&bench, QUICK);
    happen(&bench, 2).await;
    let tries = receiver.asked.lock().unwrap().len();
    until(&bench, "tries", |row| row["failures"].as_i64() > Some(3)).await;
    assert!(receiver.asked.lock().unwrap().len() > tries);
    assert_eq!(shown(&bench).await["dead"], 3);
}

#[tokio::test]
async fn a_test_says_what_came_of_it_and_is_no_event() {
    let bench = bench().await;
    let answers: Answers =
        Box::new(|number, _| (if number == 1 { 200 } else { 404 }, Duration::ZERO));
    let receiver = Receiver::start(answers).await;
    hook(&bench, &receiver, &["fault"]).await;
    let test = async || bench.post("/v1/webhooks/chat/test", Value::Null).await.json();
    let first = test().await;
    assert_eq!((&first["delivered"], first["outcome"].as_str()), (&json!(true), Some("200 OK")));
    let second = test().await;
    assert_eq!(second["delivered"], false);
    assert!(second["outcome"].as_str().unwrap().contains("404"), "{second}");
    let body = json!({ "name": "gone", "url": "http://127.0.0.1:9/" });
    assert_eq!(bench.post("/v1/webhooks", body).await.status, 201);
    let third = bench.post("/v1/webhooks/gone/test", Value::Null).await.json();
    assert_eq!(third["delivered"], false, "{third}");
    assert_eq!(shown(&bench).await["failures"], 0, "a test is no try");
}

#[tokio::test]
async fn what_cannot_be_a_webhook_is_refused() {
    let bench = bench().await;
    let url = "http://127.0.0.1:9/";
    for (body, code) in [
        (json!({ "name": "a", "url": "http://10.0.0.1/" }), "bad-url"),
        (json!({ "name": "a", "url": "file:///etc/passwd" }), "bad-url"),
        (json!({ "name": "a", "url": url, "kinds": ["No Kind"] }), "bad-kind"),
    ] {
        let answer = bench.post("/v1/webhooks", body.clone()).await;
        assert_eq!((answer.status, answer.code()), (422, code.to_owned()), "{body}");
    }
    assert_eq!(bench.post("/v1/webhooks", json!({ "name": "A b", "url": url })).await.status, 422);
    let good = json!({ "name": "a", "url": url });
    assert_eq!(bench.post("/v1/webhooks", good.clone()).await.status, 201);
    assert_eq!(bench.post("/v1/webhooks", good).await.code(), "conflict");
}
