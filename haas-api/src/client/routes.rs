//! One method per route, in the order of the nouns.

use reqwest::{Body, Method, StatusCode};
use serde::Serialize;

use super::{Client, ClientError, Progress};
use crate::{
    List,
    audit::AuditEntry,
    baseline::{BaselineRequest, NodeBaseline},
    bmc::{Probe, ProbeRequest},
    doctor::Finding,
    grant::{Grant, NewGrant},
    group::{Group, GroupChange, NewGroup},
    hardware::{Sel, Sensors},
    image::{BootRead, Image, ImageChange, ImageSessions, ImportKind, TagImage},
    names::{
        GroupName, ImageName, ImageRef, ImageTag, NodeName, OverlayLabel, UserName, WebhookName,
    },
    node::{
        ApplyRequest, ApplyResult, Discovered, DrainRequest, Drift, ManageRequest, Node, NodeGroup,
        Rendered, ResumeRequest,
    },
    operation::{
        BootReport, Operation, Plan, PowerRequest, PowerStatus, PowerStatusRequest,
        RollbackRequest, SwitchRequest,
    },
    overlay::{AcceptDisk, ClaimDisk, NewOverlay, NodeDisk, Overlay, OverlayChange, RepairDisk},
    project::{MembersChange, NewProject, Project, ProjectChange},
    ssh::SshCa,
    user::{
        Login, NewToken, NewUser, PasswordChange, Registration, RemovedUser, Token, TokenRequest,
        User, UserChange,
    },
    webhook::{DeadEvent, MadeWebhook, NewWebhook, Webhook, WebhookTest},
};

/// What a request that changes nodes came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    /// It was accepted (202) and is on its way.
    Operation(Box<Operation>),
    /// It was a dry run (200): this is what it would do.
    Plan(Plan),
}

/// Users.
impl Client {
    /// `GET /healthz`: succeeds when haasd answers and is well.
    pub async fn healthz(&self) -> Result<(), ClientError> {
        let request = self.request(&self.inner.http, Method::GET, self.at(&["healthz"], &[]));
        self.send(request.timeout(super::REQUEST)).await.map(drop)
    }

    /// `GET /v1/doctor`: what is right and wrong around haasd.
    pub async fn doctor(&self) -> Result<Vec<Finding>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "doctor"], &[]).await?.items)
    }

    /// `POST /v1/probes`: begins a look at a BMC.
    pub async fn begin_probe(&self, request: &ProbeRequest) -> Result<Probe, ClientError> {
        self.post(&["v1", "probes"], request).await
    }

    /// `GET /v1/probes/{id}`: what was found, once it is.
    pub async fn probe(&self, id: &str) -> Result<Probe, ClientError> {
        self.get(&["v1", "probes", id], &[]).await
    }

    /// `GET /v1/whoami`: whom the token belongs to.
    pub async fn whoami(&self) -> Result<User, ClientError> {
        self.get(&["v1", "whoami"], &[]).await
    }

    /// `GET /v1/users`.
    pub async fn users(&self) -> Result<Vec<User>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "users"], &[]).await?.items)
    }

    /// `POST /v1/users`.
    pub async fn add_user(&self, user: &NewUser) -> Result<User, ClientError> {
        self.post(&["v1", "users"], user).await
    }

    /// `PATCH /v1/users/{name}`.
    pub async fn change_user(
        &self,
        name: &UserName,
        change: &UserChange,
    ) -> Result<User, ClientError> {
        self.patch(&["v1", "users", name.as_str()], change).await
    }

    /// `DELETE /v1/users/{name}`: what is kept of it for a while; none: nothing.
    pub async fn remove_user(
        &self,
        name: &UserName,
        now: bool,
    ) -> Result<Option<RemovedUser>, ClientError> {
        let query: &[_] = if now { &[("now", "true")] } else { &[] };
        let url = self.at(&["v1", "users", name.as_str()], query);
        let request = self.request(&self.inner.http, Method::DELETE, url);
        let response = self.send(request.timeout(super::REQUEST)).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            _ => self.json(response).await.map(Some),
        }
    }

    /// `POST /v1/users/{name}/restore`.
    pub async fn restore_user(&self, name: &UserName) -> Result<User, ClientError> {
        self.post(&["v1", "users", name.as_str(), "restore"], &()).await
    }

    /// `POST /v1/register`: a new user, where people may register.
    pub async fn register(&self, new: &Registration) -> Result<User, ClientError> {
        self.post(&["v1", "register"], new).await
    }

    /// `POST /v1/login`: a token for a name and a password.
    pub async fn login(&self, login: &Login) -> Result<NewToken, ClientError> {
        self.post(&["v1", "login"], login).await
    }

    /// `POST /v1/logout`: ends the token of this client.
    pub async fn logout(&self) -> Result<(), ClientError> {
        self.call(Method::POST, &["v1", "logout"], None::<&()>).await.map(drop)
    }

    /// `PUT /v1/users/{name}/password`: all tokens end; who changes his own gets a new one.
    pub async fn change_password(
        &self,
        name: &UserName,
        change: &PasswordChange,
    ) -> Result<Option<NewToken>, ClientError> {
        let path = ["v1", "users", name.as_str(), "password"];
        let response = self.call(Method::PUT, &path, Some(change)).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            _ => self.json(response).await.map(Some),
        }
    }

    /// `GET /v1/users/{name}/tokens`.
    pub async fn tokens(&self, name: &UserName) -> Result<Vec<Token>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "users", name.as_str(), "tokens"], &[]).await?.items)
    }

    /// `POST /v1/users/{name}/tokens`: a new token, shown this once.
    pub async fn new_token(
        &self,
        name: &UserName,
        wanted: &TokenRequest,
    ) -> Result<NewToken, ClientError> {
        self.post(&["v1", "users", name.as_str(), "tokens"], wanted).await
    }

    /// `DELETE /v1/users/{name}/tokens/{id}`.
    pub async fn revoke_token(&self, name: &UserName, id: &str) -> Result<(), ClientError> {
        self.delete(&["v1", "users", name.as_str(), "tokens", id]).await
    }

    /// `GET /v1/audit`: entries after a number, of one user if one is named; at most 1000.
    pub async fn audit(
        &self,
        after: u64,
        actor: Option<&str>,
    ) -> Result<Vec<AuditEntry>, ClientError> {
        let after = after.to_string();
        let mut query = vec![("after", after.as_str())];
        query.extend(actor.map(|actor| ("actor", actor)));
        Ok(self.get::<List<_>>(&["v1", "audit"], &query).await?.items)
    }
}

/// Nodes.
impl Client {
    /// `GET /v1/nodes`: all nodes, or those of a set.
    pub async fn nodes(&self, nodeset: Option<&str>) -> Result<Vec<Node>, ClientError> {
        let query: Vec<_> = nodeset.map(|set| ("nodeset", set)).into_iter().collect();
        Ok(self.get::<List<_>>(&["v1", "nodes"], &query).await?.items)
    }

    /// `GET /v1/nodes?where=`: those of a set, or of all nodes, for which a condition holds.
    pub async fn nodes_where(
        &self,
        nodeset: Option<&str>,
        condition: &str,
    ) -> Result<Vec<Node>, ClientError> {
        let mut query = vec![("where", condition)];
        query.extend(nodeset.map(|set| ("nodeset", set)));
        Ok(self.get::<List<_>>(&["v1", "nodes"], &query).await?.items)
    }

    /// `GET /v1/nodes/{name}/sensors`: what its BMC measured.
    pub async fn sensors(&self, name: &NodeName) -> Result<Sensors, ClientError> {
        self.get(&["v1", "nodes", name.as_str(), "sensors"], &[]).await
    }

    /// `GET /v1/nodes/{name}/sel`: its BMC's log.
    pub async fn sel(&self, name: &NodeName) -> Result<Sel, ClientError> {
        self.get(&["v1", "nodes", name.as_str(), "sel"], &[]).await
    }

    /// `DELETE /v1/nodes/{name}/sel`: has its BMC's log cleared, as soon as the BMC can be asked.
    pub async fn clear_sel(&self, name: &NodeName) -> Result<Sel, ClientError> {
        let path = ["v1", "nodes", name.as_str(), "sel"];
        let response = self.call(Method::DELETE, &path, None::<&()>).await?;
        self.json(response).await
    }

    /// `GET /v1/ssh-ca`: what signs the nodes' host keys.
    pub async fn ssh_ca(&self) -> Result<SshCa, ClientError> {
        self.get(&["v1", "ssh-ca"], &[]).await
    }

    /// `GET /v1/nodes/{name}`.
    pub async fn node(&self, name: &NodeName) -> Result<Node, ClientError> {
        self.get(&["v1", "nodes", name.as_str()], &[]).await
    }

    /// `GET /v1/drift`.
    pub async fn drift(&self, nodeset: Option<&str>) -> Result<Vec<Drift>, ClientError> {
        let query: Vec<_> = nodeset.map(|set| ("nodeset", set)).into_iter().collect();
        Ok(self.get::<List<_>>(&["v1", "drift"], &query).await?.items)
    }

    /// `GET /v1/nodes/{name}/baseline`.
    pub async fn baseline(&self, name: &NodeName) -> Result<NodeBaseline, ClientError> {
        self.get(&["v1", "nodes", name.as_str(), "baseline"], &[]).await
    }

    /// `POST /v1/nodes/baseline/check`: has BMCs asked; each has told when its `asked_at` is another one.
    pub async fn check_baselines(
        &self,
        request: &BaselineRequest,
    ) -> Result<Vec<NodeBaseline>, ClientError> {
        Ok(self.post::<List<_>>(&["v1", "nodes", "baseline", "check"], request).await?.items)
    }

    /// `POST /v1/nodes/baseline/accept`.
    pub async fn accept_baselines(
        &self,
        request: &BaselineRequest,
    ) -> Result<Vec<NodeBaseline>, ClientError> {
        Ok(self.post::<List<_>>(&["v1", "nodes", "baseline", "accept"], request).await?.items)
    }

    /// `POST /v1/nodes/baseline/forget`.
    pub async fn forget_baselines(
        &self,
        request: &BaselineRequest,
    ) -> Result<Vec<NodeBaseline>, ClientError> {
        Ok(self.post::<List<_>>(&["v1", "nodes", "baseline", "forget"], request).await?.items)
    }

    /// `POST /v1/nodes/drain`.
    pub async fn drain(&self, request: &DrainRequest) -> Result<Vec<Node>, ClientError> {
        Ok(self.post::<List<_>>(&["v1", "nodes", "drain"], request).await?.items)
    }

    /// `POST /v1/nodes/resume`.
    pub async fn resume(&self, request: &ResumeRequest) -> Result<Vec<Node>, ClientError> {
        Ok(self.post::<List<_>>(&["v1", "nodes", "resume"], request).await?.items)
    }

    /// `POST /v1/nodes/manage`.
    pub async fn manage(&self, request: &ManageRequest) -> Result<Vec<Node>, ClientError> {
        Ok(self.post::<List<_>>(&["v1", "nodes", "manage"], request).await?.items)
    }

    /// `POST /v1/nodes/apply`.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyResult, ClientError> {
        self.post(&["v1", "nodes", "apply"], request).await
    }

    /// `GET /v1/nodes/discovered`.
    pub async fn discovered(&self) -> Result<Vec<Discovered>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "nodes", "discovered"], &[]).await?.items)
    }

    /// `GET /v1/nodes/{name}/boots`.
    pub async fn boots(&self, name: &NodeName) -> Result<Vec<BootReport>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "nodes", name.as_str(), "boots"], &[]).await?.items)
    }

    /// `GET /v1/nodes/{name}/render`.
    pub async fn render(&self, name: &NodeName) -> Result<Rendered, ClientError> {
        self.get(&["v1", "nodes", name.as_str(), "render"], &[]).await
    }

    /// `GET /v1/node-groups`.
    pub async fn node_groups(&self) -> Result<Vec<NodeGroup>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "node-groups"], &[]).await?.items)
    }

    /// `GET /v1/nodes/{name}/disks`.
    pub async fn disks(&self, name: &NodeName) -> Result<Vec<NodeDisk>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "nodes", name.as_str(), "disks"], &[]).await?.items)
    }

    /// `POST /v1/nodes/{name}/disks/claim`.
    pub async fn claim_disk(
        &self,
        name: &NodeName,
        claim: &ClaimDisk,
    ) -> Result<NodeDisk, ClientError> {
        self.post(&["v1", "nodes", name.as_str(), "disks", "claim"], claim).await
    }

    /// `POST /v1/nodes/{name}/disks/accept`.
    pub async fn accept_disk(
        &self,
        name: &NodeName,
        accept: &AcceptDisk,
    ) -> Result<NodeDisk, ClientError> {
        self.post(&["v1", "nodes", name.as_str(), "disks", "accept"], accept).await
    }

    /// `POST /v1/nodes/{name}/disks/repair`.
    pub async fn repair_disk(
        &self,
        name: &NodeName,
        repair: &RepairDisk,
    ) -> Result<NodeDisk, ClientError> {
        self.post(&["v1", "nodes", name.as_str(), "disks", "repair"], repair).await
    }
}

/// Requests that change nodes, and their operations.
impl Client {
    /// `POST /v1/switch`.
    pub async fn switch(&self, request: &SwitchRequest) -> Result<Submitted, ClientError> {
        self.submit("switch", request).await
    }

    /// `POST /v1/rollback`.
    pub async fn rollback(&self, request: &RollbackRequest) -> Result<Submitted, ClientError> {
        self.submit("rollback", request).await
    }

    /// `POST /v1/power`.
    pub async fn power(&self, request: &PowerRequest) -> Result<Submitted, ClientError> {
        self.submit("power", request).await
    }

    /// `POST /v1/power/status`.
    pub async fn ask_power(
        &self,
        request: &PowerStatusRequest,
    ) -> Result<PowerStatus, ClientError> {
        self.post(&["v1", "power", "status"], request).await
    }

    /// `GET /v1/power/status/{id}`.
    pub async fn power_status(&self, id: &str) -> Result<PowerStatus, ClientError> {
        self.get(&["v1", "power", "status", id], &[]).await
    }

    async fn submit(&self, verb: &str, request: &impl Serialize) -> Result<Submitted, ClientError> {
        let response = self.call(Method::POST, &["v1", verb], Some(request)).await?;
        if response.status() == StatusCode::ACCEPTED {
            self.json(response).await.map(Submitted::Operation)
        } else {
            self.json(response).await.map(Submitted::Plan)
        }
    }

    /// `GET /v1/operations`.
    pub async fn operations(&self) -> Result<Vec<Operation>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "operations"], &[]).await?.items)
    }

    /// `POST /v1/operations/{id}/pause`.
    pub async fn pause_operation(&self, id: &str) -> Result<Operation, ClientError> {
        self.post(&["v1", "operations", id, "pause"], &()).await
    }

    /// `POST /v1/operations/{id}/resume`.
    pub async fn resume_operation(&self, id: &str) -> Result<Operation, ClientError> {
        self.post(&["v1", "operations", id, "resume"], &()).await
    }

    /// `POST /v1/operations/{id}/abort`.
    pub async fn abort_operation(&self, id: &str) -> Result<Operation, ClientError> {
        self.post(&["v1", "operations", id, "abort"], &()).await
    }

    /// `GET /v1/operations/{id}`.
    pub async fn operation(&self, id: &str) -> Result<Operation, ClientError> {
        self.get(&["v1", "operations", id], &[]).await
    }
}

/// Images.
impl Client {
    /// `GET /v1/images`.
    pub async fn images(&self) -> Result<Vec<Image>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "images"], &[]).await?.items)
    }

    /// `GET /v1/images/{ref}`.
    pub async fn image(&self, image: &ImageRef) -> Result<Image, ClientError> {
        self.get(&["v1", "images", &image.to_string()], &[]).await
    }

    /// `GET /v1/images/{ref}/sessions`.
    pub async fn image_sessions(&self, image: &ImageRef) -> Result<ImageSessions, ClientError> {
        self.get(&["v1", "images", &image.to_string(), "sessions"], &[]).await
    }

    /// `GET /v1/images/{ref}/reads`.
    pub async fn image_reads(&self, image: &ImageRef) -> Result<Vec<BootRead>, ClientError> {
        let image = image.to_string();
        let path = ["v1", "images", &image, "reads"];
        Ok(self.get::<List<_>>(&path, &[]).await?.items)
    }

    /// `POST /v1/images/build`: `body` is a tar of the recipe's folder.
    pub async fn build_image(
        &self,
        name: &ImageName,
        tag: &ImageTag,
        body: Body,
    ) -> Result<Progress, ClientError> {
        let query = [("name", name.as_str()), ("tag", tag.as_str())];
        self.post_stream(&["v1", "images", "build"], &query, body).await
    }

    /// `POST /v1/images/import`: `body` is a tar of what `kind` says.
    pub async fn import_image(
        &self,
        name: &ImageName,
        tag: &ImageTag,
        kind: ImportKind,
        project: Option<&UserName>,
        body: Body,
    ) -> Result<Progress, ClientError> {
        let kind = match kind {
            ImportKind::Root => "root",
            ImportKind::Raw => "raw",
        };
        let mut query = vec![("name", name.as_str()), ("tag", tag.as_str()), ("kind", kind)];
        query.extend(project.map(|project| ("project", project.as_str())));
        self.post_stream(&["v1", "images", "import"], &query, body).await
    }

    /// `POST /v1/images/tags`.
    pub async fn tag_image(&self, tag: &TagImage) -> Result<Image, ClientError> {
        self.post(&["v1", "images", "tags"], tag).await
    }

    /// `PATCH /v1/images/{ref}`.
    pub async fn change_image(
        &self,
        image: &ImageRef,
        change: &ImageChange,
    ) -> Result<Image, ClientError> {
        let image = image.to_string();
        let path = ["v1", "images", &image];
        let response = self.call(Method::PATCH, &path, Some(change)).await?;
        self.json(response).await
    }

    /// `DELETE /v1/images/{ref}`.
    pub async fn remove_image(&self, image: &ImageRef) -> Result<(), ClientError> {
        self.delete(&["v1", "images", &image.to_string()]).await
    }
}

/// Overlays.
impl Client {
    /// `GET /v1/overlays`.
    pub async fn overlays(&self) -> Result<Vec<Overlay>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "overlays"], &[]).await?.items)
    }

    /// `POST /v1/overlays`.
    pub async fn new_overlay(&self, overlay: &NewOverlay) -> Result<Overlay, ClientError> {
        self.post(&["v1", "overlays"], overlay).await
    }

    /// `PATCH /v1/overlays/{owner}/{name}`.
    pub async fn change_overlay(
        &self,
        owner: &UserName,
        name: &OverlayLabel,
        change: &OverlayChange,
    ) -> Result<Overlay, ClientError> {
        let path = ["v1", "overlays", owner.as_str(), name.as_str()];
        let response = self.call(Method::PATCH, &path, Some(change)).await?;
        self.json(response).await
    }

    /// `DELETE /v1/overlays/{owner}/{name}`.
    pub async fn remove_overlay(
        &self,
        owner: &UserName,
        name: &OverlayLabel,
    ) -> Result<(), ClientError> {
        self.delete(&["v1", "overlays", owner.as_str(), name.as_str()]).await
    }
}

/// Groups, projects and grants.
impl Client {
    /// `GET /v1/groups`.
    pub async fn groups(&self) -> Result<Vec<Group>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "groups"], &[]).await?.items)
    }

    /// `GET /v1/groups/{name}`.
    pub async fn group(&self, name: &GroupName) -> Result<Group, ClientError> {
        self.get(&["v1", "groups", name.as_str()], &[]).await
    }

    /// `POST /v1/groups`.
    pub async fn new_group(&self, group: &NewGroup) -> Result<Group, ClientError> {
        self.post(&["v1", "groups"], group).await
    }

    /// `PATCH /v1/groups/{name}`.
    pub async fn change_group(
        &self,
        name: &GroupName,
        change: &GroupChange,
    ) -> Result<Group, ClientError> {
        self.patch(&["v1", "groups", name.as_str()], change).await
    }

    /// `DELETE /v1/groups/{name}`.
    pub async fn remove_group(&self, name: &GroupName) -> Result<(), ClientError> {
        self.delete(&["v1", "groups", name.as_str()]).await
    }

    /// `GET /v1/projects`.
    pub async fn projects(&self) -> Result<Vec<Project>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "projects"], &[]).await?.items)
    }

    /// `GET /v1/projects/{name}`.
    pub async fn project(&self, name: &UserName) -> Result<Project, ClientError> {
        self.get(&["v1", "projects", name.as_str()], &[]).await
    }

    /// `POST /v1/projects`.
    pub async fn new_project(&self, project: &NewProject) -> Result<Project, ClientError> {
        self.post(&["v1", "projects"], project).await
    }

    /// `PATCH /v1/projects/{name}`.
    pub async fn change_project(
        &self,
        name: &UserName,
        change: &ProjectChange,
    ) -> Result<Project, ClientError> {
        self.patch(&["v1", "projects", name.as_str()], change).await
    }

    /// `DELETE /v1/projects/{name}`.
    pub async fn remove_project(&self, name: &UserName) -> Result<(), ClientError> {
        self.delete(&["v1", "projects", name.as_str()]).await
    }

    /// `PATCH /v1/projects/{name}/members`.
    pub async fn change_members(
        &self,
        name: &UserName,
        change: &MembersChange,
    ) -> Result<Project, ClientError> {
        self.patch(&["v1", "projects", name.as_str(), "members"], change).await
    }

    /// `GET /v1/grants`.
    pub async fn grants(&self) -> Result<Vec<Grant>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "grants"], &[]).await?.items)
    }

    /// `POST /v1/grants`.
    pub async fn new_grant(&self, grant: &NewGrant) -> Result<Grant, ClientError> {
        self.post(&["v1", "grants"], grant).await
    }

    /// `DELETE /v1/grants/{id}`.
    pub async fn remove_grant(&self, id: &str) -> Result<(), ClientError> {
        self.delete(&["v1", "grants", id]).await
    }
}

/// Webhooks.
impl Client {
    /// `GET /v1/webhooks`.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "webhooks"], &[]).await?.items)
    }

    /// `POST /v1/webhooks`: the secret is shown this once.
    pub async fn new_webhook(&self, new: &NewWebhook) -> Result<MadeWebhook, ClientError> {
        self.post(&["v1", "webhooks"], new).await
    }

    /// `DELETE /v1/webhooks/{name}`.
    pub async fn remove_webhook(&self, name: &WebhookName) -> Result<(), ClientError> {
        self.delete(&["v1", "webhooks", name.as_str()]).await
    }

    /// `GET /v1/webhooks/{name}/dead`.
    pub async fn dead_events(&self, name: &WebhookName) -> Result<Vec<DeadEvent>, ClientError> {
        Ok(self.get::<List<_>>(&["v1", "webhooks", name.as_str(), "dead"], &[]).await?.items)
    }

    /// `POST /v1/webhooks/{name}/test`.
    pub async fn test_webhook(&self, name: &WebhookName) -> Result<WebhookTest, ClientError> {
        self.post(&["v1", "webhooks", name.as_str(), "test"], &()).await
    }
}
