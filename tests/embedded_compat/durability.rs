//! What survives `kill -9`, and in how much memory bodies travel. The server that is killed is this test binary in
//! another process.

use crate::support::{BUCKET, MIB, client, config, get, pattern, put, run};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, VersioningConfiguration,
};
use bytes::Bytes;
use pailfs::embedded::{Server, ServerOptions};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CHILD_DIR: &str = "PAILFS_TEST_SERVE_DIR";
const CHILD_START: Duration = Duration::from_secs(20);

/// Not a test but what the child process runs: serves the directory it is told of until it is killed.
#[test]
fn child_process_serves() {
    let Some(dir) = std::env::var_os(CHILD_DIR).map(PathBuf::from) else {
        return;
    };
    pailfs::rt::build().unwrap().block_on(async {
        let server = Server::start(ServerOptions::new(dir.join("data"))).await.unwrap();
        std::fs::write(dir.join("endpoint.new"), server.endpoint_url()).unwrap();
        std::fs::rename(dir.join("endpoint.new"), dir.join("endpoint")).unwrap();
        std::future::pending::<()>().await;
    });
}

struct ChildServer {
    child: Child,
    client: Client,
}

impl ChildServer {
    fn start(dir: &Path) -> Self {
        let endpoint = dir.join("endpoint");
        let _ = std::fs::remove_file(&endpoint);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::child_process_serves"])
            .env(CHILD_DIR, dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let url = loop {
            if let Ok(url) = std::fs::read_to_string(&endpoint) {
                break url;
            }
            assert!(started.elapsed() < CHILD_START, "the child did not start");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self {
            child,
            client: Client::from_conf(config(&url).build()),
        }
    }

    /// The most memory the process ever had, in bytes.
    fn peak_memory_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    fn kill(&mut self) {
        // SIGKILL.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn blob_count(data_dir: &Path) -> usize {
    std::fs::read_dir(data_dir.join("blobs")).unwrap().count()
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let acknowledged: Arc<Mutex<HashMap<String, Bytes>>> = Arc::default();
        for round in 0..4u64 {
            let mut server = ChildServer::start(dir.path());
            if round == 0 {
                server.client.create_bucket().bucket(BUCKET).send().await.unwrap();
            }
            let writers: Vec<_> = (0..4u64)
                .map(|writer| {
                    let (client, acknowledged) = (server.client.clone(), Arc::clone(&acknowledged));
                    tokio::spawn(async move {
                        for number in 0.. {
                            let key = format!("{writer}/{}", number % 40);
                            let seed = round * 1_000_000 + writer * 10_000 + number;
                            let data = pattern((seed as usize * 7919) % 300_000, seed);
                            let body = ByteStream::from(data.clone());
                            // An unacknowledged write may or may not be there: the key is not looked at.
                            acknowledged.lock().unwrap().remove(&key);
                            if client
                                .put_object()
                                .bucket(BUCKET)
                                .key(&key)
                                .body(body)
                                .send()
                                .await
                                .is_err()
                            {
                                return;
                            }
                            acknowledged.lock().unwrap().insert(key, data);
                        }
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(300 + 150 * round)).await;
            server.kill();
            for writer in writers {
                writer.await.unwrap();
            }
            let data_dir = dir.path().join("data");
            let restarted = Server::start(ServerOptions::new(&data_dir)).await.unwrap();
            let client = client(&restarted);
            let expected = acknowledged.lock().unwrap().clone();
            assert!(!expected.is_empty());
            for (key, data) in &expected {
                assert_eq!(get(&client, key).await, data, "{key} after round {round}");
            }
            let page = client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
            let with_data = page
                .contents()
                .iter()
                .filter(|object| object.size() != Some(0))
                .count();
            assert_eq!(
                blob_count(&data_dir),
                with_data,
                "blobs that no object has were left"
            );
            restarted.shutdown().await;
        }
    });
}

#[test]
fn everything_is_replayed_also_behind_a_torn_tail() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        let s3 = client(&server);
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        s3.create_bucket().bucket("gone").send().await.unwrap();
        s3.delete_bucket().bucket("gone").send().await.unwrap();
        put(&s3, "plain", "1").await;
        put(&s3, "deleted", "1").await;
        s3.delete_object()
            .bucket(BUCKET)
            .key("deleted")
            .send()
            .await
            .unwrap();
        s3.copy_object()
            .bucket(BUCKET)
            .key("copy")
            .copy_source(format!("{BUCKET}/plain"))
            .send()
            .await
            .unwrap();
        put(&s3, "plain", "2").await;
        let tagged = s3
            .put_object()
            .bucket(BUCKET)
            .key("tagged")
            .tagging("a=1")
            .metadata("m", "v");
        tagged.send().await.unwrap();
        let upload = s3
            .create_multipart_upload()
            .bucket(BUCKET)
            .key("mpu")
            .metadata("u", "1")
            .send()
            .await
            .unwrap();
        let id = upload.upload_id.unwrap();
        let part = s3
            .upload_part()
            .bucket(BUCKET)
            .key("mpu")
            .upload_id(&id)
            .part_number(1);
        let part = part.body(ByteStream::from_static(b"part")).send().await.unwrap();
        let status = VersioningConfiguration::builder()
            .status(BucketVersioningStatus::Enabled)
            .build();
        s3.put_bucket_versioning()
            .bucket(BUCKET)
            .versioning_configuration(status)
            .send()
            .await
            .unwrap();
        put(&s3, "plain", "3").await;
        s3.delete_object()
            .bucket(BUCKET)
            .key("plain")
            .send()
            .await
            .unwrap();
        let before = format!(
            "{:?}",
            s3.list_object_versions()
                .bucket(BUCKET)
                .send()
                .await
                .unwrap()
                .versions()
        );
        server.shutdown().await;
        // A crash in the middle of writing a record of 200 bytes.
        let mut log = std::fs::File::options()
            .append(true)
            .open(dir.path().join("log"))
            .unwrap();
        log.write_all(&[200, 0, 0, 0, 1, 2, 3, 4, b'{', b'"']).unwrap();
        drop(log);

        for _ in 0..2 {
            let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
            let s3 = client(&server);
            let after = s3.list_object_versions().bucket(BUCKET).send().await.unwrap();
            assert_eq!(format!("{:?}", after.versions()), before);
            assert_eq!(after.delete_markers().len(), 1);
            assert_eq!(get(&s3, "copy").await, "1");
            let head = s3
                .head_object()
                .bucket(BUCKET)
                .key("tagged")
                .send()
                .await
                .unwrap();
            assert_eq!(head.metadata().unwrap()["m"], "v");
            let tags = s3
                .get_object_tagging()
                .bucket(BUCKET)
                .key("tagged")
                .send()
                .await
                .unwrap();
            assert_eq!(tags.tag_set().len(), 1);
            assert!(s3.head_bucket().bucket("gone").send().await.is_err());
            server.shutdown().await;
        }
        let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        let s3 = client(&server);
        let list = CompletedPart::builder()
            .part_number(1)
            .set_e_tag(part.e_tag)
            .build();
        let list = CompletedMultipartUpload::builder().parts(list).build();
        let complete = s3
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("mpu")
            .upload_id(id);
        complete.multipart_upload(list).send().await.unwrap();
        assert_eq!(get(&s3, "mpu").await, "part");
        assert_eq!(
            s3.head_object()
                .bucket(BUCKET)
                .key("mpu")
                .send()
                .await
                .unwrap()
                .metadata()
                .unwrap()["u"],
            "1"
        );
    });
}

#[test]
fn two_servers_cannot_share_a_directory() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let first = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        assert!(Server::start(ServerOptions::new(dir.path())).await.is_err());
        first.shutdown().await;
        Server::start(ServerOptions::new(dir.path())).await.unwrap();
    });
}

#[test]
fn durable_writes_are_answered_too() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let options = ServerOptions {
            durable: true,
            ..ServerOptions::new(dir.path())
        };
        let server = Server::start(options.clone()).await.unwrap();
        let s3 = client(&server);
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        put(&s3, "k", vec![1; 200_000]).await;
        server.shutdown().await;
        let server = Server::start(options).await.unwrap();
        assert_eq!(get(&client(&server), "k").await.len(), 200_000);
    });
}

#[test]
fn bodies_travel_in_bounded_memory() {
    const BODY_BYTES: usize = 256 * MIB;
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = ChildServer::start(dir.path());
        server.client.create_bucket().bucket(BUCKET).send().await.unwrap();
        let block = pattern(MIB, 11);
        // One block, over and over: the client needs no more memory than that either.
        let data = crate::support::repeated(&block, BODY_BYTES / MIB);
        let put = server
            .client
            .put_object()
            .bucket(BUCKET)
            .key("k")
            .content_length(BODY_BYTES as i64);
        put.body(data).send().await.unwrap();
        let mut body = server
            .client
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .send()
            .await
            .unwrap()
            .body;
        let mut received = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.unwrap();
            let at = received % MIB;
            let head = chunk.len().min(MIB - at);
            assert_eq!(chunk[..head], block[at..at + head], "at byte {received}");
            received += chunk.len();
        }
        assert_eq!(received, BODY_BYTES);
        let peak = server.peak_memory_bytes();
        assert!(peak < 96 * MIB, "{} MiB", peak / MIB);
    });
}
