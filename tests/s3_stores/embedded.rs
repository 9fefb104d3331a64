//! Against the embedded store: the whole suite, poorer stores, and faults.

use crate::suite::{self, data, kind, list_request, put, put_request, read};
use pailfs::base::checksum::Crc32c;
use pailfs::base::error::ErrorKind;
use pailfs::base::object::{Condition, ETag, ObjectHeaders, ObjectId};
use pailfs::base::segments::Segments;
use pailfs::embedded::{Fault, Operation, Quirks, Store, StoreOptions, When};
use pailfs::rt;
use pailfs::s3::types::{CompleteRequest, CopyRequest};
use pailfs::s3::{Capabilities, Client, ClientOptions, Dialer, Feature, StaticCredentials, Support};
use pailfs::telemetry::{Metrics, RequestClass};
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn store() -> Store {
    Store::open(StoreOptions::in_memory()).expect("a store in memory")
}

async fn client_of(store: &Store, capabilities: Capabilities) -> Client {
    let keys = store.options();
    let options = ClientOptions {
        endpoint_url: Some("http://store.test".into()),
        region: Some(keys.region.clone()),
        credentials: Some(StaticCredentials {
            access_key_id: keys.access_key.clone(),
            secret_access_key: keys.secret_key.clone(),
            session_token: None,
        }),
        capabilities,
        ..ClientOptions::default()
    };
    let store = store.clone();
    let dialer = Dialer::new(move || {
        let store = store.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            drop(rt::spawn(async move { store.serve_connection(ours).await }));
            Ok(theirs)
        }
    });
    Client::with_dialer(options, Arc::new(Metrics::default()), dialer)
        .await
        .expect("a client")
}

/// A store that does all that S3 does, a client that knows it, and a bucket.
async fn known() -> (Store, Client, String) {
    let store = store();
    let client = client_of(&store, Capabilities::s3()).await;
    let bucket = suite::bucket(&client).await;
    (store, client, bucket)
}

#[tokio::test(start_paused = true)]
async fn objects() {
    let client = client_of(&store(), Capabilities::default()).await;
    suite::objects_are_written_read_and_deleted_under_conditions(&client).await;
}

#[tokio::test(start_paused = true)]
async fn uploads_and_copies() {
    let client = client_of(&store(), Capabilities::default()).await;
    suite::uploads_in_parts_and_copies_keep_bytes_and_conditions(&client).await;
}

#[tokio::test(start_paused = true)]
async fn probes() {
    let client = client_of(&store(), Capabilities::default()).await;
    suite::probes_decide_every_feature_and_leave_nothing_behind(&client).await;
    let mut expected = Capabilities::s3();
    expected.set(Feature::ListOrder, Support::Unknown);
    assert_eq!(client.capabilities().to_string(), expected.to_string());
}

#[tokio::test(start_paused = true)]
async fn probes_find_out_what_a_poor_store_ignores() {
    let store = store();
    store.set_quirks(Quirks {
        ignore_put_conditions: true,
        ignore_complete_conditions: true,
        ignore_copy_conditions: true,
        ignore_delete_conditions: true,
        no_checksum_algorithms_in_listings: true,
        unordered_listings: true,
        forget_metadata_of_markers: true,
        reject_checksum_trailers: true,
        ..Quirks::default()
    });
    let client = client_of(&store, Capabilities::default()).await;
    suite::probes_decide_every_feature_and_leave_nothing_behind(&client).await;
    let known = client.capabilities();
    for feature in Feature::ALL {
        let expected = match feature {
            Feature::Crc32c => Support::Honoured,
            Feature::ListOrder => Support::Unknown,
            _ => Support::Ignored,
        };
        assert_eq!(known.get(feature), expected, "{}", feature.name());
    }
    let bucket = suite::bucket(&client).await;
    for name in ["a", "b", "c"] {
        let id = ObjectId::new(bucket.as_str(), name);
        put(&client, &id, data(1), Condition::None)
            .await
            .expect("written");
    }
    client.list(&list_request(&bucket, "")).await.expect("a page");
    assert_eq!(client.capabilities().get(Feature::ListOrder), Support::Ignored);
}

#[tokio::test(start_paused = true)]
async fn where_conditions_are_ignored_a_foreign_version_is_still_seen() {
    let store = store();
    store.set_quirks(Quirks {
        ignore_put_conditions: true,
        ignore_copy_conditions: true,
        ignore_delete_conditions: true,
        ..Quirks::default()
    });
    let client = client_of(&store, Capabilities::default()).await;
    let bucket = suite::bucket(&client).await;
    let id = ObjectId::new(bucket.as_str(), "k");
    let first = put(&client, &id, data(1), Condition::Absent)
        .await
        .expect("created");
    assert_eq!(
        kind(put(&client, &id, data(2), Condition::Absent).await),
        ErrorKind::PreconditionFailed
    );
    let second = put(&client, &id, data(3), Condition::Matches(first.etag.clone()))
        .await
        .expect("replaced");
    let late = put(&client, &id, data(4), Condition::Matches(first.etag.clone())).await;
    assert_eq!(kind(late), ErrorKind::PreconditionFailed);
    assert_eq!(
        kind(client.delete(&id, Some(&first.etag)).await),
        ErrorKind::PreconditionFailed
    );
    let copy = CopyRequest {
        from: id.clone(),
        from_etag: second.etag.clone(),
        size_bytes: second.size_bytes,
        to: id.sibling("other"),
        condition: Condition::Absent,
        headers: None,
    };
    client.copy(&copy).await.expect("copied");
    assert_eq!(kind(client.copy(&copy).await), ErrorKind::PreconditionFailed);
    client.delete(&id, Some(&second.etag)).await.expect("deleted");
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_ambiguous_and_the_object_tells_what_happened() {
    let (store, client, bucket) = known().await;
    let id = ObjectId::new(bucket.as_str(), "k");
    store.faults().inject(When::on(Operation::Put), Fault::LoseReply);
    assert_eq!(
        kind(put(&client, &id, data(7), Condition::Absent).await),
        ErrorKind::Ambiguous
    );
    let found = client.head(&id).await.expect("it was applied").version;
    store.faults().inject(When::on(Operation::Put), Fault::Disconnect);
    let second = put(&client, &id, data(8), Condition::Matches(found.etag.clone())).await;
    assert_eq!(kind(second), ErrorKind::Ambiguous);
    assert_eq!(
        client.head(&id).await.expect("there").version.etag,
        found.etag,
        "it was not applied"
    );
    store
        .faults()
        .inject(When::on(Operation::Delete), Fault::LoseReply);
    assert_eq!(
        kind(client.delete(&id, Some(&found.etag)).await),
        ErrorKind::Ambiguous
    );
    assert_eq!(store.counts().of(Operation::Put), 2);
    assert_eq!(store.counts().of(Operation::Delete), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_completion_is_ambiguous_and_never_sent_again() {
    let (store, client, bucket) = known().await;
    let id = ObjectId::new(bucket.as_str(), "k");
    let upload = client
        .create_upload(&id, &ObjectHeaders::default())
        .await
        .expect("begun");
    let body = Segments::from(data(10));
    let checksum = Crc32c::of_segments(&body);
    store
        .faults()
        .inject(When::on(Operation::UploadPart), Fault::LoseReply);
    let part = client
        .upload_part(&id, &upload, 1, body, checksum)
        .await
        .expect("parts may be sent again");
    store
        .faults()
        .inject(When::on(Operation::Complete), Fault::LoseReply);
    let request = CompleteRequest {
        id: id.clone(),
        upload,
        parts: vec![part],
        checksum: Some(checksum),
        size_bytes: 10,
        condition: Condition::Absent,
    };
    assert_eq!(kind(client.complete_upload(&request).await), ErrorKind::Ambiguous);
    assert_eq!(
        client.head(&id).await.expect("it was applied").version.size_bytes,
        10
    );
    assert_eq!(store.counts().of(Operation::Complete), 1);
    assert_eq!(store.counts().of(Operation::UploadPart), 2);
}

#[tokio::test(start_paused = true)]
async fn whatever_request_of_a_session_fails_once_the_session_succeeds() {
    for fault in [
        Fault::Answer("SlowDown"),
        Fault::Answer("ServiceUnavailable"),
        Fault::Answer("OperationAborted"),
    ] {
        let operations = [
            Operation::Put,
            Operation::Get,
            Operation::Head,
            Operation::List,
            Operation::Delete,
            Operation::Tags,
        ];
        for operation in operations {
            let (store, client, bucket) = known().await;
            let struck = store.faults().inject(When::on(operation), fault.clone());
            let id = ObjectId::new(bucket.as_str(), "k");
            let version = put(&client, &id, data(100), Condition::Absent)
                .await
                .expect("put");
            assert_eq!(
                read(&client, &id, None, Some(version.etag.clone()))
                    .await
                    .expect("get"),
                data(100)
            );
            client.head(&id).await.expect("head");
            client.list(&list_request(&bucket, "")).await.expect("list");
            assert_eq!(client.get_tagging(&id).await.expect("tags"), None);
            client.delete(&id, Some(&version.etag)).await.expect("delete");
            assert_eq!(store.faults().struck(struck), 1, "{operation:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_are_read_to_the_end_through_cuts_and_stalls() {
    let (store, client, bucket) = known().await;
    let id = ObjectId::new(bucket.as_str(), "k");
    let body = data(3 << 20);
    put(&client, &id, body.clone(), Condition::Absent)
        .await
        .expect("put");
    store.faults().inject(
        When::on(Operation::Get).nth(1),
        Fault::CutBody { after_bytes: 1 << 20 },
    );
    store.faults().inject(
        When::on(Operation::Get).nth(2),
        Fault::StallBody { after_bytes: 1000 },
    );
    store
        .faults()
        .inject(When::on(Operation::Get).nth(3), Fault::Answer("InternalError"));
    store
        .faults()
        .inject(When::on(Operation::Get).nth(4), Fault::Disconnect);
    assert!(read(&client, &id, None, None).await.expect("whole") == body);
    assert_eq!(store.counts().of(Operation::Get), 5);
    assert_eq!(client.metrics().requests(RequestClass::Get), 5);
    assert_eq!(
        client.metrics().failures(RequestClass::Get),
        2,
        "two attempts had no answer's head"
    );
    assert!(client.metrics().received_bytes.load(Ordering::Relaxed) >= body.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_ends_at_the_stall_timeout() {
    let (store, client, bucket) = known().await;
    let id = ObjectId::new(bucket.as_str(), "k");
    put(&client, &id, data(1000), Condition::Absent)
        .await
        .expect("put");
    store.faults().inject(
        When::on(Operation::Get).for_ever(),
        Fault::StallBody { after_bytes: 0 },
    );
    let started = rt::now();
    assert_eq!(kind(read(&client, &id, None, None).await), ErrorKind::TimedOut);
    assert!(started.elapsed().as_secs() < 130, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_of_a_replaced_object_is_stale_when_it_breaks() {
    let (store, client, bucket) = known().await;
    let id = ObjectId::new(bucket.as_str(), "k");
    put(&client, &id, data(3 << 20), Condition::Absent)
        .await
        .expect("put");
    store
        .faults()
        .inject(When::on(Operation::Get), Fault::CutBody { after_bytes: 1 << 20 });
    let request = pailfs::s3::types::GetRequest {
        id: id.clone(),
        range: None,
        if_match: None,
        version_id: None,
    };
    let mut reply = client.get(&request).await.expect("a head");
    put(&client, &id, data(5), Condition::None)
        .await
        .expect("replaced");
    let ended = loop {
        match reply.body.next().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(kind(ended), ErrorKind::Stale);
}

#[tokio::test(start_paused = true)]
async fn damaged_uploads_are_refused_and_xml_that_is_none_is_tried_again() {
    let (store, client, bucket) = known().await;
    let id = ObjectId::new(bucket.as_str(), "k");
    let mut damaged = put_request(&id, data(10), Condition::Absent);
    damaged.checksum = Crc32c::of(b"something else");
    assert_eq!(kind(client.put(&damaged).await), ErrorKind::Corrupt);
    assert_eq!(kind(client.head(&id).await), ErrorKind::NotFound);
    store
        .faults()
        .inject(When::on(Operation::List), Fault::MalformedXml);
    let page = client.list(&list_request(&bucket, "")).await.expect("a page");
    assert!(page.objects.is_empty(), "{page:?}");
}

#[tokio::test(start_paused = true)]
async fn keys_that_xml_cannot_carry_are_listed_and_deleted() {
    let (_store, client, bucket) = known().await;
    let keys: Vec<String> = ["a\u{1}b", "plus+ blank", "line\nend", "é%41//x", "."]
        .map(str::to_owned)
        .to_vec();
    for key in &keys {
        let id = ObjectId::new(bucket.as_str(), key.as_str());
        put(&client, &id, data(1), Condition::Absent)
            .await
            .expect("written");
    }
    let mut request = list_request(&bucket, "");
    request.by_directory = false;
    request.max_keys = 2;
    let mut listed = Vec::new();
    loop {
        let page = client.list(&request).await.expect("a page");
        listed.extend(page.objects.into_iter().map(|object| object.key));
        request.continuation = page.continuation;
        if request.continuation.is_none() {
            break;
        }
    }
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(listed, sorted);
    assert!(
        client
            .delete_many(&bucket, &keys)
            .await
            .expect("answered")
            .is_empty()
    );
    assert!(
        client
            .list(&list_request(&bucket, ""))
            .await
            .expect("a page")
            .objects
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn headers_metadata_and_tags_survive_a_copy_that_replaces_some() {
    let (_store, client, bucket) = known().await;
    let id = ObjectId::new(bucket.as_str(), "k");
    let mut request = put_request(&id, data(10), Condition::Absent);
    request.headers.tagging = Some("a%20b=c%26d".into());
    request.headers.cache_control = Some("no-cache".into());
    let version = client.put(&request).await.expect("put");
    let info = client.head(&id).await.expect("there");
    assert_eq!(info.headers.unread_tags, 1);
    let mut headers = info.headers.clone();
    headers.metadata.insert("mode".into(), "0644".into());
    let copy = CopyRequest {
        from: id.clone(),
        from_etag: version.etag.clone(),
        size_bytes: version.size_bytes,
        to: id.clone(),
        condition: Condition::Matches(version.etag.clone()),
        headers: Some(headers.clone()),
    };
    client.copy(&copy).await.expect("onto itself");
    assert_eq!(client.head(&id).await.expect("there").headers, headers);
    assert_eq!(
        client.get_tagging(&id).await.expect("tags").as_deref(),
        Some("a%20b=c%26d")
    );
    let other = CopyRequest {
        condition: Condition::Matches(ETag::new("other")),
        ..copy
    };
    assert_eq!(kind(client.copy(&other).await), ErrorKind::PreconditionFailed);
}
