//! Who may do what: every handler asks [`authorize`], here and nowhere else, before any side effect.

pub mod attempts;
pub mod passwords;
pub mod principals;

use haas_api::{names::UserName, user::Role};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user's immutable id.
    pub user_id: String,
    /// The user's name.
    pub name: UserName,
    /// What it may do everywhere.
    pub role: Role,
    /// The token by which it is known.
    pub token_id: String,
    /// The token only looks.
    pub read_only: bool,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Look.
    View,
    /// Have nodes boot with it, or switch them.
    Use,
    /// Make, change, remove.
    Manage,
}

/// Of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object<'a> {
    /// Nodes, their power and disks, the inventory, operations and events.
    Nodes,
    /// Images and tags.
    Images,
    /// An overlay, by its owner's id.
    Overlay {
        /// The owner's immutable id.
        owner_id: &'a str,
    },
    /// What everybody did.
    Audit,
    /// A user, by its id; none for the list of users.
    User {
        /// The user's immutable id.
        id: Option<&'a str>,
    },
}

/// Refused: who may not do what, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{user} may not {verb} {object}")]
pub struct Denied {
    user: UserName,
    verb: &'static str,
    object: &'static str,
}

/// Whether `principal` may do `verb` with `object`. What is not allowed here is denied.
pub fn authorize(principal: &Principal, verb: Verb, object: Object<'_>) -> Result<(), Denied> {
    let mine = |owner: &str| owner == principal.user_id;
    let allowed = match (principal.role, object, verb) {
        (Role::Admin, _, _) => true,
        (Role::User, Object::Nodes | Object::Images, Verb::View) => true,
        (Role::User, Object::Nodes | Object::Images, Verb::Use | Verb::Manage) => false,
        (Role::User, Object::Overlay { owner_id }, _) => mine(owner_id),
        (Role::User, Object::User { id: Some(id) }, _) => mine(id),
        (Role::User, Object::User { id: None } | Object::Audit, _) => false,
    };
    if allowed {
        return Ok(());
    }
    Err(Denied {
        user: principal.name.clone(),
        verb: match verb {
            Verb::View => "look at",
            Verb::Use => "use",
            Verb::Manage => "change",
        },
        object: match object {
            Object::Nodes => "nodes",
            Object::Images => "images",
            Object::Overlay { .. } => "this overlay",
            Object::User { .. } => "users",
            Object::Audit => "the audit log",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(role: Role) -> Principal {
        Principal {
            user_id: "me".into(),
            name: "alice".parse().unwrap(),
            role,
            token_id: "t".into(),
            read_only: false,
        }
    }

    #[test]
    fn a_user_changes_nothing_but_what_is_its_own() {
        let me = principal(Role::User);
        assert!(authorize(&me, Verb::View, Object::Nodes).is_ok());
        assert!(authorize(&me, Verb::Use, Object::Nodes).is_err());
        assert!(authorize(&me, Verb::Manage, Object::Images).is_err());
        assert!(authorize(&me, Verb::Manage, Object::Overlay { owner_id: "me" }).is_ok());
        assert!(authorize(&me, Verb::View, Object::Overlay { owner_id: "you" }).is_err());
        assert!(authorize(&me, Verb::Manage, Object::User { id: Some("you") }).is_err());
        assert!(authorize(&me, Verb::View, Object::User { id: None }).is_err());
        assert!(authorize(&me, Verb::View, Object::Audit).is_err());
    }

    #[test]
    fn an_admin_may_do_everything() {
        let admin = principal(Role::Admin);
        for verb in [Verb::View, Verb::Use, Verb::Manage] {
            assert!(authorize(&admin, verb, Object::Overlay { owner_id: "you" }).is_ok());
            assert!(authorize(&admin, verb, Object::Nodes).is_ok());
        }
    }
}
