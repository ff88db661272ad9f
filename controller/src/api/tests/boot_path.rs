//! What lies between the boot token and the image: who is given the secrets of a boot, when, and who
//! gets into the target with them.

use std::sync::{Arc, Mutex};

use haas_api::agent::{BootStage, Chap, HelloAuth};
use iscsi_target::Exports as _;
use serde_json::{Value, json};

use super::{
    channel::{Served, stage, token},
    initiator::{By, IN, Login, NOT_AUTHORIZED, Target, WRONG_PROOF},
};
use crate::{
    boots,
    exports::Exports,
    images::manifest::target_name,
    lifecycle::{Action, Step},
    model::{Attempt, AttemptState, Cause, SECOND},
    reconcile,
    testing::{Bench, spec},
    tokens::MasterKey,
};

/// A node whose boot attempt is open, the API on a socket, and the target.
struct Path {
    served: Served,
    target: Target,
}

impl Path {
    async fn start() -> Self {
        let served = Served::start().await;
        served.bench.give_disks().await;
        let target = Target::start(&served.bench);
        Self { served, target }
    }

    fn bench(&self) -> &Bench {
        &self.served.bench
    }

    /// The login of node 1 for its attempt, from its address.
    async fn login(&self, attempt: &Attempt) -> Login {
        let mut tx = self.bench().context.store.read().await.unwrap();
        let row = tx.images().await.unwrap().remove(0);
        Login {
            from: [127, 77, 0, 1],
            initiator: attempt.initiator.clone(),
            target: target_name(&row.digest),
            by: By::NoMethod,
        }
    }

    /// The login as the node's agent does it, with what it is given for its token.
    async fn agents_login(&self) -> Login {
        let (_, welcome) = self.served.welcome(token(&self.served.token)).await;
        let root = welcome.plan.root;
        let by = By::Both(root.chap.expect("a secret"), root.target_chap.expect("another one"));
        Login { from: [127, 77, 0, 1], initiator: root.initiator, target: root.target, by }
    }

    async fn try_in(&self, login: Login) -> u16 {
        self.target.try_in(login).await
    }

    /// The secrets in the plan that the holder of a credential is given now.
    async fn given(&self, credential: &str) -> (Option<Chap>, Option<Chap>) {
        let auth = HelloAuth::Credential(credential.to_owned());
        let root = self.served.welcome(auth).await.1.plan.root;
        (root.chap, root.target_chap)
    }
}

fn wrong(chap: &Chap) -> Chap {
    Chap { secret: format!("{}x", chap.secret), ..chap.clone() }
}

fn own(login: &Login) -> Chap {
    match &login.by {
        By::Secret(own) | By::Both(own, _) => own.clone(),
        by => panic!("{by:?} has no secret"),
    }
}

#[tokio::test]
async fn a_node_and_its_target_prove_themselves_to_each_other() {
    let path = Path::start().await;
    let login = path.agents_login().await;
    assert_eq!(path.try_in(login.clone()).await, IN);
    // An agent of an earlier version does not ask the target.
    assert_eq!(path.try_in(login.by(By::Secret(own(&login)))).await, IN);
}

#[tokio::test]
async fn without_the_secret_of_the_boot_nobody_gets_in() {
    let path = Path::start().await;
    let login = path.agents_login().await;
    let chap = own(&login);
    let another_name = Chap { user: "iqn.x:another".into(), ..chap.clone() };
    let By::Both(_, targets) = &login.by else { panic!("mutual") };
    for by in [
        By::Skipping,
        By::Leaving,
        By::NoMethod,
        By::Secret(wrong(&chap)),
        By::Secret(another_name),
        By::Secret(Chap { secret: targets.secret.clone(), ..chap.clone() }),
        By::Secret(Chap { secret: path.served.token.clone(), ..chap.clone() }),
    ] {
        assert_eq!(path.try_in(login.by(by.clone())).await, WRONG_PROOF, "{by:?}");
    }
    assert_eq!(path.try_in(login).await, IN, "after all of them");
}

#[tokio::test]
async fn a_secret_is_good_for_one_initiator_from_its_nodes_address_to_its_image() {
    let path = Path::start().await;
    let login = path.agents_login().await;
    path.bench().add_nodes([2]).await;
    let other = path.bench().begin_boot(2).await;
    let elsewhere = Login { from: [127, 77, 0, 2], ..login.clone() };
    let nobody = Login { initiator: format!("{}x", login.initiator), ..login.clone() };
    let others = Login { initiator: other.initiator.clone(), ..login.clone() };
    for stranger in [elsewhere, nobody, others] {
        assert_eq!(path.try_in(stranger.clone()).await, NOT_AUTHORIZED, "{stranger:?}");
    }
    // Node 2 is where it should be, and has the secret of node 1 only.
    let borrowed = Chap { user: other.initiator.clone(), ..own(&login) };
    let at_home = Login {
        from: [127, 77, 0, 2],
        initiator: other.initiator,
        by: By::Secret(borrowed),
        ..login.clone()
    };
    assert_eq!(path.try_in(at_home).await, WRONG_PROOF);

    let image = target_name(&path.bench().add_image("b").await);
    path.bench().give_disks().await;
    let another_image = Login { target: image, ..login.clone() };
    assert_eq!(path.try_in(another_image).await, NOT_AUTHORIZED);
    let seen =
        |from: [u8; 4]| path.bench().context.exports.discover(&login.initiator, (from, 9).into());
    assert_eq!(seen([127, 77, 0, 1]), std::slice::from_ref(&login.target), "one of two");
    assert!(seen([127, 77, 0, 2]).is_empty());
}

#[tokio::test]
async fn a_secret_lives_as_long_as_its_boot_over_logins_and_restarts_of_haasd() {
    let path = Path::start().await;
    let login = path.agents_login().await;
    let context = &path.bench().context;
    let attempt = path.bench().advance(&path.served.attempt, BootStage::Ready).await;
    assert_eq!(attempt.state, AttemptState::Ready);
    for _ in 0..2 {
        assert_eq!(path.try_in(login.clone()).await, IN, "its session was lost");
    }
    // Another haasd has nothing but the store and the key.
    let key = MasterKey::open(&context.config.state_dir.join("master.key")).unwrap();
    let again = Arc::new(Exports::new(context.images.clone(), &context.config, key));
    again.reload(&context.store).await.unwrap();
    let restarted = Target::serve(again);
    assert_eq!(restarted.try_in(login.clone()).await, IN);
    assert_eq!(restarted.try_in(login.by(By::Secret(wrong(&own(&login))))).await, WRONG_PROOF);

    // Its next boot has another one.
    let node = path.served.node().await;
    let next = reconcile::open_attempt(context, &node, Some(&attempt), Cause::Unplanned);
    let next = next.await.unwrap();
    assert_eq!(path.try_in(login.clone()).await, NOT_AUTHORIZED);
    let old = Chap { user: next.initiator.clone(), ..own(&login) };
    let with_old = Login { initiator: next.initiator, by: By::Secret(old), ..login.clone() };
    assert_eq!(path.try_in(with_old).await, WRONG_PROOF);
}

#[tokio::test]
async fn a_boot_whose_time_is_up_opens_nothing() {
    let path = Path::start().await;
    let (attempt, context) = (&path.served.attempt, &path.bench().context);
    let login = path.login(attempt).await;
    let secret = context.master_key.node_chap(&attempt.id).expose().clone();
    let right = login.by(By::Secret(Chap { user: attempt.initiator.clone(), secret }));
    assert_eq!(path.try_in(right.clone()).await, IN);
    let late = context.clock.now() + 3_600 * SECOND;
    let step = reconcile::step_at(context, path.served.node().await, late).await;
    assert!(matches!(step, Step::Do(Action::FailAttempt(_))), "{step:?}");
    assert_eq!(path.try_in(right).await, NOT_AUTHORIZED);
    assert!(path.served.refusal(token(&path.served.token)).await.contains("over"));
    assert!(!path.served.attempt().await.token_spent);
}

#[tokio::test]
async fn secrets_are_given_until_the_root_is_attached_and_never_again() {
    let path = Path::start().await;
    let (mut agent, welcome) = path.served.welcome(token(&path.served.token)).await;
    let (root, credential) = (welcome.plan.root, welcome.credential.unwrap());
    assert!(root.chap.is_some() && root.target_chap.is_some());
    // Its connection was lost before it could log in.
    agent.frame(1, stage(BootStage::Agent)).await;
    assert_eq!(path.given(&credential).await, (root.chap.clone(), root.target_chap.clone()));
    assert!(path.served.refusal(token(&path.served.token)).await.contains("used before"));

    let (mut agent, _) = path.served.welcome(HelloAuth::Credential(credential.clone())).await;
    let mut seq = 1;
    for reached in [BootStage::Root, BootStage::Overlay, BootStage::Userspace] {
        seq += 1;
        agent.frame(seq, stage(reached)).await;
        assert_eq!(path.given(&credential).await, (None, None), "{reached}");
        // A new connection ends the one before.
        agent = path.served.welcome(HelloAuth::Credential(credential.clone())).await.0;
    }
    path.bench().advance(&path.served.attempt, BootStage::Ready).await;
    assert_eq!(path.given(&credential).await, (None, None));
    let attempt = path.served.attempt().await;
    assert_eq!(attempt.state, AttemptState::Ready);
    let plan = boots::plan(&path.bench().context, &attempt).await.unwrap().unwrap();
    assert_eq!((plan.root.chap, plan.root.target_chap), (None, None), "what a retry brings");
}

#[tokio::test]
async fn a_boot_that_an_older_haasd_has_opened_goes_on_without_a_secret() {
    let path = Path::start().await;
    let context = &path.bench().context;
    let older = Attempt {
        id: "older".into(),
        initiator: "iqn.2026-11.org.haas:boot.n01.older".into(),
        chap: false,
        ..path.served.attempt.clone()
    };
    let mut tx = context.store.write().await.unwrap();
    tx.open_attempt(&older, "its hash").await.unwrap();
    tx.commit().await.unwrap();
    context.exports.reload(&context.store).await.unwrap();
    let login = path.login(&older).await;
    for by in [By::NoMethod, By::Skipping] {
        assert_eq!(path.try_in(login.by(by)).await, IN);
    }
    assert_eq!(path.try_in(Login { from: [127, 77, 0, 2], ..login }).await, NOT_AUTHORIZED);
    let plan = boots::plan(context, &older).await.unwrap().unwrap();
    assert_eq!((plan.root.chap, plan.root.target_chap), (None, None));
}

#[tokio::test]
async fn who_started_by_itself_is_given_nothing_and_spends_nothing() {
    let path = Path::start().await;
    let context = &path.bench().context;
    let node = path.served.node().await;
    let after = Some(&path.served.attempt);
    let attempt = reconcile::open_started(context, &node, after, Cause::Unplanned).await.unwrap();
    let text = context.master_key.boot_token(&attempt.id).expose().clone();
    assert!(path.served.refusal(token(&text)).await.contains("started by itself"));
    let mut tx = context.store.read().await.unwrap();
    assert!(!tx.attempt(&attempt.id).await.unwrap().unwrap().token_spent);
    drop(tx);
    assert_eq!(path.try_in(path.login(&attempt).await).await, WRONG_PROOF);

    // Nobody could switch this one on, so it is believed.
    path.bench().add_node_by_hand(2).await;
    let first = path.bench().begin_boot(2).await;
    let node = path.bench().node(2).await;
    let attempt = reconcile::open_started(context, &node, Some(&first), Cause::Unplanned);
    let text = context.master_key.boot_token(&attempt.await.unwrap().id).expose().clone();
    let answer = path.served.hello_from([127, 77, 0, 2], token(&text)).await;
    assert!(answer.contains("welcome") && answer.contains("\"chap\":["), "{answer}");
}

#[tokio::test]
async fn an_open_image_is_read_without_a_secret_by_the_nodes_that_boot_it_alone() {
    let path = Path::start().await;
    let login = path.agents_login().await;
    let without = [By::NoMethod, By::Skipping, By::Leaving];
    let set = async |open: bool| {
        let (bench, body) = (path.bench(), json!({ "open": open }));
        let answer = bench.call(&bench.admin, "PATCH", "/v1/images/a:latest", body).await;
        assert_eq!((answer.status, &answer.json()["open"]), (200, &json!(open)), "{answer:?}");
    };
    for (open, status) in [(true, IN), (false, WRONG_PROOF), (true, IN)] {
        set(open).await;
        for by in without.clone() {
            assert_eq!(path.try_in(login.by(by.clone())).await, status, "{by:?}, open: {open}");
        }
        assert_eq!(path.try_in(login.clone()).await, IN, "its agent proves itself, open: {open}");
        let bad = By::Secret(wrong(&own(&login)));
        assert_eq!(path.try_in(login.by(bad)).await, WRONG_PROOF);
    }
    let elsewhere = Login { from: [127, 77, 0, 2], ..login.by(By::NoMethod) };
    let nobody = Login { initiator: "iqn.x:anybody".into(), ..login.by(By::NoMethod) };
    for stranger in [elsewhere, nobody] {
        assert_eq!(path.try_in(stranger).await, NOT_AUTHORIZED);
    }
    let kinds = path.bench().event_kinds().await;
    let told: Vec<_> = kinds.iter().filter(|kind| kind.starts_with("image-")).collect();
    assert_eq!(told, ["image-opened", "image-closed", "image-opened"]);
    let context = &path.bench().context;
    let mut tx = context.store.write().await.unwrap();
    tx.end_attempts(&path.served.attempt.node_id, 1).await.unwrap();
    tx.commit().await.unwrap();
    context.exports.reload(&context.store).await.unwrap();
    assert_eq!(path.try_in(login.by(By::NoMethod)).await, NOT_AUTHORIZED, "its boot is over");
}

/// libiscsi's own tool, as a stock initiator without haas's agent has it.
#[tokio::test]
async fn a_stock_initiator_reads_an_open_image_and_no_other() {
    let bench = Bench::new().await;
    bench.add_image("a").await;
    bench.give_disks().await;
    // The tool cannot choose its address, so it is the node's.
    bench
        .add(&crate::inventory::NodeSpec { address: Some([127, 0, 0, 1].into()), ..spec(1) })
        .await;
    let attempt = bench.begin_boot(1).await;
    let target = Target::start(&bench);
    let row = bench.context.store.read().await.unwrap().images().await.unwrap().remove(0);
    let url = format!("iscsi://{}/{}/0", target.address(), target_name(&row.digest));
    let inquire = async |initiator: &str| {
        let arguments = ["-i".to_owned(), initiator.to_owned(), url.clone()];
        let output = tokio::process::Command::new("iscsi-inq").args(arguments).output().await;
        output.expect("iscsi-inq of the Debian package libiscsi-bin runs").status.success()
    };
    assert!(!inquire(&attempt.initiator).await);
    let body = json!({ "open": true });
    let answer = bench.call(&bench.admin, "PATCH", "/v1/images/a", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(inquire(&attempt.initiator).await);
    assert!(!inquire("iqn.2026-01.org.example:stock").await);
}

/// Keeps what is logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn secrets_stand_in_no_log_event_audit_or_database() {
    // With one subscriber in the process, a line that another test's thread meets first is off for all.
    let _second =
        tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let path = Path::start().await;
    let (_, welcome) = path.served.welcome(token(&path.served.token)).await;
    let root = welcome.plan.root.clone();
    let (chap, target_chap) = (root.chap.clone().unwrap(), root.target_chap.clone().unwrap());
    let login = path.login(&path.served.attempt).await;
    let both = login.by(By::Both(chap.clone(), target_chap.clone()));
    assert_eq!(path.try_in(both).await, IN);
    assert_eq!(path.try_in(login.by(By::Secret(wrong(&chap)))).await, WRONG_PROOF);

    let bench = path.bench();
    let set = json!({ "open": true });
    bench.call(&bench.admin, "PATCH", "/v1/images/a:latest", set).await;
    let mut told = format!("{welcome:?} {:?} {chap:?} {:?}", root, bench.context);
    for page in ["/v1/audit", "/v1/nodes/n01", "/v1/nodes/n01/boots", "/v1/nodes/n01/render"] {
        told += &bench.call(&bench.admin, "GET", page, Value::Null).await.text;
    }
    let mut tx = bench.context.store.read().await.unwrap();
    told += &format!("{:?}", tx.events_after(0, 1_000).await.unwrap());
    drop(tx);
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for line in ["boot attempt opened", "an agent is connected", "image changed"] {
        assert!(logged.contains(line), "{line} was not logged: {logged}");
    }
    told += &logged;
    for entry in std::fs::read_dir(&bench.context.config.state_dir).unwrap() {
        let file = entry.unwrap().path();
        if file.file_name().is_some_and(|name| name.to_string_lossy().contains(".db")) {
            told += &String::from_utf8_lossy(&std::fs::read(file).unwrap());
        }
    }
    assert!(told.contains(&path.served.attempt.initiator), "it is about this boot");
    for secret in [&chap.secret, &target_chap.secret] {
        assert_eq!(secret.len(), 43);
        assert!(!told.contains(secret.as_str()), "it is told: {told}");
    }
}
