//! Every route, listed from the routers, asked by every role: what is let through is what the table of
//! docs/security.md says, and a route without a row fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use axum::{body::Body, http::Request};
use haas_api::{
    agent::{BootStage, Disk, DiskState},
    user::Role,
};
use serde_json::{Value, json};

use crate::{
    api::{BESIDE, openapi_json},
    boots::Targets,
    inventory::NodeSpec,
    model::{Attempt, Cause},
    netboot, reconcile,
    testing::{Answered, Bench, called_from, spec},
};

/// Who asks, as the table knows him. The project has the node, the overlay, the image and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// Without a token.
    Nobody,
    /// With a token that nobody has.
    Guesser,
    /// A user to whom nothing of it is anything.
    Anyone,
    /// A program's account, the same.
    Service,
    /// The user of the path.
    Himself,
    /// In the group of the path.
    InGroup,
    /// The group's owner.
    OwnsGroup,
    /// Of the project.
    Viewer,
    User,
    Manager,
    Owner,
    /// In no project, and granted all of it to view, to use, to manage.
    GrantedView,
    GrantedUse,
    GrantedManage,
    Admin,
}

/// Those who are refused more before those who may more: what is let through may change what is asked for.
const EVERYBODY: [As; 15] = [
    As::Nobody,
    As::Guesser,
    As::Anyone,
    As::Service,
    As::GrantedView,
    As::GrantedUse,
    As::Viewer,
    As::InGroup,
    As::User,
    As::GrantedManage,
    As::Manager,
    As::Owner,
    As::OwnsGroup,
    As::Himself,
    As::Admin,
];

impl As {
    /// The user's name.
    fn name(self) -> &'static str {
        match self {
            Self::Nobody | Self::Guesser => "",
            Self::Anyone => "bob",
            Self::Service => "ci",
            Self::Himself => "alice",
            Self::InGroup => "gary",
            Self::OwnsGroup => "greta",
            Self::Viewer => "vera",
            Self::User => "uma",
            Self::Manager => "mara",
            Self::Owner => "olga",
            Self::GrantedView => "vito",
            Self::GrantedUse => "ulla",
            Self::GrantedManage => "milo",
            Self::Admin => "admin",
        }
    }
}

/// A row of the table: who may, and who else, by a grant.
#[derive(Debug)]
struct Row {
    who: String,
    grant: String,
}

impl Row {
    /// Whether the table lets this caller through.
    fn lets(&self, caller: As) -> bool {
        let place = |words: &[&str], word: &str| words.iter().position(|one| *one == word);
        let role = place(&["viewer", "user", "manager", "owner"], &self.who);
        let grant = place(&["view", "use", "manage"], &self.grant);
        match caller {
            As::Nobody | As::Guesser => self.who == "anybody",
            As::Admin => true,
            _ if self.who == "anybody" || self.who == "everybody" => true,
            As::Anyone | As::Service => false,
            As::Himself => self.who == "self",
            As::InGroup => self.who == "in it",
            As::OwnsGroup => self.who == "in it" || self.who == "its owner",
            As::Viewer => role.is_some_and(|least| least == 0),
            As::User => role.is_some_and(|least| least <= 1),
            As::Manager => role.is_some_and(|least| least <= 2),
            As::Owner => role.is_some(),
            As::GrantedView => grant.is_some_and(|least| least == 0),
            As::GrantedUse => grant.is_some_and(|least| least <= 1),
            As::GrantedManage => grant.is_some(),
        }
    }
}

/// The rows of the page whose route begins so: method and path, and what stands in the other columns.
fn rows(is_of: impl Fn(&str) -> bool) -> BTreeMap<(String, String), Vec<String>> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
    let page = std::fs::read_to_string(page).unwrap();
    let row = |line: &str| {
        let (route, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (method, path) = route.split_once(' ')?;
        let columns = rest.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned());
        let key = (method.to_owned(), path.to_owned());
        is_of(path).then(|| (key, columns.collect()))
    };
    page.lines().filter_map(row).collect()
}

fn table() -> BTreeMap<(String, String), Row> {
    let words = [
        "anybody",
        "everybody",
        "viewer",
        "user",
        "manager",
        "owner",
        "self",
        "in it",
        "its owner",
        "admins",
        "agents",
    ];
    let row = |(key, columns): ((String, String), Vec<String>)| {
        let [who, grant] = <[String; 2]>::try_from(columns).expect("two columns beside the route");
        assert!(words.contains(&who.as_str()), "{key:?}: {who:?} is nobody");
        assert!(["", "view", "use", "manage"].contains(&grant.as_str()), "{key:?}: {grant:?}");
        (key, Row { who, grant })
    };
    let is_of_the_api = |path: &str| path.starts_with("/v1/") || BESIDE.contains(&path);
    rows(is_of_the_api).into_iter().map(row).collect()
}

/// Every method and path of the API's router. Those that are not described only look.
fn routes() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut routes: BTreeSet<_> =
        BESIDE.into_iter().map(|path| ("GET".to_owned(), path.to_owned())).collect();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let methods = methods.as_object().unwrap().keys();
        routes.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    routes
}

/// A controller where a project has something of everything that a route can be about.
struct World {
    bench: Bench,
    tokens: BTreeMap<&'static str, String>,
    /// Of those that only look.
    looking: BTreeMap<&'static str, String>,
    grant: String,
    operation: String,
    reservation: String,
    probe: String,
    question: String,
    window: String,
}

#[track_caller]
fn ok(answer: Answered) -> Value {
    assert!(answer.status < 300, "{answer:?}");
    answer.json()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl World {
    async fn new() -> Self {
        let bench = Bench::open_to_all().await;
        bench.add_nodes([1]).await;
        bench.add_image("a").await;
        let mut tokens =
            BTreeMap::from([("admin", bench.admin.clone()), ("alice", bench.alice.clone())]);
        for caller in EVERYBODY.into_iter().filter(|one| !one.name().is_empty()) {
            if !tokens.contains_key(caller.name()) && caller != As::Service {
                tokens.insert(caller.name(), bench.add_user(caller.name(), Role::User).await);
            }
        }
        let service = json!({ "name": "ci", "role": "user", "kind": "service" });
        ok(bench.post("/v1/users", service).await);
        let made = ok(bench.post("/v1/users/ci/tokens", json!({})).await);
        tokens.insert("ci", text(&made["token"]));

        ok(bench.post("/v1/projects", json!({ "name": "vision", "owner": "olga" })).await);
        let members = json!({ "set": [{ "member": "vera", "role": "viewer" },
            { "member": "uma", "role": "user" }, { "member": "mara", "role": "manager" }] });
        ok(bench.call(&bench.admin, "PATCH", "/v1/projects/vision/members", members).await);
        let mut tx = bench.context.store.write().await.unwrap();
        let vision = tx.project("vision").await.unwrap().unwrap().id;
        tx.set_image_owner(&"cuda".parse().unwrap(), &vision).await.unwrap();
        let disk = Disk {
            name: "sda".to_owned(),
            serial: Some("S1".to_owned()),
            model: None,
            size: 1 << 30,
            state: DiskState::Blank,
        };
        let node = tx.node("n01").await.unwrap().unwrap();
        tx.set_disks(&node.id, &[disk], 1).await.unwrap();
        tx.commit().await.unwrap();
        bench.add_image("cuda").await;
        bench.give_disks().await;
        for (token, path, body) in [
            (&tokens["greta"], "/v1/groups", json!({ "name": "staff" })),
            (&tokens["olga"], "/v1/overlays", json!({ "name": "dev", "owner": "vision" })),
            (&bench.admin, "/v1/queues", json!({ "name": "gpu" })),
            (&bench.admin, "/v1/queues", json!({ "name": "day", "open": true })),
            (
                &bench.admin,
                "/v1/webhooks",
                json!({ "name": "chat", "url": "https://hooks.example/" }),
            ),
        ] {
            ok(bench.call(token, "POST", path, body).await);
        }
        let add = json!({ "add": ["gary"] });
        ok(bench.call(&tokens["greta"], "PATCH", "/v1/groups/staff", add).await);
        let mut grant = String::new();
        for object in ["node-group:rack1", "queue:gpu", "image:cuda", "overlay:vision/dev"] {
            for (subject, role) in
                [("milo", "manage"), ("ulla", "use"), ("vito", "view"), ("vision", "use")]
            {
                let is_own = subject == "vision" && object.contains("cuda");
                if is_own || (subject == "vision" && object.contains("dev")) {
                    continue;
                }
                let body = json!({ "subject": subject, "object": object, "role": role });
                grant = text(&ok(bench.post("/v1/grants", body).await)["id"]);
            }
        }
        let olga = &tokens["olga"];
        let body = json!({ "nodeset": "n01", "image": "cuda", "overlay": "vision/dev" });
        let operation = ok(bench.call(olga, "POST", "/v1/switch", body).await);
        let node = bench.node(1).await;
        reconcile::open_attempt(&bench.context, &node, None, Cause::Desired).await.unwrap();
        let body = json!({ "nodes": 1, "image": "cuda", "queue": "gpu", "project": "vision" });
        let reservation = ok(bench.call(olga, "POST", "/v1/reservations", body).await);
        let probe =
            ok(bench.post("/v1/probes", json!({ "of": "address", "address": "127.0.0.1" })).await);
        let looks = &bench.context.power_looks;
        let question = looks.begin("olga", [node.id.clone()].into(), Instant::now()).unwrap();
        looks.end(&question, true);
        let window = ok(bench.post("/v1/maintenance", body_for("/v1/maintenance")).await);
        let mut looking = BTreeMap::new();
        for caller in LOOKING {
            let path = format!("/v1/users/{}/tokens", caller.name());
            let made = ok(bench.post(&path, json!({ "read_only": true })).await);
            looking.insert(caller.name(), text(&made["token"]));
        }
        let [operation, reservation, probe, window] =
            [operation, reservation, probe, window].map(|made| text(&made["id"]));
        Self { bench, tokens, looking, grant, operation, reservation, probe, question, window }
    }

    fn token(&self, caller: As) -> &str {
        match caller {
            As::Nobody => "",
            As::Guesser => "a-guess",
            known => &self.tokens[known.name()],
        }
    }

    /// The path with what there is in place of its variables.
    fn path(&self, template: &str) -> String {
        let of = |things: &[(&str, &str)], otherwise: &str| {
            let noun = template.split('/').nth(2).unwrap_or_default();
            let found = things.iter().find(|(of, _)| *of == noun);
            found.map_or(otherwise, |(_, thing)| *thing).to_owned()
        };
        let ids = [
            ("grants", self.grant.as_str()),
            ("operations", self.operation.as_str()),
            ("reservations", self.reservation.as_str()),
            ("probes", self.probe.as_str()),
            ("power", self.question.as_str()),
            ("maintenance", self.window.as_str()),
        ];
        let names = [
            ("users", "alice"),
            ("groups", "staff"),
            ("projects", "vision"),
            ("queues", "gpu"),
            ("webhooks", "chat"),
        ];
        // A bench's tokens have the names of their users.
        let (id, name) = (of(&ids, "alice"), of(&names, "n01"));
        let path = template.replace("{owner}/{name}", "vision/dev").replace("{name}", &name);
        let path = path.replace("{image}", "cuda:latest").replace("{id}", &id);
        assert!(!path.contains('{'), "{path}: what is in the place of its variables?");
        match template {
            "/v1/images/build" => path + "?name=a&kind=root",
            "/v1/images/import" => path + "?name=cuda&kind=root&project=vision",
            "/v1/calendar" => path + "?queue=gpu",
            "/v1/events" => path + "?from=0",
            _ => path,
        }
    }

    async fn ask(&self, token: &str, method: &str, template: &str) -> Answered {
        self.bench.call(token, method, &self.path(template), body_for(template)).await
    }
}

/// A body that a route takes, so that it comes to the question who may.
fn body_for(template: &str) -> Value {
    let set = json!({ "nodeset": "n01" });
    match template {
        "/v1/switch" => json!({ "nodeset": "n01", "image": "a", "overlay": "none", "force": true }),
        "/v1/rollback" => json!({ "nodeset": "n01", "force": true }),
        "/v1/power" => json!({ "nodeset": "n01", "action": "off", "force": true }),
        "/v1/power/status" => json!({ "nodeset": "n01" }),
        "/v1/probes" => json!({ "of": "address", "address": "127.0.0.1" }),
        "/v1/nodes/manage" => json!({ "nodeset": "n01", "managed": false }),
        "/v1/nodes/drain" => json!({ "nodeset": "n01", "state": "drain", "reason": "bad DIMM" }),
        "/v1/nodes/resume"
        | "/v1/nodes/baseline/check"
        | "/v1/nodes/baseline/accept"
        | "/v1/nodes/baseline/forget" => set,
        "/v1/overlays/{owner}/{name}" => json!({ "shares_disk": true }),
        "/v1/nodes/apply" => json!({ "text": "", "file": "nodes.toml", "dry_run": false }),
        "/v1/nodes/{name}/disks/claim" => json!({ "serial": "S1", "wipe": true }),
        "/v1/nodes/{name}/disks/accept" => json!({ "serial": "S1" }),
        "/v1/nodes/{name}/disks/repair" => json!({ "may_lose_files": true }),
        "/v1/users" => json!({ "name": "eve", "role": "admin", "ssh_keys": [] }),
        "/v1/users/{name}" => json!({ "ssh_keys": [] }),
        "/v1/users/{name}/password" => json!({ "new": "correct horse battery" }),
        "/v1/users/{name}/tokens" => json!({}),
        "/v1/overlays" => json!({ "name": "x", "owner": "vision" }),
        "/v1/groups" => json!({ "name": "guests" }),
        "/v1/groups/{name}" => json!({ "add": ["alice"] }),
        "/v1/projects" => json!({ "name": "speech", "owner": "alice" }),
        "/v1/projects/{name}" => json!({ "access": "user" }),
        "/v1/projects/{name}/members" => json!({ "set": [{ "member": "bob", "role": "user" }] }),
        "/v1/grants" => json!({ "subject": "bob", "object": "overlay:vision/dev", "role": "use" }),
        "/v1/images/tags" => json!({ "image": "cuda:latest", "name": "cuda", "tag": "next" }),
        "/v1/images/{image}" => json!({ "open": true }),
        "/v1/queues" => json!({ "name": "night" }),
        "/v1/maintenance" => json!({ "nodeset": "n01", "begin": "2030-01-01T00:00:00Z",
            "end": "2030-01-01T01:00:00Z", "reason": "new disks" }),
        "/v1/reservations" => json!({ "nodes": 1, "image": "a", "queue": "day" }),
        "/v1/reservations/{id}/extend" => json!({ "by_s": 60 }),
        "/v1/webhooks" => json!({ "name": "mail", "url": "https://hooks.example/" }),
        "/v1/login" => json!({ "name": "alice", "password": "wrong" }),
        "/v1/register" => json!({ "name": "eve", "password": "correct horse battery" }),
        _ => Value::Null,
    }
}

/// Whether what is asked next meets the same: it only looked, or made something that nothing else is about.
/// A world takes a while to make.
fn leaves_all_as_it_was(method: &str, template: &str) -> bool {
    let makes = [
        "/v1/groups",
        "/v1/images/{image}",
        "/v1/images/build",
        "/v1/images/import",
        "/v1/images/tags",
        "/v1/login",
        "/v1/maintenance",
        "/v1/nodes/baseline/accept",
        "/v1/nodes/baseline/check",
        "/v1/nodes/baseline/forget",
        "/v1/overlays",
        "/v1/overlays/{owner}/{name}",
        "/v1/probes",
        "/v1/projects",
        "/v1/queues",
        "/v1/register",
        "/v1/reservations",
        "/v1/reservations/{id}/extend",
        "/v1/users",
        "/v1/users/{name}",
        "/v1/users/{name}/tokens",
        "/v1/webhooks",
        "/v1/webhooks/{name}/test",
    ];
    method == "GET" || (method != "DELETE" && makes.contains(&template))
}

/// Whether who asks is not let through. What is there but not for him may be told as not there.
fn is_refused(answer: &Answered) -> bool {
    match answer.status {
        401 => answer.code() == "unauthorized",
        status => [403, 404].contains(&status),
    }
}

#[test]
fn every_route_has_its_row_in_the_table_of_roles() {
    let table = table();
    assert_eq!(table.keys().collect::<Vec<_>>(), routes().iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn every_role_may_on_every_route_what_the_table_says_and_nothing_else() {
    let mut wrong = Vec::new();
    let mut world = World::new().await;
    let mut asked = 0;
    for (((method, template), row), place) in table().into_iter().zip(1..) {
        // Agents are asked who they are in their own channel.
        if template == "/v1/agent" {
            continue;
        }
        // Who guesses tokens is stopped before long, so that for each route it is somebody else.
        let router = crate::api::router(world.bench.context.clone());
        world.bench.router = called_from(router, [192, 0, 2, place].into());
        for caller in EVERYBODY {
            let answer = world.ask(world.token(caller), &method, &template).await;
            asked += 1;
            if is_refused(&answer) == row.lets(caller) {
                wrong.push(format!("{method} {template} by {caller:?}: {answer:?}"));
            }
            // The bench's images are their manifests only: there are no files that could be removed. And it
            // has no listeners, so that it is never ready.
            let lacks_files = method == "DELETE" && template.starts_with("/v1/images");
            if answer.status >= 500 && !lacks_files && template != "/readyz" {
                wrong.push(format!("{method} {template} by {caller:?}: {answer:?}"));
            }
            if answer.status < 300 && !leaves_all_as_it_was(&method, &template) {
                world = World::new().await;
            }
        }
    }
    assert!(asked > 1_000, "only {asked} requests were made");
    assert!(wrong.is_empty(), "not as the table says:\n{}", wrong.join("\n"));
}

/// Who has a token that only looks, too.
const LOOKING: [As; 6] =
    [As::Anyone, As::Viewer, As::Owner, As::GrantedManage, As::Himself, As::Admin];

#[tokio::test]
async fn a_token_that_only_looks_sees_what_the_table_says_and_changes_nothing_whoevers_it_is() {
    let mut wrong = Vec::new();
    let mut world = World::new().await;
    for ((method, template), row) in table() {
        // Who types on a console changes what runs there.
        let looks = method == "GET" && template != "/v1/nodes/{name}/console";
        let open = ["/v1/login", "/v1/register", "/v1/logout"].contains(&template.as_str());
        if template == "/v1/agent" {
            continue;
        }
        for caller in LOOKING {
            let answer = world.ask(&world.looking[caller.name()], &method, &template).await;
            let may = open || (looks && row.lets(caller));
            if is_refused(&answer) == may {
                wrong.push(format!("{method} {template} by {caller:?}: {answer:?}"));
            }
            if answer.status < 300 && !leaves_all_as_it_was(&method, &template) {
                world = World::new().await;
            }
        }
    }
    assert!(wrong.is_empty(), "not as the table says:\n{}", wrong.join("\n"));
}

/// The routes for nodes as they are asked: by whom, and with which token in the path.
struct Netboot {
    bench: Bench,
    router: axum::Router,
}

impl Netboot {
    /// Node 1 boots, node 2 does too and has a firmware that takes signed programs only, node 3 is off.
    async fn new() -> (Self, [Attempt; 2]) {
        let bench = Bench::new().await;
        bench.add_image("a").await;
        bench.add_nodes([1, 3]).await;
        bench.add(&NodeSpec { secure_boot: true, ..spec(2) }).await;
        let first = bench.begin_boot(1).await;
        let second = bench.begin_boot(2).await;
        // What GRUB asks for comes after its firmware has asked by DHCP.
        let mut tx = bench.context.store.write().await.unwrap();
        assert!(tx.advance(&second, BootStage::Dhcp, bench.context.clock.now()).await.unwrap());
        tx.commit().await.unwrap();
        let serving = netboot::Serving {
            targets: Arc::new(Targets::new(bench.context.clone())),
            templates: bench.context.templates.clone(),
            binaries: netboot::firmware::Binaries::of(&bench.context.config),
        };
        let router = netboot::http::router(serving);
        (Self { bench, router }, [first, second])
    }

    /// Whether the node of this number, or whoever is at that place, is let through. The bench's images
    /// have no files, so that what is let through to them is not found there.
    async fn lets(&self, number: u8, path: &str) -> bool {
        let router = called_from(self.router.clone(), [127, 77, 0, number].into());
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = self.bench.send_to(&router, request).await;
        assert!([200, 403, 404, 410, 503].contains(&answer.status), "{path}: {answer:?}");
        ![403, 404, 410].contains(&answer.status)
    }

    fn token(&self, attempt: &Attempt) -> String {
        self.bench.context.master_key.boot_token(&attempt.id).expose().clone()
    }
}

#[tokio::test]
async fn the_routes_for_nodes_open_to_the_node_of_an_open_boot_alone() {
    let rows = rows(|path| !path.starts_with("/v1/") && !BESIDE.contains(&path));
    let rows: BTreeSet<_> = rows.into_keys().collect();
    let paths = netboot::http::PATHS.map(|path| ("GET".to_owned(), path.to_owned()));
    assert_eq!(rows, BTreeSet::from(paths), "the rows of the page, and the routes");

    let (netboot, [first, second]) = Netboot::new().await;
    // Programs for firmware are anybody's, and nothing beside them is.
    let program = netboot.bench.context.config.ipxe_dir.join("snponly.efi");
    std::fs::write(program, b"MZ").unwrap();
    for number in [1, 2, 3, 200] {
        assert!(netboot.lets(number, "/ipxe/snponly.efi").await);
        assert!(!netboot.lets(number, "/ipxe/master.key").await);
        assert!(!netboot.lets(number, "/ipxe/..%2fmaster.key").await);
    }
    let (own, other) = (netboot.token(&first), netboot.token(&second));
    let boot = |token: &str, resource: &str| format!("/boot/{token}/{resource}");
    for resource in ["script", "kernel", "initrd"] {
        assert!(netboot.lets(1, &boot(&own, resource)).await, "{resource}");
        for (number, token) in [(1, &other), (3, &own), (200, &own), (2, &own)] {
            assert!(!netboot.lets(number, &boot(token, resource)).await, "{resource} by {number}");
        }
        let guess = format!("{}0", &own[..own.len() - 1]);
        assert!(guess == own || !netboot.lets(1, &boot(&guess, resource)).await);
    }
    assert!(!netboot.lets(1, &boot(&own, "plan")).await);
    for (number, may) in [(1, false), (2, true), (3, false), (200, false)] {
        assert_eq!(netboot.lets(number, "/grub/grub.cfg").await, may, "GRUB's by {number}");
    }
    // Once its agent has called, and when the boot's time is over, they are closed to the node too.
    netboot.bench.advance(&first, BootStage::Agent).await;
    let mut tx = netboot.bench.context.store.write().await.unwrap();
    tx.end_attempts(&second.node_id, 1).await.unwrap();
    tx.commit().await.unwrap();
    for resource in ["script", "kernel", "initrd"] {
        assert!(!netboot.lets(1, &boot(&own, resource)).await, "{resource} of a spent token");
        assert!(
            !netboot.lets(2, &boot(&other, resource)).await,
            "{resource} of a boot that is over"
        );
    }
    assert!(!netboot.lets(2, "/grub/grub.cfg").await);
}
