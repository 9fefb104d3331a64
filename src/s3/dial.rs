//! Makes connections: directly, through the proxies of the environment, or by the caller's own means (tests).
//!
//! - https through a proxy: a CONNECT tunnel; http through a proxy: requests in absolute form (RFC 9112,
//!   3.2.2).
//! - The instance metadata service and the machine itself are never asked for through a proxy.

use super::resolver::RotatingResolver;
use http::{HeaderValue, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

const KEEPALIVE: Duration = Duration::from_mins(1);

/// Anything that HTTP can be spoken over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A way to make connections that replaces TCP: the real HTTP stack and the real SDK stay above it.
#[derive(Clone)]
pub struct Dialer(Arc<DialFn>);

type DialFn = dyn Fn() -> BoxFuture<io::Result<Box<dyn Stream>>> + Send + Sync;

impl Dialer {
    /// `dial` is called for each new connection.
    pub fn new<F, Fut, S>(dial: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Arc::new(move || {
            let dialing = dial();
            Box::pin(async move { Ok(Box::new(dialing.await?) as Box<dyn Stream>) })
        }))
    }
}

trait HyperStream: hyper::rt::Read + hyper::rt::Write + Send + Unpin {}
impl<T: hyper::rt::Read + hyper::rt::Write + Send + Unpin> HyperStream for T {}

/// A connection without TLS of its own (a tunnelled one may run inside the proxy's TLS).
pub(super) struct Dialed {
    stream: Box<dyn HyperStream>,
    /// True: requests name the whole URI, because a proxy reads them.
    absolute_form: bool,
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.absolute_form)
    }
}

impl hyper::rt::Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
}

/// The proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, as curl reads them).
pub(super) struct Proxies(Matcher);

impl Proxies {
    pub(super) fn from_env() -> Self {
        Self(Matcher::from_env())
    }

    #[cfg(test)]
    pub(super) fn all_through(proxy: &str) -> Self {
        Self(Matcher::builder().all(proxy).build())
    }

    fn of(&self, uri: &Uri) -> Option<Intercept> {
        if uri.host().is_some_and(is_local) {
            None
        } else {
            self.0.intercept(uri)
        }
    }

    /// What a plain request to `uri` must carry to pass its proxy.
    pub(super) fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        self.of(uri)?.basic_auth().cloned()
    }
}

/// This machine and link-local addresses (instance metadata, container credentials).
fn is_local(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => {
            let instance_metadata: std::net::Ipv6Addr = [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254].into();
            address.is_loopback() || address == instance_metadata
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// Makes the connection below TLS.
#[derive(Clone)]
pub(super) struct Connect {
    tcp: HttpConnector<RotatingResolver>,
    to_proxy: HttpsConnector<HttpConnector<RotatingResolver>>,
    proxies: Arc<Proxies>,
    dialer: Option<Dialer>,
}

impl Connect {
    pub(super) fn new(
        tls: Arc<rustls::ClientConfig>,
        proxies: Arc<Proxies>,
        dialer: Option<Dialer>,
        connect_timeout: Duration,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(RotatingResolver::new());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(connect_timeout));
        let to_proxy = HttpsConnector::from((tcp.clone(), tls));
        Self {
            tcp,
            to_proxy,
            proxies,
            dialer,
        }
    }
}

impl Service<Uri> for Connect {
    type Response = Dialed;
    type Error = BoxError;
    type Future = BoxFuture<Result<Dialed, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Some(Dialer(dial)) = &self.dialer {
            let dialing = dial();
            return Box::pin(async move {
                let stream = Box::new(TokioIo::new(dialing.await?));
                Ok(Dialed {
                    stream,
                    absolute_form: false,
                })
            });
        }
        let Some(proxy) = self.proxies.of(&uri) else {
            let dialing = self.tcp.call(uri);
            return Box::pin(async move {
                Ok(Dialed {
                    stream: Box::new(dialing.await?),
                    absolute_form: false,
                })
            });
        };
        if uri.scheme_str() == Some("https") {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy.clone());
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            let dialing = tunnel.call(uri);
            return Box::pin(async move {
                Ok(Dialed {
                    stream: Box::new(dialing.await?),
                    absolute_form: false,
                })
            });
        }
        let dialing = self.to_proxy.call(proxy.uri().clone());
        Box::pin(async move {
            Ok(Dialed {
                stream: Box::new(dialing.await?),
                absolute_form: true,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_is_never_reached_through_a_proxy() {
        let proxies = Proxies::all_through("http://user:word@proxy.example:3128");
        let asked = |uri: &str| proxies.of(&uri.parse().expect("a URI")).is_some();
        assert!(asked("https://bucket.s3.amazonaws.com/"));
        assert!(asked("http://storage.example:9000/"));
        for local in [
            "http://127.0.0.1:9000/",
            "http://localhost/",
            "http://[::1]:1/",
            "http://169.254.169.254/",
        ] {
            assert!(!asked(local), "{local}");
        }
        let plain: Uri = "http://storage.example/".parse().expect("a URI");
        let tunnelled: Uri = "https://storage.example/".parse().expect("a URI");
        assert!(proxies.authorization(&plain).is_some());
        assert!(
            proxies.authorization(&tunnelled).is_none(),
            "the tunnel carries it, not the request"
        );
    }
}
