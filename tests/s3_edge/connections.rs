//! What connections are made, and to whom: proxies, certificates.

use crate::alone::{alone, set};
use crate::hosts::{Host, ca_bundle};
use crate::peer::header;
use crate::{options, read};
use pailfs::base::error::{ErrorKind, Result};
use pailfs::rt;
use pailfs::s3::{Client, ClientOptions};
use std::sync::Arc;
use std::time::Duration;

/// AWS itself, by way of a host that says it is.
fn aws() -> ClientOptions {
    ClientOptions {
        endpoint_url: None,
        ca_bundle: Some(ca_bundle()),
        stall_timeout: Duration::from_secs(20),
        ..options()
    }
}

/// A store whose name nobody resolves but a proxy.
fn far(scheme: &str) -> ClientOptions {
    ClientOptions {
        endpoint_url: Some(format!("{scheme}://storage.invalid")),
        ..aws()
    }
}

/// Reads one object over connections of its own.
fn read_one(options: ClientOptions) -> Result<String> {
    rt::build().expect("threads").block_on(async {
        let client = Client::connect(options, Arc::default()).await?;
        read(&client, None).await
    })
}

fn first_lines(host: &Host) -> Vec<String> {
    let line = |head: &String| head.lines().next().unwrap_or_default().to_owned();
    host.seen().iter().map(line).collect()
}

#[test]
fn https_goes_through_the_proxy_of_the_environment() {
    alone(|_| {
        let proxy = Host::proxy();
        let address = format!("http://user:word@127.0.0.1:{}", proxy.port);
        set(&[("HTTPS_PROXY", &address)]);
        assert_eq!(read_one(aws()).expect("read"), "x");
        set(&[("AWS_USE_FIPS_ENDPOINT", "true")]);
        assert_eq!(read_one(aws()).expect("read"), "x");
        assert_eq!(
            first_lines(&proxy),
            [
                "CONNECT bucket.s3.us-east-1.amazonaws.com:443 HTTP/1.1",
                "GET /key?x-id=GetObject HTTP/1.1",
                "CONNECT bucket.s3-fips.us-east-1.amazonaws.com:443 HTTP/1.1",
                "GET /key?x-id=GetObject HTTP/1.1",
            ]
        );
        let seen = proxy.seen();
        let basic = Some("Basic dXNlcjp3b3Jk");
        assert_eq!(header(&seen[0], "proxy-authorization"), basic);
        assert_eq!(
            header(&seen[1], "proxy-authorization"),
            None,
            "the store is not told the proxy's password"
        );
    });
}

#[test]
fn http_goes_through_its_proxy_in_absolute_form() {
    alone(|_| {
        let proxy = Host::proxy();
        // curl reads only the small letters of this one, for the sake of CGI.
        set(&[("http_proxy", &format!("http://127.0.0.1:{}", proxy.port))]);
        assert_eq!(read_one(far("http")).expect("read"), "x");
        assert_eq!(
            first_lines(&proxy),
            ["GET http://storage.invalid/bucket/key?x-id=GetObject HTTP/1.1"]
        );
    });
}

#[test]
fn what_no_proxy_names_is_reached_directly() {
    alone(|_| {
        let (proxy, server) = (Host::proxy(), Host::tls());
        let address = format!("http://127.0.0.1:{}", proxy.port);
        set(&[
            ("ALL_PROXY", &address),
            ("HTTPS_PROXY", &address),
            ("http_proxy", &address),
            ("NO_PROXY", "other.test,.invalid"),
        ]);
        for scheme in ["http", "https"] {
            let soon_given_up = ClientOptions {
                stall_timeout: Duration::from_millis(500),
                ..far(scheme)
            };
            assert!(read_one(soon_given_up).is_err(), "nobody knows that name");
        }
        let near = ClientOptions {
            endpoint_url: Some(format!("https://127.0.0.1:{}", server.port)),
            ..aws()
        };
        assert_eq!(read_one(near).expect("read"), "x");
        assert_eq!(first_lines(&proxy), [""; 0]);
        assert_eq!(first_lines(&server), ["GET /bucket/key?x-id=GetObject HTTP/1.1"]);
    });
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    alone(|_| {
        let server = Host::tls();
        let to_server = |ca_bundle| ClientOptions {
            endpoint_url: Some(format!("https://127.0.0.1:{}", server.port)),
            ca_bundle,
            ..aws()
        };
        let refused = read_one(to_server(None)).expect_err("nobody vouches for it");
        assert_eq!(refused.kind(), ErrorKind::Network);
        assert!(refused.message().contains("--ca-bundle"), "{refused}");
        assert_eq!(refused.attempts(), 1, "no retry will help");
        assert_eq!(first_lines(&server), [""; 0]);
        assert_eq!(read_one(to_server(Some(ca_bundle()))).expect("trusted"), "x");
        let bundle = ca_bundle();
        set(&[("AWS_CA_BUNDLE", bundle.to_str().expect("UTF-8"))]);
        assert_eq!(read_one(to_server(None)).expect("trusted"), "x");
    });
}
