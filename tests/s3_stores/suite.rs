//! What every store that does what S3 does must answer; run against several.

use bytes::Bytes;
use pailfs::base::checksum::Crc32c;
use pailfs::base::error::{Error, ErrorKind, Result};
use pailfs::base::object::{ByteRange, Condition, ETag, ObjectHeaders, ObjectId, Version};
use pailfs::base::segments::Segments;
use pailfs::s3::types::{CompleteRequest, CopyRequest, GetRequest, ListRequest, PutRequest};
use pailfs::s3::{Client, Feature, Support};

pub async fn bucket(client: &Client) -> String {
    let name = format!("pailfs-test-{}", &pailfs::rt::random_id()[..12]);
    client.create_bucket(&name).await.expect("a bucket");
    name
}

pub fn data(len: usize) -> Bytes {
    (0..len).map(|n| (n * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

pub fn put_request(id: &ObjectId, body: Bytes, condition: Condition) -> PutRequest {
    let headers = ObjectHeaders {
        content_type: Some("text/plain".into()),
        metadata: [("color".to_owned(), "grün".to_owned())].into(),
        ..ObjectHeaders::default()
    };
    let body = Segments::from(body);
    PutRequest {
        id: id.clone(),
        checksum: Crc32c::of_segments(&body),
        body,
        condition,
        headers,
    }
}

pub async fn put(client: &Client, id: &ObjectId, body: Bytes, condition: Condition) -> Result<Version> {
    client.put(&put_request(id, body, condition)).await
}

pub async fn read(
    client: &Client,
    id: &ObjectId,
    range: Option<ByteRange>,
    if_match: Option<ETag>,
) -> Result<Vec<u8>> {
    let request = GetRequest {
        id: id.clone(),
        range,
        if_match,
        version_id: None,
    };
    let mut reply = client.get(&request).await?;
    let mut out = Vec::new();
    while let Some(piece) = reply.body.next().await? {
        out.extend_from_slice(&piece);
    }
    assert_eq!(out.len() as u64, reply.range.len());
    Ok(out)
}

pub fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().as_ref().map_or(ErrorKind::Internal, Error::kind)
}

pub fn list_request(bucket: &str, prefix: &str) -> ListRequest {
    ListRequest {
        bucket: bucket.into(),
        prefix: prefix.into(),
        by_directory: true,
        start_after: None,
        continuation: None,
        max_keys: 1000,
    }
}

pub async fn objects_are_written_read_and_deleted_under_conditions(client: &Client) {
    let bucket = bucket(client).await;
    let id = ObjectId::new(bucket.as_str(), "dir/a b+c é%41");
    let body = data(3 << 20);
    let first = put(client, &id, body.clone(), Condition::Absent)
        .await
        .expect("created");
    assert_eq!(
        kind(put(client, &id, data(1), Condition::Absent).await),
        ErrorKind::PreconditionFailed
    );
    let info = client.head(&id).await.expect("there");
    assert_eq!(
        (info.version.etag.clone(), info.version.size_bytes),
        (first.etag.clone(), body.len() as u64)
    );
    assert_eq!(info.headers.metadata["color"], "grün");
    assert_eq!(info.headers.content_type.as_deref(), Some("text/plain"));
    assert!(
        read(client, &id, None, Some(first.etag.clone()))
            .await
            .expect("read")
            == body
    );
    let range = ByteRange::new(1_000_000, 2_000_000);
    assert!(read(client, &id, Some(range), None).await.expect("read") == body[1_000_000..2_000_000]);
    let beyond = ByteRange::new(body.len() as u64, body.len() as u64 + 10);
    assert_eq!(
        kind(read(client, &id, Some(beyond), None).await),
        ErrorKind::BadRange
    );

    let second = put(client, &id, data(0), Condition::Matches(first.etag.clone()))
        .await
        .expect("replaced");
    assert_eq!(
        kind(put(client, &id, data(1), Condition::Matches(first.etag.clone())).await),
        ErrorKind::PreconditionFailed
    );
    assert!(read(client, &id, None, None).await.expect("read").is_empty());
    assert_eq!(
        kind(read(client, &id, None, Some(first.etag.clone())).await),
        ErrorKind::PreconditionFailed
    );

    let page = client.list(&list_request(&bucket, "dir/")).await.expect("a page");
    assert_eq!(page.objects.len(), 1);
    assert_eq!(
        (&*page.objects[0].key, &page.objects[0].etag),
        (&*id.key, &second.etag)
    );
    assert_eq!(
        client
            .list(&list_request(&bucket, ""))
            .await
            .expect("a page")
            .prefixes,
        ["dir/"]
    );

    assert_eq!(
        kind(client.delete(&id, Some(&first.etag)).await),
        ErrorKind::PreconditionFailed
    );
    client.delete(&id, Some(&second.etag)).await.expect("deleted");
    assert_eq!(kind(client.head(&id).await), ErrorKind::NotFound);
    assert_eq!(
        kind(put(client, &id, data(1), Condition::Matches(second.etag)).await),
        ErrorKind::PreconditionFailed
    );
    client.delete(&id, None).await.expect("deleting nothing is fine");
    client.delete_bucket(&bucket).await.expect("empty");
}

pub async fn uploads_in_parts_and_copies_keep_bytes_and_conditions(client: &Client) {
    let bucket = bucket(client).await;
    let id = ObjectId::new(bucket.as_str(), "big");
    let body = data(12 << 20);
    let version = put(client, &id, body.clone(), Condition::Absent)
        .await
        .expect("created");
    let target = ObjectId::new(bucket.as_str(), "joined");
    let upload = client
        .create_upload(&target, &ObjectHeaders::default())
        .await
        .expect("begun");
    let six = ByteRange::new(0, 6 << 20);
    let copied = client
        .upload_part_copy(&target, &upload, 1, &id, &version.etag, six)
        .await
        .expect("copied");
    let tail = Segments::from(body.slice(6 << 20..));
    let sum = Crc32c::of_segments(&tail);
    let sent = client
        .upload_part(&target, &upload, 2, tail, sum)
        .await
        .expect("sent");
    let request = CompleteRequest {
        id: target.clone(),
        upload: upload.clone(),
        parts: vec![copied, sent],
        checksum: Some(Crc32c::of(&body)),
        size_bytes: body.len() as u64,
        condition: Condition::Absent,
    };
    let joined = client.complete_upload(&request).await.expect("completed");
    assert!(joined.etag.as_str().ends_with("-2"), "{joined:?}");
    assert!(read(client, &target, None, None).await.expect("read") == body);
    client
        .abort_upload(&target, &upload)
        .await
        .expect("gone already is fine");
    assert_eq!(
        kind(complete_small(client, &target, Condition::Absent).await),
        ErrorKind::PreconditionFailed
    );
    let other = Condition::Matches(ETag::new("other"));
    assert_eq!(
        kind(complete_small(client, &target, other).await),
        ErrorKind::PreconditionFailed
    );

    let copy = CopyRequest {
        from: target.clone(),
        from_etag: joined.etag.clone(),
        size_bytes: joined.size_bytes,
        to: ObjectId::new(bucket.as_str(), "copy of é+"),
        condition: Condition::Absent,
        headers: None,
    };
    client.copy(&copy).await.expect("copied");
    assert_eq!(kind(client.copy(&copy).await), ErrorKind::PreconditionFailed);
    let other = CopyRequest {
        from_etag: ETag::new("other"),
        condition: Condition::None,
        ..copy.clone()
    };
    assert_eq!(kind(client.copy(&other).await), ErrorKind::PreconditionFailed);
    assert!(read(client, &copy.to, None, None).await.expect("read") == body);
    let keys: Vec<String> = ["big", "joined", "copy of é+", "not there"]
        .map(str::to_owned)
        .to_vec();
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
    client.delete_bucket(&bucket).await.expect("empty");
    assert_eq!(kind(client.head_bucket(&bucket).await), ErrorKind::NotFound);
}

/// Uploads one byte in one part and completes it under `condition`.
async fn complete_small(client: &Client, id: &ObjectId, condition: Condition) -> Result<Version> {
    let upload = client.create_upload(id, &ObjectHeaders::default()).await?;
    let body = Segments::from(data(1));
    let checksum = Crc32c::of_segments(&body);
    let part = client.upload_part(id, &upload, 1, body, checksum).await?;
    let parts = vec![part];
    let (id, upload) = (id.clone(), upload.clone());
    let request = CompleteRequest {
        id,
        upload,
        parts,
        checksum: Some(checksum),
        size_bytes: 1,
        condition,
    };
    let completed = client.complete_upload(&request).await;
    client.abort_upload(&request.id, &request.upload).await?;
    completed
}

pub async fn probes_decide_every_feature_and_leave_nothing_behind(client: &Client) {
    let bucket = bucket(client).await;
    for feature in Feature::ALL {
        let support = client.support(feature, &bucket).await;
        assert!(
            support != Support::Unknown || feature == Feature::ListOrder,
            "{}",
            feature.name()
        );
    }
    let mut everything = list_request(&bucket, "");
    everything.by_directory = false;
    assert!(client.list(&everything).await.expect("a page").objects.is_empty());
    client.delete_bucket(&bucket).await.expect("empty");
}
