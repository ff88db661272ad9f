//! What the BMC does with a request: no I/O, takes the time.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Machine, Setup, User, Vendor, collections,
    http::{Reply, Request},
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// So many requests are answered 503 from now on.
    pub unavailable: u32,
    /// Milliseconds until each answer.
    pub slow_ms: u64,
    /// So many orders are obeyed, and the connection is closed without an answer.
    pub lost_answers: u32,
    /// It takes connections and answers nothing.
    pub silent: bool,
    /// Milliseconds for which the old power state is told.
    pub lag_ms: u64,
    /// Every read is answered with this many bytes that are no JSON.
    pub garbage: usize,
    /// Each write needs If-Match.
    pub wants_etag: bool,
    /// Members of a log that come at once; 0 is all.
    pub page: usize,
}

/// What it was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests of any kind.
    pub requests: u64,
    /// Sessions that were opened.
    pub logins: u64,
    /// Sessions that were closed by those who had them.
    pub logouts: u64,
    /// Requests that came with the account itself.
    pub basic: u64,
    /// Logins with a wrong account.
    pub refused: u64,
}

/// What comes of a request.
#[derive(Debug)]
pub(super) enum Does {
    Reply(Reply),
    /// Ends the connection.
    Close,
    /// Lets the client wait.
    Nothing,
}

/// A BMC's service and the machine that it switches.
pub struct Service {
    setup: Setup,
    tree: BTreeMap<String, Value>,
    /// The system's path.
    system: String,
    machine: Box<dyn Machine>,
    /// When the machine was switched last, and whether it was on before.
    changed: Option<(Instant, bool)>,
    sessions: BTreeMap<u64, (String, User)>,
    next_session: u64,
    /// Counts changes, for ETags.
    version: u64,
    faults: Faults,
    counts: Counts,
    orders: Vec<String>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("setup", &self.setup).finish_non_exhaustive()
    }
}

const ROOT: &str = "/redfish/v1";
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";
const CLEAR: &str = "#LogService.ClearLog";
const MANAGERS: &str = "/redfish/v1/Managers";
const ACCOUNTS: &str = "/redfish/v1/AccountService/Accounts";

fn is_manager(path: &str) -> bool {
    let name = path.strip_prefix(MANAGERS).and_then(|rest| rest.strip_prefix('/'));
    name.is_some_and(|name| !name.contains('/'))
}

/// Each BMC has an address; the mockups leave it out.
fn give_managers_a_nic(tree: &mut BTreeMap<String, Value>) {
    let link = |path: &str| json!({ "@odata.id": path });
    let managers: Vec<String> = tree.keys().filter(|path| is_manager(path)).cloned().collect();
    for manager in managers {
        let nics = format!("{manager}/EthernetInterfaces");
        let nic = format!("{nics}/eth0");
        if let Some(manager) = tree.get_mut(&manager) {
            manager["EthernetInterfaces"] = link(&nics);
        }
        let address = json!({ "Address": "10.9.0.1", "SubnetMask": "255.255.0.0",
            "Gateway": "10.9.255.254", "AddressOrigin": "Static" });
        let eth0 = json!({ "@odata.id": nic, "Id": "eth0", "IPv4Addresses": [address],
            "VLAN": { "VLANEnable": false, "VLANId": 0 } });
        let all = json!({ "@odata.id": nics, "Members@odata.count": 1, "Members": [link(&nic)] });
        tree.insert(nics, all);
        tree.insert(nic, eth0);
    }
}

impl Service {
    pub(super) fn new(setup: Setup, machine: Box<dyn Machine>) -> Result<Self> {
        let mut tree = setup.vendor.tree()?;
        give_managers_a_nic(&mut tree);
        let systems = tree.get("/redfish/v1/Systems").context("the mockup has no systems")?;
        let system = systems["Members"][0]["@odata.id"].as_str().context("it has no system")?;
        let system = system.trim_end_matches('/').to_owned();
        Ok(Self {
            setup,
            tree,
            system,
            machine,
            changed: None,
            sessions: BTreeMap::new(),
            next_session: 1,
            version: 1,
            faults: Faults::default(),
            counts: Counts::default(),
            orders: Vec::new(),
        })
    }

    /// How it misbehaves from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// How it misbehaves.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// What it was asked so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Every order that it obeyed, in order: `On`, `ForceOff`, `boot Pxe Once UEFI` with what was written,
    /// `bmc GracefulRestart` for itself, `clear log`.
    pub fn orders(&self) -> &[String] {
        &self.orders
    }

    /// Sessions that are open.
    pub fn open_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Forgets all sessions, as when they are over or the BMC has restarted.
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Adds an account, as who is root on the machine can.
    pub fn add_user(&mut self, user: User) {
        self.setup.users.push(user);
    }

    /// Gives the BMC other firmware of this version.
    pub fn set_firmware(&mut self, version: &str) {
        for (_, manager) in self.tree.iter_mut().filter(|(path, _)| is_manager(path)) {
            manager["FirmwareVersion"] = json!(version);
        }
    }

    /// A resource, to be looked at or changed behind the service's back.
    ///
    /// # Panics
    /// If there is no such resource.
    pub fn resource(&mut self, path: &str) -> &mut Value {
        self.version += 1;
        self.tree.get_mut(path).expect("the mockup has it")
    }

    /// The system's path.
    pub fn system(&self) -> &str {
        &self.system
    }

    pub(super) fn answer(&mut self, request: &Request, now: Instant) -> Does {
        self.counts.requests += 1;
        if self.faults.silent {
            return Does::Nothing;
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let path = path.trim_end_matches('/').to_owned();
        // What is not served at all is no part of a service that is not ready.
        if self.faults.unavailable > 0 && path != ROOT {
            self.faults.unavailable -= 1;
            return Does::Reply(Reply::empty(503).with("Retry-After", "0"));
        }
        if request.method == "GET" && self.faults.garbage > 0 {
            let body = b"{\"PowerState\": \"O".iter().copied().cycle().take(self.faults.garbage);
            return Does::Reply(Reply { body: body.collect(), ..Reply::empty(200) });
        }
        if path == SESSIONS && request.method == "POST" {
            return Does::Reply(self.log_in(&request.body));
        }
        if path == ROOT && request.method == "GET" {
            return Does::Reply(self.read(&path, query, now));
        }
        let Some((user, session)) = self.who(request) else {
            return Does::Reply(error(
                401,
                "Base.1.8.NoValidSession",
                "There is no valid session.",
            ));
        };
        let is_own_session = session.is_some_and(|id| path == format!("{SESSIONS}/{id}"));
        if request.method != "GET" && user.role == "ReadOnly" && !is_own_session {
            return Does::Reply(error(
                403,
                "Base.1.8.InsufficientPrivilege",
                "Insufficient privilege.",
            ));
        }
        match request.method.as_str() {
            "GET" => Does::Reply(self.read(&path, query, now)),
            "DELETE" => Does::Reply(self.log_out(&path)),
            "PATCH" => Does::Reply(self.write(&path, request)),
            "POST" => self.act(&path, &request.body, now),
            _ => Does::Reply(Reply::empty(405)),
        }
    }

    fn log_in(&mut self, body: &Value) -> Reply {
        let user = self.setup.users.iter().find(|user| {
            body["UserName"] == user.name.as_str() && body["Password"] == user.password.as_str()
        });
        let Some(user) = user.cloned() else {
            self.counts.refused += 1;
            return match self.setup.vendor {
                Vendor::Ilo => error(400, "iLO.2.14.UnauthorizedLoginAttempt", ""),
                _ => error(401, "Base.1.8.ResourceAtUriUnauthorized", "Unauthorized."),
            };
        };
        if self.sessions.len() >= self.setup.sessions {
            return match self.setup.vendor {
                Vendor::Idrac => error(
                    503,
                    "IDRAC.2.4.RAC0218",
                    "The maximum number of user sessions is reached.",
                ),
                _ => error(400, "Base.1.8.SessionLimitExceeded", "The session limit was exceeded."),
            };
        }
        self.counts.logins += 1;
        let (id, token) = (self.next_session, format!("{:032x}", rand::random::<u128>()));
        self.next_session += 1;
        self.sessions.insert(id, (token.clone(), user));
        let path = format!("{SESSIONS}/{id}");
        let body = json!({ "@odata.id": path, "Id": id.to_string() });
        // Some give a whole URL.
        let location = match self.setup.vendor {
            Vendor::Ilo => format!("https://ilo.example{path}/"),
            _ => path,
        };
        Reply::json(201, &body).with("X-Auth-Token", token).with("Location", location)
    }

    fn log_out(&mut self, path: &str) -> Reply {
        let id = path.rsplit('/').next().and_then(|id| id.parse::<u64>().ok());
        match id.and_then(|id| self.sessions.remove(&id)) {
            Some(_) => {
                self.counts.logouts += 1;
                Reply::empty(204)
            }
            None => error(404, "Base.1.8.ResourceMissingAtURI", "There is no such session."),
        }
    }

    /// Who asks, and in which session.
    fn who(&mut self, request: &Request) -> Option<(User, Option<u64>)> {
        if let Some(token) = request.header("x-auth-token") {
            let found = self.sessions.iter().find(|(_, (known, _))| known == token);
            return found.map(|(id, (_, user))| (user.clone(), Some(*id)));
        }
        let basic = request.header("authorization")?.strip_prefix("Basic ")?.to_owned();
        if !self.setup.basic {
            return None;
        }
        let is = |user: &&User| base64(&format!("{}:{}", user.name, user.password)) == basic;
        let user = self.setup.users.iter().find(is).cloned();
        match user {
            Some(_) => self.counts.basic += 1,
            None => self.counts.refused += 1,
        }
        user.map(|user| (user, None))
    }

    fn read(&mut self, path: &str, query: &str, now: Instant) -> Reply {
        if let Some(accounts) = self.accounts(path) {
            return Reply::json(200, &accounts);
        }
        let Some(mut body) = self.tree.get(path).cloned() else {
            return error(404, "Base.1.8.ResourceMissingAtURI", "There is no such resource.");
        };
        let tag = self.tag();
        if path == self.system {
            body["PowerState"] = json!(if self.told(now) { "On" } else { "Off" });
            body["@odata.etag"] = json!(tag);
        }
        let page = if path.ends_with("/Entries") { self.faults.page } else { 0 };
        let Some(body) = collections::asked(&self.tree, body, path, query, page) else {
            return error(501, "Base.1.8.QueryNotSupported", "Querying is not supported.");
        };
        Reply::json(200, &body).with("ETag", tag)
    }

    fn tag(&self) -> String {
        format!("W/\"{:08X}\"", self.version)
    }

    /// What it says of the machine's power: for a while what it was.
    fn told(&mut self, now: Instant) -> bool {
        let lag = Duration::from_millis(self.faults.lag_ms);
        match self.changed {
            Some((at, before)) if at + lag > now => before,
            _ => self.machine.is_on(),
        }
    }

    fn accounts(&self, path: &str) -> Option<Value> {
        if path == "/redfish/v1/AccountService" {
            return Some(json!({ "@odata.id": path, "Accounts": { "@odata.id": ACCOUNTS } }));
        }
        let link = |number: usize| json!({ "@odata.id": format!("{ACCOUNTS}/{number}") });
        if path == ACCOUNTS {
            let members: Vec<_> = (0..self.setup.users.len()).map(link).collect();
            return Some(json!({ "@odata.id": path, "Members": members }));
        }
        let number: usize = path.strip_prefix(ACCOUNTS)?.strip_prefix('/')?.parse().ok()?;
        let user = self.setup.users.get(number)?;
        Some(json!({ "@odata.id": path, "UserName": user.name, "RoleId": user.role }))
    }

    fn write(&mut self, path: &str, request: &Request) -> Reply {
        let if_match = request.header("if-match");
        let wants = self.faults.wants_etag || self.setup.vendor == Vendor::Ami;
        let fits = match (if_match, self.setup.vendor) {
            (None, _) if wants => {
                return error(428, "Base.1.8.PreconditionRequired", "If-Match is required.");
            }
            (None, _) => true,
            (Some("*"), Vendor::Ilo) => false,
            (Some(tag), Vendor::Ami) => tag == "*",
            (Some(tag), _) => tag == "*" || tag == self.tag(),
        };
        if !fits {
            return error(412, "Base.1.8.PreconditionFailed", "The ETag is another one.");
        }
        let place = self.boot_place();
        let Value::Object(change) = &request.body["Boot"] else {
            return error(400, "Base.1.8.MalformedJSON", "Only Boot can be written.");
        };
        if path != place {
            return error(400, "Base.1.8.PropertyNotWritable", "Boot is read-only here.");
        }
        if change.contains_key("BootSourceOverrideMode")
            && matches!(self.setup.vendor, Vendor::Ilo | Vendor::Idrac)
        {
            return error(
                400,
                "Base.1.8.PropertyNotWritable",
                "BootSourceOverrideMode is read-only.",
            );
        }
        let boot = &mut self.tree.get_mut(&place).expect("it was read from there")["Boot"];
        if !boot.is_object() {
            return error(400, "Base.1.8.PropertyUnknown", "It has no boot override.");
        }
        if self.setup.vendor == Vendor::Supermicro {
            boot["BootSourceOverrideMode"] = json!("Legacy");
        }
        for (key, value) in change {
            let allowed = boot[&format!("{key}@Redfish.AllowableValues")].as_array();
            if allowed.is_some_and(|allowed| !allowed.contains(value)) {
                return error(
                    400,
                    "Base.1.8.PropertyValueNotInList",
                    "The value is not in the list.",
                );
            }
            boot[key] = value.clone();
        }
        let words = ["Target", "Enabled", "Mode"]
            .map(|key| change.get(&format!("BootSourceOverride{key}")).and_then(Value::as_str));
        let words: Vec<_> = words.into_iter().flatten().collect();
        if let Some(target) = words.first() {
            self.machine.boot_from(target);
        }
        self.orders.push(format!("boot {}", words.join(" ")));
        self.version += 1;
        match self.setup.vendor {
            Vendor::Ilo => error(200, "Base.1.4.Success", "The request completed successfully."),
            Vendor::Supermicro => Reply::empty(202),
            _ => Reply::empty(204),
        }
    }

    /// Where the boot override is written.
    fn boot_place(&self) -> String {
        let system = &self.tree[&self.system];
        let settings = system.pointer("/@Redfish.Settings/SettingsObject/@odata.id");
        let settings = settings.and_then(Value::as_str).unwrap_or_default().to_owned();
        let has = |body: &Value| body.pointer("/Boot/BootSourceOverrideTarget").is_some();
        if self.tree.get(&settings).is_some_and(has) { settings } else { self.system.clone() }
    }

    fn act(&mut self, path: &str, body: &Value, now: Instant) -> Does {
        let Some((owner, action)) = self.action(path) else {
            return Does::Reply(error(
                404,
                "Base.1.8.ResourceMissingAtURI",
                "There is no such action.",
            ));
        };
        let kind = body["ResetType"].as_str().unwrap_or_default();
        if action != CLEAR && !self.offers(&owner, &action, kind) {
            return Does::Reply(error(
                400,
                "Base.1.8.ActionParameterNotSupported",
                "No such ResetType.",
            ));
        }
        match action.as_str() {
            CLEAR => return Does::Reply(self.clear(&owner)),
            "#Manager.Reset" => {
                self.orders.push(format!("bmc {kind}"));
                self.sessions.clear();
                return if self.faults.lost_answers > 0 {
                    self.faults.lost_answers -= 1;
                    Does::Close
                } else {
                    Does::Reply(Reply::empty(204))
                };
            }
            _ => {}
        }
        let was_on = self.machine.is_on();
        if self.setup.vendor == Vendor::Ilo && kind == "ForceOff" && !was_on {
            return Does::Reply(error(400, "iLO.0.10.InvalidOperationForSystemState", ""));
        }
        self.orders.push(kind.to_owned());
        match kind {
            "On" | "ForceOn" => self.machine.on(),
            "ForceOff" => self.machine.off(),
            "GracefulShutdown" => self.machine.soft(),
            "PushPowerButton" if was_on => self.machine.soft(),
            "PushPowerButton" => self.machine.on(),
            _ => {}
        }
        self.changed = Some((now, was_on));
        self.version += 1;
        if self.faults.lost_answers > 0 {
            self.faults.lost_answers -= 1;
            return Does::Close;
        }
        Does::Reply(match self.setup.vendor {
            Vendor::Ilo => error(200, "Base.1.4.Success", "The request completed successfully."),
            Vendor::Supermicro => {
                Reply::json(200, &json!({ "Success": { "code": "Base.v1_4_0.Success" } }))
            }
            _ => Reply::empty(204),
        })
    }

    /// The resource and its action that has this target.
    fn action(&self, target: &str) -> Option<(String, String)> {
        for (path, resource) in &self.tree {
            for (name, action) in resource["Actions"].as_object().into_iter().flatten() {
                let at = action["target"].as_str().unwrap_or_default();
                if at.trim_end_matches('/') == target {
                    return Some((path.clone(), name.clone()));
                }
            }
        }
        None
    }

    fn clear(&mut self, service: &str) -> Reply {
        let entries = self.tree[service]["Entries"]["@odata.id"].as_str().unwrap_or_default();
        let entries = entries.trim_end_matches('/').to_owned();
        if let Some(entries) = self.tree.get_mut(&entries) {
            entries["Members"] = json!([]);
            entries["Members@odata.count"] = json!(0);
        }
        self.orders.push("clear log".to_owned());
        Reply::empty(204)
    }

    /// Where it does not say which kinds it has, it has the usual ones.
    fn offers(&self, owner: &str, action: &str, kind: &str) -> bool {
        let action = &self.tree[owner]["Actions"][action];
        let info = action["@Redfish.ActionInfo"].as_str().and_then(|path| self.tree.get(path));
        let listed = match info {
            Some(info) => &info["Parameters"][0]["AllowableValues"],
            None => &action["ResetType@Redfish.AllowableValues"],
        };
        match listed.as_array() {
            Some(listed) => listed.iter().any(|word| word == kind),
            None => ["GracefulRestart", "ForceRestart"].contains(&kind),
        }
    }
}

/// An error as DSP0266 has it, which some send with good news too.
fn error(status: u16, id: &str, words: &str) -> Reply {
    let info = json!([{ "MessageId": id, "Message": words }]);
    let body = json!({ "error": { "code": id, "message": words, "@Message.ExtendedInfo": info } });
    Reply::json(status, &body)
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for piece in text.as_bytes().chunks(3) {
        let bits = piece.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - piece.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= piece.len() { char::from(digit) } else { '=' });
        }
    }
    out
}
