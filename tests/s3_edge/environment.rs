//! What the environment and AWS's configuration files say: where requests go, and what is believed of the store.

use crate::alone::{alone, paused, set};
use crate::peer::{Peer, Step, header};
use crate::{client_with, kind, object, ok_put, options, put, read};
use pailfs::base::error::ErrorKind;
use pailfs::base::object::Condition;
use pailfs::s3::{Capabilities, Client, ClientOptions, Feature, Support};
use std::sync::Arc;

/// Nothing is said on the command line.
fn unsaid() -> ClientOptions {
    ClientOptions {
        endpoint_url: None,
        region: None,
        capabilities: Capabilities::default(),
        read_only: true,
        ..options()
    }
}

async fn client_of(options: ClientOptions) -> Client {
    client_with(&Peer::new([]), options).await
}

#[test]
fn a_store_that_a_profile_names_is_not_taken_for_aws() {
    alone(|home| {
        home.config(
            "[profile local]\nservices = local\nregion = garage\n\
             [services local]\ns3 =\n  endpoint_url = http://storage.test:3900/\n\
             [profile all]\nendpoint_url = http://all.test\n\
             [profile far]\nregion = eu-north-1\n",
        );
        let of = |profile: &str| {
            let profile = Some(profile.to_owned());
            paused(client_of(ClientOptions { profile, ..unsaid() }))
        };
        let named = of("local");
        assert_eq!(named.endpoint(), "http://storage.test:3900");
        assert_eq!(named.region(), "garage");
        assert!(!named.is_aws());
        assert_eq!(named.capabilities(), Capabilities::default());
        assert_eq!(of("all").endpoint(), "http://all.test");
        assert!(!of("all").is_aws());
        let far = of("far");
        assert!(far.is_aws() && far.endpoint() == "aws" && far.region() == "eu-north-1");
        assert_eq!(far.capabilities().get(Feature::PutIfMatch), Support::Honoured);
    });
}

#[test]
fn conditions_are_probed_on_a_store_that_a_profile_names() {
    alone(|home| {
        home.config(
            "[default]\nservices = local\n[services local]\ns3 =\n  endpoint_url = http://storage.test\n",
        );
        paused(async {
            let peer = Peer::new([
                // It takes what cannot match: it honours no condition.
                Step::Answer(ok_put()),
                Step::Answer(crate::answer("204 No Content", "", "")),
            ]);
            let options = ClientOptions {
                read_only: false,
                ..unsaid()
            };
            let client = client_with(&peer, options).await;
            let support = client.support(Feature::PutIfMatch, "bucket").await;
            assert_eq!(support, Support::Ignored);
            assert_eq!(header(&peer.seen()[0], "host"), Some("storage.test"));
        });
    });
}

#[test]
fn variables_name_the_store_unless_they_are_empty_or_to_be_ignored() {
    alone(|_| {
        set(&[
            ("AWS_ENDPOINT_URL_S3", "http://of-s3.test"),
            ("AWS_ENDPOINT_URL", "http://of-all.test"),
        ]);
        let named = || paused(client_of(unsaid())).endpoint().to_owned();
        assert_eq!(named(), "http://of-s3.test");
        let option = ClientOptions {
            endpoint_url: Some("http://option.test".into()),
            ..unsaid()
        };
        assert_eq!(paused(client_of(option)).endpoint(), "http://option.test");
        set(&[("AWS_ENDPOINT_URL_S3", "")]);
        assert_eq!(named(), "http://of-all.test");
        set(&[("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")]);
        assert_eq!(named(), "aws");
    });
}

#[test]
fn a_variable_that_is_no_url_is_refused_at_the_start() {
    alone(|_| {
        set(&[("AWS_ENDPOINT_URL", "localhost:9000")]);
        let made = paused(Client::connect(unsaid(), Arc::default()));
        assert_eq!(kind(&made.map(drop)), Some(ErrorKind::Invalid));
    });
}

#[test]
fn an_endpoint_of_the_environment_is_spoken_to_in_path_style() {
    alone(|_| {
        set(&[("AWS_ENDPOINT_URL", "http://storage.test")]);
        paused(async {
            let peer = Peer::new([Step::Answer(object("x")), Step::Answer(ok_put())]);
            let options = ClientOptions {
                capabilities: Capabilities::s3(),
                ..unsaid()
            };
            let client = client_with(&peer, options).await;
            assert_eq!(read(&client, None).await.expect("read"), "x");
            put(&client, Condition::Absent).await.expect("written");
            for head in peer.seen() {
                assert!(head.contains(" /bucket/key"), "{head}");
                assert_eq!(header(&head, "host"), Some("storage.test"));
            }
        });
    });
}
