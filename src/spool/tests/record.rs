use super::*;
use crate::base::object::{Condition, ETag, Encryption, ObjectHeaders};
use crate::spool::records::{decode, encode};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SOURCE: &str = "s3://b";

prop_compose! {
    fn any_headers()(
        named in proptest::array::uniform7(any::<Option<String>>()),
        metadata in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4),
    ) -> ObjectHeaders {
        let [
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            storage_class,
            tagging,
        ] = named;
        ObjectHeaders {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            storage_class,
            tagging,
            unread_tags: 2,
            encryption: Some(Encryption {
                algorithm: "aws:kms".into(),
                kms_key_id: Some("key".into()),
                bucket_key: Some(true),
            }),
            metadata,
        }
    }
}

fn any_base() -> impl Strategy<Value = RecordedBase> {
    prop_oneof![
        Just(RecordedBase::Absent),
        any::<String>().prop_map(|etag| RecordedBase::Matches { etag })
    ]
}

prop_compose! {
    fn any_changes()(
        runs in any::<Vec<(u64, u64)>>(),
        base_bytes in any::<u64>(),
        base_modified_unix_s in any::<u64>(),
    ) -> RecordedChanges {
        RecordedChanges { runs, base_bytes, base_modified_unix_s }
    }
}

prop_compose! {
    fn any_unsent()(
        (bucket, key, file_name, transaction) in any::<(String, String, String, String)>(),
        base in any_base(),
        size_bytes in any::<u64>(),
        headers in any_headers(),
        changes in proptest::option::of(any_changes()),
    ) -> UnsentFile {
        UnsentFile { bucket, key, base, file_name, size_bytes, headers: headers.into(), transaction, changes }
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let strings = any::<(String, String, String, String)>;
    prop_oneof![
        strings().prop_map(|(bucket, key, upload_id, _)| Record::Upload(OpenUpload {
            bucket,
            key,
            upload_id
        })),
        any_unsent().prop_map(|unsent| Record::Unsent(Box::new(unsent))),
        (strings(), any::<(u64, Option<String>)>()).prop_map(
            |((bucket, key, etag, _), (modified_unix_s, transaction))| {
                Record::Intent(Intent::Delete {
                    bucket,
                    key,
                    etag,
                    modified_unix_s,
                    transaction,
                    keeps_directory: modified_unix_s % 2 == 1,
                })
            }
        ),
        (strings(), any::<u64>()).prop_map(|((bucket, key, transaction, _), until_unix_s)| {
            Record::Intent(Intent::Withdraw {
                bucket,
                key,
                transaction,
                until_unix_s,
            })
        }),
        (strings(), any::<(String, bool)>()).prop_map(
            |((bucket, from_prefix, to_bucket, to_prefix), (list_file, only_deletes))| {
                Record::Intent(Intent::RenameDirectory {
                    bucket,
                    from_prefix,
                    to_bucket,
                    to_prefix,
                    list_file,
                    only_deletes,
                })
            }
        ),
        strings().prop_map(|(bucket, prefix, ..)| Record::Intent(Intent::Marker { bucket, prefix })),
    ]
}

prop_compose! {
    fn any_part()(
        number in any::<u32>(),
        etag in any::<String>(),
        checksum_base64 in any::<Option<String>>(),
        len_bytes in any::<u64>(),
    ) -> RecordedPart {
        RecordedPart { number, etag, checksum_base64, len_bytes }
    }
}

fn any_form() -> impl Strategy<Value = ConflictForm> {
    let runs = proptest::collection::vec(any::<(u64, u64)>(), 0..4);
    prop_oneof![
        any::<String>().prop_map(|file_name| ConflictForm::Whole { file_name }),
        (
            any::<(String, String)>(),
            proptest::collection::vec(any_part(), 0..4)
        )
            .prop_map(|((upload_id, transaction), parts)| ConflictForm::OpenUpload {
                upload_id,
                parts,
                transaction,
            }),
        (any::<(String, String)>(), runs).prop_map(|((file_name, base_etag), runs)| {
            ConflictForm::Patch {
                file_name,
                base_etag,
                runs,
            }
        }),
    ]
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_was(record in any_record()) {
        prop_assert_eq!(decode::<Record>(&encode(&record).unwrap(), "test").unwrap(), record);
    }

    #[test]
    fn a_conflict_form_comes_back_as_it_was(form in any_form()) {
        prop_assert_eq!(decode::<ConflictForm>(&encode(&form).unwrap(), "test").unwrap(), form);
    }

    #[test]
    fn headers_come_back_as_they_were(headers in any_headers()) {
        let recorded = RecordedHeaders::from(&headers);
        prop_assert_eq!(ObjectHeaders::from(&recorded), headers.clone());
        prop_assert_eq!(ObjectHeaders::from(RecordedHeaders::from(headers.clone())), headers);
    }

    #[test]
    fn a_damaged_record_is_an_error_and_no_panic(record in any_record(), at in any::<prop::sample::Index>()) {
        let mut bytes = encode(&record).unwrap();
        bytes.truncate(at.index(bytes.len()));
        prop_assert_eq!(decode::<Record>(&bytes, "test").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn the_form_on_disk_stays_readable() {
    // Written by version 1: must be understood for ever.
    let stored = br#"{"version":1,"record":{"Unsent":{"bucket":"b","key":"k","base":{"Matches":{"etag":"e"}},
        "file_name":"f","size_bytes":3,"headers":{"content_type":"text/plain","content_encoding":null,
        "content_language":null,"content_disposition":null,"cache_control":null,"storage_class":null,"tagging":null,
        "metadata":{"mtime":"1"}},"transaction":"t"}}}"#;
    let Record::Unsent(unsent) = decode(stored, "test").unwrap() else {
        panic!("another kind of record")
    };
    assert_eq!(unsent.base, RecordedBase::Matches { etag: "e".to_owned() });
    assert_eq!(
        unsent.headers.metadata,
        BTreeMap::from([("mtime".to_owned(), "1".to_owned())])
    );
}

#[test]
fn an_open_upload_without_its_transaction_stays_readable() {
    let stored = br#"{"version":1,"record":{"OpenUpload":{"upload_id":"u","parts":[]}}}"#;
    let form = ConflictForm::OpenUpload {
        upload_id: "u".to_owned(),
        parts: Vec::new(),
        transaction: String::new(),
    };
    assert_eq!(decode::<ConflictForm>(stored, "test").unwrap(), form);
}

#[test]
fn conditions_are_recorded_unless_there_is_none() {
    for condition in [Condition::Absent, Condition::Matches(ETag::new("\"e-2\""))] {
        let base = RecordedBase::try_from(&condition).unwrap();
        assert_eq!(Condition::from(&base), condition);
    }
    assert_eq!(
        RecordedBase::try_from(&Condition::None).unwrap_err().kind(),
        ErrorKind::Internal
    );
}

#[test]
fn unknown_fields_and_kinds_are_errors() {
    let known = r#"{"version":1,"record":{"Upload":{"bucket":"b","key":"k","upload_id":"u"}}}"#;
    decode::<Record>(known.as_bytes(), "test").unwrap();
    for (from, to) in [
        ("\"key\"", "\"more\":1,\"key\""),
        ("Upload", "Download"),
        ("\"version\"", "\"x\":1,\"version\""),
    ] {
        let error = decode::<Record>(known.replacen(from, to, 1).as_bytes(), "test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{from} → {to}");
    }
}

/// Runs `change` on the tables of the only instance.
fn tamper(state_dir: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let path = state_dir
        .join("instances")
        .join(&instance_names(state_dir)[0])
        .join("records.redb");
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

const RECORDS: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("records");
const FACTS: redb::TableDefinition<&str, &str> = redb::TableDefinition::new("facts");

#[test]
fn a_newer_record_or_store_is_refused_and_nothing_is_dropped() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let (_, unsent) = record_file(&spool, b"mine");
    drop(spool);

    let newer = br#"{"version":2,"record":{"Dream":{}}}"#;
    tamper(state.path(), |transaction| {
        transaction
            .open_table(RECORDS)
            .unwrap()
            .insert(999, newer.as_slice())
            .unwrap();
    });
    for _ in 0..2 {
        let error = Spool::open(state.path(), SOURCE).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.message().contains("newer pailfs") && error.message().contains("--state-dir"),
            "{error}"
        );
        assert!(error.message().contains("records.redb"), "{error}");
    }
    tamper(state.path(), |transaction| {
        transaction.open_table(RECORDS).unwrap().remove(999).unwrap();
        transaction
            .open_table(FACTS)
            .unwrap()
            .insert("format", "2")
            .unwrap();
    });
    assert_eq!(
        Spool::open(state.path(), SOURCE).err().unwrap().kind(),
        ErrorKind::Unsupported
    );
    tamper(state.path(), |transaction| {
        transaction
            .open_table(FACTS)
            .unwrap()
            .insert("format", "1")
            .unwrap();
    });
    let (spool, leftovers) = Spool::open(state.path(), SOURCE).unwrap();
    assert_eq!(leftovers.unsent.len(), 1);
    assert_eq!(content_of(&spool, &unsent), b"mine");
}

#[test]
fn a_damaged_or_missing_store_is_refused_and_nothing_is_dropped() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let (_, unsent) = record_file(&spool, b"mine");
    let path = spool.instance_dir().join("records.redb");
    let bytes_path = spool.files.path(&unsent.file_name).unwrap();
    drop(spool);
    std::fs::write(&path, b"this is no database").unwrap();
    let error = Spool::open(state.path(), SOURCE).err().unwrap();
    assert!(error.message().contains(&path.display().to_string()), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = Spool::open(state.path(), SOURCE).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::LocalIo(libc::ENOENT), "{error}");
    assert_eq!(std::fs::read(bytes_path).unwrap(), b"mine");
}

#[test]
fn an_unsent_file_whose_bytes_are_gone_is_not_handed_out() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let (_, unsent) = record_file(&spool, b"mine");
    std::fs::remove_file(spool.files.path(&unsent.file_name).unwrap()).unwrap();
    drop(spool);
    for _ in 0..2 {
        assert!(Spool::open(state.path(), SOURCE).unwrap().1.unsent.is_empty());
    }
}

#[test]
fn many_waiting_removals_are_committed_and_an_upload_forgotten_before_the_end_is_gone() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let ids: Vec<_> = (0..300).map(|n| (spool.store.next_id(), n)).collect();
    let inserts = ids
        .iter()
        .map(|(id, n)| (*id, encode(&Record::Upload(upload(*n))).unwrap()))
        .collect::<Vec<_>>();
    spool
        .store
        .commit(Change {
            inserts,
            ..Change::default()
        })
        .unwrap();
    for (id, _) in &ids {
        spool.store.remove_later(*id);
    }
    // 256 of them did not wait for a commit of somebody else.
    assert_eq!(
        Spool::open(crash_image(state.path()).path(), SOURCE)
            .unwrap()
            .1
            .uploads
            .len(),
        300 - 256
    );
    drop(spool);
    assert!(Spool::open(state.path(), SOURCE).unwrap().1.uploads.is_empty());
}

#[test]
fn threads_share_commits_and_each_gets_its_own_record() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let mut ids: Vec<RecordId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let spool = &spool;
                scope.spawn(move || {
                    (0..20)
                        .map(|n| spool.record_upload(&upload(thread * 100 + n)).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let (_other, leftovers) = Spool::open(crash_image(state.path()).path(), SOURCE).unwrap();
    assert_eq!(leftovers.uploads.len(), 160);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 160);
}
