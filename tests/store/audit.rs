//! The audit log.

use controller::store::NewAudit;

use crate::promises::Db;

promises!(entries_are_numbered_without_gaps_and_found_by_who_did_it);

fn entry(actor: &str, action: &str) -> NewAudit {
    NewAudit {
        at: 1_000_000,
        actor: actor.to_owned(),
        actor_id: format!("id-{actor}"),
        token_id: "t1".to_owned(),
        peer: "10.0.0.9".to_owned(),
        action: action.to_owned(),
        status: 403,
        detail: "why".to_owned(),
    }
}

async fn entries_are_numbered_without_gaps_and_found_by_who_did_it(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    for (actor, action) in [("alice", "POST /a"), ("bob", "POST /b"), ("alice", "POST /c")] {
        tx.add_audit(&entry(actor, action)).await.unwrap();
    }
    drop(tx);
    // What was not committed leaves no gap.
    let mut tx = db.store.write().await.unwrap();
    for (actor, action) in [("alice", "POST /a"), ("bob", "POST /b"), ("alice", "POST /c")] {
        tx.add_audit(&entry(actor, action)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = db.store.read().await.unwrap();
    let all = tx.audit(0, None, 10).await.unwrap();
    assert_eq!(all.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    let first = &all[0];
    assert_eq!((first.actor.as_str(), first.actor_id.as_str()), ("alice", "id-alice"));
    assert_eq!((first.at.as_str(), first.status), ("1970-01-01T00:00:01.000Z", 403));
    assert_eq!((first.from.as_str(), first.detail.as_str()), ("10.0.0.9", "why"));
    let hers = tx.audit(1, Some("alice"), 10).await.unwrap();
    assert_eq!(hers.iter().map(|e| e.action.as_str()).collect::<Vec<_>>(), ["POST /c"]);
    assert_eq!(tx.audit(0, None, 2).await.unwrap().len(), 2);
    assert_eq!(tx.audit(0, Some("carol"), 10).await.unwrap(), []);
}
