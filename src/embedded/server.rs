//! The store behind a TCP port.

use super::counts::Counts;
use super::faults::{Faults, Quirks};
use super::store::{Store, StoreOptions};
use crate::base::error::{Error, Result};
use crate::rt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long a shutdown waits for requests under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server needs to start.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub data_dir: PathBuf,
    /// Port 0 takes any free one.
    pub address: SocketAddr,
    pub access_key: String,
    pub secret_key: String,
    pub region: String,
    /// See [`StoreOptions::durable`].
    pub durable: bool,
}

impl ServerOptions {
    /// On a free port of the loopback interface, with well-known keys.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let store = StoreOptions::in_memory();
        Self {
            data_dir: data_dir.into(),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            access_key: store.access_key,
            secret_key: store.secret_key,
            region: store.region,
            durable: store.durable,
        }
    }
}

/// A running server. Dropping it closes the port and every connection at once.
pub struct Server {
    store: Store,
    address: SocketAddr,
    closing: watch::Sender<bool>,
    listening: rt::JoinHandle<()>,
}

impl Server {
    /// Opens the store and serves it on the current runtime.
    ///
    /// # Errors
    /// Those of [`Store::open`]; `LocalIo` when the address cannot be bound.
    pub async fn start(options: ServerOptions) -> Result<Self> {
        let store_options = StoreOptions {
            data_dir: Some(options.data_dir),
            access_key: options.access_key,
            secret_key: options.secret_key,
            region: options.region,
            durable: options.durable,
        };
        let store = rt::blocking(move || Store::open(store_options)).await?;
        Self::serve(store, options.address).await
    }

    /// Serves a store that is open already.
    ///
    /// # Errors
    /// `LocalIo` when the address cannot be bound.
    pub async fn serve(store: Store, address: SocketAddr) -> Result<Self> {
        let failed = |error| Error::local_io(&error, format_args!("listening on {address}"));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (closing, is_closing) = watch::channel(false);
        let listening = rt::spawn(listen(store.clone(), listener, is_closing));
        Ok(Self {
            store,
            address,
            closing,
            listening,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn faults(&self) -> &Faults {
        self.store.faults()
    }

    pub fn counts(&self) -> &Counts {
        self.store.counts()
    }

    pub fn set_quirks(&self, quirks: Quirks) {
        self.store.set_quirks(quirks);
    }

    /// Stops listening, lets requests under way finish for a moment, then closes every connection. Afterwards the
    /// directory can be opened again, once every other handle on the store is dropped.
    pub async fn shutdown(mut self) {
        self.closing.send_replace(true);
        if let Err(error) = (&mut self.listening).await {
            tracing::warn!(%error, "the server did not shut down in order");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// The tasks of connections; they end when this is dropped.
#[derive(Default)]
struct Connections(Vec<rt::JoinHandle<()>>);

impl Connections {
    fn add(&mut self, task: rt::JoinHandle<()>) {
        self.0.retain(|task| !task.is_finished());
        self.0.push(task);
    }

    async fn finish(mut self) {
        let patience_ends = rt::now() + SHUTDOWN_PATIENCE;
        for mut task in std::mem::take(&mut self.0) {
            let left = patience_ends.saturating_duration_since(rt::now());
            if rt::timeout(left, &mut task).await.is_err() {
                task.abort();
                // Cancelled, as was asked for.
                let _ = task.await;
            }
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn listen(store: Store, listener: TcpListener, mut closing: watch::Receiver<bool>) {
    let mut connections = Connections::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.add(rt::spawn(serve(store.clone(), stream, closing.clone()))),
                // Out of descriptors, mostly: give the open connections time to close.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    rt::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = closing.changed() => break,
        }
    }
    drop(listener);
    connections.finish().await;
}

async fn serve(store: Store, stream: TcpStream, mut closing: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    store
        .serve_until(stream, async {
            // The sender gone means the same as its word.
            let _ = closing.wait_for(|is_closing| *is_closing).await;
        })
        .await;
}
