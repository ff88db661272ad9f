//! A BMC that is logged in to: one session, kept and used again, and what was learnt of its service.
//!
//! A question is asked again until it is answered or the call's time is over; an order is sent once. A
//! session that the BMC has forgotten (401) is replaced by a new one, once per request: what was
//! refused so was not done. Where there is no session service, or no session free, the account itself
//! goes with each request (HTTP Basic, over the same verified TLS).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::timeout_at};

use super::{
    Options,
    breaker::jittered,
    fault::RedfishFault,
    http::{Answer, Auth, Http, Lost, Request, path_of},
    quirks::{self, Quirk},
    trust::Trust,
};
use crate::secret::Secret;

/// Where the service begins (DSP0266, "Service root").
const ROOT: &str = "/redfish/v1/";

/// Who logs in where, and which certificate must be there. Another one is another session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Login {
    pub(in super::super) bmc: SocketAddr,
    pub(in super::super) user: String,
    pub(in super::super) password: Secret<String>,
    pub(in super::super) trust: Trust,
    pub(in super::super) server_name: Option<String>,
}

/// One BMC that is spoken to.
#[derive(Debug)]
pub(super) struct Link {
    login: Login,
    options: Options,
    logins: Arc<Semaphore>,
    http: Http,
    /// When the call that is under way must have ended.
    pub(super) deadline: Instant,
    session: Option<Session>,
    /// Until when no session is tried: there is no session service, or none was free.
    without: Option<(Instant, WhyNone)>,
    root: Option<Root>,
    /// The path of the system that a name in the inventory means.
    systems: HashMap<Option<String>, String>,
    /// What the BMC wants us to wait.
    retry_after: Option<Duration>,
}

#[derive(Debug)]
struct Session {
    token: Secret<String>,
    path: Option<String>,
}

#[derive(Debug, Clone)]
enum WhyNone {
    NoService,
    NoneFree(String),
}

/// The service, as it tells everybody.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) body: Value,
    pub(super) quirks: Vec<Quirk>,
}

impl Root {
    /// Where sessions are made (DSP0266: `Links.Sessions`).
    fn sessions(&self) -> Option<String> {
        let link = self.body.pointer("/Links/Sessions/@odata.id").and_then(Value::as_str);
        let service = self.body.pointer("/SessionService/@odata.id").and_then(Value::as_str);
        let service = service.map(|path| format!("{}/Sessions", path.trim_end_matches('/')));
        link.map(str::to_owned).or(service).and_then(|link| path_of(&link))
    }
}

impl Link {
    pub(super) fn new(
        login: Login,
        options: Options,
        logins: Arc<Semaphore>,
        deadline: Instant,
    ) -> Result<Self, RedfishFault> {
        let name = login.server_name.as_deref();
        let http = Http::new(login.bmc, login.trust.clone(), name, &options)?;
        Ok(Self {
            login,
            options,
            logins,
            http,
            deadline,
            session: None,
            without: None,
            root: None,
            systems: HashMap::new(),
            retry_after: None,
        })
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// How long to wait before the first try again.
    pub(super) fn first_wait(&self) -> Duration {
        self.options.first_wait
    }

    pub(super) fn bmc(&self) -> SocketAddr {
        self.login.bmc
    }

    /// The fingerprint of the certificate that it showed.
    pub(super) fn fingerprint(&self) -> Option<String> {
        self.http.fingerprint()
    }

    /// Reads a resource.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, RedfishFault> {
        self.asking(&Request::get(path)).await
    }

    /// Changes a resource that was read as `seen`. Done twice it does no more than once.
    pub(super) async fn patch(
        &mut self,
        path: &str,
        seen: &Answer,
        body: &Value,
    ) -> Result<(), RedfishFault> {
        const ANY: &str = "*";
        // Its own two tags, those of a second look, and any: more there are not.
        const TRIES: usize = 5;
        let any = self.root().await?.quirks.contains(&Quirk::AnyTag);
        let mut tags = if any { vec![ANY.to_owned()] } else { seen.tags() };
        let mut tried: Vec<Option<String>> = Vec::new();
        loop {
            let tag = tags.iter().find(|tag| !tried.contains(&Some((*tag).clone()))).cloned();
            // Where it names no tag it may want none.
            if (tag.is_none() && !tried.is_empty()) || tried.len() >= TRIES {
                let told = "HTTP 412: no ETag of its own is good enough for it".to_owned();
                return Err(RedfishFault::Rejected(told));
            }
            let request = Request {
                method: Method::PATCH,
                path,
                body: Some(body.clone()),
                if_match: tag.as_deref(),
            };
            let answer = self.asking_whatever(&request).await?;
            match answer.status {
                StatusCode::PRECONDITION_FAILED | StatusCode::PRECONDITION_REQUIRED => {
                    tried.push(tag);
                    // It was changed meanwhile, or its tags are not what they seem.
                    tags = self.get(path).await?.tags();
                    tags.push(ANY.to_owned());
                }
                status if status.is_success() => return Ok(()),
                _ => return Err(answer.fault()),
            }
        }
    }

    /// Gives an order, once. [`RedfishFault::Unanswered`] if it may have been obeyed and only its answer was
    /// lost: the caller has to look. After any other error it was not obeyed, but for
    /// [`RedfishFault::Overloaded`], which may be either.
    pub(super) async fn order(&mut self, path: &str, body: Value) -> Result<(), RedfishFault> {
        let request = Request::post(path, body);
        let mut wait = self.options.first_wait;
        loop {
            match self.authenticated(&request, self.options.order).await {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                Ok(answer) => return Err(answer.fault()),
                Err(Lost { sent: true, .. }) => return Err(RedfishFault::Unanswered),
                Err(Lost { fault, sent: false }) => {
                    if !fault.is_passing() || !self.pause(&mut wait).await {
                        return Err(fault);
                    }
                }
            }
        }
    }

    /// What the service says of itself to everybody. No account is sent.
    pub(super) async fn root(&mut self) -> Result<Root, RedfishFault> {
        if let Some(root) = &self.root {
            return Ok(root.clone());
        }
        let mut wait = self.options.first_wait;
        let answer = loop {
            match self.send(&Request::get(ROOT), &Auth::Nobody, self.options.request).await {
                Ok(answer) if answer.fault().is_passing() && !answer.status.is_success() => {
                    if !self.pause(&mut wait).await {
                        return Err(answer.fault());
                    }
                }
                Ok(answer) => break answer,
                Err(Lost { fault, .. }) => {
                    if !fault.is_passing() || !self.pause(&mut wait).await {
                        return Err(fault);
                    }
                }
            }
        };
        let status = answer.status.as_u16();
        if !answer.status.is_success() {
            return Err(RedfishFault::NotRedfish(format!("GET {ROOT} is HTTP {status}")));
        }
        if !answer.body["RedfishVersion"].is_string() && answer.body.pointer("/Systems").is_none() {
            return Err(RedfishFault::NotRedfish(format!("GET {ROOT} is no service root")));
        }
        let quirks = quirks::of(&answer.body);
        Ok(self.root.insert(Root { body: answer.body, quirks }).clone())
    }

    /// The system that is meant: the one with this Id, or the only one that there is.
    pub(super) async fn system(
        &mut self,
        name: Option<&str>,
    ) -> Result<(String, Answer), RedfishFault> {
        let key = name.map(str::to_owned);
        if let Some(path) = self.systems.get(&key).cloned() {
            let answer = self.asking_whatever(&Request::get(&path)).await?;
            match answer.status {
                status if status.is_success() => return Ok((path, answer)),
                // Its firmware was changed, or the blade.
                StatusCode::NOT_FOUND => drop(self.systems.remove(&key)),
                _ => return Err(answer.fault()),
            }
        }
        let root = self.root().await?;
        let link = root.body.pointer("/Systems/@odata.id").and_then(Value::as_str);
        let path = link.and_then(path_of).unwrap_or_else(|| format!("{ROOT}Systems"));
        let members = members(&self.get(&path).await?.body);
        let path = chosen(name, members)?;
        let answer = self.get(&path).await?;
        self.systems.insert(key, path.clone());
        Ok((path, answer))
    }

    /// The paths of all systems.
    pub(super) async fn members(&mut self, path: &str) -> Result<Vec<String>, RedfishFault> {
        Ok(members(&self.get(path).await?.body))
    }

    /// Waits before the next try, each time longer; false if the call's time would be over then.
    pub(super) async fn pause(&mut self, wait: &mut Duration) -> bool {
        let asked = self.retry_after.take().unwrap_or_default().min(self.options.longest_wait);
        let pause = jittered(*wait).max(asked);
        *wait = (*wait * 2).min(self.options.longest_wait);
        if Instant::now() + pause >= self.deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    /// Ends its session. BMCs have few, and keep each for half an hour.
    pub(super) async fn log_out(&mut self) {
        let Some(Session { token, path: Some(path) }) = self.session.take() else { return };
        let request = Request { method: Method::DELETE, path: &path, body: None, if_match: None };
        let (wait, deadline) = (self.options.log_out, Instant::now() + self.options.log_out);
        if let Err(lost) = self.http.send(&request, &Auth::Token(token), wait, deadline).await {
            tracing::info!(bmc = %self.login.bmc, error = %lost.fault, "a BMC's session was not closed");
        }
    }

    /// Sends what does no harm if it is done twice, until it is done.
    async fn asking(&mut self, request: &Request<'_>) -> Result<Answer, RedfishFault> {
        let answer = self.asking_whatever(request).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.fault()) }
    }

    /// The same, but a refusal is an answer too.
    async fn asking_whatever(&mut self, request: &Request<'_>) -> Result<Answer, RedfishFault> {
        let mut wait = self.options.first_wait;
        loop {
            let fault = match self.authenticated(request, self.options.request).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) if !answer.fault().is_passing() => return Ok(answer),
                Ok(answer) => answer.fault(),
                Err(lost) => lost.fault,
            };
            if !fault.is_passing() || !self.pause(&mut wait).await {
                return Err(fault);
            }
        }
    }

    /// Sends once, logged in.
    async fn authenticated(
        &mut self,
        request: &Request<'_>,
        wait: Duration,
    ) -> Result<Answer, Lost> {
        for was_new in [false, true] {
            let auth = self.log_in().await.map_err(|fault| Lost { fault, sent: false })?;
            let answer = self.send(request, &auth, wait).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            // Refused is not done, so it may be sent once more.
            let fault = match (&auth, &self.without) {
                (Auth::Token(_), _) => {
                    self.session = None;
                    RedfishFault::Garbled("it forgets each session at once".to_owned())
                }
                (_, Some((_, WhyNone::NoneFree(told)))) => {
                    let fault = RedfishFault::NoSession(told.clone());
                    self.without = None;
                    return Err(Lost { fault, sent: false });
                }
                _ => return Err(Lost { fault: RedfishFault::WrongAccount, sent: false }),
            };
            if was_new {
                return Err(Lost { fault, sent: false });
            }
        }
        Err(Lost { fault: RedfishFault::WrongAccount, sent: false })
    }

    /// What goes with each request: the session that there is, a new one, or the account.
    async fn log_in(&mut self) -> Result<Auth, RedfishFault> {
        if let Some(session) = &self.session {
            return Ok(Auth::Token(session.token.clone()));
        }
        let Login { user, password, .. } = self.login.clone();
        let body = json!({ "UserName": user, "Password": password.expose() });
        let account = Auth::Account { user, password };
        if self.without.as_ref().is_some_and(|(until, _)| *until > Instant::now()) {
            return Ok(account);
        }
        let Some(path) = self.root().await?.sessions() else {
            self.without = Some((Instant::now() + self.options.no_service, WhyNone::NoService));
            return Ok(account);
        };
        // Many logins at once are much TLS at once.
        let logins = Arc::clone(&self.logins);
        let permit = timeout_at(self.deadline.into(), logins.acquire()).await;
        let _permit = permit.map_err(|_| RedfishFault::Silent)?;
        let request = Request::post(&path, body);
        let answer = self.send(&request, &Auth::Nobody, self.options.request).await;
        let answer = answer.map_err(|lost| lost.fault)?;
        match answer.status {
            status if status.is_success() => {
                let Some(token) = answer.token else {
                    return Err(RedfishFault::Garbled(
                        "its login gives no X-Auth-Token".to_owned(),
                    ));
                };
                let own = answer.body["@odata.id"].as_str();
                let path = answer.location.as_deref().or(own).and_then(path_of);
                self.without = None;
                self.session = Some(Session { token: token.clone(), path });
                Ok(Auth::Token(token))
            }
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => {
                self.without = Some((Instant::now() + self.options.no_service, WhyNone::NoService));
                Ok(account)
            }
            _ if answer.is_session_limit() => {
                let (id, _) = answer.message();
                let told = if id.is_empty() {
                    format!("HTTP {}", answer.status.as_u16())
                } else {
                    id.to_owned()
                };
                tracing::warn!(bmc = %self.login.bmc, told, "a BMC has no free session; its account is sent with each request");
                let until = Instant::now() + self.options.no_session;
                self.without = Some((until, WhyNone::NoneFree(told)));
                Ok(account)
            }
            _ => Err(answer.fault()),
        }
    }

    async fn send(
        &mut self,
        request: &Request<'_>,
        auth: &Auth,
        wait: Duration,
    ) -> Result<Answer, Lost> {
        let answer = self.http.send(request, auth, wait, self.deadline).await?;
        self.retry_after = answer.retry_after;
        Ok(answer)
    }
}

fn members(collection: &Value) -> Vec<String> {
    let members = collection["Members"].as_array().into_iter().flatten();
    members.filter_map(|member| path_of(member["@odata.id"].as_str()?)).collect()
}

/// The path of the system that is meant.
fn chosen(name: Option<&str>, mut paths: Vec<String>) -> Result<String, RedfishFault> {
    let ids = |paths: &[String]| paths.iter().map(|path| id(path).to_owned()).collect::<Vec<_>>();
    match name {
        None if paths.len() > 1 => Err(RedfishFault::ManySystems(ids(&paths))),
        None => paths.pop().ok_or(RedfishFault::NoSystem),
        Some(name) => match paths.iter().find(|path| id(path) == name) {
            Some(path) => Ok(path.clone()),
            None if paths.is_empty() => Err(RedfishFault::NoSystem),
            None => Err(RedfishFault::OtherSystem { wanted: name.to_owned(), known: ids(&paths) }),
        },
    }
}

/// The last part of a path, which is the resource's Id.
pub(super) fn id(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_system_is_meant_or_the_one_that_is_named() {
        let paths =
            |ids: &[&str]| ids.iter().map(|id| format!("/redfish/v1/Systems/{id}/")).collect();
        assert_eq!(chosen(None, paths(&["1"])), Ok("/redfish/v1/Systems/1/".to_owned()));
        assert_eq!(chosen(None, paths(&[])), Err(RedfishFault::NoSystem));
        let told = chosen(None, paths(&["a", "b"])).unwrap_err().to_string();
        assert_eq!(
            told,
            "it has several systems (a, b); say which one is the node: system = \"a\""
        );
        assert_eq!(chosen(Some("b"), paths(&["a", "b"])), Ok("/redfish/v1/Systems/b/".to_owned()));
        let told = chosen(Some("c"), paths(&["a", "b"])).unwrap_err().to_string();
        assert_eq!(told, "it has no system \"c\" but a, b; check system");
    }
}
