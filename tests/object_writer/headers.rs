//! What an object carries beside its bytes survives every edit.

use super::*;

async fn tagged(world: &World, key: &str, content: &[u8]) -> ObjectHeaders {
    let headers = ObjectHeaders {
        content_type: Some("text/x-special".to_owned()),
        content_language: Some("en".to_owned()),
        content_disposition: Some("inline".to_owned()),
        cache_control: Some("max-age=7".to_owned()),
        tagging: Some("a%20b=c%26d&project=one".to_owned()),
        metadata: [("colour".to_owned(), "red".to_owned())].into(),
        ..ObjectHeaders::default()
    };
    let request = PutRequest {
        id: ObjectId::new(BUCKET, key),
        body: bytes::Bytes::copy_from_slice(content).into(),
        checksum: Crc32c::of(content),
        condition: Condition::None,
        headers: headers.clone(),
    };
    world.context.client.put(&request).await.expect("stored");
    headers
}

/// As an open has it.
async fn opened(world: &World, key: &str) -> Arc<File> {
    let info = world.head(key).await;
    let (client, budget) = (world.context.client.clone(), world.context.budget.clone());
    let reader = Reader::new(client, budget, ObjectId::new(BUCKET, key), info.version);
    File::existing(&world.context, reader, info.headers, Attributes::default())
}

async fn assert_carried(world: &World, key: &str, expected: &ObjectHeaders, after: &str) {
    let found = world.head(key).await.headers;
    assert_eq!(found.content_type, expected.content_type, "after {after}");
    assert_eq!(found.content_language, expected.content_language, "after {after}");
    assert_eq!(
        found.content_disposition, expected.content_disposition,
        "after {after}"
    );
    assert_eq!(found.cache_control, expected.cache_control, "after {after}");
    assert_eq!(
        found.metadata.get("colour"),
        expected.metadata.get("colour"),
        "after {after}"
    );
    let tags = world
        .context
        .client
        .get_tagging(&ObjectId::new(BUCKET, key))
        .await;
    assert_eq!(tags.expect("tags"), expected.tagging, "after {after}");
}

#[test]
fn every_edit_keeps_tags_headers_and_metadata() {
    run(async {
        let world = World::start(64 * MIB).await;
        for size_bytes in [100, 30 * MIB] {
            let expected = tagged(&world, "a", &data(1, size_bytes)).await;
            let file = opened(&world, "a").await;
            file.write(3, b"changed").await.expect("written");
            file.commit().await.expect("committed");
            assert_carried(&world, "a", &expected, "a change").await;
            file.append(b"more").await.expect("appended");
            file.commit().await.expect("committed");
            assert_carried(&world, "a", &expected, "an append").await;
            file.truncate(size_bytes / 2).await.expect("truncated");
            file.commit().await.expect("committed");
            assert_carried(&world, "a", &expected, "a truncation").await;
            let attributes = Attributes {
                uid: Some(7),
                ..file.attributes()
            };
            file.set_attributes(attributes);
            file.commit().await.expect("committed");
            assert_carried(&world, "a", &expected, "a change of attributes").await;
            file.empty().await.expect("emptied");
            file.write(0, &data(2, size_bytes)).await.expect("written");
            file.commit().await.expect("committed");
            assert_carried(&world, "a", &expected, "new content").await;
            let info = world.head("a").await;
            let id = ObjectId::new(BUCKET, "a");
            let truncating = File::truncating(
                &world.context,
                id,
                info.version,
                info.headers,
                Attributes::default(),
            );
            truncating.commit().await.expect("committed");
            assert_carried(&world, "a", &expected, "O_TRUNC").await;
        }
    });
}

#[test]
fn objects_without_tags_are_not_asked_for_them() {
    run(async {
        let world = World::start(64 * MIB).await;
        world.put("a", b"plain").await;
        let file = opened(&world, "a").await;
        file.write(0, b"P").await.expect("written");
        file.commit().await.expect("committed");
        assert_eq!(world.count(Operation::Tags), 0);
    });
}

#[test]
fn tags_that_cannot_be_read_are_not_lost() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = tagged(&world, "a", b"content").await;
        let file = opened(&world, "a").await;
        file.write(0, b"C").await.expect("written");
        let denied = world.server.faults().inject(
            pailfs::embedded::When::on(Operation::Tags).for_ever(),
            pailfs::embedded::Fault::Answer("AccessDenied"),
        );
        file.commit().await.expect_err("the tags would be lost");
        world.server.faults().remove(denied);
        file.commit().await.expect("committed");
        assert_carried(&world, "a", &expected, "a second try").await;
    });
}
