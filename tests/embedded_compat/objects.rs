//! Buckets, whole objects, ranges, tags, signatures.

use crate::support::{BUCKET, Fixture, MIB, config, get, pattern, put, refused, refused_as, run};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectAttributes, ObjectIdentifier, Tag, Tagging};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioExecutor;
use std::collections::HashMap;
use std::time::Duration;

#[test]
fn buckets_are_created_listed_and_deleted_when_empty() {
    run(async {
        let s3 = Fixture::new().await;
        s3.create_bucket().bucket("second").send().await.unwrap();
        let names: Vec<_> = s3.list_buckets().send().await.unwrap().buckets().to_vec();
        assert_eq!(
            names
                .iter()
                .filter_map(|bucket| bucket.name())
                .collect::<Vec<_>>(),
            [BUCKET, "second"]
        );
        assert!(names.iter().all(|bucket| bucket.creation_date().is_some()));
        let head = s3.head_bucket().bucket(BUCKET).send().await.unwrap();
        assert_eq!(head.bucket_region(), Some("us-east-1"));
        assert!(s3.get_bucket_location().bucket(BUCKET).send().await.is_ok());
        refused(s3.create_bucket().bucket(BUCKET).send().await, 409);
        refused(s3.head_bucket().bucket("missing").send().await, 404);

        put(&s3, "k", "x").await;
        refused_as(s3.delete_bucket().bucket(BUCKET).send().await, "BucketNotEmpty");
        s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
        s3.delete_bucket().bucket(BUCKET).send().await.unwrap();
        refused(s3.head_bucket().bucket(BUCKET).send().await, 404);
    });
}

#[test]
fn a_wrong_secret_is_refused() {
    run(async {
        let s3 = Fixture::new().await;
        let credentials = Credentials::new("pailfs", "wrong", None, None, "test");
        let config = config(&s3.server.endpoint_url())
            .credentials_provider(credentials)
            .build();
        refused(Client::from_conf(config).list_buckets().send().await, 403);
    });
}

#[test]
fn what_is_missing_is_named() {
    run(async {
        let s3 = Fixture::new().await;
        refused_as(
            s3.get_object().bucket("missing").key("k").send().await,
            "NoSuchBucket",
        );
        refused_as(s3.get_object().bucket(BUCKET).key("k").send().await, "NoSuchKey");
        refused(s3.head_object().bucket(BUCKET).key("k").send().await, 404);
    });
}

#[test]
fn an_object_keeps_its_headers_and_metadata() {
    run(async {
        let s3 = Fixture::new().await;
        s3.put_object()
            .bucket(BUCKET)
            .key("m")
            .body(ByteStream::from_static(b"hello world"))
            .metadata("mode", "33188")
            .metadata("x-y", "a b=c")
            .content_type("text/x-rust")
            .content_encoding("gzip")
            .cache_control("no-cache")
            .content_disposition("inline")
            .content_language("fi")
            .send()
            .await
            .unwrap();
        let head = s3.head_object().bucket(BUCKET).key("m").send().await.unwrap();
        let metadata = head.metadata().unwrap();
        assert_eq!(metadata["mode"], "33188");
        assert_eq!(metadata["x-y"], "a b=c");
        assert_eq!(head.content_type(), Some("text/x-rust"));
        assert_eq!(head.content_encoding(), Some("gzip"));
        assert_eq!(head.cache_control(), Some("no-cache"));
        assert_eq!(head.content_disposition(), Some("inline"));
        assert_eq!(head.content_language(), Some("fi"));
        assert_eq!(head.content_length(), Some(11));
        assert_eq!(head.e_tag(), Some("\"5eb63bbbe01eeed093cb22bb8f5acdc3\""));
        assert_eq!(get(&s3, "m").await, "hello world");
    });
}

#[test]
fn user_metadata_over_two_kibibytes_is_refused() {
    run(async {
        let s3 = Fixture::new().await;
        let put = |len| {
            s3.put_object()
                .bucket(BUCKET)
                .key("k")
                .metadata("ab", "x".repeat(len))
                .send()
        };
        put(2046).await.unwrap();
        refused_as(put(2047).await, "MetadataTooLarge");
    });
}

#[test]
fn a_new_object_has_nothing_of_the_old() {
    run(async {
        let s3 = Fixture::new().await;
        for delete_first in [false, true] {
            s3.put_object()
                .bucket(BUCKET)
                .key("k")
                .metadata("a", "b")
                .tagging("t=1")
                .send()
                .await
                .unwrap();
            if delete_first {
                s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
                refused(s3.head_object().bucket(BUCKET).key("k").send().await, 404);
            }
            put(&s3, "k", "2").await;
            let head = s3.head_object().bucket(BUCKET).key("k").send().await.unwrap();
            assert!(
                head.metadata().is_none_or(HashMap::is_empty),
                "{:?}",
                head.metadata()
            );
            let tags = s3
                .get_object_tagging()
                .bucket(BUCKET)
                .key("k")
                .send()
                .await
                .unwrap();
            assert!(tags.tag_set().is_empty());
        }
    });
}

#[test]
fn ranges() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "r", "0123456789").await;
        let ranges = [
            ("bytes=0-3", "0123", "bytes 0-3/10"),
            ("bytes=-3", "789", "bytes 7-9/10"),
            ("bytes=7-", "789", "bytes 7-9/10"),
            ("bytes=8-100", "89", "bytes 8-9/10"),
        ];
        for (range, body, content_range) in ranges {
            let answer = s3
                .get_object()
                .bucket(BUCKET)
                .key("r")
                .range(range)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.content_range(), Some(content_range));
            assert_eq!(answer.body.collect().await.unwrap().into_bytes(), body);
        }
        refused(
            s3.get_object()
                .bucket(BUCKET)
                .key("r")
                .range("bytes=10-12")
                .send()
                .await,
            416,
        );
        put(&s3, "empty", "").await;
        refused(
            s3.get_object()
                .bucket(BUCKET)
                .key("empty")
                .range("bytes=0-")
                .send()
                .await,
            416,
        );
    });
}

#[test]
fn large_bodies_come_back_whole_and_in_pieces() {
    run(async {
        let s3 = Fixture::new().await;
        let data = pattern(5 * MIB + 12_345, 1);
        put(&s3, "large", data.to_vec()).await;
        assert_eq!(get(&s3, "large").await, data);
        for (first, last) in [
            (0, 0),
            (524_287, 524_288),
            (1_000_000, 4_000_000),
            (5 * MIB, 5 * MIB + 12_344),
        ] {
            let range = format!("bytes={first}-{last}");
            let answer = s3
                .get_object()
                .bucket(BUCKET)
                .key("large")
                .range(range)
                .send()
                .await
                .unwrap();
            assert_eq!(
                answer.body.collect().await.unwrap().into_bytes(),
                data.slice(first..=last)
            );
        }
    });
}

#[test]
fn a_replaced_object_stays_readable_for_who_has_it_open() {
    run(async {
        let s3 = Fixture::new().await;
        let old = pattern(8 * MIB, 2);
        put(&s3, "k", old.to_vec()).await;
        let open = s3.get_object().bucket(BUCKET).key("k").send().await.unwrap();
        put(&s3, "k", "new").await;
        s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!(open.body.collect().await.unwrap().into_bytes(), old);
    });
}

#[test]
fn every_answer_has_a_date() {
    run(async {
        let s3 = Fixture::new().await;
        let error = s3
            .head_object()
            .bucket(BUCKET)
            .key("missing")
            .send()
            .await
            .unwrap_err();
        assert!(error.raw_response().unwrap().headers().get("date").is_some());
    });
}

#[test]
fn many_objects_are_deleted_at_once() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "d1", "1").await;
        put(&s3, "d2", "1").await;
        let keys = ["d1", "d2", "missing"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
        let delete = Delete::builder()
            .set_objects(Some(keys.to_vec()))
            .build()
            .unwrap();
        let answer = s3
            .delete_objects()
            .bucket(BUCKET)
            .delete(delete)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.deleted().len(), 3);
        assert!(answer.errors().is_empty());
        refused(s3.head_object().bucket(BUCKET).key("d1").send().await, 404);
    });
}

#[test]
fn tags_come_with_the_object_and_are_replaced_alone() {
    run(async {
        let s3 = Fixture::new().await;
        let etag = s3
            .put_object()
            .bucket(BUCKET)
            .key("t")
            .tagging("a=1&b=x%20y")
            .send()
            .await
            .unwrap()
            .e_tag;
        let tags = s3
            .get_object_tagging()
            .bucket(BUCKET)
            .key("t")
            .send()
            .await
            .unwrap();
        let pairs: Vec<_> = tags
            .tag_set()
            .iter()
            .map(|tag| (tag.key(), tag.value()))
            .collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y")]);
        let tag = Tag::builder().key("z").value("9").build().unwrap();
        let tagging = Tagging::builder().tag_set(tag).build().unwrap();
        s3.put_object_tagging()
            .bucket(BUCKET)
            .key("t")
            .tagging(tagging)
            .send()
            .await
            .unwrap();
        let tags = s3
            .get_object_tagging()
            .bucket(BUCKET)
            .key("t")
            .send()
            .await
            .unwrap();
        assert_eq!(tags.tag_set().iter().map(Tag::key).collect::<Vec<_>>(), ["z"]);
        assert_eq!(
            s3.head_object()
                .bucket(BUCKET)
                .key("t")
                .send()
                .await
                .unwrap()
                .e_tag,
            etag
        );
        s3.delete_object_tagging()
            .bucket(BUCKET)
            .key("t")
            .send()
            .await
            .unwrap();
        assert!(
            s3.get_object_tagging()
                .bucket(BUCKET)
                .key("t")
                .send()
                .await
                .unwrap()
                .tag_set()
                .is_empty()
        );
    });
}

#[test]
fn attributes_of_an_object() {
    run(async {
        let s3 = Fixture::new().await;
        let etag = put(&s3, "k", "12345").await;
        let wanted = [
            ObjectAttributes::ObjectSize,
            ObjectAttributes::Etag,
            ObjectAttributes::StorageClass,
        ];
        let request = s3.get_object_attributes().bucket(BUCKET).key("k");
        let answer = request
            .set_object_attributes(Some(wanted.to_vec()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.object_size(), Some(5));
        assert_eq!(
            answer.e_tag().map(|value| value.trim_matches('"')),
            Some(etag.trim_matches('"'))
        );
        assert!(answer.storage_class().is_some());
        assert!(answer.checksum().is_none());
    });
}

async fn send_presigned(request: &PresignedRequest, body: &'static str) -> (u16, Bytes) {
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let mut builder = http::Request::builder()
        .method(request.method())
        .uri(request.uri());
    for (name, value) in request.headers() {
        builder = builder.header(name, value);
    }
    let answer = client
        .request(
            builder
                .body(Full::new(Bytes::from_static(body.as_bytes())))
                .unwrap(),
        )
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.into_body().collect().await.unwrap().to_bytes())
}

#[test]
fn presigned_requests_work() {
    run(async {
        let s3 = Fixture::new().await;
        let presigning = PresigningConfig::expires_in(Duration::from_mins(5)).unwrap();
        let request = s3
            .put_object()
            .bucket(BUCKET)
            .key("pre")
            .presigned(presigning.clone())
            .await
            .unwrap();
        assert_eq!(send_presigned(&request, "presigned!").await.0, 200);
        let request = s3
            .get_object()
            .bucket(BUCKET)
            .key("pre")
            .presigned(presigning)
            .await
            .unwrap();
        assert_eq!(
            send_presigned(&request, "").await,
            (200, Bytes::from_static(b"presigned!"))
        );
    });
}
