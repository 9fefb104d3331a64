//! Hosts on loopback ports: a proxy, and a server with TLS. Both answer every request with one object.
//!
//! The certificates in `tls` are made for a hundred years, the authority's key is thrown away: `openssl req -x509` for
//! `ca.pem`, `openssl x509 -req -CA ca.pem` for `server.pem`, with the names that the tests use.

use crate::object;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The certificate of the authority that the servers' is signed by.
pub fn ca_bundle() -> PathBuf {
    tls_file("ca.pem")
}

fn tls_file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/s3_edge/tls", name]
        .iter()
        .collect()
}

/// A host, and the heads of all requests that it has seen, those inside of its tunnels too.
pub struct Host {
    pub port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// A proxy whose tunnels all end in a server with TLS, here.
    pub fn proxy() -> Self {
        Self::start(serve)
    }

    /// A server with TLS.
    pub fn tls() -> Self {
        Self::start(|stream, seen| serve(tls(stream), seen))
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").clone()
    }

    fn start(serve: impl Fn(TcpStream, &Mutex<Vec<String>>) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let all = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serve, seen) = (serve.clone(), all.clone());
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { port, seen }
    }
}

/// What is spoken over: TCP, and TLS over it.
trait Spoken: Read + Write {
    /// The inside of a tunnel.
    fn tunnel(self) -> StreamOwned<ServerConnection, TcpStream>;
}

impl Spoken for TcpStream {
    fn tunnel(self) -> StreamOwned<ServerConnection, TcpStream> {
        tls(self)
    }
}

impl Spoken for StreamOwned<ServerConnection, TcpStream> {
    fn tunnel(self) -> Self {
        panic!("a tunnel in a tunnel")
    }
}

/// Until the other side is gone, or hangs up because it does not trust us.
fn serve<S: Spoken>(mut stream: S, seen: &Mutex<Vec<String>>) {
    while let Some(head) = read_head(&mut stream) {
        let is_tunnel = head.starts_with("CONNECT ");
        seen.lock().expect("no panic").push(head);
        if is_tunnel {
            if stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_ok() {
                serve(stream.tunnel(), seen);
            }
            return;
        }
        if stream
            .write_all(&object("x"))
            .and_then(|()| stream.flush())
            .is_err()
        {
            return;
        }
    }
}

fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

fn tls(stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    let certificate = CertificateDer::from_pem_file(tls_file("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(tls_file("server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    let connection = ServerConnection::new(Arc::new(config)).expect("a connection");
    StreamOwned::new(connection, stream)
}
