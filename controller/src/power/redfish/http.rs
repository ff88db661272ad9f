//! One request to a BMC and its answer: where it goes, how long it may take, what is read of it.
//! Redirects are not followed and links of the BMC are only ever paths on that BMC, so that nothing
//! that it says sends the account elsewhere.

use std::{
    error::Error as _,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode, Url, header};
use serde_json::Value;

use super::{
    Options,
    fault::RedfishFault,
    trust::{Trust, Verifier},
};
use crate::{errors::chain, secret::Secret};

/// The most of an answer that is read, bytes. The largest that is asked for, a system, has some 20 KiB.
const ANSWER_MAX: usize = 4 << 20;
/// Characters of a BMC's own words that are repeated in ours.
const WORDS_MAX: usize = 200;

/// HTTPS to one BMC.
#[derive(Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    base: Url,
    verifier: Arc<Verifier>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum Auth {
    /// Nobody: the service root is for everybody.
    Nobody,
    /// The one whose session this is.
    Token(Secret<String>),
    /// An account, for services without sessions or without a free one.
    Account { user: String, password: Secret<String> },
}

/// A question or an order.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) body: Option<Value>,
    pub(super) if_match: Option<&'a str>,
}

impl<'a> Request<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: None, if_match: None }
    }

    pub(super) fn post(path: &'a str, body: Value) -> Self {
        Self { method: Method::POST, path, body: Some(body), if_match: None }
    }
}

/// What came back. `Debug` shows neither a token nor the body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) etag: Option<String>,
    pub(super) location: Option<String>,
    pub(super) token: Option<Secret<String>>,
    pub(super) retry_after: Option<Duration>,
    /// Null where it was empty or no JSON.
    pub(super) body: Value,
}

/// No answer came.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) fault: RedfishFault,
    /// Whether the BMC may have got the request.
    pub(super) sent: bool,
}

impl Http {
    /// `name` is what the certificate must be for, and the host that the BMC is asked as.
    pub(super) fn new(
        bmc: SocketAddr,
        trust: Trust,
        name: Option<&str>,
        options: &Options,
    ) -> Result<Self, RedfishFault> {
        let verifier = Verifier::new(trust)?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(verifier.config()?)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            // BMCs stand in the site's own network.
            .no_proxy()
            .user_agent(concat!("haasd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect)
            // They serve few connections, and close idle ones soon.
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(options.keep_connection);
        let host = match name {
            Some(name) => {
                builder = builder.resolve(name, bmc);
                format!("https://{name}:{}", bmc.port())
            }
            None => format!("https://{bmc}"),
        };
        let base =
            host.parse().map_err(|e| RedfishFault::Network(format!("{host} is no URL: {e}")))?;
        let client = builder
            .build()
            .map_err(|e| RedfishFault::Network(format!("no HTTP client: {}", chain(&e))))?;
        Ok(Self { client, base, verifier })
    }

    /// The fingerprint of the certificate that the BMC showed last.
    pub(super) fn fingerprint(&self) -> Option<String> {
        self.verifier.seen()
    }

    /// Sends, and reads what comes back within `wait`, and before `deadline`.
    pub(super) async fn send(
        &self,
        request: &Request<'_>,
        auth: &Auth,
        wait: Duration,
        deadline: Instant,
    ) -> Result<Answer, Lost> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Lost { fault: RedfishFault::Silent, sent: false });
        }
        let mut url = self.base.clone();
        let (path, query) = match request.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.path, None),
        };
        url.set_path(path);
        url.set_query(query);
        let mut building = self
            .client
            .request(request.method.clone(), url)
            .timeout(wait.min(left))
            .header(header::ACCEPT, "application/json")
            .header("OData-Version", "4.0");
        building = match auth {
            Auth::Nobody => building,
            Auth::Token(token) => building.header("X-Auth-Token", token.expose()),
            Auth::Account { user, password } => building.basic_auth(user, Some(password.expose())),
        };
        if let Some(body) = &request.body {
            building = building.json(body);
        }
        if let Some(tag) = request.if_match {
            building = building.header(header::IF_MATCH, tag);
        }
        let response = building.send().await.map_err(|error| self.lost(error))?;
        let text = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let mut answer = Answer {
            status: response.status(),
            etag: text("etag"),
            location: text("location"),
            token: text("x-auth-token").map(Secret::new),
            retry_after: text("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs),
            body: Value::Null,
        };
        let is_question = request.method == Method::GET;
        answer.body = match self.body(response).await {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(body) => body,
                Err(error) if is_question && answer.status.is_success() => {
                    let fault = RedfishFault::Garbled(format!("{}: {error}", request.path));
                    return Err(Lost { fault, sent: true });
                }
                Err(_) => Value::Null,
            },
            Err(lost) if is_question => return Err(lost),
            // The head says what came of an order.
            Err(_) => Value::Null,
        };
        Ok(answer)
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, Lost> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(error))? {
            if bytes.len() + chunk.len() > ANSWER_MAX {
                let fault = RedfishFault::Garbled("an answer is larger than 4 MiB".to_owned());
                return Err(Lost { fault, sent: true });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn lost(&self, error: reqwest::Error) -> Lost {
        if let Some(fault) = self.verifier.take_refusal() {
            return Lost { fault, sent: false };
        }
        let sent = !error.is_connect();
        // Paths are told where they matter.
        let error = error.without_url();
        let mut fault = None;
        let mut cause = error.source();
        while let (None, Some(inner)) = (&fault, cause) {
            fault = fault_in(inner);
            cause = inner.source();
        }
        let fault = match fault {
            Some(fault) => fault,
            None if error.is_timeout() => RedfishFault::Silent,
            None => RedfishFault::Network(chain(&error)),
        };
        Lost { fault, sent }
    }
}

fn fault_in(error: &(dyn std::error::Error + 'static)) -> Option<RedfishFault> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(RedfishFault::Tls(tls.to_string()));
    }
    let error = error.downcast_ref::<io::Error>()?;
    // What an I/O error holds is not its source.
    error.get_ref().and_then(|inner| fault_in(inner)).or_else(|| match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(RedfishFault::NobodyThere),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => Some(RedfishFault::Silent),
        _ => None,
    })
}

impl Answer {
    /// What it says where it is no success.
    pub(super) fn fault(&self) -> RedfishFault {
        let (id, words) = self.message();
        let told = match (id, words) {
            ("", "") => format!("HTTP {}", self.status.as_u16()),
            ("", words) => format!("HTTP {}: {words}", self.status.as_u16()),
            (id, "") => format!("HTTP {}: {id}", self.status.as_u16()),
            (id, words) => format!("HTTP {}: {id}: {words}", self.status.as_u16()),
        };
        let told: String = told.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
        match (self.status.as_u16(), last_part(id)) {
            (401, _) | (400 | 403, "UnauthorizedLoginAttempt") => RedfishFault::WrongAccount,
            (403, "PasswordChangeRequired") => RedfishFault::PasswordExpired,
            (403, _) => RedfishFault::TooLittle(told),
            (409, _) | (400, "InvalidOperationForSystemState") => RedfishFault::NotNow(told),
            (429 | 502..=504, _) => RedfishFault::Overloaded(told),
            _ => RedfishFault::Rejected(told),
        }
    }

    /// The first message of an error (DSP0266, "Error responses"), its id and its words.
    pub(super) fn message(&self) -> (&str, &str) {
        let error = &self.body["error"];
        let first = &error["@Message.ExtendedInfo"][0];
        // iLO 4 and 5 spell it MessageID (goldyfruit/ansible-ilo#1).
        let id = first["MessageId"].as_str().or(first["MessageID"].as_str());
        let words = first["Message"].as_str().or(error["message"].as_str());
        (id.or(error["code"].as_str()).unwrap_or_default(), words.unwrap_or_default())
    }

    /// Whether it refuses a session because there are too many.
    pub(super) fn is_session_limit(&self) -> bool {
        let (id, _) = self.message();
        // Base registry 1.5 and later; older ones have the second; iDRAC its own (stmcginnis/gofish#75).
        let known = ["SessionLimitExceeded", "CreateLimitReachedForResource", "RAC0218"];
        self.status == StatusCode::SERVICE_UNAVAILABLE || known.contains(&last_part(id))
    }

    /// Both tags that it names for its resource: some BMCs quote the one in the header twice
    /// (ansible-collections/community.general#3268).
    pub(super) fn tags(&self) -> Vec<String> {
        let body = self.body["@odata.etag"].as_str().map(str::to_owned);
        let mut tags: Vec<_> = self.etag.clone().into_iter().chain(body).collect();
        tags.retain(|tag| header::HeaderValue::from_str(tag).is_ok());
        tags.dedup();
        tags
    }
}

/// `Base.1.8.PasswordChangeRequired` is the message `PasswordChangeRequired`, of whatever version.
fn last_part(id: &str) -> &str {
    id.rsplit('.').next().unwrap_or(id)
}

/// The path of a link that a BMC gives, which may be a whole URL, with its query. It is used on that BMC
/// whatever host stands in it. What stands behind a `#` is a place in that resource.
pub(super) fn path_of(link: &str) -> Option<String> {
    let link = link.split('#').next().unwrap_or_default();
    match link.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => Some(link.to_owned()),
        Some(_) => None,
        None => {
            let url: Url = link.parse().ok()?;
            let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
            ["http", "https"].contains(&url.scheme()).then(|| format!("{}{query}", url.path()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: Value) -> Answer {
        let status = StatusCode::from_u16(status).expect("it is one");
        let (etag, location, token, retry_after) = (None, None, None, None);
        Answer { status, etag, location, token, retry_after, body }
    }

    #[test]
    fn a_link_never_leads_to_another_place() {
        assert_eq!(path_of("/redfish/v1/Systems/1").as_deref(), Some("/redfish/v1/Systems/1"));
        assert_eq!(path_of("https://evil.example/x/y?z").as_deref(), Some("/x/y?z"));
        assert_eq!(path_of("/redfish/v1/x?$skip=50").as_deref(), Some("/redfish/v1/x?$skip=50"));
        assert_eq!(
            path_of("/redfish/v1/Power#/PowerControl/0").as_deref(),
            Some("/redfish/v1/Power")
        );
        for odd in ["//evil.example/x", "ftp://a/b", "Systems/1", "", "#/x", "javascript:1"] {
            assert_eq!(path_of(odd), None, "{odd}");
        }
    }

    #[test]
    fn refusals_are_told_apart_by_status_and_message() {
        let with = |status, id: &str| {
            let info = json!([{ "MessageId": id, "Message": "Words.\n" }]);
            answer(status, json!({ "error": { "@Message.ExtendedInfo": info } })).fault()
        };
        assert_eq!(with(401, "Base.1.0.NoValidSession"), RedfishFault::WrongAccount);
        assert_eq!(with(400, "iLO.2.14.UnauthorizedLoginAttempt"), RedfishFault::WrongAccount);
        assert_eq!(with(403, "Base.1.8.PasswordChangeRequired"), RedfishFault::PasswordExpired);
        assert!(matches!(with(403, "Base.1.8.InsufficientPrivilege"), RedfishFault::TooLittle(_)));
        let told = with(400, "iLO.0.10.InvalidOperationForSystemState");
        assert!(matches!(told, RedfishFault::NotNow(_)), "{told:?}");
        let told = with(400, "Base.1.0.PropertyValueNotInList").to_string();
        assert!(told.contains("HTTP 400: Base.1.0.PropertyValueNotInList: Words.;"), "{told}");
        assert_eq!(answer(503, Value::Null).fault(), RedfishFault::Overloaded("HTTP 503".into()));
        for odd in [json!([1]), json!({ "error": 7 }), json!({ "error": { "code": [] } })] {
            assert_eq!(answer(404, odd).fault(), RedfishFault::Rejected("HTTP 404".into()));
        }
    }
}
