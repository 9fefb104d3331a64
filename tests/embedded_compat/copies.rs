//! CopyObject.

use crate::support::{BUCKET, Fixture, get, put, refused_as, run};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::MetadataDirective;

#[test]
fn a_copy_keeps_metadata_and_type() {
    run(async {
        let s3 = Fixture::new().await;
        s3.create_bucket().bucket("other").send().await.unwrap();
        let body = ByteStream::from_static(b"copyme");
        let put = s3
            .put_object()
            .bucket(BUCKET)
            .key("src")
            .metadata("k", "v")
            .content_type("a/b")
            .tagging("t=1");
        put.body(body).send().await.unwrap();
        s3.copy_object()
            .bucket("other")
            .key("dst")
            .copy_source(format!("{BUCKET}/src"))
            .send()
            .await
            .unwrap();
        let answer = s3.get_object().bucket("other").key("dst").send().await.unwrap();
        assert_eq!(answer.metadata().unwrap()["k"], "v");
        assert_eq!(answer.content_type(), Some("a/b"));
        assert_eq!(answer.tag_count(), Some(1));
        assert_eq!(answer.body.collect().await.unwrap().into_bytes(), "copyme");

        // The copy does not need its source.
        s3.delete_object().bucket(BUCKET).key("src").send().await.unwrap();
        let answer = s3.get_object().bucket("other").key("dst").send().await.unwrap();
        assert_eq!(answer.body.collect().await.unwrap().into_bytes(), "copyme");
    });
}

#[test]
fn an_object_copied_onto_itself_gets_new_metadata() {
    run(async {
        let s3 = Fixture::new().await;
        let etag = put(&s3, "k", "body").await;
        let copy = || {
            s3.copy_object()
                .bucket(BUCKET)
                .key("k")
                .copy_source(format!("{BUCKET}/k"))
        };
        refused_as(copy().send().await, "InvalidRequest");
        let replace = copy()
            .metadata_directive(MetadataDirective::Replace)
            .metadata("k", "v2")
            .content_type("c/d");
        replace.if_match(&etag).send().await.unwrap();
        let head = s3.head_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!(head.metadata().unwrap()["k"], "v2");
        assert_eq!(head.content_type(), Some("c/d"));
        assert_eq!(head.e_tag(), Some(etag.as_str()));
        assert_eq!(get(&s3, "k").await, "body");
    });
}

#[test]
fn sources_are_url_encoded() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "sp ace+ü", "1").await;
        let source = format!("{BUCKET}/sp%20ace%2B%C3%BC");
        s3.copy_object()
            .bucket(BUCKET)
            .key("dst")
            .copy_source(source)
            .send()
            .await
            .unwrap();
        assert_eq!(get(&s3, "dst").await, "1");
    });
}

#[test]
fn a_missing_source_is_named() {
    run(async {
        let s3 = Fixture::new().await;
        let copy = s3
            .copy_object()
            .bucket(BUCKET)
            .key("dst")
            .copy_source(format!("{BUCKET}/missing"));
        refused_as(copy.send().await, "NoSuchKey");
    });
}
