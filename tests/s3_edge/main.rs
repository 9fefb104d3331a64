//! The S3 edge over a real HTTP exchange with a peer that follows a script: what is sent, what is sent again,
//! and what every kind of failure becomes. Time is paused: waiting costs nothing, and every wait ends.

mod alone;
mod connections;
mod credentials;
mod environment;
mod hosts;
mod peer;
mod queue;
mod requests;

use bytes::Bytes;
use pailfs::base::checksum::Crc32c;
use pailfs::base::error::{Error, ErrorKind, Result};
use pailfs::base::object::{ByteRange, Condition, ETag, ObjectHeaders, ObjectId, Version};
use pailfs::base::segments::Segments;
use pailfs::object::outcome::settle;
use pailfs::rt;
use pailfs::s3::types::{CompleteRequest, GetRequest, PutRequest, UploadId, UploadedPart};
use pailfs::s3::{Capabilities, Client, ClientOptions, Feature, StaticCredentials, Support};
use pailfs::telemetry::{Metrics, RequestClass};
use peer::{Peer, Step, answer, header};
use std::sync::Arc;
use std::time::Duration;

fn error(status: &str, code: &str) -> Vec<u8> {
    answer(
        status,
        "",
        &format!("<Error><Code>{code}</Code><Message>no</Message></Error>"),
    )
}

fn ok_put() -> Vec<u8> {
    answer("200 OK", "etag: \"e1\"\r\n", "")
}

fn object(body: &str) -> Vec<u8> {
    answer(
        "200 OK",
        "etag: \"e1\"\r\nlast-modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n",
        body,
    )
}

fn options() -> ClientOptions {
    ClientOptions {
        endpoint_url: Some("http://s3.test".into()),
        region: Some("us-east-1".into()),
        credentials: Some(StaticCredentials {
            access_key_id: "AK".into(),
            secret_access_key: "SK".into(),
            session_token: None,
        }),
        capabilities: Capabilities::s3(),
        ..ClientOptions::default()
    }
}

async fn client_with(peer: &Peer, options: ClientOptions) -> Client {
    Client::with_dialer(options, Arc::new(Metrics::default()), peer.dialer())
        .await
        .expect("a client")
}

async fn client(peer: &Peer) -> Client {
    client_with(peer, options()).await
}

fn id() -> ObjectId {
    ObjectId::new("bucket", "key")
}

fn put_request(condition: Condition) -> PutRequest {
    let pieces = [Bytes::from_static(b"hello "), Bytes::from_static(b"world")];
    let body: Segments = pieces.into_iter().collect();
    let headers = ObjectHeaders::default();
    PutRequest {
        id: id(),
        checksum: Crc32c::of_segments(&body),
        body,
        condition,
        headers,
    }
}

async fn put(client: &Client, condition: Condition) -> Result<Version> {
    client.put(&put_request(condition)).await
}

async fn read(client: &Client, range: Option<ByteRange>) -> Result<String> {
    let mut reply = client
        .get(&GetRequest {
            id: id(),
            range,
            if_match: None,
            version_id: None,
        })
        .await?;
    let mut out = Vec::new();
    while let Some(piece) = reply.body.next().await? {
        out.extend_from_slice(&piece);
    }
    Ok(String::from_utf8(out).expect("text"))
}

fn kind<T>(result: &Result<T>) -> Option<ErrorKind> {
    result.as_ref().err().map(Error::kind)
}

#[tokio::test(start_paused = true)]
async fn a_put_is_of_known_length_unsigned_and_carries_its_checksum() {
    let peer = Peer::new([Step::Answer(ok_put())]);
    let client = client(&peer).await;
    let version = put(&client, Condition::Matches(ETag::new("e0")))
        .await
        .expect("written");
    assert_eq!((version.etag.as_str(), version.size_bytes), ("e1", 11));
    let head = &peer.seen()[0];
    assert!(head.starts_with("PUT /bucket/key"), "{head}");
    let expected = Crc32c::of(b"hello world").to_base64();
    assert_eq!(header(head, "x-amz-checksum-crc32c"), Some(expected.as_str()));
    assert_eq!(header(head, "content-length"), Some("11"));
    assert_eq!(header(head, "x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    assert_eq!(header(head, "if-match"), Some("\"e0\""));
    for absent in [
        "x-amz-trailer",
        "content-encoding",
        "transfer-encoding",
        "if-none-match",
    ] {
        assert_eq!(header(head, absent), None, "{absent}");
    }
    assert_eq!(client.metrics().requests(RequestClass::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_certainly_not_applied_is_sent_again() {
    let peer = Peer::new([
        Step::Refuse,
        Step::Answer(error("503 Slow Down", "SlowDown")),
        Step::Answer(error("409 Conflict", "ConditionalRequestConflict")),
        Step::Answer(error("400 Bad Request", "RequestTimeout")),
        Step::Answer(ok_put()),
    ]);
    let client = client(&peer).await;
    put(&client, Condition::Absent).await.expect("written");
    assert_eq!(peer.seen().len(), 4);
    assert_eq!(client.metrics().requests(RequestClass::Put), 5);
    assert_eq!(client.metrics().failures(RequestClass::Put), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_of_a_conditional_write_is_ambiguous_at_once() {
    const EIO: i32 = 5;
    const ETIMEDOUT: i32 = 110;
    let losses = [
        (Step::AnswerAndBreak(Vec::new()), EIO),
        (Step::AnswerAndHang(Vec::new()), ETIMEDOUT),
        (
            Step::AnswerAndHang(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
            ETIMEDOUT,
        ),
        (
            Step::Answer(error("500 Internal Server Error", "InternalError")),
            EIO,
        ),
        (Step::Answer(answer("502 Bad Gateway", "", "")), EIO),
        (
            Step::AnswerAndBreak(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
            EIO,
        ),
    ];
    for (loss, errno) in losses {
        let peer = Peer::new([loss]);
        let client = client(&peer).await;
        let written = put(&client, Condition::Absent).await;
        assert_eq!(kind(&written), Some(ErrorKind::Ambiguous), "{written:?}");
        assert_eq!(peer.seen().len(), 1);
        let error = written.expect_err("just seen");
        assert_eq!(error.errno(), errno, "{error}");
        assert_eq!(
            (error.bucket(), error.key(), error.attempts()),
            (Some("bucket"), Some("key"), 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_without_a_condition_is_repeated_after_a_lost_reply() {
    let peer = Peer::new([
        Step::AnswerAndBreak(Vec::new()),
        Step::Answer(error("500 Internal Server Error", "InternalError")),
        Step::Answer(ok_put()),
    ]);
    let client = client(&peer).await;
    put(&client, Condition::None).await.expect("written");
    assert_eq!(peer.seen().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_completion_that_fails_inside_its_200_is_ambiguous() {
    let peer = Peer::new([Step::Answer(error("200 OK", "InternalError"))]);
    let client = client(&peer).await;
    let checksum = Crc32c::of(b"x");
    let request = CompleteRequest {
        id: id(),
        upload: UploadId("u".into()),
        parts: vec![UploadedPart {
            number: 1,
            etag: ETag::new("p"),
            checksum: Some(checksum),
            len_bytes: 1,
        }],
        checksum: Some(checksum),
        size_bytes: 1,
        condition: Condition::None,
    };
    let completed = client.complete_upload(&request).await;
    assert_eq!(kind(&completed), Some(ErrorKind::Ambiguous), "{completed:?}");
    let head = &peer.seen()[0];
    assert_eq!(
        header(head, "x-amz-checksum-crc32c"),
        Some(checksum.to_base64().as_str())
    );
    assert_eq!(header(head, "x-amz-checksum-type"), Some("FULL_OBJECT"));
    assert_eq!(header(head, "x-amz-mp-object-size"), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn refusals_become_kinds_with_all_that_is_known() {
    let table = [
        (
            error("404 Not Found", "NoSuchKey"),
            ErrorKind::NotFound,
            Some("NoSuchKey"),
        ),
        (
            error("403 Forbidden", "AccessDenied"),
            ErrorKind::Denied,
            Some("AccessDenied"),
        ),
        (
            error("416 Range", "InvalidRange"),
            ErrorKind::BadRange,
            Some("InvalidRange"),
        ),
        (answer("304 Not Modified", "", ""), ErrorKind::NotModified, None),
        (
            answer("412 Precondition Failed", "", ""),
            ErrorKind::PreconditionFailed,
            None,
        ),
    ];
    for (reply, expected, code) in table {
        let peer = Peer::new([Step::Answer(reply)]);
        let client = client(&peer).await;
        let result = read(&client, None).await;
        assert_eq!(kind(&result), Some(expected), "{result:?}");
        let error = result.expect_err("just seen");
        assert_eq!(error.s3_code(), code);
        assert_eq!(error.request_id(), Some("R1"));
    }
    let peer = Peer::new([Step::Answer(answer("404 Not Found", "", ""))]);
    let head = client(&peer).await.head(&id()).await;
    assert_eq!(kind(&head), Some(ErrorKind::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_condition_on_a_missing_key_did_not_hold() {
    let peer = Peer::new([Step::Answer(error("404 Not Found", "NoSuchKey"))]);
    let written = put(&client(&peer).await, Condition::Matches(ETag::new("e"))).await;
    assert_eq!(kind(&written), Some(ErrorKind::PreconditionFailed));
}

#[tokio::test(start_paused = true)]
async fn a_broken_or_silent_body_goes_on_where_it_stopped() {
    let part = |range: &str, body: &str| {
        answer(
            "206 Partial Content",
            &format!("etag: \"e1\"\r\ncontent-range: bytes {range}/10\r\n"),
            body,
        )
    };
    let cut = |bytes: Vec<u8>, by: usize| bytes[..bytes.len() - by].to_vec();
    let peer = Peer::new([
        Step::AnswerAndBreak(cut(object("0123456789"), 7)),
        Step::AnswerAndHang(cut(part("3-9", "3456789"), 5)),
        Step::Answer(part("5-9", "56789")),
    ]);
    let client = client(&peer).await;
    assert_eq!(read(&client, None).await.expect("whole"), "0123456789");
    let seen = peer.seen();
    assert_eq!(header(&seen[0], "range"), None);
    for (head, range) in seen[1..].iter().zip(["bytes=3-9", "bytes=5-9"]) {
        assert_eq!(header(head, "range"), Some(range));
        assert_eq!(header(head, "if-match"), Some("\"e1\""));
    }
    assert_eq!(
        client
            .metrics()
            .received_bytes
            .load(std::sync::atomic::Ordering::Relaxed),
        10
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_version_is_gone_is_stale() {
    let first = object("0123456789");
    let other = answer(
        "206 Partial Content",
        "etag: \"e2\"\r\ncontent-range: bytes 3-9/10\r\n",
        "3456789",
    );
    let resumptions = [
        error("412 Precondition Failed", "PreconditionFailed"),
        error("404 Not Found", "NoSuchKey"),
        other,
    ];
    for resumption in resumptions {
        let peer = Peer::new([
            Step::AnswerAndBreak(first[..first.len() - 7].to_vec()),
            Step::Answer(resumption),
        ]);
        let result = read(&client(&peer).await, None).await;
        assert_eq!(kind(&result), Some(ErrorKind::Stale), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_stall_timeout() {
    let peer = Peer::new((0..3).map(|_| Step::AnswerAndHang(Vec::new())));
    let client = client(&peer).await;
    let started = rt::now();
    let result = client.head(&id()).await;
    assert_eq!(kind(&result), Some(ErrorKind::TimedOut), "{result:?}");
    assert!(
        started.elapsed() < Duration::from_secs(70),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(result.expect_err("just seen").attempts(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_silence_keeps_unknown_is_a_time_out() {
    let refused = Step::Answer(error("412 Precondition Failed", "PreconditionFailed"));
    let peer = Peer::new(std::iter::once(refused).chain((0..3).map(|_| Step::AnswerAndHang(Vec::new()))));
    let client = client(&peer).await;
    let send = || put(&client, Condition::Absent);
    let settled = settle(&client, &id(), "txn", &Condition::Absent, send).await;
    let error = settled.expect_err("nobody can tell");
    assert_eq!(
        (error.kind(), error.errno()),
        (ErrorKind::Ambiguous, libc::ETIMEDOUT)
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_a_network_error_after_the_stall_timeout() {
    let peer = Peer::new((0..64).map(|_| Step::Refuse));
    let client = client(&peer).await;
    let started = rt::now();
    let result = put(&client, Condition::Absent).await;
    assert_eq!(kind(&result), Some(ErrorKind::Network), "{result:?}");
    let took = started.elapsed();
    assert!(
        took > Duration::from_secs(40) && took < Duration::from_secs(61),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bucket_elsewhere_is_asked_in_its_own_region_from_then_on() {
    let redirect = answer("301 Moved Permanently", "x-amz-bucket-region: eu-north-1\r\n", "");
    let peer = Peer::new([
        Step::Answer(redirect),
        Step::Answer(ok_put()),
        Step::Answer(ok_put()),
    ]);
    let client = client(&peer).await;
    put(&client, Condition::Absent).await.expect("written there");
    put(&client, Condition::Absent).await.expect("written there");
    let regions: Vec<bool> = peer
        .seen()
        .iter()
        .map(|head| head.contains("/eu-north-1/s3/aws4_request"))
        .collect();
    assert_eq!(regions, [false, true, true]);
}

#[tokio::test(start_paused = true)]
async fn the_region_is_also_read_from_a_malformed_authorization() {
    let body =
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>garage</Region></Error>";
    let peer = Peer::new([
        Step::Answer(answer("400 Bad Request", "", body)),
        Step::Answer(object("x")),
    ]);
    assert_eq!(read(&client(&peer).await, None).await.expect("read"), "x");
    assert!(peer.seen()[1].contains("/garage/s3/aws4_request"));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_is_told_with_the_servers_time() {
    let body = "<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>";
    let reply = answer("403 Forbidden", "date: Tue, 01 Jan 2030 00:00:00 GMT\r\n", body);
    let peer = Peer::new([Step::Answer(reply)]);
    let result = read(&client(&peer).await, None).await;
    assert_eq!(kind(&result), Some(ErrorKind::Invalid));
    let message = result.expect_err("just seen").to_string();
    assert!(
        message.contains("clock") && message.contains("2030-01-01T00:00:00Z"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_crc32c_gets_content_md5_and_is_remembered() {
    let refusal = || Step::Answer(error("501 Not Implemented", "NotImplemented"));
    let peer = Peer::new([refusal(), Step::Answer(ok_put()), Step::Answer(ok_put())]);
    let mut known = Capabilities::s3();
    known.set(Feature::Crc32c, Support::Unknown);
    let client = client_with(
        &peer,
        ClientOptions {
            capabilities: known,
            ..options()
        },
    )
    .await;
    put(&client, Condition::Absent).await.expect("written");
    put(&client, Condition::Absent).await.expect("written");
    assert_eq!(client.capabilities().get(Feature::Crc32c), Support::Refused);
    let md5: Vec<Option<String>> = peer
        .seen()
        .iter()
        .map(|head| header(head, "content-md5").map(str::to_owned))
        .collect();
    let expected = Some("XrY7u+Ae7tCTyyK7j1rNww==".to_owned());
    assert_eq!(md5, [None, expected.clone(), expected]);
}

#[tokio::test(start_paused = true)]
async fn where_conditions_are_ignored_the_object_is_looked_at_first() {
    let ignoring = || {
        let mut known = Capabilities::s3();
        known.set(Feature::PutIfMatch, Support::Ignored);
        known.set(Feature::PutIfNoneMatch, Support::Refused);
        ClientOptions {
            capabilities: known,
            ..options()
        }
    };
    let there = || Step::Answer(object(""));
    let peer = Peer::new([there(), there(), Step::Answer(ok_put())]);
    let client = client_with(&peer, ignoring()).await;
    let other = put(&client, Condition::Matches(ETag::new("other"))).await;
    assert_eq!(kind(&other), Some(ErrorKind::PreconditionFailed));
    put(&client, Condition::Matches(ETag::new("e1")))
        .await
        .expect("the same version");
    let methods: Vec<String> = peer.seen().iter().map(|head| head[..4].to_owned()).collect();
    assert_eq!(methods, ["HEAD", "HEAD", "PUT "]);

    let peer = Peer::new([
        Step::Answer(answer("404 Not Found", "", "")),
        Step::Answer(ok_put()),
    ]);
    put(&client_with(&peer, ignoring()).await, Condition::Absent)
        .await
        .expect("absent");
    assert_eq!(
        header(&peer.seen()[1], "if-none-match"),
        None,
        "a refused condition is not sent"
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_only_client_never_probes() {
    let peer = Peer::new([]);
    let options = ClientOptions {
        capabilities: Capabilities::default(),
        read_only: true,
        ..options()
    };
    let client = client_with(&peer, options).await;
    for feature in Feature::ALL {
        assert_eq!(client.support(feature, "bucket").await, Support::Unknown);
    }
    assert!(peer.seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_probe_serves_all_who_ask_at_the_same_time() {
    let peer = Peer::new([Step::Answer(error(
        "412 Precondition Failed",
        "PreconditionFailed",
    ))]);
    let options = ClientOptions {
        capabilities: Capabilities::default(),
        ..options()
    };
    let client = client_with(
        &peer,
        ClientOptions {
            probe_prefix: "data/".into(),
            ..options
        },
    )
    .await;
    let ask = || client.support(Feature::PutIfMatch, "bucket");
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    assert_eq!(
        (a, b, c),
        (Support::Honoured, Support::Honoured, Support::Honoured)
    );
    let head = &peer.seen()[0];
    assert!(head.starts_with("PUT /bucket/data/.pailfs-probe-"), "{head}");
    assert!(header(head, "if-match").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_not_allowed_is_not_repeated() {
    let peer = Peer::new([Step::Answer(error("403 Forbidden", "AccessDenied"))]);
    let client = client_with(
        &peer,
        ClientOptions {
            capabilities: Capabilities::default(),
            ..options()
        },
    )
    .await;
    assert_eq!(
        client.support(Feature::PutIfMatch, "bucket").await,
        Support::Unknown
    );
    assert_eq!(
        client.support(Feature::PutIfMatch, "bucket").await,
        Support::Unknown
    );
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_ignoring_store_created_for_a_probe_is_removed() {
    let peer = Peer::new([
        Step::Answer(ok_put()),
        Step::Answer(answer("204 No Content", "", "")),
    ]);
    let client = client_with(
        &peer,
        ClientOptions {
            capabilities: Capabilities::default(),
            ..options()
        },
    )
    .await;
    assert_eq!(
        client.support(Feature::PutIfMatch, "bucket").await,
        Support::Ignored
    );
    let seen = peer.seen();
    let path = |head: &str| head.split(['?', ' ']).nth(1).map(str::to_owned);
    assert!(seen[1].starts_with("DELETE "), "{}", seen[1]);
    assert_eq!(path(&seen[0]), path(&seen[1]));
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_probe_left_is_removed_if_it_is_old_and_ours() {
    let listed = |name: &str, year: u32, size: u32| {
        format!(
            "<Contents><Key>.pailfs-probe-{name}</Key><Size>{size}</Size><ETag>\"e1\"</ETag>\
             <LastModified>{year}-01-01T00:00:00.000Z</LastModified></Contents>"
        )
    };
    let page = [
        listed("old", 2020, 1),
        listed("foreign", 2020, 1),
        listed("large", 2020, 2),
        listed("new", 2999, 1),
    ]
    .concat();
    let marked =
        "etag: \"e1\"\r\nlast-modified: Wed, 01 Jan 2020 00:00:00 GMT\r\nx-amz-meta-pailfs-probe: 1\r\n";
    let peer = Peer::new([
        Step::Answer(answer(
            "200 OK",
            "",
            &format!("<ListBucketResult>{page}</ListBucketResult>"),
        )),
        Step::Answer(answer("200 OK", marked, "")),
        Step::Answer(answer("204 No Content", "", "")),
        Step::Answer(object("")),
        Step::Answer(ok_put()),
        Step::Answer(error("412 Precondition Failed", "PreconditionFailed")),
        Step::Answer(answer("204 No Content", "", "")),
    ]);
    let options = ClientOptions {
        capabilities: Capabilities::default(),
        ..options()
    };
    let client = client_with(&peer, options).await;
    let support = client.support(Feature::PutIfNoneMatch, "bucket").await;
    assert_eq!(support, Support::Honoured);
    let seen = peer.seen();
    let removed = |head: &&String| head.starts_with("DELETE ");
    assert!(
        seen[2].starts_with("DELETE /bucket/.pailfs-probe-old?"),
        "{}",
        seen[2]
    );
    assert_eq!(seen.iter().filter(removed).count(), 2, "{seen:#?}");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_nobody_reads_hold_up_other_bodies_but_no_small_requests() {
    let peer = Peer::new([Step::Answer(object("0123456789")), Step::Answer(object(""))]);
    let client = client_with(
        &peer,
        ClientOptions {
            max_connections: 2,
            ..options()
        },
    )
    .await;
    let request = GetRequest {
        id: id(),
        range: None,
        if_match: None,
        version_id: None,
    };
    let unread = client.get(&request).await.expect("a body");
    client.head(&id()).await.expect("small requests pass");
    let second = client.get(&request).await;
    assert_eq!(kind(&second), Some(ErrorKind::TimedOut));
    drop(unread);
    assert_eq!(peer.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn metadata_that_is_no_utf8_is_still_readable() {
    let mut reply = b"HTTP/1.1 200 OK\r\netag: \"e1\"\r\ncontent-length: 0\r\nx-amz-meta-a: caf".to_vec();
    reply.extend_from_slice(b"\xe9\r\nx-amz-meta-b: =?UTF-8?B?Y2Fmw6k=?=\r\nx-amz-tagging-count: 2\r\n\r\n");
    let peer = Peer::new([Step::Answer(reply)]);
    let info = client(&peer).await.head(&id()).await.expect("readable");
    assert_eq!(
        (&*info.headers.metadata["a"], &*info.headers.metadata["b"]),
        ("café", "café")
    );
    assert_eq!(info.headers.unread_tags, 2);
}

#[tokio::test(start_paused = true)]
async fn requests_are_unsigned_when_asked_to_be() {
    let peer = Peer::new([Step::Answer(object("x"))]);
    let unsigned = ClientOptions {
        no_sign_request: true,
        credentials: None,
        ..options()
    };
    assert_eq!(
        read(&client_with(&peer, unsigned).await, None)
            .await
            .expect("public"),
        "x"
    );
    assert_eq!(header(&peer.seen()[0], "authorization"), None);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_never_answered_is_given_up_after_a_few_attempts() {
    let refusals = || (0..100).map(|_| Step::Refuse);
    for answer in [
        client(&Peer::new(refusals()))
            .await
            .first_head_bucket("bucket")
            .await,
        client(&Peer::new(refusals()))
            .await
            .first_list_buckets()
            .await
            .map(drop),
    ] {
        let error = answer.expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::Network);
        assert!(error.attempts() <= 7, "{error}");
    }
    // Later, somebody's work depends on it.
    let later = client(&Peer::new(refusals())).await.head_bucket("bucket").await;
    assert!(later.expect_err("nobody is there").attempts() > 10);
    // An answer that asks to wait is an answer.
    let busy = (0..12).map(|_| Step::Answer(error("503 Slow Down", "SlowDown")));
    let peer = Peer::new(busy.chain([Step::Answer(answer("200 OK", "", ""))]));
    client(&peer)
        .await
        .first_head_bucket("bucket")
        .await
        .expect("in the end");
}
