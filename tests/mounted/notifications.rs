//! What others change is seen when a queue tells of it, however long the mount would believe what it knows. The queue is
//! moto's.

use crate::support::command::bash;
use crate::support::store::{ACCESS_KEY, SECRET_KEY, Store, block_on};
use crate::support::{PATIENCE, moto, poll};
use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration};
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::QueueAttributeName;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// A queue of its own for each test.
struct Queue {
    client: aws_sdk_sqs::Client,
    url: String,
}

impl Queue {
    fn new(name: &str) -> Option<Self> {
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test");
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(moto::endpoint_url()?)
            .credentials_provider(credentials);
        let client = aws_sdk_sqs::Client::from_conf(config.build());
        let made = block_on(client.create_queue().queue_name(name).send()).expect("a new queue");
        let url = made.queue_url.expect("an address");
        Some(Self { client, url })
    }

    fn option(&self) -> String {
        format!("--metadata-ttl forever --notifications {}", self.url)
    }

    fn send(&self, body: impl Into<String>) {
        let request = self.client.send_message().queue_url(&self.url).message_body(body);
        block_on(request.send()).expect("sent");
    }

    fn attribute(&self, name: QueueAttributeName) -> String {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = block_on(request.attribute_names(name.clone()).send()).expect("an answer");
        answer
            .attributes
            .and_then(|mut all| all.remove(&name))
            .expect("told")
    }

    /// Waits until all that was sent has been read and deleted.
    fn wait_until_empty(&self) {
        let is_empty = || {
            let waiting = self.attribute(QueueAttributeName::ApproximateNumberOfMessages);
            let read = self.attribute(QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
            (waiting == "0" && read == "0").then_some(())
        };
        poll(PATIENCE, is_empty).expect("the messages are read and deleted");
    }
}

fn record(event: &str, bucket: &str, key: &str, etag: &str) -> String {
    let object = serde_json::json!({"key": key, "eTag": etag, "size": 1, "sequencer": "00"});
    let record = serde_json::json!({
        "eventSource": "aws:s3", "eventName": event,
        "s3": {"bucket": {"name": bucket}, "object": object},
    });
    serde_json::json!({"Records": [record]}).to_string()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_bucket_that_sends_notifications_is_seen_as_it_is() {
    let (Some(store), Some(queue)) = (Store::moto(), Queue::new("of-a-bucket")) else {
        return;
    };
    let events = [Event::S3ObjectCreated, Event::S3ObjectRemoved];
    let to_queue = QueueConfiguration::builder()
        .queue_arn(queue.attribute(QueueAttributeName::QueueArn))
        .set_events(Some(events.to_vec()))
        .build()
        .expect("complete");
    let configuration = NotificationConfiguration::builder()
        .queue_configurations(to_queue)
        .build();
    let request = store
        .client
        .put_bucket_notification_configuration()
        .bucket(&store.bucket.name);
    block_on(request.notification_configuration(configuration).send()).expect("configured");

    for name in ["changed", "removed", "same"] {
        store.bucket.put(&format!("dir/{name}"), "one");
    }
    let mount = store.mount().options(&queue.option()).start();
    bash(&mount.path(), "cat dir/* > /dev/null; ls -lR > /dev/null");
    store.bucket.put("dir/changed", "longer than before");
    store.bucket.put("dir/new", "n");
    store.bucket.put("new/deep/file", "n");
    store.bucket.delete("dir/removed");
    poll(PATIENCE, || {
        let seen = bash(
            &mount.path(),
            "cat dir/changed; echo; ls dir; ls . new/deep 2> /dev/null || true",
        );
        (seen == "longer than before\nchanged\nnew\nsame\n.:\ndir\nnew\n\nnew/deep:\nfile\n").then_some(())
    })
    .unwrap_or_else(|| panic!("{}", bash(&mount.path(), "ls -lR")));
    // The last one of a directory that has no marker.
    store.bucket.delete("new/deep/file");
    poll(PATIENCE, || (!mount.join("new").exists()).then_some(())).expect("the directory is gone");
    queue.wait_until_empty();
}

#[test]
fn messages_in_every_wrapping_are_understood_and_all_are_deleted() {
    let Some(queue) = Queue::new("wrappings") else {
        return;
    };
    let store = Store::embedded();
    let bucket = &store.bucket.name;
    for name in ["a b", "c", "d"] {
        store.bucket.put(name, "one");
    }
    let mount = store
        .mount()
        .options(&queue.option())
        .expect_in_log("a notification that is not understood")
        .start();
    bash(&mount.path(), "cat * > /dev/null; ls -l > /dev/null");
    for name in ["a b", "c", "d"] {
        store.bucket.put(name, "two, and longer");
    }
    assert_eq!(text(&mount.join("c")), "one");
    queue.send("what is this?");
    queue.send(record("ObjectCreated:Put", "another-bucket", "a", "x"));
    queue.send(r#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#);
    queue.send(record("ObjectCreated:Put", bucket, "a+b", "x"));
    let inner = record("ObjectCreated:CompleteMultipartUpload", bucket, "c", "y");
    queue.send(serde_json::json!({"Type": "Notification", "Message": inner}).to_string());
    let detail = serde_json::json!({"bucket": {"name": bucket}, "object": {"key": "d", "etag": "z"}});
    let event = serde_json::json!({"source": "aws.s3", "detail-type": "Object Created", "detail": detail});
    queue.send(event.to_string());
    for name in ["a b", "c", "d"] {
        let path = mount.join(name);
        poll(PATIENCE, || (text(&path) == "two, and longer").then_some(()))
            .unwrap_or_else(|| panic!("{name} is not seen"));
    }
    queue.wait_until_empty();
    mount.signal(libc::SIGUSR1);
    let told = "notifications of this mount: changes=3 known=0 elsewhere=1 not_understood=1";
    poll(PATIENCE, || mount.log().says(told).then_some(()))
        .unwrap_or_else(|| panic!("{}", mount.log().tail()));
}

#[test]
fn news_of_what_this_mount_did_itself_cost_nothing() {
    let Some(queue) = Queue::new("own") else { return };
    let store = Store::embedded();
    let mount = store.mount().options(&queue.option()).start();
    let look = "ls -lR > /dev/null; stat dir/1 > /dev/null; cat dir/2 > /dev/null; test ! -e dir/3";
    bash(
        &mount.path(),
        "mkdir dir; for i in 1 2 3; do echo $i > dir/$i; done; rm dir/3",
    );
    bash(&mount.path(), look);
    for name in ["1", "2"] {
        let key = format!("dir/{name}");
        let etag = store.bucket.head(&key).e_tag.expect("an ETag");
        queue.send(record(
            "ObjectCreated:Put",
            &store.bucket.name,
            &key,
            etag.trim_matches('"'),
        ));
    }
    queue.send(record("ObjectRemoved:Delete", &store.bucket.name, "dir/3", "x"));
    queue.wait_until_empty();
    mount.signal(libc::SIGUSR1);
    let told = "changes=0 known=3 elsewhere=0 not_understood=0";
    poll(PATIENCE, || mount.log().says(told).then_some(()))
        .unwrap_or_else(|| panic!("{}", mount.log().tail()));
    store.server().counts().reset();
    bash(&mount.path(), look);
    assert_eq!(
        store.server().counts().total(),
        0,
        "{:?}",
        store.server().counts().all()
    );
}

#[test]
fn attributes_that_change_under_the_same_etag_are_seen() {
    let Some(queue) = Queue::new("attributes") else {
        return;
    };
    let store = Store::embedded();
    let mode = |mode| [("file-permissions", mode)];
    store.bucket.put_with_metadata("file", "same", &mode("0100644"));
    let mount = store
        .mount()
        .options(&format!("{} --attributes full", queue.option()))
        .start();
    let permissions = || bash(&mount.path(), "stat -c %a file");
    assert_eq!(permissions(), "644\n");
    store.bucket.put_with_metadata("file", "same", &mode("0100600"));
    assert_eq!(permissions(), "644\n");
    let now = store.bucket.head("file");
    let changed_at = now.last_modified.expect("a time").secs() + 10;
    let at = UNIX_EPOCH + Duration::from_secs(changed_at.unsigned_abs());
    let etag = now.e_tag.expect("an ETag");
    let told = record(
        "ObjectCreated:Copy",
        &store.bucket.name,
        "file",
        etag.trim_matches('"'),
    );
    let event_time = format!(
        r#""eventName":"ObjectCreated:Copy","eventTime":"{}""#,
        humantime::format_rfc3339(at)
    );
    let told = told.replace(r#""eventName":"ObjectCreated:Copy""#, &event_time);
    assert!(told.contains("eventTime"));
    queue.send(told);
    poll(PATIENCE, || (permissions() == "600\n").then_some(())).expect("the change is seen");
}

#[test]
fn a_queue_that_cannot_be_read_is_said_at_the_start() {
    let Some(queue) = Queue::new("there-is-one") else {
        return;
    };
    let store = Store::embedded();
    let absent = queue.url.replace("there-is-one", "there-is-none");
    let done = store
        .mount()
        .options(&format!("--notifications {absent}"))
        .fail_to_start();
    assert!(
        done.stderr.contains("there is no such queue") && done.stderr.contains(&absent),
        "{done:?}"
    );
    assert!(
        !done.stderr.contains("bucket"),
        "it is no matter of buckets: {done:?}"
    );
    let done = store
        .mount()
        .options("--notifications just-a-name")
        .fail_to_start();
    assert!(done.stderr.contains("is no address of a queue"), "{done:?}");
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    let done = store
        .mount()
        .options("--notifications http://127.0.0.1:1/1/name")
        .fail_to_start();
    assert!(
        done.stderr.contains("check the address and the network"),
        "{done:?}"
    );
}

#[test]
fn a_queue_that_refuses_is_said_at_the_start() {
    let store = Store::embedded();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!(
        "http://{}/123456789012/name",
        listener.local_addr().expect("bound")
    );
    let body = r#"{"__type":"com.amazonaws.sqs#AccessDenied","message":"not yours"}"#;
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let refusing = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        // Its body is a few hundred bytes, which come with the head.
        let read = stream.read(&mut [0; 16 << 10]).expect("a request");
        assert!(read > 0);
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    let done = store
        .mount()
        .options(&format!("--notifications {url}"))
        .fail_to_start();
    for part in [&url, "not yours", "sqs:ReceiveMessage and sqs:DeleteMessage"] {
        assert!(done.stderr.contains(part), "{part} in {done:?}");
    }
    assert_eq!(done.status.code(), Some(4), "{done:?}");
    refusing.join().expect("asked once");
}

/// What may be read by anybody has no queue.
#[test]
fn without_signatures_a_queue_is_refused_at_the_start() {
    let (Some(store), Some(queue)) = (Store::moto(), Queue::new("unsigned")) else {
        return;
    };
    let done = store
        .mount()
        .options(&format!("--no-sign-request --notifications {}", queue.url))
        .fail_to_start();
    for part in [&*queue.url, "leave out --no-sign-request"] {
        assert!(done.stderr.contains(part), "{part} in {done:?}");
    }
    assert_eq!(done.status.code(), Some(2), "{done:?}");
}

#[test]
fn without_its_queue_a_mount_believes_nothing_for_long() {
    let Some(queue) = Queue::new("deleted") else {
        return;
    };
    let store = Store::embedded();
    store.bucket.put("file", "one");
    let mount = store
        .mount()
        .options(&queue.option())
        .expect_in_log("notifications do not come")
        .start();
    bash(&mount.path(), "cat file > /dev/null; ls -l > /dev/null");
    store.bucket.put("file", "two, and longer");
    block_on(queue.client.delete_queue().queue_url(&queue.url).send()).expect("deleted");
    poll(PATIENCE, || {
        mount.log().says("notifications do not come").then_some(())
    })
    .expect("the log tells");
    poll(PATIENCE, || {
        (text(&mount.join("file")) == "two, and longer").then_some(())
    })
    .expect("the change is seen");
    // And what is changed from now on, though nobody tells.
    store.bucket.put("file", "three");
    poll(PATIENCE, || (text(&mount.join("file")) == "three").then_some(())).expect("the change is seen");
    // The queue is there again.
    let again = Queue::new("deleted").expect("moto is there");
    poll(PATIENCE, || {
        mount.log().says("notifications come again").then_some(())
    })
    .expect("the log tells");
    bash(&mount.path(), "ls -l > /dev/null");
    store.bucket.put("file", "four, told by the queue");
    again.send(record("ObjectCreated:Put", &store.bucket.name, "file", "x"));
    poll(PATIENCE, || {
        (text(&mount.join("file")) == "four, told by the queue").then_some(())
    })
    .expect("the change is seen");
}
