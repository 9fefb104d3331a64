//! Versioned buckets.

use crate::support::{BUCKET, Fixture, get, put, refused, refused_as, run};
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};

async fn set(s3: &Client, status: BucketVersioningStatus) {
    let configuration = VersioningConfiguration::builder().status(status).build();
    let request = s3
        .put_bucket_versioning()
        .bucket(BUCKET)
        .versioning_configuration(configuration);
    request.send().await.unwrap();
}

async fn version_of_put(s3: &Client, key: &str, body: &'static str) -> Option<String> {
    let body = aws_sdk_s3::primitives::ByteStream::from_static(body.as_bytes());
    s3.put_object()
        .bucket(BUCKET)
        .key(key)
        .body(body)
        .send()
        .await
        .unwrap()
        .version_id
}

#[test]
fn versions_stay_behind_a_delete_marker() {
    run(async {
        let s3 = Fixture::new().await;
        set(&s3, BucketVersioningStatus::Enabled).await;
        let versioning = s3.get_bucket_versioning().bucket(BUCKET).send().await.unwrap();
        assert_eq!(versioning.status(), Some(&BucketVersioningStatus::Enabled));
        let first = version_of_put(&s3, "k", "1").await.unwrap();
        let second = version_of_put(&s3, "k", "2").await.unwrap();
        assert_ne!(first, second);
        let old = s3
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .version_id(&first)
            .send()
            .await
            .unwrap();
        assert_eq!(old.body.collect().await.unwrap().into_bytes(), "1");

        let marker = s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!(marker.delete_marker(), Some(true));
        refused(s3.get_object().bucket(BUCKET).key("k").send().await, 404);
        let marker_id = marker.version_id.unwrap();
        refused(
            s3.get_object()
                .bucket(BUCKET)
                .key("k")
                .version_id(&marker_id)
                .send()
                .await,
            405,
        );
        let listed = s3.list_object_versions().bucket(BUCKET).send().await.unwrap();
        let ids: Vec<_> = listed
            .versions()
            .iter()
            .filter_map(|version| version.version_id())
            .collect();
        assert_eq!(ids, [second.as_str(), first.as_str()]);
        assert_eq!(listed.delete_markers().len(), 1);
        assert_eq!(listed.delete_markers()[0].is_latest(), Some(true));
        refused_as(s3.delete_bucket().bucket(BUCKET).send().await, "BucketNotEmpty");

        s3.delete_object()
            .bucket(BUCKET)
            .key("k")
            .version_id(marker_id)
            .send()
            .await
            .unwrap();
        assert_eq!(get(&s3, "k").await, "2");
        s3.delete_object()
            .bucket(BUCKET)
            .key("k")
            .version_id(second)
            .send()
            .await
            .unwrap();
        assert_eq!(get(&s3, "k").await, "1");
    });
}

#[test]
fn an_unversioned_bucket_shows_no_versions() {
    run(async {
        let s3 = Fixture::new().await;
        assert_eq!(version_of_put(&s3, "k", "1").await, None);
        assert_eq!(
            s3.head_object()
                .bucket(BUCKET)
                .key("k")
                .send()
                .await
                .unwrap()
                .version_id(),
            None
        );
        set(&s3, BucketVersioningStatus::Enabled).await;
        version_of_put(&s3, "k", "2").await.unwrap();
        let old = s3
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .version_id("null")
            .send()
            .await
            .unwrap();
        assert_eq!(old.body.collect().await.unwrap().into_bytes(), "1");
        set(&s3, BucketVersioningStatus::Suspended).await;
        assert_eq!(version_of_put(&s3, "k", "3").await.as_deref(), Some("null"));
        let listed = s3.list_object_versions().bucket(BUCKET).send().await.unwrap();
        assert_eq!(
            listed.versions().len(),
            2,
            "a null version replaces the null version"
        );
    });
}

#[test]
fn versions_are_listed_in_pages_of_any_size() {
    run(async {
        let s3 = Fixture::new().await;
        set(&s3, BucketVersioningStatus::Enabled).await;
        let mut expected = Vec::new();
        for key in ["a", "d/1", "d/2", "z"] {
            let mut ids = Vec::new();
            for body in ["1", "2", "3"] {
                ids.push((key.to_owned(), version_of_put(&s3, key, body).await.unwrap()));
            }
            ids.reverse();
            expected.extend(ids);
        }
        for page_size in 1..5 {
            let (mut found, mut key_marker, mut id_marker) = (Vec::new(), None::<String>, None::<String>);
            loop {
                let request = s3.list_object_versions().bucket(BUCKET).max_keys(page_size);
                let request = request
                    .set_key_marker(key_marker)
                    .set_version_id_marker(id_marker);
                let page = request.send().await.unwrap();
                assert!(page.versions().len() <= page_size as usize);
                let pairs = page.versions().iter();
                found
                    .extend(pairs.map(|v| (v.key().unwrap().to_owned(), v.version_id().unwrap().to_owned())));
                if page.is_truncated() != Some(true) {
                    break;
                }
                (key_marker, id_marker) = (page.next_key_marker, page.next_version_id_marker);
            }
            assert_eq!(found, expected, "pages of {page_size}");
        }
        let grouped = s3
            .list_object_versions()
            .bucket(BUCKET)
            .delimiter("/")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (grouped.versions().len(), grouped.common_prefixes().len()),
            (6, 1)
        );
        put(&s3, "unused", "").await;
    });
}
