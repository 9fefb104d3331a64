//! Whose requests they are: which keys win, and what happens when they are replaced.

use crate::alone::{Home, alone, paused, set};
use crate::peer::{Peer, Step, answer, header};
use crate::{client_with, error, id, kind, object, ok_put, options, put, read};
use pailfs::base::error::ErrorKind;
use pailfs::base::object::Condition;
use pailfs::rt;
use pailfs::s3::{Client, ClientOptions};

/// No keys are given.
fn searching(profile: Option<&str>) -> ClientOptions {
    ClientOptions {
        credentials: None,
        profile: profile.map(str::to_owned),
        ..options()
    }
}

fn keys(profile: &str, id: &str, token: &str) -> String {
    format!(
        "[{profile}]\naws_access_key_id = {id}\naws_secret_access_key = secret\naws_session_token = {token}\n"
    )
}

/// The access key id and the session token of each request.
fn signers(peer: &Peer) -> Vec<(String, String)> {
    let of = |head: &String| {
        let signed = header(head, "authorization").unwrap_or_default();
        let (_, after) = signed.split_once("Credential=").unwrap_or_default();
        let (id, _) = after.split_once('/').unwrap_or_default();
        let token = header(head, "x-amz-security-token").unwrap_or_default();
        (id.to_owned(), token.to_owned())
    };
    peer.seen().iter().map(of).collect()
}

fn signer_of_one_request(options: ClientOptions) -> String {
    paused(async {
        let peer = Peer::new([Step::Answer(object("x"))]);
        read(&client_with(&peer, options).await, None)
            .await
            .expect("read");
        signers(&peer).remove(0).0
    })
}

#[test]
fn a_profile_asked_for_by_name_wins_over_keys_in_the_environment() {
    alone(|home| {
        home.credentials(&keys("work", "OF-WORK", "t"));
        home.config("[profile bare]\nregion = eu-north-1\n");
        set(&[
            ("AWS_ACCESS_KEY_ID", "OF-ENVIRONMENT"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
        assert_eq!(signer_of_one_request(searching(Some("work"))), "OF-WORK");
        assert_eq!(signer_of_one_request(searching(None)), "OF-ENVIRONMENT");
        let of_bare = signer_of_one_request(searching(Some("bare")));
        assert_eq!(of_bare, "OF-ENVIRONMENT", "a profile that says nothing of keys");
        // Named by the environment itself, a profile gives way, as in the AWS tools.
        set(&[("AWS_PROFILE", "work")]);
        assert_eq!(signer_of_one_request(searching(None)), "OF-ENVIRONMENT");
    });
}

#[test]
fn a_profile_that_does_not_exist_is_refused_by_name() {
    alone(|home| {
        home.credentials(&keys("work", "OF-WORK", "t"));
        set(&[
            ("AWS_ACCESS_KEY_ID", "OF-ENVIRONMENT"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
        let made = paused(Client::connect(
            searching(Some("wrok")),
            std::sync::Arc::default(),
        ));
        let error = made.map(drop).expect_err("no such profile");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error.message().contains("wrok") && error.message().contains("work"),
            "{error}"
        );
    });
}

/// A client that has read once with the first keys, which are replaced then.
async fn client_with_replaced_keys(home: &Home, peer: &Peer) -> Client {
    home.credentials(&keys("default", "FIRST", "t1"));
    let client = client_with(peer, searching(None)).await;
    read(&client, None).await.expect("read");
    home.credentials(&keys("default", "SECOND", "t2"));
    client
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(id, token): &(&str, &str)| ((*id).to_owned(), (*token).to_owned());
    expected.iter().map(owned).collect()
}

#[test]
fn replaced_keys_are_read_when_the_store_refuses_the_old_ones() {
    alone(|home| {
        for refusal in [
            error("400 Bad Request", "ExpiredToken"),
            error("400 Bad Request", "InvalidToken"),
            error("400 Bad Request", "TokenRefreshRequired"),
            error("403 Forbidden", "InvalidAccessKeyId"),
            error("403 Forbidden", "SignatureDoesNotMatch"),
        ] {
            paused(async {
                let peer = Peer::new([
                    Step::Answer(object("x")),
                    Step::Answer(refusal),
                    Step::Answer(ok_put()),
                    Step::Answer(object("y")),
                ]);
                let client = client_with_replaced_keys(home, &peer).await;
                put(&client, Condition::Absent).await.expect("written");
                assert_eq!(read(&client, None).await.expect("read"), "y");
                let expected = [
                    ("FIRST", "t1"),
                    ("FIRST", "t1"),
                    ("SECOND", "t2"),
                    ("SECOND", "t2"),
                ];
                assert_eq!(signers(&peer), pairs(&expected));
            });
        }
    });
}

#[test]
fn replaced_keys_are_read_also_when_a_head_is_refused_without_a_word() {
    alone(|home| {
        for status in ["400 Bad Request", "403 Forbidden"] {
            paused(async {
                let peer = Peer::new([
                    Step::Answer(object("x")),
                    Step::Answer(answer(status, "", "")),
                    Step::Answer(object("")),
                ]);
                let client = client_with_replaced_keys(home, &peer).await;
                client.head(&id()).await.expect("there");
                let expected = [("FIRST", "t1"), ("FIRST", "t1"), ("SECOND", "t2")];
                assert_eq!(signers(&peer), pairs(&expected));
            });
        }
    });
}

#[test]
fn all_who_are_refused_at_once_go_on_with_the_new_keys() {
    alone(|home| {
        paused(async {
            let refusal = || Step::Answer(error("400 Bad Request", "ExpiredToken"));
            let peer = Peer::new([
                Step::Answer(object("x")),
                refusal(),
                refusal(),
                Step::Answer(object("y")),
                Step::Answer(object("y")),
            ]);
            let client = client_with_replaced_keys(home, &peer).await;
            let (a, b) = tokio::join!(read(&client, None), read(&client, None));
            assert_eq!((a.expect("read"), b.expect("read")), ("y".into(), "y".into()));
        });
    });
}

#[test]
fn the_same_keys_are_not_sent_again() {
    alone(|home| {
        home.credentials(&keys("default", "FIRST", "t1"));
        paused(async {
            let peer = Peer::new([
                Step::Answer(error("400 Bad Request", "ExpiredToken")),
                Step::Answer(answer("403 Forbidden", "", "")),
                Step::Answer(error("403 Forbidden", "AccessDenied")),
            ]);
            let client = client_with(&peer, searching(None)).await;
            let written = put(&client, Condition::Absent).await;
            assert_eq!(kind(&written), Some(ErrorKind::Denied));
            assert_eq!(kind(&client.head(&id()).await), Some(ErrorKind::Denied));
            assert_eq!(kind(&read(&client, None).await), Some(ErrorKind::Denied));
            assert_eq!(peer.seen().len(), 3);
        });
    });
}

#[test]
fn where_nobody_answers_is_not_asked_for_every_refused_request() {
    alone(|home| {
        home.credentials(&keys("default", "FIRST", "t1"));
        paused(async {
            let refusal = || Step::Answer(error("400 Bad Request", "ExpiredToken"));
            let peer = Peer::new([refusal(), refusal(), refusal()]);
            let client = client_with(&peer, searching(None)).await;
            home.credentials("");
            home.config("[default]\ncredential_process = sleep 20\n");
            let begun = rt::now();
            for _ in 0..3 {
                assert_eq!(kind(&read(&client, None).await), Some(ErrorKind::Denied));
            }
            // On a clock that waits for nothing else.
            assert_eq!(begun.elapsed().as_secs(), 10);
        });
    });
}

#[tokio::test(start_paused = true)]
async fn keys_that_were_given_are_all_there_are() {
    let peer = Peer::new([Step::Answer(error("403 Forbidden", "InvalidAccessKeyId"))]);
    let written = put(&client_with(&peer, options()).await, Condition::Absent).await;
    assert_eq!(kind(&written), Some(ErrorKind::Denied));
    assert_eq!(peer.seen().len(), 1);
}

#[test]
fn keys_in_the_environment_sign_nothing_that_is_to_be_unsigned() {
    alone(|home| {
        home.credentials(&keys("default", "OF-FILE", "t"));
        set(&[
            ("AWS_ACCESS_KEY_ID", "OF-ENVIRONMENT"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
        paused(async {
            let refusal = error("403 Forbidden", "InvalidAccessKeyId");
            let peer = Peer::new([Step::Answer(object("x")), Step::Answer(refusal)]);
            let options = ClientOptions {
                no_sign_request: true,
                ..searching(None)
            };
            let client = client_with(&peer, options).await;
            assert_eq!(read(&client, None).await.expect("public"), "x");
            assert_eq!(kind(&read(&client, None).await), Some(ErrorKind::Denied));
            for head in peer.seen() {
                assert_eq!(header(&head, "authorization"), None);
            }
        });
    });
}
