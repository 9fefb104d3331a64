//! Conditional requests: that they hold one by one, and that they hold under races.

use crate::support::{BUCKET, Fixture, MIB, NO_ETAG, get, put, refused, run};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use s3s::crypto::{Checksum, Md5};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn gets_and_heads() {
    run(async {
        let s3 = Fixture::new().await;
        let etag = put(&s3, "c", "vvvv").await;
        let get = || s3.get_object().bucket(BUCKET).key("c");
        let head = || s3.head_object().bucket(BUCKET).key("c");
        get().if_match(&etag).send().await.unwrap();
        refused(get().if_match(NO_ETAG).send().await, 412);
        refused(get().if_match(NO_ETAG).range("bytes=0-1").send().await, 412);
        refused(get().if_none_match(&etag).send().await, 304);
        get().if_none_match(NO_ETAG).send().await.unwrap();
        refused(head().if_match(NO_ETAG).send().await, 412);
        refused(head().if_none_match(&etag).send().await, 304);
    });
}

#[test]
fn puts() {
    run(async {
        let s3 = Fixture::new().await;
        let put = |body: &'static str| {
            s3.put_object()
                .bucket(BUCKET)
                .key("k")
                .body(ByteStream::from_static(body.as_bytes()))
        };
        refused(put("0").if_match(NO_ETAG).send().await, 404);
        let first = put("1").if_none_match("*").send().await.unwrap().e_tag.unwrap();
        refused(put("2").if_none_match("*").send().await, 412);
        assert_eq!(get(&s3, "k").await, "1");
        refused(put("3").if_match(NO_ETAG).send().await, 412);
        put("4").if_match(&first).send().await.unwrap();
        refused(put("5").if_match(&first).send().await, 412);
        assert_eq!(get(&s3, "k").await, "4");
    });
}

#[test]
fn an_early_refusal_of_a_large_body_reaches_the_client() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "k", "1").await;
        for _ in 0..10 {
            let body = ByteStream::from(vec![7; 16 * MIB]);
            refused(
                s3.put_object()
                    .bucket(BUCKET)
                    .key("k")
                    .if_none_match("*")
                    .body(body)
                    .send()
                    .await,
                412,
            );
        }
    });
}

#[test]
fn deletes() {
    run(async {
        let s3 = Fixture::new().await;
        let etag = put(&s3, "k", "1").await;
        refused(
            s3.delete_object()
                .bucket(BUCKET)
                .key("k")
                .if_match(NO_ETAG)
                .send()
                .await,
            412,
        );
        s3.delete_object()
            .bucket(BUCKET)
            .key("k")
            .if_match(&etag)
            .send()
            .await
            .unwrap();
        refused(s3.head_object().bucket(BUCKET).key("k").send().await, 404);

        let etag = put(&s3, "k", "1").await;
        let wrong = ObjectIdentifier::builder()
            .key("k")
            .e_tag(NO_ETAG)
            .build()
            .unwrap();
        let delete = Delete::builder().objects(wrong).build().unwrap();
        let answer = s3
            .delete_objects()
            .bucket(BUCKET)
            .delete(delete)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.errors()[0].code(), Some("PreconditionFailed"));
        let right = ObjectIdentifier::builder().key("k").e_tag(etag).build().unwrap();
        let delete = Delete::builder().objects(right).build().unwrap();
        let answer = s3
            .delete_objects()
            .bucket(BUCKET)
            .delete(delete)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.deleted().len(), 1);
    });
}

#[test]
fn copies_check_both_ends() {
    run(async {
        let s3 = Fixture::new().await;
        let source = put(&s3, "src", "1").await;
        let copy = || {
            s3.copy_object()
                .bucket(BUCKET)
                .key("dst")
                .copy_source(format!("{BUCKET}/src"))
        };
        refused(copy().copy_source_if_match(NO_ETAG).send().await, 412);
        refused(copy().copy_source_if_none_match(&source).send().await, 412);
        copy()
            .copy_source_if_match(&source)
            .if_none_match("*")
            .send()
            .await
            .unwrap();
        refused(copy().if_none_match("*").send().await, 412);
        refused(copy().if_match(NO_ETAG).send().await, 412);
        copy().if_match(&source).send().await.unwrap();
    });
}

#[test]
fn of_racing_creators_one_wins() {
    run(async {
        let s3 = Fixture::new().await;
        for round in 0..20 {
            let racers = (0..16u8).map(|racer| {
                let body = ByteStream::from(vec![racer; 60_000]);
                let key = format!("race-{round}");
                s3.put_object()
                    .bucket(BUCKET)
                    .key(key)
                    .if_none_match("*")
                    .body(body)
                    .send()
            });
            let answers = futures_util::future::join_all(racers).await;
            assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        }
    });
}

#[test]
fn no_increment_is_lost() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "counter", "0").await;
        let workers = (0..8).map(|_| async {
            let mut done = 0;
            while done < 25 {
                let current = s3
                    .get_object()
                    .bucket(BUCKET)
                    .key("counter")
                    .send()
                    .await
                    .unwrap();
                let etag = current.e_tag.unwrap();
                let text = current.body.collect().await.unwrap().into_bytes();
                let number: u64 = std::str::from_utf8(&text).unwrap().parse().unwrap();
                let body = ByteStream::from((number + 1).to_string().into_bytes());
                let put = s3
                    .put_object()
                    .bucket(BUCKET)
                    .key("counter")
                    .if_match(etag)
                    .body(body);
                done += u32::from(put.send().await.is_ok());
            }
        });
        futures_util::future::join_all(workers).await;
        assert_eq!(get(&s3, "counter").await, "200");
    });
}

#[test]
fn a_body_is_always_that_of_its_etag() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "k", vec![b'0'; 300_000]).await;
        let is_done = Arc::new(AtomicBool::new(false));
        let writer = {
            let (client, is_done) = (s3.client.clone(), Arc::clone(&is_done));
            tokio::spawn(async move {
                for round in 0..60usize {
                    put(
                        &client,
                        "k",
                        vec![b'0' + (round % 10) as u8; 300_000 + round * 1000],
                    )
                    .await;
                }
                is_done.store(true, Ordering::SeqCst);
            })
        };
        while !is_done.load(Ordering::SeqCst) {
            let answer = s3.get_object().bucket(BUCKET).key("k").send().await.unwrap();
            let etag = answer.e_tag.unwrap();
            let body = answer.body.collect().await.unwrap().into_bytes();
            let mut md5 = Md5::new();
            md5.update(&body);
            let hex = md5.finalize().iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            assert_eq!(etag.trim_matches('"'), hex);
        }
        writer.await.unwrap();
    });
}
