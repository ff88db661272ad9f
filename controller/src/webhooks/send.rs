//! One request to a receiver, in the form of Standard Webhooks: a POST of JSON with the headers
//! `webhook-id`, `webhook-timestamp` and `webhook-signature`.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use reqwest::{StatusCode, Url, header};
use sha2::Sha256;

use super::address::{self, Allowed};
use crate::{
    clock, context::Context, errors::chain, model::SECOND, secret::Secret, store::WebhookRow,
};

/// What stands before a secret, so that people and scanners know what it is.
const PREFIX: &str = "whsec_";

/// How long a connection may take to stand, and the whole request.
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(15);

/// A receiver may not put itself off for longer.
const LONGEST_PUT_OFF: Duration = Duration::from_secs(3600);

/// Why a receiver has not taken an event.
#[derive(Debug)]
pub(super) struct Failure {
    /// In words, without the URL.
    pub(super) what: String,
    /// Whether it is about this one event: the receiver has read it and does not want it.
    pub(super) is_refusal: bool,
    /// When the receiver wants to be asked again.
    pub(super) again_in: Option<Duration>,
}

/// Sends to one receiver.
pub(super) struct Sender {
    url: Url,
    http: reqwest::Client,
    secret: Secret<String>,
}

impl Sender {
    pub(super) fn new(context: &Context, row: &WebhookRow) -> Result<Self, Failure> {
        let failed = |what: String| Failure { what, is_refusal: false, again_in: None };
        let url: Url = row.url.parse().map_err(|e| failed(format!("it is no URL: {e}")))?;
        // The allowed networks may be others since it was made. A literal address is never resolved.
        if let Some(ip) = url.host_str().and_then(address::literal) {
            address::check(&context.config, ip).map_err(failed)?;
        }
        // Another part of the process may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder()
            .dns_resolver(Arc::new(Allowed(Arc::new(context.config.clone()))))
            // Where one leads to is nobody's check, and a proxy would resolve the name itself.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("haasd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(REQUEST);
        if url.scheme() == "http" {
            // A controller without any authorities' certificates can send at least these.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|e| failed(chain(&e)))?;
        Ok(Self { url, http, secret: super::secret(context, &row.id) })
    }

    /// Sends once. The status is one of success.
    pub(super) async fn send(&self, id: &str, body: String) -> Result<StatusCode, Failure> {
        let timestamp = clock::wall() / SECOND;
        let signature = sign(self.secret.expose(), id, timestamp, &body);
        let request = self
            .http
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let failed = |what: String| Failure { what, is_refusal: false, again_in: None };
        let response = match request.send().await {
            Ok(response) => response,
            // The URL may hold a token of the receiver's.
            Err(error) => return Err(failed(chain(&error.without_url()))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(status);
        }
        let put_off = response.headers().get(header::RETRY_AFTER);
        let put_off = put_off.and_then(|value| value.to_str().ok()?.parse().ok());
        Err(Failure {
            what: match status.is_redirection() {
                true => format!("it answered {status}; redirects are not followed"),
                false => format!("it answered {status}"),
            },
            is_refusal: matches!(status.as_u16(), 400 | 413 | 415 | 422),
            again_in: put_off.map(|s| Duration::from_secs(s).min(LONGEST_PUT_OFF)),
        })
    }
}

/// The secret of a key: what a receiver verifies signatures with.
pub(super) fn secret_of(key: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(key))
}

/// `v1,` and HMAC-SHA256 of `ID.TIMESTAMP.BODY` in base64.
fn sign(secret: &str, id: &str, timestamp: i64, body: &str) -> String {
    let key = STANDARD.decode(secret.strip_prefix(PREFIX).unwrap_or(secret)).unwrap_or_default();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes any key");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let signature = sign(secret, id, timestamp, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_what_it_was_made_of() {
        assert_eq!(secret_of(b"abc"), "whsec_YWJj");
    }
}
