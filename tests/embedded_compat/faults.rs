//! Faults, quirks, counts, and the store without sockets or real time.

use crate::support::{
    BUCKET, Fixture, MIB, NO_ETAG, client, config, get, pattern, put, refused, refused_as, run, streamed,
};
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use hyper_util::rt::TokioIo;
use pailfs::embedded::{Fault, Operation, Quirks, Server, ServerOptions, Store, StoreOptions, When};
use std::collections::HashMap;
use std::time::Duration;

/// The request did not get an answer.
#[track_caller]
fn lost<T: std::fmt::Debug, E: std::fmt::Debug>(answer: Result<T, SdkError<E>>) {
    let error = answer.expect_err("no answer");
    assert!(error.raw_response().is_none(), "{error:?}");
}

#[test]
fn the_nth_request_is_refused_and_not_applied() {
    run(async {
        let s3 = Fixture::new().await;
        let put = |key: &str| {
            s3.put_object()
                .bucket(BUCKET)
                .key(key)
                .body(ByteStream::from_static(b"x"))
                .send()
        };
        let fault = s3
            .server
            .faults()
            .inject(When::on(Operation::Put).nth(2), Fault::Answer("SlowDown"));
        put("1").await.unwrap();
        let refusal = put("2").await;
        assert_eq!(crate::support::status(&refusal), Some(503));
        refused_as(refusal, "SlowDown");
        put("3").await.unwrap();
        assert_eq!(s3.server.faults().struck(fault), 1);
        refused(s3.head_object().bucket(BUCKET).key("2").send().await, 404);

        s3.server
            .faults()
            .inject(When::any().for_ever(), Fault::Answer("AccessDenied"));
        refused(put("4").await, 403);
        refused(s3.list_objects_v2().bucket(BUCKET).send().await, 403);
        s3.server.faults().clear();
        put("4").await.unwrap();
    });
}

#[test]
fn a_refused_large_body_still_gets_its_answer() {
    run(async {
        let s3 = Fixture::new().await;
        s3.server.faults().inject(
            When::on(Operation::Put).for_ever(),
            Fault::Answer("InternalError"),
        );
        for _ in 0..5 {
            let put = s3
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .body(ByteStream::from(vec![1; 12 * MIB]));
            refused(put.send().await, 500);
        }
    });
}

#[test]
fn a_lost_reply_is_applied_and_a_lost_request_is_not() {
    run(async {
        let s3 = Fixture::new().await;
        let put = |key: &str| {
            s3.put_object()
                .bucket(BUCKET)
                .key(key)
                .body(ByteStream::from_static(b"x"))
                .send()
        };
        s3.server
            .faults()
            .inject(When::any().key("applied"), Fault::LoseReply);
        s3.server
            .faults()
            .inject(When::any().key("dropped"), Fault::Disconnect);
        lost(put("applied").await);
        lost(put("dropped").await);
        assert_eq!(get(&s3, "applied").await, "x");
        refused(s3.head_object().bucket(BUCKET).key("dropped").send().await, 404);
    });
}

#[test]
fn bodies_are_cut_and_changed() {
    run(async {
        let s3 = Fixture::new().await;
        let data = pattern(3 * MIB, 8);
        put(&s3, "k", data.to_vec()).await;
        s3.server.faults().inject(
            When::on(Operation::Get),
            Fault::CutBody {
                after_bytes: 2_000_000,
            },
        );
        let mut body = s3.get_object().bucket(BUCKET).key("k").send().await.unwrap().body;
        let mut received = Vec::new();
        let error = loop {
            match body.next().await {
                Some(Ok(bytes)) => received.extend_from_slice(&bytes),
                Some(Err(error)) => break error,
                None => panic!("a cut body must not end well"),
            }
        };
        // The rest may be lost in buffers on the way.
        assert!(
            received.len() <= 2_000_000 && data.starts_with(&received),
            "{} {error}",
            received.len()
        );

        s3.server
            .faults()
            .inject(When::on(Operation::Get), Fault::FlipByte { at_bytes: 1_500_000 });
        let answer = s3.get_object().bucket(BUCKET).key("k").send().await.unwrap();
        // The whole object carries its checksum, which the SDK verifies.
        assert!(answer.body.collect().await.is_err());
        s3.server
            .faults()
            .inject(When::on(Operation::Get), Fault::FlipByte { at_bytes: 5 });
        let range = s3
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .range("bytes=100-199")
            .send()
            .await
            .unwrap();
        let received = range.body.collect().await.unwrap().into_bytes();
        let differing: Vec<usize> = (0..100).filter(|at| received[*at] != data[100 + at]).collect();
        assert_eq!(differing, [5]);
    });
}

#[test]
fn a_malformed_listing_is_an_error() {
    run(async {
        let s3 = Fixture::new().await;
        s3.server
            .faults()
            .inject(When::on(Operation::List), Fault::MalformedXml);
        assert!(s3.list_objects_v2().bucket(BUCKET).send().await.is_err());
        s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    });
}

#[test]
fn a_body_can_end_early_as_if_it_were_whole() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "k", "0123456789").await;
        s3.server
            .faults()
            .inject(When::on(Operation::Get), Fault::ShortenBody { to_bytes: 4 });
        let answer = s3
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .range("bytes=0-9")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.content_length(), Some(4));
        assert_eq!(answer.content_range(), Some("bytes 0-9/10"));
        assert_eq!(answer.body.collect().await.unwrap().into_bytes(), "0123");
    });
}

#[test]
fn a_stalled_request_does_not_keep_the_server_from_ending() {
    run(async {
        let s3 = Fixture::new().await;
        s3.server.faults().inject(When::on(Operation::Head), Fault::Stall);
        let request = tokio::spawn(s3.head_object().bucket(BUCKET).key("k").send());
        while s3.server.counts().of(Operation::Head) == 0 {
            tokio::task::yield_now().await;
        }
        let Fixture { server, dir, .. } = s3;
        server.shutdown().await;
        assert!(request.await.unwrap().is_err());
        let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        client(&server).head_bucket().bucket(BUCKET).send().await.unwrap();
    });
}

#[test]
fn requests_are_counted_and_logged() {
    run(async {
        let s3 = Fixture::new().await;
        s3.server.counts().reset();
        s3.server.counts().set_logging(true);
        put(&s3, "k", "x").await;
        get(&s3, "k").await;
        refused(s3.head_object().bucket(BUCKET).key("other").send().await, 404);
        let counts = s3.server.counts();
        assert_eq!(
            counts.log(),
            [
                (Operation::Put, "k".to_owned()),
                (Operation::Get, "k".to_owned()),
                (Operation::Head, "other".to_owned()),
            ]
        );
        assert_eq!((counts.of(Operation::Put), counts.total()), (1, 3));
        assert_eq!(counts.all().len(), 3);
        counts.reset();
        assert_eq!((counts.total(), counts.log().len()), (0, 0));
    });
}

#[test]
fn poorer_stores_ignore_conditions() {
    run(async {
        let s3 = Fixture::new().await;
        put(&s3, "k", "1").await;
        let put = || s3.put_object().bucket(BUCKET).key("k").if_none_match("*").send();
        let copy = || {
            s3.copy_object()
                .bucket(BUCKET)
                .key("k")
                .copy_source(format!("{BUCKET}/s"))
                .if_match(NO_ETAG)
        };
        let delete = || {
            s3.delete_object()
                .bucket(BUCKET)
                .key("k")
                .if_match(NO_ETAG)
                .send()
        };
        crate::support::put(&s3, "s", "2").await;
        refused(put().await, 412);
        refused(copy().send().await, 412);
        refused(delete().await, 412);
        s3.server.set_quirks(Quirks {
            ignore_put_conditions: true,
            ..Quirks::default()
        });
        put().await.unwrap();
        refused(delete().await, 412);
        s3.server.set_quirks(Quirks {
            ignore_copy_conditions: true,
            ..Quirks::default()
        });
        copy().send().await.unwrap();
        refused(copy().copy_source_if_match(NO_ETAG).send().await, 412);
        s3.server.set_quirks(Quirks {
            ignore_delete_conditions: true,
            ..Quirks::default()
        });
        delete().await.unwrap();
        refused(s3.head_object().bucket(BUCKET).key("k").send().await, 404);
    });
}

#[test]
fn poorer_stores_forget_and_mix_up() {
    run(async {
        let s3 = Fixture::new().await;
        s3.server.set_quirks(Quirks {
            no_checksum_algorithms_in_listings: true,
            unordered_listings: true,
            forget_metadata_of_markers: true,
            reject_checksum_trailers: true,
            ..Quirks::default()
        });
        for key in ["a/", "b"] {
            s3.put_object()
                .bucket(BUCKET)
                .key(key)
                .metadata("m", "1")
                .send()
                .await
                .unwrap();
        }
        let head = |key: &str| s3.head_object().bucket(BUCKET).key(key).send();
        assert!(head("a/").await.unwrap().metadata().is_none_or(HashMap::is_empty));
        assert!(
            head("b")
                .await
                .unwrap()
                .metadata()
                .is_some_and(|metadata| !metadata.is_empty())
        );
        let page = s3.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        assert_eq!(
            page.contents()
                .iter()
                .filter_map(|object| object.key())
                .collect::<Vec<_>>(),
            ["b", "a/"]
        );
        assert!(
            page.contents()
                .iter()
                .all(|object| object.checksum_algorithm().is_empty())
        );
        let data = pattern(100_000, 9);
        let put = s3
            .put_object()
            .bucket(BUCKET)
            .key("k")
            .checksum_algorithm(ChecksumAlgorithm::Crc32C);
        refused(
            put.content_length(100_000).body(streamed(&data)).send().await,
            501,
        );
    });
}

#[test]
fn etags_can_be_arbitrary() {
    run(async {
        let s3 = Fixture::new().await;
        s3.server.set_quirks(Quirks {
            opaque_etags: true,
            ..Quirks::default()
        });
        let first = put(&s3, "k", "same").await;
        let second = put(&s3, "k", "same").await;
        let copy = s3
            .copy_object()
            .bucket(BUCKET)
            .key("c")
            .copy_source(format!("{BUCKET}/k"));
        let third = copy
            .if_none_match("*")
            .send()
            .await
            .unwrap()
            .copy_object_result
            .unwrap()
            .e_tag
            .unwrap();
        assert!(first != second && second != third && first != third);
        s3.delete_object()
            .bucket(BUCKET)
            .key("k")
            .if_match(second)
            .send()
            .await
            .unwrap();
        assert_eq!(get(&s3, "c").await, "same");
        let wrong = s3
            .put_object()
            .bucket(BUCKET)
            .key("k")
            .content_md5("1B2M2Y8AsgTpgAmY7PhCfg==");
        refused(wrong.body(ByteStream::from_static(b"x")).send().await, 400);
    });
}

/// Puts every request of the SDK on an in-process connection of its own.
#[derive(Clone, Debug)]
struct InProcess(StoreHandle);

#[derive(Clone)]
struct StoreHandle(Store);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let store = self.0.0.clone();
        HttpConnectorFuture::new(async move {
            let failed = |error: Box<dyn std::error::Error + Send + Sync>| ConnectorError::io(error);
            let mut request = request.try_into_http1x().map_err(|error| failed(error.into()))?;
            // What a pooling client does: the host in a header, the path in the first line.
            let host = request.uri().authority().unwrap().as_str().parse().unwrap();
            request.headers_mut().insert(http::header::HOST, host);
            *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move { store.serve_connection(theirs).await });
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours))
                .await
                .map_err(|error| failed(error.into()))?;
            tokio::spawn(connection);
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| failed(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x)).map_err(|error| failed(error.into()))
        })
    }
}

impl HttpClient for InProcess {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

#[test]
fn in_memory_and_in_process_time_can_stand_still() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreOptions::in_memory()).unwrap();
        let http = InProcess(StoreHandle(store.clone()));
        let s3 = Client::from_conf(config("http://in.process").http_client(http).build());
        s3.create_bucket().bucket(BUCKET).send().await.unwrap();
        let data = pattern(6 * MIB, 10);
        let started = tokio::time::Instant::now();
        put(&s3, "k", data.to_vec()).await;
        assert_eq!(get(&s3, "k").await, data);
        assert_eq!(
            started.elapsed(),
            Duration::ZERO,
            "the clock moved: somebody waited for a thread"
        );

        store
            .faults()
            .inject(When::on(Operation::Get), Fault::Delay(Duration::from_hours(1)));
        get(&s3, "k").await;
        let passed = started.elapsed();
        assert!(
            (Duration::from_hours(1)..Duration::from_secs(3601)).contains(&passed),
            "{passed:?}"
        );

        store.faults().inject(
            When::on(Operation::Get),
            Fault::StallBody {
                after_bytes: 1_000_000,
            },
        );
        let mut body = s3.get_object().bucket(BUCKET).key("k").send().await.unwrap().body;
        let mut received = 0;
        while let Ok(Some(chunk)) = tokio::time::timeout(Duration::from_mins(10), body.next()).await {
            match chunk {
                Ok(bytes) => received += bytes.len(),
                // The SDK has its own idea of how long a stall may last.
                Err(_) => break,
            }
        }
        assert_eq!(received, 1_000_000);
    });
}
