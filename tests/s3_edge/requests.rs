//! What a user's options put on requests: seen as a store sees them.

use crate::peer::{Peer, Step, answer, header};
use crate::{client_with, id, object, ok_put, options, put, put_request, read};
use bytes::Bytes;
use pailfs::base::checksum::Crc32c;
use pailfs::base::error::ErrorKind;
use pailfs::base::object::{ByteRange, Condition, ETag, Encryption, ObjectHeaders, ObjectId};
use pailfs::base::requests::{CustomerKey, RequestOptions, WriteEncryption};
use pailfs::base::segments::Segments;
use pailfs::s3::types::{CompleteRequest, CopyRequest, ListRequest, UploadId};
use pailfs::s3::{Client, ClientOptions, LinkMethod};
use std::sync::Arc;
use std::time::Duration;

const SSE: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const KEY: &str = "x-amz-server-side-encryption-customer-key";
const KEY_MD5: &str = "x-amz-server-side-encryption-customer-key-md5";
const SOURCE_KEY: &str = "x-amz-copy-source-server-side-encryption-customer-key";
const OWNER: &str = "x-amz-expected-bucket-owner";
const SOURCE_OWNER: &str = "x-amz-source-expected-bucket-owner";
const CLASS: &str = "x-amz-storage-class";
const ACL: &str = "x-amz-acl";

pub fn with_requests(requests: RequestOptions) -> ClientOptions {
    ClientOptions {
        requests,
        // Keys go over plain HTTP on this machine only.
        endpoint_url: Some("http://127.0.0.1".into()),
        ..options()
    }
}

fn customer_key() -> CustomerKey {
    CustomerKey::from_file(&[7; 32]).expect("a key")
}

fn xml(body: &str) -> Step {
    Step::Answer(answer("200 OK", "content-type: application/xml\r\n", body))
}

/// Headers as an object has them that was stored otherwise.
fn other_headers() -> ObjectHeaders {
    ObjectHeaders {
        storage_class: Some("ONEZONE_IA".into()),
        encryption: Some(Encryption {
            algorithm: "aws:kms".into(),
            kms_key_id: Some("old".into()),
            bucket_key: Some(true),
        }),
        ..ObjectHeaders::default()
    }
}

/// One request of each kind, by name, as the store saw them.
async fn all_requests(requests: RequestOptions) -> Vec<(&'static str, String)> {
    let peer = Peer::new([
        Step::Answer(ok_put()),
        xml("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"),
        Step::Answer(ok_put()),
        xml("<CopyPartResult><ETag>e</ETag></CopyPartResult>"),
        xml("<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"),
        xml("<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"),
        Step::Answer(object("x")),
        Step::Answer(object("")),
        Step::Answer(answer("204 No Content", "", "")),
        xml("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"),
        xml("<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>"),
    ]);
    let client = client_with(&peer, with_requests(requests)).await;
    let mut request = put_request(Condition::None);
    request.headers = other_headers();
    client.put(&request).await.expect("put");
    multipart(&client).await;
    let copy = CopyRequest {
        from: id(),
        from_etag: ETag::new("e"),
        size_bytes: 1,
        to: ObjectId::new("bucket", "copy"),
        condition: Condition::None,
        headers: Some(other_headers()),
    };
    client.copy(&copy).await.expect("copied");
    read(&client, None).await.expect("read");
    client.head(&id()).await.expect("there");
    client.delete(&id(), None).await.expect("deleted");
    let list = ListRequest {
        bucket: "bucket".into(),
        prefix: String::new(),
        by_directory: false,
        start_after: None,
        continuation: None,
        max_keys: 1,
    };
    client.list(&list).await.expect("listed");
    client.list_buckets().await.expect("listed");
    let names = [
        "put",
        "create",
        "part",
        "part copy",
        "complete",
        "copy",
        "get",
        "head",
        "delete",
        "list",
        "buckets",
    ];
    names.into_iter().zip(peer.seen()).collect()
}

async fn multipart(client: &Client) {
    let upload = client
        .create_upload(&id(), &other_headers())
        .await
        .expect("begun");
    let body = Segments::from(Bytes::from_static(b"x"));
    let checksum = Crc32c::of_segments(&body);
    let part = client
        .upload_part(&id(), &upload, 1, body, checksum)
        .await
        .expect("a part");
    let (etag, range) = (ETag::new("e"), ByteRange::new(0, 1));
    client
        .upload_part_copy(&id(), &upload, 2, &id(), &etag, range)
        .await
        .expect("a part");
    let request = CompleteRequest {
        id: id(),
        upload: UploadId("u".into()),
        parts: vec![part],
        checksum: None,
        size_bytes: 1,
        condition: Condition::None,
    };
    client.complete_upload(&request).await.expect("completed");
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_stored_as_the_options_say() {
    let requests = RequestOptions {
        expected_bucket_owner: Some("123456789012".into()),
        encryption: Some(WriteEncryption::Store {
            algorithm: "aws:kms:dsse".into(),
            kms_key_id: None,
        }),
        storage_class: Some("STANDARD_IA".into()),
        acl: Some("bucket-owner-full-control".into()),
        ..RequestOptions::default()
    };
    for (name, head) in all_requests(requests).await {
        let is = |header_name, value| {
            assert_eq!(header(&head, header_name), value, "{name}: {header_name}\n{head}")
        };
        let writes = matches!(name, "put" | "create" | "copy");
        is(SSE, writes.then_some("aws:kms:dsse"));
        // What the object had goes: the key of another kind of encryption above all.
        is(KMS_KEY, None);
        is("x-amz-server-side-encryption-bucket-key-enabled", None);
        is(CLASS, writes.then_some("STANDARD_IA"));
        is(ACL, writes.then_some("bucket-owner-full-control"));
        is(OWNER, (name != "buckets").then_some("123456789012"));
        let copies = matches!(name, "copy" | "part copy");
        is(SOURCE_OWNER, copies.then_some("123456789012"));
        is(KEY, None);
        is("x-amz-request-payer", None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_users_own_is_in_every_request_that_needs_it() {
    let requests = RequestOptions {
        encryption: Some(WriteEncryption::Customer(customer_key())),
        ..RequestOptions::default()
    };
    let key = customer_key();
    for (name, head) in all_requests(requests).await {
        let is = |header_name, value| {
            assert_eq!(header(&head, header_name), value, "{name}: {header_name}\n{head}")
        };
        let needs = !matches!(name, "delete" | "list" | "buckets");
        is(KEY, needs.then_some(key.base64()));
        is(KEY_MD5, needs.then_some(key.md5_base64()));
        is(
            SOURCE_KEY,
            matches!(name, "copy" | "part copy").then_some(key.base64()),
        );
        is(SSE, None);
        is(KMS_KEY, None);
        is(
            CLASS,
            matches!(name, "put" | "create" | "copy").then_some("ONEZONE_IA"),
        );
        let signed = header(&head, "authorization").expect("signed");
        assert_eq!(signed.contains(KEY), needs, "{name}: {signed}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_options_an_object_keeps_what_it_had() {
    for (name, head) in all_requests(RequestOptions::default()).await {
        let writes = matches!(name, "put" | "create" | "copy");
        assert_eq!(header(&head, SSE), writes.then_some("aws:kms"), "{name}");
        assert_eq!(header(&head, KMS_KEY), writes.then_some("old"), "{name}");
        assert_eq!(header(&head, CLASS), writes.then_some("ONEZONE_IA"), "{name}");
        for absent in [OWNER, SOURCE_OWNER, ACL, KEY, SOURCE_KEY] {
            assert_eq!(header(&head, absent), None, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_users_own_is_kept_from_who_should_not_see_it() {
    let requests = RequestOptions {
        encryption: Some(WriteEncryption::Customer(customer_key())),
        ..RequestOptions::default()
    };
    let peer = Peer::new([]);
    let plain = ClientOptions {
        endpoint_url: Some("http://s3.test".into()),
        ..with_requests(requests.clone())
    };
    let refused = Client::with_dialer(plain, Arc::default(), peer.dialer()).await;
    let error = refused.map(drop).expect_err("over plain HTTP");
    assert!(error.message().contains("https"), "{error}");

    let client = client_with(&peer, with_requests(requests)).await;
    let link = client
        .signed_link(LinkMethod::Get, &id(), Duration::from_mins(1))
        .await;
    assert_eq!(
        link.expect_err("useless without the key").kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test(start_paused = true)]
async fn who_pays_is_in_every_request_and_signed() {
    for requester_pays in [true, false] {
        let peer = Peer::new([Step::Answer(object("x")), Step::Answer(ok_put())]);
        let options = with_requests(RequestOptions {
            requester_pays,
            ..RequestOptions::default()
        });
        let client = client_with(&peer, options).await;
        read(&client, None).await.expect("read");
        put(&client, Condition::Absent).await.expect("written");
        for head in peer.seen() {
            let expected = requester_pays.then_some("requester");
            assert_eq!(header(&head, "x-amz-request-payer"), expected);
            let signed = header(&head, "authorization").expect("signed");
            assert_eq!(signed.contains("x-amz-request-payer"), requester_pays, "{signed}");
        }
    }
}
