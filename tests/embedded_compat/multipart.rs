//! Multipart uploads.

use crate::support::{BUCKET, Fixture, MIB, get, pattern, put, refused, refused_as, run};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Part};
use bytes::Bytes;

const PART_BYTES: usize = 5 * MIB;

async fn create(s3: &Client, key: &str) -> String {
    s3.create_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .send()
        .await
        .unwrap()
        .upload_id
        .unwrap()
}

async fn upload(s3: &Client, key: &str, id: &str, number: i32, data: Bytes) -> CompletedPart {
    let request = s3
        .upload_part()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id)
        .part_number(number);
    let answer = request.body(ByteStream::from(data)).send().await.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .set_e_tag(answer.e_tag)
        .build()
}

fn list(parts: Vec<CompletedPart>) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder().set_parts(Some(parts)).build()
}

macro_rules! complete {
    ($s3:expr, $key:expr, $id:expr, $parts:expr) => {
        $s3.complete_multipart_upload()
            .bucket(BUCKET)
            .key($key)
            .upload_id($id)
            .multipart_upload(list($parts))
    };
}

#[test]
fn two_parts_become_one_object() {
    run(async {
        let s3 = Fixture::new().await;
        let create = s3
            .create_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .metadata("a", "b")
            .content_type("x/y");
        let id = create.send().await.unwrap().upload_id.unwrap();
        let data = pattern(PART_BYTES, 3);
        let parts = vec![
            upload(&s3, "k", &id, 1, data.clone()).await,
            upload(&s3, "k", &id, 2, "tail".into()).await,
        ];
        let listed = s3
            .list_parts()
            .bucket(BUCKET)
            .key("k")
            .upload_id(&id)
            .send()
            .await
            .unwrap();
        let numbers: Vec<_> = listed
            .parts()
            .iter()
            .map(|part| (part.part_number(), part.size()))
            .collect();
        assert_eq!(numbers, [(Some(1), Some(PART_BYTES as i64)), (Some(2), Some(4))]);
        let uploads = s3.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
        assert_eq!(uploads.uploads()[0].upload_id(), Some(id.as_str()));
        refused(s3.head_object().bucket(BUCKET).key("k").send().await, 404);

        let completed = complete!(s3, "k", &id, parts).send().await.unwrap();
        assert!(
            completed.e_tag().unwrap().ends_with("-2\""),
            "{:?}",
            completed.e_tag()
        );
        let head = s3.head_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!(head.content_length(), Some(PART_BYTES as i64 + 4));
        assert_eq!(head.metadata().unwrap()["a"], "b");
        assert_eq!(head.content_type(), Some("x/y"));
        assert_eq!(head.e_tag(), completed.e_tag());
        assert_eq!(get(&s3, "k").await, [&data[..], b"tail"].concat());
        let uploads = s3.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
        assert!(uploads.uploads().is_empty());

        let second = s3
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .part_number(2)
            .send()
            .await
            .unwrap();
        assert_eq!(second.parts_count(), Some(2));
        assert_eq!(second.body.collect().await.unwrap().into_bytes(), "tail");
    });
}

#[test]
fn part_numbers_may_have_gaps_and_parts_be_replaced() {
    run(async {
        let s3 = Fixture::new().await;
        let id = create(&s3, "k").await;
        upload(&s3, "k", &id, 3, "wrong".into()).await;
        let first = upload(&s3, "k", &id, 1, pattern(PART_BYTES, 4)).await;
        let third = upload(&s3, "k", &id, 3, "right".into()).await;
        complete!(s3, "k", &id, vec![first, third]).send().await.unwrap();
        assert_eq!(
            get(&s3, "k").await,
            [&pattern(PART_BYTES, 4)[..], b"right"].concat()
        );
    });
}

#[test]
fn wrong_lists_of_parts_are_refused() {
    run(async {
        let s3 = Fixture::new().await;
        let id = create(&s3, "k").await;
        let first = upload(&s3, "k", &id, 1, "small".into()).await;
        let second = upload(&s3, "k", &id, 2, "small too".into()).await;
        let other = CompletedPart::builder()
            .part_number(1)
            .e_tag(crate::support::NO_ETAG)
            .build();
        let missing = CompletedPart::builder()
            .part_number(7)
            .e_tag(crate::support::NO_ETAG)
            .build();
        refused_as(complete!(s3, "k", &id, vec![other]).send().await, "InvalidPart");
        refused_as(complete!(s3, "k", &id, vec![missing]).send().await, "InvalidPart");
        refused_as(
            complete!(s3, "k", &id, vec![second.clone(), first.clone()])
                .send()
                .await,
            "InvalidPartOrder",
        );
        refused_as(
            complete!(s3, "k", &id, vec![first.clone(), second]).send().await,
            "EntityTooSmall",
        );
        // The upload is still there, and right.
        complete!(s3, "k", &id, vec![first]).send().await.unwrap();
        refused_as(complete!(s3, "k", &id, vec![]).send().await, "NoSuchUpload");
    });
}

#[test]
fn completion_is_conditional() {
    run(async {
        let s3 = Fixture::new().await;
        let etag = put(&s3, "k", "1").await;
        let id = create(&s3, "k").await;
        let part = upload(&s3, "k", &id, 1, "x".into()).await;
        refused(
            complete!(s3, "k", &id, vec![part.clone()])
                .if_none_match("*")
                .send()
                .await,
            412,
        );
        refused(
            complete!(s3, "k", &id, vec![part.clone()])
                .if_match(crate::support::NO_ETAG)
                .send()
                .await,
            412,
        );
        complete!(s3, "k", &id, vec![part])
            .if_match(etag)
            .send()
            .await
            .unwrap();
        assert_eq!(get(&s3, "k").await, "x");
    });
}

#[test]
fn an_aborted_upload_is_gone() {
    run(async {
        let s3 = Fixture::new().await;
        let id = create(&s3, "k").await;
        upload(&s3, "k", &id, 1, "x".into()).await;
        s3.abort_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .upload_id(&id)
            .send()
            .await
            .unwrap();
        let again = s3
            .upload_part()
            .bucket(BUCKET)
            .key("k")
            .upload_id(&id)
            .part_number(1);
        refused_as(
            again.body(ByteStream::from_static(b"x")).send().await,
            "NoSuchUpload",
        );
        let blobs = std::fs::read_dir(s3.dir.path().join("blobs")).unwrap().count();
        assert_eq!(blobs, 0, "data of an aborted upload stayed on the disk");
    });
}

#[test]
fn ranges_of_objects_become_parts() {
    run(async {
        let s3 = Fixture::new().await;
        let data = pattern(PART_BYTES + 4, 5);
        put(&s3, "src", data.to_vec()).await;
        let id = create(&s3, "dst").await;
        let copy = |number, range: &str| {
            let request = s3
                .upload_part_copy()
                .bucket(BUCKET)
                .key("dst")
                .upload_id(&id)
                .part_number(number);
            request
                .copy_source(format!("{BUCKET}/src"))
                .copy_source_range(range)
                .send()
        };
        let mut parts = Vec::new();
        for (number, range) in [(1, "bytes=0-5242879"), (2, "bytes=5242880-5242883")] {
            let etag = copy(number, range).await.unwrap().copy_part_result.unwrap().e_tag;
            parts.push(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(etag)
                    .build(),
            );
        }
        refused(copy(3, "bytes=0-5242884").await, 416);
        refused_as(copy(3, "bytes=7-6").await, "InvalidArgument");
        complete!(s3, "dst", &id, parts).send().await.unwrap();
        s3.delete_object().bucket(BUCKET).key("src").send().await.unwrap();
        assert_eq!(get(&s3, "dst").await, data);
    });
}

#[test]
fn a_plain_copy_of_a_multipart_object_has_a_plain_etag() {
    run(async {
        let s3 = Fixture::new().await;
        let id = create(&s3, "src").await;
        let part = upload(&s3, "src", &id, 1, "hello world".into()).await;
        let etag = complete!(s3, "src", &id, vec![part])
            .send()
            .await
            .unwrap()
            .e_tag
            .unwrap();
        assert!(etag.ends_with("-1\""), "{etag}");
        let copy = s3
            .copy_object()
            .bucket(BUCKET)
            .key("dst")
            .copy_source(format!("{BUCKET}/src"));
        let result = copy.send().await.unwrap().copy_object_result.unwrap();
        assert_eq!(result.e_tag(), Some("\"5eb63bbbe01eeed093cb22bb8f5acdc3\""));
    });
}

#[test]
fn an_empty_part_makes_an_empty_object() {
    run(async {
        let s3 = Fixture::new().await;
        let id = create(&s3, "k").await;
        let part = upload(&s3, "k", &id, 1, Bytes::new()).await;
        let etag = complete!(s3, "k", &id, vec![part])
            .send()
            .await
            .unwrap()
            .e_tag
            .unwrap();
        assert!(etag.ends_with("-1\""), "{etag}");
        assert_eq!(get(&s3, "k").await, "");
    });
}

#[test]
fn parts_are_listed_in_pages() {
    run(async {
        let s3 = Fixture::new().await;
        let id = create(&s3, "k").await;
        for number in [1, 2, 5, 9] {
            upload(&s3, "k", &id, number, "x".into()).await;
        }
        let (mut numbers, mut marker) = (Vec::new(), None::<String>);
        loop {
            let request = s3
                .list_parts()
                .bucket(BUCKET)
                .key("k")
                .upload_id(&id)
                .max_parts(3);
            let page = request.set_part_number_marker(marker).send().await.unwrap();
            numbers.extend(page.parts().iter().filter_map(Part::part_number));
            if page.is_truncated() != Some(true) {
                break;
            }
            marker = page.next_part_number_marker;
        }
        assert_eq!(numbers, [1, 2, 5, 9]);
    });
}

#[test]
fn uploads_are_listed_in_pages() {
    run(async {
        let s3 = Fixture::new().await;
        for key in ["a", "d/1", "d/2", "z", "z"] {
            create(&s3, key).await;
        }
        let (mut keys, mut key_marker, mut id_marker) = (Vec::new(), None::<String>, None::<String>);
        loop {
            let request = s3.list_multipart_uploads().bucket(BUCKET).max_uploads(2);
            let request = request.set_key_marker(key_marker).set_upload_id_marker(id_marker);
            let page = request.send().await.unwrap();
            keys.extend(
                page.uploads()
                    .iter()
                    .filter_map(|upload| upload.key().map(str::to_owned)),
            );
            if page.is_truncated() != Some(true) {
                break;
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
        assert_eq!(keys, ["a", "d/1", "d/2", "z", "z"]);
        let grouped = s3
            .list_multipart_uploads()
            .bucket(BUCKET)
            .delimiter("/")
            .send()
            .await
            .unwrap();
        assert_eq!(grouped.common_prefixes()[0].prefix(), Some("d/"));
        assert_eq!(grouped.uploads().len(), 3);
    });
}
