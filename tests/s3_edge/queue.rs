//! A queue of notifications that refuses: what is said, and how long a mount believes what it knows meanwhile.

use crate::peer::{Peer, Step, answer, header};
use crate::{client, client_with, options};
use pailfs::base::error::ErrorKind;
use pailfs::base::mount_config::{AttributesMode, Source};
use pailfs::rt;
use pailfs::s3::{Client, ClientOptions, Queue};
use pailfs::spool::Spool;
use pailfs::tree::notifications::listen;
use pailfs::tree::{LISTING_CAPACITY_BYTES, Tree, TreeSettings};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const URL: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/name";
/// The same queue where nothing is encrypted.
const PLAIN_URL: &str = "http://queues.test/123456789012/name";

fn json(status: &str, body: &str) -> Step {
    Step::Answer(answer(
        status,
        "content-type: application/x-amz-json-1.0\r\n",
        body,
    ))
}

fn refusal(code: &str, message: &str) -> Step {
    let body = format!(r#"{{"__type":"com.amazonaws.sqs#{code}","message":"{message}"}}"#);
    json("400 Bad Request", &body)
}

/// How queues refuse, what that is, and what a user is told to do.
const REFUSALS: [(&str, &str, ErrorKind, &str); 5] = [
    (
        "AccessDeniedException",
        "User: u is not authorized to perform: sqs:receivemessage",
        ErrorKind::Denied,
        "sqs:ReceiveMessage and sqs:DeleteMessage",
    ),
    (
        "InvalidSignatureException",
        "Credential should be scoped to a valid region.",
        ErrorKind::Denied,
        "the queue's own region in its address (or by --region",
    ),
    (
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        ErrorKind::Denied,
        "these keys may not read the queue",
    ),
    (
        "QueueDoesNotExist",
        "The specified queue does not exist.",
        ErrorKind::NotFound,
        "check its name, account and region",
    ),
    (
        "KmsAccessDenied",
        "The ciphertext refers to a key that does not exist.",
        ErrorKind::Denied,
        "these keys may not read the queue",
    ),
];

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_which_queue_and_what_to_do() {
    for (code, message, kind, advice) in REFUSALS {
        let peer = Peer::new([refusal(code, message)]);
        let queue = Queue::new(&client(&peer).await, PLAIN_URL).expect("an address");
        let refused = queue.receive(Duration::ZERO).await.err().expect("refused");
        assert_eq!(refused.kind(), kind, "{code}");
        let text = refused.to_string();
        for part in [PLAIN_URL, message, "ReceiveMessage", code] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(Queue::advice(&refused).contains(advice), "{code}");
        let head = &peer.seen()[0];
        assert_eq!(header(head, "host"), Some("queues.test"));
        // Signed for the client's own region, as the address has none.
        let signed = header(head, "authorization").expect("signed");
        assert!(signed.contains("/us-east-1/sqs/aws4_request"), "{signed}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_may_not_be_deleted_are_told_with_their_queue() {
    let one = r#"{"Messages":[{"MessageId":"1","ReceiptHandle":"r","Body":"b"}]}"#;
    let refused = r#"{"Successful":[],"Failed":[{"Id":"0","Code":"AccessDenied","SenderFault":true}]}"#;
    for answer in [json("200 OK", refused), refusal("AccessDenied", "no")] {
        let peer = Peer::new([json("200 OK", one), answer]);
        let queue = Queue::new(&client(&peer).await, PLAIN_URL).expect("an address");
        let messages = queue.receive(Duration::ZERO).await.expect("one");
        let refused = queue.delete(&messages).await.expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Denied);
        assert!(refused.to_string().contains(PLAIN_URL), "{refused}");
        peer.seen();
    }
}

#[tokio::test(start_paused = true)]
async fn without_signatures_there_are_no_notifications() {
    let peer = Peer::new([]);
    let unsigned = ClientOptions {
        credentials: None,
        no_sign_request: true,
        ..options()
    };
    let client = client_with(&peer, unsigned).await;
    let refused = Queue::new(&client, URL).err().expect("refused");
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    for part in [URL, "--no-sign-request"] {
        assert!(refused.to_string().contains(part), "{part} in {refused}");
    }
    assert_eq!(peer.seen(), [""; 0]);
}

/// What a mount with `--metadata-ttl forever` has of its namespace.
fn tree(client: &Client, state: &std::path::Path) -> Arc<Tree> {
    let (spool, _) = Spool::open(state, "s3://bucket").expect("a state directory");
    let settings = TreeSettings {
        source: Source::Bucket {
            bucket: "bucket".into(),
            prefix: String::new(),
        },
        metadata_ttl: None,
        attributes: AttributesMode::Auto,
        read_only: false,
        allow_bucket_changes: false,
        listings_show_algorithms: true,
        head_parallelism: 1,
        listing_capacity_bytes: LISTING_CAPACITY_BYTES,
        attributes_on_disk: None,
    };
    Tree::new(client.clone(), spool, settings, mpsc::unbounded_channel().0)
}

#[tokio::test(start_paused = true)]
async fn what_refuses_while_it_is_mounted_is_not_relied_upon_until_it_answers() {
    const FOR_EVER: Duration = Duration::from_hours(24);
    for (code, message, ..) in REFUSALS {
        // It is asked once more, as somebody may mend it.
        let peer = Peer::new([
            json("200 OK", "{}"),
            refusal(code, message),
            refusal(code, message),
            json("200 OK", "{}"),
            Step::AnswerAndHang(Vec::new()),
        ]);
        let client = client(&peer).await;
        let state = tempfile::tempdir().expect("a directory");
        let tree = tree(&client, state.path());
        let queue = Queue::new(&client, PLAIN_URL).expect("an address");
        let is_believed = || tree.ttl_left(rt::now()) > FOR_EVER;
        assert!(is_believed());
        let listening = rt::spawn(listen(tree.clone(), queue));
        let mut seen = Vec::new();
        for _ in 0..100 {
            rt::sleep(Duration::from_millis(100)).await;
            let now = is_believed();
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            if !now {
                assert!(tree.ttl_left(rt::now()) <= Duration::from_secs(10), "{code}");
            }
        }
        assert_eq!(seen, [false, true], "{code}");
        listening.abort();
        peer.seen();
    }
}

/// How the queue fails after an answer without messages, and then answers again.
async fn noticed_after(failures: impl IntoIterator<Item = Step>) -> Duration {
    let steps = [json("200 OK", "{}")].into_iter().chain(failures).chain([
        json("200 OK", "{}"),
        json("200 OK", "{}"),
        Step::AnswerAndHang(Vec::new()),
    ]);
    let peer = Peer::new(steps);
    let client = client(&peer).await;
    let state = tempfile::tempdir().expect("a directory");
    let tree = tree(&client, state.path());
    let queue = Queue::new(&client, PLAIN_URL).expect("an address");
    let is_believed = || tree.ttl_left(rt::now()) > Duration::from_hours(1);
    let began = rt::now();
    let listening = rt::spawn(listen(tree.clone(), queue));
    while is_believed() {
        rt::sleep(Duration::from_millis(100)).await;
    }
    let noticed_after = began.elapsed();
    // It answers.
    while !is_believed() {
        rt::sleep(Duration::from_millis(100)).await;
    }
    // As soon as it has answered it may wait for messages again.
    rt::sleep(Duration::from_secs(2)).await;
    listening.abort();
    peer.seen();
    noticed_after
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_not_relied_upon_thirty_seconds_after_its_last_answer() {
    let limits = Duration::from_secs(30)..Duration::from_secs(31);
    let silent = noticed_after([Step::AnswerAndHang(Vec::new())]).await;
    assert!(limits.contains(&silent), "silent: {silent:?}");
    let refusing = noticed_after((0..6).map(|_| Step::Refuse)).await;
    assert!(limits.contains(&refusing), "refusing: {refusing:?}");
    let both = noticed_after([Step::Refuse, Step::AnswerAndHang(Vec::new())]).await;
    assert!(limits.contains(&both), "both: {both:?}");
}
