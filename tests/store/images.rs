//! Images and their tags.

use haas_api::names::{Digest, ImageRef};

use crate::{
    promises::Db,
    samples::{digest, node, open, reread, want, wanted},
};

promises!(
    a_tag_means_one_image_until_it_is_moved,
    a_digest_means_itself_if_it_is_known,
    an_image_goes_with_its_tags,
    an_image_is_closed_until_it_is_opened_and_when_it_comes_anew,
    an_image_is_in_use_while_it_is_wanted_or_still_runs,
);

fn tag(text: &str) -> ImageRef {
    text.parse().unwrap()
}

async fn resolve(db: &Db, image: &ImageRef) -> Option<Digest> {
    db.store.read().await.unwrap().resolve_image(image).await.unwrap()
}

async fn add(db: &Db, name: &str, tags: &[&str]) {
    let mut tx = db.store.write().await.unwrap();
    tx.add_image(&digest(name), name, 5).await.unwrap();
    for tag in tags {
        tx.set_tag(&name.parse().unwrap(), &tag.parse().unwrap(), &digest(name)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn a_tag_means_one_image_until_it_is_moved(db: Db) {
    add(&db, "a", &["latest", "v1"]).await;
    add(&db, "b", &[]).await;
    assert_eq!(resolve(&db, &tag("a:latest")).await, Some(digest("a")));
    let (name, latest) = ("a".parse().unwrap(), "latest".parse().unwrap());
    let mut tx = db.store.write().await.unwrap();
    tx.set_tag(&name, &latest, &digest("b")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(resolve(&db, &tag("a:latest")).await, Some(digest("b")));
    assert_eq!(resolve(&db, &tag("a:v1")).await, Some(digest("a")));
    let mut tx = db.store.write().await.unwrap();
    assert!(tx.remove_tag(&name, &latest).await.unwrap());
    assert!(!tx.remove_tag(&name, &latest).await.unwrap());
    assert_eq!(tx.images().await.unwrap().len(), 2, "a tag is not the image");
    assert!(tx.set_tag(&name, &latest, &digest("unknown")).await.is_err());
}

async fn a_digest_means_itself_if_it_is_known(db: Db) {
    add(&db, "a", &[]).await;
    // Once more is nothing new.
    add(&db, "a", &[]).await;
    assert_eq!(resolve(&db, &ImageRef::Digest(digest("a"))).await, Some(digest("a")));
    assert_eq!(resolve(&db, &ImageRef::Digest(digest("b"))).await, None);
    let images = db.store.read().await.unwrap().images().await.unwrap();
    assert_eq!((images.len(), images[0].manifest.as_str()), (1, "a"));
}

async fn an_image_goes_with_its_tags(db: Db) {
    add(&db, "a", &["latest", "v1"]).await;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(tx.images().await.unwrap()[0].tags, [tag("a:latest"), tag("a:v1")]);
    tx.remove_image(&digest("a")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(resolve(&db, &tag("a:v1")).await, None);
    assert!(db.store.read().await.unwrap().images().await.unwrap().is_empty());
}

async fn an_image_is_closed_until_it_is_opened_and_when_it_comes_anew(db: Db) {
    let open = async || {
        let images = db.store.read().await.unwrap().images().await.unwrap();
        images.iter().filter(|i| i.is_open).map(|i| i.manifest.clone()).collect::<Vec<_>>()
    };
    add(&db, "a", &["latest"]).await;
    add(&db, "b", &["latest"]).await;
    assert!(open().await.is_empty());
    let mut tx = db.store.write().await.unwrap();
    tx.set_open(&digest("a"), true).await.unwrap();
    tx.commit().await.unwrap();
    add(&db, "a", &["again"]).await;
    assert_eq!(open().await, ["a"]);
    let mut tx = db.store.write().await.unwrap();
    tx.remove_image(&digest("a")).await.unwrap();
    tx.commit().await.unwrap();
    add(&db, "a", &["latest"]).await;
    assert!(open().await.is_empty());
}

async fn an_image_is_in_use_while_it_is_wanted_or_still_runs(db: Db) {
    node(&db.store, 1).await;
    let users = async || {
        let users = db.store.read().await.unwrap().image_users(&digest("a")).await.unwrap();
        users.into_iter().map(|(node, tenant)| format!("{node} {tenant}")).collect::<Vec<_>>()
    };
    assert!(users().await.is_empty());
    want(&db.store, 1, &wanted("a", None)).await;
    assert_eq!(users().await, ["n01 tenant-id"]);
    let node = reread(&db.store, 1).await;
    open(&db.store, &node, "b1", 10).await;
    want(&db.store, 1, &wanted("b", None)).await;
    assert_eq!(users().await, ["n01 tenant-id"], "its boot still lives");
    open(&db.store, &reread(&db.store, 1).await, "b2", 20).await;
    assert!(users().await.is_empty());
}
