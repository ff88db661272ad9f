//! The HTTP client of the API: one typed method per route.
//!
//! Trust is the pinned certificate ([`crate::pin`]) and nothing else; redirects and proxies are not
//! followed, since the token travels with each request. The client never waits or tries again by
//! itself: callers know what is worth repeating ([`ClientError::is_transient`]).

mod console;
mod error;
mod events;
mod reservations;
mod routes;
mod stream;

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{Method, StatusCode, Url};
use serde::{Serialize, de::DeserializeOwned};

pub use self::{
    console::{Console, ConsoleHeard, ConsoleMode},
    error::ClientError,
    events::{Events, Wanted},
    reservations::{CalendarOf, Reserved},
    routes::Submitted,
    stream::Progress,
};
use crate::problem::{MEDIA_TYPE, Problem};

/// What a request may carry as a stream; `Body::wrap_stream` makes one.
pub use reqwest::Body;

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an ordinary request may take; streams have no such limit.
const REQUEST: Duration = Duration::from_secs(30);

/// How long the event stream may be silent before it counts as broken. haasd sends a comment every
/// 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The most of an answer that is read into memory, bytes.
const ANSWER_MAX: usize = 64 << 20;

/// A connection to one haasd as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    base: Url,
    fingerprint: String,
    token: Option<String>,
    http: reqwest::Client,
    /// The same but for a limit on silence, for [`Events`].
    quiet: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.inner.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the haasd at `url` (`https://ADDR:8443`), whose certificate has `fingerprint`
    /// (SHA-256 of its DER form, 64 hexadecimal digits; colons are ignored). Opens no connection yet.
    pub fn new(url: &str, fingerprint: &str, token: &str) -> Result<Self, ClientError> {
        let token = token.trim().to_owned();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ClientError::Setup("the token is empty or holds blanks".to_owned()));
        }
        Self::with(url, fingerprint, Some(token))
    }

    /// The same without a token: to log in, or where haasd asks for none (`[auth] mode = "off"`).
    pub fn without_token(url: &str, fingerprint: &str) -> Result<Self, ClientError> {
        Self::with(url, fingerprint, None)
    }

    fn with(url: &str, fingerprint: &str, token: Option<String>) -> Result<Self, ClientError> {
        let base: Url = url.parse().map_err(|e| {
            ClientError::Setup(format!("{url:?} is not a URL ({e}); write https://ADDRESS:8443"))
        })?;
        if base.scheme() != "https" || base.host_str().is_none() || base.cannot_be_a_base() {
            return Err(ClientError::Setup(format!(
                "{url:?} is not the URL of a haasd; write https://ADDRESS:8443"
            )));
        }
        let fingerprint = fingerprint.replace(':', "").to_ascii_lowercase();
        if fingerprint.len() != 64 || !fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ClientError::Setup(
                "the fingerprint must be the SHA-256 of haasd's certificate, 64 hexadecimal digits"
                    .to_owned(),
            ));
        }
        let http = builder(&fingerprint)?.build().map_err(setup)?;
        let quiet = builder(&fingerprint)?.read_timeout(SILENCE).build().map_err(setup)?;
        Ok(Self { inner: Arc::new(Inner { base, fingerprint, token, http, quiet }) })
    }

    /// The URL that this client speaks to.
    pub fn url(&self) -> &str {
        self.inner.base.as_str()
    }

    /// The address of a route. Segments are encoded, so that no name can leave its place.
    fn at(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.inner.base.clone();
        url.path_segments_mut()
            .expect("a URL with a host has a path; `new` has checked it")
            .pop_if_empty()
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn request(&self, http: &reqwest::Client, method: Method, url: Url) -> reqwest::RequestBuilder {
        let request = http.request(method, url);
        match &self.inner.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends, and takes an answer that is a success.
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let response = request.send().await.map_err(|e| self.failed(e))?;
        self.checked(response).await
    }

    /// Turns an answer that is no success into an error.
    async fn checked(&self, response: reqwest::Response) -> Result<reqwest::Response, ClientError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let is_problem = response
            .headers()
            .get(reqwest::header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.starts_with(MEDIA_TYPE));
        let body = self.body(response).await?;
        let problem = is_problem.then(|| serde_json::from_slice::<Problem>(&body).ok()).flatten();
        Err(ClientError::Problem(Box::new(problem.unwrap_or_else(|| foreign_problem(status)))))
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.failed(e))? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(self.protocol(format!("the answer is longer than {ANSWER_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        response: reqwest::Response,
    ) -> Result<T, ClientError> {
        let path = response.url().path().to_owned();
        let body = self.body(response).await?;
        serde_json::from_slice(&body)
            .map_err(|e| self.protocol(format!("the answer of {path} cannot be read: {e}")))
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        let request = self.request(&self.inner.http, Method::GET, self.at(path, query));
        let response = self.send(request.timeout(REQUEST)).await?;
        self.json(response).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&(impl Serialize + ?Sized)>,
    ) -> Result<reqwest::Response, ClientError> {
        let mut request = self.request(&self.inner.http, method, self.at(path, &[]));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request.timeout(REQUEST)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, ClientError> {
        let response = self.call(Method::POST, path, Some(body)).await?;
        self.json(response).await
    }

    async fn patch<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, ClientError> {
        let response = self.call(Method::PATCH, path, Some(body)).await?;
        self.json(response).await
    }

    async fn delete(&self, path: &[&str]) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, None::<&()>).await.map(drop)
    }

    fn failed(&self, source: reqwest::Error) -> ClientError {
        error::classify(self.url(), &self.inner.fingerprint, source)
    }

    fn protocol(&self, reason: String) -> ClientError {
        ClientError::Protocol { url: self.url().to_owned(), reason }
    }
}

fn builder(fingerprint: &str) -> Result<reqwest::ClientBuilder, ClientError> {
    let tls = crate::pin::pinned_client_config(fingerprint)
        .map_err(|e| ClientError::Setup(format!("TLS cannot be set up: {e}")))?;
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        // haasd stands in the site's own network; a proxy from the environment is for the world outside.
        .no_proxy()
        .user_agent(concat!("haas/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT))
}

fn setup(source: reqwest::Error) -> ClientError {
    ClientError::Setup(format!("the HTTP client cannot be set up: {source}"))
}

/// For an error answer that is not haasd's own, say of a gateway in between.
fn foreign_problem(status: StatusCode) -> Problem {
    let title = status.canonical_reason().unwrap_or("no success").to_owned();
    Problem {
        status: status.as_u16(),
        code: format!("http-{}", status.as_u16()),
        detail: format!("the answer was HTTP {} ({title}) and said no more", status.as_u16()),
        title,
        nodes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FP: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_client_needs_https_a_whole_fingerprint_and_a_token() {
        assert!(Client::new("https://10.0.0.1:8443", FP, "t").is_ok());
        let colons = FP
            .to_uppercase()
            .as_bytes()
            .chunks(2)
            .map(|c| String::from_utf8(c.to_vec()).unwrap())
            .collect::<Vec<_>>()
            .join(":");
        assert!(Client::new("https://10.0.0.1:8443", &colons, "t").is_ok());
        for (url, fp, token) in [
            ("http://10.0.0.1:8443", FP, "t"),
            ("10.0.0.1:8443", FP, "t"),
            ("mailto:a@b", FP, "t"),
            ("https://10.0.0.1:8443", &FP[1..], "t"),
            ("https://10.0.0.1:8443", FP, " "),
            ("https://10.0.0.1:8443", FP, "a b"),
        ] {
            assert!(
                matches!(Client::new(url, fp, token), Err(ClientError::Setup(_))),
                "{url} {fp} {token}"
            );
        }
    }

    #[test]
    fn names_stay_in_their_segment() {
        let client = Client::new("https://10.0.0.1:8443/haas/", FP, "t").unwrap();
        let url = client.at(&["v1", "nodes", "../users?x=#"], &[("nodeset", "n[1-2]&@a")]);
        assert_eq!(
            url.as_str(),
            "https://10.0.0.1:8443/haas/v1/nodes/..%2Fusers%3Fx=%23?nodeset=n%5B1-2%5D%26%40a"
        );
    }

    #[test]
    fn nothing_prints_the_token() {
        let client = Client::new("https://10.0.0.1:8443", FP, "hush-hush").unwrap();
        assert!(!format!("{client:?}").contains("hush"));
    }
}
