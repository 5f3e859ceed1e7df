//! What the audit log promises, on both databases: one chain, in the transaction of the act, and no change goes unseen.

use super::super::commit::{Commit, Leaf};
use super::super::database::Connection;
use super::super::decisions::{Decision, Deed};
use super::super::exceptions::ExceptionId;
use super::super::postgres::begin::Use;
use super::super::sample::*;
use super::super::{Options, Store};
use super::*;
use crate::world::World;

fn told(actor: &str, action: &'static str) -> Entry {
    Entry {
        acting: Acting::user(actor),
        action: action.into(),
        target_kind: "exception",
        target: "7".to_owned(),
        reason: Some("because \u{0} \"so\"".to_owned()),
        outcome: "done",
        detail: None,
    }
}

async fn tell(sample: &Sample, entries: Vec<Entry>) {
    let commit = Commit {
        audit: entries,
        ..Commit::default()
    };
    sample.store.commit(commit).await.unwrap();
}

async fn filled() -> Sample {
    let sample = Sample::in_a_file();
    for n in 0..3 {
        let entries = (0..2).map(|_| told(&format!("anna{n}"), "exception.note"));
        tell(&sample, entries.collect()).await;
    }
    sample
}

#[tokio::test]
async fn rows_are_one_chain_whose_end_is_known() {
    for sample in [Sample::in_a_file(), Sample::on_a_server()] {
        assert_eq!(sample.store.audit_head().await.unwrap(), None);
        assert_eq!(sample.store.verify_audit(None).await.unwrap().bad, None);
        tell(&sample, vec![told("anna", "exception.note")]).await;
        let noted = sample.store.audit_head().await.unwrap().unwrap();
        let two = vec![
            told("bert", "exception.discard"),
            told("anna", "project.reload"),
        ];
        tell(&sample, two).await;
        let verified = sample.store.verify_audit(Some(noted.to_string())).await;
        let verified = verified.unwrap();
        assert_eq!((verified.bad, verified.head.count), (None, 3));
        let head = sample.store.audit_head().await.unwrap().unwrap();
        assert_eq!(verified.head, head);
        let other = sample
            .store
            .verify_audit(Some(format!("1:{}", hex(&[7; 32]))));
        assert_eq!(other.await.unwrap().bad.unwrap().seq, 4);
        let filter = AuditFilter {
            actor: Some("anna".to_owned()),
            action: Some("project".to_owned()),
            target: Some("exception:7".to_owned()),
            ..AuditFilter::default()
        };
        let rows = sample.store.audit(filter).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [3]);
        assert_eq!(rows[0].reason.as_deref(), Some("because \u{0} \"so\""));
    }
}

#[tokio::test]
async fn the_database_itself_refuses_to_change_a_row() {
    for sample in [Sample::in_a_file(), Sample::on_a_server()] {
        tell(&sample, vec![told("anna", "exception.note")]).await;
        for sql in [
            "UPDATE audit SET actor = 'bert'",
            "DELETE FROM audit WHERE seq = 1",
        ] {
            let done = sample.with(|connection| connection.execute(sql, ()));
            assert!(format!("{:?}", done.unwrap_err()).contains("only added to"));
        }
    }
}

/// Somebody with the file and a tool of SQLite.
fn tampered(sample: &Sample, sql: &str) {
    let connection = Connection::Sqlite(rusqlite::Connection::open(sample.path()).unwrap());
    let triggers = "DROP TRIGGER audit_not_changed; DROP TRIGGER audit_not_removed;";
    connection
        .sqlite()
        .execute_batch(&format!("{triggers} {sql}"))
        .unwrap();
}

#[tokio::test]
async fn whoever_changes_drops_reorders_or_cuts_is_found_at_the_row() {
    let cases = [
        (
            "UPDATE audit SET actor = 'bert' WHERE seq = 3",
            3,
            "changed",
        ),
        (
            "UPDATE audit SET hash = zeroblob(32) WHERE seq = 4",
            4,
            "changed",
        ),
        ("DELETE FROM audit WHERE seq = 2", 2, "missing"),
        ("DELETE FROM audit WHERE seq = 1", 1, "missing"),
        (
            "UPDATE audit SET seq = -seq; UPDATE audit SET seq = CASE seq WHEN -2 THEN 5 WHEN -5 THEN 2 ELSE -seq END",
            2,
            "changed",
        ),
        ("DELETE FROM audit WHERE seq > 4", 5, "cut off"),
        (
            "INSERT INTO audit SELECT 7, at, actor, kind, via, source, request, action, target_kind, target, reason, outcome, detail, hash FROM audit WHERE seq = 6",
            7,
            "changed",
        ),
    ];
    for (sql, seq, part) in cases {
        let sample = filled().await;
        let noted = sample.store.audit_head().await.unwrap().unwrap();
        tampered(&sample, sql);
        let bad = sample.store.verify_audit(None).await.unwrap().bad.unwrap();
        assert!(bad.seq == seq && bad.why.contains(part), "{sql}: {bad:?}");
        drop(noted);
    }
    // Who cuts the end and writes its number too is found by what was noted outside.
    let sample = filled().await;
    let noted = sample
        .store
        .audit_head()
        .await
        .unwrap()
        .unwrap()
        .to_string();
    tampered(
        &sample,
        "DELETE FROM audit WHERE seq > 4; UPDATE audit_head SET seq = 4, hash = (SELECT hash FROM audit WHERE seq = 4)",
    );
    assert_eq!(sample.store.verify_audit(None).await.unwrap().bad, None);
    let bad = sample.store.verify_audit(Some(noted)).await.unwrap().bad;
    assert_eq!(bad.unwrap().seq, 5);
}

#[tokio::test]
async fn what_people_decide_is_told_with_what_became_of_it_or_not_at_all() {
    let sample = Sample::new();
    let order = sample.order("A", "1");
    sample.accept(vec![order.clone()]).await;
    let leaf = Leaf::Exception(exception(&order));
    sample
        .end(vec![over(&order, first_hop(&order), vec![], vec![leaf])])
        .await;
    let decide = |who: &str, version| Decision {
        exception: ExceptionId(1),
        who: who.into(),
        why: Some("a test order".to_owned()),
        version,
        deed: Deed::Discard,
    };
    let commit = |decisions| Commit {
        decisions,
        by: Some(Box::new(Acting::user("anna"))),
        ..Commit::default()
    };
    let both = commit(vec![decide("anna", None), decide("anna", None)]);
    sample.store.commit(both).await.unwrap();
    let mut refused = commit(vec![decide("anna", None)]);
    refused.progress = Some((
        "orders".into(),
        crate::component::Progress {
            cursor: "c".to_owned(),
            from: Some("elsewhere".to_owned()),
            to: None,
        },
    ));
    sample.store.commit(refused).await.unwrap_err();
    let rows = sample.store.audit(AuditFilter::default()).await.unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (&*row.actor, &*row.action, &*row.target, &*row.outcome))
        .collect();
    assert_eq!(
        told,
        [
            ("anna", "exception.discard", "1", "refused"),
            ("anna", "exception.discard", "1", "done"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_engines_of_a_store_write_one_chain() {
    let schema = Schema::new();
    let open = || {
        let options = Options {
            sharing: Use::Shared,
            ..Options::of(schema.place())
        };
        Store::open(options, World::real()).unwrap()
    };
    let engines = [open(), open()];
    let writing = engines.each_ref().map(|store| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                let commit = Commit {
                    audit: vec![told("anna", "exception.note")],
                    ..Commit::default()
                };
                store.commit(commit).await.unwrap();
            }
        })
    });
    for one in writing {
        one.await.unwrap();
    }
    let verified = engines[0].verify_audit(None).await.unwrap();
    assert_eq!((verified.bad, verified.head.count), (None, 40));
    for store in &engines {
        store.shutdown().await;
    }
}
