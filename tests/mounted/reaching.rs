//! How a mount reaches its store: proxies, certificates, unsigned requests.

use crate::support::command::{Running, Tool, bash};
use crate::support::store::Store;
use crate::support::wait_for;
use std::fs;
use std::path::{Path, PathBuf};

crate::on_the_embedded_store!(
    a_proxy_is_used_unless_no_proxy_says_otherwise,
    an_authority_of_ones_own_is_trusted_when_it_is_named,
    unsigned_requests_are_unsigned,
);

/// Stands before a store: as a proxy that notes what it is asked, or as an end of TLS.
const FRONT: &str = r"
import select, socket, ssl, sys, threading
kind, target, notes, tls = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], 'ab', 0), sys.argv[4]
listener = socket.create_server(('127.0.0.1', 0))
open(sys.argv[5], 'w').write(f'{listener.getsockname()[1]}\n')
def relay(a, b):
    while True:
        waiting = [s for s in (a, b) if isinstance(s, ssl.SSLSocket) and s.pending()]
        for s in waiting or select.select([a, b], [], [])[0]:
            data = s.recv(65536)
            if not data: return
            (b if s is a else a).sendall(data)
def serve(client):
    head, port = b'', target
    if kind == 'tls':
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls + '/server.pem', tls + '/server.key')
        client = context.wrap_socket(client, server_side=True)
    else:
        while not head.endswith(b'\r\n\r\n'):
            byte = client.recv(1)
            if not byte: return
            head += byte
        notes.write(head)
        method, address = head.split(b' ')[:2]
        if method == b'CONNECT':
            head, port = b'', int(address.rsplit(b':', 1)[1])
            client.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
    server = socket.create_connection(('127.0.0.1', port))
    server.sendall(head)
    relay(client, server)
    client.close(); server.close()
def guarded(client):
    try: serve(client)
    except OSError: client.close()
while True:
    threading.Thread(target=guarded, args=(listener.accept()[0],), daemon=True).start()
";

struct Front {
    port: u16,
    directory: tempfile::TempDir,
    process: Running,
}

impl Front {
    fn start(kind: &str, endpoint_url: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (notes, port) = (directory.path().join("notes"), directory.path().join("port"));
        let target = endpoint_url.rsplit(':').next().expect("a port");
        let process = Tool::new("python3")
            .args(["-c", FRONT, kind, target])
            .arg(&notes)
            .arg(tls_directory())
            .arg(&port)
            .start();
        let port = wait_for("the front listens", || {
            fs::read_to_string(&port).ok()?.trim().parse().ok()
        });
        Self {
            port,
            directory,
            process,
        }
    }

    /// The heads of what it was asked; of a connection, the first only.
    fn noted(&self) -> String {
        fs::read_to_string(self.directory.path().join("notes")).expect("notes")
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.process.kill();
    }
}

fn tls_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3_edge/tls")
}

fn a_proxy_is_used_unless_no_proxy_says_otherwise(store: &Store) {
    store.bucket.put("file", "content");
    let proxy = Front::start("proxy", &store.endpoint_url);
    let address = format!("http://127.0.0.1:{}", proxy.port);
    // Only the proxy knows where that is.
    let far = || store.mount().by_way_of("http://storage.invalid");
    let mount = far()
        .env("HTTP_PROXY", &address)
        .env("http_proxy", &address)
        .start();
    assert_eq!(
        bash(&mount.path(), "cat file; echo new > new; cat new"),
        "contentnew\n"
    );
    mount.unmount();
    assert!(
        proxy.noted().contains(" http://storage.invalid/test"),
        "{}",
        proxy.noted()
    );

    let refused = far()
        .env("http_proxy", &address)
        .env("NO_PROXY", ".invalid")
        .options("--stall-timeout 2s")
        .fail_to_start();
    refused.fails(1, "storage.invalid");

    let before = proxy.noted();
    let direct = store
        .mount()
        .env("http_proxy", &address)
        .env("NO_PROXY", "127.0.0.1")
        .start();
    assert_eq!(bash(&direct.path(), "cat file"), "content");
    direct.unmount();
    assert_eq!(proxy.noted(), before);
}

fn an_authority_of_ones_own_is_trusted_when_it_is_named(store: &Store) {
    store.bucket.put("file", "content");
    let tls = Front::start("tls", &store.endpoint_url);
    let secure = format!("https://127.0.0.1:{}", tls.port);
    let bundle = format!("--ca-bundle {}", tls_directory().join("ca.pem").display());
    let mount = store.mount().by_way_of(&secure).options(&bundle).start();
    assert_eq!(
        bash(
            &mount.path(),
            "cat file; head -c 3000000 /dev/zero > large; wc -c < large"
        ),
        "content3000000\n"
    );
    mount.unmount();

    let untrusted = store
        .mount()
        .by_way_of(&secure)
        .options("--stall-timeout 2s")
        .fail_to_start();
    untrusted.fails(1, "certificate");
}

fn unsigned_requests_are_unsigned(store: &Store) {
    let proxy = Front::start("proxy", &store.endpoint_url);
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let refused = store
        .mount()
        .by_way_of("http://storage.invalid")
        .env("http_proxy", &address)
        .options("--no-sign-request")
        .fail_to_start();
    refused.fails(4, "AccessDenied");
    let noted = proxy.noted().to_ascii_lowercase();
    assert!(
        noted.contains("host: ") && !noted.contains("authorization"),
        "{noted}"
    );
    // moto lets everybody in who asks for what is public.
    if let Some(open) = Store::moto() {
        open.bucket.put_public("file", "content");
        let mount = open.mount().options("--no-sign-request").start();
        assert_eq!(bash(&mount.path(), "cat file"), "content");
        mount.unmount();
    }
}
