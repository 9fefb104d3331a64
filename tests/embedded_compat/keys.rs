//! Keys of every shape.

use crate::support::{BUCKET, Fixture, get, put, refused, refused_as, run};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

#[test]
fn objects_and_prefixes_of_one_name_live_side_by_side() {
    run(async {
        let s3 = Fixture::new().await;
        for (key, body) in [("a", "file"), ("a/b", "child"), ("a/", "marker with data")] {
            put(&s3, key, body).await;
        }
        assert_eq!(get(&s3, "a").await, "file");
        assert_eq!(get(&s3, "a/b").await, "child");
        assert_eq!(get(&s3, "a/").await, "marker with data");
    });
}

#[test]
fn markers_are_objects() {
    run(async {
        let s3 = Fixture::new().await;
        let put = s3
            .put_object()
            .bucket(BUCKET)
            .key("dir/")
            .metadata("mode", "16877");
        put.content_type("application/x-directory")
            .body(ByteStream::from_static(b""))
            .send()
            .await
            .unwrap();
        let head = s3.head_object().bucket(BUCKET).key("dir/").send().await.unwrap();
        assert_eq!(head.content_length(), Some(0));
        assert_eq!(head.metadata().unwrap()["mode"], "16877");
        assert_eq!(head.content_type(), Some("application/x-directory"));
        assert_eq!(get(&s3, "dir/").await, "");
        let page = s3
            .list_objects_v2()
            .bucket(BUCKET)
            .prefix("dir/")
            .send()
            .await
            .unwrap();
        assert_eq!(page.contents().len(), 1);
        assert_eq!(page.contents()[0].key(), Some("dir/"));
    });
}

#[test]
fn prefixes_are_not_objects() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "x/y", "1").await;
        for key in ["x", "x/"] {
            refused(s3.head_object().bucket(BUCKET).key(key).send().await, 404);
            refused(s3.get_object().bucket(BUCKET).key(key).send().await, 404);
        }
        s3.delete_object().bucket(BUCKET).key("x/y").send().await.unwrap();
        let page = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        assert!(page.contents().is_empty());
    });
}

#[test]
fn slashes_are_counted() {
    run(async {
        let s3 = Fixture::new().await;
        for key in ["q//r", "q/r", "/lead", "//", "/"] {
            put(&s3, key, key).await;
        }
        for key in ["q//r", "q/r", "/lead", "//", "/"] {
            assert_eq!(get(&s3, key).await, key);
        }
        let page = s3
            .list_objects_v2()
            .bucket(BUCKET)
            .prefix("q")
            .send()
            .await
            .unwrap();
        assert_eq!(
            page.contents()
                .iter()
                .filter_map(|object| object.key())
                .collect::<Vec<_>>(),
            ["q//r", "q/r"]
        );
    });
}

#[test]
fn any_character_is_a_key() {
    run(async {
        let s3 = Fixture::new().await;
        let mut keys: Vec<&str> = vec![
            "s p",
            "s+p",
            "s%20p",
            "s?x",
            "s#y",
            "s&z=1",
            "sü",
            "s日本",
            "s\\b",
            "s'\"<>",
            "s:*|",
            "s~^`",
            "s.",
            "s/../t",
            "s/./u",
            "s\u{1}control",
            "s\nline",
            "s\ttab",
            "s\u{7f}",
            "s\u{10ffff}",
            ".",
            "..",
            "../x",
        ];
        for key in &keys {
            put(&s3, key, *key).await;
        }
        for key in &keys {
            assert_eq!(get(&s3, key).await, key.as_bytes(), "{key:?}");
        }
        // Control characters cannot be written in XML: that is what the encoding is for.
        let page = s3
            .list_objects_v2()
            .bucket(BUCKET)
            .encoding_type(EncodingType::Url)
            .send()
            .await
            .unwrap();
        let decoded = page
            .contents()
            .iter()
            .filter_map(|object| object.key())
            .map(|key| {
                percent_decode_str(&key.replace('+', " "))
                    .decode_utf8()
                    .unwrap()
                    .into_owned()
            });
        keys.sort_unstable();
        assert_eq!(decoded.collect::<Vec<_>>(), keys);
    });
}

#[test]
fn keys_have_1024_bytes_at_most() {
    run(async {
        let s3 = Fixture::new().await;
        let longest = "ü".repeat(512);
        put(&s3, &longest, "1").await;
        assert_eq!(get(&s3, &longest).await, "1");
        let longer = format!("{longest}x");
        let put = s3
            .put_object()
            .bucket(BUCKET)
            .key(longer)
            .body(ByteStream::from_static(b"1"));
        refused_as(put.send().await, "KeyTooLongError");
    });
}
