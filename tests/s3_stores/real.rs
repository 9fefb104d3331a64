//! Against a server that the environment names: `PAILFS_TEST_ENDPOINT`, `AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`. Run with `--ignored`; the account must be allowed to create buckets.

use crate::suite;
use pailfs::s3::{Client, ClientOptions};
use pailfs::telemetry::Metrics;
use std::sync::Arc;

async fn client() -> Client {
    let endpoint = std::env::var("PAILFS_TEST_ENDPOINT").expect("PAILFS_TEST_ENDPOINT");
    let options = ClientOptions {
        endpoint_url: Some(endpoint),
        ..ClientOptions::default()
    };
    Client::connect(options, Arc::new(Metrics::default()))
        .await
        .expect("a client")
}

#[tokio::test]
#[ignore = "needs a server"]
async fn objects() {
    suite::objects_are_written_read_and_deleted_under_conditions(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a server"]
async fn uploads_and_copies() {
    suite::uploads_in_parts_and_copies_keep_bytes_and_conditions(&client().await).await;
}

#[tokio::test]
#[ignore = "needs a server"]
async fn probes() {
    suite::probes_decide_every_feature_and_leave_nothing_behind(&client().await).await;
}
