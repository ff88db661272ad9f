//! Groups, projects and grants, and what a user may do by them.

use std::collections::BTreeMap;

use controller::{
    auth::{Granted, Powers},
    store::{GrantTo, MemberId, NewGrantRow, Store, StoreError},
};
use haas_api::{
    grant::GrantRole,
    project::{Access, Limits, MemberRole},
};

use crate::{
    promises::Db,
    samples::{digest, user, want, wanted},
};

promises!(
    a_group_is_found_with_its_members,
    the_highest_role_counts_of_those_that_come_by_oneself_and_by_groups,
    a_grant_reaches_whom_it_names_a_project_as_far_as_roles_go,
    a_grant_ends_with_what_it_is_of_or_to,
    a_project_stays_while_it_has_something,
    an_image_name_is_one_projects,
    a_tenants_nodes_are_those_that_are_to_be_on_for_it,
);

async fn group(store: &Store, name: &str, members: &[&str]) -> String {
    let mut tx = store.write().await.unwrap();
    let id = tx.add_group(&name.parse().unwrap(), members[0], 1).await.unwrap();
    for member in members {
        tx.add_group_member(&id, member).await.unwrap();
    }
    tx.commit().await.unwrap();
    id
}

async fn project(store: &Store, name: &str) -> String {
    let mut tx = store.write().await.unwrap();
    let limits = Limits { nodes: Some(3), ..Limits::default() };
    let id = tx.add_project(&name.parse().unwrap(), Access::User, limits, 1).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn join(store: &Store, project: &str, member: MemberId, role: MemberRole) {
    let mut tx = store.write().await.unwrap();
    tx.set_member(project, &member, role).await.unwrap();
    tx.commit().await.unwrap();
}

async fn powers(store: &Store, user: &str) -> Powers {
    store.read().await.unwrap().powers(user).await.unwrap()
}

async fn grant(store: &Store, to: &GrantTo, object: &Granted, role: GrantRole) -> String {
    let mut tx = store.write().await.unwrap();
    let new = NewGrantRow { to, object, role, actor: "admin", at: 1 };
    let id = tx.add_grant(new).await.unwrap();
    tx.commit().await.unwrap();
    id
}

fn account(id: &str, name: &str) -> GrantTo {
    GrantTo::Account { id: id.into(), name: name.parse().unwrap() }
}

async fn a_group_is_found_with_its_members(db: Db) {
    let (alice, bob) = (user(&db.store, "alice").await, user(&db.store, "bob").await);
    let id = group(&db.store, "staff", &[&alice, &bob]).await;
    let mut tx = db.store.write().await.unwrap();
    // Once more changes nothing.
    tx.add_group_member(&id, &bob).await.unwrap();
    let found = tx.group("staff").await.unwrap().unwrap();
    assert_eq!(found.owner.map(|name| name.to_string()).as_deref(), Some("alice"));
    let members = tx.group_members(&id).await.unwrap();
    assert_eq!(members.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
    assert!(tx.remove_group_member(&id, &bob).await.unwrap());
    assert!(!tx.remove_group_member(&id, &bob).await.unwrap());
    let again = tx.add_group(&"staff".parse().unwrap(), &bob, 1).await;
    assert!(matches!(again, Err(StoreError::Taken(_))), "{again:?}");
    // A group outlives its owner, and nobody but admins has it then.
    assert!(tx.remove_user(&alice).await.unwrap());
    assert_eq!(tx.group("staff").await.unwrap().unwrap().owner_id, None);
}

async fn the_highest_role_counts_of_those_that_come_by_oneself_and_by_groups(db: Db) {
    let alice = user(&db.store, "alice").await;
    let staff = group(&db.store, "staff", &[&alice]).await;
    let vision = project(&db.store, "vision").await;
    join(&db.store, &vision, MemberId::Group(staff.clone()), MemberRole::Manager).await;
    join(&db.store, &vision, MemberId::User(alice.clone()), MemberRole::Viewer).await;
    let expected = BTreeMap::from([(vision.clone(), MemberRole::Manager)]);
    assert_eq!(powers(&db.store, &alice).await.projects, expected);
    let mut tx = db.store.write().await.unwrap();
    let people = tx.people_of(&vision).await.unwrap();
    assert_eq!(people, [(alice.clone(), MemberRole::Manager)]);
    assert_eq!(tx.members(&vision).await.unwrap().len(), 2);
    tx.remove_group(&staff).await.unwrap();
    tx.commit().await.unwrap();
    let expected = BTreeMap::from([(vision, MemberRole::Viewer)]);
    assert_eq!(powers(&db.store, &alice).await.projects, expected);
}

async fn a_grant_reaches_whom_it_names_a_project_as_far_as_roles_go(db: Db) {
    let (alice, bob) = (user(&db.store, "alice").await, user(&db.store, "bob").await);
    let staff = group(&db.store, "staff", &[&alice]).await;
    let vision = project(&db.store, "vision").await;
    join(&db.store, &vision, MemberId::User(alice.clone()), MemberRole::Viewer).await;
    let rack = Granted::NodeGroup("rack1".parse().unwrap());
    let image = Granted::Image("cuda".parse().unwrap());
    grant(&db.store, &account(&vision, "vision"), &rack, GrantRole::Manage).await;
    let to_group = GrantTo::Group { id: staff, name: "staff".parse().unwrap() };
    grant(&db.store, &to_group, &image, GrantRole::Use).await;
    let found = powers(&db.store, &alice).await.grants;
    let expected = [(rack.clone(), GrantRole::View), (image, GrantRole::Use)];
    assert_eq!(found, BTreeMap::from(expected), "a viewer only looks");
    assert_eq!(powers(&db.store, &bob).await, Powers::default());
    // A later grant of the same to the same takes the place of the first.
    let first = grant(&db.store, &account(&bob, "bob"), &rack, GrantRole::Manage).await;
    let second = grant(&db.store, &account(&bob, "bob"), &rack, GrantRole::Use).await;
    assert_eq!(powers(&db.store, &bob).await.grants, BTreeMap::from([(rack, GrantRole::Use)]));
    let mut tx = db.store.write().await.unwrap();
    assert!(!tx.remove_grant(&first).await.unwrap());
    assert!(tx.remove_grant(&second).await.unwrap());
}

async fn a_grant_ends_with_what_it_is_of_or_to(db: Db) {
    let (alice, bob) = (user(&db.store, "alice").await, user(&db.store, "bob").await);
    let mut tx = db.store.write().await.unwrap();
    let overlay = tx.add_overlay(&alice, &"dev".parse().unwrap(), 1).await.unwrap();
    tx.commit().await.unwrap();
    let object = Granted::Overlay(overlay.clone());
    grant(&db.store, &account(&bob, "bob"), &object, GrantRole::Use).await;
    let rack = Granted::NodeGroup("rack1".parse().unwrap());
    grant(&db.store, &account(&bob, "bob"), &rack, GrantRole::Use).await;
    let mut tx = db.store.write().await.unwrap();
    let of_overlay = &tx.grants().await.unwrap()[0];
    let (owner, name) = of_overlay.overlay.clone().unwrap();
    assert_eq!((owner.as_str(), name.as_str()), ("alice", "dev"));
    tx.remove_overlay(&overlay).await.unwrap();
    assert_eq!(tx.grants().await.unwrap().len(), 1);
    assert!(tx.remove_user(&bob).await.unwrap());
    assert_eq!(tx.grants().await.unwrap(), []);
}

async fn a_project_stays_while_it_has_something(db: Db) {
    let vision = project(&db.store, "vision").await;
    let mut tx = db.store.write().await.unwrap();
    let found = tx.project("vision").await.unwrap().unwrap();
    assert_eq!((found.access, found.limits.nodes), (Access::User, Some(3)));
    assert_eq!(tx.user("vision").await.unwrap(), None, "it is no user");
    assert!(tx.users().await.unwrap().is_empty());
    tx.set_project(&vision, Access::Root, Limits::default()).await.unwrap();
    let found = tx.project_by_id(&vision).await.unwrap().unwrap();
    assert_eq!((found.access, found.limits), (Access::Root, Limits::default()));
    let overlay = tx.add_overlay(&vision, &"data".parse().unwrap(), 1).await.unwrap();
    assert!(!tx.remove_project(&vision).await.unwrap());
    tx.remove_overlay(&overlay).await.unwrap();
    assert!(tx.remove_project(&vision).await.unwrap());
    assert_eq!(tx.account("vision").await.unwrap(), None);
}

async fn an_image_name_is_one_projects(db: Db) {
    let (vision, speech) = (project(&db.store, "vision").await, project(&db.store, "speech").await);
    let (cuda, minimal) = ("cuda".parse().unwrap(), "minimal".parse().unwrap());
    let latest = "latest".parse().unwrap();
    let mut tx = db.store.write().await.unwrap();
    tx.add_image(&digest("a"), "{}", 1).await.unwrap();
    tx.set_tag(&minimal, &latest, &digest("a")).await.unwrap();
    tx.set_image_owner(&cuda, &vision).await.unwrap();
    tx.set_image_owner(&cuda, &vision).await.unwrap();
    // Neither another project's nor what the cluster has already.
    for (name, project) in [(&cuda, &speech), (&minimal, &speech)] {
        let taken = tx.set_image_owner(name, project).await;
        assert!(matches!(taken, Err(StoreError::Taken(_))), "{taken:?}");
    }
    tx.set_tag(&cuda, &latest, &digest("a")).await.unwrap();
    let names = tx.names_of_image(&digest("a")).await.unwrap();
    assert_eq!(names, [(cuda.clone(), Some(vision.clone())), (minimal, None)]);
    assert!(!tx.remove_project(&vision).await.unwrap());
    tx.forget_image_owner(&cuda).await.unwrap();
    assert_eq!(tx.image_owner(&cuda).await.unwrap(), Some(vision), "it has a tag");
    tx.remove_tag(&cuda, &latest).await.unwrap();
    tx.forget_image_owner(&cuda).await.unwrap();
    assert_eq!(tx.image_owner(&cuda).await.unwrap(), None);
}

async fn a_tenants_nodes_are_those_that_are_to_be_on_for_it(db: Db) {
    let first = crate::samples::node(&db.store, 1).await.id;
    crate::samples::node(&db.store, 2).await;
    for number in [1, 2] {
        want(&db.store, number, &wanted("a", None)).await;
    }
    let count = async |but: &[String]| {
        db.store.read().await.unwrap().nodes_of_tenant("tenant-id", but).await.unwrap()
    };
    assert_eq!((count(&[]).await, count(&[first]).await), (2, 1));
    let off = controller::model::NewDesired { power_on: false, ..wanted("a", None) };
    want(&db.store, 2, &off).await;
    assert_eq!(count(&[]).await, 1);
}
