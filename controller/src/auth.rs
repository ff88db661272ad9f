//! Who may do what: every handler asks [`authorize`], here and nowhere else, before any side effect.
//!
//! A caller's [`Powers`], its projects and grants, are read with its token; what is asked for says
//! whose it is. So the answer needs no query, and what is not allowed here is denied.

pub mod attempts;
pub mod passwords;
pub mod principals;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use haas_api::{
    grant::GrantRole,
    names::{ImageName, NodeGroupName, QueueName, UserName},
    project::MemberRole,
    user::Role,
};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user's immutable id.
    pub user_id: String,
    /// The user's name.
    pub name: UserName,
    /// What it may do everywhere.
    pub role: Role,
    /// What it may do beyond that.
    pub powers: Arc<Powers>,
    /// The token by which it is known.
    pub token_id: String,
    /// The token only looks.
    pub read_only: bool,
    /// The token is good for the calendar's feed only.
    pub feed_only: bool,
}

/// What a user may do beyond its role: as a member of projects, and by grants to it, its groups and
/// its projects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Powers {
    /// Its highest role in each project, by the project's id.
    pub projects: BTreeMap<String, MemberRole>,
    /// Its highest grant of each thing.
    pub grants: BTreeMap<Granted, GrantRole>,
}

/// What is granted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Granted {
    /// The nodes of a node group.
    NodeGroup(NodeGroupName),
    /// An image's name.
    Image(ImageName),
    /// An overlay, by its id.
    Overlay(String),
    /// A queue.
    Queue(QueueName),
}

/// What is asked for. Each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Look.
    View,
    /// Have nodes boot with it, or switch them.
    Use,
    /// Make, change, remove.
    Manage,
    /// Say who manages it.
    Own,
}

/// Of what.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    /// The inventory as a whole, disks, and what concerns no node in particular.
    Nodes,
    /// One node: to look at what runs there, or to switch and power it.
    Node {
        /// Its name.
        name: &'a str,
        /// The node groups that it is in.
        groups: &'a BTreeSet<NodeGroupName>,
        /// Who has it now, by the id of a user or project; none: it is free.
        tenant: Option<&'a str>,
    },
    /// What somebody did, or what happened to what somebody has: operations, events, boots.
    Deed {
        /// By whom.
        actor: Option<&'a str>,
        /// For whom.
        tenant: &'a str,
    },
    /// The cluster's own images: those of no project.
    Images,
    /// The image of this name, which is a project's.
    Image {
        /// Its name.
        name: &'a ImageName,
        /// The project's id; none: it is the cluster's.
        project: Option<&'a str>,
    },
    /// An overlay.
    Overlay {
        /// Its id; none for one that is yet to be made.
        id: Option<&'a str>,
        /// The owner's immutable id, of a user or a project.
        owner_id: &'a str,
    },
    /// A queue, by its name; none for making and removing queues.
    Queue {
        /// Its name.
        name: Option<&'a QueueName>,
        /// Whether everybody may use it.
        open: bool,
    },
    /// A reservation.
    Reservation {
        /// Who asked for it, by the immutable id.
        owner_id: &'a str,
        /// Whose its nodes are.
        tenant: &'a str,
        /// Where it waits, or waited.
        queue: &'a QueueName,
    },
    /// What everybody did.
    Audit,
    /// What haasd counts.
    Metrics,
    /// Where events are sent to.
    Webhooks,
    /// A user, by its id; none for the list of users.
    User {
        /// The user's immutable id.
        id: Option<&'a str>,
    },
    /// A group.
    Group {
        /// The owner's immutable id.
        owner_id: Option<&'a str>,
        /// Whether the caller is in it.
        is_in: bool,
    },
    /// A project, by its id; none for making and removing projects.
    Project {
        /// The project's immutable id.
        id: Option<&'a str>,
    },
}

/// Refused: who may not do what, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{user} may not {verb} {object}")]
pub struct Denied {
    user: UserName,
    verb: &'static str,
    object: String,
}

impl Principal {
    /// Whether it does everything.
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// What it may do with what this tenant, a user or a project, has; none: nothing.
    fn within(&self, tenant: &str) -> Option<Verb> {
        if tenant == self.user_id {
            return Some(Verb::Own);
        }
        self.powers.projects.get(tenant).map(|role| match role {
            MemberRole::Viewer => Verb::View,
            MemberRole::User => Verb::Use,
            MemberRole::Manager => Verb::Manage,
            MemberRole::Owner => Verb::Own,
        })
    }

    /// What was granted to it of this; none: nothing.
    fn granted(&self, what: &Granted) -> Option<Verb> {
        self.powers.grants.get(what).map(|role| match role {
            GrantRole::View => Verb::View,
            GrantRole::Use => Verb::Use,
            GrantRole::Manage => Verb::Manage,
        })
    }
}

/// Whether `principal` may do `verb` with `object`. What is not allowed here is denied.
pub fn authorize(principal: &Principal, verb: Verb, object: Object<'_>) -> Result<(), Denied> {
    if principal.is_admin() || may(principal, object) >= Some(verb) {
        return Ok(());
    }
    Err(Denied {
        user: principal.name.clone(),
        verb: match verb {
            Verb::View => "look at",
            Verb::Use => "use",
            Verb::Manage => "change",
            Verb::Own => "say who manages",
        },
        object: object.in_words(),
    })
}

/// The most that who is no admin may do with `object`; none: nothing.
fn may(principal: &Principal, object: Object<'_>) -> Option<Verb> {
    match object {
        Object::Nodes | Object::Images => Some(Verb::View),
        Object::Node { name: _, groups, tenant } => {
            let grants = groups.iter();
            let granted = grants.filter_map(|g| principal.granted(&Granted::NodeGroup(g.clone())));
            let granted = granted.max();
            match tenant {
                // Nobody's secret runs there.
                None => granted.max(Some(Verb::View)).min(Some(Verb::Use)),
                Some(tenant) => {
                    let takes = granted.filter(|verb| *verb >= Verb::Manage).map(|_| Verb::Use);
                    principal.within(tenant).min(Some(Verb::Use)).max(takes)
                }
            }
        }
        Object::Deed { actor, tenant } => {
            let is_own = actor == Some(principal.user_id.as_str());
            is_own.then_some(Verb::View).max(principal.within(tenant).min(Some(Verb::View)))
        }
        Object::Image { name, project } => {
            let own = match project {
                Some(project) => principal.within(project),
                None => Some(Verb::Use),
            };
            own.max(principal.granted(&Granted::Image(name.clone())))
        }
        Object::Overlay { id, owner_id } => {
            let granted = id.and_then(|id| principal.granted(&Granted::Overlay(id.to_owned())));
            principal.within(owner_id).max(granted)
        }
        Object::User { id } => (id == Some(principal.user_id.as_str())).then_some(Verb::Own),
        Object::Group { owner_id, is_in } => {
            let owns = owner_id == Some(principal.user_id.as_str());
            owns.then_some(Verb::Own).max(is_in.then_some(Verb::View))
        }
        Object::Project { id } => id.and_then(|id| principal.within(id)),
        Object::Queue { name, open } => {
            let granted = name.and_then(|name| principal.granted(&Granted::Queue(name.clone())));
            let used = if open { Verb::Use } else { Verb::View };
            granted.max(name.map(|_| used)).min(Some(Verb::Use))
        }
        Object::Reservation { owner_id, tenant, queue } => {
            let is_own = owner_id == principal.user_id;
            let of_tenant = match principal.within(tenant) {
                // A member sees what the others have, and leaves it alone.
                Some(Verb::Use) => Some(Verb::View),
                within => within,
            };
            let granted = principal.granted(&Granted::Queue(queue.clone()));
            let runs_queue = granted.filter(|verb| *verb >= Verb::Manage);
            is_own.then_some(Verb::Own).max(of_tenant).max(runs_queue)
        }
        Object::Audit | Object::Metrics | Object::Webhooks => None,
    }
}

impl Object<'_> {
    fn in_words(&self) -> String {
        match self {
            Self::Nodes => "nodes".to_owned(),
            Self::Node { name, tenant: None, .. } => format!("node {name}"),
            Self::Node { name, tenant: Some(_), .. } => format!("node {name}, which others have"),
            Self::Deed { .. } => "what others do".to_owned(),
            Self::Images => "the cluster's images".to_owned(),
            Self::Image { name, .. } => format!("image {name}"),
            Self::Overlay { .. } => "this overlay".to_owned(),
            Self::Audit => "the audit log".to_owned(),
            Self::Metrics => "the metrics".to_owned(),
            Self::Webhooks => "webhooks".to_owned(),
            Self::User { .. } => "users".to_owned(),
            Self::Group { .. } => "this group".to_owned(),
            Self::Project { id: Some(_) } => "this project".to_owned(),
            Self::Project { id: None } => "projects".to_owned(),
            Self::Queue { name: Some(name), .. } => format!("queue {name}"),
            Self::Queue { name: None, .. } => "queues".to_owned(),
            Self::Reservation { .. } => "this reservation".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(role: Role) -> Principal {
        Principal {
            user_id: "me".into(),
            name: "alice".parse().unwrap(),
            role,
            powers: Arc::default(),
            token_id: "t".into(),
            read_only: false,
            feed_only: false,
        }
    }

    fn with(role: MemberRole, grants: &[(Granted, GrantRole)]) -> Principal {
        let powers = Powers {
            projects: [("vision".to_owned(), role)].into(),
            grants: grants.iter().cloned().collect(),
        };
        Principal { powers: Arc::new(powers), ..principal(Role::User) }
    }

    /// The most that is allowed.
    fn most(principal: &Principal, object: Object<'_>) -> Option<Verb> {
        let verbs = [Verb::Own, Verb::Manage, Verb::Use, Verb::View];
        verbs.into_iter().find(|verb| authorize(principal, *verb, object).is_ok())
    }

    fn overlay(owner_id: &str) -> Object<'_> {
        Object::Overlay { id: Some("o1"), owner_id }
    }

    #[test]
    fn a_user_changes_nothing_but_what_is_its_own() {
        let me = principal(Role::User);
        assert_eq!(most(&me, Object::Nodes), Some(Verb::View));
        assert_eq!(most(&me, Object::Images), Some(Verb::View));
        assert_eq!(most(&me, overlay("me")), Some(Verb::Own));
        assert_eq!(most(&me, overlay("you")), None);
        assert_eq!(most(&me, Object::User { id: Some("me") }), Some(Verb::Own));
        assert_eq!(most(&me, Object::User { id: Some("you") }), None);
        assert_eq!(most(&me, Object::User { id: None }), None);
        assert_eq!(most(&me, Object::Project { id: None }), None);
        assert_eq!(most(&me, Object::Project { id: Some("vision") }), None);
        assert_eq!(most(&me, Object::Audit), None);
        assert_eq!(most(&me, Object::Deed { actor: Some("you"), tenant: "you" }), None);
        assert_eq!(most(&me, Object::Deed { actor: Some("me"), tenant: "" }), Some(Verb::View));
    }

    #[test]
    fn an_admin_may_do_everything() {
        let admin = principal(Role::Admin);
        for object in [overlay("you"), Object::Nodes, Object::Audit, Object::Project { id: None }] {
            assert_eq!(most(&admin, object), Some(Verb::Own));
        }
    }

    #[test]
    fn a_member_does_in_its_project_what_its_role_says() {
        for (role, verb) in [
            (MemberRole::Viewer, Verb::View),
            (MemberRole::User, Verb::Use),
            (MemberRole::Manager, Verb::Manage),
            (MemberRole::Owner, Verb::Own),
        ] {
            let member = with(role, &[]);
            let name = "cuda".parse().unwrap();
            let image = Object::Image { name: &name, project: Some("vision") };
            assert_eq!(most(&member, overlay("vision")), Some(verb));
            assert_eq!(most(&member, image), Some(verb));
            assert_eq!(most(&member, Object::Project { id: Some("vision") }), Some(verb));
            assert_eq!(most(&member, overlay("speech")), None);
            assert_eq!(most(&member, Object::User { id: Some("vision") }), None);
        }
    }

    #[test]
    fn a_node_is_for_who_has_it_and_a_free_one_for_whom_its_group_was_granted_to() {
        let rack: NodeGroupName = "rack1".parse().unwrap();
        let groups = BTreeSet::from([rack.clone()]);
        let node = |tenant| Object::Node { name: "n1", groups: &groups, tenant };
        let nothing = with(MemberRole::User, &[]);
        assert_eq!(most(&nothing, node(None)), Some(Verb::View));
        assert_eq!(most(&nothing, node(Some("vision"))), Some(Verb::Use));
        assert_eq!(most(&nothing, node(Some("you"))), None);
        let uses = with(MemberRole::Viewer, &[(Granted::NodeGroup(rack.clone()), GrantRole::Use)]);
        assert_eq!(most(&uses, node(None)), Some(Verb::Use));
        assert_eq!(most(&uses, node(Some("vision"))), Some(Verb::View));
        assert_eq!(most(&uses, node(Some("you"))), None);
        let takes = with(MemberRole::Viewer, &[(Granted::NodeGroup(rack), GrantRole::Manage)]);
        assert_eq!(most(&takes, node(Some("you"))), Some(Verb::Use));
    }

    #[test]
    fn a_queue_is_used_by_whom_it_was_granted_to_and_run_by_who_manages_it() {
        let (gpu, lab): (QueueName, QueueName) = ("gpu".parse().unwrap(), "lab".parse().unwrap());
        let nothing = with(MemberRole::User, &[]);
        let queue = |name, open| Object::Queue { name: Some(name), open };
        assert_eq!(most(&nothing, queue(&gpu, false)), Some(Verb::View));
        assert_eq!(most(&nothing, queue(&gpu, true)), Some(Verb::Use));
        assert_eq!(most(&nothing, Object::Queue { name: None, open: true }), None);
        let uses = with(MemberRole::User, &[(Granted::Queue(gpu.clone()), GrantRole::Use)]);
        assert_eq!(most(&uses, queue(&gpu, false)), Some(Verb::Use));
        assert_eq!(most(&uses, queue(&lab, false)), Some(Verb::View));
        let of = |tenant| Object::Reservation { owner_id: "you", tenant, queue: &gpu };
        assert_eq!(most(&uses, of("you")), None, "others' reservations are nobody else's matter");
        assert_eq!(most(&uses, of("vision")), Some(Verb::View));
        assert_eq!(most(&with(MemberRole::Manager, &[]), of("vision")), Some(Verb::Manage));
        let own = Object::Reservation { owner_id: "me", tenant: "vision", queue: &gpu };
        assert_eq!(most(&nothing, own), Some(Verb::Own));
        let runs = with(MemberRole::User, &[(Granted::Queue(gpu.clone()), GrantRole::Manage)]);
        assert_eq!(most(&runs, of("you")), Some(Verb::Manage));
        assert_eq!(most(&runs, queue(&gpu, false)), Some(Verb::Use), "limits are set by admins");
    }

    #[test]
    fn a_grant_opens_one_image_or_overlay_and_the_clusters_images_are_everybodys_to_boot() {
        let (cuda, tools) = ("cuda".parse().unwrap(), "tools".parse().unwrap());
        let image = |name, project| Object::Image { name, project };
        let granted = Granted::Image("cuda".parse().unwrap());
        let guest = with(
            MemberRole::Viewer,
            &[(granted, GrantRole::Use), (Granted::Overlay("o1".into()), GrantRole::View)],
        );
        assert_eq!(most(&guest, image(&cuda, Some("speech"))), Some(Verb::Use));
        assert_eq!(most(&guest, image(&tools, Some("speech"))), None);
        assert_eq!(most(&guest, image(&tools, None)), Some(Verb::Use));
        assert_eq!(most(&guest, overlay("you")), Some(Verb::View));
        assert_eq!(most(&guest, Object::Overlay { id: None, owner_id: "you" }), None);
    }
}
